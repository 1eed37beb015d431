/**
 * `deno task demo`: debugs a process that sees one static program and nothing else. It takes Linux, no rights and no
 * container engine, and installs nothing. `deno task demo docker` does the same with a container: on the Docker
 * daemon that the docker client finds; where there is none, it says what it installs and starts, and does.
 */

import { CdebugError, reason } from "../lib/errors.ts";
import { MAIN, TOOLKIT } from "./e2e/engine.ts";
import { hasProgram, obstacle, run, say } from "./engines/debian.ts";
import { startDocker } from "./engines/docker.ts";
import type { Client } from "./engines/engine.ts";
import { importBare, importToolkit } from "./engines/images.ts";
import { startTarget, targetObstacle } from "./engines/process.ts";

/** A target, and what is different from target to target. */
interface Stage {
  /** As a user names it. */
  readonly ref: string;
  /** The command that would run `ls` in the target, if it had one; `run` throws with what it says instead. */
  readonly lacking: { readonly line: string; run(): Promise<string> };
  /** Lists the target's processes with the toolkit. */
  readonly ps: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Says what there is on the target now, and whether that is what was there before. */
  nothingLeft(): Promise<boolean>;
}

/** The demo is not for the history. */
const QUIET = { CDEBUG_HISTORY: "off" };

const STAGES = { process: processStage, docker: dockerStage };

Deno.exit(await demo(Deno.args[0] ?? "process"));

async function demo(name: string): Promise<number> {
  if (!Object.hasOwn(STAGES, name)) {
    say(`cdebug: Cannot show ${JSON.stringify(name)}: there is no such demo`);
    say("Hint: deno task demo, or deno task demo docker");
    return 1;
  }
  const interrupt = new AbortController();
  Deno.addSignalListener("SIGINT", () => interrupt.abort());
  try {
    await show(STAGES[name as keyof typeof STAGES], interrupt.signal);
    return 0;
  } catch (error) {
    if (interrupt.signal.aborted) return 130;
    say(`cdebug: Cannot go on with the demo: ${reason(error)}`);
    if (error instanceof CdebugError && error.hint) say(`Hint: ${error.hint}`);
    return 1;
  }
}

/** Makes a target and plays all scenes on it. Throws if one of them is not as it should be, or when interrupted. */
async function show(stageOf: typeof STAGES[keyof typeof STAGES], interrupt: AbortSignal): Promise<void> {
  await using owned = new AsyncDisposableStack();
  const stage = await stageOf(owned);
  const { ref, env } = stage;
  const expect = (condition: boolean, text: string) => {
    interrupt.throwIfAborted();
    if (!condition) throw new Error(`it expected ${text}`);
  };

  say(`$ ${stage.lacking.line}`);
  const refused = await stage.lacking.run().then(() => undefined, (error) => String(error));
  expect(/ls.*(No such file|not found)/.test(refused ?? ""), "a target without ls");
  say(refused!.replace(/^[^]*?failed with exit code \d+: /, "").trim());

  say("\nIts files, seen with the toolkit's ls:");
  const files = await cdebug(["exec", ref, "ls", "-l", "/server"], env);
  expect(files.text.includes("/server"), "the target's files");
  say("\nIts processes:");
  expect((await cdebug(["exec", ref, ...stage.ps], env)).text.includes("server"), "its processes");
  say("\nA shell with the toolkit's programs, and an exit code:");
  const script = 'echo "$((6 * 7)) from the shell, $(ls /server) from ls"; exit 3';
  const shell = await cdebug(["exec", ref, "sh", "-c", script], env);
  say(`exit code ${shell.code}`);
  expect(shell.code === 3 && shell.text === "42 from the shell, /server from ls\n", "42 and exit code 3");
  say("\nWhat was done, and why, as a plan to review, keep and apply (its script left out here):");
  say(await planWithoutScript(["exec", "--dry-run", ref, ...stage.ps], env));

  say("\nNothing is left:");
  expect(await stage.nothingLeft(), "nothing left");
}

/** A process in namespaces of its own, and the programs of this machine as its toolkit. */
async function processStage(owned: AsyncDisposableStack): Promise<Stage> {
  const why = await targetObstacle();
  if (why) throw new CdebugError(why, { hint: "deno task demo docker, where Docker runs" });
  say(
    `The target: one static program, in namespaces of its own, with a root directory that holds nothing else.
It is made by util-linux, ${Deno.uid() === 0 ? "as root" : "without root, in a user namespace"}; \
nothing is installed, and all of it is gone at the end.`,
  );
  const { pid } = owned.use(await startTarget());
  const contents = async (path: string) =>
    (await Array.fromAsync(Deno.readDir(`/proc/${pid}/root${path}`), ({ name }) => name)).sort();
  const user = Deno.uid() === 0 ? [] : ["--user", "--preserve-credentials"];
  const nsenter = ["--target", String(pid), ...user, "--mount", "ls", "/"];
  const list = 'for dir in /proc/[0-9]*; do read -r name <"$dir/comm"; echo "${dir#/proc/} $name"; done';
  const before = await contents("/");
  return {
    ref: `pid://${pid}`,
    lacking: { line: `nsenter ${nsenter.join(" ")}`, run: () => run("nsenter", nsenter) },
    ps: await hasProgram("ps") ? ["ps", "-o", "pid,comm", "-A"] : ["sh", "-c", list],
    env: QUIET,
    async nothingLeft() {
      const [files, processes] = [await contents("/"), await contents("/proc")];
      const pids = processes.filter((name) => /^\d+$/.test(name));
      say(`files: ${files.join(" ")}\nprocesses: ${pids.join(" ")}`);
      return files.join() === before.join() && pids.join() === "1";
    },
  };
}

