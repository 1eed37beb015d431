/** `cdebug export`: what goes in comes out, from every engine, and nothing is left of what fails. */

import { assert, assertEquals, assertIncludes } from "../assert.ts";
import { exists, poll, run } from "../engines/debian.ts";
import { startTarget } from "../engines/process.ts";
import { pushImage, startRegistry } from "../engines/registry.ts";
import { startRunc } from "../engines/runc.ts";
import { type Temporary, temporaryDirectory } from "../temporary.ts";
import { CDEBUG, cdebug, engineOf, IMAGE_ENGINES, liveTest, spawn, target, userEnv } from "./engine.ts";
import { differences, makeDebian, manifestOf, manifestOfArchive } from "./export.ts";
import { localTest } from "./local.ts";

const DEBIAN = "cdebug-test/debian";

/** What engines put into a container, or mount there; and what a container that runs has changed. */
const ENGINES_OWN =
  /^(|\.dockerenv|dev(\/.*)?|proc|sys|run|run\/\.containerenv|etc|etc\/(hosts|hostname|resolv\.conf|mtab))$/;

/** Whether nothing of a failed export is there. */
async function isEmpty(directory: string): Promise<boolean> {
  return (await Array.fromAsync(Deno.readDir(directory))).length === 0;
}

/** The Debian as an image of an engine's, its attributes too. */
async function importDebian(engine: typeof IMAGE_ENGINES[number], directory: Temporary): Promise<string> {
  const { client } = engineOf(engine)!;
  const root = await makeDebian();
  if (!await client(["image", "inspect", DEBIAN]).then(() => true, () => false)) {
    const archive = `${directory.path}/debian.tar`;
    await run("tar", [
      ...["-C", root, "--xattrs", "--xattrs-include=*", "--format=posix"],
      ...["--pax-option=delete=atime,delete=ctime", "-cf", archive, "."],
    ]);
    await client(["import", "-c", "CMD sleep 1000000", archive, DEBIAN]);
    await Deno.remove(archive);
  }
  return root;
}

/** What engines tell of containers: no attributes but file capabilities, and whole seconds. */
function asEnginesTell(lines: readonly string[]): string[] {
  return lines.map((line) => {
    const { xattrs, mtime, ...entry } = JSON.parse(line) as {
      mtime: string;
      xattrs?: Record<string, string>;
    };
    const kept = Object.entries(xattrs ?? {}).filter(([name]) => name === "security.capability");
    return JSON.stringify({
      ...entry,
      mtime: mtime.replace(/\..*/, ""),
      ...kept.length > 0 && { xattrs: Object.fromEntries(kept) },
    });
  });
}

for (const engine of IMAGE_ENGINES) {
  liveTest(
    `export: ${engine}: a Debian comes out as it went in, running, paused and stopped, and of its image`,
    async () => {
      const { client } = engineOf(engine)!;
      await using directory = await temporaryDirectory();
      const root = await importDebian(engine, directory);
      const truth = await manifestOf(root);
      const name = `export-${crypto.randomUUID().slice(0, 8)}`;
      await client(["run", "-d", "--name", name, DEBIAN]);
      try {
        const out = `${directory.path}/out`;
        for (const command of [["pause"], ["unpause"], ["kill"]]) {
          await client([...command, name]);
          const { code, stderr } = await cdebug(["export", `${engine}://${name}`, "-o", out]);
          assertEquals(code, 0, stderr);
          const found = asEnginesTell(await manifestOf(out));
          assertEquals(
            differences(found, asEnginesTell(truth), ENGINES_OWN).slice(0, 5),
            [],
            command[0],
          );
          await Deno.remove(out, { recursive: true });
        }
        const image = await cdebug(["export", `${engine}-image://${DEBIAN}`, "-o", out]);
        assertEquals(image.code, 0, image.stderr);
        assertEquals(differences(await manifestOf(out), truth, /^$/).slice(0, 5), []);

        const again = ["one.tar", "two.tar"].map((file) => `${directory.path}/${file}`);
        for (const file of again) {
          const made = await cdebug(["export", `${engine}-image://${DEBIAN}`, "-o", file]);
          assertEquals(made.code, 0, made.stderr);
        }
        await run("cmp", again);
        using file = await Deno.open(again[0]!);
        assertEquals(differences(await manifestOfArchive(file.readable), truth, /^$/).slice(0, 5), []);
      } finally {
        await client(["rm", "-f", name]);
      }
    },
    engine,
  );

  liveTest(
    `export: ${engine}: mounts are left out, added, or asked for by path`,
    async () => {
      await using directory = await temporaryDirectory();
      await using web = await target({ engine, run: ["-v", "/data"] });
      const { client } = engineOf(engine)!;
      await client([
        "exec",
        web.name,
        "sh",
        "-c",
        "mkdir /data/data; echo kept >/data/data/file; ln /data/data/file /data/too",
      ]);
      const list = async (...flags: string[]) => {
        const file = `${directory.path}/files.tar`;
        const { code, stderr } = await cdebug(["export", web.ref, "--force", "-o", file, ...flags]);
        assertEquals(code, 0, stderr);
        return { names: (await run("tar", ["-tf", file])).split("\n"), stderr };
      };
      const plain = await list();
      assertIncludes(plain.stderr, "mounted there: /data (--volumes adds it)");
      assert(!plain.names.includes("data/data/file"));
      const whole = (await list("--volumes")).names;
      assert(whole.includes("data/data/file") && whole.includes("bin/busybox"));
      assertEquals((await list("--path", "/data/data")).names, ["data/data/", "data/data/file", ""]);
      const etc = (await list("--path", "etc/passwd", "--path", "/data/too")).names;
      assertEquals(etc, ["etc/passwd", "data/too", ""]);
      const missing = await cdebug(["export", web.ref, "-o", `${directory.path}/x`, "--path", "/no/such"]);
      assertEquals(missing.code, 125);
      assertIncludes(missing.stderr, "Cannot read /no/such of");
      assertEquals(await exists(`${directory.path}/x`), false);
    },
    engine,
  );
}

