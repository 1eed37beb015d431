import { assert, assertEquals, assertThrows } from "../assert.ts";
import { FAKE_CAPABILITIES as capabilities, fakeTarget } from "../fake_driver.ts";
import { golden } from "../golden.ts";
import * as exec from "../../plans/exec.ts";
import { script as enter } from "../../plans/enter.ts";
import { CdebugError } from "../../lib/errors.ts";
import { parseFlags } from "../../lib/flags.ts";
import type { RequestSurroundings } from "../../lib/plan.ts";
import type { Target } from "../../lib/target.ts";

const pure = { permissions: "none" } as const;
const around: RequestSurroundings = {
  cwd: "/home/me",
  image: undefined,
  isRoot: true,
  readText: (path) => path === "vars" ? "# comment\nA=1\n\n  B\r\nC=x=y\n" : "",
};

function request(argv: readonly string[], surroundings = around) {
  const { values, rest } = parseFlags("exec", exec.flags, argv);
  return exec.request(values, rest, surroundings);
}

function compile(argv: readonly string[], target: Partial<Target> = {}) {
  return exec.compile(request(argv), fakeTarget(target), capabilities);
}

golden("exec_command", () => compile(["web", "cat", "/etc/os-release"]));
golden("exec_shell", () => compile(["-it", "web"]));
golden("exec_non_root", () => compile(["docker://web", "id"], { user: "1000", readOnlyRoot: true }));
golden("exec_host", () =>
  compile(["-d", "web", "sleep", "60"], {
    pid: 4711,
    namespaces: { network: "host", pid: "host", ipc: "host", uts: "host", user: "host" },
  }));
golden("exec_stripped", () =>
  compile(["web", "id"], {
    user: "web:staff",
    workdir: "/srv",
    path: "",
    namespaces: { network: "none", pid: "own", ipc: "shareable", uts: "own", user: "engine" },
    dropLinuxCapabilities: ["ALL"],
    securityOptions: ["no-new-privileges", "seccomp=unconfined"],
  }));
golden("exec_process", () =>
  exec.compile(
    request(["-it", "pid://4711"]),
    fakeTarget({
      engine: "pid",
      name: "4711",
      id: "4711.823100.4026531836.0b8f9d7c-3a52-4f5e-9d55-7f1c2a3b4c5d",
      startedAt: "8231 s after the machine",
      image: "/server",
      namespaces: { network: "own", pid: "own", ipc: "shareable", uts: "host", user: "own" },
      addLinuxCapabilities: ["NET_BIND_SERVICE"],
      dropLinuxCapabilities: ["ALL"],
      securityOptions: ["no-new-privileges", "seccomp=filter"],
    }),
    {
      join: ["network", "pid", "ipc", "uts", "user"],
      snapshot: false,
      images: false,
      terminal: "inherited",
      ownNamespaces: false,
      starting: ["SYS_CHROOT"],
      cannotCopy: { seccomp: "nobody can" },
    },
  ));
golden("exec_all_flags", () =>
  compile([
    ...["-i", "--user", "101:102", "--workdir", "/srv", "--name", "mine", "--rm=false", "--privileged"],
    ...["--cap-add", "net_admin,CAP_SYS_TIME", "--cap-drop", "MKNOD", "--no-link", "--target-env"],
    ...["-e", "A=it's $x", "-e", "B", "--env-file", "vars", "-v", "./data:/data:ro", "-v", "cache:/cache"],
    ...["--image", "my/tools@sha256:00", "--platform", "linux/arm64", "--pull", "never"],
    ...["--entrypoint", "/bin/ash", "--timeout", "1.5m", "--runtime", "/run/docker.sock"],
    ...["web", "--", "echo", "a  b", "it's", "$x", '"q"', "", "*", "ü", "tab\there\nnewline", "- x: y #"],
  ]));

Deno.test("exec: with -i and without a command it is sh", pure, () => {
  assertEquals(request(["-i", "web"]).argv, ["sh"]);
});

