/** What the compiler needs to know of containers and images, from what the engine tells of them. */

// @ts-types="@types/dockerode"
import type Dockerode from "dockerode";
import { CdebugError, nearest, NotFound, reason } from "../../errors.ts";
import type { Candidate, Target } from "../../target.ts";
import { type Api, ApiError } from "./api.ts";
import type { DockerEngine } from "./endpoint.ts";

/** What the engine tells of an image. Throws NotFound if it has no such image, CdebugError if that is no name of one. */
export async function inspectImage(api: Api, name: string): Promise<Dockerode.ImageInspectInfo> {
  try {
    return await (await api.request("GET", `/images/${name}/json`)).json();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    const { engine, address } = api.endpoint;
    if (error.status !== 404) {
      throw new CdebugError(`Cannot find image "${name}" on ${address}: ${reason(error)}`, {
        hint: `${engine} images  lists those that are there`,
        cause: error,
      });
    }
    throw new NotFound(`Cannot find image "${name}" on ${address}: there is no such image`, {
      hint: `${engine} pull ${name}; ${engine} images  lists those that are there`,
      cause: error,
    });
  }
}

/** As in `linux/arm64`. */
export function platformOf({ Os, Architecture }: Dockerode.ImageInspectInfo): string {
  return `${Os}/${Architecture}`;
}

/** An image, as the container that could be made of it. */
export function imageOf(engine: DockerEngine, name: string, found: Dockerode.ImageInspectInfo): Target {
  return Object.freeze<Target>({
    engine,
    state: "image",
    name,
    id: found.Id,
    startedAt: "",
    image: name,
    platform: platformOf(found),
    pid: null,
    ...configured(found.Config),
    readOnlyRoot: false,
    privileged: false,
    namespaces: { network: "own", pid: "own", ipc: "own", uts: "own", user: "engine" },
    addLinuxCapabilities: [],
    dropLinuxCapabilities: [],
    securityOptions: [],
  });
}

/** What an image's and a container's configuration have in common. */
function configured(config: { User?: string; WorkingDir?: string; Env?: string[] }) {
  const env = new Map(
    (config.Env ?? []).map((entry) => entry.split(/=(.*)/s, 2) as [string, string]),
  );
  return { user: config.User ?? "", workdir: config.WorkingDir ?? "", path: env.get("PATH") ?? "" };
}

