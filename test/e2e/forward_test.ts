/** `cdebug port-forward`: every form, on every engine, each way that there is. */

import { assert, assertEquals, assertIncludes } from "../assert.ts";
import { exists, freePort, poll, run } from "../engines/debian.ts";
import { temporaryDirectory } from "../temporary.ts";
import { CDEBUG, cdebug, engineOf, userEnv } from "./engine.ts";
import {
  ask,
  askDatagram,
  askIn,
  ECHO,
  ENGINES,
  forwardTraces,
  inNetwork,
  type Place,
  PLACES,
  placeTest,
  runClients,
  serve,
  startForward,
  startForwardTarget,
} from "./forward.ts";

/** The address of a third host, which only the target reaches: it is on its loopback. */
const THIRD = "10.99.7.1";

for (const place of PLACES) {
  const vias = ENGINES.includes(place) ? [undefined, "chain", "stream"] : [undefined, "stream"];
  for (const via of vias) {
    placeTest(place, `every form, at once${via ? `, via ${via}` : ""}`, async () => {
      await using target = await startForwardTarget(place);
      await using directory = await temporaryDirectory();
      const { pid } = target;
      const [enter, ...network] = inNetwork(pid);
      await run(enter!, [...network, "sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=0"]);
      await run(enter!, [...network, "ip", "address", "add", `${THIRD}/32`, "dev", "lo"]);
      const { path } = directory;
      const root = `/proc/${pid}/root`;
      const [service, datagrams] = [freePort(), freePort()];
      await using servers = new AsyncDisposableStack();
      for (
        const [listener, answer, inside] of [
          ["TCP4-LISTEN:7080,bind=127.0.0.1,fork", ECHO, true],
          [`TCP4-LISTEN:7081,bind=${THIRD},fork`, ECHO, true],
          ["TCP6-LISTEN:7082,bind=[::1],fork", ECHO, true],
          ["UDP4-LISTEN:7083,bind=127.0.0.1,fork", "EXEC:cat,nofork", true],
          [`UNIX-LISTEN:${root}/tmp/app.sock,fork,mode=666`, ECHO, true],
          [`TCP4-LISTEN:${service},bind=127.0.0.1,fork`, ECHO, false],
          [`UDP4-LISTEN:${datagrams},bind=127.0.0.1,fork`, "EXEC:cat,nofork", false],
          [`UNIX-LISTEN:${path}/host.sock,fork`, ECHO, false],
        ] as const
      ) servers.use(await serve(listener, answer, inside ? pid : undefined));

      // Podman's network of these tests publishes no IPv6.
      const here = place === "podman" && via === "chain" ? "127.0.0.1" : "[::1]";
      const chosen = via ? ["--via", via] : [];
      const unix = via === "chain" ? [] : ["-L", `unix:${path}/local.sock:unix:/tmp/app.sock`];
      await using session = await startForward(target, [
        ...["-L", "7080", "-L", `${THIRD}:7081`, "-L", `${here}::[::1]:7082`, "-L", "7083/udp"],
        ...["-L", `${freePort()}:unix:/tmp/app.sock`],
        ...[
          "-R",
          `9000:localhost:${service}`,
          "-R",
          `0.0.0.0:9001:${service}`,
          "-R",
          `9002:${datagrams}/udp`,
        ],
        ...["-R", `unix:/tmp/up.sock:unix:${path}/host.sock`, "-R", `[::1]:9003:${service}`],
        ...unix,
      ], { extra: chosen });
      // Those of -L come first.
      const [web, third, ipv6, udp, app, local] = session.endpoints as [
        string,
        string,
        string,
        string,
        string,
        string,
      ];
      const text = "what? ".repeat(1000);
      assertEquals(await ask(web, text), text);
      assertEquals(await ask(third, text), text);
      assertIncludes(ipv6, here);
      assertEquals(await ask(ipv6, text), text);
      assertEquals(await ask(app, text), text);
      if (unix.length > 0) assertEquals(await ask(local, text), text);
      assertEquals(await askDatagram(`UDP4:${udp}`, "ping"), "ping");
      assertEquals(await askDatagram(`UDP4:${udp}`, "x".repeat(1400)), "x".repeat(1400));
      const askInside = (address: string) => askIn(pid, address, text);
      assertEquals(await askInside("TCP4:127.0.0.1:9000"), text);
      assertEquals(await askInside(`TCP4:${THIRD}:9001`), text);
      assertEquals(await askDatagram("UDP4:127.0.0.1:9002", "pong", pid), "pong");
      assertEquals(await askInside(`UNIX-CONNECT:${root}/tmp/up.sock`), text);
      assertEquals(await askInside("TCP6:[::1]:9003"), text);
      const wanted = via ?? "relay";
      assertEquals(new Set(session.vias), new Set([wanted, "reverse"]));

      await session[Symbol.asyncDispose]();
      await poll(async () => assertEquals(await forwardTraces(), []));
      const names = await Array.fromAsync(Deno.readDir(`${root}/tmp`), ({ name }) => name);
      assertEquals(names.filter((name) => name !== "app.sock"), []);
      await run("rm", ["-f", `${root}/tmp/app.sock`]);
    });
  }

  placeTest(place, "a target on the machine's network, and one with none", async () => {
    const [host, none] = ENGINES.includes(place)
      ? [["--network", "host"], ["--network", "none"]]
      : [["host"], []];
    const port = freePort();
    for (const flags of [host, none]) {
      if (place === "runc" && flags.includes("host")) continue; // its tests' containers have networks of their own
      await using target = await startForwardTarget(place, flags, flags.includes("host") ? ["net"] : []);
      await using _server = await serve(`TCP4-LISTEN:${port},bind=127.0.0.1,fork`, ECHO, target.pid);
      for (const via of ENGINES.includes(place) ? ["relay", "chain", "stream"] : ["relay", "stream"]) {
        await using session = await startForward(target, ["-L", String(port)], { extra: ["--via", via] });
        assertEquals(await ask(session.endpoints[0]!, "hello"), "hello", `${flags} ${via}`);
      }
    }
  });

  placeTest(place, "a connection that is refused, and a port in use, are told of", async () => {
    await using target = await startForwardTarget(place);
    await using session = await startForward(target, ["-L", "81"]);
    const [endpoint] = session.endpoints;
    const refused = await ask(endpoint!, "hello").then(() => "answered", (error) => error.name);
    assertEquals(refused, "ConnectionReset");
    await session.seen("closed", 1);
    assertIncludes(session.lines.find(({ event }) => event === "closed")!.error!, "Connection refused");

    const again = (...args: string[]) => cdebug(["port-forward", target.ref, ...target.flags, ...args]);
    const { code, stderr } = await again("-L", `${endpoint!.replace(/.*:/, "")}:80`);
    assertEquals(code, 125);
    assertIncludes(stderr, `${endpoint}: the port is in use by `);
    assertIncludes((await again("-L", "192.0.2.7:9999:80")).stderr, "the address is not this machine's");

    await using _server = await serve("TCP4-LISTEN:9000,bind=127.0.0.1,fork", ECHO, target.pid);
    const taken = await again("-R", "9000:3000");
    assertEquals(taken.code, 125);
    assertIncludes(taken.stderr, "Cannot listen on tcp 127.0.0.1 9000: the port is in use there");
    assertIncludes((await again("-R", "0.0.0.0:9000:3000")).stderr, "Address already in use");
  });

  placeTest(place, "a command runs as long as it takes, and its exit code is cdebug's", async () => {
    await using target = await startForwardTarget(place);
    await using _server = await serve("TCP4-LISTEN:7080,bind=127.0.0.1,fork", ECHO, target.pid);
    const { code, stdout } = await cdebug([
      ...["port-forward", target.ref, ...target.flags, "-q", "-L", "7080", "--"],
      ...["sh", "-c", "echo hello | socat -t 5 - TCP:$CDEBUG_FORWARD_0; exit 7"],
    ]);
    assertEquals([code, stdout], [7, "hello\n"]);
    const missing = await cdebug([
      "port-forward",
      target.ref,
      ...target.flags,
      "-L",
      "7080",
      "--",
      "no-such-program",
    ]);
    assertEquals(missing.code, 127);
    await poll(async () => assertEquals(await forwardTraces(), []));
  });

  placeTest(place, "a plan is saved, and applied", async () => {
    await using target = await startForwardTarget(place);
    await using directory = await temporaryDirectory();
    await using _server = await serve("TCP4-LISTEN:7080,bind=127.0.0.1,fork", ECHO, target.pid);
    const plan = await cdebug([
      ...["plan", "port-forward", target.ref, ...target.flags, "-L", "7080", "--"],
      ...["sh", "-c", "echo hello | socat -t 5 - TCP:$CDEBUG_FORWARD_0"],
    ]);
    assertEquals(plan.code, 0);
    await Deno.writeTextFile(`${directory.path}/plan.yaml`, plan.stdout);
    const refused = await cdebug(["apply", `${directory.path}/plan.yaml`]);
    assertEquals(refused.code, 125);
    assertIncludes(refused.stderr, "the command sh -c");
    const applied = await cdebug(["apply", "--yes", `${directory.path}/plan.yaml`]);
    assertEquals([applied.code, applied.stdout], [0, "hello\n"], applied.stderr);
    assertIncludes(applied.stderr, "Forwarding 127.0.0.1:");
  });

  placeTest(place, "after kill -9 of cdebug its forwarders end, and prune removes the rest", async () => {
    await using target = await startForwardTarget(place);
    for (const via of ENGINES.includes(place) ? ["relay", "chain", "stream"] : ["relay", "stream"]) {
      const session = await startForward(target, ["-L", "7080", "-R", "9000:3000"], {
        extra: ["--via", via],
      });
      session.kill("SIGKILL");
      await session.ended;
      await poll(async () => {
        assertEquals((await forwardTraces()).filter((trace) => !trace.includes("exchange-")), []);
      }, 60);
      await poll(async () => assertEquals((await cdebug(["prune", "--yes", "-q"])).code, 0));
      assertEquals(await forwardTraces(), [], via);
      await poll(async () => assertEquals(await leftNetworks(place), []));
    }
  });

  placeTest(place, "a slow reader is waited for, and a broken connection resets the other side", async () => {
    await using target = await startForwardTarget(place);
    await using _server = await serve("TCP4-LISTEN:7080,bind=127.0.0.1,fork", "OPEN:/dev/zero", target.pid);
    await using session = await startForward(target, ["-L", "7080"]);
    const conn = await Deno.connect({ port: Number(session.endpoints[0]!.replace(/.*:/, "")) });
    await conn.read(new Uint8Array(1000));
    await new Promise((resolve) => setTimeout(resolve, 1000)); // as long as a reader may be busy
    assert(await resident(session.pid) < 150 * 1024, `${await resident(session.pid)} KiB`);
    // The forwarder's process of this connection: the youngest.
    const pid = (await run("pgrep", ["-n", "-f", "UNIX-LISTEN:/.cdebug-exchange/1,fork"])).trim();
    Deno.kill(Number(pid), "SIGKILL");
    const buffer = new Uint8Array(1 << 20);
    const ending = await (async () => {
      for (let count; (count = await conn.read(buffer)) !== null;) assert(count > 0);
      return "end";
    })().catch((error) => error.name);
    conn.close();
    assertEquals(ending, "ConnectionReset");
  });
}

