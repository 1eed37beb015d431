/** `cdebug exec` on the targets that every rival fails on: what the table does not show. */

import { assert, assertEquals, assertIncludes } from "../assert.ts";
import { poll } from "../engines/debian.ts";
import { importOrdinary } from "../engines/images.ts";
import {
  BARE,
  cdebug,
  docker,
  engineOf,
  idOf,
  IMAGE_ENGINES,
  type ImageEngine,
  liveTest,
  ORDINARY,
  sidecarsOf,
  target,
} from "./engine.ts";
import { temporaryFile } from "../temporary.ts";
import { Terminal } from "./tmux.ts";

/** Registers a test that runs on each engine. */
function eachTest(name: string, fn: (engine: ImageEngine) => Promise<void>): void {
  for (const engine of IMAGE_ENGINES) liveTest(`targets: ${engine}: ${name}`, () => fn(engine), engine);
}

const RIGHTS = "sed -n s/^CapEff:.//p /proc/self/status";
const NONE = "0000000000000000";

eachTest("its own user needs no right, gets none, and finds the toolkit", async (engine) => {
  for (const run of [["--user", "1000:5"], ["--user", "1000:5", "--cap-drop", "ALL", "--read-only"]]) {
    await using web = await target({ engine, image: BARE, run: [...run, "--group-add", "7"] });
    const { stdout, stderr } = await cdebug([
      ...["exec", "-u", "1000", web.ref],
      ...["sh", "-c", `id -u; id -g; id -G; ${RIGHTS}; ls $CDEBUG_ROOTFS/bin/ls; ls /`],
    ]);
    assertEquals(stderr, "");
    const [uid, gid, groups, rights, ls, ...files] = stdout.split("\n");
    assertEquals([uid, gid, rights], ["1000", "5", NONE]);
    assert(groups!.split(" ").includes("7"), groups);
    assertIncludes(ls!, "/root/bin/ls");
    assertIncludes(files.join(" "), "server");
    const { stdout: plan } = await cdebug(["plan", "exec", "-u", "1000", web.ref, "true"]);
    assert(!plan.includes("SYS_PTRACE is added"), "the plan adds SYS_PTRACE");
  }
});

eachTest("its own user takes over its environment", async (engine) => {
  await using web = await target({
    engine,
    image: BARE,
    run: ["--user", "1000", "--env", "COLOUR=it's\nblue"],
  });
  const { stdout } = await cdebug([
    ...["exec", "-u", "1000", "--target-env", web.ref],
    ...["sh", "-c", 'printf %s "$COLOUR"'],
  ]);
  assertEquals(stdout, "it's\nblue");
});

eachTest("its own seccomp profile and no-new-privileges hold for the session", async (engine) => {
  await using profile = await temporaryFile(JSON.stringify({
    defaultAction: "SCMP_ACT_ALLOW",
    syscalls: [{ names: ["mkdir", "mkdirat"], action: "SCMP_ACT_ERRNO" }],
  }));
  const options = [`seccomp=${profile.path}`, "no-new-privileges"];
  await using web = await target({ engine, run: options.flatMap((option) => ["--security-opt", option]) });
  const script = "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status; mkdir /tmp/x";
  const { code, stdout, stderr } = await cdebug(["exec", web.ref, "sh", "-c", script]);
  assertEquals([code, stdout], [1, "NoNewPrivs:\t1\nSeccomp:\t2\n"]);
  assertIncludes(stderr, "Operation not permitted");
});

