/** A process as a target: what the compiler needs to know of it, and why some can be none. */

import { CdebugError, nearest, NotFound } from "../../errors.ts";
import { identityOf } from "../../owner.ts";
import { type Engine, FILES_ONLY, type Target } from "../../target.ts";
import {
  allPids,
  capabilityNames,
  containerOf,
  hasReadOnlyRoot,
  isForeign,
  type Kind,
  mapInto,
  namespaceOf,
  type Process,
  readCommand,
  readEnviron,
  readLink,
  readProcess,
  rootOf,
  TICKS_PER_SECOND,
} from "./proc.ts";

/** How much of a container's ID must be typed. */
const SHORTEST_ID = 4;

/** What an engine of containers adds to what the kernel knows of their main process. */
export interface Configured {
  readonly name: string;
  readonly user?: string;
  readonly workdir?: string;
  readonly path?: string;
  /** Where its root filesystem is on this machine. */
  readonly files?: string;
}

/** The target that a process is. Throws CdebugError where it can be none, or not for this user. */
export function targetOf(engine: Engine, pid: number, configured: Configured): Target {
  const { name } = configured;
  const process = readProcess(pid);
  if (process === undefined || process.zombie || process.kernelThread) throw noTarget(name, process);
  const again = `sudo cdebug exec ${engine}://${name} …`;
  if (namespaceOf(pid, "mnt") === undefined || readLink(`/proc/${pid}/root`) === undefined) {
    if (process.uid !== Deno.uid()) {
      throw cannotDebug(name, `it is user ${process.uid}'s, and you are user ${Deno.uid()}`, again);
    }
    throw cannotDebug(name, "the kernel lets nobody look into it who may do less than it may");
  }
  if (Deno.uid() !== 0 && !isForeign(pid, "user")) {
    throw cannotDebug(
      name,
      "it is in the user namespace of cdebug itself, where entering a process's namespaces takes root",
      again,
    );
  }
  if (rootOf(pid) === undefined) {
    throw cannotDebug(name, "there is no root in its user namespace, and a session begins as root");
  }
  const own = (kind: Kind) => isForeign(pid, kind) ? "own" : "host";
  const rights = capabilityNames(
    process.uid === 0 || insideUser(process) === "" ? process.permitted : process.bounding,
  );
  const possible = capabilityNames(readProcess(Deno.pid)?.bounding ?? 0n);
  const all = possible.every((capability) => rights.includes(capability));
  return Object.freeze<Target>({
    engine,
    state: "running",
    name,
    id: identityOf(pid),
    startedAt: `${process.start / TICKS_PER_SECOND} s after the machine`,
    image: readLink(`/proc/${pid}/exe`) ?? process.name,
    pid: own("pid") === "own" ? process.innerPid : pid,
    user: configured.user ?? insideUser(process),
    workdir: configured.workdir ?? workdirOf(pid),
    path: configured.path ?? readEnviron(pid).get("PATH") ?? "",
    readOnlyRoot: hasReadOnlyRoot(pid),
    privileged: false,
    namespaces: {
      network: own("net"),
      pid: own("pid"),
      ipc: own("ipc") === "own" ? "shareable" : "host",
      uts: own("uts"),
      user: own("user"),
    },
    addLinuxCapabilities: all ? ["ALL"] : rights,
    dropLinuxCapabilities: all ? [] : ["ALL"],
    securityOptions: [
      ...process.noNewPrivileges ? ["no-new-privileges"] : [],
      ...process.seccomp ? ["seccomp=filter"] : [],
    ],
  });
}

/** A container of which nothing runs any more: there are only the files of its bundle. */
export function stoppedTarget(engine: Engine, { name, files = "" }: Configured): Target {
  return Object.freeze<Target>({
    ...FILES_ONLY,
    engine,
    state: "stopped",
    name,
    id: name,
    image: files,
    user: "",
    workdir: "",
    path: "",
    mounts: [],
  });
}

/**
 * The PID that is meant by a number, the beginning of an identity, the name of a program, or the beginning of the ID of a container. Throws
 * CdebugError if that is none, or several.
 */
