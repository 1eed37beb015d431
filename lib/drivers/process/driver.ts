/** Processes without an engine, and the containers of runc and crun: a sidecar is a process in the target's namespaces. */

import type { Driver, EngineDescription } from "../../driver.ts";
import { CdebugError } from "../../errors.ts";
import { identityOf, ownerState } from "../../owner.ts";
import type { Candidate, Target } from "../../target.ts";
import { archive, type Files, mountsOf } from "./files.ts";
import { findContainer, listContainers, type Runtime, versionOf } from "./oci.ts";
import {
  allPids,
  containerOf,
  isForeign,
  namespaceOf,
  type Process,
  readCommand,
  readEnviron,
  readLink,
  readProcess,
  startOf,
} from "./proc.ts";
import { hasToolkit, isImage } from "./root.ts";
import { end, exec, pidOf, run, type ScriptEnv, SIDECAR_COMMAND } from "./sidecar.ts";
import { findPid, mainProcesses, stoppedTarget, targetOf } from "./target.ts";
import { ownRelay, tool } from "./tools.ts";

/** The engines whose targets are reached as processes. */
export type ProcessEngine = "pid" | Runtime;

/** How often a target is looked at: the kernel tells only its parent of a process's end. */
const LOOK_MS = 250;

const delay = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** Opens the driver. `address` is the directory where a runtime keeps its states, if it is not the runtime's own choice. */
export function openProcesses(engine: ProcessEngine, address: string | undefined): Promise<Driver> {
  const known = new Map<string, ScriptEnv>();

  const driver: Driver = {
    engine,
    capabilities: {
      join: ["network", "pid", "ipc", "uts", "user"],
      snapshot: false,
      images: false,
      terminal: "inherited",
      starting: ["SYS_CHROOT"],
      sharedRoots: true,
      ownNamespaces: false,
      cannotCopy: { seccomp: "the kernel shows a process's filter only to who stops the process" },
    },

    async inspect(name, kind = "container", { reading = false } = {}) {
      if (kind === "image") {
        throw new CdebugError(`Cannot find image "${name}": ${engine} has no images`, {
          hint: "docker-image:// or podman-image://",
        });
      }
      if (engine === "pid") {
        const pid = findPid(name);
        const target = targetOf(engine, pid, { name: String(pid) });
        return reading ? { ...target, mounts: mountsOf(pid) } : target;
      }
      const { pid, status, configured } = await findContainer(engine, address, name, reading);
      if (status === "stopped") return stoppedTarget(engine, configured);
      const target = targetOf(engine, pid, configured);
      if (!reading) return target;
      return { ...target, ...status === "paused" && { state: "paused" }, mounts: mountsOf(pid) };
    },

    async state(id) {
      return await ownerState(id) === "alive" ? "running" : "gone";
    },

    async list({ label } = {}) {
      const all = [...await listTargets(engine, address), ...listSidecars(engine)];
      return label === undefined ? all : all.filter(({ labels }) => Object.hasOwn(labels, label));
    },

    async run(spec, streams, signal, report) {
      const { containerName } = spec.sidecar; // others are made from the session's ID
      if (containerName && listSidecars(engine).some(({ name }) => name === containerName)) {
        throw new CdebugError(`Cannot start the sidecar: the name "${containerName}" is in use`, {
          hint: "cdebug ls; another --name, or none",
        });
      }
      const { image } = spec.sidecar;
      let toolkit = image;
      if (isImage(image)) {
        const { unpackToolkit } = await import("./toolkit.ts");
        toolkit = `dir:${await unpackToolkit(spec.sidecar, signal, report)}`;
      }
      return await run(engine, known, spec, toolkit, streams, signal);
    },
    exec: (id, argv, streams) => Promise.resolve(exec(known, id, argv, streams)),
    // Whose it is, its command line tells.
    removeCommand: (name) => `pkill -f ${name}`,
    async remove(id) {
      known.delete(id);
      if (await ownerState(id) === "alive") await end(id);
    },

    archive: (target, options) => archive(target, filesOf(target), options),

    layers: () => {
      throw new Error("a process has no image");
    },

    added: () => Promise.resolve([]), // a process has no image to compare with
    readLink: (id, path) => Promise.resolve(readLink(`/proc/${pidOf(id)}/root${path}`)),
    hasImage: (name) => Promise.resolve(hasToolkit(name)),
    labelled: () => Promise.resolve([]),
    removeResource: () => Promise.resolve(),
    published: () => Promise.resolve([]),
    locality: () => Promise.resolve({ hostSockets: true, publish: false, relay: ownRelay() }),
    async ended(id, signal) {
      while (!signal.aborted && await ownerState(id) === "alive") await delay(LOOK_MS);
    },
    describe: () => describe(engine),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  return Promise.resolve(driver);
}

/** Where a target's files are. Those of a process are gone with it. */
function filesOf({ id, image, state }: Target): Files {
  return state === "stopped" ? { root: image } : { root: `/proc/${pidOf(id)}/root`, pid: pidOf(id) };
}

/** Containers; for `pid` whatever has a PID namespace of its own, by its main process. */
async function listTargets(engine: ProcessEngine, address: string | undefined): Promise<Candidate[]> {
  if (engine !== "pid") {
    return (await listContainers(engine, address)).map(({ id, status, pid, bundle, createdAt }) => ({
      id: pid > 0 ? identityOf(pid) : id,
      name: id,
      image: bundle,
      imageId: "",
      state: status,
      createdAt,
      labels: {},
    }));
  }
  const pids = allPids();
  const sidecars = new Set(pids.filter(isSidecar).map((pid) => namespaceOf(pid, "mnt")));
  const foreign = pids.filter((pid) => {
    const mounts = namespaceOf(pid, "mnt");
    return mounts !== undefined && !sidecars.has(mounts) && isForeign(pid, "pid");
  });
  return mainProcesses(foreign.flatMap((pid) => readProcess(pid) ?? [])).map(candidateOf);
}

function candidateOf(process: Process): Candidate {
  const container = containerOf(process.pid);
  return {
    id: identityOf(process.pid),
    name: container ? container.id.slice(0, 12) : String(process.pid),
    image: container ? `${process.name} of ${container.by}` : process.name,
    imageId: "",
    state: "running",
    createdAt: startOf(process),
    labels: {},
  };
}

/** What a sidecar says of itself in its environment. */
interface Said {
  readonly engine: string;
  readonly name: string;
  readonly image: string;
  readonly labels: Readonly<Record<string, string>>;
}

/** The sidecars of this user that run. */
function listSidecars(engine: ProcessEngine): Candidate[] {
  return allPids().filter(isSidecar).flatMap((pid) => {
    const text = readEnviron(pid).get("CDEBUG_LABELS");
    const process = readProcess(pid);
    if (text === undefined || process === undefined) return [];
    const said: Said = JSON.parse(text);
    if (said.engine !== engine) return [];
    return [{
      id: identityOf(pid),
      name: said.name,
      image: said.image,
      imageId: "",
      state: "running",
      createdAt: startOf(process),
      labels: said.labels,
    }];
  });
}

/** Whether a process is a sidecar's first, the one that stays outside. */
function isSidecar(pid: number): boolean {
  const [, , command, , mode] = readCommand(pid);
  return command === SIDECAR_COMMAND && mode === "start";
}

async function describe(engine: ProcessEngine): Promise<EngineDescription> {
  const { success, stdout } = await new Deno.Command(tool("nsenter"), { args: ["--version"], stdin: "null" })
    .output();
  const utilLinux = success ? /util-linux (\S+)/.exec(new TextDecoder().decode(stdout))?.[1] : undefined;
  if (utilLinux === undefined) {
    throw new CdebugError("Cannot debug processes: nsenter is not that of util-linux", {
      hint: "install util-linux (Debian, Ubuntu: apt-get install util-linux; Alpine: apk add util-linux)",
    });
  }
  for (const name of ["unshare", "setpriv", "mount", "chroot"]) tool(name);
  const release = await Deno.readTextFile("/etc/os-release").catch(() => "");
  return {
    version: `${engine === "pid" ? "" : `${await versionOf(engine)}, `}util-linux ${utilLinux}`,
    platform: `linux/${Deno.build.arch === "x86_64" ? "amd64" : "arm64"}`,
    operatingSystem: /^PRETTY_NAME="?(.*?)"?$/m.exec(release)?.[1] ?? "Linux",
    rootless: Deno.uid() !== 0,
    userNamespaceRemapped: false,
    securityOptions: [],
  };
}
