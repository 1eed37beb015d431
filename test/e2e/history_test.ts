/** The history, as users meet it. */

import { assert, assertEquals, assertIncludes } from "../assert.ts";
import { temporaryDirectory } from "../temporary.ts";
import { cdebug, docker, liveTest, target } from "./engine.ts";

liveTest("history: what ran is listed, shown, and applied again", async () => {
  await using state = await temporaryDirectory();
  await using web = await target();
  const env = { CDEBUG_HISTORY: "", XDG_STATE_HOME: state.path };
  const run = (...args: string[]) => cdebug(args, { env });

  assertEquals((await run("exec", "-e", "TOKEN=s3cret", web.name, "sh", "-c", "exit 3")).code, 3);
  assertEquals(
    (await run("exec", "--image", "cdebug-test/missing", "--pull", "never", web.name, "id")).code,
    125,
  );
  const list = await run("history");
  assertIncludes(list.stdout, "failed (125)");
  assert(/^1 .* exit code 3 /m.test(list.stdout), list.stdout);
  const records = JSON.parse((await run("history", "-o", "json")).stdout);
  assertEquals(records.map(({ run, exitCode }: { run: number; exitCode: number }) => [run, exitCode]), [
    [2, 125],
    [1, 3],
  ]);

  const shown = await run("history", "show", "1");
  assertIncludes(shown.stdout, "# exit code 3, after");
  assert(!shown.stdout.includes("s3cret"));
  const applied = await cdebug(["apply", "-"], { env: { ...env, TOKEN: "mine" }, stdin: shown.stdout });
  assertEquals([applied.code, applied.stderr], [3, ""]);
  assertEquals((await cdebug(["apply", "@1"], { env: { ...env, TOKEN: "mine" } })).code, 3);
  assertIncludes((await run("apply", "@1")).stderr, 'variable "TOKEN"');

  await docker(["restart", "-t", "0", web.name]);
  const stale = await run("apply", "@1");
  assertEquals(stale.code, 125);
  assertIncludes(stale.stderr, "Hint: cdebug apply @1 --retarget");
  assertEquals((await cdebug(["apply", "@1", "--retarget"], { env: { ...env, TOKEN: "mine" } })).code, 3);

  for (
    const args of [["history", "show", "x"], ["history", "show", "99"], ["history", "3"], ["apply", "@"]]
  ) {
    const { code, stderr } = await run(...args);
    assertEquals(code, 125);
    assert(/^cdebug: Cannot .*\nHint: cdebug/.test(stderr), stderr);
  }
  assertEquals((await run("history", "clear")).code, 125);
  assertEquals((await run("history", "clear", "--yes")).code, 0);
  assertEquals((await run("history")).stdout.split("\n").length, 2);
});
