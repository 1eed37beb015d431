/** What the engine has, and what it says of itself. */

// @ts-types="@types/dockerode"
import type Dockerode from "dockerode";
import type { EngineDescription, ImageFound } from "../../driver.ts";
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

/** The images that have a label. Source: Engine API, "List images". */
export async function labelledImages(api: Api, label: string): Promise<ImageFound[]> {
  const response = await api.request("GET", "/images/json", { query: { filters: withLabel(label) } });
  const images: Dockerode.ImageInfo[] = await response.json();
  return images.map(({ Id, RepoTags, Labels }) => ({
    id: Id,
    names: (RepoTags ?? []).filter((name) => name !== "<none>:<none>"),
    labels: Labels ?? {},
  }));
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
