/** Runs sidecars as processes, by util-linux: nsenter(1), unshare(1), setpriv(1), mount(8). */

import { type Realised, type Running, scriptCommand, type Streams } from "../../driver.ts";
import { CdebugError } from "../../errors.ts";
import { identityOf } from "../../owner.ts";
import type { Sidecar } from "../../plan.ts";
import type { Engine } from "../../target.ts";
import { join, kill, NotReady, readiness, spawn } from "./child.ts";
import {
  allPids,
  isForeign,
  type Kind,
  KINDS,
  LINUX_CAPABILITIES,
  maySetGroups,
  namespaceOf,
  readProcess,
  rootOf,
} from "./proc.ts";
import { hasProgram, layOut } from "./root.ts";
import script from "./sidecar.sh" with { type: "text" };
import { nsenter, tool } from "./tools.ts";

/** Shows in `ps` what these processes are, and finds them again. */
export const SIDECAR_COMMAND = 'eval "$CDEBUG_SIDECAR"';

/** What the kernel calls the namespaces of a spec. */
const NAMESPACES = { network: "net", pid: "pid", ipc: "ipc", uts: "uts" } as const;

/** The PID of an identity. */
export function pidOf(id: string): number {
  return Number(id.split(".")[0]);
}

/** What the script's other modes need of the environment that a sidecar was started with. */
export interface ScriptEnv {
  readonly PATH: string;
  readonly CDEBUG_SESSION: string;
  readonly CDEBUG_SCRIPT: string;
}

/** Starts a sidecar and notes what `exec` needs of it; as `Driver.run`. `toolkit` is where its image is: host, dir:/PATH. */
export async function run(
  engine: Engine,
  known: Map<string, ScriptEnv>,
  spec: Realised,
  toolkit: string,
  streams: Streams,
  signal: AbortSignal,
): Promise<Running> {
  const { sidecar, target, detached } = spec;
  refuseUnknown(spec);
  const pid = pidOf(spec.joined ?? target.id);
  const process = readProcess(pid);
  if (process === undefined || identityOf(pid) !== (spec.joined ?? target.id)) {
    throw endedMeanwhile(target.name);
  }
  const { joined, fresh } = namespacesOf(spec, pid);
  const entered = new Set([...joined, ...fresh]);
  const layout = layOut({ ...sidecar, image: toolkit }, {
    target: pid,
    ownPid: entered.has("pid"),
    ...joined.has("user") && { root: rootOf(pid) },
  });
  const [program] = scriptCommand(sidecar, sidecar.args);
  if (!hasProgram(layout, program!)) {
    throw new CdebugError(`Cannot start the toolkit "${sidecar.image}": it has no shell, "${program}"`, {
      hint: "name its shell with --entrypoint",
    });
  }
  signal.throwIfAborted();

  const inherits = streams.inherit === true;
  const child = spawn([
    ...nsenter(joined, pid, false),
    ...joined.size > 0 ? ["--no-fork"] : [],
    ...[tool("unshare"), "--mount", "--propagation", "slave", ...fresh.map((kind) => `--${kind}`)],
    ...[tool("setpriv"), ...detached ? [] : ["--pdeathsig", "TERM"]],
    ...!joined.has("user") ? ["--clear-groups"] : maySetGroups(pid) ? [] : ["--regid", "0", "--keep-groups"],
    ...[tool("sh"), "-c", SIDECAR_COMMAND, spec.name, "start"],
    ...[detached ? "none" : String(Deno.pid), String(pid), String(process.start), layout.root],
    inherits ? "terminal" : detached ? "closed" : "stream",
    ...restrict(sidecar),
    ...[tool("chroot"), ".", ...scriptCommand(sidecar, sidecar.args)],
  ], {
    env: {
      CDEBUG_SIDECAR: script,
      CDEBUG_LABELS: JSON.stringify({ engine, name: spec.name, image: sidecar.image, labels: spec.labels }),
      CDEBUG_FSTAB: layout.fstab,
      CDEBUG_DIRECTORIES: layout.directories,
      CDEBUG_FILES: layout.files,
      CDEBUG_LINKS: layout.links,
      ...layout.names,
      CDEBUG_ENV: exportCommands({
        ...inherits && { TERM: Deno.env.get("TERM") || "xterm" },
        PATH: layout.path,
        ...spec.env,
      }),
    },
    stdin: inherits ? "inherit" : streams.stdin ? "piped" : "null",
    stdout: inherits ? "inherit" : streams.stdout ? "piped" : "null",
    // Typed keys are the command's; without a terminal cdebug passes on what they mean.
    detached: !inherits,
  });
  const id = identityOf(child.pid);
  const { CDEBUG_SESSION = "", CDEBUG_SCRIPT = "" } = spec.env;
  const env: ScriptEnv = { PATH: layout.path, CDEBUG_SESSION, CDEBUG_SCRIPT };
  known.set(id, env);
  const hangup = sidecar.hangup ? scriptCommand(sidecar, sidecar.hangup) : ["true"];
  const watch = detached
    ? undefined
    : startWatch(spec.name, id, env, beside(child.pid, entered, env, hangup));

  const cancel = () => kill(child);
  signal.addEventListener("abort", cancel);
  const errors = child.stderr.getReader();
  try {
    const early = await readiness(errors);
    signal.throwIfAborted();
    watch?.tell("ready");
    if (detached) {
      await errors.cancel();
      child.unref();
      return { id, exit: new Promise<never>(() => {}), resize, release() {} };
    }
    // Of a sidecar that was killed, processes are left that hold its streams: first of all they have to go.
    const mounts = namespaceOf(child.pid, "mnt");
    const over = child.status.then(async ({ signal }) => {
      await watch!.end(signal === null);
      if (signal !== null) killAll(mounts);
    });
    const ended = join(child, errors, early, streams);
    return {
      id,
      exit: Promise.all([ended, over]).then(([{ code }]) => code),
      resize,
      release: () => child.unref(),
    };
  } catch (error) {
    kill(child);
    await errors.cancel().catch(() => {});
    await child.status;
    known.delete(id);
    await watch?.end(true);
    if (!(error instanceof NotReady)) throw error;
    if (readProcess(pid)?.start !== process.start) throw endedMeanwhile(target.name);
    throw new CdebugError(`Cannot start the sidecar: ${error.message || "it ended at once"}`, {
      hint: "cdebug doctor pid://",
      cause: error,
    });
  } finally {
    signal.removeEventListener("abort", cancel);
  }
}

