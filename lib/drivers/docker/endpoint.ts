/** Where the engine is: found as its own client finds it. */

import { sha256 } from "../../digest.ts";
import { dockerConfigDir, readDockerConfig, readJson } from "../../docker_config.ts";
import { DEFAULT_SOURCE, type Location } from "../../driver.ts";
import { CdebugError, reason } from "../../errors.ts";

/** The engines that speak this API; each is also its client's name. */
export type DockerEngine = "docker" | "podman";

export interface Endpoint extends Location {
  readonly engine: DockerEngine;
  /** What it is called in a sentence. */
  readonly service: string;
  readonly tls?: Tls;
  /** The file of the key that ssh shows, besides those of its own config. */
  readonly sshKey?: string;
}

export interface Tls {
  readonly ca: string | undefined;
  readonly cert: string | undefined;
  readonly key: string | undefined;
}

const DEFAULT_ADDRESS = "unix:///var/run/docker.sock";
const DOCKER = { engine: "docker", service: "the Docker daemon" } as const;
const PODMAN = { engine: "podman", service: "Podman" } as const;

/**
 * `address` if given, else what the engine's client would take. Throws CdebugError if what is named cannot be read.
 */
export async function findEndpoint(engine: DockerEngine, address: string | undefined): Promise<Endpoint> {
  return engine === "docker" ? await findDocker(address) : await findPodman(address);
}

/**
 * `address` if given, else `CONTAINER_HOST`, `CONTAINER_CONNECTION`, root's socket for root and the user's own for
 * others: the podman client's own order. Source: podman(1), "--url" and "--connection".
 */
async function findPodman(address: string | undefined): Promise<Endpoint> {
  const host = Deno.env.get("CONTAINER_HOST");
  const connection = Deno.env.get("CONTAINER_CONNECTION");
  if (!address && !host && connection) return await fromConnection(connection);
  if (address || host) {
    const sshKey = Deno.env.get("CONTAINER_SSHKEY");
    return {
      ...PODMAN,
      address: withScheme((address || host)!),
      source: address ? "--runtime" : "CONTAINER_HOST",
      ...sshKey && { sshKey },
    };
  }
  const dir = Deno.uid() === 0 ? "/run" : Deno.env.get("XDG_RUNTIME_DIR") || `/run/user/${Deno.uid()}`;
  return { ...PODMAN, address: `unix://${dir}/podman/podman.sock`, source: DEFAULT_SOURCE };
}

/** Podman has kept its connections in several files and formats, so its client is asked. */
async function fromConnection(name: string): Promise<Endpoint> {
  const list = ["system", "connection", "list", "--format", "json"];
  let connections: { Name: string; URI: string; Identity?: string }[];
  try {
    const { success, stdout, stderr } = await new Deno.Command("podman", { args: list, stdin: "null" })
      .output();
    const decoder = new TextDecoder();
    if (!success) throw new Error(decoder.decode(stderr).trim());
    connections = JSON.parse(decoder.decode(stdout));
  } catch (error) {
    throw new CdebugError(
      `Cannot use Podman connection "${name}": podman does not list it: ${reason(error)}`,
      {
        hint: "CONTAINER_HOST or --runtime can name its address",
        cause: error,
      },
    );
  }
  const found = connections.find(({ Name }) => Name === name);
  if (!found) {
    throw new CdebugError(`Cannot use Podman connection "${name}": there is no such connection`, {
      hint: "podman system connection list",
    });
  }
  const { URI: address, Identity: sshKey } = found;
  return { ...PODMAN, address, source: `connection "${name}"`, ...sshKey && { sshKey } };
}

/**
 * `address` if given, else `DOCKER_HOST`, `DOCKER_CONTEXT`, the current context of the docker client, the
 * default socket: the docker client's own order. Throws CdebugError if what is named cannot be read.
 */
async function findDocker(address: string | undefined): Promise<Endpoint> {
  if (address) return await fromAddress(address, "--runtime");
  const host = Deno.env.get("DOCKER_HOST");
  if (host) return await fromAddress(host, "DOCKER_HOST");
  const named = Deno.env.get("DOCKER_CONTEXT");
  const context = named || (await readDockerConfig()).currentContext;
  if (context && context !== "default") return await fromContext(context);
  return { ...DOCKER, address: DEFAULT_ADDRESS, source: DEFAULT_SOURCE };
}

async function fromAddress(text: string, source: string): Promise<Endpoint> {
  const address = withScheme(text);
  // The docker client takes any text for this variable, even "0", as yes.
  const secured = address.startsWith("tcp://") && Deno.env.get("DOCKER_TLS_VERIFY");
  if (!secured) return { ...DOCKER, address, source };
  return {
    ...DOCKER,
    address,
    source,
    tls: await readTls(Deno.env.get("DOCKER_CERT_PATH") || dockerConfigDir()),
  };
}

/** A path is a UNIX socket. */
function withScheme(address: string): string {
  return address.startsWith("/") ? `unix://${address}` : address;
}

/** Source: docker/cli, cli/context/store: a context's files are in a folder named by its name's SHA-256. */
async function fromContext(name: string): Promise<Endpoint> {
  const contexts = `${dockerConfigDir()}/contexts`;
  const id = await sha256(name);
  const meta = await readJson<{ Endpoints?: { docker?: { Host?: string; SkipTLSVerify?: boolean } } }>(
    `${contexts}/meta/${id}/meta.json`,
  );
  const docker = meta?.Endpoints?.docker;
  if (!docker) {
    throw new CdebugError(`Cannot use Docker context "${name}": there is no such context`, {
      hint: "docker context ls",
    });
  }
  const source = `context "${name}"`;
  if (docker.SkipTLSVerify) {
    throw new CdebugError(
      `Cannot use Docker context "${name}": cdebug does not skip the check of certificates`,
      {
        hint: "docker context update, with the certificate authority's file",
      },
    );
  }
  const tls = await readTls(`${contexts}/tls/${id}/docker`);
  return {
    ...DOCKER,
    address: docker.Host || DEFAULT_ADDRESS,
    source,
    ...(tls.ca || tls.cert) && { tls },
  };
}

async function readTls(dir: string): Promise<Tls> {
  const read = async (file: string) => {
    try {
      return await Deno.readTextFile(`${dir}/${file}`);
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return undefined;
      throw new CdebugError(`Cannot read "${dir}/${file}": ${reason(error)}`, { cause: error });
    }
  };
  const [ca, cert, key] = await Promise.all([read("ca.pem"), read("cert.pem"), read("key.pem")]);
  return { ca, cert, key };
}
