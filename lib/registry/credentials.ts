/** Which registry an image comes from, and what to log in there with. */

import { type DockerConfig, dockerConfigDir, readDockerConfig, readJson } from "../docker_config.ts";
import { CdebugError, reason } from "../errors.ts";

/** What a registry wants to see, in the words of the Docker API's AuthConfig. */
export type Credentials =
  | { readonly username: string; readonly password: string; readonly serveraddress: string }
  | { readonly identitytoken: string; readonly serveraddress: string };

/** Credentials, and where they were found, for people. */
export interface Login {
  readonly credentials: Credentials;
  readonly source: string;
}

/** The key under which the docker client keeps the logins of its default registry. */
export const DOCKER_HUB = "https://index.docker.io/v1/";

/** Longer than a keychain takes that is not locked: who has to unlock it does not see that it asks. */
const HELPER_LIMIT_MS = 15_000;

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
 * `credsStore`, else `auths`. Undefined where there is none. Throws CdebugError where a helper cannot be
 * asked.
 */
export async function credentialsFor(image: string): Promise<Credentials | undefined> {
  return (await dockerLogin(registryOf(image), HELPER_LIMIT_MS, undefined))?.credentials;
}

/**
 * The login for a registry, by its key in the docker client's config file, that the docker client has; else
 * the one that Podman has for `repository`. Undefined where there is none. Throws CdebugError where a file
 * cannot be read or a helper cannot be asked, or does not answer within `helperLimitMs`; and the signal's
 * reason.
 */
export async function findLogin(
  registry: string,
  repository: string,
  options: { readonly helperLimitMs?: number; readonly signal?: AbortSignal } = {},
): Promise<Login | undefined> {
  const { helperLimitMs = HELPER_LIMIT_MS, signal } = options;
  return await dockerLogin(registry, helperLimitMs, signal) ??
    await podmanLogin(registry, repository, helperLimitMs, signal);
}

async function dockerLogin(
  registry: string,
  limitMs: number,
  signal: AbortSignal | undefined,
): Promise<Login | undefined> {
  const config = await readDockerConfig();
  const helper = config.credHelpers?.[registry] ?? config.credsStore;
  return (helper ? await askHelper(helper, registry, limitMs, signal) : undefined) ??
    loginOf(fromAuths(config, registry), `${dockerConfigDir()}/config.json`);
}

/**
 * From the first file that there is, as Podman reads them: a key is a registry or a part of it, the longest
 * counts. Source: containers-auth.json(5), containers/image pkg/docker/config.
 */
async function podmanLogin(
  registry: string,
  repository: string,
  limitMs: number,
  signal: AbortSignal | undefined,
): Promise<Login | undefined> {
  const host = registry === DOCKER_HUB ? "docker.io" : registry;
  for (const path of podmanFiles()) {
    const config = await readJson<DockerConfig>(path);
    if (config === undefined) continue;
    const helper = config.credHelpers?.[host];
    const found = helper ? await askHelper(helper, host, limitMs, signal) : undefined;
    if (found) return found;
    const parts = [host, ...repository.split("/")];
    for (let length = parts.length; length > 0; length--) {
      const key = parts.slice(0, length).join("/");
      const login = loginOf(entryOf(config, key, registry), path);
      if (login) return login;
    }
  }
}

function podmanFiles(): string[] {
  const [own, runtime, home] = ["REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "HOME"].map((name) =>
    Deno.env.get(name)
  );
  if (own) return [own];
  return [
    ...runtime ? [`${runtime}/containers/auth.json`] : [],
    ...home ? [`${home}/.config/containers/auth.json`] : [],
  ];
}

function loginOf(credentials: Credentials | undefined, source: string): Login | undefined {
  return credentials && { credentials, source };
}

function fromAuths(config: DockerConfig, registry: string): Credentials | undefined {
  // Old clients wrote URLs as keys; the docker client still takes them for the host that they name.
  const host = (key: string) => key.replace(/^https?:\/\//, "").replace(/\/.*$/, "");
  const key = config.auths?.[registry]
    ? registry
    : Object.keys(config.auths ?? {}).find((key) => host(key) === host(registry));
  return key === undefined ? undefined : entryOf(config, key, registry);
}

function entryOf(config: DockerConfig, key: string, registry: string): Credentials | undefined {
  const entry = config.auths?.[key];
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
async function askHelper(
  helper: string,
  registry: string,
  limitMs: number,
  signal: AbortSignal | undefined,
): Promise<Login | undefined> {
  const program = `docker-credential-${helper}`;
  const ending = new AbortController();
  const timer = setTimeout(
    () => ending.abort(new Error(`it has not answered within ${limitMs / 1000} s`)),
    limitMs,
  );
  const cancel = () => ending.abort(signal!.reason);
  signal?.addEventListener("abort", cancel);
  try {
    const text = await runHelper(program, registry, ending.signal);
    if (text === undefined) return undefined;
    const { Username = "", Secret = "" } = JSON.parse(text) as { Username?: string; Secret?: string };
    return {
      credentials: Username === "<token>"
        ? { identitytoken: Secret, serveraddress: registry }
        : { username: Username, password: Secret, serveraddress: registry },
      source: program,
    };
  } catch (error) {
    signal?.throwIfAborted();
    throw new CdebugError(`Cannot log in to registry "${registry}": ${program} failed: ${reason(error)}`, {
      hint: `echo ${registry} | ${program} get`,
      cause: error,
    });
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", cancel);
  }
}

/** What a helper answers; undefined where it knows nothing of the registry. Throws the signal's reason. */
async function runHelper(
  program: string,
  registry: string,
  signal: AbortSignal,
): Promise<string | undefined> {
  signal.throwIfAborted();
  const child = new Deno.Command(program, {
    args: ["get"],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const ended = Promise.withResolvers<never>();
  const kill = () => {
    try {
      child.kill("SIGKILL");
    } catch {
      // It has ended just now.
    }
    ended.reject(signal.reason);
  };
  signal.addEventListener("abort", kill);
  try {
    const answered = Promise.all([
      child.output(),
      // Who answers without having read the question is heard all the same.
      new Blob([registry]).stream().pipeTo(child.stdin).catch(() => {}),
    ]);
    // A program that the helper has started may hold the pipes when the helper is gone.
    const [output] = await Promise.race([answered, ended.promise]);
    const text = new TextDecoder().decode(output.stdout).trim();
    if (output.success) return text;
    if (/not found/i.test(text)) return undefined;
    throw new Error(text || new TextDecoder().decode(output.stderr).trim());
  } finally {
    signal.removeEventListener("abort", kill);
  }
}
