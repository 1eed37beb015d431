/** `cdebug exec` on processes and on containers of runc and crun: what the table does not show. */

import { assert, assertEquals, assertIncludes } from "../assert.ts";
import { exists, poll, run } from "../engines/debian.ts";
import { fillOrdinary } from "../engines/images.ts";
import { startTarget } from "../engines/process.ts";
import { startRunc } from "../engines/runc.ts";
import { temporaryDirectory, temporaryFile } from "../temporary.ts";
import { cdebug, cdebugBytes, MAIN, spawn } from "./engine.ts";
import { files, localTest, status } from "./local.ts";
import { Terminal } from "./tmux.ts";

const test = (name: string, fn: () => Promise<void>) => localTest(`processes: ${name}`, fn, "root");

/** What sessions may leave on this machine: their processes, mount namespaces, and notes of their mounts. */
async function traces(): Promise<string[]> {
  const found: string[] = [];
  for await (const { name } of Deno.readDir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const command = await Deno.readTextFile(`/proc/${name}/cmdline`).catch(() => "");
    if (/CDEBUG_(SIDECAR|SCRIPT)|\0sleep\0?1234/.test(command)) found.push(command.replaceAll("\0", " "));
  }
  const mounts = await Deno.readTextFile("/run/mount/utab").catch(() => "");
  return [...found, ...mounts.split("\n").filter((line) => line.includes("x-mount.mkdir"))];
}

/** The first process of a session on a target: the sidecar's `sh`. */
async function sidecarOf(target: string): Promise<number> {
  return await poll(async () => {
    const { containers } = JSON.parse((await cdebug(["ls", "-o", "json", "pid://"])).stdout)
      .find((session: { target: string }) => session.target === target);
    return Number((await run("pgrep", ["-o", "-f", containers[0]])).trim());
  });
}

test("exit codes, streams, arguments, environment, user, working directory", async () => {
  await using target = await startTarget({
    fill: fillOrdinary,
    env: { COLOUR: "it's blue", PATH: "/bin" },
  });
  const ref = `pid://${target.pid}`;
  const exec = (...args: string[]) => cdebug(["exec", ...args]);
  for (
    const [code, command] of [[7, "exit 7"], [143, "kill -TERM $$"], [127, "no-such-program"], [
      126,
      "/srv/not-executable",
    ]] as const
  ) {
    assertEquals((await exec(ref, "sh", "-c", command)).code, code, command);
  }
  assertEquals((await exec(ref, "no-such-program")).code, 127);
  assertEquals((await exec(ref, "/srv/not-executable")).code, 126);
  assertEquals(await exec(ref, "sh", "-c", "echo out; echo err >&2"), {
    code: 0,
    stdout: "out\n",
    stderr: "err\n",
  });
  const args = ["a  b", "it's", "$x", '"q"', "", "*", "ü", "tab\there\nnewline"];
  assertEquals((await exec(ref, "printf", "[%s]", ...args)).stdout, args.map((arg) => `[${arg}]`).join(""));
  assertEquals((await cdebug(["exec", "-i", ref, "cat"], { stdin: "in\n" })).stdout, "in\n");
  const { stdout } = await cdebugBytes(["exec", ref, "sh", "-c", "yes | head -c 3000000"]);
  assertEquals(stdout.length, 3_000_000);
  assertEquals((await exec("-e", "A=a 'b'\n$c", ref, "printenv", "A")).stdout, "a 'b'\n$c\n");
  assertEquals((await exec("--target-env", ref, "printenv", "COLOUR")).stdout, "it's blue\n");
  assertEquals((await exec("-e", "HOME=/nowhere", ref, "printenv", "HOME")).stdout, "/nowhere\n");
  assertEquals((await exec("-w", "/srv", ref, "pwd")).stdout, "/srv\n");
  assertEquals((await exec("-u", "web", ref, "id", "-u")).stdout, "101\n");
  assertEquals((await exec("--timeout", "1s", ref, "sleep", "1234")).code, 124);
  assertIncludes((await exec("--root", "toolkit", ref, "sh", "-c", "ls $CDEBUG_ROOTFS")).stdout, "server");
  assertEquals(
    (await exec("--no-link", ref, "sh", "-c", "echo $CDEBUG_ROOTFS")).stdout.slice(0, 6),
    "/proc/",
  );
  assertEquals((await exec(ref, "sh", "-c", "sleep 1234 & echo on")).stdout, "on\n");
  const rights = async (...flags: string[]) =>
    /CapEff:\s*(\w+)/.exec((await exec(...flags, ref, "cat", "/proc/self/status")).stdout)![1];
  assertEquals(
    BigInt(`0x${await rights("--cap-drop", "ALL", "--cap-add", "SYS_CHROOT,NET_RAW")}`),
    0xc2000n,
    "with SYS_PTRACE, since the target has more",
  );

  await using mine = await temporaryFile("mine");
  const dir = mine.path.replace(/\/[^/]*$/, "");
  const mounted = await exec(
    "-v",
    `${dir}:/a b:ro`,
    ref,
    "sh",
    "-c",
    'cat "$CDEBUG_ROOTFS/a b/file"; echo >"$CDEBUG_ROOTFS/a b/x"',
  );
  assertEquals(mounted.stdout, "mine");
  assertIncludes(mounted.stderr, "Read-only");
  assertEquals(await traces(), []);
  assertEquals((await files(target.pid, "")).filter((name) => name.startsWith(".")), []);
});

