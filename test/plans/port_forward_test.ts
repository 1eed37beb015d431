import { assert, assertEquals, assertIncludes, assertThrows } from "../assert.ts";
import { FAKE_CAPABILITIES as docker, fakeTarget } from "../fake_driver.ts";
import { golden } from "../golden.ts";
import { CdebugError } from "../../lib/errors.ts";
import { parseFlags } from "../../lib/flags.ts";
import { type Capabilities, formatEndpoint, type Locality, type Target } from "../../lib/target.ts";
import { parseForward } from "../../plans/forward/grammar.ts";
import * as portForward from "../../plans/port_forward.ts";

const pure = { permissions: "none" } as const;
const around = { cwd: "/", image: undefined, isRoot: true, readText: () => "" };
const HERE: Locality = { hostSockets: true, publish: true };
const IN_A_MACHINE: Locality = { hostSockets: false, publish: true };
const REMOTE: Locality = { hostSockets: false, publish: false };
const networks = [{ name: "bridge", address: "172.17.0.2" }, { name: "shop", address: "172.18.0.5" }];

function request(...argv: string[]) {
  const { values, rest, behind } = parseFlags("port-forward", portForward.flags, argv, {
    anywhere: true,
    parted: true,
  });
  return portForward.request(values, rest, around, behind);
}

function compile(
  argv: readonly string[],
  locality: Locality = HERE,
  changes: Partial<Target> = {},
  capabilities: Partial<Capabilities> = {},
) {
  return portForward.compile(request("web", ...argv), fakeTarget({ networks, ...changes }), {
    ...docker,
    locality,
    ...capabilities,
  });
}

/** A forward as `listen → connect`, where `?` is the target itself. */
function read(letter: "L" | "R", text: string): string[] {
  return parseForward(letter, text).map(({ listen, connect, protocol }) => {
    const to = "host" in connect || "path" in connect ? formatEndpoint(connect) : `?:${connect.port}`;
    return `${formatEndpoint(listen)} → ${to}${protocol === "udp" ? " udp" : ""}`;
  });
}

Deno.test("parseForward() reads every form of -L", pure, () => {
  for (
    const [text, ...wanted] of [
      ["80", "127.0.0.1:0 → ?:80"],
      [":80", "127.0.0.1:0 → ?:80"],
      ["8080:80", "127.0.0.1:8080 → ?:80"],
      ["db.internal:5432", "127.0.0.1:0 → db.internal:5432"],
      ["10.0.0.7:5432", "127.0.0.1:0 → 10.0.0.7:5432"],
      ["5433:db:5432", "127.0.0.1:5433 → db:5432"],
      ["0.0.0.0:8080:80", "0.0.0.0:8080 → ?:80"],
      ["*:8080:80", "0.0.0.0:8080 → ?:80"],
      ["localhost::80", "localhost:0 → ?:80"],
      ["127.0.0.1:5433:db:5432", "127.0.0.1:5433 → db:5432"],
      ["127.0.0.1::db:5432", "127.0.0.1:0 → db:5432"],
      ["[::1]:8080:[fe80::1]:80", "[::1]:8080 → [fe80::1]:80"],
      ["8080:[::1]:80", "127.0.0.1:8080 → [::1]:80"],
      ["[::1]:80", "127.0.0.1:0 → [::1]:80"],
      ["8080:http", "127.0.0.1:8080 → ?:80"],
      ["http", "127.0.0.1:0 → ?:80"],
      ["5300:53/udp", "127.0.0.1:5300 → ?:53 udp"],
      ["8080:80/tcp", "127.0.0.1:8080 → ?:80"],
      ["8000-8002:9000-9002", ...[0, 1, 2].map((n) => `127.0.0.1:${8000 + n} → ?:${9000 + n}`)],
      ["9000-9001", "127.0.0.1:0 → ?:9000", "127.0.0.1:0 → ?:9001"],
      ["unix:/tmp/x.sock:80", "unix:/tmp/x.sock → ?:80"],
      ["unix:/tmp/x.sock:db:80", "unix:/tmp/x.sock → db:80"],
      ["8080:unix:/run/app.sock", "127.0.0.1:8080 → unix:/run/app.sock"],
      ["0.0.0.0:8080:unix:/run/app.sock", "0.0.0.0:8080 → unix:/run/app.sock"],
      ["unix:/tmp/x.sock:unix:/run/app.sock", "unix:/tmp/x.sock → unix:/run/app.sock"],
    ] as const
  ) {
    assertEquals(read("L", text), [...wanted], text);
  }
});

