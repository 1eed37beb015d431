/** The list that targets are picked from, in a real terminal. */

import { assert, assertEquals, assertIncludes } from "../assert.ts";
import { poll } from "../engines/debian.ts";
import { startRunc } from "../engines/runc.ts";
import { temporaryDirectory } from "../temporary.ts";
import { BARE, cdebug, docker, liveTest, ORDINARY, target } from "./engine.ts";
import { Terminal } from "./tmux.ts";

const ROOT = new URL("../..", import.meta.url).pathname;
/** What is on every list. */
const LABEL = "Target:";

/** The lines of the screen that are not empty. */
async function lines(terminal: Terminal): Promise<string[]> {
  return (await terminal.screen()).split("\n").filter((line) => line.trim() !== "");
}

/** The line of a container in the list; throws if it is not there. */
async function lineOf(terminal: Terminal, name: string): Promise<string> {
  const found = (await lines(terminal)).find((line) => line.slice(2).startsWith(`${name} `));
  assert(found !== undefined, await terminal.screen());
  return found;
}

/** The list has been erased, what was on the screen before is there, and the terminal is as a shell needs it. */
async function assertGivenBack(terminal: Terminal, before: string): Promise<void> {
  const screen = await terminal.screen();
  assertIncludes(screen, before);
  assert(!screen.includes(LABEL), screen);
  await terminal.type("clear; stty -a | grep -q ' icanon' && stty -a | grep -q ' echo ' && echo sa''ne");
  await terminal.shows("sane");
}

/** An engine that takes connections and never answers. */
async function silentEngine() {
  await using stack = new AsyncDisposableStack();
  const { path: dir } = stack.use(await temporaryDirectory());
  const path = `${dir}/silent.sock`;
  const listener = Deno.listen({ transport: "unix", path });
  const connections: Deno.Conn[] = [];
  const accepting = (async () => {
    for await (const connection of listener) connections.push(connection);
  })();
  stack.defer(async () => {
    listener.close();
    await accepting;
    for (const connection of connections) connection.close();
  });
  const own = stack.move();
  return {
    address: `unix://${path}`,
    hangUp: () => connections.splice(0).forEach((connection) => connection.close()),
    [Symbol.asyncDispose]: () => own.disposeAsync(),
  };
}

liveTest(
  "picker: the containers of all engines, filtered, picked, and the line to type next time",
  async () => {
    await using one = await target({ run: ["--read-only", "--user", "1000"] });
    await using other = await target({ engine: "podman", image: BARE });
    await using third = await startRunc({ runtime: "runc", listed: true });
    await using terminal = await Terminal.open({ columns: 160, rows: 30 });
    await terminal.type("cdebug exec --env 'A=a b'; echo code=$?");
    await terminal.shows("Type to filter");
    assertIncludes(await lineOf(terminal, one.name), "docker");
    assertIncludes(await lineOf(terminal, other.name), "podman");
    assertIncludes(await lineOf(terminal, third.id), "runc");
    // What lower engines see of them is not listed again.
    assert(!/ of (docker|podman) /.test(await terminal.screen()), await terminal.screen());
    await poll(async () => assertIncludes(await lineOf(terminal, one.name), "read-only, user 1000"));

    await terminal.write(other.name.slice(2).toUpperCase());
    await poll(async () => assert(!(await terminal.screen()).includes(one.name)));
    assertIncludes((await lines(terminal)).join("\n"), `> ${other.name}`);
    await terminal.keys("C-u");
    await terminal.shows(one.name);
    await terminal.write(`${one.name}x`);
    await terminal.shows("nothing matches");
    await terminal.keys("Enter", "BSpace");
    await terminal.shows(`> ${one.name}`);
    await terminal.keys("C-u");
    await terminal.write(other.name);
    await poll(async () => assert(!(await terminal.screen()).includes(one.name)));
    await terminal.keys("Enter");

    await terminal.shows(`cdebug exec -it --env 'A=a b' ${other.ref}`);
    await terminal.shows("/ #");
    await terminal.type('echo "$(hostname) $A" | grep -c " a b$"; ls /server; exit 5');
    await terminal.shows("/server\n");
    await terminal.shows("code=5");
    await assertGivenBack(terminal, "cdebug exec --env");

    await terminal.type("cdebug exec; echo code=$?");
    await terminal.shows("Type to filter");
    await terminal.write(third.id);
    await poll(async () => assert(!(await terminal.screen()).includes(other.name)));
    await terminal.keys("Enter");
    await terminal.shows(`cdebug exec -it runc://${third.id}`);
    await terminal.shows("\n#");
    await terminal.type("ls -d /server; exit 6");
    await terminal.shows("/server\n");
    await terminal.shows("code=6");
  },
  "podman",
);

liveTest("picker: Esc, Ctrl-C and SIGTERM leave, and give the terminal back", async () => {
  await using _ = await target();
  await using terminal = await Terminal.open();
  const leave: [code: number, how: () => Promise<void>][] = [
    [130, () => terminal.keys("Escape")],
    [130, () => terminal.keys("C-c")],
    [143, async () => Deno.kill(await terminal.cdebugPid(), "SIGTERM")],
  ];
  for (const [code, how] of leave) {
    await terminal.type("clear; cdebug exec; echo code=$?");
    await terminal.shows(LABEL);
    await how();
    await terminal.shows(`code=${code}`);
    assert(!(await terminal.screen()).includes("cdebug: "), await terminal.screen());
    await assertGivenBack(terminal, "");
  }
});

