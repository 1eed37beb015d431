/** `cdebug ls`, `cdebug prune`, `cdebug doctor`, and what a session says of orphans. */

import { assert, assertEquals, assertIncludes } from "../assert.ts";
import { exists, poll } from "../engines/debian.ts";
import {
  BARE,
  cdebug,
  engineOf,
  idOf,
  IMAGE_ENGINES,
  liveTest,
  rootOf,
  sidecarsOf,
  spawn,
  target,
  type TestTarget,
} from "./engine.ts";
import { Terminal } from "./tmux.ts";

/** A session that prints "up" and then goes on for ever. */
const ENDLESS = ["sh", "-c", "echo up; while :; do sleep 0.1; done"];

interface Row {
  readonly session: string;
  readonly engine: string;
  readonly target: string;
  readonly state: string;
  readonly createdAt: string;
  readonly owner: string;
  readonly command: string;
  readonly containers: readonly string[];
}

/** The sessions on a target, as programs see them. */
async function sessionsOn({ name }: TestTarget): Promise<Row[]> {
  const { code, stdout, stderr } = await cdebug(["ls", "-o", "json"]);
  assertEquals([code, stderr], [0, ""]);
  return (JSON.parse(stdout) as Row[]).filter(({ target }) => target === name);
}

/** Starts an endless session and resolves once it is up; it must be ended by `end`. */
async function begin(web: TestTarget, flags: string[] = []) {
  const child = spawn(["exec", ...flags, web.ref, ...ENDLESS], flags.includes("-i") ? { stdin: "" } : {});
  const reader = child.stdout.getReader();
  await reader.read();
  return {
    async end(signal: Deno.Signal) {
      child.kill(signal);
      while (!(await reader.read()).done);
      await Promise.all([
        child.status,
        child.stderr.cancel(),
        flags.includes("-i") && child.stdin.close().catch(() => {}),
      ]);
    },
  };
}

