/** The ways in which cdebug reaches its users: `deno task install` and `deno task compile`. */

import { assert, assertEquals } from "./assert.ts";
import { run } from "./engines/debian.ts";
import { temporaryDirectory } from "./temporary.ts";
import config from "../deno.json" with { type: "json" };

const ROOT = new URL("..", import.meta.url).pathname;

Deno.test("deno task install gives a cdebug that runs from any directory", async () => {
  await using dir = await temporaryDirectory();
  const deno = Deno.execPath();
  const PATH = `${deno.replace(/\/[^/]*$/, "")}:${Deno.env.get("PATH")}`;
  await run(deno, ["task", "--cwd", ROOT, "install"], { env: { PATH, DENO_INSTALL_ROOT: dir.path } });
  const found = await run("sh", ["-c", 'cd / && "$1" --version', "sh", `${dir.path}/bin/cdebug`], {
    env: { PATH },
  });
  assertEquals(found, `cdebug ${config.version}\n`);
});

// The base runtime that `deno compile` puts in front comes from outside the package registries; this checks what
// is put behind it, with the running deno as a stand-in for the base.
Deno.test("deno task compile embeds every module and package", async () => {
  await using dir = await temporaryDirectory();
  const [deno, , ...args] = config.tasks.compile.replace("--output cdebug", `--output ${dir.path}/cdebug`)
    .split(
      " ",
    );
  assertEquals(deno, "deno");
  await run(
    "sh",
    ["-c", 'cd "$1" && shift && exec "$@"', "sh", ROOT, Deno.execPath(), "compile", ...args],
    {
      env: { DENORT_BIN: Deno.execPath() },
    },
  );
  const size = (await Deno.stat(`${dir.path}/cdebug`)).size;
  const base = (await Deno.stat(Deno.execPath())).size;
  assert(size > base, "nothing is embedded");
  const embedded = new TextDecoder("latin1").decode(await Deno.readFile(`${dir.path}/cdebug`));
  for (
    const path of [
      "plans/enter/enter.sh",
      "plans/exec.ts",
      "lib/executor.ts",
      "lib/drivers/docker/pull.ts",
      "lib/commands/picker.ts",
      "lib/commands/completion/cdebug.zsh",
    ]
  ) {
    const text = new TextDecoder("latin1").decode(await Deno.readFile(`${ROOT}${path}`));
    assert(embedded.includes(text), `${path} is not embedded`);
  }
  for (const name of ["valibot", "yaml", "dockerode"]) {
    assert(
      embedded.includes(`"name": "${name}"`) || embedded.includes(`"name":"${name}"`),
      `${name} is not embedded`,
    );
  }
});