eachTest("another user gets the groups that name it, and finds the toolkit", async (engine) => {
  await using web = await target({ engine });
  const id = async (...flags: string[]) =>
    (await cdebug(["exec", ...flags, web.ref, "id", "-G"])).stdout.trim();
  assertEquals(await id("-u", "web"), "102 50");
  assertEquals(await id("-u", "web:staff"), "50");
  assertEquals(await id("-u", "4242"), "0");
  for (const user of ["4294967295", "4294967296", "99999999999999999999", "1000:4294967296"]) {
    const { code, stdout } = await cdebug(["exec", "-u", user, web.ref, "id", "-u"]);
    assertEquals({ code, stdout }, { code: 125, stdout: "" }, user);
  }
  await using stripped = await target({ engine, run: ["--cap-drop", "ALL"] });
  const { code, stdout, stderr } = await cdebug([
    ...["exec", "-u", "web", stripped.ref],
    ...["sh", "-c", `id -un; ${RIGHTS}; $CDEBUG_ROOTFS/bin/busybox echo toolkit`],
  ]);
  assertEquals({ code, stdout, stderr }, { code: 0, stdout: `web\n${NONE}\ntoolkit\n`, stderr: "" });
});

eachTest("a PID namespace shared with others: the files are its own", async (engine) => {
  await using web = await target({ engine });
  await using first = await target({ engine, image: BARE, run: ["--pid", `container:${web.name}`] });
  await using second = await target({
    engine,
    run: ["--pid", `container:${web.name}`, "--env", "WHO=second"],
  });
  const files = async (ref: string) => (await cdebug(["exec", ref, "ls", "/"])).stdout;
  assertIncludes(await files(first.ref), "server");
  assert(!(await files(second.ref)).includes("server"));
  assertEquals(
    (await cdebug(["exec", "--target-env", second.ref, "sh", "-c", "echo $WHO"])).stdout,
    "second\n",
  );
  assertIncludes((await cdebug(["exec", first.ref, "ps"])).stdout, "sleep 1000000");
});

eachTest("one that has stopped is debugged in a copy that is thrown away", async (engine) => {
  const { client } = engineOf(engine)!;
  const images = async () => (await client(["images", "-aq", "--no-trunc"])).split("\n").sort();
  const before = await images();
  await using web = await target({
    engine,
    run: ["--user", "web", "--volume", "/data"],
    command: ["sh", "-c", "exit 3"],
  });
  await client(["wait", web.name]);
  const refused = await cdebug(["exec", web.ref, "true"]);
  assertEquals(refused.code, 125);
  assertIncludes(refused.stderr, "it is not running (exit code 3)");
  assertIncludes(refused.stderr, `${engine} start ${web.name}; or --stopped`);

  const script = "id -u; cat /srv/note 2>/dev/null; echo changed > /srv/note; ls /data; exit 9";
  for (let i = 0; i < 2; i++) {
    const { code, stdout, stderr } = await cdebug(["exec", "--stopped", web.ref, "sh", "-c", script]);
    assertEquals({ code, stdout, stderr }, { code: 9, stdout: "0\n", stderr: "" });
  }
  assertEquals(await cdebug(["exec", "--stopped", "-u", "web", web.ref, "id", "-un"]), {
    code: 0,
    stdout: "web\n",
    stderr: "",
  });
  const detached = await cdebug(["exec", "--stopped", "-d", web.ref, "true"]);
  assertEquals([detached.code, detached.stdout], [125, ""]);
  assertIncludes(detached.stderr, "leave out -d");
  // A plan of it is stale as soon as it runs again.
  const plan = (await cdebug(["plan", "exec", "--stopped", web.ref, "echo", "planned"])).stdout;
  assertEquals((await cdebug(["apply", "-"], { stdin: plan })).stdout, "planned\n");
  assertEquals(await images(), before);
});

eachTest(
  "the copy takes nothing with it: not the target's image that has lost its name, nor its containers",
  async (engine) => {
    const { client } = engineOf(engine)!;
    const image = `cdebug-test/renamed-${crypto.randomUUID().slice(0, 8)}`;
    await importOrdinary(client, image, { "/srv/first": "" });
    await using running = await target({ engine, image });
    await using stopped = await target({ engine, image, command: ["true"] });
    await client(["wait", stopped.name]);
    await importOrdinary(client, image, { "/srv/second": "" });
    const all = async () =>
      [await client(["ps", "-aq"]), await client(["images", "-aq"])].join().split("\n").sort();
    const before = await all();
    assertEquals((await cdebug(["exec", "--stopped", stopped.ref, "ls", "/srv/first"])).code, 0);
    assertEquals(await all(), before);
    const state = await client(["inspect", "--format", "{{.State.Running}}", running.name]);
    assertEquals(state.trim(), "true");
  },
);