/** A container of an image that holds one program, and busybox as its toolkit. */
async function dockerStage(owned: AsyncDisposableStack): Promise<Stage> {
  const name = `cdebug-demo-${crypto.randomUUID().slice(0, 8)}`;
  const env: Record<string, string> = { ...QUIET };
  let docker = await findDocker();
  if (!docker) {
    const why = await obstacle();
    if (why) {
      throw new CdebugError(`no Docker daemon answers here, and none can be started: ${why}`, {
        hint:
          "start Docker, or name its daemon with DOCKER_HOST, and try again; or deno task demo, without Docker",
      });
    }
    say(
      `No Docker daemon answers here. This installs Debian's docker.io where it is missing, and starts a daemon
with a socket, data and a bridge of its own, which are removed at the end.`,
    );
    const engine = owned.use(await startDocker());
    docker = engine.client;
    env["DOCKER_HOST"] = engine.host;
  }
  const client = docker;

  say("\nThe target: an image that holds one static program, no shell, no tools.");
  await importBare(client, name);
  owned.defer(async () => void await client(["rmi", "-f", name]));
  await client(["run", "-d", "--name", name, name, "/server"]);
  owned.defer(async () => void await client(["rm", "-f", name]));
  env["CDEBUG_IMAGE"] = await toolkit(client, `${name}-toolkit`, owned);
  say(`The toolkit: ${env["CDEBUG_IMAGE"]}.`);
  const id = (await client(["inspect", "--format", "{{.Id}}", name])).trim();
  return {
    ref: name,
    lacking: { line: `docker exec ${name} ls /`, run: () => client(["exec", name, "ls", "/"]) },
    ps: ["ps", "-o", "pid,comm"],
    env,
    async nothingLeft() {
      const filter = `label=cdebug.target=${id}`;
      const left = await client(["ps", "-a", "--filter", filter, "--format", "{{.Names}}"]);
      const changed = await client(["diff", name]);
      say(`$ docker ps -a --filter ${filter}\n${left}$ docker diff ${name}\n${changed}`);
      return left === "" && !changed.includes("cdebug-");
    },
  };
}

/** The docker client, if it is there and finds a daemon. */
async function findDocker(): Promise<Client | undefined> {
  if (!await hasProgram("docker")) return undefined;
  const docker: Client = (args, stdin) => run("docker", args, stdin ? { stdin } : {});
  return await docker(["info"]).then(() => docker, () => undefined);
}

/** busybox:musl if it is there or can be pulled; else one of this name, made of Debian's busybox-static. */
async function toolkit(docker: Client, name: string, owned: AsyncDisposableStack): Promise<string> {
  if (await docker(["image", "inspect", TOOLKIT]).then(() => true, () => false)) return TOOLKIT;
  if (await docker(["pull", "-q", TOOLKIT]).then(() => true, () => false)) {
    owned.defer(async () => void await docker(["rmi", TOOLKIT]).catch(() => {}));
    return TOOLKIT;
  }
  say(`${TOOLKIT} cannot be pulled: importing one made of Debian's busybox-static.`);
  await importToolkit(docker, name);
  owned.defer(async () => void await docker(["rmi", "-f", name]));
  return name;
}

/** Runs cdebug, and says the command line and what comes of it. */
async function cdebug(args: readonly string[], env: Readonly<Record<string, string>>) {
  say(`\n$ cdebug ${args.map((arg) => /^[\w/.,:=-]+$/.test(arg) ? arg : `'${arg}'`).join(" ")}`);
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", MAIN, ...args],
    env,
    stdin: "null",
  }).output();
  const text = new TextDecoder().decode(stdout);
  say((text + new TextDecoder().decode(stderr)).trimEnd());
  return { code, text };
}

async function planWithoutScript(args: readonly string[], env: Record<string, string>): Promise<string> {
  const plan = await run(Deno.execPath(), ["run", "-A", MAIN, ...args], { env });
  return plan.replace(/( {4}script: \|\n)(?: {6}.*\n|\n)+/, "$1      ...\n").trimEnd();
}