for (const engine of IMAGE_ENGINES) {
  const test = (name: string, fn: () => Promise<void>) =>
    liveTest(`housekeeping: ${engine}: ${name}`, fn, engine);
  const client = (...args: string[]) => engineOf(engine)!.client(args);
  const root = ({ name }: TestTarget) => rootOf(name, engineOf(engine)!.client);
  const links = async (web: TestTarget) => (await root(web)).filter((path) => path.startsWith(".cdebug-"));
  const sidecars = async ({ name }: TestTarget) =>
    await sidecarsOf(await idOf(name, engineOf(engine)!.client), engineOf(engine)!.client);
  const one = (web: TestTarget) => IMAGE_ENGINES[0] === engine ? web.name : web.ref;

  /** A session that has lost its cdebug before anything was there to notice it. */
  const orphan = async (web: TestTarget, flags: ["-i"] | ["-it"]): Promise<Row> => {
    for (let attempt = 0; attempt < 5; attempt++) {
      const known = (await sessionsOn(web)).map(({ session }) => session);
      if (flags[0] === "-i") {
        await (await begin(web, ["-i"])).end("SIGKILL");
      } else {
        await using terminal = await Terminal.open();
        await terminal.type(`cdebug exec -it ${web.ref} sh -c 'echo u""p; while :; do sleep 0.1; done'`);
        await terminal.shows("up");
        Deno.kill(await terminal.cdebugPid(), "SIGKILL");
      }
      await new Promise((resolve) => setTimeout(resolve, 3500)); // one that has noticed is gone by then
      const found = (await sessionsOn(web)).find(({ session }) => !known.includes(session));
      if (found) return found;
    }
    throw new Error("every session has noticed that its cdebug was killed");
  };

  test("ls and prune tell living, detached and orphaned sessions apart", async () => {
    await using web = await target({ engine, image: BARE });
    const before = await root(web);
    const living = await begin(web);
    const [own] = await sessionsOn(web);
    assertEquals([own!.engine, own!.state, own!.owner, own!.command], [
      engine,
      "running",
      "alive",
      ENDLESS.join(" "),
    ]);
    const detached = (await cdebug(["exec", "-d", web.ref, "sleep", "1000000"])).stdout.trim();
    const lost = [await orphan(web, ["-i"]), await orphan(web, ["-it"])];
    assertEquals(lost.map(({ owner, state }) => [owner, state]), [["dead", "running"], ["dead", "running"]]);
    const rows = await sessionsOn(web);
    assertEquals(rows.map(({ owner }) => owner).sort(), ["alive", "dead", "dead", "detached"]);

    const { stdout: table } = await cdebug(["ls", `${engine}://`]);
    assertIncludes(table.split("\n")[0]!, "SESSION    TARGET");
    for (const { session } of rows) {
      assert(new RegExp(`^${session}   ${one(web)} +running .* ago `, "m").test(table), table);
    }
    assertEquals(
      (await cdebug(["ls", "-q", `${engine}://`])).stdout.trim().split("\n"),
      rows.map(({ session }) => session),
    );

    const state = async () => JSON.stringify([await root(web), (await sidecars(web)).sort()]);
    const unchanged = await state();
    const wanted = lost.flatMap(({ session }) => [
      `container ${engine === "docker" ? "" : "podman://"}cdebug-${session}`,
      `link ${one(web)}:/.cdebug-${session}`,
    ]).sort();
    const dry = await cdebug(["prune", "--dry-run"]);
    assertEquals([dry.code, dry.stdout.trim().split("\n").sort()], [0, wanted], dry.stderr);
    const refused = await cdebug(["prune"]);
    assertEquals([refused.code, refused.stdout], [125, ""]);
    assertIncludes(
      refused.stderr,
      "Cannot remove 2 containers and 2 links: nobody is there to ask\nHint: cdebug prune --yes",
    );
    assertEquals(await state(), unchanged);

    const pruned = await cdebug(["prune", "--yes"]);
    assertEquals([pruned.code, pruned.stdout.trim().split("\n").sort(), pruned.stderr], [0, wanted, ""]);
    assertEquals((await sessionsOn(web)).map(({ owner }) => owner).sort(), ["alive", "detached"]);
    assertEquals(
      (await links(web)).sort(),
      [own!.containers[0]!, detached].map((name) => `.${name}`).sort(),
    );
    const nothing = await cdebug(["prune"]);
    assertEquals([nothing.code, nothing.stdout, nothing.stderr], [
      0,
      "",
      "cdebug: There is nothing to remove\n",
    ]);

    await living.end("SIGTERM");
    await client("stop", detached);
    // Podman stops all processes of a session, also the one that tidies up.
    await poll(async () => {
      await cdebug(["prune", "--yes"]);
      assertEquals(await root(web), before);
    });
  });

  test("a plain session that lost its cdebug ends by itself, and needs no prune", async () => {
    await using web = await target({ engine, image: BARE });
    await (await begin(web)).end("SIGKILL");
    await poll(async () => assertEquals(await sessionsOn(web), []));
  });

  test("prune removes a link whose sidecar was removed with it", async () => {
    await using web = await target({ engine, image: BARE });
    const detached = (await cdebug(["exec", "-d", web.ref, "sleep", "1000000"])).stdout.trim();
    await poll(async () => assertEquals((await links(web)).length, 1));
    await client("rm", "-f", detached);
    assertEquals((await cdebug(["prune", "--yes"])).stdout, `link ${one(web)}:/.${detached}\n`);
  });

  test("prune removes kept sidecars that have ended", async () => {
    await using web = await target({ engine, image: BARE });
    await cdebug(["exec", "--rm=false", "--name", `kept-${web.name}`, web.ref, "true"]);
    assertEquals((await sessionsOn(web)).map(({ state }) => state), ["exited"]);
    const { stdout } = await cdebug(["prune", "--yes", `${engine}://`]);
    assertIncludes(stdout, `kept-${web.name}\n`);
  });

  test("two prunes at once do no harm, nor to the session beside them", async () => {
    await using web = await target({ engine, image: BARE });
    const living = await begin(web);
    await client("rm", "-f", (await cdebug(["exec", "-d", web.ref, "sleep", "1000000"])).stdout.trim());
    await cdebug(["exec", "--rm=false", web.ref, "true"]);
    const both = await Promise.all([cdebug(["prune", "--yes"]), cdebug(["prune", "--yes"])]);
    for (const { code, stderr } of both) {
      assert(code === 0 && ["", "cdebug: There is nothing to remove\n"].includes(stderr), stderr);
    }
    assertEquals((await sessionsOn(web)).map(({ owner }) => owner), ["alive"]);
    assertEquals((await links(web)).length, 1);
    await living.end("SIGTERM");
  });

  test("a session that the user let go of is no orphan", async () => {
    await using web = await target({ engine, image: BARE });
    await using terminal = await Terminal.open();
    await terminal.type(`cdebug exec -it ${web.ref}; echo code=$?`);
    await terminal.shows("/ #");
    await terminal.keys("C-p", "C-q");
    await terminal.shows("code=0");
    assertEquals((await sessionsOn(web)).map(({ owner }) => owner), ["detached"]);
    assertEquals((await cdebug(["prune", "--yes"])).stdout, "");
    const [sidecar] = await sidecars(web);
    await client("rm", "-f", sidecar!);
    await cdebug(["prune", "--yes"]);
  });

  test("exec tells of an orphan, once asked to be quiet it does not", async () => {
    await using web = await target({ engine, image: BARE });
    const { session } = await orphan(web, ["-i"]);
    const hint = engine === "docker" ? "cdebug prune  removes it" : "cdebug prune podman://  removes it";
    const { stdout, stderr } = await cdebug(["exec", web.ref, "echo", "ran"]);
    assertEquals(stdout, "ran\n");
    const said = new RegExp(
      `^cdebug: 1 orphaned session on ${web.name}, from \\w+ seconds ago\nHint: (.*)\n$`,
    );
    assertEquals(said.exec(stderr)?.[1], hint, stderr);
    assertEquals((await cdebug(["exec", "-q", web.ref, "true"])).stderr, "");
    assertEquals((await cdebug(["exec", "--dry-run", web.ref, "true"])).stderr, "");
    assertIncludes((await cdebug(["prune", "--yes", `${engine}://`])).stdout, session);
    assertEquals((await cdebug(["exec", web.ref, "true"])).stderr, "");
  });

  test("prune asks on a terminal", async () => {
    await using web = await target({ engine, image: BARE });
    await using terminal = await Terminal.open();
    await cdebug(["exec", "--rm=false", web.ref, "true"]);
    await terminal.type(`cdebug prune ${engine}://; echo code=$?`);
    await terminal.shows("Remove 1 container? [y/N]");
    await terminal.type("n");
    await terminal.shows("code=125");
    assertEquals((await sidecars(web)).length, 1);
    await terminal.type(`clear; cdebug prune ${engine}://; echo code=$?`);
    await terminal.shows("[y/N]");
    await terminal.type("y");
    await terminal.shows("code=0");
    assertEquals(await sidecars(web), []);
  });

  test("kill -9 at 30 random moments, of every kind of session, leaves nothing that prune does not remove", async () => {
    await using web = await target({ engine });
    await using stopped = await target({ engine, command: ["true"] });
    await client("wait", stopped.name);
    const images = async () => (await client("images", "-aq", "--no-trunc")).split("\n").sort();
    const before = await images();
    const kinds = [[web.ref], ["-i", web.ref], ["--stopped", stopped.ref], [`${engine}-image://${BARE}`]];
    for (let i = 0; i < 30; i++) {
      const kind = kinds[i % kinds.length]!;
      const child = spawn(["exec", ...kind, "sleep", "1000"], kind[0] === "-i" ? { stdin: "" } : {});
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 900));
      child.kill("SIGKILL");
      if (kind[0] === "-i") await child.stdin.close().catch(() => {});
      await Promise.all([child.status, child.stdout.cancel(), child.stderr.cancel()]);
    }
    // What the engine was about to make when cdebug was killed is there a moment later.
    await poll(async () => {
      const { code, stderr } = await cdebug(["prune", "--yes", `${engine}://`]);
      assertEquals({ code, stderr }, { code: 0, stderr: "" });
      assertEquals(await client("ps", "-aq", "--filter", "label=cdebug.session"), "");
      assertEquals(await images(), before);
      assertEquals([...await links(web), ...await links(stopped)], []);
    });
    assertEquals(JSON.parse((await cdebug(["ls", "-o", "json", `${engine}://`])).stdout), []);
  });

  test("prune removes snapshots that nothing uses, and no image with a name of the user's", async () => {
    await using web = await target({ engine, image: BARE });
    const commit = async (...args: string[]) =>
      (await client("commit", "--change", "LABEL cdebug.session=5eed5eed", web.name, ...args)).trim();
    await commit();
    await commit("my/tools");
    const { stdout } = await cdebug(["prune", "--yes", `${engine}://`]);
    const [removed, ...more] = stdout.trim().split("\n");
    assert(/^image (podman:\/\/)?sha256:[0-9a-f]{64}$/.test(removed!) && more.length === 0, stdout);
    assertIncludes(await client("images", "--filter", "label=cdebug.session"), "my/tools");
    await client("rmi", "my/tools");
  });
}