/** What the compiler needs to know of a container. Throws CdebugError if it neither runs nor has stopped. */
export function targetOf(
  engine: DockerEngine,
  found: Dockerode.ContainerInspectInfo,
  reading = false,
): Target {
  const name = found.Name.replace(/^\//, "");
  const { State: state, HostConfig: host, Config: config } = found;
  const cannot = (text: string, hint: string) => new CdebugError(`Cannot debug "${name}": ${text}`, { hint });
  if (state.Paused && !reading) throw cannot("it is paused", `${engine} unpause ${name}`);
  if (state.Restarting) {
    throw cannot("it is restarting", `${engine} logs ${name}  may say why; try again when it runs`);
  }
  if (state.Dead) throw cannot("it is dead: its removal has failed", `${engine} rm -f ${name}`);
  const pidMode = host.PidMode ?? "";
  const ipcMode = host.IpcMode ?? "";
  const networkMode = host.NetworkMode ?? "";
  const namespaces: Target["namespaces"] = {
    network: networkMode === "host" || networkMode === "none"
      ? networkMode
      : networkMode.startsWith("container:")
      ? "shared"
      : "own",
    pid: pidMode === "host" ? "host" : pidMode.startsWith("container:") ? "shared" : "own",
    ipc: ipcMode === "host" || ipcMode === "shareable"
      ? ipcMode
      : ipcMode.startsWith("container:")
      ? "shared"
      : "own",
    uts: host.UTSMode === "host" ? "host" : "own",
    // Podman says "private" of every way to have one, and names the container of one that is shared.
    user: host.UsernsMode === "host" ? "host" : host.UsernsMode ? "own" : "engine",
  };
  return Object.freeze({
    engine,
    state: state.Paused ? "paused" : state.Running ? "running" : "stopped",
    ...!state.Running && { exitCode: state.ExitCode },
    name,
    id: found.Id,
    startedAt: state.StartedAt,
    image: config.Image,
    pid: !state.Running ? null : pidMode === "host" ? state.Pid : pidMode.startsWith("container:") ? null : 1,
    ...configured(config),
    readOnlyRoot: host.ReadonlyRootfs ?? false,
    privileged: host.Privileged ?? false,
    namespaces,
    addLinuxCapabilities: (host.CapAdd ?? []).map(bareCapability),
    dropLinuxCapabilities: (host.CapDrop ?? []).map(bareCapability),
    securityOptions: host.SecurityOpt ?? [],
    ...state.Running && { networks: networksOf(found) },
    ...reading && mountsOf(engine, found),
  });
}

/**
 * What is mounted in it, the engine's own files too. Docker's archives have nothing of what is in memory.
 * Source: docker container cp, "tmpfs"; podman cp has it.
 */
function mountsOf(
  engine: DockerEngine,
  found: Dockerode.ContainerInspectInfo,
): Pick<Target, "mounts" | "inMemory"> {
  const { Mounts, HostConfig, HostsPath, HostnamePath, ResolvConfPath } = found;
  const isMemory = ({ Type }: { Type?: string }) => Type === "tmpfs";
  const inMemory = [
    ...Mounts.filter(isMemory).map(({ Destination }) => Destination),
    ...Object.keys(HostConfig.Tmpfs ?? {}),
  ];
  const mounts = [
    ...Mounts.filter((mount) => !isMemory(mount)).map(({ Destination }) => Destination),
    ...HostsPath ? ["/etc/hosts"] : [],
    ...HostnamePath ? ["/etc/hostname"] : [],
    ...ResolvConfPath ? ["/etc/resolv.conf"] : [],
  ];
  const sorted = (paths: readonly string[]) => [...new Set(paths)].sort();
  return engine === "docker"
    ? { mounts: sorted(mounts), ...inMemory.length > 0 && { inMemory: sorted(inMemory) } }
    : { mounts: sorted([...mounts, ...inMemory]) };
}

/** The networks on which it has an address, the one that all are on by default first. */
function networksOf({ NetworkSettings }: Dockerode.ContainerInspectInfo): NonNullable<Target["networks"]> {
  const first = (name: string) => ["bridge", "podman"].includes(name) ? 0 : 1;
  return Object.entries(NetworkSettings?.Networks ?? {})
    .flatMap(([name, { IPAddress }]) => IPAddress ? [{ name, address: IPAddress }] : [])
    .sort((a, b) => first(a.name) - first(b.name) || a.name.localeCompare(b.name));
}

/** Docker writes them with and without the prefix, and Linux capabilities compare as text. */
function bareCapability(name: string): string {
  return name.replace(/^CAP_/, "");
}

/** The failure to tell of when an inspect has failed: names what is near, or what an ID's beginning may mean. */
export async function notFound(
  engine: DockerEngine,
  name: string,
  error: ApiError,
  shared: string,
  list: () => Promise<Candidate[]>,
): Promise<CdebugError> {
  const candidates = await list();
  const matches = candidates.filter(({ id }) => id.startsWith(name));
  if (matches.length > 1) {
    return new CdebugError(`Cannot find target "${name}" ${shared}: the ID is ambiguous`, {
      hint: matches.map((match) => `${match.id.slice(0, 12)} ${match.name}`).join(", "),
    });
  }
  if (error.status !== 404) {
    return new CdebugError(`Cannot inspect target "${name}" ${shared}: ${reason(error)}`, { cause: error });
  }
  const near = nearest(name, candidates.map((candidate) => candidate.name));
  return new NotFound(`Cannot find target "${name}" ${shared}: there is no such container`, {
    near,
    hint: near.length > 0 ? `Did you mean ${near.join(" or ")}?` : `${engine} ps  lists the containers`,
  });
}