test("targets with one root filesystem leave each other's links alone, and say which outlives its target", async () => {
  await using directory = await temporaryDirectory();
  await fillOrdinary(directory.path);
  await Deno.mkdir(`${directory.path}/proc`);
  const start = () =>
    new Deno.Command("unshare", {
      args: [
        ...["--pid", "--fork", "--kill-child", "--mount", "sh", "-c"],
        ...['mount -t proc proc "$0/proc"; exec chroot "$0" /bin/sleep 1000000', directory.path],
      ],
    }).spawn();
  const parents = [start(), start()];
  const links = async () =>
    (await Array.fromAsync(Deno.readDir(directory.path), ({ name }) => name)).filter((name) =>
      name.startsWith(".cdebug-")
    );
  try {
    const [first, second] = await Promise.all(
      parents.map(({ pid }) =>
        poll(async () => Number((await run("pgrep", ["-P", String(pid), "-x", "sleep"])).trim()))
      ),
    );
    const long = spawn(["exec", "-i", `pid://${first}`, "sh", "-c", "read line; ls $CDEBUG_ROOTFS/usr"], {
      stdin: "",
    });
    await poll(async () => assertEquals((await links()).length, 1));
    assertEquals((await cdebug(["exec", `pid://${second}`, "true"])).code, 0);
    assertEquals((await links()).length, 1);
    const writer = long.stdin.getWriter();
    await writer.write(new TextEncoder().encode("go\n"));
    await writer.close();
    const { code, stdout } = await long.output();
    assertEquals([code, new TextDecoder().decode(stdout).includes("bin")], [0, true]);
    assertEquals(await links(), []);

    const killed = spawn(["exec", `pid://${first}`, "sleep", "1234"]);
    await poll(async () => assertEquals((await links()).length, 1));
    const [link] = await links();
    Deno.kill(first!, "SIGKILL");
    const { code: ending, stderr } = await killed.output();
    assertEquals(ending, 137);
    assertIncludes(new TextDecoder().decode(stderr), `the link /${link} in ${first}`);
  } finally {
    for (const parent of parents) await end(parent);
  }
});

test("a mount stays in the sidecar's root, a root without /proc is told of", async () => {
  await using target = await startTarget();
  await using mine = await temporaryFile("precious");
  const ref = `pid://${target.pid}`;
  const outside = await cdebug(["exec", "-v", `/etc/hostname:/..${mine.path}`, ref, "true"]);
  assertEquals([outside.code, await Deno.readTextFile(mine.path)], [125, "precious"]);
  const { code, stderr } = await cdebug(["exec", "-v", "/etc/passwd:/usr/new", ref, "true"]);
  assertEquals(code, 125);
  assertIncludes(stderr, "/usr is this machine's own");

  await using directory = await temporaryDirectory();
  await fillOrdinary(directory.path);
  const bare = new Deno.Command("chroot", { args: [directory.path, "/bin/sleep", "1000000"] }).spawn();
  try {
    await poll(async () => assertEquals(await Deno.readLink(`/proc/${bare.pid}/root`), directory.path));
    const refused = await cdebug(["exec", `pid://${bare.pid}`, "true"]);
    assertEquals(refused.code, 125);
    assertIncludes(refused.stderr, "has no /proc");
    assertEquals((await cdebug(["exec", "--root", "toolkit", `pid://${bare.pid}`, "true"])).code, 0);
  } finally {
    await end(bare);
  }
});

