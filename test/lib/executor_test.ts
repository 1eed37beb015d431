import { assert, assertEquals, assertRejects } from "../assert.ts";
import { type FakeEngine, fakeSidecar, fakeTarget, openFake } from "../fake_driver.ts";
import { temporaryDirectory } from "../temporary.ts";
import type { Driver, Streams } from "../../lib/driver.ts";
import { CdebugError } from "../../lib/errors.ts";
import { type Control, type Event, execute, type Outcome } from "../../lib/executor.ts";
import type { ExecSession, Plan, Sidecar } from "../../lib/plan.ts";

function planOf(sidecar: Partial<Sidecar>, session: Partial<ExecSession> = {}): Plan {
  return {
    version: 1,
    request: { command: "exec", target: "web", argv: ["true"], image: "busybox:musl" },
    target: fakeTarget(),
    sidecars: [fakeSidecar(sidecar)],
    session: { kind: "exec", attach: "debugger", detach: false, ...session },
    leaves: [],
  };
}

/** One run of a plan on a fake engine, with what it has printed and reported. */
function begin(
  plan: Plan,
  options: { driver?: Driver; env?: Record<string, string>; streams?: Streams } = {},
) {
  const engine = openFake();
  const output = { stdout: "", stderr: "" };
  const events: Event[] = [];
  const listeners = new Set<(control: Control) => void>();
  const take = (name: "stdout" | "stderr") => (chunk: Uint8Array) => {
    output[name] += new TextDecoder().decode(chunk);
    return Promise.resolve();
  };
  const outcome: Promise<Outcome> = execute(plan, options.driver ?? engine, {
    streams: { stdout: take("stdout"), stderr: take("stderr"), ...options.streams },
    controls(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    env: (name) => options.env?.[name],
    report: (event) => events.push(event),
    owner: "the test",
  });
  return {
    engine,
    output,
    events,
    outcome,
    listeners,
    tell: (control: Control) => listeners.forEach((listener) => listener(control)),
    /** Resolves when the command has printed `text`. */
    async printed(text: string) {
      while (!output.stdout.includes(text)) await new Promise((resolve) => setTimeout(resolve, 5));
    },
  };
}

/** A fake engine with some of its answers exchanged. */
function altered(engine: FakeEngine, changes: Partial<Driver>): Driver {
  return { ...engine, ...changes };
}

Deno.test("execute() gives the exit code and all output", async () => {
  const run = begin(planOf({ script: 'echo "$1"; echo err >&2; exit 7', args: ["a  b"] }));
  assertEquals(await run.outcome, { kind: "exit", code: 7 });
  assertEquals(run.output, { stdout: "a  b\n", stderr: "err\n" });
  assertEquals([run.engine.containers(), run.listeners.size], [[], 0]);
});

Deno.test("execute() makes every session its own name and labels", async () => {
  const plan = planOf({ script: 'echo "$CDEBUG_SESSION"' });
  const [one, two] = [begin(plan), begin(plan)];
  await Promise.all([one.outcome, two.outcome]);
  const session = one.output.stdout.trim();
  assert(/^[0-9a-f]{8}$/.test(session), session);
  assert(session !== two.output.stdout.trim());
  const [spec] = one.engine.specs;
  assertEquals(spec!.name, `cdebug-${session}`);
  const { "cdebug.plan": digest, ...labels } = spec!.labels;
  assert(/^[0-9a-f]{12}$/.test(digest!), digest);
  assertEquals(labels, {
    "cdebug.session": session,
    "cdebug.role": "debugger",
    "cdebug.target": plan.target.id,
    "cdebug.command": "true",
    "cdebug.owner": "the test",
  });
});

Deno.test("execute() says of a detached session that it has no owner", async () => {
  const run = begin(planOf({ script: "true" }, { detach: true }));
  await run.outcome;
  const { labels } = run.engine.specs[0]!;
  assertEquals([labels["cdebug.detached"], labels["cdebug.owner"]], ["true", undefined]);
  while (run.engine.containers().length > 0) await new Promise((resolve) => setTimeout(resolve, 10));
});

Deno.test("execute() does the same when the reasons are removed", async () => {
  const plan = planOf({ script: "exit 4" });
  const bare = { ...plan, sidecars: plan.sidecars.map((sidecar) => ({ ...sidecar, reason: "" })) };
  const [one, two] = [begin(plan), begin(bare)];
  assertEquals(await one.outcome, await two.outcome);
  assertEquals(one.engine.journal, two.engine.journal);
});

Deno.test("execute() takes values that the plan leaves out from the surroundings", async () => {
  const plan = planOf({ script: 'echo "$A $B"', env: { A: null, B: "kept" } });
  const run = begin(plan, { env: { A: "from here" } });
  await run.outcome;
  assertEquals(run.output.stdout, "from here kept\n");
  const without = begin(plan);
  await assertRejects(() => without.outcome, CdebugError, 'Cannot set variable "A"');
  assertEquals(without.engine.journal, []);
});

Deno.test("execute() keeps environment values out of the plan's digest", async () => {
  const runs = ["one", "two"].map((A) => begin(planOf({ env: { A } })));
  await Promise.all(runs.map((run) => run.outcome));
  const [one, two] = runs.map((run) => run.engine.specs[0]!.labels["cdebug.plan"]);
  assertEquals(one, two);
});

/** A script whose command tells of signals, and that takes the modes `signal` and `hangup` as enter.sh does. */
const SIGNALLED = `case $1 in
  signal) kill -s "$2" "$(cat "$DIR/pid")" ;;
  hangup) cat; kill -s HUP "$(cat "$DIR/pid")" ;;
  *)
    trap 'echo TERM; exit 9' TERM
    trap 'echo USR1' USR1
    trap 'echo HUP; exit 8' HUP
    echo $$ >"$DIR/pid"
    echo up
    while :; do sleep 0.02; done
    ;;
esac`;

Deno.test("execute() passes signals on to the command, whose exit code counts", async () => {
  await using dir = await temporaryDirectory();
  const run = begin(
    planOf({ script: SIGNALLED, args: ["session"], signal: ["signal"], env: { DIR: dir.path } }),
  );
  await run.printed("up");
  run.tell({ kind: "signal", name: "USR1" });
  await run.printed("USR1");
  run.tell({ kind: "signal", name: "TERM" });
  assertEquals(await run.outcome, { kind: "exit", code: 9 });
  assertEquals(run.output.stdout, "up\nUSR1\nTERM\n");
});

Deno.test("execute() loses no signal, not even one that comes before anything is started", async () => {
  const run = begin(planOf({}));
  run.tell({ kind: "signal", name: "INT" });
  const error = await assertRejects(() => run.outcome, CdebugError, "Cancelled");
  assertEquals(error.exitCode, 130);
  assertEquals([run.engine.journal, run.listeners.size], [[], 0]);
});

Deno.test("execute() hangs up on a signal where the plan names no way to pass it on", async () => {
  await using dir = await temporaryDirectory();
  const run = begin(
    planOf({ script: SIGNALLED, args: ["session"], hangup: ["hangup"], env: { DIR: dir.path } }),
  );
  await run.printed("up");
  run.tell({ kind: "signal", name: "TERM" });
  assertEquals(await run.outcome, { kind: "exit", code: 143 });
  assertEquals(run.output.stdout, "up\nHUP\n");
  assertEquals(run.engine.containers(), []);
});

Deno.test("execute() does not wait for a hang-up that a session which has ended does not need", async () => {
  const engine = openFake();
  const released = Promise.withResolvers<void>();
  const exec: Driver["exec"] = () =>
    Promise.resolve({
      id: "1",
      exit: new Promise(() => {}), // some engines never tell of a process whose container has ended
      resize: () => Promise.resolve(),
      release: released.resolve,
    });
  const script = "sleep 0.5; exit 6";
  const run = begin(planOf({ script, hangup: ["hangup"] }), { driver: altered(engine, { exec }) });
  const first = await Promise.race([run.outcome, released.promise.then(() => "released")]);
  assertEquals(first, "released");
  assertEquals(await run.outcome, { kind: "exit", code: 6 });
});

Deno.test("execute() ends a lifeline with the session", async () => {
  const run = begin(planOf({ script: "echo up; cat; exit 3", stdin: "lifeline" }, { timeoutSeconds: 0.2 }));
  assertEquals(await run.outcome, { kind: "exit", code: 124 });
  assertEquals(run.engine.containers(), []);
});

Deno.test("execute() removes a sidecar that does not heed its end, and undoes what it left", async () => {
  const script =
    `case $1 in undo) echo undone ;; *) trap "" HUP; echo up; while :; do sleep 0.02; done ;; esac`;
  const run = begin(planOf({ script, args: ["session"], undo: ["undo"] }, { timeoutSeconds: 0.1 }));
  assertEquals(await run.outcome, { kind: "exit", code: 124 });
  assertEquals(run.engine.journal, ["run debugger", "remove 1", "run debugger"]);
  assertEquals(run.engine.specs[1]!.sidecar.args, ["undo"]);
  assertEquals(run.engine.containers(), []);
});

Deno.test("execute() undoes what a killed sidecar left", async () => {
  const script = "case $1 in undo) ;; *) kill -KILL $$ ;; esac";
  const run = begin(planOf({ script, args: ["session"], undo: ["undo"], keep: true, containerName: "mine" }));
  assertEquals(await run.outcome, { kind: "exit", code: 137 });
  assertEquals(
    run.engine.specs.map(({ sidecar, name }) => [sidecar.args[0], sidecar.keep, /-undo$/.test(name)]),
    [
      ["session", true, false],
      ["undo", undefined, true],
    ],
  );
  assertEquals(run.events.filter(({ kind }) => kind === "left"), []);
});

Deno.test("execute() tells what it could not undo", async () => {
  const script = "case $1 in undo) exit 1 ;; *) kill -KILL $$ ;; esac";
  const run = begin(planOf({ script, args: ["session"], undo: ["undo"] }));
  assertEquals(await run.outcome, { kind: "exit", code: 137 });
  const left = run.events.find((event) => event.kind === "left");
  assert(left?.what.includes("in web (exit code 1)"), left?.what);
});

Deno.test("execute() undoes nothing in a target that is gone", async () => {
  const driver = altered(openFake(), { state: () => Promise.resolve("gone") });
  const script = "kill -KILL $$";
  const run = begin(planOf({ script, undo: ["undo"] }), { driver });
  assertEquals(await run.outcome, { kind: "exit", code: 137 });
  assertEquals(run.events.map(({ kind }) => kind), ["started", "target-stopped"]);
});

Deno.test("execute() undoes in the files of a target that has stopped", async () => {
  const engine = openFake();
  const driver = altered(engine, { state: () => Promise.resolve("stopped") });
  const script = "case $1 in undo) ;; *) kill -KILL $$ ;; esac";
  const namespaces = { network: "target", pid: "target", ipc: "own", uts: "own", user: "target" } as const;
  await begin(planOf({ script, args: ["session"], undo: ["undo"], namespaces }), { driver }).outcome;
  const { sidecar, targetRoot } = engine.specs[1]!;
  assertEquals(targetRoot, "/.cdebug-target");
  assertEquals(sidecar.namespaces, { network: "own", pid: "own", ipc: "own", uts: "own", user: "engine" });
});

Deno.test("execute() cancelled during a pull leaves nothing and says so by its exit code", async () => {
  const run = begin(planOf({ image: "slow" }));
  while (run.events.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  run.tell({ kind: "signal", name: "INT" });
  const error = await assertRejects(() => run.outcome, CdebugError, "Cancelled");
  assertEquals([error.exitCode, run.engine.containers()], [130, []]);
});

Deno.test("execute() removes what it has started when a later sidecar fails", async () => {
  const plan = planOf({ script: "cat", stdin: "lifeline" });
  const second = { ...plan.sidecars[0]!, name: "second", image: "missing", pull: "never" as const };
  const run = begin({ ...plan, sidecars: [...plan.sidecars, second] });
  await assertRejects(() => run.outcome, CdebugError, "does not have it");
  assertEquals(run.engine.containers(), []);
});

Deno.test("execute() gives each sidecar a name of its own", async () => {
  const plan = planOf({ script: "true" });
  const second = { ...plan.sidecars[0]!, name: "helper-1" };
  const run = begin({ ...plan, sidecars: [second, ...plan.sidecars] });
  await run.outcome;
  const [helper, main] = run.engine.specs.map(({ name }) => name);
  assertEquals(helper, `${main}-helper-1`);
});

Deno.test("execute() returns at once from a detached session and leaves it running", async () => {
  const run = begin(planOf({ script: "sleep 0.1" }, { detach: true }));
  const outcome = await run.outcome;
  assertEquals([outcome.kind, run.engine.containers().length], ["detached", 1]);
  while (run.engine.containers().length > 0) await new Promise((resolve) => setTimeout(resolve, 10));
});

Deno.test("execute() ends the session when nobody reads its output any more", async () => {
  const run = begin(planOf({ script: "while echo line; do :; done", stdin: "lifeline" }), {
    streams: { stdout: () => Promise.reject(new Deno.errors.BrokenPipe()) },
  });
  assertEquals(await run.outcome, { kind: "exit", code: 141 });
  assertEquals(run.engine.containers(), []);
});

Deno.test("execute() reports what could not be removed, with the command that does", async () => {
  const engine = openFake();
  const driver = altered(engine, {
    async remove(id) {
      await engine.remove(id);
      throw new Error("the engine is busy");
    },
  });
  const plan = planOf({ script: "cat", stdin: "lifeline" });
  const second = { ...plan.sidecars[0]!, name: "second", image: "missing", pull: "never" as const };
  const run = begin({ ...plan, sidecars: [...plan.sidecars, second] }, { driver });
  await assertRejects(() => run.outcome, CdebugError);
  const left = run.events.find((event) => event.kind === "left");
  assert(
    left?.what.includes("the engine is busy") && left.hint?.startsWith("fake rm cdebug-"),
    left?.hint,
  );
});