for (const place of ["root", "runc"] as const) {
  localTest(`export: ${place}: a Debian comes out as it went in`, async () => {
    await using directory = await temporaryDirectory();
    const debian = await makeDebian();
    const fill = async (root: string) => void await run("cp", ["-a", `${debian}/.`, root]);
    await using started = place === "root"
      ? await startTarget({ fill })
      : await startRunc({ runtime: "runc", fill });
    const name = "id" in started ? started.id as string : String(started.pid);
    const flags = "state" in started ? ["--runtime", started.state as string] : [];
    const out = `${directory.path}/out`;
    const ref = `${place === "root" ? "pid" : "runc"}://${name}`;
    const truth = await manifestOf(started.root);
    const mounted = /^(|dev(\/.*)?|proc|sys|server)$/;
    const { code, stderr } = await cdebug(["export", ref, ...flags, "-o", out]);
    assertEquals(code, 0, stderr);
    assertEquals(differences(await manifestOf(out), truth, mounted).slice(0, 5), []);

    if (!("state" in started)) return;
    await run("runc", ["--root", flags[1]!, "kill", name, "KILL"]);
    await poll(async () => assertEquals((await cdebug(["exec", ref, ...flags, "true"])).code, 125));
    await Deno.remove(out, { recursive: true });
    const stopped = await cdebug(["export", ref, ...flags, "-o", out]);
    assertEquals(stopped.code, 0, stopped.stderr);
    assertEquals(differences(await manifestOf(out), truth, mounted).slice(0, 5), []);
  }, place);
}

localTest("export: from a registry, and as a process's toolkit, without an engine", async () => {
  await using directory = await temporaryDirectory();
  await using registry = await startRegistry();
  const { path } = directory;
  const { denoDir } = JSON.parse(await run(Deno.execPath(), ["info", "--json"]));
  const env = {
    ...{
      DOCKER_HOST: "",
      CONTAINER_HOST: "",
      PATH: Deno.env.get("PATH")!,
    },
    ...{ DOCKER_CONFIG: path, XDG_CACHE_HOME: `${path}/cache`, DENO_DIR: denoDir },
  };
  const auth = btoa(`${registry.username}:${registry.password}`);
  await Deno.writeTextFile(
    `${path}/config.json`,
    JSON.stringify({ auths: { [registry.address]: { auth } } }),
  );
  const debian = await makeDebian();
  const layer = `${path}/layer.tar.gz`;
  const options = [
    "--xattrs",
    "--xattrs-include=*",
    "--format=posix",
    "--pax-option=delete=atime,delete=ctime",
  ];
  await run("tar", ["-C", debian, ...options, "-czf", layer, "."]);
  await pushImage(registry, "shop/debian:1", [await Deno.readFile(layer)]);
  const image = `${registry.address}/shop/debian:1`;
  const truth = await manifestOf(debian);

  const exported = await cdebug([
    "export",
    `image://${image}`,
    "-o",
    `${path}/out`,
    "--manifest",
    `${path}/list`,
  ], {
    env,
  });
  assertEquals(exported.code, 0, exported.stderr);
  assertIncludes(exported.stderr, "is taken from its registry");
  assertEquals(differences(await manifestOf(`${path}/out`), truth).slice(0, 5), []);
  const list = (await Deno.readTextFile(`${path}/list`)).trim().split("\n");
  assertEquals(differences(list, truth).slice(0, 5), []);

  await using started = await startTarget();
  const ref = `pid://${started.pid}`;
  for (const pull of ["missing", "never"]) {
    const ran = await cdebug([
      "exec",
      "--image",
      image,
      "--pull",
      pull,
      ref,
      "sh",
      "-c",
      "ls -d /server; perl -e 'print 6*7'",
    ], {
      env,
    });
    assertEquals([ran.code, ran.stdout], [0, "/server\n42"], ran.stderr);
  }
  const missing = await cdebug(["exec", "--image", `${image}2`, ref, "true"], { env });
  assertEquals(missing.code, 125);
  assertIncludes(missing.stderr, "there is no such image");
  await registry.stop();
  const gone = await cdebug(["export", `image://${registry.address}/shop/other:1`, "-o", `${path}/x`], {
    env,
  });
  assertEquals(gone.code, 125);
  assertEquals(await exists(`${path}/x`), false);
}, "root");

