/**
 * `deno task demo`: debugs a container that holds one static program and nothing else. It uses the Docker daemon
 * that the docker client finds; where there is none, it says what it installs and starts, and does.
 */

import { MAIN, TOOLKIT } from "./e2e/engine.ts";
import { hasProgram, obstacle, run, say } from "./engines/debian.ts";
import { startDocker } from "./engines/docker.ts";
import type { Client } from "./engines/engine.ts";
import { importBare, importToolkit } from "./engines/images.ts";

const TARGET = `cdebug-demo-${crypto.randomUUID().slice(0, 8)}`;

Deno.exit(await demo());

async function demo(): Promise<number> {
  await using owned = new AsyncDisposableStack();
  const found = await findDocker();
  let docker: Client;
  const env: Record<string, string> = {};
  if (found) docker = found;
  else {
    const why = await obstacle();
    if (why) {
      say(`cdebug: Cannot run the demo: no Docker daemon answers here, and none can be started: ${why}
Hint: start Docker, or name its daemon with DOCKER_HOST, and try again`);
      return 1;
    }
    say(
      "No Docker daemon answers here. This installs Debian's docker.io where it is missing, and starts a daemon",
    );
    say("with a socket, data and a bridge of its own, which are removed at the end.");
    const engine = owned.use(await startDocker());
    docker = engine.client;
    env["DOCKER_HOST"] = engine.host;
  }

  say("\nThe target: an image that holds one static program, no shell, no tools.");
  await importBare(docker, TARGET);
  owned.defer(async () => void await docker(["rmi", "-f", TARGET]));
  await docker(["run", "-d", "--name", TARGET, TARGET, "/server"]);
  owned.defer(async () => void await docker(["rm", "-f", TARGET]));
  say(`$ docker exec ${TARGET} ls /`);
  say(
    await docker(["exec", TARGET, "ls", "/"]).catch((error) => String(error).split("\n")[0]!.slice(0, 200)),
  );

  const image = await toolkit(docker, owned);
  env["CDEBUG_IMAGE"] = image;
  say(`\nThe toolkit: ${image}.`);

  const cdebug = async (args: readonly string[]) => {
    say(`\n$ cdebug ${args.map((arg) => /^[\w/.,:=-]+$/.test(arg) ? arg : `'${arg}'`).join(" ")}`);
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", MAIN, ...args],
      env,
      stdin: "null",
    }).output();
    const text = new TextDecoder().decode(stdout);
    say((text + new TextDecoder().decode(stderr)).trimEnd());
    return { code, text };
  };
  const expect = (condition: boolean, text: string) => {
    if (!condition) throw new Error(`the demo expected ${text}`);
  };

  say("\nIts files, seen with the toolkit's ls:");
  expect(
    (await cdebug(["exec", TARGET, "ls", "-l", "/server"])).text.includes("/server"),
    "the target's files",
  );
  say("\nIts processes:");
  expect((await cdebug(["exec", TARGET, "ps", "-o", "pid,comm"])).text.includes("server"), "its processes");
  say("\nA shell with the toolkit's programs, and an exit code:");
  const shell = await cdebug([
    "exec",
    TARGET,
    "sh",
    "-c",
    'echo "$((6 * 7)) from $(busybox | head -n 1)"; exit 3',
  ]);
  say(`exit code ${shell.code}`);
  expect(shell.code === 3 && shell.text.startsWith("42 from BusyBox"), "42 and exit code 3");
  say("\nWhat was done, and why, as a plan to review, keep and apply (its script left out here):");
  const plan = await planWithoutScript(["exec", "--dry-run", TARGET, "ps"], env);
  say(plan);

  say("\nNothing is left, neither containers nor files:");
  const id = (await docker(["inspect", "--format", "{{.Id}}", TARGET])).trim();
  const filter = `label=cdebug.target=${id}`;
  const left = await docker(["ps", "-a", "--filter", filter, "--format", "{{.Names}}"]);
  const changed = await docker(["diff", TARGET]);
  say(`$ docker ps -a --filter ${filter}\n${left}$ docker diff ${TARGET}\n${changed}`);
  expect(left === "" && !changed.includes("cdebug-"), "nothing left");
  return 0;
}

/** The docker client, if it is there and finds a daemon. */
async function findDocker(): Promise<Client | undefined> {
  if (!await hasProgram("docker")) return undefined;
  const docker: Client = (args, stdin) => run("docker", args, stdin ? { stdin } : {});
  return await docker(["info"]).then(() => docker, () => undefined);
}

/** busybox:musl if it is there or can be pulled; else one made of Debian's busybox-static. */
async function toolkit(docker: Client, owned: AsyncDisposableStack): Promise<string> {
  if (await docker(["image", "inspect", TOOLKIT]).then(() => true, () => false)) return TOOLKIT;
  if (await docker(["pull", "-q", TOOLKIT]).then(() => true, () => false)) {
    owned.defer(async () => void await docker(["rmi", TOOLKIT]).catch(() => {}));
    return TOOLKIT;
  }
  const image = `${TARGET}-toolkit`;
  say(`${TOOLKIT} cannot be pulled: importing one made of Debian's busybox-static.`);
  await importToolkit(docker, image);
  owned.defer(async () => void await docker(["rmi", "-f", image]));
  return image;
}

async function planWithoutScript(args: readonly string[], env: Record<string, string>): Promise<string> {
  const plan = await run(Deno.execPath(), ["run", "-A", MAIN, ...args], { env });
  return plan.replace(/( {4}script: \|\n)(?: {6}.*\n|\n)+/, "$1      ...\n").trimEnd();
}
