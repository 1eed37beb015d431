/** What the tests of `cdebug port-forward` have in common: targets on every engine, servers in them, sessions. */

import { assert, assertEquals } from "../assert.ts";
import { Daemon, install, poll, run } from "../engines/debian.ts";
import { fillOrdinary } from "../engines/images.ts";
import { startTarget } from "../engines/process.ts";
import { startRunc } from "../engines/runc.ts";
import type { LocalTarget } from "../engines/target.ts";
import { engineOf, type LiveEngine, liveTest, type RunOptions, spawn, target } from "./engine.ts";
import { localTest, type Maker } from "./local.ts";

export const FORWARDER = "cdebug-test/forwarder";

/** Where targets of these tests are. */
export const PLACES = ["docker", "podman", "root", "runc"] as const;
export type Place = typeof PLACES[number];

export const ENGINES: readonly Place[] = ["docker", "podman"];

/** A running target, its network namespace open to this machine's own tools. */
export interface ForwardTarget extends AsyncDisposable {
  readonly ref: string;
  readonly name: string;
  /** Its main process on this machine. */
  readonly pid: number;
  /** What cdebug is given besides the forwards. */
  readonly flags: readonly string[];
}

/** Registers a test on targets of a place; skipped where there can be none. */
export function placeTest(place: Place, name: string, fn: () => Promise<void>): void {
  const title = `forward: ${place === "root" ? "process" : place}: ${name}`;
  if (ENGINES.includes(place)) liveTest(title, fn, place as LiveEngine);
  else localTest(title, fn, place as Maker);
}

/** Starts a target; `flags` are those of the engine's `run`, where it has any. */
export async function startForwardTarget(
  place: Place,
  flags: readonly string[] = [],
  share: readonly "net"[] = [],
): Promise<ForwardTarget> {
  await install({ socat: "socat", nsenter: "util-linux", ip: "iproute2", sysctl: "procps" });
  if (place === "docker" || place === "podman") {
    const started = await target({ engine: place, run: [...flags] });
    const { client } = engineOf(place)!;
    return {
      ref: started.ref,
      name: started.name,
      get pid() {
        return pids.get(started.name)!;
      },
      flags: ["--forwarder-image", FORWARDER],
      async [Symbol.asyncDispose]() {
        pids.delete(started.name);
        await started[Symbol.asyncDispose]();
      },
      ...await notePid(started.name, client),
    };
  }
  const options = { fill: (root: string) => fillOrdinary(root), share };
  const started: LocalTarget & { id?: string; state?: string } = place === "root"
    ? await startTarget(options)
    : await startRunc({ runtime: "runc", ...options });
  const name = started.id ?? String(started.pid);
  return {
    ref: `${place === "root" ? "pid" : "runc"}://${name}`,
    name,
    pid: started.pid,
    flags: started.state === undefined ? [] : ["--runtime", started.state],
    [Symbol.asyncDispose]: () => started[Symbol.asyncDispose](),
  };
}

const pids = new Map<string, number>();

/** Notes the main process of a container as it is now. */
export async function notePid(name: string, client: (args: readonly string[]) => Promise<string>) {
  pids.set(name, Number((await client(["inspect", "--format", "{{.State.Pid}}", name])).trim()));
  return {};
}

/** The words before a command that run it in the network of a process. */
export function inNetwork(pid: number): string[] {
  return ["nsenter", "--target", String(pid), "--net"];
}

/** Runs socat until it is disposed of, in the network of a process if one is given. */
export async function serve(
  listener: string,
  answer: string,
  pid?: number,
  options: readonly string[] = [],
): Promise<AsyncDisposable> {
  const [program, ...args] = [
    ...pid === undefined ? [] : inNetwork(pid),
    ...["socat", "-t", "30", ...options, listener, answer],
  ];
  const daemon = Daemon.start(program!, args, "/dev/null");
  const [, protocol, port] = /^(TCP|UDP)[46]-LISTEN:(\d+)/.exec(listener) ?? [];
  if (protocol === undefined) {
    const path = /^UNIX-LISTEN:([^,]*)/.exec(listener)![1]!;
    await poll(() => Deno.lstat(path));
  } else {
    const file = /^...6/.test(listener) ? `${protocol.toLowerCase()}6` : protocol.toLowerCase();
    const hex = Number(port).toString(16).toUpperCase().padStart(4, "0");
    await poll(async () => {
      const table = await run("cat", [`/proc/${pid ?? "self"}/net/${file}`]);
      assert(new RegExp(`:${hex} `).test(table), `${listener} does not listen`);
    });
  }
  return daemon;
}

/** Answers with what it gets, in halves: the answer ends when the question has. */
export const ECHO = "EXEC:cat";

/** What `-o json` prints of an event. */
export interface Line {
  readonly event: string;
  readonly forward?: number;
  readonly listen?: string;
  readonly via?: string;
  readonly error?: string;
  readonly recreated?: boolean;
  readonly sent?: number;
  readonly received?: number;
}

/** A session that runs until it is disposed of, which asserts that it ends with 0. */
export interface ForwardSession extends AsyncDisposable {
  readonly pid: number;
  readonly lines: readonly Line[];
  /** Where each forward listens, in order. */
  readonly endpoints: readonly string[];
  readonly vias: readonly string[];
  /** Waits for so many events of a kind. */
  seen(event: string, count: number, seconds?: number): Promise<void>;
  /** Its exit code and what it has said, when it has ended. */
  readonly ended: Promise<{ code: number; stderr: string }>;
  kill(signal: Deno.Signal): void;
}

