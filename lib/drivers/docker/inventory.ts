/** What the engine has, and what it says of itself. */

// @ts-types="@types/dockerode"
import type Dockerode from "dockerode";
import type { EngineDescription, Published, ResourceFound } from "../../driver.ts";
import { type Api, ApiError } from "./api.ts";

/** A filter of the Engine API's lists. */
export function withLabel(label: string): string {
  return JSON.stringify({ label: [label] });
}

/** The answer, whose text is not read; undefined if what was asked for is not there. */
export async function found(answer: Promise<Response>): Promise<Response | undefined> {
  try {
    const response = await answer;
    await response.body?.cancel();
    return response;
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return undefined;
    throw error;
  }
}

/** Source: Engine API, "Get changes on a container's filesystem": kind 1 is what was added. */
export async function added(api: Api, id: string): Promise<string[]> {
  try {
    const response = await api.request("GET", `/containers/${id}/changes`);
    const changes: { Path: string; Kind: number }[] | null = await response.json();
    return (changes ?? []).filter(({ Kind }) => Kind === 1).map(({ Path }) => Path);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    return []; // the container is gone, or the storage driver cannot tell
  }
}

/**
 * Source: Engine API, "Get information about files in a container": the header holds JSON in base64, its mode has
 * the bits of Go's io/fs. Podman gives it with status 404 for a link that leads nowhere.
 */
export async function readLink(api: Api, id: string, path: string): Promise<string | undefined> {
  const SYMLINK = 1 << 27;
  let headers: Headers;
  try {
    ({ headers } = await api.request("HEAD", `/containers/${id}/archive`, { query: { path } }));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    headers = error.headers;
  }
  const stat = headers.get("x-docker-container-path-stat");
  if (stat === null) return undefined;
  const { mode, linkTarget }: { mode: number; linkTarget: string } = JSON.parse(atob(stat));
  return mode & SYMLINK ? linkTarget : undefined;
}

/** The images and networks that have a label. Source: Engine API, "List images", "List networks". */
export async function labelled(api: Api, label: string): Promise<ResourceFound[]> {
  const list = async (path: string) =>
    await (await api.request("GET", path, { query: { filters: withLabel(label) } })).json();
  const [images, networks]: [Dockerode.ImageInfo[], Dockerode.NetworkInspectInfo[]] = await Promise.all([
    list("/images/json"),
    list("/networks"),
  ]);
  return [
    ...images.map(({ Id, RepoTags, Labels }): ResourceFound => ({
      kind: "image",
      id: Id,
      names: (RepoTags ?? []).filter((name) => name !== "<none>:<none>"),
      labels: Labels ?? {},
    })),
    ...networks.map(({ Id, Name, Labels }): ResourceFound => ({
      kind: "network",
      id: Id,
      names: [Name],
      labels: Labels ?? {},
    })),
  ];
}

/** The ports that the engine has published. Source: Engine API, "Inspect a container", NetworkSettings.Ports. */
export async function published(api: Api, id: string): Promise<Published[]> {
  const response = await api.request("GET", `/containers/${id}/json`);
  const { NetworkSettings }: Dockerode.ContainerInspectInfo = await response.json();
  return Object.entries(NetworkSettings.Ports ?? {}).flatMap(([key, bindings]) => {
    const [to, protocol] = key.split("/") as [string, "tcp" | "udp"];
    const [binding] = bindings ?? [];
    return binding ? [{ to: Number(to), protocol, port: Number(binding.HostPort) }] : [];
  });
}

/** Source: Engine API, "Get system information" and "Get version". */
export async function describe(api: Api): Promise<EngineDescription> {
  const [version, info] = await Promise.all(
    ["/version", "/info"].map(async (path) => await (await api.request("GET", path)).json()),
  );
  // As in "name=seccomp,profile=default".
  const options = ((info.SecurityOptions ?? []) as string[]).map((option) =>
    option.replace(/^name=/, "").split(",")[0]!
  );
  return {
    version: version.Version,
    apiVersion: version.ApiVersion,
    platform: `${version.Os}/${version.Arch}`,
    operatingSystem: info.OperatingSystem ?? "",
    rootless: info.Rootless ?? options.includes("rootless"),
    userNamespaceRemapped: options.includes("userns"),
    storageDriver: info.Driver,
    cgroupVersion: info.CgroupVersion ?? "",
    securityOptions: options.filter((option) => ["seccomp", "apparmor", "selinux"].includes(option)),
  };
}