/** Runs one more process in a sidecar; as `Driver.exec`. */
export function exec(
  known: ReadonlyMap<string, ScriptEnv>,
  id: string,
  argv: readonly string[],
  streams: Streams,
): Running {
  const pid = pidOf(id);
  const joined = new Set(KINDS.filter((kind) => isForeign(pid, kind, true)));
  const env = known.get(id);
  if (env === undefined || joined.size === 0) {
    throw new CdebugError(`Cannot run a command in sidecar ${pid}: it is gone`);
  }
  const { PATH: _path, ...variables } = env;
  const child = spawn(beside(pid, joined, env, argv), {
    env: variables,
    stdin: streams.stdin ? "piped" : "null",
    stdout: streams.stdout ? "piped" : "null",
    detached: true,
  });
  return {
    id,
    exit: join(child, child.stderr.getReader(), new Uint8Array(), streams).then(({ code }) => code),
    resize,
    release: () => child.unref(),
  };
}

/** Kills the processes of a mount namespace, where it is not cdebug's own: what the watch would have, had it lived. */
function killAll(mounts: string | undefined): void {
  if (mounts === undefined || mounts === namespaceOf("self", "mnt")) return;
  for (const pid of allPids()) {
    if (namespaceOf(pid, "mnt") !== mounts) continue;
    try {
      Deno.kill(pid, "SIGKILL");
    } catch {
      // It has ended.
    }
  }
}

/** Kills all processes of a sidecar, and waits until they are gone; one that is gone is no error. */
export async function end(id: string): Promise<void> {
  const [pid, start] = id.split(".");
  const child = spawn([tool("sh"), "-c", SIDECAR_COMMAND, "cdebug", "end", pid!, start ?? ""], {
    env: { CDEBUG_SIDECAR: script },
    stdin: "null",
    stdout: "null",
    detached: true,
  });
  await Promise.all([child.stderr.cancel(), child.status]);
}

/** What no process can be, and the compiler never asks of one. */
function refuseUnknown({ sidecar, targetRoot }: Realised): void {
  const unknown = [
    ...sidecar.snapshot ? ["a copy of a container (snapshot)"] : [],
    ...sidecar.files ? ["files of its own (files)"] : [],
    ...sidecar.keep ? ["a container to keep (keep)"] : [],
    ...sidecar.joins ? ["another sidecar to join (joins)"] : [],
    ...sidecar.publish ? ["ports that an engine publishes (publish)"] : [],
    ...sidecar.volumes || sidecar.volumesFrom ? ["volumes"] : [],
    ...sidecar.network || sidecar.privateNetwork ? ["an engine's network"] : [],
    ...sidecar.namespaces.pid === "own" ? ["a PID namespace of its own (namespaces.pid)"] : [],
    ...targetRoot ? ["the root of a target that has ended"] : [],
  ];
  if (unknown.length === 0) return;
  throw new CdebugError(`Cannot start the sidecar: as a process it has not ${unknown.join(", nor ")}`);
}

