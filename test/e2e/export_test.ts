/** `cdebug export`: what goes in comes out, from every engine, and nothing is left of what fails. */

import { assert, assertEquals, assertIncludes } from "../assert.ts";
import { exists, poll, run } from "../engines/debian.ts";
import { asOwner } from "../engines/podman.ts";
import { startTarget } from "../engines/process.ts";
import { pushImage, type Registry, startRegistry } from "../engines/registry.ts";
import { type RuncContainer, startRunc } from "../engines/runc.ts";
import type { LocalTarget } from "../engines/target.ts";
import { type Temporary, temporaryDirectory } from "../temporary.ts";
import {
  CDEBUG,
  cdebug,
  copyCdebug,
  engineOf,
  IMAGE_ENGINES,
  liveTest,
  spawn,
  target,
  userEnv,
} from "./engine.ts";
import { differences, makeDebian, manifestOf, manifestOfArchive } from "./export.ts";
import { localTest } from "./local.ts";

const DEBIAN = "cdebug-test/debian";

/** What engines put into a container, or mount there; and what a container that runs has changed. */
const ENGINES_OWN =
  /^(|\.dockerenv|dev(\/.*)?|proc|sys|run|run\/\.containerenv|etc|etc\/(hosts|hostname|resolv\.conf|mtab))$/;

/** How GNU tar writes all that a file has, but when it was read and its inode changed. */
const ALL_OF_IT = [
  ...["--xattrs", "--xattrs-include=*", "--format=posix", "--pax-option=delete=atime,delete=ctime"],
];

/** What is mounted in targets of the kernel's and runc's, or runs there. */
const MOUNTED = /^(|dev(\/.*)?|proc|sys|server)$/;

/** A Debian that runs without an engine's daemon. */
async function startDebian(place: "root" | "runc"): Promise<LocalTarget | RuncContainer> {
  const debian = await makeDebian();
  const fill = async (root: string) => void await run("cp", ["-a", `${debian}/.`, root]);
  return place === "root" ? await startTarget({ fill }) : await startRunc({ runtime: "runc", fill });
}

/** How a target that takes no engine's daemon is named. */
function named(started: LocalTarget | RuncContainer): { ref: string; flags: string[] } {
  return "state" in started
    ? { ref: `runc://${started.id}`, flags: ["--runtime", started.state] }
    : { ref: `pid://${started.pid}`, flags: [] };
}

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
    await run("tar", ["-C", root, ...ALL_OF_IT, "-cf", archive, "."]);
    await client(["import", "-c", "CMD sleep 1000000", archive, DEBIAN]);
    await Deno.remove(archive);
  }
  return root;
}

/** The same as an image of a registry's, and its truth. */
async function pushDebian(
  registry: Registry,
  directory: Temporary,
): Promise<{ image: string; truth: string[] }> {
  const debian = await makeDebian();
  const archive = `${directory.path}/layer.tar.gz`;
  await run("tar", ["-C", debian, ...ALL_OF_IT, "-czf", archive, "."]);
  await pushImage(registry, "shop/debian:1", [await Deno.readFile(archive)]);
  return { image: `${registry.address}/shop/debian:1`, truth: await manifestOf(debian) };
}