/** In KiB. */
async function resident(pid: number): Promise<number> {
  return Number(/^VmRSS:\s*(\d+)/m.exec(await Deno.readTextFile(`/proc/${pid}/status`))![1]);
}

/** The networks that sessions have made, should any be left. */
async function leftNetworks(place: Place): Promise<string[]> {
  if (place !== "docker" && place !== "podman") return [];
  const names = await engineOf(place)!.client(["network", "ls", "--format", "{{.Name}}"]);
  return names.split("\n").filter((name) => name.startsWith("cdebug-"));
}

for (const place of ["docker", "podman"] as const) {
  placeTest(place, "direct: a published port leads to the target's address", async () => {
    await using target = await startForwardTarget(place);
    await using _server = await serve("TCP4-LISTEN:7080,fork", ECHO, target.pid);
    await using _datagrams = await serve("UDP4-LISTEN:7083,fork", "EXEC:cat,nofork", target.pid);
    await using session = await startForward(target, ["-L", "7080", "-L", "7083/udp"], {
      extra: ["--via", "direct"],
    });
    assertEquals(session.vias, ["direct", "direct"]);
    assertEquals(await ask(session.endpoints[0]!, "hello"), "hello");
    assertEquals(await askDatagram(`UDP4:${session.endpoints[1]}`, "ping"), "ping");
  });

  placeTest(place, "a target on two networks of the user's, and a third host by its name there", async () => {
    const { client } = engineOf(place)!;
    const networks = [`net-${crypto.randomUUID().slice(0, 8)}`, `net-${crypto.randomUUID().slice(0, 8)}`];
    await using stack = new AsyncDisposableStack();
    for (const network of networks) {
      await client(["network", "create", network]);
      stack.defer(async () => void await client(["network", "rm", network]));
    }
    const target = stack.use(await startForwardTarget(place, ["--network", networks[0]!]));
    await client(["network", "connect", networks[1]!, target.name]);
    const other = stack.use(await startForwardTarget(place, ["--network", networks[1]!]));
    stack.use(await serve("TCP4-LISTEN:7080,fork", ECHO, target.pid));
    stack.use(await serve("TCP4-LISTEN:7080,fork", ECHO, other.pid));
    const address = (await client([
      ...["inspect", "--format", `{{(index .NetworkSettings.Networks "${networks[1]}").IPAddress}}`],
      other.name,
    ])).trim();
    for (const via of ["relay", "chain", "stream"]) {
      await using session = await startForward(target, ["-L", "7080", "-L", `${address}:7080`], {
        extra: ["--via", via],
      });
      for (const endpoint of session.endpoints) assertEquals(await ask(endpoint, "hello"), "hello");
    }
    await using session = await startForward(target, ["-L", "7080"], { extra: ["--via", "direct"] });
    assertEquals(await ask(session.endpoints[0]!, "hello"), "hello");
  });

  placeTest(place, "relay and chain open no port on the target's network", async () => {
    const { client } = engineOf(place)!;
    await using target = await startForwardTarget(place);
    await using _server = await serve("TCP4-LISTEN:7080,bind=127.0.0.1,fork", ECHO, target.pid);
    await using scanner = await startForwardTarget(place);
    const scan = async () => {
      const [own] = await addresses(client, [target.name]);
      const network = own!.replace(/\d+$/, "");
      const found: string[] = [];
      for (const address of await addresses(client)) {
        // What is between networks is the engine's firewall's, which the tests' engines are without.
        if (!address.startsWith(network)) continue;
        // Every port on which anything of these sessions could listen, and the target's own.
        for (const port of ["7080", "9000", ...Array.from({ length: 5 }, (_, i) => String(20000 + i))]) {
          const open = await run("nsenter", [
            ...["--target", String(scanner.pid), "--net", "socat", "-u", "OPEN:/dev/null"],
            `TCP4:${address}:${port},connect-timeout=1`,
          ]).then(() => true, () => false);
          if (open) found.push(`${address}:${port}`);
        }
      }
      return found;
    };
    assertEquals(await scan(), []);
    for (const via of ["relay", "chain"]) {
      await using session = await startForward(target, ["-L", "7080", "-R", "9000:3000"], {
        extra: ["--via", via],
      });
      assertEquals(await ask(session.endpoints[0]!, "hello"), "hello");
      assertEquals(await scan(), [], via);
    }
  });

  placeTest(place, "bulk in both directions at once is carried to its end", async () => {
    await using target = await startForwardTarget(place);
    await using _server = await serve("TCP4-LISTEN:7082,fork", ECHO, target.pid);
    for (const via of ["relay", "chain", "stream"]) {
      await using session = await startForward(target, ["-L", "7082"], { extra: ["--via", via] });
      assertEquals((await runClients(session.endpoints[0]!, "bulk", 64)).answered, 64, via);
    }
    // A server that takes nothing until its answer is taken.
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const serving = (async () => {
      for await (const conn of listener) {
        const buffer = new Uint8Array(2 ** 20);
        for (let count; (count = await conn.read(buffer)) !== null;) {
          for (let at = 0; at < count;) at += await conn.write(buffer.subarray(at, count));
        }
        conn.close();
      }
    })();
    {
      await using _session = await startForward(target, ["-R", `9002:${listener.addr.port}`]);
      const { answered } = await runClients("127.0.0.1:9002", "bulk", 256, inNetwork(target.pid));
      assertEquals(answered, 256, "reverse");
    }
    listener.close();
    await serving;
  });

  placeTest(place, "events that nobody can read end the session, and leave nothing", async () => {
    await using target = await startForwardTarget(place);
    const words = [...CDEBUG, "port-forward", target.ref, ...target.flags, "-L", "7083", "-o", "json"];
    const shell = async (sink: string) => {
      const command = `${words.map((word) => `'${word}'`).join(" ")} ${sink}`;
      return await run("bash", ["-c", `set -o pipefail; { ${command}; } 2>&1; echo "code $?"`], {
        env: userEnv(),
      });
    };
    const full = await shell(">/dev/full");
    assertIncludes(full, "Cannot write to stdout: No space left");
    assertIncludes(full, "code 125");
    assertIncludes(await shell("| head -c 0"), "code 141");
    await poll(async () => assertEquals(await forwardTraces(), []));
  });

  placeTest(place, "detached forwards go on, are listed, and end when told to", async () => {
    await using target = await startForwardTarget(place);
    await using _server = await serve("TCP4-LISTEN:7080,bind=127.0.0.1,fork", ECHO, target.pid);
    const port = freePort();
    const { code, stdout, stderr } = await cdebug([
      ...["port-forward", target.ref, ...target.flags, "-d", "-L", `${port}:127.0.0.1:7080`],
    ]);
    assertEquals(code, 0, stderr);
    const session = stdout.trim();
    await poll(async () => assertEquals(await ask(`127.0.0.1:${port}`, "hello"), "hello"));
    assertEquals((await cdebug(["prune", "--yes"])).code, 0);
    assertEquals(await ask(`127.0.0.1:${port}`, "hello"), "hello");
    const listed = JSON.parse((await cdebug(["ls", "-o", "json", `${place}://`])).stdout);
    const found = listed.find((one: { session: string }) => one.session === session);
    assertEquals([found.owner, found.command], ["detached", `-L ${port}:127.0.0.1:7080`]);
    assertEquals((await cdebug(["prune", "--yes", session])).code, 0);
    await poll(async () => assertEquals(await forwardTraces(), []));
    assertEquals(await leftNetworks(place), []);
    assertIncludes((await cdebug(["prune", "--yes", session])).stderr, "no engine that answers has it");
  });

  placeTest(place, "an image without socat is refused before anything listens", async () => {
    await using target = await startForwardTarget(place);
    const { code, stderr } = await cdebug([
      "port-forward",
      target.ref,
      "--forwarder-image",
      "busybox:musl",
      "-L",
      "80",
    ]);
    assertEquals(code, 125);
    assertIncludes(stderr, "the forwarder's image has no socat");
    assertIncludes(stderr, "--forwarder-image");
  });
}

