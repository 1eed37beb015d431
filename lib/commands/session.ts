/** Runs a plan for a person: joins it to the streams, the terminal and the signals of this process. */

import type { Driver, Streams } from "../driver.ts";
import { Cancelled, CdebugError, EXIT, printable, reason } from "../errors.ts";
import { type Context, type Control, type Event, execute, type SignalName, SIGNALS } from "../executor.ts";
import { record } from "../history.ts";
import { ownIdentity } from "../owner.ts";
import type { Plan } from "../plan.ts";
import type { Target } from "../target.ts";
import { detachKeys, rawMode, terminalSize } from "../terminal.ts";

export interface RunOptions {
  readonly quiet: boolean;
  readonly remark?: Promise<string | undefined>;
  /** The plan for the target as it is after a restart. */
  readonly replan: (target: Target) => Plan;
  /** What happens to forwards is printed for programs. */
  readonly json: boolean;
  /** Each connection of a forward is told of. */
  readonly verbose: boolean;
}

/**
 * Runs the plan and returns cdebug's exit code. Throws CdebugError where cdebug itself failed. A remark is printed
 * when it comes: never into a session's output, but before it or after.
 */
export async function runPlan(plan: Plan, driver: Driver, options: RunOptions): Promise<number> {
  const { session } = plan;
  if (session.kind === "forward") {
    const { runForwards } = await import("./forwards.ts");
    return await runForwards(plan, session, driver, options);
  }
  if (session.kind === "export") {
    const { runExport } = await import("./exports.ts");
    return await runExport(plan, driver, options);
  }
  const sidecar = plan.sidecars.find(({ name }) => name === session.attach)!;
  const { detach } = session;
  const interactive = sidecar.stdin === "open" && !detach;
  const typed = sidecar.tty && interactive;
  const inherits = sidecar.tty && !detach && driver.capabilities.terminal === "inherited";
  if (typed && !Deno.stdin.isTerminal()) {
    throw new CdebugError("Cannot give the command a terminal: stdin is not one", {
      hint: "run it in a terminal, or without -t",
    });
  }

  const { controls, tell } = newControls();
  const containers: string[] = [];
  const printer = newPrinter(options.quiet);
  let restoreTerminal = () => {};
  let remark: string | undefined;
  const printRemark = () => {
    if (remark !== undefined) printer.note(remark);
    remark = undefined;
  };
  options.remark?.then((text) => {
    remark = text;
    if (containers.length === 0) printRemark();
  });
  const report = (event: Event) => {
    // Not before: until then Ctrl-C cancels.
    if (event.kind === "started") {
      containers.push(event.container);
      if (typed && !inherits) restoreTerminal = rawMode();
    }
    if (event.kind !== "started" && event.kind !== "pull-progress") restoreTerminal();
    printer.print(event);
  };

  const input = () => {
    const stdin = readStdin((error) => printer.warn(`Cannot read stdin: ${reason(error)}`));
    return typed ? stdin.pipeThrough(detachKeys(() => tell({ kind: "detach" }))) : stdin;
  };
  const streams: Streams = detach ? {} : inherits ? { inherit: true } : {
    ...interactive && { stdin: input() },
    stdout: writeTo(Deno.stdout),
    stderr: writeTo(Deno.stderr),
    ...sidecar.tty && { size: terminalSize() },
  };

  const left = Promise.withResolvers<number>();
  const stopListening = listen((name, count) => {
    if (name === "INT" && count > 1) {
      restoreTerminal();
      printer.tellLeft(containers, driver);
      left.resolve(128 + SIGNALS.INT);
    } else tell({ kind: "signal", name });
  }, sidecar.tty && !detach ? () => tell({ kind: "resize", size: terminalSize() }) : undefined);

  const owner = ownIdentity();
  const recording = record(plan, owner);
  try {
    const running = execute(plan, driver, {
      streams,
      controls,
      env: (name) => Deno.env.get(name),
      report,
      owner,
    });
    const outcome = await Promise.race([running, left.promise]);
    if (typeof outcome === "number") {
      await recording.end({ kind: "exit", code: outcome });
      return outcome;
    }
    restoreTerminal();
    await recording.end(outcome);
    if (outcome.kind === "detached") {
      if (detach) await print(outcome.container + "\n");
      else printer.note(`Detached; ${plan.target.engine} attach ${outcome.container} goes back`);
      return 0;
    }
    return outcome.code;
  } catch (error) {
    await recording.fail(error);
    throw error;
  } finally {
    restoreTerminal();
    printRemark();
    stopListening();
  }
}

