/** Docker and Podman: translates specs into the Engine API. */

// @ts-types="@types/dockerode"
import type Dockerode from "dockerode";
import type { Driver, Progress, Realised, Running, Size, Streams } from "../../driver.ts";
import { scriptCommand } from "../../driver.ts";
import { CdebugError, reason } from "../../errors.ts";
import type { Sidecar } from "../../plan.ts";
import type { Candidate } from "../../target.ts";
import { type Api, ApiError, openApi } from "./api.ts";
import type { DockerEngine, Endpoint } from "./endpoint.ts";
import { added, describe, found, labelled, published, readLink, withLabel } from "./inventory.ts";
import { join } from "./streams.ts";
import { imageOf, inspectImage, notFound, platformOf, targetOf } from "./target.ts";

/** How long a cancelled start waits for the engine's answers. */
const CANCELLATION_GRACE_MS = 5_000;
/** How often Podman is asked whether a container has been started again. */
const LOOK_MS = 1_000;
/** How long an engine may take to remove a container. */
const REMOVAL_GRACE_MS = 15_000;

/** Opens the driver of the engine at `address`, or of the one that its own client would use. */
export async function openDocker(engine: DockerEngine, address: string | undefined): Promise<Driver> {
  const api = await openApi(engine, address);
  const shared = `on ${api.endpoint.address}`;
  const made: Made = { images: new Map(), networks: new Map() };

  const list = async ({ label }: { label?: string } = {}): Promise<Candidate[]> => {
    const response = await api.request("GET", "/containers/json", {
      query: { all: true, filters: label && withLabel(label) },
    });
    const containers: Dockerode.ContainerInfo[] = await response.json();
    return containers.map(({ Id, Names, Image, ImageID, State, Created, Labels }) => ({
      id: Id,
      name: Names[0]?.replace(/^\//, "") ?? Id.slice(0, 12),
      image: Image,
      imageId: ImageID,
      state: State,
      createdAt: new Date(Created * 1000),
      labels: Labels ?? {},
    }));
  };

  return {
    engine,
    capabilities: {
      images: true,
      terminal: "relayed",
      snapshot: true,
      ownNamespaces: true,
      ...engine === "podman" ? { join: ["network", "pid", "ipc", "uts", "user"] } : {
        join: ["network", "pid", "ipc"],
        cannotJoin: {
          uts: "Docker shares that of its machine only, never a container's",
          user: "Docker gives no container one of its own",
        },
      },
    },
    list,

    async inspect(name, kind = "container", { reading } = {}) {
      if (kind === "image") return imageOf(engine, name, await inspectImage(api, name));
      let found: Dockerode.ContainerInspectInfo;
      try {
        found = await (await api.request("GET", `/containers/${name}/json`)).json();
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        throw await notFound(engine, name, error, shared, list);
      }
      const target = targetOf(engine, found, reading);
      if (target.state === "running" || reading) return target;
      return { ...target, platform: platformOf(await inspectImage(api, found.Image)) };
    },

    async state(id) {
      try {
        const response = await api.request("GET", `/containers/${id}/json`);
        const { State }: Dockerode.ContainerInspectInfo = await response.json();
        return State.Running ? "running" : "stopped";
      } catch (error) {
        if (error instanceof ApiError && error.status === 404) return "gone";
        throw error;
      }
    },

    run: (spec, streams, signal, report) => run(api, made, spec, streams, signal, report),

    async exec(id, argv, streams) {
      const { stdin, stderr } = streams;
      const created = await api.request("POST", `/containers/${id}/exec`, {
        body: {
          Cmd: argv,
          AttachStdin: stdin !== undefined,
          AttachStdout: true, // Podman starts no process without a stream
          AttachStderr: stderr !== undefined,
        },
      });
      const { Id }: { Id: string } = await created.json();
      const connection = await api.hijack(await api.dial(), `/exec/${Id}/start`, {
        Detach: false,
        Tty: false,
      });
      const joined = join(connection, streams, false);
      return {
        id,
        exit: joined.ended.then(async () => {
          const response = await api.request("GET", `/exec/${Id}/json`);
          const { ExitCode }: Dockerode.ExecInspectInfo = await response.json();
          return ExitCode ?? 0;
        }),
        resize: () => Promise.resolve(),
        release: joined.release,
      };
    },

    removeCommand: (name) => `${engine} rm -f ${name}`,
    remove: (id) => remove(api, made, id),
    added: (id) => added(api, id),
    readLink: (id, path) => readLink(api, id, path),
    labelled: (label) => labelled(api, label),
    published: (id) => published(api, id),

    async *archive(target, options) {
      const { archive } = await import("./files.ts");
      yield* archive(api, target, options);
    },

    async layers(target, options) {
      const { saveLayers } = await import("./files.ts");
      return await saveLayers(api, target, options);
    },

    async ended(id, signal) {
      try {
        // The head comes at once, the body when it has ended.
        const waited = api.request("POST", `/containers/${id}/wait`, { signal }).then((head) => head.text());
        await (engine === "podman" ? Promise.race([waited, startedAgain(api, id, signal)]) : waited);
      } catch {
        // It is gone, or the engine is: it has to be looked at again.
      }
    },

    async locality() {
      if (api.address.transport !== "unix" || api.endpoint.address.startsWith("ssh://")) {
        return { hostSockets: false, publish: false };
      }
      const info: { Name?: string; OperatingSystem?: string } = await (await api.request("GET", "/info"))
        .json();
      // A socket may lead into a machine of its own: another one's name tells.
      const here = info.Name === Deno.hostname();
      return { hostSockets: here, publish: here || info.OperatingSystem === "Docker Desktop" };
    },

    async hasImage(name) {
      const path = name.split("/").map(encodeURIComponent).join("/");
      return await found(api.request("GET", `/images/${path}/json`)) !== undefined;
    },

    async removeResource({ kind, id }) {
      await found(
        kind === "image"
          ? api.request("DELETE", `/images/${id}`, { query: KEEP_PARENTS })
          : api.request("DELETE", `/networks/${id}`),
      );
    },

    describe: () => describe(api),
    [Symbol.asyncDispose]: () => api[Symbol.asyncDispose](),
  };
}

/**
 * An image is removed without those that it was made of: where the target's image has lost its name, Podman would
 * take that one too, and by force the containers that are made of it. Source: Engine API, "Remove an image".
 */
const KEEP_PARENTS = { noprune: true };

/** The images and networks that were made for containers, by the containers' names and IDs. */
interface Made {
  readonly images: Map<string, string>;
  readonly networks: Map<string, string>;
}

/**
 * Removes a container, and the image that was made for it; one that is gone, or going, is no error. An engine that
 * does not answer is one.
 */
async function remove(api: Api, made: Made, id: string): Promise<void> {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(new Error("no answer")), REMOVAL_GRACE_MS);
  const request = (path: string, query: Record<string, boolean>) =>
    api.request("DELETE", path, { query, signal: late.signal });
  try {
    await settled(
      () => request(`/containers/${id}`, { force: true, v: true }),
      /dependent containers|state improper/,
    );
    const image = made.images.get(id);
    if (image) await settled(() => request(`/images/${image}`, KEEP_PARENTS), /in use|being used/);
    const network = made.networks.get(id);
    if (network) {
      await settled(() => request(`/networks/${network}`, {}), /active endpoints|in use|being used/);
    }
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Waits until a container has been started again: Podman, asked to wait, looks at it now and then, and misses an end
 * that was short. Throws if it is gone.
 */
async function startedAgain(api: Api, id: string, signal: AbortSignal): Promise<void> {
  let first: string | undefined;
  while (!signal.aborted) {
    const { State }: { State: { StartedAt: string } } =
      await (await api.request("GET", `/containers/${id}/json`, { signal })).json();
    if (State.StartedAt !== (first ??= State.StartedAt)) return;
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

/** Repeats a removal as long as what was removed just before is in its way. */
async function settled(removal: () => Promise<Response>, obstacle: RegExp): Promise<void> {
  for (let attempt = 0;; attempt++) {
    try {
      await (await removal()).body?.cancel();
      return;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (attempt < 30 && obstacle.test(error.message)) {
        await new Promise((resolve) => setTimeout(resolve, 100));
      } else if ([404, 409].includes(error.status)) return;
      else throw error;
    }
  }
}

async function run(
  api: Api,
  made: Made,
  spec: Realised,
  streams: Streams,
  signal: AbortSignal,
  report: (progress: Progress) => void,
): Promise<Running> {
  const { sidecar } = spec;
  const attached = !spec.detached && (streams.stdin ?? streams.stdout ?? streams.stderr) !== undefined;
  const pull = async () => {
    const { pullImage } = await import("./pull.ts");
    await pullImage(api, sidecar.image, sidecar.platform, signal, report);
  };
  if (sidecar.pull === "always" && !sidecar.snapshot) await pull();

  const dialled = attached ? api.dial() : undefined;
  dialled?.catch(() => {}); // told where it is waited for
  // What has been asked for is waited for, so that it can be removed; but an engine that does not answer is given up.
  const requests = new AbortController();
  const cancel = () => {
    requests.abort();
    dialled?.then(close, () => {});
  };
  let timer: ReturnType<typeof setTimeout> | undefined;
  const cancelLate = () => timer = setTimeout(cancel, CANCELLATION_GRACE_MS);
  const settle = () => {
    signal.removeEventListener("abort", cancelLate);
    clearTimeout(timer);
  };
  signal.addEventListener("abort", cancelLate);
  let id: string;
  try {
    id = await create(api, made, spec, streams.size, requests.signal).catch(async (error) => {
      if (!isMissingImage(error)) throw error;
      if (sidecar.pull === "never") {
        throw new CdebugError(`Cannot start the toolkit "${sidecar.image}": the daemon does not have it`, {
          hint: `${api.endpoint.engine} pull ${sidecar.image}, or leave out --pull never`,
        });
      }
      await pull();
      return await create(api, made, spec, streams.size, requests.signal);
    });
  } catch (error) {
    settle();
    cancel();
    // The container may be there although its answer is lost; a name that the user chose may be another one's.
    const lost = !(error instanceof ApiError || error instanceof CdebugError) || signal.aborted ||
      made.images.has(spec.name) || made.networks.has(spec.name);
    if (lost && !sidecar.containerName) await remove(api, made, spec.name).catch(() => {});
    throw error instanceof ApiError ? explain(api.endpoint, spec, error) : error;
  }

  try {
    // Both are under way before the start: what ends at once is not missed.
    const [connection, waiting] = await Promise.all([
      dialled?.then((dialled) =>
        api.hijack(dialled, `/containers/${id}/attach?stream=1&stdin=1&stdout=1&stderr=1`)
      ),
      spec.detached ? undefined : api.request("POST", `/containers/${id}/wait`, {
        query: { condition: "next-exit" },
        signal: requests.signal,
      }),
    ]);
    signal.throwIfAborted();
    await api.request("POST", `/containers/${id}/start`, { signal: requests.signal });
    settle();
    const resize = async ({ rows, columns }: Size) => {
      const response = await api.request("POST", `/containers/${id}/resize`, {
        query: { h: rows, w: columns },
      });
      await response.body?.cancel();
    };
    if (sidecar.tty && streams.size && !sizesAtCreation(api)) resize(streams.size).catch(() => {});

    const joined = connection && join(connection, streams, sidecar.tty);
    return {
      id,
      exit: waiting ? exitCode(api.endpoint, waiting, joined?.ended) : new Promise<never>(() => {}),
      resize,
      release() {
        joined?.release();
        requests.abort();
      },
    };
  } catch (error) {
    settle();
    cancel();
    await remove(api, made, id).catch((failure) => {
      throw new CdebugError(`Cannot remove the sidecar "${spec.name}": ${reason(failure)}`, {
        hint: `${api.endpoint.engine} rm -f ${spec.name}`,
        cause: error,
      });
    });
    throw error instanceof ApiError ? explain(api.endpoint, spec, error) : error;
  }
}

/** A connection may have been closed before. */
function close(connection: Deno.Conn): void {
  try {
    connection.close();
  } catch {
    // It has been.
  }
}

async function create(
  api: Api,
  made: Made,
  spec: Realised,
  size: Size | undefined,
  signal: AbortSignal,
): Promise<string> {
  const { sidecar, target } = spec;
  const mode = (kind: "network" | "pid" | "ipc" | "uts" | "user") => {
    const setting = sidecar.namespaces[kind];
    return setting === "target"
      ? `container:${spec.joined ?? target.id}`
      : setting === "host"
      ? "host"
      : undefined;
  };
  const image = sidecar.snapshot ? await snapshot(api, made, spec, sidecar.snapshot, signal) : sidecar.image;
  const [entrypoint, ...command] = scriptCommand(sidecar, sidecar.args);
  const network = sidecar.privateNetwork
    ? await makeNetwork(api, made, spec, signal)
    : sidecar.network ?? mode("network") ?? "none";
  const pid = mode("pid");
  const ipc = mode("ipc");
  const uts = mode("uts");
  const user = mode("user");
  const mounts = (sidecar.mounts ?? []).map(({ source, destination, readOnly }) =>
    `${source}:${destination}${readOnly ? ":ro" : ""}`
  );
  if (spec.targetRoot) mounts.push(`${await stoppedRoot(api, target.id)}:${spec.targetRoot}`);

  const response = await api.request("POST", "/containers/create", {
    signal,
    query: { name: spec.name, platform: sidecar.platform },
    body: {
      Image: image,
      Entrypoint: [entrypoint],
      Cmd: command,
      User: sidecar.user,
      WorkingDir: "/",
      Env: Object.entries({ ...spec.env }).map(([key, value]) => `${key}=${value}`),
      Labels: spec.labels,
      Tty: sidecar.tty,
      OpenStdin: sidecar.stdin !== "none",
      // With a terminal the input must outlive a connection that was only detached.
      StdinOnce: sidecar.stdin !== "none" && !sidecar.tty && !spec.detached,
      AttachStdin: sidecar.stdin !== "none",
      AttachStdout: true,
      AttachStderr: true,
      Healthcheck: { Test: ["NONE"] },
      ExposedPorts: Object.fromEntries((sidecar.publish ?? []).map((port) => [keyOf(port), {}])),
      Volumes: Object.fromEntries((sidecar.volumes ?? []).map((path) => [path, {}])),
      HostConfig: {
        AutoRemove: !sidecar.keep,
        NetworkMode: network,
        ...pid && { PidMode: pid },
        ...ipc && { IpcMode: ipc },
        ...uts && { UTSMode: uts },
        ...user && { UsernsMode: user },
        Privileged: sidecar.privileged ?? false,
        CapAdd: sidecar.addLinuxCapabilities ?? [],
        CapDrop: sidecar.dropLinuxCapabilities ?? [],
        SecurityOpt: sidecar.securityOptions ?? [],
        Binds: mounts,
        ...spec.volumesFrom && { VolumesFrom: [spec.volumesFrom] },
        PortBindings: Object.fromEntries(
          (sidecar.publish ?? []).map((port) => [
            keyOf(port),
            [{ HostIp: port.host, HostPort: port.port === 0 ? "" : String(port.port) }],
          ]),
        ),
        Tmpfs: Object.fromEntries((sidecar.tmpfs ?? []).map((path) => [path, "exec,mode=755"])),
        // What is relayed need not be written to the daemon's disk as well.
        ...!spec.detached && { LogConfig: { Type: "none", Config: {} } },
        ...sidecar.tty && size && sizesAtCreation(api) && { ConsoleSize: [size.rows, size.columns] },
      },
    },
  });
  const { Id }: { Id: string } = await response.json();
  if (sidecar.snapshot) made.images.set(Id, image);
  if (sidecar.privateNetwork) made.networks.set(Id, network);
  if (sidecar.files) {
    const { bytesOf, pack } = await import("../../tar.ts");
    const put = await api.request("PUT", `/containers/${Id}/archive`, {
      signal,
      query: { path: "/" },
      archive: pack(
        sidecar.files.map(({ path, base64, mode }) => ({ path, bytes: bytesOf(atob(base64)), mode })),
      ),
    });
    await put.body?.cancel();
  }
  return Id;
}

type Publish = NonNullable<Sidecar["publish"]>[number];

/** As in `80/tcp`. */
function keyOf({ to, protocol }: Publish): string {
  return `${to}/${protocol}`;
}

/** Makes a network that nobody else is on, and returns its name, the container's. */
async function makeNetwork(
  api: Api,
  made: Made,
  { name, labels }: Realised,
  signal: AbortSignal,
): Promise<string> {
  const kept = Object.entries(labels).filter(([key]) => ["cdebug.session", "cdebug.owner"].includes(key));
  const response = await api.request("POST", "/networks/create", {
    signal,
    body: { Name: name, CheckDuplicate: true, Labels: Object.fromEntries(kept) },
  });
  await response.body?.cancel();
  made.networks.set(name, name);
  return name;
}

/** Makes an image of a container's filesystem and returns its ID. It has no name, only labels that tell prune whose it is. */
async function snapshot(
  api: Api,
  made: Made,
  { name, labels }: Realised,
  container: string,
  signal: AbortSignal,
): Promise<string> {
  const kept = ["cdebug.session", "cdebug.owner"].map((label) => `${label}=${labels[label] ?? ""}`).join(" ");
  const response = await api.request("POST", "/commit", {
    signal,
    query: { container, pause: false, changes: `LABEL ${kept}` },
    body: {},
  });
  const { Id }: { Id: string } = await response.json();
  made.images.set(name, Id);
  return Id;
}

/** Source: Docker Engine API version history, v1.42, "ConsoleSize". */
function sizesAtCreation(api: Api): boolean {
  return api.atLeast(1, 42);
}

/** The directory on the daemon's machine that holds what a stopped container has written. */
async function stoppedRoot(api: Api, id: string): Promise<string> {
  const response = await api.request("GET", `/containers/${id}/json`);
  const { GraphDriver }: Dockerode.ContainerInspectInfo = await response.json();
  const { UpperDir } = (GraphDriver?.Data ?? {}) as { UpperDir?: string };
  if (!UpperDir) {
    throw new CdebugError(`Cannot reach the files of a stopped container: the daemon does not name them`);
  }
  return UpperDir;
}

function isMissingImage(error: unknown): boolean {
  return error instanceof ApiError && error.status === 404 && /no such image|not found/i.test(error.message);
}

/** The daemon's answer to a create or start, in words for who is at work. */
function explain(
  { engine }: Endpoint,
  { name, sidecar: { image, publish = [] } }: Realised,
  error: ApiError,
): CdebugError {
  const text = reason(error);
  if (
    publish.length > 0 &&
    /already allocated|address already in use|cannot assign requested address/i.test(text)
  ) {
    const ports = publish.map(({ host, port }) => `${host}:${port}`).join(", ");
    return new CdebugError(
      `Cannot publish ${ports}: ${
        /assign/i.test(text) ? "the address is not the engine's" : "the port is in use"
      }`,
      {
        hint: `another LOCAL_PORT, or none for any that is free; ${engine} ps  shows published ports`,
        cause: error,
      },
    );
  }
  if (/executable file not found|no such file or directory/.test(text) && /exec:|init process/.test(text)) {
    return new CdebugError(`Cannot start the toolkit "${image}": it has no shell`, {
      hint: "use an image with a shell, such as busybox:musl; or name its shell with --entrypoint",
      cause: error,
    });
  }
  if (/name .*already in use/.test(text)) {
    return new CdebugError(`Cannot start the sidecar: the name "${name}" is in use`, {
      hint: `${engine} ps -a --filter name=${name}; another --name, or none`,
      cause: error,
    });
  }
  return new CdebugError(`Cannot start the toolkit "${image}": ${text}`, { cause: error });
}

async function exitCode(
  { engine, service }: Endpoint,
  waiting: Response,
  output: Promise<void> | undefined,
): Promise<number> {
  const lost = (error: unknown) =>
    new CdebugError(`Cannot follow the session: the connection to ${service} is lost`, {
      hint: `${engine} ps --filter label=cdebug.session  lists what may be left`,
      cause: error,
    });
  const [result] = await Promise.all([
    waiting.json().catch((error) => Promise.reject(lost(error))) as Promise<
      { StatusCode?: number; Error?: { Message: string } | null }
    >,
    output,
  ]);
  if (result.StatusCode === undefined) throw lost(result.Error?.Message);
  return result.StatusCode;
}
