/**
 * A driver without an engine, that keeps the engines' rules: names are unique, a missing image is pulled or
 * refused, what has been removed cannot be joined. A sidecar's script runs as a process of this machine, so that
 * streams, exit codes and signals are real; namespaces and root filesystems are not.
 */

import type { Driver, Progress, Realised, ResourceFound, Running, Streams } from "../lib/driver.ts";
import { scriptCommand } from "../lib/driver.ts";
import { CdebugError, nearest, NotFound } from "../lib/errors.ts";
import type { Sidecar } from "../lib/plan.ts";
import type { Candidate, Capabilities, Target } from "../lib/target.ts";

export interface FakeEngine extends Driver {
  /** What was asked of the engine, in order: `run debugger`, `remove 1`. */
  readonly journal: string[];
  /** Every spec that was run, as the engine got it. */
  readonly specs: Realised[];
  readonly images: Set<string>;
  readonly registry: Set<string>;
  readonly targets: Map<string, Target>;
  /** What has been added to the root of a container, by its ID: path → where a link leads. */
  readonly paths: Map<string, Map<string, string | undefined>>;
  /** Images and networks that carry labels, by their ID. */
  readonly resources: Map<string, ResourceFound>;
  /** The names of the sidecars that exist, running or kept. */
  containers(): string[];
}

interface Container {
  readonly id: string;
  readonly name: string;
  readonly spec: Realised;
  readonly child: Deno.ChildProcess;
  readonly createdAt: Date;
  ended: boolean;
}

/** What an engine can do that can do all that Docker can. */
export const FAKE_CAPABILITIES: Capabilities = {
  join: ["network", "pid", "ipc"],
  snapshot: true,
  images: true,
  terminal: "relayed",
  ownNamespaces: true,
};

/** A target as the compilers like it best; a test changes what it is about. */
export function fakeTarget(changes: Partial<Target> = {}): Target {
  return {
    engine: "docker",
    state: "running",
    name: "web",
    id: "4213d19412eb701a",
    startedAt: "2026-11-23T11:55:01.5Z",
    image: "shop/web:7",
    pid: 1,
    user: "",
    workdir: "",
    path: "/usr/local/bin:/usr/bin:/bin",
    readOnlyRoot: false,
    privileged: false,
    namespaces: { network: "own", pid: "own", ipc: "own", uts: "own", user: "engine" },
    addLinuxCapabilities: [],
    dropLinuxCapabilities: [],
    securityOptions: [],
    ...changes,
  };
}

/** A sidecar that does nothing and ends; a test changes what it is about. */
export function fakeSidecar(changes: Partial<Sidecar> = {}): Sidecar {
  return {
    name: "debugger",
    reason: "a test",
    image: "busybox:musl",
    pull: "missing",
    namespaces: { network: "target", pid: "target", ipc: "own", uts: "own", user: "engine" },
    user: "0",
    tty: false,
    stdin: "none",
    shell: "sh",
    script: "true",
    args: [],
    ...changes,
  };
}