Deno.test("exec: the toolkit is --image, else CDEBUG_IMAGE, else busybox", pure, () => {
  const toolkit = (argv: readonly string[], image?: string) =>
    exec.toolkit(request(argv, { ...around, image }), capabilities);
  assertEquals(toolkit(["-i", "web"]), "docker.io/library/busybox:musl");
  assertEquals(toolkit(["-i", "web"], "mine"), "mine");
  assertEquals(toolkit(["-i", "--image", "other", "web"], "mine"), "other");
});

Deno.test("exec: a process's toolkit is the host, a directory, or a registry's image", pure, () => {
  const without = { ...capabilities, images: false };
  const toolkit = (...argv: string[]) =>
    exec.toolkit(request(["-i", ...argv, "pid://1"], { ...around, image: "mine" }), without);
  assertEquals(toolkit(), "host");
  assertEquals(toolkit("--image", "dir:/srv/debian"), "dir:/srv/debian");
  assertEquals(toolkit("--image", "alpine", "--platform", "linux/arm64"), "alpine");
  for (
    const refused of [["--image", "dir:relative"], ["--platform", "linux/arm64"], ["--rm=false"]]
  ) {
    assertThrows(() => toolkit(...refused), CdebugError, "Cannot run exec");
  }
});

Deno.test("exec: what is typed is never part of the script", pure, () => {
  const { sidecars: [sidecar] } = compile(["-e", "SECRET=1", "web", "rm", "-rf", "typed"]);
  assertEquals(sidecar!.script, enter);
});

Deno.test("exec: compiling again gives the same plan", pure, () => {
  const argv = ["-i", "-e", "A=1", "web", "ls"];
  assertEquals(compile(argv), compile(argv));
});

Deno.test("exec: variables of files come first, flags win", pure, () => {
  assertEquals(request(["--env-file", "vars", "-e", "A=2", "web", "ls"]).env, { A: "2", B: null, C: "x=y" });
});

Deno.test("exec: -e PATH is the command's, not the toolkit's", pure, () => {
  const [sidecar] = compile(["-e", "PATH=/opt/bin", "web", "ls"]).sidecars;
  assertEquals(sidecar!.env, undefined);
  assert(sidecar!.args.includes("/opt/bin"));
});

Deno.test("exec: whoever picks a target from a list gets a shell, as far as the flags allow", pure, () => {
  const implied = (...argv: string[]) => exec.implied(parseFlags("exec", exec.flags, argv).values);
  assertEquals(implied(), ["-it"]);
  assertEquals(implied("-it"), []);
  assertEquals(implied("-i"), ["-t"]);
  assertEquals(implied("--tty=false"), ["-i"]);
  assertEquals(implied("-d"), []);
});

Deno.test("exec: contradictions and nonsense are refused, with what to type", pure, () => {
  const refusals: [string[], string][] = [
    [[], "no target is named"],
    [["web"], "no command is named, and a shell has no input without -i"],
    [["-d", "--timeout", "5", "web", "true"], "--timeout cannot end a detached session"],
    [
      ["--timeout", "soon", "web", "true"],
      '--timeout takes a time such as 30s, 5m or 1h, at most 576h, not "soon"',
    ],
    [["--timeout", "0", "web", "true"], "--timeout takes a time"],
    [["--timeout", "999999h", "web", "true"], "--timeout takes a time"],
    [["-e", "=x", "web", "true"], '"=x" is not a variable'],
    [["-e", "A B=x", "web", "true"], '"A B=x" is not a variable'],
    [["-v", "data", "web", "true"], '"data" is not a volume'],
    [["-v", "data:relative", "web", "true"], '"data:relative" is not a volume'],
    [["-v", "data:/x:rx", "web", "true"], '"data:/x:rx" is not a volume'],
    [["--cap-add", "A,,B", "web", "true"], "is not a Linux capability"],
    [["--image", "", "web", "true"], "--image needs a value, IMAGE"],
    [["--name", "a b", "web", "true"], "--name takes"],
  ];
  for (const [argv, text] of refusals) assertThrows(() => compile(argv), CdebugError, text);
  assertThrows(() => compile(["-e", "PATH", "web", "true"]), CdebugError, "-e PATH needs its value");
});
