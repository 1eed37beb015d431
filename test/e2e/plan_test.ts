/** `cdebug plan` and `cdebug apply` against a real daemon. */

import { assert, assertEquals, assertIncludes } from "../assert.ts";
import { temporaryFile } from "../temporary.ts";
import { cdebug, docker, idOf, liveTest, sidecarsOf, target } from "./engine.ts";

/** All that a daemon has, to see that nothing was changed. */
async function inventory(): Promise<string> {
  const lists = [["ps", "-aq"], ["images", "-q"], ["volume", "ls", "-q"], ["network", "ls", "-q"]];
  const found = await Promise.all(lists.map((list) => docker(list)));
  return found.map((text) => text.split("\n").sort().join(" ")).join("\n");
}

async function planOf(...argv: string[]): Promise<string> {
  const { code, stdout, stderr } = await cdebug(["plan", "exec", ...argv]);
  assertEquals([code, stderr], [0, ""]);
  return stdout;
}

liveTest("plan: the same bytes each time, by either name, and nothing is changed", async () => {
  await using web = await target();
  const before = await inventory();
  const argv = ["-i", "--image", "not/here:1", "-e", "A=1", web.name, "sh", "-c", "exit 3"];
  const plan = await planOf(...argv);
  assertEquals(await planOf(...argv), plan);
  assertEquals((await cdebug(["exec", "--dry-run", ...argv])).stdout, plan);
  assertEquals(await inventory(), before);
});

liveTest("apply: gives the output and exit code of the live run, from a file and from stdin", async () => {
  await using web = await target();
  const argv = [
    web.name,
    "sh",
    "-c",
    'echo "$@"; cat /etc/os-release; echo err >&2; exit 3',
    "sh",
    "a  b",
    "it's",
  ];
  const live = await cdebug(["exec", ...argv]);
  assertEquals(live.code, 3);
  const plan = await planOf(...argv);
  await using file = await temporaryFile(plan);
  assertEquals(await cdebug(["apply", file.path]), live);
  assertEquals(await cdebug(["apply", "-"], { stdin: plan }), live);
});

liveTest("apply: a plan whose command reads stdin gets it, where the plan is a file", async () => {
  await using web = await target();
  await using file = await temporaryFile(await planOf("-i", web.name, "cat"));
  assertEquals((await cdebug(["apply", file.path], { stdin: "given\n" })).stdout, "given\n");
});

liveTest("apply: ten at the same time", async () => {
  await using web = await target();
  await using file = await temporaryFile(await planOf(web.name, "sh", "-c", "echo ran; exit 3"));
  const results = await Promise.all(Array.from({ length: 10 }, () => cdebug(["apply", file.path])));
  assertEquals(results, results.map(() => ({ code: 3, stdout: "ran\n", stderr: "" })));
});

liveTest("apply: variables that the plan leaves out come from here", async () => {
  await using web = await target();
  const argv = ["-e", "SECRET=hunter2", web.name, "sh", "-c", "echo $SECRET"];
  const plan = await planOf(...argv);
  assert(!plan.includes("hunter2"));
  await using file = await temporaryFile(plan);
  const without = await cdebug(["apply", file.path]);
  assertEquals(without.code, 125);
  assertIncludes(without.stderr, 'Cannot set variable "SECRET"');
  assertEquals((await cdebug(["apply", file.path], { env: { SECRET: "x" } })).stdout, "x\n");
  const shown = (await cdebug(["plan", "exec", "--show-values", ...argv])).stdout;
  await using whole = await temporaryFile(shown);
  assertEquals((await cdebug(["apply", whole.path])).stdout, "hunter2\n");
});

liveTest("apply: a target that was created or started again makes the plan stale", async () => {
  await using web = await target();
  await using file = await temporaryFile(await planOf(web.name, "echo", "ran"));
  await docker(["restart", "-t", "0", web.name]);
  const restarted = await cdebug(["apply", file.path]);
  assertEquals([restarted.code, restarted.stdout], [125, ""]);
  assertIncludes(restarted.stderr, "the plan is stale");
  assertIncludes(restarted.stderr, "startedAt was ");
  assertIncludes(restarted.stderr, `Hint: cdebug apply ${file.path} --retarget`);

  const again = await cdebug(["apply", file.path, "--retarget"]);
  assertEquals([again.code, again.stdout], [0, "ran\n"]);
  assertIncludes(again.stderr, "target.startedAt: ");

  await docker(["rm", "-f", web.name]);
  await docker(["run", "-d", "--name", web.name, "cdebug-test/ordinary", "sleep", "1000000"]);
  const created = await cdebug(["apply", file.path]);
  assertEquals(created.code, 125);
  assertIncludes(created.stderr, "id was ");
});

liveTest("apply: --retarget runs the request on another target, and shows what differs", async () => {
  await using web = await target({ run: ["-w", "/srv"] });
  await using other = await target({ run: ["--user", "1000", "--read-only"] });
  await using file = await temporaryFile(await planOf(web.name, "hostname"));
  const hostname = (await docker(["exec", other.name, "hostname"])).trim();
  for (const argv of [["--retarget", other.name, file.path], [file.path, `--retarget=${other.name}`]]) {
    const { code, stdout, stderr } = await cdebug(["apply", "--yes", ...argv]);
    assertEquals([code, stdout], [0, `${hostname}\n`], stderr);
    assertIncludes(stderr, `request.target: "${web.name}" → "${other.name}"`);
    assertIncludes(stderr, "target.readOnlyRoot: false → true");
  }
});