liveTest("housekeeping: engines are asked as they are named, and those that fail are told", async () => {
  const nowhere = await cdebug(["ls", "docker://"], {
    env: { DOCKER_HOST: "unix:///nonexistent/docker.sock" },
  });
  assertEquals([nowhere.code, nowhere.stdout], [125, ""]);
  assertIncludes(nowhere.stderr, "Cannot reach the Docker daemon at unix:///nonexistent/docker.sock");
  const none = await cdebug(["ls"], {
    env: {
      DOCKER_HOST: "unix:///nonexistent/docker.sock",
      CONTAINER_HOST: "unix:///nonexistent/podman.sock",
    },
  });
  assertEquals(none.code, 125);
  assertIncludes(none.stdout, "SESSION"); // processes are always there
  for (const name of ["docker", "podman"]) assertIncludes(none.stderr, `unix:///nonexistent/${name}.sock`);
  await using listener = await deaf();
  const began = performance.now();
  const silent = await cdebug(["ls"], { env: { CONTAINER_HOST: listener.host } });
  assert(performance.now() - began < 4000);
  assertEquals(silent.code, 125);
  assertIncludes(silent.stdout, "SESSION");
  assertIncludes(silent.stderr, "no answer within 2 s");
});

liveTest("housekeeping: doctor says what the engines are", async () => {
  const { code, stdout, stderr } = await cdebug(["doctor", "-o", "json"]);
  assertEquals([code, stderr], [0, ""]);
  const { cdebug: client, engines } = JSON.parse(stdout);
  assertEquals(client.deno, Deno.version.deno);
  const [docker] = engines;
  assertEquals([docker.engine, docker.status, docker.source, docker.address], [
    "docker",
    "works",
    "DOCKER_HOST",
    engineOf("docker")!.host,
  ]);
  assertEquals([docker.joins, Object.keys(docker.cannotJoin)], [["network", "pid", "ipc"], ["uts", "user"]]);
  assertEquals([docker.toolkit.present, docker.rootless, docker.problems], [true, false, []]);
  assertEquals((await cdebug(["doctor", "-o", "yaml"])).code, 0);
  const missing = await cdebug(["doctor", "--image", "no/such", "docker://"]);
  assertIncludes(missing.stdout, "no/such, pulled when it is first needed");
});