Deno.test("parseForward() reads every form of -R", pure, () => {
  for (
    const [text, ...wanted] of [
      ["3000", "127.0.0.1:3000 → 127.0.0.1:3000"],
      ["9000:3000", "127.0.0.1:9000 → 127.0.0.1:3000"],
      ["9000:localhost:3000", "127.0.0.1:9000 → localhost:3000"],
      ["0.0.0.0:9000:3000", "0.0.0.0:9000 → 127.0.0.1:3000"],
      ["0.0.0.0:9000:10.1.2.3:3000", "0.0.0.0:9000 → 10.1.2.3:3000"],
      ["[::1]:9000:[::1]:3000", "[::1]:9000 → [::1]:3000"],
      ["53:5300/udp", "127.0.0.1:53 → 127.0.0.1:5300 udp"],
      ["unix:/tmp/up.sock:3000", "unix:/tmp/up.sock → 127.0.0.1:3000"],
      ["9000:unix:/run/docker.sock", "127.0.0.1:9000 → unix:/run/docker.sock"],
    ] as const
  ) {
    assertEquals(read("R", text), [...wanted], text);
  }
});

Deno.test("parseForward() refuses what is none, and says why", pure, () => {
  for (
    const [letter, text, why] of [
      ["L", "", "the port to go to is missing"],
      ["L", "8080:", "the port to go to is missing"],
      ["L", "70000", "is not a port"],
      ["L", "0", "is not a port"],
      ["L", "8080:80:", "is missing"],
      ["L", "a:b:c:d:e", "it is not a forward"],
      ["L", "a b:80", "is not a host"],
      ["L", "-x:80", "is not"],
      ["L", "8080:80/sctp", "is not a port"],
      ["L", "9-8:80", "is not a range"],
      ["L", "1-1000:1-1000", "is not a range"],
      ["L", "8000-8001:80", "2 ports cannot go to 1"],
      ["L", "::1:80", "it is not a forward"],
      ["L", "[::1:80", "it is not a forward"],
      ["L", "unix:/tmp/x:80/udp", "no datagrams"],
      ["L", "unix:relative:80", 'not a path that begins with "/"'],
      ["L", "unix:/tmp/a,b:80", "has other than letters"],
      ["L", "8080:unix:/" + "x".repeat(120), "longer than 107"],
      ["R", ":3000", "the port to listen on in the target is missing"],
      ["R", "name:9000", "is not a port"],
    ] as const
  ) {
    const error = assertThrows(() => parseForward(letter, text), CdebugError);
    assertIncludes(`${text}: ${error.message}`, why);
    assert(error.hint, text);
  }
});

Deno.test("port-forward: takes flags anywhere, ports like kubectl, and a command behind --", pure, () => {
  const { forwards, argv, target } = request("web", "-L", "8080:80", "-R", "9000:3000", "--", "psql", "-L");
  assertEquals([target, forwards, argv], ["web", ["-L 8080:80", "-R 9000:3000"], ["psql", "-L"]]);
  assertEquals(request("-L", "80", "web").forwards, ["-L 80"]);
  assertEquals(request("web", "8080:80", "443").forwards, ["-L 8080:80", "-L 443"]);
  for (
    const [argv, why] of [
      [["-L", "80"], "no target is named"],
      [["web"], "no port is named"],
      [["web", "-L", "80", "-d", "--", "true"], "--detach"],
      [["web", "-L", "80", "--running-timeout", "soon"], "takes a time"],
      [["web", "-L", "nonsense"], "is not a port"],
    ] as const
  ) {
    assertIncludes(assertThrows(() => request(...argv), CdebugError).message, why);
  }
});

/** The ways of a plan's forwards, and where its sidecars are. */
function ways(...args: Parameters<typeof compile>): string {
  const { session, sidecars } = compile(...args);
  assert(session.kind === "forward");
  return [...session.forwards.map(({ via }) => via), ...sidecars.map(({ name }) => name)].join(" ");
}

