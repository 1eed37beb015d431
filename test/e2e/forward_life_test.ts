/** `cdebug port-forward` over time and under load: restarts, gigabytes, many connections. */

import { assert, assertEquals, assertIncludes } from "../assert.ts";
import { poll, run } from "../engines/debian.ts";
import { startDocker } from "../engines/docker.ts";
import { importForwarder, importOrdinary } from "../engines/images.ts";
import { temporaryDirectory } from "../temporary.ts";
import { engineOf, liveTest, ORDINARY } from "./engine.ts";
import {
  ask,
  askIn,
  ECHO,
  ENGINES,
  FORWARDER,
  type ForwardSession,
  type ForwardTarget,
  forwardTraces,
  inNetwork,
  notePid,
  type Place,
  PLACES,
  placeTest,
  runClients,
  serve,
  startForward,
  startForwardTarget,
} from "./forward.ts";

/** The ways of -L, and -R as itself and by processes. */
const WAYS = ["relay", "direct", "chain", "stream", "reverse", "reverse by stream"] as const;
type Way = typeof WAYS[number];

/** Those in which a connection takes no process of its own but socat's. */
const isLight = (way: Way) => way !== "stream" && way !== "reverse by stream";

function waysOf(place: Place): readonly Way[] {
  return ENGINES.includes(place) ? WAYS : WAYS.filter((way) => way !== "direct" && way !== "chain");
}

/** A session of one way to an echo server, and where its clients connect. */
async function startWay(
  way: Way,
  target: ForwardTarget,
  port: number,
): Promise<{ session: ForwardSession; server: AsyncDisposable; inside: boolean }> {
  const reverse = way.startsWith("reverse");
  const via = way.endsWith("stream") ? "stream" : reverse ? "relay" : way;
  const server = await serve(
    `TCP4-LISTEN:${port},fork,backlog=4096,reuseaddr`,
    ECHO,
    reverse ? undefined : target.pid,
    ["-b", "65536"],
  );
  const session = await startForward(target, reverse ? ["-R", `9000:${port}`] : ["-L", String(port)], {
    extra: ["--via", via],
  });
  return { session, server, inside: reverse };
}

/** In KiB. */
async function resident(pid: number): Promise<number> {
  return Number(/^VmHWM:\s*(\d+)/m.exec(await Deno.readTextFile(`/proc/${pid}/status`))![1]);
}

async function descriptors(pid: number): Promise<number> {
  return (await Array.fromAsync(Deno.readDir(`/proc/${pid}/fd`))).length;
}

/** 64 MiB of what nobody could guess, and its sum sixteen times over. */
async function makeSample(directory: string) {
  const path = `${directory}/sample`;
  await run("sh", ["-c", `head -c 67108864 /dev/urandom >${path}`]);
  const sixteen = `for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do cat ${path}; done`;
  const sum = (await run("sh", ["-c", `(${sixteen}) | sha256sum`])).slice(0, 64);
  return { sixteen, sum };
}

for (const place of PLACES) {
  placeTest(place, "a gigabyte each way, byte by byte, in little memory", async () => {
    await using target = await startForwardTarget(place);
    await using directory = await temporaryDirectory();
    const { sixteen, sum } = await makeSample(directory.path);
    const source = `${directory.path}/source`;
    const sink = `${directory.path}/sink`;
    await Deno.writeTextFile(source, `#!/bin/sh\n${sixteen}\n`, { mode: 0o755 });
    await Deno.writeTextFile(sink, "#!/bin/sh\nsha256sum | cut -c1-64\n", { mode: 0o755 });
    for (const way of waysOf(place)) {
      const reverse = way.startsWith("reverse");
      const via = way.endsWith("stream") ? "stream" : reverse ? "relay" : way;
      const pid = reverse ? undefined : target.pid;
      const socat = ["-b", "262144"];
      await using _source = await serve("TCP4-LISTEN:7001,fork,reuseaddr", `EXEC:${source}`, pid, socat);
      await using _sink = await serve("TCP4-LISTEN:7002,fork,reuseaddr", `EXEC:${sink}`, pid, socat);
      await using session = await startForward(
        target,
        reverse ? ["-R", "9001:7001", "-R", "9002:7002"] : ["-L", "7001", "-L", "7002"],
        { extra: ["--via", via] },
      );
      const [down, up] = reverse ? ["127.0.0.1:9001", "127.0.0.1:9002"] : session.endpoints;
      const inside = reverse ? inNetwork(target.pid) : ["env"];
      const shell = async (command: string) => {
        const [program, ...args] = [...inside, "sh", "-c", command];
        return (await run(program!, args)).trim().slice(0, 64);
      };
      assertEquals(await shell(`socat -u -b 262144 TCP4:${down} - | sha256sum`), sum, `${way}, down`);
      assertEquals(await shell(`(${sixteen}) | socat -t 60 -b 262144 - TCP4:${up}`), sum, `${way}, up`);
      assert(await resident(session.pid) < 150 * 1024, `${way}: ${await resident(session.pid)} KiB`);
    }
  });

  placeTest(place, "many connections at once, and many after another", async () => {
    await using target = await startForwardTarget(place);
    for (const way of waysOf(place)) {
      const { session, server, inside } = await startWay(way, target, 7003);
      await using _server = server;
      await using forwarding = session;
      // What each answers to is its own number.
      const atOnce = isLight(way) ? 1000 : 100;
      const endpoint = inside ? "127.0.0.1:9000" : forwarding.endpoints[0]!;
      const ask = async (manner: "at-once" | "in-turn", count: number) =>
        (await runClients(endpoint, manner, count, inside ? inNetwork(target.pid) : [])).answered;
      assertEquals(await ask("at-once", atOnce), atOnce, way);
      // The engine's own connections are kept for a while.
      if (isLight(way)) await poll(async () => assert(await descriptors(session.pid) < 60, way));
      const before = await descriptors(session.pid);
      const inTurn = !isLight(way) ? 100 : ["docker", "root"].includes(place) ? 10_000 : 1000;
      assertEquals(await ask("in-turn", inTurn), inTurn, way);
      await poll(async () => {
        const now = await descriptors(session.pid);
        assert(now <= before + 5, `${way}: ${before} descriptors, then ${now}`);
      });
      await poll(async () => {
        const processes = (await forwardTraces()).filter((trace) => !trace.includes("exchange-"));
        assert(processes.length <= 8, `${way}: ${processes.length} processes`);
      });
    }
  });
}