for (const place of ["root", "runc"] as const) {
  placeTest(place, "cdebug itself forwards where there is no socat", async () => {
    await using target = await startForwardTarget(place);
    await using _there = await serve("TCP4-LISTEN:7011,bind=127.0.0.1,fork", ECHO, target.pid);
    await using _here = await serve("TCP6-LISTEN:7012,bind=[::1],fork", ECHO);
    const path = `/proc/${target.pid}/root/tmp/own.sock`;
    {
      await using session = await startForward(
        target,
        ["-L", "7011", "-R", "9000:[::1]:7012", "-R", "unix:/tmp/own.sock:[::1]:7012"],
        { extra: ["--forwarder-image", "cdebug"] },
      );
      const text = "x".repeat(300_000);
      assertEquals(await ask(session.endpoints[0]!, text), text);
      assertEquals(await askIn(target.pid, "TCP4:127.0.0.1:9000", text), text);
      assertEquals(await askIn(target.pid, `UNIX-CONNECT:${path}`, text), text);
    }
    assertEquals(await exists(path), false);
    await poll(async () => assertEquals(await forwardTraces(), []));
    const refused = await cdebug([
      ...["port-forward", target.ref, ...target.flags, "--forwarder-image", "cdebug", "-L", "53/udp"],
    ]);
    assertEquals(refused.code, 125);
    assertIncludes(refused.stderr, "UDP takes socat");
  });
}

