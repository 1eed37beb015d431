import { assertEquals } from "../assert.ts";
import { type FakeEngine, fakeSidecar, fakeTarget, openFake } from "../fake_driver.ts";
import { formatOrphans, formatSessions } from "../../lib/commands/ls.ts";
import { findLeftovers } from "../../lib/commands/prune.ts";
import { ownIdentity } from "../../lib/owner.ts";
import { findSessions } from "../../lib/sessions.ts";

const ALIVE = ownIdentity();
const DEAD = ALIVE.replace(/^(\d+)\.\d+/, "$1.1");
const TARGET = fakeTarget().id;

/** Starts a sidecar on a fake engine with some of the labels of a session. */
async function begin(
  engine: FakeEngine,
  session: string,
  labels: Record<string, string>,
  options: { ended?: boolean } = {},
) {
  const script = options.ended ? "true" : "sleep 1000";
  const running = await engine.run(
    {
      sidecar: fakeSidecar({ script, keep: true }),
      target: fakeTarget(),
      name: `cdebug-${session}`,
      labels: {
        "cdebug.session": session,
        "cdebug.role": "debugger",
        "cdebug.target": TARGET,
        "cdebug.command": `sh -c ${session}`,
        ...labels,
      },
      env: { CDEBUG_SCRIPT: script },
      detached: false,
    },
    {},
    new AbortController().signal,
    () => {},
  );
  if (options.ended) await running.exit;
  return running;
}

/** A fake engine with a session of every kind; all are ended with it. */
async function openCrowd() {
  const engine = openFake();
  const running = [
    await begin(engine, "a11fe000", { "cdebug.owner": ALIVE }),
    await begin(engine, "dead0000", { "cdebug.owner": DEAD }),
    await begin(engine, "1ef70000", { "cdebug.owner": DEAD }),
    await begin(engine, "fa400000", { "cdebug.owner": "1.2.3.elsewhere" }),
    await begin(engine, "de7ac000", { "cdebug.detached": "true" }),
  ];
  await begin(engine, "3eb70000", { "cdebug.owner": DEAD }, { ended: true });
  await begin(engine, "fa43eb70", { "cdebug.owner": "1.2.3.elsewhere" }, { ended: true });
  await begin(engine, "de7ac3eb", { "cdebug.detached": "true" }, { ended: true });
  engine.paths.set(running[2]!.id, new Map([["/.cdebug-detached", undefined]]));
  return {
    engine,
    async [Symbol.asyncDispose]() {
      for (const { id } of running) await engine.remove(id);
      await Promise.allSettled(running.map(({ exit }) => exit));
    },
  };
}

Deno.test("findSessions() says whose they are, and which are over", async () => {
  await using crowd = await openCrowd();
  const sessions = await findSessions(crowd.engine);
  const found = Object.fromEntries(
    sessions.map(({ session, owner, state, over }) => [session, [owner, state, over]]),
  );
  assertEquals(found, {
    a11fe000: ["alive", "running", false],
    dead0000: ["dead", "running", true],
    "1ef70000": ["detached", "running", false],
    fa400000: ["elsewhere", "running", false],
    de7ac000: ["detached", "running", false],
    "3eb70000": ["dead", "exited", true],
    fa43eb70: ["elsewhere", "exited", true],
    de7ac3eb: ["detached", "exited", true],
  });
});

Deno.test("findSessions() puts the containers of a session together", async () => {
  const engine = openFake();
  const labels = { "cdebug.owner": ALIVE };
  await begin(engine, "a11fe000", labels, { ended: true });
  const second = await begin(engine, "a11fe000-2", { ...labels, "cdebug.session": "a11fe000" });
  const [found, ...more] = await findSessions(engine);
  assertEquals([found!.state, found!.containers.length, more.length], ["running", 2, 0]);
  await engine.remove(second.id);
  await second.exit.catch(() => {});
});

Deno.test("findSessions() names a target that is gone by its ID", async () => {
  const engine = openFake();
  await begin(engine, "a11fe000", { "cdebug.owner": ALIVE, "cdebug.target": "0123456789abcdef" }, {
    ended: true,
  });
  const [found] = await findSessions(engine);
  assertEquals(found!.target, { id: "0123456789abcdef", name: "0123456789ab" });
});

Deno.test("formatSessions() is a table for people", async () => {
  const engine = openFake();
  await begin(engine, "a11fe000", { "cdebug.owner": ALIVE, "cdebug.command": "sh -c \x1b[2J" }, {
    ended: true,
  });
  const sessions = await findSessions(engine);
  const later = new Date(sessions[0]!.createdAt.getTime() + 2 * 3600 * 1000);
  assertEquals(
    formatSessions(sessions, later),
    "SESSION    TARGET   STATE    AGE           OWNER   COMMAND\n" +
      "a11fe000   web      exited   2 hours ago   alive   sh -c \\x1b[2J\n",
  );
});

Deno.test("formatOrphans() speaks of sessions that lost their cdebug, and of no others", async () => {
  await using crowd = await openCrowd();
  const sessions = await findSessions(crowd.engine);
  assertEquals(
    formatOrphans(sessions, undefined),
    "1 orphaned session on web, from less than a second ago\nHint: cdebug prune  removes it",
  );
  assertEquals(formatOrphans(sessions.filter(({ owner }) => owner !== "dead"), undefined), undefined);
});

Deno.test("findLeftovers() is what belongs to no living session", async () => {
  await using crowd = await openCrowd();
  const { engine } = crowd;
  engine.paths.set(
    TARGET,
    new Map([
      ["/.cdebug-a11fe000", "/proc/7/root/"],
      ["/.cdebug-fa400000", "/proc/8/root/"],
      ["/.cdebug-dead0000", "/proc/9/root/"],
      ["/.cdebug-12345678", "/proc/10/root/"],
      ["/.cdebug-of-the-users", undefined],
      ["/data", undefined],
      ["/nix", "/proc/9/root/nix"],
    ]),
  );
  const image = (id: string, labels: Record<string, string>, names: string[] = []) =>
    engine.resources.set(id, { kind: "image", id, names, labels });
  image("sha256:living", { "cdebug.session": "a11fe000" });
  image("sha256:starting", { "cdebug.session": "00000000", "cdebug.owner": ALIVE });
  image("sha256:stale", { "cdebug.session": "00000000" });
  image("sha256:named", { "cdebug.session": "00000000" }, ["cdebug-snapshot:1"]);
  image("sha256:users", { "cdebug.session": "00000000" }, ["my/tools:1"]);
  image("sha256:busybox:musl", { "cdebug.session": "00000000" }); // the sidecars' own
  const found = await findLeftovers(engine, await engine.list());
  assertEquals(
    found.map((leftover) => leftover.kind === "link" ? leftover.path : leftover.name).sort(),
    [
      "/.cdebug-12345678",
      "/.cdebug-dead0000",
      "cdebug-3eb70000",
      "cdebug-de7ac3eb",
      "cdebug-dead0000",
      "cdebug-fa43eb70",
      "cdebug-snapshot:1",
      "sha256:stale",
    ],
  );
});

Deno.test("findLeftovers() takes a /nix for cdebug's own only where it leads to a sidecar, and nobody uses it", async () => {
  for (
    const [leads, stale] of [["/proc/9/root/nix", true], ["/data/nix", false], [undefined, false]] as const
  ) {
    const engine = openFake();
    engine.paths.set(TARGET, new Map([["/nix", leads]]));
    const found = await findLeftovers(engine, await engine.list());
    assertEquals(found.map((leftover) => leftover.kind === "link" && leftover.path), stale ? ["/nix"] : []);
  }
});
