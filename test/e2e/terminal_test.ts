/** `cdebug exec -it` in a real terminal. */

import { assert } from "../assert.ts";
import { poll } from "../engines/debian.ts";
import { BARE, hangupProcess, idOf, liveTest, sidecarsOf, target } from "./engine.ts";
import { Terminal } from "./tmux.ts";

/** What `stty` says of a terminal that nobody has left in disorder. */
async function assertSane(terminal: Terminal): Promise<void> {
  await terminal.type("clear; stty -a | grep -q ' icanon' && stty -a | grep -q ' echo ' && echo sa''ne");
  await terminal.shows("sane");
}

/** A session that has ended by itself has nothing to say. */
async function assertSilent(terminal: Terminal): Promise<void> {
  const screen = await terminal.screen();
  assert(!screen.includes("cdebug: "), screen);
}

liveTest("terminal: its size is right from the first prompt, and after a resize", async () => {
  await using web = await target({ image: BARE });
  await using terminal = await Terminal.open({ columns: 97, rows: 31 });
  await terminal.type(`cdebug exec -it ${web.name} stty size; echo code=$?`);
  await terminal.shows("31 97");
  await terminal.shows("code=0");
  await terminal.type(`clear; cdebug exec -it ${web.name}`);
  await terminal.shows("/ #");
  await terminal.resize(120, 40);
  await poll(async () => {
    await terminal.type("clear; stty size");
    assert((await terminal.screen()).includes("40 120"));
  });
  await terminal.type("exit");
});

liveTest("terminal: the exit code of the shell is cdebug's", async () => {
  await using web = await target({ image: BARE });
  await using terminal = await Terminal.open();
  await terminal.type(`cdebug exec -it ${web.name}; echo code=$?`);
  await terminal.shows("/ #");
  await hangupProcess(web.name);
  await terminal.type("exit 3");
  await terminal.shows("code=3");
  await assertSilent(terminal);
  await assertSane(terminal);
});

liveTest("terminal: Ctrl-C goes to the command, not to cdebug", async () => {
  await using web = await target({ image: BARE });
  await using terminal = await Terminal.open();
  const command = `trap "echo go""t it; exit 9" INT; echo u""p; while :; do sleep 0.1; done`;
  await terminal.type(`cdebug exec -it ${web.name} sh -c '${command}'; echo code=$?`);
  await terminal.shows("up");
  await terminal.keys("C-c");
  await terminal.shows("got it");
  await terminal.shows("code=9");
  await assertSane(terminal);
});

liveTest("terminal: ctrl-p ctrl-q detaches, and docker attach goes back", async () => {
  await using web = await target({ image: BARE });
  await using terminal = await Terminal.open();
  await terminal.type(`cdebug exec -it ${web.name}; echo code=$?`);
  await terminal.shows("/ #");
  await terminal.keys("C-p", "C-q");
  await terminal.shows("code=0");
  await assertSane(terminal);
  const [sidecar] = await sidecarsOf(await idOf(web.name));
  assert(sidecar !== undefined, "the sidecar is gone");
  await terminal.type(`clear; docker attach ${sidecar}; echo again=$?`);
  await poll(async () => {
    await terminal.keys("Enter");
    assert((await terminal.screen()).includes("/ #"));
  });
  await terminal.type("exit 5");
  await terminal.shows("again=5");
});

for (const signal of ["SIGTERM", "SIGHUP", "SIGKILL"] as const) {
  liveTest(`terminal: ${signal} to cdebug ends the session and leaves nothing`, async () => {
    await using web = await target({ image: BARE });
    await using terminal = await Terminal.open();
    await terminal.type(`cdebug exec -it ${web.name}; echo code=$?`);
    await terminal.shows("/ #");
    // Who is killed in its first moments leaves what the issue allows; the process that ends the session starts then.
    await hangupProcess(web.name);
    Deno.kill(await terminal.cdebugPid(), signal);
    await terminal.shows({ SIGTERM: "code=143", SIGHUP: "code=129", SIGKILL: "code=137" }[signal]);
    if (signal !== "SIGKILL") await assertSane(terminal);
  });
}

liveTest("terminal: closing it ends the session and leaves nothing", async () => {
  await using web = await target({ image: BARE });
  const terminal = await Terminal.open();
  await terminal.type(`cdebug exec -it ${web.name}`);
  await terminal.shows("/ #");
  await terminal.close();
});

liveTest("terminal: Ctrl-C during a pull gives it back at once", async () => {
  await using web = await target({ image: BARE });
  using registry = silentRegistry();
  await using terminal = await Terminal.open();
  await terminal.type(`cdebug exec -it --image ${registry.address}/x:1 ${web.name}; echo code=$?`);
  await registry.asked;
  await terminal.keys("C-c");
  await terminal.shows("code=130");
  await assertSane(terminal);
});

/** A registry that takes connections and never answers. */
function silentRegistry() {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const asked = Promise.withResolvers<void>();
  const connections: Deno.Conn[] = [];
  (async () => {
    for await (const connection of listener) {
      connections.push(connection);
      asked.resolve();
    }
  })();
  return {
    address: `127.0.0.1:${listener.addr.port}`,
    asked: asked.promise,
    [Symbol.dispose]() {
      listener.close();
      for (const connection of connections) connection.close();
    },
  };
}