/** The addresses of containers, of all that run by default. */
async function addresses(
  client: (args: readonly string[]) => Promise<string>,
  names?: readonly string[],
): Promise<string[]> {
  const ids = names ?? (await client(["ps", "-q"])).split("\n").filter(Boolean);
  const text = await client([
    ...["inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", ...ids],
  ]);
  return [...new Set(text.split(/\s+/).filter(Boolean))];
}

placeTest("docker", "a real PostgreSQL on the target's localhost, and the target's wget back", async () => {
  const { client } = engineOf("docker")!;
  await using target = await startForwardTarget("docker");
  await using postgres = await startPostgres(target.pid);
  await using session = await startForward(target, ["-L", `127.0.0.1:${postgres.port}`]);
  const url = `postgresql://postgres@${session.endpoints[0]}/postgres`;
  assertEquals((await run("psql", ["-At", url, "-c", "select 6 * 7"])).trim(), "42");
  const bin = postgres.bin;
  await run(`${bin}/pgbench`, ["-i", "-q", "-s", "1", url]);
  assertIncludes(
    await run(`${bin}/pgbench`, ["-c", "8", "-j", "2", "-t", "50", url]),
    "number of transactions actually processed: 400/400",
  );

  await using directory = await temporaryDirectory();
  await Deno.writeTextFile(`${directory.path}/index.html`, "from the host\n");
  const port = freePort();
  const busybox = new Deno.Command("busybox", {
    args: ["httpd", "-f", "-p", `127.0.0.1:${port}`, "-h", directory.path],
  }).spawn();
  try {
    await using _back = await startForward(target, ["-R", `9000:localhost:${port}`]);
    assertEquals(
      await client(["exec", target.name, "wget", "-qO-", "http://127.0.0.1:9000/"]),
      "from the host\n",
    );
  } finally {
    busybox.kill();
    await busybox.status;
  }
});