eachTest("one that never ran is debugged in a copy, too", async (engine) => {
  const { client } = engineOf(engine)!;
  const name = `created-${crypto.randomUUID().slice(0, 8)}`;
  await client(["create", "--name", name, BARE, "/server"]);
  try {
    const { code, stdout } = await cdebug(["exec", "--stopped", `${engine}://${name}`, "ls", "/server"]);
    assertEquals({ code, stdout }, { code: 0, stdout: "/server\n" });
    assertEquals(await sidecarsOf(await idOf(name, client), client), []);
  } finally {
    await client(["rm", "-f", name]);
  }
});

liveTest("targets: on a terminal, cdebug asks before it copies one that has stopped", async () => {
  await using web = await target({ command: ["true"] });
  await docker(["wait", web.name]);
  await using terminal = await Terminal.open();
  await terminal.type(`cdebug exec -it ${web.name}; echo code=$?`);
  await terminal.shows("Take a throw-away copy of its filesystem? [y/N]");
  await terminal.type("n");
  await terminal.shows("or --stopped for a throw-away copy");
  await terminal.shows("code=125");
  await terminal.type(`clear; cdebug exec -it ${web.name}; echo code=$?`);
  await terminal.shows("[y/N]");
  await terminal.type("y");
  await terminal.shows("/ #");
  await terminal.type("echo $((6 * 7)); exit 5");
  await terminal.shows("42");
  await terminal.shows("code=5");
});

eachTest("an image is debugged in a container that is thrown away", async (engine) => {
  const { client } = engineOf(engine)!;
  const containers = async () => await client(["ps", "-aq"]);
  const before = await containers();
  const { code, stdout, stderr } = await cdebug([
    ...["exec", "-u", "web", `${engine}-image://${ORDINARY}`],
    ...["sh", "-c", "id -un; head -n 1 /etc/os-release; echo $HOME; exit 4"],
  ]);
  assertEquals({ code, stdout, stderr }, { code: 4, stdout: "web\nID=debian\n/home/web\n", stderr: "" });
  await poll(async () => assertEquals(await containers(), before));
  const missing = await cdebug(["exec", `${engine}-image://no/such:image`, "true"]);
  assertEquals(missing.code, 125);
  assertIncludes(missing.stderr, 'Cannot find image "no/such:image"');
  assertIncludes(missing.stderr, `Hint: ${engine} pull no/such:image`);
});

eachTest("--root toolkit keeps the toolkit's root, the target's at CDEBUG_ROOTFS", async (engine) => {
  await using web = await target({ engine, image: BARE, run: ["--user", "1000"] });
  for (const flags of [[], ["-u", "1000"]]) {
    const { code, stdout, stderr } = await cdebug([
      ...["exec", "--root", "toolkit", ...flags, web.ref],
      ...["sh", "-c", "pwd; ls /bin/busybox $CDEBUG_ROOTFS/server | sed s,.*/,,; exit 3"],
    ]);
    assertEquals({ code, stdout, stderr }, { code: 3, stdout: "/\nbusybox\nserver\n", stderr: "" });
  }
});

eachTest("--toolkit overrules what was found out", async (engine) => {
  await using web = await target({ engine, image: BARE });
  const path = async (...flags: string[]) =>
    (await cdebug(["exec", ...flags, web.ref, "sh", "-c", "echo $PATH"])).stdout.trim();
  assert(/:\/\.cdebug-\w+\/bin:/.test(await path()));
  assert(/:\/\.cdebug-\w+\/\.cdebug\/bin$/.test(await path("--toolkit", "dynamic")));
  const { code, stderr } = await cdebug(["exec", "--toolkit", "elf", web.ref, "true"]);
  assertEquals(code, 125);
  assertIncludes(stderr, "static, dynamic, nix");
});