/** Kills a process, if it has not ended. */
async function end(child: Deno.ChildProcess): Promise<void> {
  try {
    child.kill("SIGKILL");
  } catch {
    // It has ended.
  }
  await child.status;
}

test("a sidecar that is killed with its watch leaves nothing", async () => {
  await using target = await startTarget();
  const child = spawn(["exec", `pid://${target.pid}`, "sh", "-c", "setsid sleep 1234 & sleep 1234"]);
  await poll(async () => assert((await traces()).filter((line) => line.includes("1234")).length >= 3));
  for (const pid of (await run("pgrep", ["-P", String(child.pid)])).trim().split("\n")) {
    Deno.kill(Number(pid), "SIGKILL");
  }
  assertEquals((await child.output()).code, 137);
  await poll(async () => assertEquals(await traces(), []));
});

test("what cannot be is refused, with what to type, and leaves nothing", async () => {
  await using target = await startTarget();
  const ref = `pid://${target.pid}`;
  const zombie = new Deno.Command("sh", {
    args: ["-c", "(exec sleep 0.3) & echo $!; exec sleep 1234.5"],
    stdout: "piped",
  }).spawn();
  const [line] = await Array.fromAsync((async function* () {
    const reader = zombie.stdout.getReader();
    yield new TextDecoder().decode((await reader.read()).value).trim();
    await reader.cancel();
  })());
  try {
    await poll(async () => assertIncludes(await status(Number(line), "State"), "Z"));
    for (
      const [args, text] of [
        [[`pid://${line}`, "id"], "it is a zombie"],
        [["pid://2", "id"], "a thread of the kernel"],
        [["pid://4194304", "id"], "there is no such process"],
        [["pid://no-such-program", "id"], "there is no such process"],
        [["--image", "alpine", "--pull", "never", ref, "id"], "it is not in the cache"],
        [["--image", "dir:relative", ref, "id"], "Hint: --image dir:/PATH"],
        [["--image", "dir:/nonexistent", ref, "id"], "there is no such directory"],
        [["--platform", "linux/arm64", ref, "id"], "--platform"],
        [["--rm=false", ref, "id"], "--rm=false"],
        [["--cap-add", "NONSENSE", ref, "id"], '"NONSENSE" is not a Linux capability'],
        [["-e", "a.b=c", ref, "id"], 'Cannot set variable "a.b"'],
        [["-v", "volume:/data", ref, "id"], 'Cannot mount "volume"'],
        [["-v", "/nonexistent:/data", ref, "id"], 'Cannot mount "/nonexistent"'],
        [["--entrypoint", "/no/sh", ref, "id"], "it has no shell"],
        [["--stopped", "runc://no-such-container", "id"], "no such container"],
      ] as const
    ) {
      const { code, stdout, stderr } = await cdebug(["exec", ...args]);
      assertEquals([code, stdout], [125, ""], `${args}: ${stderr}`);
      assertIncludes(stderr, text);
      assert(!/\n\s+at /.test(stderr), stderr);
    }
  } finally {
    zombie.kill();
    await zombie.status;
  }
  assertEquals(await traces(), []);
});

test("a process in the machine's own namespaces", async () => {
  const own = new Deno.Command("sleep", { args: ["1234"], env: { MARK: "here" } }).spawn();
  try {
    const script = 'cat "/proc/$1/environ" | tr "\\0" "\\n" | grep MARK; readlink /proc/self/ns/net';
    const { code, stdout } = await cdebug([
      "exec",
      `pid://${own.pid}`,
      "sh",
      "-c",
      script,
      "sh",
      String(own.pid),
    ]);
    assertEquals([code, stdout], [0, `MARK=here\n${await Deno.readLink("/proc/self/ns/net")}\n`]);
  } finally {
    own.kill("SIGKILL");
    await own.status;
  }
});

