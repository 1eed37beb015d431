/** Whatever ends a session: no container is left, and the target's root is as it was. `target()` asserts both. */

import { assert, assertEquals, assertIncludes } from "../assert.ts";
import { poll } from "../engines/debian.ts";
import { startDocker } from "../engines/docker.ts";
import { importBare, importToolkit } from "../engines/images.ts";
import { temporaryDirectory } from "../temporary.ts";
import {
  BARE,
  cdebug,
  docker,
  DOCKER_HOST,
  hangupProcess,
  idOf,
  liveTest,
  rootOf,
  sidecarsOf,
  spawn,
  target,
  type TestTarget,
  TOOLKIT,
} from "./engine.ts";

/** A session that prints "up" and then goes on for ever. */
const ENDLESS = ["sh", "-c", "echo up; while :; do sleep 0.1; done"];

/** No sidecar of the target is left, and its root is as it was. */
async function assertClean(web: TestTarget, root: string[]): Promise<void> {
  const id = await idOf(web.name);
  await poll(async () => assertEquals(await sidecarsOf(id), []));
  await poll(async () => assertEquals(await rootOf(web.name), root));
}

/** Starts an endless session and calls `act` once it is up. */
async function whenUp(
  web: TestTarget,
  act: (child: Deno.ChildProcess) => Promise<void> | void,
  flags: string[] = [],
) {
  const child = spawn(["exec", ...flags, web.name, ...ENDLESS]);
  const stderr = new Response(child.stderr).text();
  const reader = child.stdout.getReader();
  await reader.read();
  await act(child);
  while (!(await reader.read()).done);
  const { code } = await child.status;
  return { code, stderr: await stderr };
}

liveTest("cleanup: after 10 sessions that ended by themselves", async () => {
  await using web = await target({ image: BARE });
  const root = await rootOf(web.name);
  for (let i = 0; i < 10; i++) {
    assertEquals((await cdebug(["exec", web.name, "sh", "-c", `exit ${i}`])).code, i);
    await assertClean(web, root);
  }
});

for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143], ["SIGHUP", 129]] as const) {
  liveTest(`cleanup: after 10 sessions ended by ${signal}, five of them before they were up`, async () => {
    await using web = await target({ image: BARE });
    const root = await rootOf(web.name);
    for (let i = 0; i < 5; i++) {
      assertEquals((await whenUp(web, (child) => child.kill(signal))).code, code);
      await assertClean(web, root);
    }
    for (let i = 0; i < 5; i++) {
      const child = spawn(["exec", web.name, ...ENDLESS]);
      // At different moments of the start; before cdebug listens, the signal has the system's own effect.
      await new Promise((resolve) => setTimeout(resolve, 40 + i * 40));
      child.kill(signal);
      const ended = await child.output();
      assert(ended.code === code, `exit code ${ended.code}, ${new TextDecoder().decode(ended.stderr)}`);
      await assertClean(web, root);
    }
  });
}

liveTest("cleanup: after 10 sessions whose target was killed", async () => {
  await using web = await target({ image: BARE });
  const root = await rootOf(web.name);
  for (let i = 0; i < 10; i++) {
    const { code, stderr } = await whenUp(web, async () => void await docker(["kill", web.name]));
    assertEquals([code, stderr], [
      137,
      `cdebug: Target "${web.name}" has stopped, and the session with it\n`,
    ]);
    await assertClean(web, root);
    await docker(["start", web.name]);
  }
});

liveTest("cleanup: after a target was removed under its session", async () => {
  await using web = await target({ image: BARE });
  const id = await idOf(web.name);
  const { code } = await whenUp(web, async () => void await docker(["rm", "-f", web.name]));
  assertEquals(code, 137);
  await poll(async () => assertEquals(await sidecarsOf(id), []));
});

liveTest("cleanup: after 5 sessions whose cdebug was killed with SIGKILL", async () => {
  await using web = await target({ image: BARE });
  const root = await rootOf(web.name);
  for (const flags of [[], [], [], ["-i"], ["-i"]]) {
    await whenUp(web, async (child) => {
      if (flags.includes("-i")) await hangupProcess(web.name);
      child.kill("SIGKILL");
    }, flags);
    await assertClean(web, root);
  }
});

for (const [command, wanted] of [[["kill"], 137], [["stop"], 143], [["rm", "-f"], 137]] as const) {
  liveTest(`cleanup: after docker ${command.join(" ")} of the sidecar`, async () => {
    await using web = await target({ image: BARE });
    const root = await rootOf(web.name);
    for (const flags of [[], ["-i"]]) {
      const { code } = await whenUp(web, async () => {
        const [sidecar] = await sidecarsOf(await idOf(web.name));
        await docker([...command, sidecar!]);
      }, flags);
      assertEquals(code, wanted);
      await assertClean(web, root);
    }
  });
}