for (const place of ["docker", "podman"] as const) {
  placeTest(
    place,
    "forwards outlive five restarts of the target under traffic, and its replacement",
    async () => {
      const { client } = engineOf(place)!;
      await using target = await startForwardTarget(place);
      const { name } = target;
      let server = await serve("TCP4-LISTEN:7004,fork", ECHO, target.pid);
      await using session = await startForward(target, ["-L", "7004", "-R", "9000:7005"], {
        extra: ["--running-timeout", "60s"],
      });
      await using _back = await serve("TCP4-LISTEN:7005,bind=127.0.0.1,fork", ECHO);
      const [endpoint] = session.endpoints;
      let going = true;
      let answers = 0;
      const traffic = (async () => {
        while (going) {
          await ask(endpoint!, "hello").then(() => answers++, () => {});
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
      })();
      try {
        for (let restart = 1; restart <= 5; restart++) {
          await client(["restart", "-t", "0", name]);
          await server[Symbol.asyncDispose]();
          await notePid(name, client);
          server = await serve("TCP4-LISTEN:7004,fork", ECHO, target.pid);
          await session.seen("restored", restart, 60);
          assertEquals(await ask(endpoint!, `after ${restart}`), `after ${restart}`);
          assertEquals(await askIn(target.pid, "TCP4:127.0.0.1:9000", "back"), "back");
        }
        assert(answers > 0);
        assertEquals(session.lines.filter(({ event }) => event === "lost").length, 5);

        await client(["kill", name]);
        await poll(() => client(["rm", "-f", name])); // Podman's waits for the sidecar to go first
        await session.seen("lost", 6);
        await client(["run", "-d", "--name", name, ORDINARY, "sleep", "1000000"]);
        await server[Symbol.asyncDispose]();
        await notePid(name, client);
        server = await serve("TCP4-LISTEN:7004,fork", ECHO, target.pid);
        await session.seen("restored", 6, 60);
        assertEquals(session.lines.findLast(({ event }) => event === "restored")!.recreated, true);
        assertEquals(await ask(endpoint!, "again"), "again");
      } finally {
        going = false;
        await traffic;
        await server[Symbol.asyncDispose]();
      }
    },
  );

  placeTest(place, "chain and direct keep their ports when the target starts again", async () => {
    const { client } = engineOf(place)!;
    for (const via of ["chain", "direct"]) {
      await using target = await startForwardTarget(place);
      await using session = await startForward(target, ["-L", "7006"], {
        extra: ["--via", via, "--running-timeout", "60s"],
      });
      const [endpoint] = session.endpoints;
      await client(["restart", "-t", "0", target.name]);
      await session.seen("restored", 1, 60);
      await session.seen("ready", 2);
      assertEquals(session.lines.findLast(({ event }) => event === "ready")!.listen, endpoint);
      await notePid(target.name, client);
      await using _server = await serve("TCP4-LISTEN:7006,fork", ECHO, target.pid);
      await poll(async () => assertEquals(await ask(endpoint!, "hello"), "hello"));
    }
  });

  placeTest(place, "a target that is gone for good ends the session with 125, in time", async () => {
    const { client } = engineOf(place)!;
    await using target = await startForwardTarget(place);
    const session = await startForward(target, ["-L", "7007", "-R", "9000:7007"], {
      extra: ["--running-timeout", "2s"],
    });
    await client(["kill", target.name]);
    await poll(() => client(["rm", "-f", target.name])); // Podman's waits for the sidecar to go first
    const { code, stderr } = await session.ended;
    assertEquals(code, 125);
    assertIncludes(stderr, "did not run again within 2 s");
    await poll(async () => assertEquals(await forwardTraces(), []));
  });
}

placeTest("root", "a process that has ended ends the session with 125", async () => {
  const target = await startForwardTarget("root");
  const session = await startForward(target, ["-L", "7007"], { extra: ["--running-timeout", "1s"] });
  await target[Symbol.asyncDispose]();
  const { code } = await session.ended;
  assertEquals(code, 125);
  await poll(async () => assertEquals(await forwardTraces(), []));
});

liveTest("forward: docker: outlives a restart of the daemon", async () => {
  await using engine = await startDocker();
  await importForwarder(engine.client, FORWARDER);
  await importOrdinary(engine.client, ORDINARY);
  const { client, host } = engine;
  await client(["run", "-d", "--name", "web", "--restart", "always", ORDINARY, "sleep", "1000000"]);
  const env = { DOCKER_HOST: host };
  await using session = await startForward(
    { ref: "docker://web", flags: ["--forwarder-image", FORWARDER] },
    ["-L", "7008"],
    { env, extra: ["--running-timeout", "120s"] },
  );
  await engine.restart();
  await session.seen("restored", 1, 120);
  await notePid("web", client);
  const pid = Number((await client(["inspect", "--format", "{{.State.Pid}}", "web"])).trim());
  await using _server = await serve("TCP4-LISTEN:7008,fork", ECHO, pid);
  await poll(async () => assertEquals(await ask(session.endpoints[0]!, "hello"), "hello"));
});