/** Starts cdebug, and waits until all its forwards are ready. Throws with what it says if it ends instead. */
export async function startForward(
  { ref, flags }: Pick<ForwardTarget, "ref" | "flags">,
  forwards: readonly string[],
  options: RunOptions & { readonly extra?: readonly string[] } = {},
): Promise<ForwardSession> {
  const count = forwards.filter((word) => /^-[LR]$/.test(word)).length;
  const child = spawn(
    ["port-forward", ref, ...flags, "-o", "json", "-v", ...options.extra ?? [], ...forwards],
    options,
  );
  const lines: Line[] = [];
  const reading = (async () => {
    let rest = "";
    for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
      const parts = (rest + text).split("\n");
      rest = parts.pop()!;
      for (const part of parts) lines.push(JSON.parse(part));
    }
  })();
  const errors = new Response(child.stderr).text();
  let over = false;
  const ended = (async () => {
    const { code } = await child.status;
    await reading;
    over = true;
    return { code, stderr: await errors };
  })();
  const seen = (event: string, wanted: number, seconds?: number) =>
    poll(async () => {
      const found = lines.filter((line) => line.event === event).length;
      if (found < wanted && over) throw new Error(`it has ended: ${(await ended).stderr}`);
      assert(found >= wanted, `${found} of ${wanted} ${event}: ${JSON.stringify(lines.slice(-5))}`);
    }, over ? 0 : seconds ?? 30);
  try {
    await seen("ready", count);
  } catch (error) {
    if (!over) child.kill("SIGKILL");
    throw new Error(`${error}: ${(await ended).stderr}`);
  }
  const ready = lines.filter(({ event }) => event === "ready");
  return {
    pid: child.pid,
    lines,
    endpoints: ready.map(({ listen }) => listen!),
    vias: ready.map(({ via }) => via!),
    seen,
    ended,
    kill: (signal) => child.kill(signal),
    async [Symbol.asyncDispose]() {
      if (!over) child.kill("SIGINT");
      const { code, stderr } = await ended;
      assertEquals([code, stderr], [0, ""]);
    },
  };
}

/**
 * What the clients of forward_clients.ts find out at an endpoint, in the network namespace that `inside` enters. Throws
 * if they hang.
 */
export async function runClients(
  endpoint: string,
  manner: "at-once" | "in-turn" | "bulk",
  count: number,
  inside: readonly string[] = [],
): Promise<{ readonly answered: number; readonly seconds: number }> {
  const script = new URL("forward_clients.ts", import.meta.url).pathname;
  const clients = [Deno.execPath(), "run", "-A", script, endpoint, manner, String(count)];
  const [program, ...args] = [...inside, "timeout", "300", ...clients];
  return JSON.parse(await run(program!, args));
}

/** Connects as `127.0.0.1:80`, `[::1]:80` or `unix:/path` says. */
async function dial(endpoint: string): Promise<Deno.Conn> {
  if (endpoint.startsWith("unix:")) {
    return await Deno.connect({ transport: "unix", path: endpoint.slice("unix:".length) });
  }
  const [, hostname, port] = /^\[?([^\]]*?)\]?:(\d+)$/.exec(endpoint)!;
  return await Deno.connect({ hostname: hostname!, port: Number(port) });
}

/** Sends a text, ends this half, and returns what comes until the other half ends. */
export async function ask(endpoint: string, text: string): Promise<string> {
  const conn = await dial(endpoint);
  const timer = setTimeout(() => conn.close(), 30_000); // what is still there then hangs
  try {
    await conn.write(new TextEncoder().encode(text));
    await conn.closeWrite();
    return await readAll(conn);
  } finally {
    clearTimeout(timer);
    conn.close();
  }
}

/** As `ask`, by socat in the network of a process. */
export async function askIn(pid: number, address: string, text: string): Promise<string> {
  const [program, ...args] = [...inNetwork(pid), "socat", "-t", "20", "-", address];
  return await run(program!, args, { stdin: new TextEncoder().encode(text) });
}

/** Sends a datagram, and returns the answer. */
export async function askDatagram(address: string, text: string, pid?: number): Promise<string> {
  const [program, ...args] = [
    ...pid === undefined ? [] : inNetwork(pid),
    ...["sh", "-c", 'printf %s "$1" | socat -t 1 - "$2"', "sh", text, address],
  ];
  return await run(program!, args);
}

async function readAll(conn: Deno.Conn): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  const buffer = new Uint8Array(65536);
  for (let count; (count = await conn.read(buffer)) !== null;) {
    text += decoder.decode(buffer.subarray(0, count), { stream: true });
  }
  return text;
}

/** What sessions leave on this machine, should they: directories, and processes that forward. */
export async function forwardTraces(): Promise<string[]> {
  const found: string[] = [];
  const dir = Deno.env.get("XDG_RUNTIME_DIR") || "/tmp";
  for await (const { name } of Deno.readDir(dir)) {
    if (name.startsWith("cdebug-exchange-")) found.push(`${dir}/${name}`);
  }
  for await (const { name } of Deno.readDir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const command = await Deno.readTextFile(`/proc/${name}/cmdline`).catch(() => "");
    if (/^(socat|sh)\0.*(\.cdebug-|CDEBUG_SCRIPT|CDEBUG_SIDECAR)/s.test(command)) {
      found.push(command.replaceAll("\0", " ").slice(0, 200));
    }
  }
  return found;
}