liveTest("export: what is in the way is refused, and what fails leaves nothing", async () => {
  await using directory = await temporaryDirectory();
  await using web = await target({});
  const out = `${directory.path}/place/out`;
  await Deno.mkdir(out, { recursive: true });
  await Deno.writeTextFile(`${out}/mine`, "");
  const refused = async (text: string, ...args: string[]) => {
    const { code, stderr } = await cdebug(["export", web.ref, ...args]);
    assertEquals(code, 125, stderr);
    assertIncludes(stderr, text);
    assert(!/^\s+at /m.test(stderr), stderr);
  };
  await refused("it is not empty", "-o", out);
  await refused("there is no such directory to make it in", "-o", `${directory.path}/no/such/out`);
  await refused("it is there, and no folder", "-o", `${out}/mine`);
  await refused("--max-size", "-o", `${directory.path}/place/small`, "--max-size", "100K");
  await Deno.writeTextFile(`${out}/mine.tar`, "");
  await refused("it is there already", "-o", `${out}/mine.tar`);
  assertEquals((await cdebug(["export", web.ref, "-o", out, "--force"])).code, 0);
  assert(await exists(`${out}/mine`) && await exists(`${out}/bin/busybox`));
  assertEquals((await Array.fromAsync(Deno.readDir(`${directory.path}/place`))).length, 1);

  const small = `${directory.path}/small`;
  await Deno.mkdir(small);
  await run("mount", ["-t", "tmpfs", "-o", "size=1m", "tmpfs", small]);
  try {
    await refused("No space left", "-o", `${small}/out`);
    await refused("No space left", "-o", `${small}/out.tar`);
    assert(await isEmpty(small));
  } finally {
    await run("umount", [small]);
  }
});

liveTest("export: Ctrl-C leaves nothing, kill -9 nothing under the name", async () => {
  await using directory = await temporaryDirectory();
  await importDebian("docker", directory);
  const { client } = engineOf("docker")!;
  const name = `export-${crypto.randomUUID().slice(0, 8)}`;
  await client(["create", "--name", name, DEBIAN]);
  try {
    for (
      const [signal, output] of [["SIGINT", "out"], ["SIGINT", "out.tar.gz"], ["SIGKILL", "out"]] as const
    ) {
      const place = `${directory.path}/${signal}-${output}`;
      await Deno.mkdir(place);
      const child = spawn(["export", name, "-o", `${place}/${output}`]);
      await poll(async () => assert(!await isEmpty(place)));
      child.kill(signal);
      const { code } = await child.status;
      await Promise.all([child.stdout.cancel(), child.stderr.cancel()]);
      assertEquals(await exists(`${place}/${output}`), false);
      if (signal === "SIGINT") {
        assertEquals(code, 130);
        assert(await isEmpty(place));
      }
    }
    assertEquals(await client(["ps", "-aq", "--filter", "label=cdebug.session"]), "");
  } finally {
    await client(["rm", "-f", name]);
  }
});

liveTest("export: to a pipe, which may be closed", async () => {
  await using web = await target({});
  const command = [...CDEBUG, "export", web.ref, "-o", "-"].map((word) => `'${word}'`).join(" ");
  const list = await run("sh", ["-c", `${command} | tar -t`], { env: userEnv() });
  assertIncludes(list, "bin/busybox\n");
  const cut = await run("sh", ["-c", `{ ${command}; echo "code $?" >&2; } 2>&1 >/dev/null | cat`], {
    env: userEnv(),
  });
  assertIncludes(cut, "code 0");
});