for (
  const [env, status, problem, hint] of [
    [{}, "is not there", "there is no such socket", "systemctl start docker"],
    [{ DOCKER_HOST: "unix:///nonexistent" }, "does not work", "(from DOCKER_HOST)", "unset DOCKER_HOST"],
    [{ DOCKER_CONTEXT: "prod" }, "does not work", 'context "prod"', "docker context ls"],
    [{ DOCKER_HOST: "nonsense" }, "does not work", "not an engine's address", "unix:///path/docker.sock"],
  ] as const
) {
  Deno.test(`housekeeping: doctor with ${JSON.stringify(env)} says what mends it`, async () => {
    if (Object.keys(env).length === 0 && await exists("/var/run/docker.sock")) return;
    const { code, stdout, stderr } = await cdebug(["doctor"], {
      env: { DOCKER_HOST: "", DOCKER_CONTEXT: "", CONTAINER_HOST: "unix:///nonexistent/podman.sock", ...env },
    });
    assertEquals([code, stderr], [0, ""]); // processes can always be debugged
    const [, docker, podman] = stdout.split("\n\n");
    for (const part of [`docker ${status}`, problem, `Hint: ${hint}`]) assertIncludes(docker!, part);
    assertIncludes(podman!, "unset CONTAINER_HOST");
  });
}

for (
  const [args, text] of [
    [
      ["ls", "web"],
      'Cannot run ls: expected one engine, docker:// or podman:// or runc:// or crun:// or pid://, not "web"',
    ],
    [["ls", "podmna://"], "Hint: cdebug ls podman://"],
    [["prune", "docker://web"], 'not "docker://web"'],
    [["ls", "-o", "xml"], 'takes json, yaml, not "xml"'],
    [["prune", "--all"], "unknown flag --all"],
    [
      ["doctor", "web"],
      'Cannot run doctor: expected one engine, docker:// or podman:// or runc:// or crun:// or pid://, not "web"',
    ],
  ] as const
) {
  Deno.test(`housekeeping: cdebug ${args.join(" ")} is refused`, async () => {
    const { code, stdout, stderr } = await cdebug(args);
    assertEquals([code, stdout], [125, ""]);
    assertIncludes(stderr, text);
  });
}

/** A socket that takes connections and never answers. */
async function deaf() {
  const path = await Deno.makeTempDir({ prefix: "cdebug-test-" });
  const listener = Deno.listen({ transport: "unix", path: `${path}/socket` });
  const connections: Deno.Conn[] = [];
  const accepting = (async () => {
    for await (const connection of listener) connections.push(connection);
  })();
  return {
    host: `unix://${path}/socket`,
    async [Symbol.asyncDispose]() {
      listener.close();
      await accepting;
      for (const connection of connections) connection.close();
      await Deno.remove(path, { recursive: true });
    },
  };
}