Deno.test("port-forward: goes the way that engine, target and request allow", pure, () => {
  const none = { networks: [] };
  for (
    const [wanted, argv, locality, changes] of [
      ["relay forwarder", ["-L", "80"], HERE],
      ["relay forwarder", ["-L", "80"], HERE, none],
      ["chain forwarder publisher", ["-L", "80"], IN_A_MACHINE],
      ["direct neighbour", ["-L", "172.18.0.5:80"], IN_A_MACHINE],
      ["chain forwarder publisher", ["-L", "127.0.0.1:80"], IN_A_MACHINE],
      ["chain forwarder publisher", ["-L", "db:80"], IN_A_MACHINE],
      ["chain forwarder publisher", ["-L", "80"], IN_A_MACHINE, none],
      ["stream forwarder", ["-L", "80"], REMOTE],
      ["stream forwarder", ["-L", "unix:/tmp/x:80"], IN_A_MACHINE],
      ["chain forwarder publisher", ["-L", "80", "-d"], HERE],
      ["direct neighbour", ["-L", "172.17.0.2:80", "-d"], HERE],
      ["direct neighbour", ["-L", "80", "--via", "direct"], HERE],
      ["chain forwarder publisher", ["-L", "db:80", "-d"], HERE],
      ["stream forwarder", ["-L", "80", "--via", "stream"], HERE],
      ["reverse forwarder", ["-R", "80"], HERE],
      ["reverse forwarder", ["-R", "80"], REMOTE],
      [
        "chain direct reverse forwarder publisher neighbour",
        ["-L", "db:1", "-L", "172.17.0.2:2", "-R", "3"],
        IN_A_MACHINE,
      ],
    ] as const
  ) {
    assertEquals(ways(argv, locality, changes), wanted, argv.join(" "));
  }
  for (
    const [argv, locality, why] of [
      [["-L", "80", "--via", "relay"], REMOTE, "shares this machine's filesystem"],
      [["-L", "80", "--via", "chain"], REMOTE, "publishes no ports on this machine"],
      [["-L", "db:80", "--via", "direct"], HERE, "that is none"],
      [["-L", "unix:/tmp/x:80", "-d"], HERE, "not UNIX sockets"],
      [["-R", "80", "-d"], HERE, "--detach"],
      [["-L", "80", "-d"], REMOTE, "publishes no ports"],
      [["-L", "80", "-d", "--via", "relay"], HERE, "goes through cdebug"],
    ] as const
  ) {
    assertIncludes(assertThrows(() => compile(argv, locality), CdebugError).message, why);
  }
});

Deno.test("port-forward: has no right that a forward does not take", pure, () => {
  const rights = (argv: readonly string[], changes: Partial<Target> = {}) => {
    const [{ addLinuxCapabilities, dropLinuxCapabilities, namespaces }] = compile(argv, HERE, changes)
      .sidecars as [ReturnType<typeof compile>["sidecars"][number]];
    return [addLinuxCapabilities ?? [], dropLinuxCapabilities ?? [], namespaces.pid];
  };
  const user = { user: "1000" };
  assertEquals(rights(["-L", "80"], user), [[], ["ALL"], "own"]);
  assertEquals(rights(["-R", "8080"], user), [[], ["ALL"], "own"]);
  assertEquals(rights(["-R", "80:8080"], user), [["NET_BIND_SERVICE"], ["ALL"], "own"]);
  assertEquals(rights(["-L", "1:unix:/run/x"], user), [["SYS_PTRACE"], [], "target"]);
  const { securityOptions } = compile(["-L", "80"], HERE, { securityOptions: ["no-new-privileges"] })
    .sidecars[0]!;
  assertEquals(securityOptions, ["no-new-privileges"]);
});

Deno.test("port-forward: refuses a way that there is not", pure, () => {
  for (const via of ["direct", "chain"]) {
    assertThrows(() => compile(["-R", "80", "--via", via], HERE), CdebugError, "is a way for -L");
    compile(["-R", "80", "-L", "80", "--via", via], HERE);
  }
  assertThrows(() => compile(["-R", "80", "--via", "relay"], REMOTE), CdebugError, "shares this machine's");
});

Deno.test("port-forward: what does not run has no ports", pure, () => {
  for (const state of ["stopped", "image"] as const) {
    const error = assertThrows(() => compile(["-L", "80"], HERE, { state, exitCode: 1 }), CdebugError);
    assert(error.hint);
  }
});

golden("forward_relay", () => compile(["-L", "8080:80", "-R", "9000:localhost:3000"]));
golden("forward_direct", () => compile(["-L", "8080:172.17.0.2:80"], IN_A_MACHINE));
golden(
  "forward_chain",
  () => compile(["-L", "5432:db:5432", "-L", "53/udp"], IN_A_MACHINE, { networks: [] }),
);
golden("forward_stream", () => compile(["-L", "8080:80", "-R", "80:unix:/run/docker.sock"], REMOTE));
golden(
  "forward_process",
  () =>
    compile(["-L", "8080:unix:/run/app.sock"], { hostSockets: true, publish: false }, {
      engine: "pid",
      pid: 1,
      user: "1000:1000",
      addLinuxCapabilities: ["ALL"],
    }, {
      images: false,
      ownNamespaces: false,
      join: ["network", "pid", "ipc", "uts", "user"],
      starting: ["SYS_CHROOT"],
    }),
);