/** The text of Docker's config.json after a login. */
function loginOf({ address, username, password }: Registry): string {
  return JSON.stringify({ auths: { [address]: { auth: btoa(`${username}:${password}`) } } });
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
      await using web = await target({ engine, run: ["-v", "/data", "--tmpfs", "/memory"] });
      const { client } = engineOf(engine)!;
      await client([
        "exec",
        web.name,
        "sh",
        "-c",
        "mkdir /data/data; echo kept >/data/data/file; ln /data/data/file /data/too; echo >/memory/file",
      ]);
      const list = async (...flags: string[]) => {
        const file = `${directory.path}/files.tar`;
        const { code, stderr } = await cdebug(["export", web.ref, "--force", "-o", file, ...flags]);
        assertEquals(code, 0, stderr);
        const names = (await run("tar", ["-tf", file])).split("\n");
        assertEquals(names.length, new Set(names).size);
        return { names, stderr, text: (path: string) => run("tar", ["-xOf", file, path]) };
      };
      const plain = await list();
      const left = plain.stderr.match(/Left out.*/g)!.join(" ");
      for (const path of ["/data", "/memory", "/etc/hosts", "/etc/resolv.conf"]) assertIncludes(left, path);
      assert(!plain.names.includes("data/data/file") && !plain.names.includes("memory/file"));
      const all = await list("--volumes");
      assert(all.names.includes("data/data/file") && all.names.includes("bin/busybox"));
      assertIncludes(await all.text("etc/hosts"), "localhost");
      // Docker gives nothing of what is in memory, and that is said.
      assertEquals(all.names.includes("memory/file"), engine === "podman");
      assertEquals(all.stderr.includes("as it is in memory"), engine === "docker");
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
    await using started = await startDebian(place);
    const { ref, flags } = named(started);
    const out = `${directory.path}/out`;
    const truth = await manifestOf(started.root);
    const { code, stderr } = await cdebug(["export", ref, ...flags, "-o", out]);
    assertEquals(code, 0, stderr);
    assertEquals(differences(await manifestOf(out), truth, MOUNTED).slice(0, 5), []);

    if (!("state" in started)) return;
    await started.client(["kill", started.id, "KILL"]);
    await poll(async () => assertEquals((await cdebug(["exec", ref, ...flags, "true"])).code, 125));
    await Deno.remove(out, { recursive: true });
    const stopped = await cdebug(["export", ref, ...flags, "-o", out]);
    assertEquals(stopped.code, 0, stopped.stderr);
    assertEquals(differences(await manifestOf(out), truth, MOUNTED).slice(0, 5), []);
  }, place);
}

localTest("export: root: no link of the target's leads to this machine's files", async () => {
  await using directory = await temporaryDirectory();
  await Deno.writeTextFile(`${directory.path}/secret`, "this machine's");
  await using started = await startTarget({
    files: { "/etc/name": "the target's" },
    fill: async (root) => {
      await Deno.symlink(directory.path, `${root}/away`);
      await Deno.symlink("/etc", `${root}/near`);
      await Deno.symlink("../../../../../etc", `${root}/up`);
    },
  });
  const { ref } = named(started);
  const text = async (path: string) => {
    const { code, stdout, stderr } = await cdebug(["export", ref, "--path", path, "-o", "-"]);
    assertEquals(code, 0, stderr);
    await Deno.writeTextFile(`${directory.path}/got.tar`, stdout);
    return await run("tar", ["-xOf", `${directory.path}/got.tar`]);
  };
  assertEquals(await text("/near/name"), "the target's");
  assertEquals(await text("/up/name"), "the target's");
  const { code, stderr } = await cdebug(["export", ref, "--path", "/away/secret", "-o", "-"]);
  assertEquals(code, 125);
  assertIncludes(stderr, "Cannot read /away/secret of");
}, "root");

localTest("export: runc: owners and file capabilities are those of the target's user namespace", async () => {
  await using directory = await temporaryDirectory();
  await using started = await startRunc({ runtime: "runc", mapTo: 200_000 });
  const file = `${started.root}/file`;
  await Deno.writeTextFile(file, "");
  await Deno.chown(file, 200_033, 200_034);
  await run("setcap", ["-n", "200000", "cap_net_raw+ep", file]);
  const { ref, flags } = named(started);
  const out = `${directory.path}/out`;
  const { code, stderr } = await cdebug(["export", ref, ...flags, "-o", out]);
  assertEquals(code, 0, stderr);
  const owners = async (path: string) => {
    const { uid, gid } = await Deno.stat(path);
    return [uid, gid];
  };
  assertEquals(await owners(`${out}/file`), [33, 34]);
  assertEquals(await owners(`${out}/server`), [0, 0]);
  assertIncludes(await run("getcap", ["-n", `${out}/file`]), "cap_net_raw=ep\n");
}, "runc");

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
  await Deno.writeTextFile(`${path}/config.json`, loginOf(registry));
  const { image, truth } = await pushDebian(registry, directory);

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
  // What a session runs on stays, and goes with the next prune.
  const session = spawn(["exec", "-i", "--image", image, ref, "sh"], { env, stdin: "" });
  const input = session.stdin.getWriter();
  const output = session.stdout.pipeThrough(new TextDecoderStream()).getReader();
  await input.write(new TextEncoder().encode("echo ready\n"));
  assertEquals((await output.read()).value, "ready\n");
  const prune = async () => await cdebug(["cache", "prune"], { env });
  assert(!(await prune()).stdout.includes("toolkit"));
  await input.write(new TextEncoder().encode("perl -e 'print 6*7'\n"));
  await input.close();
  assertEquals((await output.read()).value, "42");
  await Promise.all([output.cancel(), session.stderr.cancel(), session.status]);
  assertIncludes((await prune()).stdout, "toolkit");
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

