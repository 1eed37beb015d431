/**
 * Runs a plan whose session forwards ports: listens on this machine, runs the sidecars, joins connections, and begins
 * anew, on the same ports, when the target has started again. It decides nothing that the plan could say.
 */

import { type Driver, type Realised, type Running, scriptCommand } from "./driver.ts";
import { CdebugError, NotFound, reason } from "./errors.ts";
import {
  atMost,
  channel,
  type Context,
  type Control,
  type Outcome,
  realiser,
  type SignalName,
  SIGNALS,
} from "./executor.ts";
import { type Exchange, makeExchange } from "./exchange.ts";
import type { Endpoint, Forward, ForwardSession, Plan, Sidecar } from "./plan.ts";
import { formatEndpoint, type Target } from "./target.ts";
import {
  connectSoon,
  connectTo,
  type Duplex,
  fromConn,
  fromProcess,
  join,
  joinDatagrams,
  listen,
  type Listener,
  listenForDatagrams,
  type Traffic,
} from "./tunnel.ts";

/** What a session of forwards needs besides what every session does. */
export interface ForwardContext extends Context {
  /** The plan for the target as it is now. Throws CdebugError where there can be none. */
  readonly replan: (target: Target) => Plan;
}

/** How long a sidecar may take to listen, once it runs. */
const READY_MS = 30_000;
/** How much later than the end of a connection the forwarder may say why. */
const COMPLAINT_MS = 100;
/** What a forwarder says so shortly before its end is why it ends; before that, it is of a connection. */
const LAST_WORDS_MS = 200;
/** A forwarder that ends sooner than this has not worked; and how often that may happen in a row. */
const SHORT_LIFE_MS = 5_000;
const MOST_SHORT_LIVES = 3;
/** How often a target that has stopped is looked for. */
const LOOK_MS = 200;
/** How long sidecars may take to end when their stdin does. */
const PARTING_GRACE_MS = 2_000;
/** How long an engine may take to remove the sidecars. */
const CLEANUP_GRACE_MS = 10_000;

/** Runs the plan until it is ended, and returns how. Throws CdebugError where cdebug itself failed. */
export async function forward(plan: Plan, driver: Driver, context: ForwardContext): Promise<Outcome> {
  const run = new Forwarding(plan, driver, context); // first of all: a signal that comes before it listens is lost
  try {
    await run.begin();
    return await run.attend();
  } finally {
    await run.cleanUp();
  }
}

const TARGET_STOPPED = "the target has stopped";

/** A sidecar that runs. */
interface Started {
  readonly spec: Realised;
  readonly running: Running;
  readonly lifeline: ReturnType<typeof channel>;
}

/** What is there between one start of the target and its end. */
interface Generation {
  readonly plan: Plan;
  readonly session: ForwardSession;
  readonly started: Started[];
  /** Ends what waits for it: connections that begin, the look at the target. */
  readonly over: AbortController;
  /** Why it cannot go on. */
  readonly failed: PromiseWithResolvers<string>;
  readonly exchange: Exchange | undefined;
  readonly listeners: Listener[];
  readonly beganAt: number;
  /** What a forwarder has said last, and when. */
  complaint: { readonly text: string; readonly at: number } | undefined;
}

class Forwarding {
  readonly #plan: Plan;
  readonly #driver: Driver;
  readonly #context: ForwardContext;
  readonly #unsubscribe: () => void;
  readonly #ended = Promise.withResolvers<number>();
  readonly #setup = new AbortController();
  /** Those of this machine, by the number of their forward: they stay when the target starts again. */
  readonly #listeners = new Map<number, Listener & { reset?(): void }>();
  /** Where each forward listens, once that is known. */
  readonly #endpoints = new Map<number, Endpoint>();
  readonly #connections = new Set<{ reset(): void }>();
  #generation: Generation | undefined;
  #count = 0;
  #command: Deno.ChildProcess | undefined;
  /** What an engine has not removed when it was asked to. */
  readonly #unremoved: Started[] = [];
  #begun = false;
  #stopped = false;
  #detached = false;