test("nested namespaces: the innermost is the session's", async () => {
  const outer = new Deno.Command("unshare", {
    args: [
      ...["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"],
      ...["unshare", "--pid", "--fork", "--mount-proc", "--net", "--kill-child", "sleep", "12345"],
    ],
  }).spawn();
  try {
    const pid = await poll(async () => Number((await run("pgrep", ["-x", "-f", "sleep 12345"])).trim()));
    const { code, stdout, stderr } = await cdebug([
      "exec",
      `pid://${pid}`,
      "sh",
      "-c",
      "readlink /proc/1/exe; id -u; ls /sys/class/net 2>/dev/null | wc -l; cat /proc/1/comm",
    ]);
    assertEquals(code, 0, stderr);
    assertIncludes(stdout, "sleep\n0\n");
  } finally {
    outer.kill("SIGKILL");
    await outer.status;
  }
});

test("a plan for a PID that another process has now is stale", async () => {
  const first = await startTarget();
  const plan = await cdebug(["plan", "exec", `pid://${first.pid}`, "true"]);
  await first[Symbol.asyncDispose]();
  // The kernel counts on from here; somebody else may be faster.
  const again = await poll(async () => {
    await Deno.writeTextFile("/proc/sys/kernel/ns_last_pid", String(first.pid - 1));
    const child = new Deno.Command("sleep", { args: ["1234"] }).spawn();
    if (child.pid === first.pid) return child;
    child.kill("SIGKILL");
    await child.status;
    throw new Error(`PID ${first.pid} was not used again`);
  });
  try {
    await using file = await temporaryFile(plan.stdout);
    const stale = await cdebug(["apply", file.path]);
    assertEquals(stale.code, 125);
    assertIncludes(stale.stderr, "the plan is stale");
    assertIncludes(stale.stderr, `Hint: cdebug apply ${file.path} --retarget`);
    assertEquals((await cdebug(["apply", "--yes", "-q", file.path, "--retarget"])).code, 0);
    again.kill("SIGKILL");
    await again.status;
    assertIncludes((await cdebug(["apply", file.path])).stderr, "there is no such process");
  } finally {
    try {
      again.kill("SIGKILL");
    } catch {
      // It has ended above.
    }
  }
});

test("signals end the session, and the command, and leave nothing", async () => {
  await using target = await startTarget();
  const ref = `pid://${target.pid}`;
  for (const [signal, code] of [["SIGTERM", 143], ["SIGINT", 130], ["SIGHUP", 129]] as const) {
    const child = spawn(["exec", ref, "sh", "-c", "echo on; exec sleep 1234"]);
    const said = child.stdout.getReader();
    await said.read();
    child.kill(signal);
    assertEquals((await child.status).code, code);
    await Promise.all([said.cancel(), child.stderr.cancel()]);
    assertEquals(await traces(), []);
  }
  for (const victim of ["sidecar", "target"] as const) {
    await using other = await startTarget();
    const child = spawn(["exec", `pid://${other.pid}`, "sh", "-c", "echo on; exec sleep 1234"]);
    const said = child.stdout.getReader();
    await said.read();
    Deno.kill(victim === "target" ? other.pid : await sidecarOf(String(other.pid)), "SIGKILL");
    const [{ code }, stderr] = await Promise.all([child.status, new Response(child.stderr).text()]);
    await said.cancel();
    assertEquals(code, 137, stderr);
    if (victim === "target") assertIncludes(stderr, "has stopped");
    else assertEquals((await files(other.pid, "")).filter((name) => name.startsWith(".")), []);
    assertEquals(await traces(), []);
  }
});

