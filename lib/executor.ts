/**
 * Runs a plan through a driver, reports events, cleans up in reverse. It decides nothing that the plan could say.
 */

import { sha256 } from "./digest.ts";
import {
  type Driver,
  type Progress,
  type Realised,
  type Running,
  scriptCommand,
  type Size,
  type Streams,
} from "./driver.ts";
import { CdebugError, EXIT, reason } from "./errors.ts";
import type { Endpoint, ExecSession, Plan, Sidecar } from "./plan.ts";
import { titleOf } from "./target.ts";

/** What happens while a plan runs, for whoever prints. */
export type Event =
  | Progress
  | { readonly kind: "started"; readonly sidecar: string; readonly container: string }
  | { readonly kind: "target-stopped"; readonly target: string }
  | { readonly kind: "left"; readonly what: string; readonly hint?: string }
  | ForwardEvent
  | ExportEvent;

/** What happens to forwards; `forward` is the number of one in the plan's session, from 0 on. */
export type ForwardEvent =
  | { readonly kind: "ready"; readonly forward: number; readonly listen: Endpoint }
  | { readonly kind: "opened"; readonly forward: number; readonly connection: number; readonly peer: string }
  | {
    readonly kind: "closed";
    readonly forward: number;
    readonly connection: number;
    readonly peer: string;
    /** In bytes, from the one who has connected, and to them. */
    readonly sent: number;
    readonly received: number;
    /** Why it broke. */
    readonly error?: string;
  }
  /** A forwarder says what is wrong with a connection that cdebug does not see. */
  | { readonly kind: "complained"; readonly sidecar: string; readonly text: string }
  | { readonly kind: "lost"; readonly target: string; readonly why: string }
  | { readonly kind: "restored"; readonly target: string; readonly recreated: boolean }
  | { readonly kind: "ended" };

/** What happens while files are exported; sizes are in bytes. */
export type ExportEvent =
  | { readonly kind: "layer"; readonly digest: string; readonly done: number; readonly total: number }
  | {
    readonly kind: "export-progress";
    readonly entries: number;
    readonly bytes: number;
    readonly path?: string;
  }
  /** What is mounted there is not exported. */
  | { readonly kind: "left-out"; readonly paths: readonly string[]; readonly inMemory: boolean }
  /** Something could not be read, or has changed meanwhile. */
  | { readonly kind: "unreadable"; readonly text: string }
  /** How many things of which kind could not be made as they were; `list` is the file that names them all. */
  | { readonly kind: "omitted"; readonly counts: Readonly<Record<string, number>>; readonly list: string }
  | {
    readonly kind: "exported";
    readonly output: string;
    readonly entries: number;
    readonly bytes: number;
  };

/** What the user does while a session runs. */
export type Control =
  | { readonly kind: "signal"; readonly name: SignalName }
  | { readonly kind: "resize"; readonly size: Size }
  | { readonly kind: "detach" };

/** The signals that are passed on, and their numbers. */
export const SIGNALS = { HUP: 1, INT: 2, QUIT: 3, USR1: 10, USR2: 12, TERM: 15 } as const;
export type SignalName = keyof typeof SIGNALS;

/** What every session needs of the process that it runs in. */
export interface Context {
  /** Calls back for every control until the returned function is called. */
  readonly controls: (listener: (control: Control) => void) => () => void;
  /** The value of a variable that the plan names without one. */
  readonly env: (name: string) => string | undefined;
  readonly report: (event: Event) => void;
  /** What identifies the process that the session ends with; see `ownIdentity`. */
  readonly owner: string;
}

export interface Surroundings extends Context {
  readonly streams: Streams;
}

export type Outcome =
  | { readonly kind: "exit"; readonly code: number }
  | { readonly kind: "detached"; readonly container: string };