function endedMeanwhile(target: string): CdebugError {
  return new CdebugError(`Cannot start the sidecar: target "${target}" has ended meanwhile`, {
    hint: "ps -e  lists the processes",
  });
}

/** The namespaces of the target that a spec shares and cdebug does not, and those that are to be the sidecar's own. */
function namespacesOf(
  { sidecar: { namespaces } }: Realised,
  pid: number,
): { joined: ReadonlySet<Kind>; fresh: Kind[] } {
  const kinds = Object.entries(NAMESPACES) as [keyof typeof NAMESPACES, Kind][];
  const shared = kinds.filter(([name]) => namespaces[name] === "target").map(([, kind]) => kind);
  if (namespaces.user === "target") shared.push("user");
  return {
    joined: new Set(shared.filter((kind) => isForeign(pid, kind))),
    fresh: kinds.filter(([name]) => namespaces[name] === "own").map(([, kind]) => kind),
  };
}

/** The words before a command that run it beside the script of a sidecar, in the namespaces that this one has entered. */
function beside(
  pid: number,
  entered: ReadonlySet<Kind>,
  { PATH }: ScriptEnv,
  argv: readonly string[],
): string[] {
  return [tool("env"), `PATH=${PATH}`, ...nsenter(new Set([...entered, "mnt"]), pid, true), ...argv];
}

/** The words before a command that leave it the rights of a spec. Source: setpriv(1); the numbers, since its names may be older. */
function restrict(
  { privileged, addLinuxCapabilities = [], dropLinuxCapabilities = [], securityOptions = [] }: Sidecar,
) {
  if (privileged) return [];
  const number = (name: string) => {
    const found = LINUX_CAPABILITIES.indexOf(name);
    if (found < 0) throw new CdebugError(`Cannot start the sidecar: "${name}" is not a Linux capability`);
    return `cap_${found}`;
  };
  const numbers = (names: readonly string[]) => names.filter((name) => name !== "ALL").map(number);
  const [added, dropped] = [numbers(addLinuxCapabilities), numbers(dropLinuxCapabilities)];
  // As engines do: what is added wins over a dropped ALL, what is dropped over an added one.
  const none = dropLinuxCapabilities.includes("ALL") && !addLinuxCapabilities.includes("ALL");
  const bounding = none
    ? ["-all", ...added.map((capability) => `+${capability}`)]
    : dropped.map((capability) => `-${capability}`);
  const flags = [
    ...bounding.length > 0 ? [`--bounding-set=${bounding.join(",")}`] : [],
    ...securityOptions.some((option) => /^no-new-privileges\b(?![:=]false)/.test(option))
      ? ["--no-new-privs"]
      : [],
  ];
  return flags.length > 0 ? [tool("setpriv"), ...flags] : [];
}

/** As the commands of a shell. Throws CdebugError for a name that shells do not take. */
function exportCommands(env: Readonly<Record<string, string>>): string {
  return Object.entries(env).map(([name, value]) => {
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) {
      throw new CdebugError(`Cannot set variable "${name}": as a name it takes letters, digits and "_" only`);
    }
    return `export ${name}='${value.replaceAll("'", "'\\''")}'\n`;
  }).join("");
}

/** Starts the process that ends a sidecar should cdebug die: the hang-up first, then whatever is left. */
function startWatch(name: string, id: string, { PATH: _path, ...env }: ScriptEnv, hangup: readonly string[]) {
  const [pid, start] = id.split(".");
  const child = spawn([tool("sh"), "-c", SIDECAR_COMMAND, name, "watch", pid!, start!, ...hangup], {
    env: { CDEBUG_SIDECAR: script, ...env },
    stdin: "piped",
    stdout: "null",
    detached: true,
  });
  const silent = child.stderr.cancel();
  const writer = child.stdin.getWriter();
  const tell = (word: string) => writer.write(new TextEncoder().encode(`${word}\n`)).catch(() => {});
  return {
    tell,
    /** Waits until it has ended; where the sidecar has not ended in order, it has removed what was left. */
    async end(inOrder: boolean): Promise<void> {
      if (inOrder) await tell("over");
      await writer.close().catch(() => {});
      await Promise.all([silent, child.status]);
    },
  };
}

/** The terminal is the command's own: the kernel tells it. */
const resize = () => Promise.resolve();