/** An engine with one running target, `web`, and one image, `busybox:musl`. */
export function openFake(): FakeEngine {
  const containers = new Map<string, Container>();
  const journal: string[] = [];
  const specs: Realised[] = [];
  const images = new Set(["busybox:musl"]);
  const registry = new Set<string>();
  const targets = new Map([["web", fakeTarget()]]);
  const paths: FakeEngine["paths"] = new Map();
  const resources: FakeEngine["resources"] = new Map();
  let count = 0;

  const byId = (id: string) => [...containers.values()].find((container) => container.id === id);

  return {
    engine: "docker",
    capabilities: FAKE_CAPABILITIES,
    journal,
    specs,
    images,
    registry,
    targets,
    paths,
    resources,
    containers: () => [...containers.keys()],

    inspect(name, kind) {
      if (kind === "image") {
        return images.has(name)
          ? Promise.resolve(
            fakeTarget({ state: "image", name, image: name, id: name, platform: "linux/amd64" }),
          )
          : Promise.reject(
            new NotFound(`Cannot find image "${name}": there is no such image`, { hint: "docker images" }),
          );
      }
      const target = targets.get(name) ?? [...targets.values()].find(({ id }) => id.startsWith(name));
      if (target) return Promise.resolve(target);
      const near = nearest(name, targets.keys());
      return Promise.reject(
        new NotFound(`Cannot find target "${name}": there is no such container`, {
          near,
          hint: `Did you mean ${near.join(" or ")}?`,
        }),
      );
    },

    archive: () => {
      throw new Error("no test reads its files");
    },
    layers: () => {
      throw new Error("no test reads its images");
    },

    state: (id) =>
      Promise.resolve([...targets.values()].some((target) => target.id === id) ? "running" : "gone"),

    list({ label } = {}) {
      const found: Candidate[] = [
        ...[...targets.values()].map(({ id, name, image }) => ({
          id,
          name,
          image,
          imageId: `sha256:${image}`,
          state: "running",
          createdAt: new Date(0),
          labels: {},
        })),
        ...[...containers.values()].map(({ id, name, spec: { sidecar, labels }, createdAt, ended }) => ({
          id,
          name,
          image: sidecar.image,
          imageId: `sha256:${sidecar.image}`,
          state: ended ? "exited" : "running",
          createdAt,
          labels,
        })),
      ];
      return Promise.resolve(
        found.filter(({ labels }) => label === undefined || Object.hasOwn(labels, label)),
      );
    },

    added: (id) => Promise.resolve([...paths.get(id)?.keys() ?? []]),
    readLink: (id, path) => Promise.resolve(paths.get(id)?.get(path)),
    removeCommand: (name) => `fake rm ${name}`,
    labelled: (label) =>
      Promise.resolve([...resources.values()].filter(({ labels }) => Object.hasOwn(labels, label))),
    locality: () => Promise.resolve({ hostSockets: true, publish: true }),
    published: (id) =>
      Promise.resolve(
        (byId(id)?.spec.sidecar.publish ?? []).map(({ to, protocol, port }) => ({ to, protocol, port })),
      ),
    async ended(id, signal) {
      while (!signal.aborted && [...targets.values()].some((target) => target.id === id)) {
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    },
    hasImage: (name) => Promise.resolve(images.has(name)),
    removeResource({ kind, id }) {
      journal.push(`remove ${kind} ${id}`);
      resources.delete(id);
      return Promise.resolve();
    },
    describe: () =>
      Promise.resolve({
        version: "1",
        apiVersion: "1.0",
        platform: "linux/amd64",
        operatingSystem: "a test",
        rootless: false,
        userNamespaceRemapped: false,
        storageDriver: "none",
        cgroupVersion: "2",
        securityOptions: ["seccomp"],
      }),

    async run(spec, streams, signal, report) {
      journal.push(`run ${spec.sidecar.name}`);
      specs.push(spec);
      if (!images.has(spec.sidecar.image)) await pull(spec, signal, report);
      signal.throwIfAborted();
      if (containers.has(spec.name)) {
        throw new CdebugError(`Cannot start the sidecar: the name "${spec.name}" is in use`);
      }
      if (spec.joined !== undefined && !byId(spec.joined)) {
        throw new CdebugError(`No container ${spec.joined}`);
      }
      const root = await putFiles(spec.sidecar);
      const [program, ...args] = scriptCommand(spec.sidecar, spec.sidecar.args);
      if (root === undefined && program !== "sh") {
        throw new CdebugError(`Cannot start the toolkit "${spec.sidecar.image}": it has no shell`);
      }
      const { child, running } = spawn(`${root ?? ""}${program}`, args, spec.env, streams, String(++count));
      const container: Container = {
        id: running.id,
        name: spec.name,
        spec,
        child,
        createdAt: new Date(),
        ended: false,
      };
      containers.set(spec.name, container);
      const exit = running.exit.finally(async () => {
        container.ended = true;
        if (root) await Deno.remove(root, { recursive: true });
        if (!spec.sidecar.keep) containers.delete(spec.name);
      });
      return { ...running, exit };
    },

    exec(id, argv, streams) {
      const container = byId(id);
      if (!container || container.ended) {
        return Promise.reject(new CdebugError(`Container ${id} does not run`));
      }
      journal.push(`exec ${argv.slice(4).join(" ")}`);
      const [program, ...args] = argv;
      return Promise.resolve(spawn(program!, args, container.spec.env, streams, id).running);
    },

    async remove(id) {
      journal.push(`remove ${id}`);
      const container = byId(id);
      if (!container) return;
      containers.delete(container.name);
      if (!container.ended) Deno.kill(-container.child.pid, "SIGKILL");
      await container.child.status;
    },

    [Symbol.asyncDispose]: () => Promise.resolve(),
  };

  async function pull(spec: Realised, signal: AbortSignal, report: (progress: Progress) => void) {
    const { image, pull } = spec.sidecar;
    if (pull === "never") {
      throw new CdebugError(`Cannot start the toolkit "${image}": the engine does not have it`);
    }
    report({ kind: "pulling", image });
    // A registry that never answers, for tests that cancel.
    if (image === "slow") {
      await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    }
    if (!registry.has(image)) throw new CdebugError(`Cannot pull "${image}": not found`);
    images.add(image);
    report({ kind: "pulled", image });
  }
}

/** Where a spec's files are: they cannot be at their own places. Nothing where it has none. */
async function putFiles({ files }: Sidecar): Promise<string | undefined> {
  if (!files) return undefined;
  const root = await Deno.makeTempDir({ prefix: "cdebug-test-" });
  for (const { path, base64, mode } of files) {
    await Deno.writeFile(`${root}${path}`, Uint8Array.fromBase64(base64), { mode });
  }
  return root;
}

function spawn(
  program: string,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
  { stdin, stdout, stderr }: Streams,
  id: string,
): { child: Deno.ChildProcess; running: Running } {
  // A process group of its own, so that what the script has started ends with it.
  const child = new Deno.Command(program, {
    args: [...args],
    detached: true,
    env: { ...env },
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const drain = async (from: ReadableStream<Uint8Array>, to: Streams["stdout"]) => {
    for await (const chunk of from) await to?.(chunk);
  };
  const reader = stdin?.getReader();
  const sending = (async () => {
    const writer = child.stdin.getWriter();
    try {
      for (let next; reader && !(next = await reader.read()).done;) await writer.write(next.value);
      await writer.close();
    } catch {
      // The process has ended.
    }
  })();
  const exit = (async () => {
    const [{ code }] = await Promise.all([
      child.status,
      drain(child.stdout, stdout),
      drain(child.stderr, stderr),
    ]);
    await reader?.cancel().catch(() => {});
    await sending;
    return code;
  })();
  return {
    child,
    running: { id, exit, resize: () => Promise.resolve(), release: () => exit.catch(() => {}) },
  };
}