/** How long a command may take to end after a signal that usually ends one; as `docker stop`. */
const SIGNAL_GRACE_MS = 10_000;
/** How long a sidecar may take to end after a hang-up; its script gives the command 2 s of it. */
const HANGUP_GRACE_MS = 5_000;
/** How long it may take to undo what a killed sidecar has left. */
const UNDO_GRACE_MS = 20_000;
/** How long an engine may take to tell that what was ended has ended. */
const CLEANUP_GRACE_MS = 5_000;
/** Sessions shorter than this never pay for the process that ends them should cdebug die. */
const HANGUP_DELAY_MS = 300;
const BROKEN_PIPE = 128 + 13;
/** A command is shown in lists, where its beginning says enough. */
const COMMAND_LABEL_LENGTH = 200;
/**
 * What a sidecar's exit code is when it was ended from outside (`docker stop`, `docker kill`, a dead target), and
 * its script could not tidy up; or when the command ended so, which costs one needless undo.
 */
const ENDED_FROM_OUTSIDE = [128 + 1, 128 + 9, 128 + 15];

/**
 * Runs the plan to its end and returns how it ended: the command's exit code, or the container that goes on
 * without cdebug. Whatever ends it, sidecars are removed and what a killed one left in the target is undone;
 * what could not be is reported as `left`. Throws CdebugError where cdebug itself failed.
 */
export async function execute(plan: Plan, driver: Driver, around: Surroundings): Promise<Outcome> {
  const run = new Session(plan, driver, around); // first of all: a signal that comes before it listens is lost
  try {
    const { realise } = await realiser(plan, around);
    for (const sidecar of plan.sidecars) {
      await run.start(realise(sidecar));
    }
    return await run.attend();
  } finally {
    await run.cleanUp();
  }
}

/** Gives the plan's sidecars what only a run has: the session's ID, and with it names, labels and environment. */
export async function realiser(
  plan: Plan,
  around: Context,
): Promise<{ readonly session: string; readonly realise: (sidecar: Sidecar) => Realised }> {
  const session = newSession();
  const attached = plan.session.kind === "exec" ? plan.session.attach : undefined;
  const detached = plan.session.kind !== "export" && plan.session.detach;
  const labels = {
    "cdebug.session": session,
    "cdebug.target": plan.target.id,
    "cdebug.plan": await digest(plan),
    "cdebug.command": titleOf(plan.request).slice(0, COMMAND_LABEL_LENGTH),
    ...detached ? { "cdebug.detached": "true" } : { "cdebug.owner": around.owner },
  };
  const realise = (sidecar: Sidecar): Realised => ({
    sidecar,
    target: plan.target,
    name: sidecar.containerName ??
      `cdebug-${session}${sidecar.name === attached ? "" : `-${sidecar.name}`}`,
    labels: { ...labels, "cdebug.role": sidecar.name },
    env: {
      ...resolveEnv(sidecar, around.env),
      ...sidecar.script !== undefined && { CDEBUG_SESSION: session, CDEBUG_SCRIPT: sidecar.script },
    },
    detached,
  });
  return { session, realise };
}

/** One run of a plan: what has been started, and how it is being ended. */
class Session {
  readonly #plan: Plan;
  readonly #session: ExecSession;
  readonly #driver: Driver;
  readonly #around: Surroundings;
  readonly #started: { spec: Realised; running: Running; ended: boolean }[] = [];
  readonly #setup = new AbortController();
  readonly #unsubscribe: () => void;
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();
  readonly #lifeline = channel();
  readonly #gaveUp = Promise.withResolvers<void>();
  readonly #detached = Promise.withResolvers<void>();
  #isDetached = false;
  #hangupProcess: Promise<Running | void> | undefined;
  /** Set when cdebug ends the session: the exit code that says why. */
  #verdict: number | undefined;
  #undo: Realised | undefined;