  constructor(plan: Plan, driver: Driver, context: ForwardContext) {
    this.#plan = plan;
    this.#driver = driver;
    this.#context = context;
    this.#unsubscribe = context.controls((control) => this.#obey(control));
  }

  get #session(): ForwardSession {
    return sessionOf(this.#plan);
  }

  /** Listens, then starts what carries connections, then the command. */
  async begin(): Promise<void> {
    await this.#listenHere();
    try {
      await this.#start(this.#plan);
    } catch (error) {
      if (!this.#setup.signal.aborted) throw error;
      throw new CdebugError("Cancelled before a port was forwarded", {
        exitCode: await this.#ended.promise,
        cause: error,
      });
    }
    this.#begun = true;
    this.#tellReady();
    const [program, ...args] = this.#plan.request.argv;
    if (program !== undefined) this.#runCommand(program, args);
  }

  /** Waits for the end: a signal, the command, or a target that does not come back. */
  async attend(): Promise<Outcome> {
    if (this.#session.detach) {
      this.#detached = true;
      return { kind: "detached", container: this.#generation!.started[0]!.spec.labels["cdebug.session"]! };
    }
    let shortLives = 0;
    for (;;) {
      const generation = this.#generation!;
      const ending = await Promise.race([
        this.#ended.promise.then((code) => ({ code })),
        generation.failed.promise.then((why) => ({ why })),
        this.#driver.ended(generation.plan.target.id, generation.over.signal)
          .then(() => ({ why: TARGET_STOPPED })),
      ]);
      if ("why" in ending && ending.why !== TARGET_STOPPED) {
        shortLives = performance.now() - generation.beganAt < SHORT_LIFE_MS ? shortLives + 1 : 0;
        if (shortLives >= MOST_SHORT_LIVES) {
          throw new CdebugError(
            `Cannot forward to "${generation.plan.target.name}": what forwards ends again and again: ${ending.why}`,
          );
        }
      }
      if ("why" in ending && await this.#restore(ending.why)) continue;
      const code = await this.#ended.promise;
      this.#context.report({ kind: "ended" });
      return { kind: "exit", code };
    }
  }

  async cleanUp(): Promise<void> {
    this.#unsubscribe();
    this.#stopped = true;
    for (const listener of this.#listeners.values()) listener.close();
    if (this.#command !== undefined) {
      const command = this.#command;
      kill(command, "TERM");
      await atMost(PARTING_GRACE_MS, command.status);
      if (this.#command !== undefined) kill(command, "KILL");
    }
    if (this.#detached) return;
    await this.#stop();
    // An engine that was away may be back.
    for (const { spec, running } of this.#unremoved) {
      await this.#driver.remove(running.id).catch((error) =>
        this.#context.report({
          kind: "left",
          what: `container ${spec.name} (${reason(error)})`,
          hint: this.#driver.removeCommand(spec.name),
        })
      );
    }
  }

  #obey(control: Control): void {
    if (control.kind !== "signal") return;
    if (this.#command !== undefined) {
      // A terminal has sent it Ctrl-C, too.
      if (control.name !== "INT" || !Deno.stdin.isTerminal()) kill(this.#command, control.name);
      return;
    }
    if (control.name.startsWith("USR")) return;
    this.#end(this.#begun ? 0 : 128 + SIGNALS[control.name]);
  }

  #end(code: number): void {
    this.#ended.resolve(code);
    this.#setup.abort();
  }

  #runCommand(program: string, args: readonly string[]): void {
    const env = Object.fromEntries(
      [...this.#endpoints].map((
        [number, endpoint],
      ) => [`CDEBUG_FORWARD_${number}`, "path" in endpoint ? endpoint.path : formatEndpoint(endpoint)]),
    );
    try {
      this.#command = new Deno.Command(program, {
        args: [...args],
        env,
        stdin: "inherit",
        stdout: "inherit",
        stderr: "inherit",
      }).spawn();
    } catch (error) {
      const missing = error instanceof Deno.errors.NotFound;
      throw new CdebugError(`Cannot run "${program}": ${missing ? "it is not on PATH" : reason(error)}`, {
        exitCode: missing ? 127 : 126,
        cause: error,
      });
    }
    this.#command.status.then(({ code }) => {
      this.#command = undefined;
      this.#end(code);
    });
  }

  /** The listeners of this machine, for forwards that go through cdebug; for the others, a look whether they could be. */
  async #listenHere(): Promise<void> {
    const { forwards } = this.#session;
    try {
      for (const [number, one] of forwards.entries()) {
        if (one.via === "reverse") continue;
        if (one.via === "direct" || one.via === "chain") {
          // The engine's own words for a port in use do not say whose it is.
          if ("port" in one.listen && one.listen.port > 0 && one.protocol === "tcp") {
            (await listen(one.listen, (connection) => connection.reset())).close();
          }
          continue;
        }
        const listener = one.protocol === "udp"
          ? await this.#listenForDatagrams(number, one)
          : await listen(one.listen, (client, peer) => {
            this.#carry(number, peer, client, () => this.#connect(number));
          });
        this.#listeners.set(number, listener);
        this.#endpoints.set(number, listener.endpoint);
      }
    } catch (error) {
      if (!(error instanceof CdebugError)) throw error;
      throw new CdebugError(error.message.replace(/^Cannot listen/, `Cannot forward: cannot listen`), {
        ...error.hint !== undefined && { hint: error.hint },
        cause: error,
      });
    }
  }

  async #listenForDatagrams(number: number, { listen }: Forward) {
    const numbers = new Map<string, number>();
    return await listenForDatagrams(listen as { host: string; port: number }, () => this.#connect(number), {
      opened: (peer) => {
        const connection = ++this.#count;
        numbers.set(peer, connection);
        this.#context.report({ kind: "opened", forward: number, connection, peer });
      },
      closed: (peer, traffic, error) => {
        const connection = numbers.get(peer)!;
        numbers.delete(peer);
        this.#tellClosed(number, connection, peer, traffic, error);
      },
    });
  }

  #tellReady(): void {
    for (const number of this.#session.forwards.keys()) {
      this.#context.report({ kind: "ready", forward: number, listen: this.#endpoints.get(number)! });
    }
  }

  async #tellClosed(
    forward: number,
    connection: number,
    peer: string,
    traffic: Traffic,
    error: unknown,
  ): Promise<void> {
    // What cdebug itself has ended has not broken.
    let why = error === undefined || this.#stopped ? undefined : reason(error);
    const generation = this.#generation;
    if (why !== undefined && generation !== undefined) {
      // The forwarder's own word of it comes a moment later than the end.
      const now = performance.now();
      await new Promise((resolve) => setTimeout(resolve, COMPLAINT_MS));
      const { complaint } = generation;
      if (complaint && complaint.text !== "" && complaint.at > now - COMPLAINT_MS) why = complaint.text;
    }
    this.#context.report({
      kind: "closed",
      forward,
      connection,
      peer,
      ...traffic,
      ...why !== undefined && { error: why },
    });
  }

  /** The sidecar's side of a new connection of a forward. */
  async #connect(number: number): Promise<Duplex> {
    const generation = this.#generation;
    if (generation === undefined || generation.over.signal.aborted) {
      throw new Error("the target is not there");
    }
    const one = generation.session.forwards[number]!;
    if (one.exec) return await this.#joinProcess(generation, one, one.exec);
    return await connectSoon(generation.exchange!.path(one.socket!), generation.over.signal);
  }

  async #joinProcess(generation: Generation, { sidecar }: Forward, args: readonly string[]): Promise<Duplex> {
    const { spec, running } = generation.started.find(({ spec }) => spec.sidecar.name === sidecar)!;
    return await fromProcess((streams) =>
      this.#driver.exec(running.id, scriptCommand(spec.sidecar, args), streams)
    );
  }

  /** Carries one connection to its end; what goes wrong with it never ends the forward. */
  async #carry(
    number: number,
    peer: string,
    client: Duplex,
    connect: () => Promise<Duplex>,
    carry: (client: Duplex, server: Duplex, traffic: Traffic) => Promise<void> = join,
  ): Promise<void> {
    const connection = ++this.#count;
    const traffic: Traffic = { sent: 0, received: 0 };
    this.#connections.add(client);
    this.#context.report({ kind: "opened", forward: number, connection, peer });
    let failure: unknown;
    try {
      const server = await connect();
      this.#connections.add(server);
      try {
        await carry(client, server, traffic);
      } finally {
        this.#connections.delete(server);
        server.close();
      }
    } catch (error) {
      failure = error;
      client.reset();
    }
    this.#connections.delete(client);
    this.#tellClosed(number, connection, peer, traffic, failure);
  }

  /** Runs a plan's sidecars, and waits until all of them listen. */
  async #start(plan: Plan): Promise<void> {
    const session = sessionOf(plan);
    const { realise } = await realiser(plan, this.#context);
    const wantsExchange = plan.sidecars.some(({ exchange }) => exchange !== undefined);
    const exchange = wantsExchange ? await makeExchange(this.#context.owner) : undefined;
    const generation: Generation = this.#generation = {
      plan,
      session,
      started: [],
      over: new AbortController(),
      failed: Promise.withResolvers(),
      exchange,
      listeners: [],
      beganAt: performance.now(),
      complaint: undefined,
    };
    for (const [number, one] of session.forwards.entries()) {
      if (one.via === "reverse") {
        this.#endpoints.set(number, one.listen);
        if (one.socket) generation.listeners.push(await this.#listenInExchange(generation, number, one));
      }
    }
    for (const sidecar of plan.sidecars) {
      await this.#startSidecar(generation, realise(this.#pinned(sidecar, session)));
    }
    for (const [number, one] of session.forwards.entries()) {
      if (one.via !== "direct" && one.via !== "chain") continue;
      this.#endpoints.set(number, await this.#publishedEndpoint(generation, one));
    }
  }

  /** The sidecar with the ports that were got before, and the directory that it shares with this machine. */
  #pinned(sidecar: Sidecar, { forwards }: ForwardSession): Sidecar {
    const { exchange } = this.#generation!;
    const numbers = [...forwards.keys()].filter((number) =>
      forwards[number]!.via === (sidecar.privateNetwork ? "chain" : "direct")
    );
    return {
      ...sidecar,
      ...sidecar.publish && {
        publish: sidecar.publish.map((publish, index) => {
          const known = this.#endpoints.get(numbers[index]!);
          return known && "port" in known ? { ...publish, port: known.port } : publish;
        }),
      },
      ...sidecar.exchange !== undefined && {
        mounts: [
          ...sidecar.mounts ?? [],
          { source: exchange!.directory, destination: sidecar.exchange, readOnly: false },
        ],
      },
    };
  }

  async #startSidecar(generation: Generation, spec: Realised): Promise<void> {
    const { sidecar } = spec;
    const idOf = (name: string | undefined) =>
      generation.started.find(({ spec }) => spec.sidecar.name === name)?.running.id;
    const volumesFrom = idOf(sidecar.volumesFrom);
    const lifeline = channel();
    const ready = Promise.withResolvers<void>();
    let complaint = "";
    const lines = byLine((line) => {
      if (line === "ready") ready.resolve();
      const [, number, name] = /^connection (\d+) (\S+)$/.exec(line) ?? [];
      if (name !== undefined) this.#acceptAnnounced(generation, Number(number) - 1, name);
    });
    this.#setup.signal.throwIfAborted();
    const running = await this.#driver.run(
      { ...spec, ...volumesFrom !== undefined && { volumesFrom } },
      spec.detached ? {} : {
        ...sidecar.stdin === "lifeline" && { stdin: lifeline.stream },
        stdout: lines,
        stderr: (chunk) => {
          const text = new TextDecoder().decode(chunk);
          complaint = (complaint + text).slice(-2000);
          generation.complaint = { text: complaintOf(text), at: performance.now() };
          // Of connections that cdebug carries, their own end is told.
          if (sidecar.publish && generation.complaint.text !== "") {
            this.#context.report({
              kind: "complained",
              sidecar: sidecar.name,
              text: generation.complaint.text,
            });
          }
          return Promise.resolve();
        },
      },
      this.#setup.signal,
      this.#context.report,
    );
    generation.started.push({ spec, running, lifeline });
    if (spec.detached) return;
    const told = () => complaintOf(complaint);
    const cannot = (why: string) =>
      new CdebugError(`Cannot forward to "${generation.plan.target.name}": ${why}`, {
        hint: hintFor(complaint, sidecar),
      });
    running.exit.then(
      (code) => {
        ready.reject(cannot(told() || `the ${sidecar.name} has ended with exit code ${code}`));
        const { complaint: last } = generation;
        const fresh = last !== undefined && last.at > performance.now() - LAST_WORDS_MS;
        generation.failed.resolve(fresh && last.text !== "" ? last.text : `the ${sidecar.name} has ended`);
      },
      (error) => {
        ready.reject(error);
        generation.failed.resolve(reason(error));
      },
    );
    let timer: ReturnType<typeof setTimeout>;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(cannot(told() || `the ${sidecar.name} does not listen`)), READY_MS);
    });
    const aborted = new Promise<never>((_, reject) =>
      this.#setup.signal.addEventListener("abort", () => reject(this.#setup.signal.reason))
    );
    aborted.catch(() => {});
    try {
      await Promise.race([ready.promise, late, aborted]);
    } finally {
      clearTimeout(timer!);
      ready.promise.catch(() => {});
    }
  }

  /** A UNIX socket on which the sidecar brings the connections that it takes in the target. */
  async #listenInExchange(generation: Generation, number: number, one: Forward): Promise<Listener> {
    const path = generation.exchange!.path(one.socket!);
    const listener = Deno.listen({ transport: "unix", path });
    await Deno.chmod(path, 0o666); // the directory around it is its user's alone; the sidecar is another one, mostly
    (async () => {
      try {
        for await (const conn of listener) this.#acceptReverse(number, one, fromConn(conn));
      } catch {
        // It has been closed.
      }
    })();
    return { endpoint: { path }, close: () => listener.close() };
  }

  #acceptReverse(number: number, one: Forward, client: Duplex): void {
    const { connect, protocol } = one;
    if (protocol === "udp") {
      this.#carry(
        number,
        "",
        client,
        () => Promise.resolve(client),
        (stream, _, traffic) => joinDatagrams(stream, connect as { host: string; port: number }, traffic),
      );
    } else this.#carry(number, "", client, () => connectTo(connect));
  }

  async #acceptAnnounced(generation: Generation, number: number, name: string): Promise<void> {
    const one = generation.session.forwards[number];
    if (one?.exec === undefined) return;
    try {
      this.#acceptReverse(number, one, await this.#joinProcess(generation, one, [...one.exec, name]));
    } catch {
      // The sidecar is going; what it announced goes with it.
    }
  }

  async #publishedEndpoint(generation: Generation, one: Forward): Promise<Endpoint> {
    const { listen, via } = one;
    const name = via === "chain"
      ? ({ privateNetwork }: Sidecar) => privateNetwork
      : (sidecar: Sidecar) => sidecar.name === one.sidecar;
    const { spec, running } = generation.started.find(({ spec }) => name(spec.sidecar))!;
    const same = generation.session.forwards.filter((other) => other.via === via);
    const to = spec.sidecar.publish![same.indexOf(one)]!.to;
    const found = (await this.#driver.published(running.id))
      .find((published) => published.to === to && published.protocol === one.protocol);
    if (found === undefined || !("host" in listen)) {
      throw new CdebugError(`Cannot forward "${one.as}": the engine has published no port for it`);
    }
    return { host: listen.host, port: found.port };
  }

  /** Ends a generation: breaks its connections, removes its sidecars. */
  async #stop(): Promise<void> {
    const generation = this.#generation;
    if (generation === undefined) return;
    this.#generation = undefined;
    generation.over.abort();
    for (const listener of generation.listeners) listener.close();
    for (const connection of this.#connections) connection.reset();
    for (const { reset } of this.#listeners.values()) reset?.();
    // In order, so that no socket is left in the target.
    for (const { lifeline } of generation.started) lifeline.close();
    const ending = generation.started.filter(({ spec }) => !spec.detached).map(({ running }) => running.exit);
    await atMost(PARTING_GRACE_MS, Promise.allSettled(ending));
    // What shares another's volumes is removed before it.
    for (const started of generation.started.toReversed()) {
      await this.#driver.remove(started.running.id).catch(() => this.#unremoved.push(started));
      if (!started.spec.detached) await atMost(CLEANUP_GRACE_MS, started.running.exit);
    }
    await generation.exchange?.[Symbol.asyncDispose]();
  }

  /**
   * Waits until the target runs again, and begins anew; false if the user ends it meanwhile. Throws CdebugError if
   * the target does not run in time.
   */
  async #restore(why: string): Promise<boolean> {
    const { target } = this.#generation!.plan;
    this.#context.report({ kind: "lost", target: target.name, why });
    await this.#stop();
    const { runningTimeoutSeconds } = this.#session;
    const end = performance.now() + runningTimeoutSeconds * 1000;
    let failure: unknown;
    const { signal } = this.#setup;
    let tries = 0;
    while (performance.now() < end && !signal.aborted) {
      if (tries++ > 0) await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
      try {
        const now = await this.#driver.inspect(target.name);
        if (now.state === "running") {
          await this.#start(this.#context.replan(now));
          this.#context.report({
            kind: "restored",
            target: now.name,
            recreated: now.id !== target.id,
          });
          this.#tellReady();
          return true;
        }
        failure = new CdebugError(`Cannot find target "${target.name}": it is not running`);
      } catch (error) {
        failure = error;
        await this.#stop();
      }
    }
    if (signal.aborted) return false;
    throw new CdebugError(
      `Cannot forward to "${target.name}" any more: it did not run again within ${runningTimeoutSeconds} s${
        failure instanceof NotFound || failure === undefined ? "" : ` (${reason(failure)})`
      }`,
      { hint: "--running-timeout 5m  waits longer", cause: failure },
    );
  }
}