liveTest("apply: rights beyond the target's are told, and need --yes where nobody can be asked", async () => {
  await using web = await target();
  const plan = await planOf("--cap-add", "NET_ADMIN", "-v", "/srv:/host:ro", web.name, "echo", "ran");
  await using file = await temporaryFile(plan);
  const refused = await cdebug(["apply", file.path]);
  assertEquals([refused.code, refused.stdout], [125, ""]);
  for (
    const part of [
      "Linux capabilities NET_ADMIN",
      "/srv of the engine's machine",
      "Hint: --yes grants them",
    ]
  ) {
    assertIncludes(refused.stderr, part);
  }
  assertEquals((await cdebug(["apply", "--yes", file.path])).stdout, "ran\n");
});

liveTest("apply: what a plan says of its target's rights is not believed", async () => {
  await using web = await target();
  const plan = (await planOf(web.name, "echo", "ran"))
    .replace("  addLinuxCapabilities: []", "  addLinuxCapabilities: [SYS_ADMIN]")
    .replace("    tty: false", "    addLinuxCapabilities: [SYS_ADMIN]\n    tty: false")
    .replaceAll("    network: own", "    network: host").replace("network: target", "network: host")
    .replaceAll("securityOptions: []", "securityOptions: [seccomp=unconfined]")
    .replace('    user: "0"', '    user: "0"\n    securityOptions: [seccomp=unconfined]');
  const { code, stdout, stderr } = await cdebug(["apply", "-"], { stdin: plan });
  assertEquals([code, stdout], [125, ""]);
  for (const part of ["Linux capabilities SYS_ADMIN", "machine's network namespace", "seccomp=unconfined"]) {
    assertIncludes(stderr, part);
  }
});

liveTest("apply: a plan cannot steer the terminal that it asks", async () => {
  await using web = await target();
  const plan = (await planOf("-v", "/srv:/host:ro", web.name, "true"))
    .replace("destination: /host", 'destination: "/x\\e[1A\\e[2K\\rcdebug: all fine"');
  const { code, stderr } = await cdebug(["apply", "-"], { stdin: plan });
  assertEquals(code, 125);
  assert(!stderr.includes("\x1b") && !stderr.includes("\r"), JSON.stringify(stderr));
});

liveTest("apply: bad plans are refused with path and line, and no container is created", async () => {
  await using web = await target();
  const plan = await planOf("-e", "A=1", web.name, "true");
  const before = await inventory();
  const bomb = `version: 1\n${
    Array.from({ length: 25 }, (_, i) => `a${i}: &a${i} [${i ? `*a${i - 1}, `.repeat(9) : ""}x]`).join("\n")
  }\n`;
  const noise = new Uint8Array(10 * 1024 * 1024);
  for (let at = 0; at < noise.length; at += 65536) crypto.getRandomValues(noise.subarray(at, at + 65536));
  const cases: [string, string | Uint8Array<ArrayBuffer>, string][] = [
    [
      "wrong version",
      plan.replace("version: 1", "version: 2"),
      ":1: version: This cdebug reads plans of version 1",
    ],
    [
      "unknown key",
      plan.replace("    tty:", "    ttty: 1\n    tty:"),
      'sidecars[0].ttty: Unknown key "ttty"',
    ],
    ["wrong type", plan.replace("tty: false", "tty: perhaps"), "sidecars[0].tty: Expected boolean"],
    ["duplicate key", plan.replace("    tty:", "    tty: true\n    tty:"), "Map keys must be unique"],
    ["truncated", plan.slice(0, plan.length * 0.6), "Expected"],
    ["noise", noise, ":1: "],
    ["bomb", bomb, ":3: Aliases are not allowed in a plan"],
    ["empty", "", ":1: "],
  ];
  for (const [name, text, part] of cases) {
    const { code, stdout, stderr } = await cdebug(["apply", "-"], { stdin: text });
    assertEquals([name, code, stdout], [name, 125, ""], stderr);
    assert(/^ {2}-:\d+: /m.test(stderr), `${name}: no line in ${stderr}`);
    assertIncludes(stderr, part);
    assert(!/^\s+at /m.test(stderr), stderr);
  }
  const endless = await cdebug(["apply", "/dev/zero"]);
  assertEquals(endless.code, 125);
  assertIncludes(endless.stderr, "Expected a plan of at most 1024 KiB, found more");
  assertEquals([await inventory(), await sidecarsOf(await idOf(web.name))], [before, []]);
});

liveTest("plan schema: is a JSON Schema that an editor can use", async () => {
  const { code, stdout } = await cdebug(["plan", "schema"]);
  const schema = JSON.parse(stdout);
  assertEquals([code, schema.type, schema.properties.version.const], [0, "object", 1]);
});

liveTest("apply: the plan of plans/README.md runs", async () => {
  await using web = await target();
  const text = await Deno.readTextFile(new URL("../../plans/README.md", import.meta.url));
  const [id, startedAt] = (await docker(["inspect", "--format", "{{.Id}} {{.State.StartedAt}}", web.name]))
    .trim()
    .split(" ");
  const plan = /^```yaml\n([^]*?)^```$/m.exec(text)![1]!
    .replace("name: web", `name: ${web.name}`)
    .replace(/\bid: \w+/, `id: ${id}`)
    .replace(/startedAt: \S+/, `startedAt: ${startedAt}`);
  await using file = await temporaryFile(plan);
  const wanted = { code: 3, stdout: "found: more than one of processes\n", stderr: "" };
  assertEquals(await cdebug(["apply", file.path]), wanted);
});