export function findPid(name: string): number {
  const [, number, start] = /^(\d+)(\..*)?$/.exec(name) ?? [];
  if (
    number !== undefined &&
    (start === undefined ? number.length < 8 : identityOf(Number(number)).startsWith(name))
  ) {
    return Number(number);
  }
  const found = allPids().flatMap((pid) => readProcess(pid) ?? [])
    .filter((process) => !process.zombie && process.pid !== Deno.pid);
  const named = found.filter((process) => process.name === name || programOf(process.pid) === name);
  const id = /^[0-9a-f]+$/.test(name) && name.length >= SHORTEST_ID;
  const contained = id ? mainProcesses(found).filter(({ pid }) => containerOf(pid)?.id.startsWith(name)) : [];
  const matches = named.length > 0 ? named : contained;
  // What a process has forked goes by its name, and mostly is of no interest.
  const mains = matches.length > 1 ? mainProcesses(matches) : matches;
  const [only, ...more] = mains.length === 1 ? mains : matches;
  if (only === undefined) {
    const typed = /^\d+/.exec(name)?.[0];
    const near = typed === undefined
      ? nearest(name, found.map((process) => process.name))
      : found.flatMap(({ pid }) => String(pid) === typed ? [typed] : []);
    throw new NotFound(`Cannot find target "${name}": there is no such process`, {
      // Whoever looks for a container is not helped by processes with names like its.
      hint: near.length > 0 ? `Did you mean ${near.join(" or ")}?` : "ps -e  lists the processes",
    });
  }
  if (more.length > 0) {
    throw new CdebugError(`Cannot find target "${name}": several processes have that name`, {
      hint: matches.slice(0, 5).map(({ pid }) => `pid://${pid} ${readCommand(pid).join(" ").slice(0, 40)}`)
        .join(", ") + (matches.length > 5 ? ", …" : ""),
    });
  }
  return only.pid;
}

/** Of the processes that share a PID namespace and a mount namespace, the oldest. */
export function mainProcesses(processes: readonly Process[]): Process[] {
  const oldest = new Map<string, Process>();
  for (const process of processes) {
    const key = `${namespaceOf(process.pid, "pid")} ${namespaceOf(process.pid, "mnt")}`;
    const known = oldest.get(key);
    if (known === undefined || process.start < known.start) oldest.set(key, process);
  }
  return [...oldest.values()];
}

/** The user as the target itself would write it; "" is root. */
function insideUser({ pid, uid, gid }: Process): string {
  const inside = mapInto(pid, "uid_map", uid);
  if (inside === 0) return "";
  return `${inside ?? uid}:${mapInto(pid, "gid_map", gid) ?? gid}`;
}

/** As seen from the target's root, which may be a directory of its mount namespace. */
function workdirOf(pid: number): string {
  const cwd = readLink(`/proc/${pid}/cwd`) ?? "/";
  const root = (readLink(`/proc/${pid}/root`) ?? "/").replace(/\/$/, "");
  const inside = cwd === root ? "/" : cwd.startsWith(`${root}/`) ? cwd.slice(root.length) : "/";
  return inside.endsWith(" (deleted)") ? "/" : inside;
}

function programOf(pid: number): string | undefined {
  return readLink(`/proc/${pid}/exe`)?.replace(/^.*\//, "");
}

function noTarget(name: string, process: Process | undefined): CdebugError {
  if (process === undefined) {
    return new NotFound(`Cannot find target "${name}": there is no such process`, {
      hint: "ps -e  lists the processes",
    });
  }
  return process.zombie
    ? cannotDebug(name, `it is a zombie: ${process.name} has ended, and its parent has not asked how`)
    : cannotDebug(name, `it is a thread of the kernel, ${process.name}, without files or a root`);
}

function cannotDebug(name: string, why: string, hint?: string): CdebugError {
  return new CdebugError(`Cannot debug "${name}": ${why}`, { ...hint !== undefined && { hint } });
}