liveTest("cleanup: the next session sweeps the link of one that was killed with everything", async () => {
  await using web = await target();
  const root = await rootOf(web.name);
  await whenUp(web, async (child) => {
    const [sidecar] = await sidecarsOf(await idOf(web.name));
    child.kill("SIGKILL");
    await docker(["rm", "-f", sidecar!]);
  });
  await cdebug(["exec", web.name, "true"]);
  await assertClean(web, root);
});

liveTest("cleanup: a session leaves the links of those that still run", async () => {
  await using web = await target();
  const { stderr } = await whenUp(web, async (child) => {
    const before = (await rootOf(web.name)).filter((path) => path.includes(".cdebug-"));
    assertEquals(before.length, 1);
    await Promise.all([1, 2, 3, 4].map(() => cdebug(["exec", web.name, "true"])));
    assertEquals((await rootOf(web.name)).filter((path) => path.includes(".cdebug-")), before);
    child.kill("SIGTERM");
  });
  assertEquals(stderr, "");
});

liveTest("cleanup: sidecars carry the labels that name them", async () => {
  await using web = await target();
  await whenUp(web, async (child) => {
    const id = await idOf(web.name);
    const [sidecar] = await sidecarsOf(id);
    const labels = JSON.parse(await docker(["inspect", "--format", "{{json .Config.Labels}}", sidecar!]));
    assertEquals(sidecar, `cdebug-${labels["cdebug.session"]}`);
    assertEquals([labels["cdebug.role"], labels["cdebug.target"]], ["debugger", id]);
    assert(/^[0-9a-f]{12}$/.test(labels["cdebug.plan"]));
    child.kill("SIGTERM");
  });
});

liveTest("cleanup: after the daemon was restarted under a session", async () => {
  await using engine = await startDocker();
  await importBare(engine.client, BARE);
  await importToolkit(engine.client, TOOLKIT);
  await engine.client(["run", "-d", "--name", "web", BARE, "/server"]);
  const root = await engine.client(["diff", "web"]);
  const child = spawn(["exec", "web", ...ENDLESS], { env: { DOCKER_HOST: engine.host } });
  const reader = child.stdout.getReader();
  await reader.read();
  await engine.restart();
  while (!(await reader.read()).done);
  assertEquals([(await child.status).code, await new Response(child.stderr).text()], [143, ""]);
  assertEquals(await engine.client(["ps", "-aq", "--filter", "label=cdebug.session"]), "");
  await engine.client(["start", "web"]);
  assertEquals(await engine.client(["diff", "web"]), root);
});

for (const flags of [[], ["-i"]]) {
  liveTest(
    `cleanup: after the connection to the daemon was cut, by the sidecar itself ${flags}`,
    async () => {
      await using web = await target({ image: BARE });
      const root = await rootOf(web.name);
      await using proxy = await startProxy();
      const env = { DOCKER_HOST: proxy.host };
      const child = spawn(["exec", ...flags, web.name, ...ENDLESS], { env });
      const reader = child.stdout.getReader();
      await reader.read();
      if (flags.includes("-i")) await hangupProcess(web.name);
      proxy.cut();
      while (!(await reader.read()).done);
      const stderr = await new Response(child.stderr).text();
      assertEquals((await child.status).code, 125, stderr);
      assertIncludes(stderr, "Cannot follow the session: the connection to the Docker daemon is lost");
      assertIncludes(stderr, "Hint: docker rm -f cdebug-");
      assert(!/^\s+at /m.test(stderr), stderr);
      await assertClean(web, root);
    },
  );
}

/** A socket that leads to the daemon until it is cut. */
async function startProxy() {
  const directory = await temporaryDirectory();
  const path = `${directory.path}/docker.sock`;
  const listener = Deno.listen({ transport: "unix", path });
  const connections = new Set<Deno.Conn>();
  const copy = async (from: Deno.Conn, to: Deno.Conn) => {
    const buffer = new Uint8Array(65536);
    for (let count; (count = await from.read(buffer)) !== null;) {
      for (let done = 0; done < count;) done += await to.write(buffer.subarray(done, count));
    }
    await to.closeWrite();
  };
  const accepting = (async () => {
    for await (const near of listener) {
      const far = await Deno.connect({ transport: "unix", path: DOCKER_HOST!.replace("unix://", "") });
      connections.add(near).add(far);
      copy(near, far).catch(() => {});
      copy(far, near).catch(() => {});
    }
  })();
  const cut = () => {
    for (const connection of connections) connection.close();
    connections.clear();
    listener.close();
  };
  return {
    host: `unix://${path}`,
    cut,
    async [Symbol.asyncDispose]() {
      await accepting;
      await directory[Symbol.asyncDispose]();
    },
  };
}