/** The fields of a manifest's lines that are not as they were, by what the report calls that. */
const FIELDS: Readonly<Record<string, readonly string[]>> = {
  owner: ["uid", "gid"],
  mode: ["mode"],
  attribute: ["xattrs"],
};

localTest("export: an ordinary user gets all but what the report lists", async () => {
  await using directory = await temporaryDirectory();
  await using home = await temporaryDirectory();
  await using registry = await startRegistry();
  const { image, truth } = await pushDebian(registry, directory);
  await Deno.mkdir(`${home.path}/.docker`);
  await Deno.writeTextFile(`${home.path}/.docker/config.json`, loginOf(registry));
  const copy = await copyCdebug(home.path);
  await run("chown", ["-R", "12345:12345", home.path]);
  const words = [...copy, "export", `image://${image}`, "-o", `${home.path}/out`];
  const [program, ...args] = await asOwner(home.path, words);
  await run(program!, args);

  type Line = Record<string, unknown> & { path: string };
  const found = new Map<string, Line>();
  for (const line of await manifestOf(`${home.path}/out`)) found.set(JSON.parse(line).path, JSON.parse(line));
  const report = JSON.parse(await Deno.readTextFile(`${home.path}/out.cdebug-export.json`));
  assertEquals(report.unreadable, []);
  const listed = new Map<string, Set<string>>();
  for (const { path, what } of report.omissions as { path: string; what: string }[]) {
    const name = path.replace(/^\//, "");
    listed.set(name, (listed.get(name) ?? new Set()).add(what));
  }
  // A file that has more names is listed by its first.
  const byFile = new Map<number, Set<string>>();
  const fileOf = (path: string) =>
    Deno.lstat(`${home.path}/out/${path}`).then(({ ino }) => ino ?? 0, () => undefined);
  for (const [path, what] of listed) {
    const file = await fileOf(path);
    if (file !== undefined) byFile.set(file, what);
  }
  const differs: string[] = [];
  for (const wanted of truth.map((line) => JSON.parse(line) as Line)) {
    const { path } = wanted;
    const what = listed.get(path) ?? new Set();
    const got = found.get(path);
    if (got === undefined && what.has("device")) continue;
    const may = [...what, ...byFile.get(await fileOf(path) ?? 0) ?? []].flatMap((what) => FIELDS[what] ?? []);
    for (const field of Object.keys({ ...wanted, ...got })) {
      if (JSON.stringify(wanted[field]) === JSON.stringify(got?.[field]) || may.includes(field)) continue;
      differs.push(`${path}: ${field}`);
    }
  }
  assertEquals(differs.slice(0, 5), []);
  const names = new Set(truth.map((line) => JSON.parse(line).path));
  assertEquals([...listed.keys()].filter((path) => !names.has(path)), []);
  assert(listed.get("special/null")!.has("device") && listed.get("special/capable")!.has("attribute"));
  assert(listed.get("special/setuid")!.has("mode") && listed.get("special/setuid")!.has("owner"));
}, "root");

/** What may happen to a target while it is read. */
async function endInTheMiddle(ref: string, flags: readonly string[], end: () => Promise<unknown>) {
  await using directory = await temporaryDirectory();
  const child = spawn(["export", ref, ...flags, "-o", `${directory.path}/out.tar.gz`]);
  const output = child.output();
  await poll(async () => {
    const [made] = await Array.fromAsync(Deno.readDir(directory.path));
    assert((await Deno.stat(`${directory.path}/${made!.name}`)).size > 1024 * 1024);
  });
  assertEquals(await exists(`${directory.path}/out.tar.gz`), false, "it has ended before");
  await end();
  const { code, stderr } = await output;
  const text = new TextDecoder().decode(stderr);
  if (code !== 0) {
    assertEquals(code, 125, text);
    assertIncludes(text, "Cannot read the files of");
    assert(await isEmpty(directory.path));
    return undefined;
  }
  using file = await Deno.open(`${directory.path}/out.tar.gz`);
  return await manifestOfArchive(file.readable.pipeThrough(new DecompressionStream("gzip")));
}

for (const engine of IMAGE_ENGINES) {
  for (const command of [["kill"], ["rm", "-f"]]) {
    liveTest(
      `export: ${engine}: ${command[0]} of the target in the middle leaves all or nothing`,
      async () => {
        await using directory = await temporaryDirectory();
        const truth = await manifestOf(await importDebian(engine, directory));
        const { client } = engineOf(engine)!;
        const name = `export-${crypto.randomUUID().slice(0, 8)}`;
        await client(["run", "-d", "--name", name, DEBIAN]);
        try {
          const found = await endInTheMiddle(`${engine}://${name}`, [], () => client([...command, name]));
          if (!found) return;
          assertEquals(differences(asEnginesTell(found), asEnginesTell(truth), ENGINES_OWN).slice(0, 5), []);
        } finally {
          await client(["rm", "-f", name]).catch(() => {});
        }
      },
      engine,
    );
  }
}

for (const place of ["root", "runc"] as const) {
  localTest(`export: ${place}: a kill of the target in the middle leaves all or nothing`, async () => {
    await using started = await startDebian(place);
    const { ref, flags } = named(started);
    const truth = await manifestOf(started.root);
    const found = await endInTheMiddle(ref, flags, () => run("kill", ["-KILL", String(started.pid)]));
    if (found) assertEquals(differences(found, truth, MOUNTED).slice(0, 5), []);
  }, place);
}

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
  await refused("it is there already", "-o", `${directory.path}/free.tar`, "--manifest", `${out}/mine`);
  // What lists what is not as it was is no way to write elsewhere.
  await Deno.symlink(`${out}/mine`, `${directory.path}/own.cdebug-export.json`);
  const { client } = engineOf("docker")!;
  await client(["exec", web.name, "sh", "-c", "echo >/owned; chown 7 /owned"]);
  const own = await cdebug(["export", web.ref, "--no-same-owner", "-o", `${directory.path}/own`]);
  assertEquals(own.code, 0, own.stderr);
  assertEquals(await Deno.readTextFile(`${out}/mine`), "");
  assert((await Deno.lstat(`${directory.path}/own.cdebug-export.json`)).isFile);
  await client(["exec", web.name, "rm", "/owned"]);
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
      } else {
        // What was left is gone with the next one.
        assertEquals((await cdebug(["export", name, "-o", `${place}/${output}`])).code, 0);
        assertEquals((await Array.fromAsync(Deno.readDir(place))).map(({ name }) => name), [output]);
      }
    }
    assertEquals(await client(["ps", "-aq", "--filter", "label=cdebug.session"]), "");
  } finally {
    await client(["rm", "-f", name]);
  }
});

