/** Tab in real shells; and what `cdebug __complete` takes from engines, and when. */

import { assert, assertEquals, assertIncludes } from "../assert.ts";
import { SHELLS } from "../../lib/commands/completion.ts";
import { poll } from "../engines/debian.ts";
import { temporaryDirectory } from "../temporary.ts";
import { CDEBUG, cdebug, docker, liveTest, ORDINARY, target } from "./engine.ts";
import { Terminal } from "./tmux.ts";

/** Each shell without its user's settings, and the line that loads the script. */
const START: Readonly<Record<string, { readonly argv: readonly string[]; readonly load: string }>> = {
  bash: {
    argv: ["bash", "--norc", "--noprofile"],
    load: "source <(cdebug completion bash)",
  },
  zsh: {
    argv: ["zsh", "-f"],
    load: "autoload -U compinit; compinit -u -D; source <(cdebug completion zsh)",
  },
  fish: {
    // What fish suggests by itself would look as if it had been completed.
    argv: [
      "fish",
      "--no-config",
      "-C",
      "set fish_autosuggestion_enabled 0; function fish_prompt; echo '$ '; end",
    ],
    load: "cdebug completion fish | source",
  },
};

/** A shell that has loaded its script, and a directory of the test's own. */
async function open(shell: string) {
  await using stack = new AsyncDisposableStack();
  const { path } = stack.use(await temporaryDirectory());
  await Deno.writeTextFile(`${path}/cdebug`, `#!/bin/sh\nexec ${CDEBUG.join(" ")} "$@"\n`, { mode: 0o755 });
  const { argv, load } = START[shell]!;
  const env = {
    PATH: `${path}:${Deno.env.get("PATH")}`,
    HISTFILE: "", // it is the user's
    XDG_CONFIG_HOME: path,
    XDG_DATA_HOME: path,
  };
  const terminal = stack.use(await Terminal.open({ columns: 160, rows: 30 }, env, argv));
  await terminal.type(load);
  const own = stack.move();
  return {
    path,
    terminal,
    /** Types a part of a line and Tab, and waits for what has become of the line. */
    async tab(text: string, shows: string) {
      await terminal.write(text);
      await terminal.keys("Tab");
      await terminal.shows(shows);
    },
    [Symbol.asyncDispose]: () => own.disposeAsync(),
  };
}

/** All but the last letters. */
const beginning = (name: string) => name.slice(0, -3);

for (const shell of SHELLS) {
  liveTest(`completion: ${shell}: a command, a flag, its value, a container, a file`, async () => {
    await using web = await target();
    await using session = await open(shell);
    const { terminal, path } = session;
    await session.tab("cdebug vers", "cdebug version");
    await terminal.keys("Enter");
    await terminal.shows("cdebug 0.");

    await session.tab("cdebug exec --pul", "--pull");
    await session.tab("nev", "--pull never");
    await session.tab(beginning(web.name), `never ${web.name}`);
    await terminal.type("uname -s; echo code=7");
    await terminal.shows("Linux\ncode=7");

    await session.tab("cdebug plan exec --pull=nev", "--pull=never");
    await session.tab(beginning(web.ref), `--pull=never ${web.ref}`);
    await terminal.keys("C-c");

    await Deno.writeTextFile(`${path}/my.plan`, "");
    await session.tab(`cdebug apply ${path}/my`, `${path}/my.plan`);
    await terminal.keys("C-c");

    await terminal.write("cdebug p");
    await terminal.keys("Tab", "Tab");
    await terminal.shows("prune");
    if (shell !== "bash") await terminal.shows("Remove what belongs to no living session");
  });

  liveTest(`completion: ${shell}: a container of Podman's`, async () => {
    await using web = await target({ engine: "podman" });
    await using session = await open(shell);
    await session.tab(`cdebug exec ${beginning(web.ref)}`, `cdebug exec ${web.ref}`);
  }, "podman");
}

liveTest("completion: zsh: the script is a file in fpath", async () => {
  await using session = await open("zsh");
  const { terminal, path } = session;
  await terminal.type(`cdebug completion zsh > ${path}/_cdebug; exec zsh -f`);
  await terminal.type(`fpath=(${path} $fpath); autoload -U compinit; compinit -u -D; clear`);
  await session.tab("cdebug vers", "cdebug version");
  await terminal.keys("C-c");
  await session.tab("cdebug doct", "cdebug doctor");
});

/** The names of targets that would be offered; nothing may be said besides. */
async function names(words: readonly string[], env: Record<string, string> = {}): Promise<string[]> {
  const { code, stdout, stderr } = await cdebug(["__complete", ...words], { env });
  assertEquals([code, stderr], [0, ""]);
  return stdout.split("\n").filter(Boolean).map((line) => line.split("\t")[0]!);
}

liveTest("completion: names are those of running containers that are not cdebug's own", async () => {
  await using web = await target();
  const stopped = `stopped-${crypto.randomUUID().slice(0, 8)}`;
  await docker(["create", "--name", stopped, ORDINARY, "true"]);
  const sidecar = (await cdebug(["exec", "-d", web.name, "sleep", "1000000"])).stdout.trim();
  try {
    const found = await names(["exec", ""]);
    assert(found.includes(web.name));
    assert(![sidecar, stopped].some((name) => found.includes(name)), found.join(" "));
    assertEquals(await names(["apply", "--retarget", `docker://${web.name}`]), [`docker://${web.name}`]);
  } finally {
    await docker(["stop", sidecar]); // it removes its link
    await docker(["rm", stopped]);
  }
});

liveTest(
  "completion: an engine that never answers is not waited for, and hides no other one's names",
  async () => {
    await using web = await target();
    await using dir = await temporaryDirectory();
    const path = `${dir.path}/silent.sock`;
    using listener = Deno.listen({ transport: "unix", path });
    const connections: Deno.Conn[] = [];
    const accepting = (async () => {
      for await (const connection of listener) connections.push(connection);
    })();
    // On a busy machine, the other one may come too late as well, but not each time.
    await poll(async () =>
      assertEquals(await names(["exec", web.name], { CONTAINER_HOST: `unix://${path}` }), [web.name])
    );
    assert(connections.length > 0, "the silent engine was not asked");
    listener.close();
    await accepting;
    for (const connection of connections) connection.close();
  },
);

Deno.test("completion: engines that cannot be asked are silent", async () => {
  const none = { DOCKER_HOST: "nonsense", CONTAINER_HOST: "unix:///nonexistent.sock" };
  // What runs without an engine is found whatever the engines say.
  const ofEngines = async (env: Record<string, string>) =>
    (await names(["exec", ""], env)).filter((name) => !/^(runc|crun|pid):/.test(name));
  assertEquals(await ofEngines(none), []);
  assertEquals(await names(["exec", "docker://"], none), []);
  assertEquals(await ofEngines({ ...none, DOCKER_HOST: "ssh://nobody@localhost" }), []);
  assertIncludes((await names(["ls", ""], none)).join(" "), "docker://");
});