/** What the user does, for those who run a session: `tell` tells all that listen through `controls`. */
export function newControls(): {
  readonly controls: Context["controls"];
  tell(control: Control): void;
} {
  const listeners = new Set<(control: Control) => void>();
  return {
    controls(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    tell: (control) => listeners.forEach((listener) => listener(control)),
  };
}

/** Calls back for each signal of the user's, with how many of its name have come. */
export function listen(
  signalled: (name: SignalName, count: number) => void,
  resized: (() => void) | undefined,
): () => void {
  const counts: Partial<Record<SignalName, number>> = {};
  const handlers = (Object.keys(SIGNALS) as SignalName[]).map((name) => {
    const handler = () => signalled(name, counts[name] = (counts[name] ?? 0) + 1);
    return [`SIG${name}`, handler] as [Deno.Signal, () => void];
  });
  if (resized) handlers.push(["SIGWINCH", resized]);
  for (const [signal, handler] of handlers) Deno.addSignalListener(signal, handler);
  return () => {
    for (const [signal, handler] of handlers) Deno.removeSignalListener(signal, handler);
  };
}

/** Prints results on stdout. A reader that has gone away is no error. */
export async function print(text: string): Promise<void> {
  try {
    await writeStdout(new TextEncoder().encode(text));
  } catch (error) {
    if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
  }
}

/** Writes to stdout. Throws BrokenPipe where nobody reads any more, CdebugError where it fails otherwise. */
export async function writeStdout(chunk: Uint8Array): Promise<void> {
  try {
    await writeTo(Deno.stdout)(chunk);
  } catch (error) {
    if (error instanceof Deno.errors.BrokenPipe) throw error;
    throw new CdebugError(`Cannot write to stdout: ${reason(error)}`, { cause: error });
  }
}

/** This process's input; what cannot be read, a directory for one, is told and ends it. */
function readStdin(failed: (error: unknown) => void): ReadableStream<Uint8Array> {
  const reader = Deno.stdin.readable.getReader();
  let cancelled = false;
  return new ReadableStream({
    async pull(controller) {
      try {
        const { value, done } = await reader.read();
        if (cancelled) return;
        if (done) controller.close();
        else controller.enqueue(value);
      } catch (error) {
        failed(error);
        controller.close();
      }
    },
    cancel(why) {
      cancelled = true;
      return reader.cancel(why);
    },
  }, { highWaterMark: 0 });
}

/** Writes all of each chunk to a file. */
export function writeTo(
  file: { write(chunk: Uint8Array): Promise<number> },
): (chunk: Uint8Array) => Promise<void> {
  return async (chunk) => {
    for (let done = 0; done < chunk.length;) done += await file.write(chunk.subarray(done));
  };
}

/** What people read about a session: on stderr, progress on a terminal only. */
export function newPrinter(quiet: boolean) {
  const terminal = Deno.stderr.isTerminal();
  const layers = new Map<string, string>();
  const write = (text: string) => {
    try {
      Deno.stderr.writeSync(new TextEncoder().encode(text));
    } catch {
      // Nobody reads any more.
    }
  };
  const note = (text: string) => {
    if (!quiet) write(`cdebug: ${printable(text)}\n`);
  };
  let image = "";
  return {
    note,
    /** What may stay behind when cdebug leaves at once. */
    tellLeft(containers: readonly string[], driver: Driver): void {
      for (const container of containers) {
        this.print({
          kind: "left",
          what: `container ${container}, perhaps`,
          hint: driver.removeCommand(container),
        });
      }
    },
    /** What is said even to those who want quiet. */
    warn: (text: string) => write(`cdebug: ${printable(text)}\n`),
    print(event: Event): void {
      switch (event.kind) {
        case "pulling":
          image = event.image;
          break;
        case "pull-progress": {
          if (quiet || !terminal) break;
          layers.set(event.layer, event.status);
          const done = [...layers.values()].filter((status) => /complete|exists/i.test(status)).length;
          const line = printable(`Pulling ${image}: ${event.status} (${done}/${layers.size})`);
          write(`\r\x1b[K${line.slice(0, terminalSize().columns - 1)}`);
          break;
        }
        case "pulled":
          if (!quiet && terminal) write("\r\x1b[K");
          break;
        case "started":
          break;
        case "target-stopped":
          note(`Target "${event.target}" has stopped, and the session with it`);
          break;
        case "left":
          write(`cdebug: Left behind: ${printable(event.what)}\n`);
          if (event.hint) write(`Hint: ${event.hint}\n`);
          break;
        case "ready":
        case "opened":
        case "closed":
        case "complained":
        case "lost":
        case "restored":
        case "ended":
        case "layer":
        case "export-progress":
        case "left-out":
        case "unreadable":
        case "omitted":
        case "exported":
          break; // forwards and exports are told of by who runs them
        default:
          event satisfies never;
      }
    },
  };
}

/** Tells people something on stderr. */
export function note(text: string): void {
  say(`cdebug: ${text}`);
}

/** Prints a line for people, on stderr. */
export function say(line: string): void {
  Deno.stderr.writeSync(new TextEncoder().encode(`${printable(line)}\n`));
}

/** Tells of a failure on stderr, and gives its exit code. The stack trace is shown with `debug` only. */
export function tellFailure(error: unknown, debug: boolean): number {
  if (error instanceof Cancelled) return error.exitCode;
  if (error instanceof Deno.errors.BrokenPipe && !debug) return 128 + 13; // nobody reads any more
  const known = error instanceof CdebugError;
  const lines = [`cdebug: ${known ? error.message : `Internal error: ${reason(error)}`}`];
  if (known && error.hint) lines.push(`Hint: ${error.hint}`);
  if (!known && !debug) lines.push("Hint: the same command with --debug shows where");
  if (debug && error instanceof Error) {
    for (let at: unknown = error; at instanceof Error; at = at.cause) lines.push(at.stack ?? at.message);
  }
  try {
    Deno.stderr.writeSync(new TextEncoder().encode(printable(lines.join("\n")) + "\n"));
  } catch {
    // Nobody reads any more; the exit code still tells.
  }
  return known ? error.exitCode : EXIT.failure;
}