liveTest("export: SOURCE_DATE_EPOCH is the latest time of all that is made", async () => {
  await using directory = await temporaryDirectory();
  await using web = await target({});
  const list = `${directory.path}/list`;
  for (const output of ["out", "out.tar"]) {
    const words = ["export", web.ref, "-f", "-o", `${directory.path}/${output}`, "--manifest", list];
    const { code, stderr } = await cdebug(words, { env: { SOURCE_DATE_EPOCH: "1000" } });
    assertEquals(code, 0, stderr);
    const times = (await Deno.readTextFile(list)).trim().split("\n").map((line) => JSON.parse(line).mtime);
    assert(times.length > 100 && times.every((time) => Number(time) <= 1000));
  }
  assertEquals((await Deno.stat(`${directory.path}/out/bin/busybox`)).mtime, new Date(1_000_000));
  assertIncludes(
    await run("tar", ["--utc", "-tvf", `${directory.path}/out.tar`, "bin/busybox"]),
    "1970-01-01 00:16",
  );
  const { code, stderr } = await cdebug(["export", web.ref, "-o", "-"], {
    env: { SOURCE_DATE_EPOCH: "soon" },
  });
  assertEquals(code, 125);
  assertIncludes(stderr, 'SOURCE_DATE_EPOCH is "soon"');
});

liveTest("export: to a pipe, which may be closed", async () => {
  await using web = await target({});
  const command = [...CDEBUG, "export", web.ref, "-o", "-"].map((word) => `'${word}'`).join(" ");
  const list = await run("sh", ["-c", `${command} | tar -t`], { env: userEnv() });
  assertIncludes(list, "bin/busybox\n");
  // Nobody reads, and the user has enough.
  const unread = spawn(["export", web.ref, "-o", "-"]);
  await new Promise((resolve) => setTimeout(resolve, 1000));
  unread.kill("SIGINT");
  assertEquals((await unread.status).code, 130);
  await Promise.all([unread.stdout.cancel(), unread.stderr.cancel()]);
  const cut = await run("sh", ["-c", `{ ${command}; echo "code $?" >&2; } 2>&1 >/dev/null | cat`], {
    env: userEnv(),
  });
  assertIncludes(cut, "code 0");
});
