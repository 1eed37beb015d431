import { assert, assertEquals, assertIncludes, assertRejects } from "../assert.ts";
import { fakeSidecar, fakeTarget } from "../fake_driver.ts";
import { CdebugError } from "../../lib/errors.ts";
import { clearRuns, listRuns, readRun, record, standing } from "../../lib/history.ts";
import { ownIdentity } from "../../lib/owner.ts";
import type { ExecRequest, Plan } from "../../lib/plan.ts";
import { temporaryDirectory } from "../temporary.ts";

const PLAN: Plan = {
  version: 1,
  request: { command: "exec", target: "web", argv: ["true"], env: { SECRET: "s3cret", FROM_HERE: null } },
  target: fakeTarget(),
  sidecars: [fakeSidecar({ env: { SECRET: "s3cret" } })],
  session: { kind: "exec", attach: "debugger", detach: false },
  leaves: [],
};

/** Runs a test with a state directory of its own, and no setting. */
function historyTest(name: string, fn: (dir: string) => Promise<void>): void {
  Deno.test(name, async () => {
    const names = ["CDEBUG_HISTORY", "XDG_STATE_HOME"];
    const before = names.map((name) => Deno.env.get(name));
    await using state = await temporaryDirectory();
    Deno.env.delete("CDEBUG_HISTORY");
    Deno.env.set("XDG_STATE_HOME", state.path);
    try {
      await fn(`${state.path}/cdebug/history`);
    } finally {
      names.forEach((name, i) =>
        before[i] === undefined ? Deno.env.delete(name) : Deno.env.set(name, before[i])
      );
    }
  });
}

historyTest("record() keeps a run, for its user only, without values", async (dir) => {
  await record(PLAN, ownIdentity()).end({ kind: "exit", code: 3 });
  const run = await readRun(1);
  assertEquals(run.ending, { kind: "exit", code: 3 });
  assert(run.durationMs! >= 0 && Math.abs(Date.now() - Date.parse(run.startedAt)) < 60_000);
  assertEquals((run.plan.request as ExecRequest).env, { SECRET: null, FROM_HERE: null });
  assert(!(await Deno.readTextFile(`${dir}/1.json`)).includes("s3cret"));
  assertEquals([(await Deno.stat(dir)).mode! & 0o777, (await Deno.stat(`${dir}/1.json`)).mode! & 0o777], [
    0o700,
    0o600,
  ]);
});

historyTest("record() keeps values, or nothing, where the user says so", async (dir) => {
  Deno.env.set("CDEBUG_HISTORY", "values");
  await record(PLAN, ownIdentity()).end({ kind: "detached" });
  assertEquals((await readRun(1)).plan, PLAN);
  Deno.env.set("CDEBUG_HISTORY", "off");
  await record(PLAN, ownIdentity()).end({ kind: "detached" });
  assertEquals((await Array.fromAsync(Deno.readDir(dir))).length, 1);
});

historyTest("record() gives each of many at once a number of its own", async () => {
  await Promise.all(
    Array.from({ length: 50 }, (_, code) => record(PLAN, ownIdentity()).end({ kind: "exit", code })),
  );
  const runs = await listRuns();
  assertEquals(runs.map(({ number }) => number), Array.from({ length: 50 }, (_, i) => 50 - i));
  assertEquals(new Set(runs.map(({ run }) => run?.ending?.kind === "exit" && run.ending.code)).size, 50);
});

historyTest("record() keeps the last thousand", async (dir) => {
  await Deno.mkdir(dir, { recursive: true });
  for (let number = 1; number <= 1000; number++) await Deno.writeTextFile(`${dir}/${number}.json`, "{}");
  await record(PLAN, ownIdentity()).end({ kind: "detached" });
  const numbers = (await listRuns()).map(({ number }) => number);
  assertEquals([numbers.length, numbers[0], numbers.at(-1)], [1000, 1001, 2]);
});

historyTest("record() does without a directory that it may not make", async (dir) => {
  await Deno.mkdir(dir.replace(/\/[^/]*$/, ""), { recursive: true });
  await Deno.writeTextFile(dir, "a file");
  await record(PLAN, ownIdentity()).end({ kind: "exit", code: 0 });
  await assertRejects(() => listRuns(), CdebugError, "Cannot read the history");
});

historyTest("standing() tells a run that goes on from one whose cdebug was killed", async () => {
  const [pid, , ...place] = ownIdentity().split(".");
  const running = record(PLAN, ownIdentity());
  const lost = { startedAt: "", owner: [pid, "1", ...place].join("."), plan: PLAN };
  for (;;) {
    const [first] = await listRuns(); // it is written while the session begins
    if (first?.run === undefined) continue;
    assertEquals(await standing(first.run), "running");
    break;
  }
  assertEquals(await standing(lost), "lost");
  await running.end({ kind: "failed", code: 125, message: "no" });
  assertEquals(await standing(await readRun(1)), "failed");
});

historyTest("readRun() tells of a run that is not there, or no run; listRuns() shows it", async (dir) => {
  await Deno.mkdir(dir, { recursive: true });
  for (const [number, text] of [[1, "null"], [2, "{"], [3, '{"startedAt":1}']]) {
    await Deno.writeTextFile(`${dir}/${number}.json`, String(text));
  }
  await Deno.writeTextFile(`${dir}/notes.txt`, "");
  assertEquals(await listRuns(), [{ number: 3 }, { number: 2 }, { number: 1 }]);
  for (const number of [1, 2, 3]) await assertRejects(() => readRun(number), CdebugError, "Cannot read run");
  const { hint } = await assertRejects(() => readRun(4), CdebugError, "there is no such run");
  assertIncludes(hint!, "cdebug history");
  assertEquals([await clearRuns(), await clearRuns()], [3, 0]);
  assertEquals(await Array.fromAsync(Deno.readDir(dir), ({ name }) => name), ["notes.txt"]);
});
