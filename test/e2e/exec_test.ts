/** `cdebug exec` as a user sees it: arguments, streams, exit codes, flags. */

import { assert, assertEquals, assertIncludes } from "../assert.ts";
import { poll } from "../engines/debian.ts";
import { temporaryDirectory, temporaryFile } from "../temporary.ts";
import {
  BARE,
  cdebug,
  cdebugBytes,
  docker,
  idOf,
  liveTest,
  MAIN,
  ORDINARY,
  target,
  userEnv,
} from "./engine.ts";

liveTest("exec: the command sees the target's files", async () => {
  await using web = await target();
  const { code, stdout } = await cdebug(["exec", "--rm", "-q", web.name, "cat", "/etc/os-release"]);
  assertEquals([code, stdout], [0, "ID=debian\nNAME=ordinary\n"]);
});

liveTest("exec: a shell in a target without one, fed by a pipe", async () => {
  await using web = await target({ image: BARE });
  const result = await cdebug(["exec", "--rm", "-q", "-i", web.name], {
    stdin: 'echo "hello $((6*7)) world"\nexit 0\n',
  });
  assertEquals(result, { code: 0, stdout: "hello 42 world\n", stderr: "" });
});

liveTest("exec: a target in the host's namespaces", async () => {
  await using web = await target({ run: ["--net", "host", "--pid", "host"] });
  const { stdout } = await cdebug(["exec", web.name, "cat", "/etc/os-release"]);
  assertIncludes(stdout, "debian");
  const ofHost = await Deno.readLink("/proc/self/ns/net");
  assertEquals((await cdebug(["exec", web.name, "readlink", "/proc/self/ns/net"])).stdout, `${ofHost}\n`);
});

liveTest("exec: as another user, by name or number, known to the target or not", async () => {
  await using web = await target({ run: ["--user", "101:102"] });
  const as = async (user: string, ...argv: string[]) => await cdebug(["exec", "-u", user, web.name, ...argv]);
  assertEquals(await as("101:101", "id", "-u"), { code: 0, stdout: "101\n", stderr: "" });
  assertIncludes((await as("101:101", "busybox")).stdout, "BusyBox v1");
  assertEquals((await as("web", "sh", "-c", "id -u; id -g; echo $HOME")).stdout, "101\n102\n/home/web\n");
  assertEquals((await as("web:staff", "id", "-g")).stdout, "50\n");
  assertEquals((await as("4711:4712", "sh", "-c", "id -u; id -g")).stdout, "4711\n4712\n");
  const unknown = await as("nobody-here", "true");
  assertEquals(unknown.code, 125);
  assertIncludes(unknown.stderr, 'Cannot run as "nobody-here"');
});

liveTest("exec: CDEBUG_ROOTFS is the link to the toolkit, in the target", async () => {
  await using web = await target({ image: BARE });
  const { stdout } = await cdebug([
    "exec",
    web.name,
    "sh",
    "-c",
    'echo "$CDEBUG_ROOTFS"; ls "$CDEBUG_ROOTFS/bin/busybox"; readlink "$CDEBUG_ROOTFS"; ls /server',
  ]);
  const lines = stdout.split("\n");
  assert(/^\/\.cdebug-[0-9a-f]{8}$/.test(lines[0]!), stdout);
  assertEquals(lines[1], `${lines[0]}/bin/busybox`);
  assert(/^\/proc\/\d+\/root\/$/.test(lines[2]!), stdout);
  assertEquals(lines[3], "/server");
});

liveTest("exec: arguments arrive exactly", async () => {
  await using web = await target({ image: BARE });
  const args = [
    "a  b",
    "it's",
    "$x",
    '"q"',
    "",
    "*",
    "ü",
    "tab\there\nnewline",
    "$(id)",
    "`id`",
    "\\",
    "-n",
    "--",
  ];
  const { stdout } = await cdebug(["exec", web.name, "printf", "[%s]", ...args]);
  assertEquals(stdout, args.map((arg) => `[${arg}]`).join(""));
  const echoed = await cdebug(["exec", web.name, "echo", ...args.slice(0, 8)]);
  assertEquals(echoed.stdout, args.slice(0, 8).join(" ") + "\n");
});