  constructor(plan: Plan, driver: Driver, around: Surroundings) {
    if (plan.session.kind !== "exec") throw new Error("the session is not one of exec");
    this.#plan = plan;
    this.#session = plan.session;
    this.#driver = driver;
    this.#around = around;
    this.#unsubscribe = around.controls((control) => this.#obey(control));
    const { timeoutSeconds } = plan.session;
    if (timeoutSeconds !== undefined) {
      this.#after(timeoutSeconds * 1000, () => this.#end(EXIT.timeout));
    }
  }

  async start(spec: Realised): Promise<void> {
    const { sidecar } = spec;
    const joined = this.#started.find(({ spec }) => spec.sidecar.name === sidecar.joins)?.running.id;
    try {
      this.#setup.signal.throwIfAborted();
      const running = await this.#driver.run(
        joined === undefined ? spec : { ...spec, joined },
        this.#streams(sidecar),
        this.#setup.signal,
        this.#around.report,
      );
      this.#started.push({ spec, running, ended: spec.detached });
    } catch (error) {
      if (this.#setup.signal.aborted) {
        throw new CdebugError(
          `Cancelled before the session began`,
          { exitCode: this.#verdict ?? EXIT.failure, cause: error },
        );
      }
      throw error;
    }
    this.#around.report({ kind: "started", sidecar: sidecar.name, container: spec.name });
  }

