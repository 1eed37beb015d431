/** Runs a plan of forwards for a person, or prints its events for a program. */

import type { Driver } from "../driver.ts";
import { printable } from "../errors.ts";
import { type Event, SIGNALS } from "../executor.ts";
import { forward } from "../forwarding.ts";
import { record } from "../history.ts";
import { ownIdentity } from "../owner.ts";
import type { Endpoint, ForwardSession, Plan } from "../plan.ts";
import { formatEndpoint, formatRef } from "../target.ts";
import { listen, newControls, newPrinter, print, type RunOptions, say, writeStdout } from "./session.ts";

/** Runs the plan and returns cdebug's exit code. Throws CdebugError where cdebug itself failed. */
export async function runForwards(
  plan: Plan,
  session: ForwardSession,
  driver: Driver,
  options: RunOptions,
): Promise<number> {
  const { controls, tell } = newControls();
  const printer = newPrinter(options.quiet);
  const containers: string[] = [];
  let told = Promise.resolve();
  let unread: unknown;
  // Whoever was to read the events has gone, or cannot: the forwards end with them.
  const giveUp = (error: unknown) => {
    unread ??= error;
    tell({ kind: "signal", name: "TERM" });
  };
  const printLine = (line: unknown) => writeStdout(new TextEncoder().encode(`${JSON.stringify(line)}\n`));
  const report = (event: Event) => {
    printer.print(event);
    if (options.json) {
      const line = recordOf(event, plan, session);
      if (line) told = told.then(() => unread === undefined ? printLine(line) : undefined).catch(giveUp);
    }
    const text = sentenceOf(event, plan, session, options.verbose);
    if (text !== undefined && !options.quiet && !options.json) say(text);
  };
  options.remark?.then((text) => {
    if (text !== undefined) printer.note(text);
  });

  const left = Promise.withResolvers<number>();
  const stopListening = listen((name, count) => {
    // A command of the user's is told each time.
    if (name === "INT" && count > 1 && plan.request.argv.length === 0) {
      printer.tellLeft(containers, driver);
      left.resolve(128 + SIGNALS.INT);
    } else tell({ kind: "signal", name });
  }, undefined);
  const owner = ownIdentity();
  const recording = record(plan, owner);
  try {
    const running = forward(plan, driver, {
      controls,
      env: (name) => Deno.env.get(name),
      report: (event) => {
        if (event.kind === "started") containers.push(event.container);
        report(event);
      },
      owner,
      replan: options.replan,
    });
    const outcome = await Promise.race([
      running,
      left.promise.then((code) => ({ kind: "exit", code } as const)),
    ]);
    await told;
    if (unread !== undefined && !(unread instanceof Deno.errors.BrokenPipe)) throw unread;
    await recording.end(outcome.kind === "exit" ? outcome : { kind: "detached" });
    if (unread !== undefined) return 128 + 13;
    if (outcome.kind === "exit") return outcome.code;
    const { container: id } = outcome;
    const time = new Date().toISOString();
    try {
      await print(`${options.json ? JSON.stringify({ time, event: "detached", session: id }) : id}\n`);
    } catch (error) {
      printer.warn(`The session is ${id}; cdebug prune ${id}  ends it`);
      throw error;
    }
    return 0;
  } catch (error) {
    await recording.fail(error);
    throw error;
  } finally {
    stopListening();
  }
}

/** The address that goes without saying left out. */
function showShort(endpoint: Endpoint): string {
  return "host" in endpoint && endpoint.host === "127.0.0.1"
    ? String(endpoint.port)
    : formatEndpoint(endpoint);
}

/** What people read of an event, or nothing. */
function sentenceOf(
  event: Event,
  { target }: Plan,
  { forwards }: ForwardSession,
  verbose: boolean,
): string | undefined {
  switch (event.kind) {
    case "ready": {
      const { via, connect, protocol } = forwards[event.forward]!;
      const suffix = protocol === "udp" ? "/udp" : "";
      return via === "reverse"
        ? `Forwarding ${formatEndpoint(event.listen)}${suffix} (${formatRef(target)}) → ${
          formatEndpoint(connect)
        }`
        : `Forwarding ${formatEndpoint(event.listen)}${suffix} → ${showShort(connect)} (${
          formatRef(target)
        })`;
    }
    case "opened":
      return verbose
        ? `Connection ${event.connection} opened${event.peer && ` from ${event.peer}`}: ${
          forwards[event.forward]!.as
        }`
        : undefined;
    case "closed":
      if (verbose) {
        return `Connection ${event.connection} closed: ${event.sent} bytes sent, ${event.received} received${
          event.error ? `; it broke: ${event.error}` : ""
        }`;
      }
      return event.error && event.received === 0
        ? `Cannot carry a connection of ${forwards[event.forward]!.as}: ${event.error}`
        : undefined;
    case "complained":
      return `The ${event.sidecar} says: ${event.text}`;
    case "lost":
      return `Lost "${event.target}": ${event.why}; waiting for it to run again`;
    case "restored":
      return event.recreated
        ? `"${event.target}" is another one now, of the same name`
        : `"${event.target}" runs again`;
    default: // told by the printer of all sessions, or not at all
      return undefined;
  }
}

/** What programs read of an event, or nothing: names that stay. */
function recordOf(event: Event, { target }: Plan, { forwards }: ForwardSession): unknown {
  const time = new Date().toISOString();
  switch (event.kind) {
    case "ready": {
      const { as, via, protocol, connect } = forwards[event.forward]!;
      const { kind, forward, listen } = event;
      return {
        time,
        event: kind,
        forward,
        as,
        via,
        protocol,
        listen: formatEndpoint(listen),
        connect: formatEndpoint(connect),
        target: target.name,
      };
    }
    case "opened":
    case "closed": {
      const { kind, ...fields } = event;
      return { time, event: kind, ...fields };
    }
    case "complained":
    case "lost":
    case "restored":
    case "ended": {
      const { kind, ...fields } = event;
      return { time, event: kind, ...fields };
    }
    case "left":
      return { time, event: event.kind, what: printable(event.what) };
    default:
      return undefined;
  }
}