liveTest("exec: bytes pass unchanged in both directions, with the input's end", async () => {
  await using web = await target({ image: BARE });
  const bytes = new Uint8Array(1024 * 1024);
  for (let at = 0; at < bytes.length; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
  const { code, stdout } = await cdebugBytes(["exec", "-i", web.name, "cat"], { stdin: bytes });
  assertEquals(code, 0);
  assertEquals(digest(stdout), digest(bytes));

  const binary = await Deno.realPath("/bin/sh");
  await docker(["cp", binary, `${web.name}:/binary`]);
  const copied = await cdebugBytes(["exec", web.name, "cat", "/binary"]);
  assertEquals(digest(copied.stdout), digest(await Deno.readFile(binary)));
  await cdebug(["exec", web.name, "rm", "/binary"]);
});

liveTest("exec: 100 MB through a pipe come back byte-equal", async () => {
  await using web = await target({ image: BARE });
  await using input = await temporaryFile("");
  const compare = new Deno.Command("sh", {
    args: [
      "-c",
      'head -c 104857600 /dev/urandom >"$1" && "$2" run -A "$3" exec -i "$4" cat <"$1" | cmp - "$1"',
      "sh",
      input.path,
      Deno.execPath(),
      MAIN,
      web.name,
    ],
    env: userEnv(),
    stdin: "null",
  });
  const { code, stdout, stderr } = await compare.output();
  assertEquals([code, new TextDecoder().decode(stdout), new TextDecoder().decode(stderr)], [0, "", ""]);
});

liveTest("exec: stdout and stderr stay apart", async () => {
  await using web = await target();
  assertEquals(await cdebug(["exec", web.name, "sh", "-c", "echo out; echo err >&2"]), {
    code: 0,
    stdout: "out\n",
    stderr: "err\n",
  });
});

liveTest("exec: output written just before the exit always arrives, 200 times", async () => {
  await using web = await target();
  const command = ["exec", web.name, "sh", "-c", "head -c 65536 /dev/zero; exit 5"];
  for (let run = 0; run < 200; run += 4) {
    const results = await Promise.all([0, 1, 2, 3].map(() => cdebugBytes(command)));
    for (const { code, stdout } of results) assertEquals([code, stdout.length], [5, 65536]);
  }
});

liveTest("exec: exit codes are the command's", async () => {
  await using web = await target();
  const codes: [string[], number, string][] = [
    [["sh", "-c", "exit 7"], 7, ""],
    [["sh", "-c", "kill -9 $$"], 137, ""],
    [["sh", "-c", "kill -TERM $$"], 143, ""],
    [["no-such-program"], 127, 'Cannot run "no-such-program": neither the target nor the toolkit has it'],
    [["/no/such/file"], 127, 'Cannot run "/no/such/file": the target has no such file'],
    [["/srv/not-executable"], 126, 'Cannot run "/srv/not-executable": it is not executable'],
    [["/srv"], 126, 'Cannot run "/srv": it is a directory'],
    [["sh", "-c", "exit 125"], 125, ""],
  ];
  for (const [argv, code, text] of codes) {
    const result = await cdebug(["exec", web.name, ...argv]);
    assertEquals([argv, result.code], [argv, code]);
    if (text === "") assertEquals(result.stderr, "");
    else assertIncludes(result.stderr, text);
  }
});

liveTest("exec: what cdebug cannot do is 125, a clear line, a hint, and nothing left", async () => {
  await using web = await target();
  const cases: [string[], string, string, Record<string, string>?][] = [
    [["exec", `${web.name}x`, "true"], `Cannot find target "${web.name}x"`, `Did you mean ${web.name}?`],
    [["exec", "--imagee", "x", web.name, "true"], "unknown flag --imagee", "Did you mean --image?"],
    [["exec"], "no target is named", "docker ps"],
    [["exec", web.name], "no command is named", `cdebug exec -it ${web.name}`],
    [["exce", web.name, "true"], 'Cannot run "exce"', "Did you mean cdebug exec?"],
    [["exec", "podmann://x", "true"], 'unknown scheme "podmann"', "podman://"],
    [["exec", "--runtime", "/no/docker.sock", web.name, "true"], "there is no such socket", "--runtime"],
    [
      ["exec", "--runtime", "tcp://127.0.0.1:2", web.name, "true"],
      "nobody listens there",
      "start it",
    ],
    [
      ["exec", "--runtime", "ssh://h/x;touch$IFS/tmp/pwned", web.name, "true"],
      "a socket's path may hold",
      "",
    ],
    [["exec", "--runtime", "ssh://[", web.name, "true"], "expected ssh://", ""],
    [["exec", "--runtime", "ftp://x", web.name, "true"], "not an engine's address", "unix://"],
    [
      ["exec", "--pull", "never", "--image", "no/such", web.name, "true"],
      "the daemon does not have it",
      "docker pull",
    ],
    [
      ["exec", "--image", "127.0.0.1:2/no/such", web.name, "true"],
      'Cannot pull "127.0.0.1:2/no/such"',
      "docker pull",
    ],
    [["exec", "--image", "Not An Image", web.name, "true"], '"Not An Image"', ""],
    [["exec", "--image", BARE, web.name, "true"], "it has no shell", "busybox:musl"],
    [["exec", "--entrypoint", "/no/sh", web.name, "true"], "it has no shell", "--entrypoint"],
    [["exec", "-w", "/no/where", web.name, "true"], 'Cannot change to "/no/where"', ""],
    [["exec", "--env-file", "/no/file", web.name, "true"], 'Cannot read "/no/file"', ""],
    [["exec", "-it", web.name], "stdin is not one", "without -t"],
    [["exec", "--cap-add", "NONSENSE", web.name, "true"], "NONSENSE", ""],
    [["exec", "--platform", "linux/none", "--pull", "never", web.name, "true"], "linux/none", ""],
    [["apply", "/no/plan.yaml"], 'Cannot read plan "/no/plan.yaml"', ""],
    [["plan", "exce", web.name, "true"], 'Cannot plan "exce"', "cdebug plan exec"],
    [["exec", web.name, "true"], "no such context", "docker context ls", {
      DOCKER_HOST: "",
      DOCKER_CONTEXT: "nowhere",
    }],
  ];
  for (const [argv, text, hint, env] of cases) {
    const { code, stdout, stderr } = await cdebug(argv, env ? { env } : {});
    assertEquals([argv, code, stdout], [argv, 125, ""], stderr);
    assertIncludes(stderr, text);
    assertIncludes(stderr, hint);
    assert(stderr.startsWith("cdebug: "), stderr);
    assert(stderr.trimEnd().split("\n").length <= 2, `expected two lines at most:\n${stderr}`);
    assert(!/^\s+at /m.test(stderr), stderr);
  }
});

liveTest("exec: a failure of cdebug's own shows its stack with --debug", async () => {
  const { code, stderr } = await cdebug(["exec", "--debug", "no-such-target"]);
  assertEquals(code, 125);
  assert(/^\s+at /m.test(stderr), stderr);
});

liveTest("exec: targets that do not run are refused with what to type", async () => {
  const states: [string[], string, string][] = [
    [["pause"], "it is paused", "docker unpause"],
    [["stop", "-t", "0"], "it is not running", "docker start"],
  ];
  for (const [command, text, hint] of states) {
    await using web = await target();
    await docker([...command, web.name]);
    const { code, stderr } = await cdebug(["exec", web.name, "true"]);
    assertEquals(code, 125);
    assertIncludes(stderr, text);
    assertIncludes(stderr, `${hint} ${web.name}`);
    if (command[0] === "pause") await docker(["unpause", web.name]);
  }
});

liveTest("exec: an ID's beginning names a target; one that is ambiguous, its candidates", async () => {
  await using web = await target();
  const id = await idOf(web.name);
  assertEquals((await cdebug(["exec", `docker://${id.slice(0, 12)}`, "echo", "found"])).stdout, "found\n");

  // Seventeen containers share the first digit of their IDs with another one at the latest.
  const others: string[] = [];
  try {
    for (let i = 0; i < 17; i++) others.push((await docker(["create", ORDINARY, "true"])).trim());
    const firsts = others.map((other) => other[0]!);
    const shared = firsts.find((first, i) => firsts.indexOf(first) !== i)!;
    const { code, stderr } = await cdebug(["exec", shared, "true"]);
    assertEquals(code, 125);
    assertIncludes(stderr, "the ID is ambiguous");
    for (const other of others.filter((other) => other[0] === shared)) {
      assertIncludes(stderr, other.slice(0, 12));
    }
  } finally {
    await docker(["rm", "-f", ...others]);
  }
});

liveTest("exec: namespaces are the target's", async () => {
  await using web = await target({ run: ["--ipc", "shareable"] });
  const { stdout: ofSession } = await cdebug([
    "exec",
    web.name,
    "sh",
    "-c",
    "for ns in net pid ipc; do readlink /proc/self/ns/$ns; done",
  ]);
  const ofTarget = await docker([
    "exec",
    web.name,
    "sh",
    "-c",
    "for ns in net pid ipc; do readlink /proc/1/ns/$ns; done",
  ]);
  assertEquals(ofSession, ofTarget);
});

liveTest("exec: variables, by flag, from here, from a file, over the target's own", async () => {
  await using web = await target({ run: ["-e", "COLOUR=red", "-e", "KIND=it's a $target"] });
  await using file = await temporaryFile("# comment\nFILED=a b\nCOLOUR=file\n");
  const show = ["sh", "-c", 'echo "$COLOUR|$KIND|$FILED|$HERE|$GIVEN"'];
  const plain = await cdebug(
    ["exec", "-e", "HERE", "-e", "GIVEN=x'y\"z", "--env-file", file.path, web.name, ...show],
    { env: { HERE: "from here" } },
  );
  assertEquals(plain.stdout, "file||a b|from here|x'y\"z\n");
  const taken = await cdebug(["exec", "--target-env", "-e", "COLOUR=blue", web.name, ...show]);
  assertEquals(taken.stdout, "blue|it's a $target|||\n");
});

liveTest("exec: the target's programs come first on PATH, the toolkit's follow", async () => {
  await using web = await target({ run: ["-e", "PATH=/bin"] });
  const { stdout } = await cdebug(["exec", web.name, "sh", "-c", "echo $PATH"]);
  assert(/^\/bin:\/\.cdebug-[0-9a-f]{8}\/bin:\/\.cdebug-[0-9a-f]{8}\/sbin\n$/.test(stdout), stdout);
  assertEquals((await cdebug(["exec", "-e", "PATH=/nowhere", web.name, "echo", "found"])).stdout, "found\n");
});

liveTest("exec: the working directory is the target's, or the one asked for", async () => {
  await using web = await target({ run: ["-w", "/srv"] });
  assertEquals((await cdebug(["exec", web.name, "pwd"])).stdout, "/srv\n");
  assertEquals((await cdebug(["exec", "-w", "/tmp", web.name, "pwd"])).stdout, "/tmp\n");
});

liveTest("exec: no variable, of the target or the user, takes the script over", async () => {
  const hostile = [
    "program",
    "root",
    "shell",
    "run",
    "tools",
    "c_program",
    "c_root",
    "c_shell",
    "c_run",
    "c_tools",
  ];
  const run = hostile.flatMap((name) => ["-e", `${name}=/srv/evil`]);
  await using web = await target({ run: [...run, "-e", "LONG=" + "x".repeat(10_000)] });
  const show = ["sh", "-c", 'id -u; echo "$program $c_root ${#LONG} $PATH"'];
  const { code, stdout, stderr } = await cdebug(["exec", "--target-env", "-u", "101", web.name, ...show]);
  assertEquals([code, stderr], [0, ""]);
  assert(stdout.startsWith("101\n/srv/evil /srv/evil 10000 /"), stdout);
  const given = await cdebug(["exec", "-e", "root=mine", "-e", "user=me", "-e", "mode=x", web.name, "env"]);
  for (const line of ["root=mine", "user=me", "mode=x"]) assertIncludes(given.stdout, `${line}\n`);
});

liveTest("exec: digits are a user's number, even where somebody is called so", async () => {
  await using web = await target();
  const passwd = "1000:x:0:0::/:/bin/sh\nlast:x:77:78::/srv:/bin/sh";
  await docker(["exec", web.name, "sh", "-c", `printf '${passwd}' >/etc/passwd`]);
  assertEquals((await cdebug(["exec", "-u", "1000", web.name, "id", "-u"])).stdout, "1000\n");
  assertEquals(
    (await cdebug(["exec", "-u", "last", web.name, "sh", "-c", "id -u; echo $HOME"])).stdout,
    "77\n/srv\n",
  );
});

liveTest("exec: input that cannot be read ends, and is told", async () => {
  await using web = await target();
  const child = new Deno.Command("sh", {
    args: ["-c", '"$1" run -A "$2" exec -i "$3" cat </', "sh", Deno.execPath(), MAIN, web.name],
    env: userEnv(),
  });
  const { code, stdout, stderr } = await child.output();
  assertEquals([code, stdout.length], [0, 0]);
  assertIncludes(new TextDecoder().decode(stderr), "cdebug: Cannot read stdin: Is a directory");
});

liveTest("exec: HOME is that of the user in the target", async () => {
  await using web = await target();
  const home = async (...flags: string[]) =>
    (await cdebug(["exec", ...flags, web.name, "sh", "-c", "echo $HOME"])).stdout.trim();
  assertEquals(await home(), "/root");
  assertEquals(await home("-u", "web"), "/home/web");
  assertEquals(await home("-u", "4711"), "/");
  assertEquals(await home("-e", "HOME=/srv"), "/srv");
});

liveTest("exec: volumes are mounted into the toolkit", async () => {
  await using web = await target();
  await using dir = await temporaryDirectory();
  await Deno.writeTextFile(`${dir.path}/note`, "here\n");
  const { code, stdout, stderr } = await cdebug([
    "exec",
    "-v",
    `${dir.path}:/mnt:ro`,
    web.name,
    "sh",
    "-c",
    'cat "$CDEBUG_ROOTFS/mnt/note"; ! touch "$CDEBUG_ROOTFS/mnt/x"',
  ]);
  assertEquals([code, stdout], [0, "here\n"], stderr);
});

liveTest("exec: Linux capabilities are added and dropped", async () => {
  await using web = await target();
  const show = ["sh", "-c", "grep CapEff /proc/self/status"];
  const bits = async (...flags: string[]) => {
    const { stdout, stderr } = await cdebug(["exec", ...flags, web.name, ...show]);
    const found = /CapEff:\s*([0-9a-f]+)/.exec(stdout)?.[1];
    assert(found !== undefined, stderr);
    return BigInt(`0x${found}`);
  };
  const [NET_ADMIN, NET_RAW] = [12n, 13n];
  const plain = await bits();
  assertEquals([plain >> NET_ADMIN & 1n, plain >> NET_RAW & 1n], [0n, 1n]);
  const changed = await bits("--cap-add", "net_admin", "--cap-drop", "CAP_NET_RAW");
  assertEquals([changed >> NET_ADMIN & 1n, changed >> NET_RAW & 1n], [1n, 0n]);
});

liveTest("exec: a target with a read-only root is not written to", async () => {
  await using web = await target({ image: BARE, run: ["--read-only", "--user", "1000"] });
  const { code, stdout, stderr } = await cdebug([
    "exec",
    web.name,
    "sh",
    "-c",
    "echo $CDEBUG_ROOTFS; ls /server",
  ]);
  assertEquals(code, 0, stderr);
  assert(/^\/proc\/\d+\/root\n\/server\n$/.test(stdout), stdout);
});

liveTest("exec: --no-link writes nothing to the target", async () => {
  await using web = await target();
  const { stdout } = await cdebug([
    "exec",
    "--no-link",
    web.name,
    "sh",
    "-c",
    "ls -a / | grep cdebug; echo $?",
  ]);
  assertEquals(stdout, "1\n");
});

liveTest("exec: --name and --rm=false leave a container of that name", async () => {
  await using web = await target();
  const name = `mine-${web.name}`;
  try {
    assertEquals(
      (await cdebug(["exec", "--name", name, "--rm=false", web.name, "sh", "-c", "exit 3"])).code,
      3,
    );
    const state = await docker(["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name]);
    assertEquals(state, "exited 3\n");
    const again = await cdebug(["exec", "--name", name, web.name, "true"]);
    assertEquals(again.code, 125);
    assertIncludes(again.stderr, `the name "${name}" is in use`);
  } finally {
    await docker(["rm", "-f", name]);
  }
});

liveTest("exec: --timeout ends the session with 124", async () => {
  await using web = await target();
  const { code, stdout } = await cdebug([
    "exec",
    "--timeout",
    "1s",
    web.name,
    "sh",
    "-c",
    "echo up; sleep 1000",
  ]);
  assertEquals([code, stdout], [124, "up\n"]);
});

liveTest("exec: --detach prints the container's name; docker stop ends it and leaves nothing", async () => {
  await using web = await target();
  const { code, stdout } = await cdebug(["exec", "-d", web.name, "sleep", "1000"]);
  assertEquals(code, 0);
  assert(/^cdebug-[0-9a-f]{8}\n$/.test(stdout), stdout);
  const list = async () => (await docker(["exec", web.name, "ls", "-a", "/"])).includes(".cdebug-");
  await poll(async () => assertEquals(await list(), true));
  await docker(["stop", stdout.trim()]);
  await poll(async () => assertEquals(await list(), false));
});

liveTest("exec: the end of who reads the output ends the session", async () => {
  await using web = await target();
  const child = new Deno.Command("sh", {
    args: [
      "-c",
      '"$1" run -A "$2" exec "$3" yes | head -n 1',
      "sh",
      Deno.execPath(),
      MAIN,
      web.name,
    ],
    env: userEnv(),
  });
  const { stdout, stderr } = await child.output();
  assertEquals([new TextDecoder().decode(stdout), new TextDecoder().decode(stderr)], ["y\n", ""]);
});

/** Compared as text: a difference of a megabyte of bytes takes minutes to print. */
function digest(bytes: Uint8Array): string {
  return bytes.length + " " + bytes.reduce((sum, byte, i) => (sum * 31 + byte * (i + 1)) % 4294967291, 7);
}