  async attend(): Promise<Outcome> {
    const main = this.#attached()!;
    if (main.spec.detached) return { kind: "detached", container: main.spec.name };
    // Ended between the start and now: nobody has told the sidecar yet.
    if (this.#verdict !== undefined) this.#hangUp();
    if (main.spec.sidecar.hangup) {
      this.#after(HANGUP_DELAY_MS, () => this.#startHangupProcess());
    }

    const outcome = await Promise.race([
      main.running.exit.then((code) => ({ kind: "exit", code } as const)),
      this.#detached.promise.then(() => ({ kind: "detached", container: main.spec.name } as const)),
      this.#gaveUp.promise.then(() => ({ kind: "gave-up" } as const)),
    ]).catch((error) => {
      this.#undo = main.spec;
      throw error;
    });
    if (outcome.kind === "detached") {
      this.#isDetached = true;
      for (const started of this.#started) started.ended = true; // what it joins goes on with it
      return outcome;
    }
    if (outcome.kind === "exit") {
      main.ended = true;
      if (ENDED_FROM_OUTSIDE.includes(outcome.code)) this.#undo = main.spec;
      return { kind: "exit", code: this.#verdict ?? outcome.code };
    }
    this.#undo = main.spec;
    return { kind: "exit", code: this.#verdict! };
  }

  /** Removes what still runs, last started first, and undoes what a killed sidecar left in the target. */
  async cleanUp(): Promise<void> {
    this.#unsubscribe();
    for (const timer of this.#timers) clearTimeout(timer);
    for (const { spec, running, ended } of this.#started.toReversed()) {
      if (ended) continue;
      try {
        await this.#driver.remove(running.id);
      } catch (error) {
        this.#around.report({
          kind: "left",
          what: `container ${spec.name} (${reason(error)})`,
          hint: this.#driver.removeCommand(spec.name),
        });
      }
      await atMost(CLEANUP_GRACE_MS, running.exit);
    }
    this.#lifeline.close();
    // It reads "detach", and ends; else it is not needed any more, and has ended, or will, with its container.
    await atMost(
      CLEANUP_GRACE_MS,
      this.#hangupProcess?.then(async (process) => {
        if (this.#isDetached) await process?.exit;
        else process?.release();
      }),
    );
    if (this.#undo) await this.#undoIn(this.#undo);
  }

  #attached() {
    return this.#started.find(({ spec }) => spec.sidecar.name === this.#session.attach);
  }

  #streams(sidecar: Sidecar): Streams {
    if (sidecar.name !== this.#session.attach) return {};
    const { stdin, stdout, stderr, size, inherit } = this.#around.streams;
    // Who reads the output may go first, as `head` does: that ends the session, it is no failure.
    const tolerant = (sink: NonNullable<Streams["stdout"]>) => {
      let broken = false;
      return async (chunk: Uint8Array) => {
        if (broken) return;
        try {
          await sink(chunk);
        } catch (error) {
          broken = true;
          if (!(error instanceof Deno.errors.BrokenPipe)) {
            throw new CdebugError(`Cannot write the command's output: ${reason(error)}`, { cause: error });
          }
          this.#end(BROKEN_PIPE);
        }
      };
    };
    return {
      ...sidecar.stdin === "open" && stdin && { stdin },
      ...sidecar.stdin === "lifeline" && { stdin: this.#lifeline.stream },
      ...stdout && { stdout: tolerant(stdout) },
      ...stderr && { stderr: tolerant(stderr) },
      ...size && { size },
      ...inherit && { inherit },
    };
  }

  #obey(control: Control): void {
    const main = this.#attached();
    switch (control.kind) {
      case "resize":
        main?.running.resize(control.size).catch(() => {});
        return;
      case "detach":
        this.#lifeline.send("detach\n");
        if (main?.spec.sidecar.hangup) this.#startHangupProcess(); // it notes that nobody is missed
        main?.running.release();
        this.#detached.resolve();
        return;
      case "signal": {
        const verdict = 128 + SIGNALS[control.name];
        // On a terminal Ctrl-C is typed, not a signal: one that comes nevertheless means the terminal, or cdebug.
        if (!main || main.spec.sidecar.tty || !main.spec.sidecar.signal) {
          this.#end(verdict);
          return;
        }
        const { spec: { sidecar }, running } = main;
        this.#driver.exec(running.id, scriptCommand(sidecar, [...sidecar.signal!, control.name]), {})
          .then(({ exit }) => exit)
          .catch(() => {}); // the command has ended meanwhile
        if (!control.name.startsWith("USR")) {
          this.#after(SIGNAL_GRACE_MS, () => this.#end(verdict));
        }
        return;
      }
      default:
        control satisfies never;
    }
  }

  /** Ends the session, whatever it is doing, with an exit code that says why. */
  #end(verdict: number): void {
    if (this.#verdict !== undefined) return;
    this.#verdict = verdict;
    this.#setup.abort();
    if (this.#attached()) this.#hangUp();
  }

  /** Closes the sidecar's lifeline, so that the command ends and the script tidies up; gives up if it does not. */
  #hangUp(): void {
    if (this.#attached()!.spec.sidecar.hangup) this.#startHangupProcess();
    this.#lifeline.close();
    this.#after(HANGUP_GRACE_MS, () => this.#gaveUp.resolve());
  }

  #startHangupProcess(): void {
    const { spec: { sidecar }, running } = this.#attached()!;
    this.#hangupProcess ??= this.#driver
      .exec(running.id, scriptCommand(sidecar, sidecar.hangup!), { stdin: this.#lifeline.stream })
      .then((process) => {
        process.exit.catch(() => {}); // the daemon is gone: the session's own end tells
        return process;
      })
      .catch(() => {}); // the command has ended meanwhile
  }

  #after(ms: number, action: () => void): void {
    this.#timers.add(setTimeout(action, ms));
  }

  /** Undoes what a killed sidecar left in the target, or tells that it is still there. */
  async #undoIn(killed: Realised): Promise<void> {
    const late = new AbortController();
    const { promise: expired, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => {
      late.abort();
      reject(new Error("the engine does not answer"));
    }, UNDO_GRACE_MS);
    try {
      await Promise.race([this.#runUndo(killed, late.signal), expired]);
    } catch (error) {
      const { name } = this.#plan.target;
      const link = `/.cdebug-${killed.labels["cdebug.session"]}`;
      this.#around.report({
        kind: "left",
        what: `the link ${link} in ${name} (${reason(error)})`,
        hint: this.#driver.capabilities.sharedRoots
          ? `rm ${link}  in that root filesystem, if it is still there`
          : `the next session on ${name} removes it`,
      });
    } finally {
      clearTimeout(timer);
    }
  }

  /** Runs the script's undo, in a running target or on the root of a stopped one. */
  async #runUndo(killed: Realised, signal: AbortSignal): Promise<void> {
    const { target } = this.#plan;
    const { undo, containerName: _name, keep: _keep, ...sidecar } = killed.sidecar;
    let failure: unknown;
    // A target that dies takes the sidecar with it, and the engine may notice the one before the other.
    for (let attempt = 0; attempt < 3 && !signal.aborted; attempt++) {
      if (attempt > 0) await new Promise((resolve) => setTimeout(resolve, 300));
      try {
        const state = await this.#driver.state(target.id);
        if (attempt === 0 && state !== "running" && target.state === "running") {
          this.#around.report({ kind: "target-stopped", target: target.name });
        }
        if (!undo || (state === "gone" && !this.#driver.capabilities.sharedRoots)) return;
        if (state === "gone") throw new Error("it has ended, and its root filesystem may be others' as well");
        const running = await this.#driver.run(
          {
            ...killed,
            name: `cdebug-${killed.labels["cdebug.session"]}-undo`,
            sidecar: {
              ...sidecar,
              args: undo,
              stdin: "none",
              tty: false,
              ...state === "stopped" && {
                namespaces: {
                  network: "own",
                  pid: "own",
                  ipc: "own",
                  uts: "own",
                  // There is none to join; the engine's own holds every user of the target's.
                  user: sidecar.namespaces.user === "host" ? "host" : "engine",
                },
              },
            },
            ...state === "stopped" && { targetRoot: "/.cdebug-target" },
          },
          {},
          signal,
          () => {},
        );
        const code = await running.exit;
        if (code === 0) return;
        failure = new Error(`exit code ${code}`);
      } catch (error) {
        failure = error;
      }
    }
    throw failure;
  }
}

/** Waits for the end of something, however it ends, but not for ever: an engine may have stopped answering. */
export async function atMost(ms: number, ending: Promise<unknown> | undefined): Promise<void> {
  if (ending === undefined) return;
  let timer;
  const late = new Promise<void>((resolve) => timer = setTimeout(resolve, ms));
  await Promise.race([ending.catch(() => {}), late]);
  clearTimeout(timer);
}

/** A stream that carries short words, or just its own end. */
export function channel() {
  let controller!: ReadableStreamDefaultController<Uint8Array>;
  let open = true;
  const stream = new ReadableStream<Uint8Array>({
    start(own) {
      controller = own;
    },
    cancel() {
      open = false;
    },
  });
  return {
    stream,
    send(text: string) {
      if (open) controller.enqueue(new TextEncoder().encode(text));
    },
    close() {
      if (open) controller.close();
      open = false;
    },
  };
}

/** Eight hexadecimal digits. */
function newSession(): string {
  return crypto.getRandomValues(new Uint32Array(1))[0]!.toString(16).padStart(8, "0");
}

/** The first 12 hexadecimal digits of the SHA-256 of the plan without its environment values. */
async function digest(plan: Plan): Promise<string> {
  const text = JSON.stringify(plan, (key, value) => key === "env" && value ? Object.keys(value) : value);
  return (await sha256(text)).slice(0, 12);
}

function resolveEnv(
  { env = {} }: Sidecar,
  lookUp: (name: string) => string | undefined,
): Record<string, string> {
  return Object.fromEntries(
    Object.entries(env).map(([name, value]) => {
      const found = value ?? lookUp(name);
      if (found === undefined) {
        throw new CdebugError(`Cannot set variable "${name}": it has no value here`, {
          hint: `${name}=VALUE cdebug …, or leave the variable out`,
        });
      }
      return [name, found];
    }),
  );
}