test("after 30 times kill -9 of cdebug nothing is left", async () => {
  await using target = await startTarget();
  const ref = `pid://${target.pid}`;
  const begins = await Deno.readLink("/proc/self/ns/mnt");
  const namespaces = async () => {
    const found = new Set<string>();
    for await (const { name } of Deno.readDir("/proc")) {
      found.add(await Deno.readLink(`/proc/${name}/ns/mnt`).catch(() => begins));
    }
    return found.size;
  };
  const before = await namespaces();
  let during = 0;
  for (let i = 0; i < 30; i++) {
    const interactive = i % 3 === 1;
    const args = ["exec", ...interactive ? ["-i"] : [], ref, "sh", "-c", "echo on; exec sleep 1234"];
    let child: Deno.ChildProcess;
    if (i % 3 === 2) { // in a terminal
      const line = [Deno.execPath(), "run", "-A", MAIN, "exec", "-it", ref, "sleep", "1234"].join(" ");
      child = new Deno.Command("script", {
        args: ["-qec", `echo pid $$; exec ${line}`, "/dev/null"],
        env: { CDEBUG_HISTORY: "off" },
        stdin: "null",
        stdout: "piped",
        stderr: "piped",
      }).spawn();
    } else child = spawn(args, interactive ? { stdin: "" } : {});
    const said = child.stdout.getReader();
    const first = new TextDecoder().decode((await said.read()).value ?? new Uint8Array());
    await new Promise((resolve) => setTimeout(resolve, Math.random() * (i % 3 === 2 ? 900 : 500)));
    const pid = /pid (\d+)/.exec(first)?.[1];
    if ((await traces()).some((line) => line.includes("sleep 1234"))) during++;
    Deno.kill(pid === undefined ? child.pid : Number(pid), "SIGKILL");
    if (interactive) await child.stdin.close().catch(() => {});
    await Promise.all([child.status, said.cancel(), child.stderr.cancel()]);
  }
  assert(during >= 20, `only ${during} sessions ran when they lost their cdebug`);
  await poll(async () => assertEquals(await traces(), []));
  await poll(async () => assertEquals(await namespaces(), before));
  assertEquals((await files(target.pid, "")).filter((name) => name.startsWith(".")), []);
  assertEquals((await cdebug(["ls", "-q", "pid://"])).stdout, "");
});

test("a detached session is listed, and ends when it is told to", async () => {
  await using target = await startTarget();
  const { code, stdout } = await cdebug(["exec", "-d", `pid://${target.pid}`, "sleep", "1234"]);
  assertEquals(code, 0);
  const name = stdout.trim();
  assert(/^cdebug-[0-9a-f]{8}$/.test(name), stdout);
  await poll(async () => {
    const list = (await cdebug(["ls", "pid://"])).stdout;
    assert(/pid:\/\/\d+ +running +.* +detached +sleep 1234/.test(list), list);
  });
  await run("pkill", ["-f", name]);
  await poll(async () => assertEquals(await traces(), []));
  assertEquals((await files(target.pid, "")).filter((name) => name.startsWith(".")), []);
});