liveTest("picker: an engine that never answers delays no other one's containers", async () => {
  await using web = await target();
  await using silent = await silentEngine();
  await using terminal = await Terminal.open({ columns: 100, rows: 30 }, { CONTAINER_HOST: silent.address });
  await terminal.type("cdebug exec; echo code=$?");
  await terminal.shows(LABEL);
  const screen = await terminal.screen();
  assertIncludes(screen, web.name);
  assertIncludes(screen, "podman: waiting for an answer");
  await terminal.write(web.name);
  await terminal.shows(`> ${web.name}`);
  await terminal.keys("Enter");
  await terminal.shows("/ #");
  // Its end is of no interest to the session.
  silent.hangUp();
  await terminal.type("sleep 1; echo do''ne");
  await terminal.shows("done\n");
  assert(!(await terminal.screen()).includes(LABEL), await terminal.screen());
  await terminal.type("exit 4");
  await terminal.shows("code=4");
});

liveTest(
  "picker: an engine that cannot be reached is a line, and one that nobody names is none",
  async () => {
    await using web = await target();
    const env = { CONTAINER_HOST: "unix:///nonexistent/podman.sock" };
    await using terminal = await Terminal.open({ columns: 100, rows: 30 }, env);
    await terminal.type("cdebug exec");
    await terminal.shows(web.name);
    await terminal.shows("podman: ");
    await terminal.shows("there is no such socket");
    await terminal.keys("Escape");
  },
);

liveTest("picker: cdebug's own containers are not on it, and what has stopped is at its end", async () => {
  await using web = await target();
  const stopped = `stopped-${crypto.randomUUID().slice(0, 8)}`;
  await docker(["create", "--name", stopped, ORDINARY, "true"]);
  const sidecar = (await cdebug(["exec", "-d", web.name, "sleep", "1000000"])).stdout.trim();
  try {
    await using terminal = await Terminal.open({ columns: 100, rows: 60 });
    await terminal.type("cdebug exec; echo code=$?");
    await terminal.shows(stopped);
    const screen = await terminal.screen();
    assert(screen.indexOf(web.name) < screen.indexOf(stopped), screen);
    assert(!screen.includes(sidecar), screen);
    await terminal.write(stopped);
    await terminal.shows(`> ${stopped}`);
    await terminal.keys("Enter");
    await terminal.shows("Take a throw-away copy of its filesystem?");
    await terminal.type("n");
    await terminal.shows("code=125");
  } finally {
    await docker(["stop", sidecar]); // it removes its link
    await docker(["rm", stopped]);
  }
});

liveTest(
  "picker: it fits a small terminal, and one whose size changes; what is typed behind Enter is the session's",
  async () => {
    await using web = await target();
    await using terminal = await Terminal.open({ columns: 40, rows: 10 });
    await terminal.type("cdebug exec; echo code=$?");
    await terminal.shows(LABEL);
    await terminal.write(web.name);
    await terminal.shows(`${LABEL} ${web.name}`);
    const narrow = await lines(terminal);
    assert(!narrow.join("").includes(ORDINARY), "there is room for an image");
    await terminal.resize(120, 30);
    await terminal.shows(ORDINARY);
    await terminal.resize(40, 10);
    await poll(async () => assertEquals((await lines(terminal)).slice(0, 3), narrow.slice(0, 3)));
    await terminal.write("\recho $((6 * 7)); exit 3\r");
    await terminal.shows("42\n");
    await terminal.shows("code=3");
  },
);

liveTest("picker: where several engines have a target of the name, it is picked among those", async () => {
  await using web = await target({ engine: "podman" });
  await using unlike = await target({ engine: "podman" });
  await using terminal = await Terminal.open();
  await using dir = await temporaryDirectory();
  // As long as there is only one other engine, it stands for two.
  await Deno.writeTextFile(
    `${dir.path}/find.ts`,
    `import { findTarget } from "${ROOT}lib/commands/find.ts";
    const ref = { engines: ["docker", "podman", "podman"], kind: "container", name: "${web.name}" } as const;
    await using found = await findTarget(ref, "${web.name}", undefined, { quiet: false });
    console.log("found " + found.target.engine);`,
  );
  await terminal.type(`${Deno.execPath()} run -A ${dir.path}/find.ts`);
  await terminal.shows("2/2");
  assert(!(await terminal.screen()).includes(unlike.name));
  await terminal.keys("Enter");
  await terminal.shows(`cdebug: "${web.name}" is ${web.ref}\nfound podman`);
}, "podman");

liveTest("picker: where there is no container, it says so without a list", async () => {
  await using terminal = await Terminal.open({ columns: 160, rows: 30 });
  await terminal.type("cdebug exec --runtime unix:///nonexistent/docker.sock; echo code=$?");
  await terminal.shows("code=125");
  const screen = await terminal.screen();
  for (
    const text of [
      "Cannot reach the Docker daemon",
      "no engine answers",
      "cdebug doctor",
    ]
  ) {
    assertIncludes(screen, text);
  }
});

liveTest("picker: what is wrong with the flags is told before anything is picked", async () => {
  await using terminal = await Terminal.open();
  await terminal.type("cdebug exec --timeout soon; echo code=$?");
  await terminal.shows("--timeout takes a time");
  await terminal.shows("code=125");
});
