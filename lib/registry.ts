/** Which registry an image comes from, and what to log in there with. */

import { type DockerConfig, readDockerConfig } from "./docker_config.ts";
import { CdebugError, reason } from "./errors.ts";

/** What a registry wants to see, in the words of the Docker API's AuthConfig. */
export type Credentials =
  | { readonly username: string; readonly password: string; readonly serveraddress: string }
  | { readonly identitytoken: string; readonly serveraddress: string };

/** The key under which the docker client keeps the logins of its default registry. */
const DOCKER_HUB = "https://index.docker.io/v1/";

/**
 * The registry's host, as the docker client's config file names it.
 * The first part of a reference is a host if it has a dot or a port, or is `localhost`.
 * Source: distribution/reference, normalize.go.
 */
export function registryOf(image: string): string {
  const slash = image.indexOf("/");
  const first = slash < 0 ? "" : image.slice(0, slash);
  const isHost = /[.:]/.test(first) || first === "localhost";
  return !isHost || first === "docker.io" || first === "index.docker.io" ? DOCKER_HUB : first;
}

/**
 * The login that the docker client's config file names for an image's registry: `credHelpers`, else
 * `credsStore`, else `auths`. Undefined where there is none. Throws CdebugError where a helper cannot be asked.
 */
export async function credentialsFor(image: string): Promise<Credentials | undefined> {
  const config = await readDockerConfig();
  const registry = registryOf(image);
  const helper = config.credHelpers?.[registry] ?? config.credsStore;
  const found = helper ? await askHelper(helper, registry) : undefined;
  return found ?? fromAuths(config, registry);
}

function fromAuths(config: DockerConfig, registry: string): Credentials | undefined {
  // Old clients wrote URLs as keys; the docker client still takes them for the host that they name.
  const host = (key: string) => key.replace(/^https?:\/\//, "").replace(/\/.*$/, "");
  const entry = config.auths?.[registry] ??
    Object.entries(config.auths ?? {}).find(([key]) => host(key) === host(registry))?.[1];
  if (entry?.identitytoken) return { identitytoken: entry.identitytoken, serveraddress: registry };
  if (!entry?.auth) return undefined;
  const bytes = Uint8Array.from(atob(entry.auth), (char) => char.charCodeAt(0));
  const [, username = "", password = ""] = /^([^:]*):(.*)$/s.exec(new TextDecoder().decode(bytes)) ?? [];
  return { username, password: password.replace(/\0+$/, ""), serveraddress: registry };
}

/**
 * Runs `docker-credential-HELPER get`: the registry on stdin, JSON on stdout.
 * Source: docker/docker-credential-helpers, README, "Development".
 */
async function askHelper(helper: string, registry: string): Promise<Credentials | undefined> {
  const program = `docker-credential-${helper}`;
  try {
    const child = new Deno.Command(program, {
      args: ["get"],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const [output] = await Promise.all([
      child.output(),
      // Who answers without having read the question is heard all the same.
      new Blob([registry]).stream().pipeTo(child.stdin).catch(() => {}),
    ]);
    const text = new TextDecoder().decode(output.stdout).trim();
    if (!output.success) {
      if (/not found/i.test(text)) return undefined;
      throw new Error(text || new TextDecoder().decode(output.stderr).trim());
    }
    const { Username = "", Secret = "" } = JSON.parse(text) as { Username?: string; Secret?: string };
    return Username === "<token>"
      ? { identitytoken: Secret, serveraddress: registry }
      : { username: Username, password: Secret, serveraddress: registry };
  } catch (error) {
    throw new CdebugError(`Cannot log in to registry "${registry}": ${program} failed: ${reason(error)}`, {
      hint: `echo ${registry} | ${program} get`,
      cause: error,
    });
  }
}