test("in a terminal: keys are the command's, and the foreground is given back", async () => {
  await using target = await startTarget();
  await using terminal = await Terminal.open();
  await terminal.type("stty -a | md5sum");
  await terminal.shows("  -");
  const before = (await terminal.screen()).split("\n").find((line) => line.endsWith("  -"))!;
  for (const shell of ["sh", "bash"]) {
    await terminal.type(`clear; cdebug exec -it pid://${target.pid} ${shell}; echo code=$?`);
    await poll(async () =>
      assert(/(^|\n)\S*# *$/.test((await terminal.screen()).trimEnd()), await terminal.screen())
    );
    await terminal.type("sleep 1234");
    await terminal.keys("C-c");
    await terminal.type("echo sti''ll here");
    await terminal.shows("still here");
    await terminal.type("sleep 1234");
    await terminal.keys("C-z");
    await terminal.shows("Stopped");
    await terminal.type("fg");
    await terminal.keys("C-c");
    await terminal.type("exit 3");
    await terminal.shows("code=3");
  }
  await terminal.type(
    `clear; sh -c 'cdebug_() { ${Deno.execPath()} run -A ${MAIN} "$@"; }; cdebug_ exec -it pid://${target.pid} sh -c "exit 4"; echo code=$?; read x; echo got $x'`,
  );
  await terminal.shows("code=4");
  await terminal.type("more");
  await terminal.shows("got more");
  await terminal.type(`clear; cdebug exec -it pid://${target.pid} sleep 1234; echo code=$?`);
  await sidecarOf(String(target.pid));
  await terminal.keys("C-c");
  await terminal.shows("code=130");
  await terminal.type("clear; stty -a | md5sum");
  await terminal.shows(before);
  assertEquals(await traces(), []);
});

for (const runtime of ["runc", "crun"] as const) {
  localTest(
    `processes: ${runtime}: what does not run is refused, with the command that mends it`,
    async () => {
      for (
        const [state, word] of [["paused", "resume"], ["created", "start"], ["stopped", "delete"]] as const
      ) {
        await using container = await startRunc({ runtime, state });
        const { code, stderr } = await cdebug([
          "exec",
          "--runtime",
          container.state,
          `${runtime}://${container.id}`,
          "id",
        ]);
        assertEquals(code, 125, stderr);
        assertIncludes(stderr, `Hint: ${runtime} --root ${container.state} ${word} ${container.id}`);
      }
    },
    runtime,
  );

  localTest(`processes: ${runtime}: found by oci://, and without a scheme`, async () => {
    await using container = await startRunc({ runtime, listed: true });
    for (const ref of [`oci://${container.id}`, container.id, `${runtime}://${container.id.slice(0, -2)}`]) {
      const { code, stdout, stderr } = await cdebug(["exec", ref, "ls", "/server"]);
      assertEquals([code, stdout], [0, "/server\n"], stderr);
    }
  }, runtime);

  localTest(
    `processes: ${runtime}: a seccomp filter is not copied, which the plan says and apply asks about`,
    async () => {
      await using container = await startRunc({ runtime, refuse: ["sethostname"] });
      const plan = await cdebug([
        "plan",
        "exec",
        "--runtime",
        container.state,
        `${runtime}://${container.id}`,
        "true",
      ]);
      assertIncludes(plan.stdout, "seccomp is not the target's");
      const refused = await cdebug(["apply", "-"], { stdin: plan.stdout });
      assertEquals(refused.code, 125);
      assertIncludes(refused.stderr, "--yes");
      assertEquals((await cdebug(["apply", "--yes", "-"], { stdin: plan.stdout })).code, 0);
    },
    runtime,
  );
}

test("an ordinary user debugs what is their own, and is told what takes root", async () => {
  await using dir = await temporaryDirectory();
  await run("cp", ["-r", Deno.execPath(), `${dir.path}/deno`]);
  await run("cp", ["-r", MAIN.replace(/main\.ts$/, ""), `${dir.path}/cdebug`]);
  await run("chown", ["-R", "1234:1235", dir.path]);
  await using own = await startTarget({ owner: "1234:1235" });
  await using other = await startTarget();
  const exec = async (ref: string, ...command: string[]) => {
    const { code, stdout, stderr } = await new Deno.Command("setpriv", {
      args: [
        ...["--reuid", "1234", "--regid", "1235", "--clear-groups", `${dir.path}/deno`, "run", "-A"],
        ...["--no-lock", "--no-config", `${dir.path}/cdebug/main.ts`, "exec", ref, ...command],
      ],
      env: { HOME: dir.path, DENO_DIR: `${dir.path}/cache`, CDEBUG_HISTORY: "off" },
      cwd: "/",
      stdin: "null",
    }).output();
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    return { code, stdout: text(stdout), stderr: text(stderr) };
  };
  assertEquals(await exec(`pid://${own.pid}`, "sh", "-c", "ls /server; id -u; exit 3"), {
    code: 3,
    stdout: "/server\n0\n",
    stderr: "",
  });
  const refused = await exec(`pid://${other.pid}`, "id");
  assertEquals(refused.code, 125);
  assertIncludes(refused.stderr, "it is user 0's");
  assertIncludes(refused.stderr, `Hint: sudo cdebug exec pid://${other.pid}`);
  assertEquals(await traces(), []);
  assert(!await exists("/run/mount/utab") || !(await traces()).length);
});