/** PostgreSQL of Debian's, listening on the localhost of a network namespace only. */
async function startPostgres(pid: number) {
  const { install, Daemon } = await import("../engines/debian.ts");
  const binaries = async () =>
    (await run("sh", ["-c", "ls -d /usr/lib/postgresql/*/bin"])).trim().split("\n").at(-1)!;
  if (!await binaries().then(() => true, () => false)) await install({ "postgres-of-debian": "postgresql" });
  const bin = await binaries();
  const directory = await temporaryDirectory();
  await run("chown", ["postgres", directory.path]);
  const asPostgres = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups"];
  await run("setpriv", [
    ...asPostgres.slice(1),
    `${bin}/initdb`,
    "-A",
    "trust",
    "-D",
    `${directory.path}/data`,
  ]);
  const port = 5439;
  const daemon = Daemon.start("nsenter", [
    ...["--target", String(pid), "--net", ...asPostgres, `${bin}/postgres`, "-D", `${directory.path}/data`],
    ...["-h", "127.0.0.1", "-p", String(port), "-k", directory.path],
  ], `${directory.path}.log`);
  await daemon.ready(() => askIn(pid, `TCP4:127.0.0.1:${port}`, ""));
  return {
    bin,
    port,
    async [Symbol.asyncDispose]() {
      await daemon[Symbol.asyncDispose]();
      await Deno.remove(`${directory.path}.log`);
      await directory[Symbol.asyncDispose]();
    },
  };
}