function sessionOf({ session }: Plan): ForwardSession {
  if (session.kind !== "forward") throw new Error("the session is not one of port-forward");
  return session;
}

function kill(child: Deno.ChildProcess, name: SignalName | "KILL"): void {
  try {
    child.kill(`SIG${name}`);
  } catch {
    // It has ended.
  }
}

/** Calls back for each whole line. */
function byLine(told: (line: string) => void): (chunk: Uint8Array) => Promise<void> {
  let rest = "";
  return (chunk) => {
    const lines = (rest + new TextDecoder().decode(chunk)).split("\n");
    rest = lines.pop()!;
    for (const line of lines) told(line.trim());
    return Promise.resolve();
  };
}

/** What a forwarder has said last, without what socat puts before it: the time, its name, its PID. */
function complaintOf(text: string): string {
  const lines = text.trim().split("\n").map((line) =>
    line.replace(/^\S+ \S+ socat\[\d+\] \w /, "").replace(/^cdebug: /, "")
      .replace(/^connect\(\d*,? ?AF=\d+ "?([^",]*)"?, \d+\)/, "$1")
      .replace(/^getaddrinfo\("([^"]*)".*\}\)/, "$1")
      .replace(/^(read|write)\(\d+, 0x[0-9a-f]+, \d+\)/, "$1")
      .trim()
  );
  return lines.filter(Boolean).slice(-2).join("; ");
}

function hintFor(complaint: string, { image }: Sidecar): string {
  if (/no socat/.test(complaint)) {
    return image === "host"
      ? "install socat (Debian, Ubuntu: apt-get install socat)"
      : "--forwarder-image IMAGE, one with sh and socat";
  }
  if (/in use/.test(complaint)) return "another REMOTE_PORT";
  return "cdebug doctor  says what the engine can do";
}
