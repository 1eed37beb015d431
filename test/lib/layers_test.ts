import { CdebugError } from "../../lib/errors.ts";
import { type EntrySource, type LayerSource, mergeLayers } from "../../lib/layers.ts";
import {
  bytesOf,
  byteString,
  END_OF_ARCHIVE,
  type Entry,
  formatHeader,
  padding,
  TarError,
} from "../../lib/tar.ts";
import { assert, assertEquals, assertRejects } from "../assert.ts";
import { temporaryDirectory } from "../temporary.ts";
import { entry } from "./archive.ts";

type Item = Partial<Entry> & { path: string; contents?: string };

const file = (path: string, contents = path, more: Partial<Entry> = {}): Item => ({
  path,
  contents,
  ...more,
});
const directory = (path: string, mode = 0o755): Item => ({ path, type: "directory", mode });
const symlink = (path: string, target: string): Item => ({ path, type: "symlink", target, mode: 0o777 });
const link = (path: string, target: string): Item => ({ path, type: "link", target });

function entryOf({ contents = "", ...item }: Item): Entry {
  return entry(item.path, { size: contents.length, ...item });
}

function layer(...items: Item[]): LayerSource {
  const parts = items.flatMap((item) => {
    const contents = bytesOf(item.contents ?? "");
    return [formatHeader(entryOf(item)), contents, padding(contents.length)];
  });
  return { open: () => streamOf([...parts, END_OF_ARCHIVE]) };
}

async function* streamOf(parts: Iterable<Uint8Array<ArrayBuffer>>) {
  for (const part of parts) yield await Promise.resolve(part);
}

async function contentsOf(source: EntrySource): Promise<string> {
  let contents = "";
  for (let piece = await source.read(); piece; piece = await source.read()) {
    contents += byteString(piece.bytes);
  }
  return contents;
}

/**
 * What the layers come to, in the order of emission: "d etc 755", "f etc/x: contents", "l a -> b", "h a = b".
 */
async function merged(layers: LayerSource[], paths?: string[], refused: string[] = []): Promise<string[]> {
  const source = await mergeLayers(layers, {
    ...paths && { paths },
    refused: (path, why) => refused.push(`${path}: ${why}`),
  });
  const lines: string[] = [];
  for (let entry = await source.next(); entry; entry = await source.next()) {
    const { path, type, mode, target } = entry;
    const contents = await contentsOf(source);
    const rest: Partial<Record<Entry["type"], string>> = {
      directory: `d ${path} ${mode.toString(8)}`,
      file: `f ${path}: ${contents}`,
      symlink: `l ${path} -> ${target}`,
      link: `h ${path} = ${target}`,
    };
    lines.push(rest[type] ?? `${type} ${path}`);
  }
  return lines;
}

Deno.test("upper layers replace files, and add to directories under their own metadata", async () => {
  const lower = layer(
    directory("", 0o711),
    directory("d", 0o700),
    file("d/a", "1"),
    file("d/b", "2"),
    symlink("s", "d"),
  );
  const upper = layer(directory("d", 0o750), file("d/a", "3"), file("s", "4"));
  assertEquals(await merged([lower, upper]), ["d  711", "d d 750", "f d/b: 2", "f d/a: 3", "f s: 4"]);
  assertEquals(await merged([]), ["d  755"]);
});

Deno.test("what is no directory takes the place of one with all that is in it, and the reverse", async () => {
  const lower = layer(directory("d"), file("d/a"), file("e", "2"), symlink("s", "d"));
  const upper = layer(file("d", "1"), directory("e", 0o700), file("e/x"), directory("s"), file("s/y"));
  assertEquals(await merged([lower, upper]), [
    "d  755",
    "d e 700",
    "d s 755",
    "f d: 1",
    "f e/x: e/x",
    "f s/y: s/y",
  ]);
});

Deno.test("whiteouts hide what is below, wherever they stand among a layer's entries", async () => {
  const lower = layer(
    directory("d", 0o700),
    file("d/a"),
    file("d/b"),
    directory("e", 0o700),
    file("e/a"),
    file("f"),
    symlink("s", "d"),
  );
  const items = [
    file("d/.wh.a", ""),
    file(".wh.e", ""),
    file("e/b"),
    file(".wh.f", ""),
    file("f", "new"),
    file(".wh.s", ""),
    file("s/x"),
    file(".wh.missing", ""),
    file("missing/.wh.x", ""),
  ];
  const wanted = [
    "d  755",
    "d d 700",
    "d e 755",
    "d s 755",
    "f d/b: d/b",
    "f e/b: e/b",
    "f f: new",
    "f s/x: s/x",
  ];
  assertEquals(await merged([lower, layer(...items)]), wanted);
  assertEquals((await merged([lower, layer(...items.reverse())])).sort(), wanted.sort());
});

Deno.test("an opaque directory hides what lower layers have in it", async () => {
  const lower = layer(directory("d", 0o700), file("d/a"), directory("d/e"), file("d/e/x"), file("f"));
  const items = [file("d/b"), file("d/.wh..wh..opq", ""), directory("d/e", 0o711), file("d/e/y")];
  const wanted = ["d  755", "d d 700", "d d/e 711", "f f: f", "f d/b: d/b", "f d/e/y: d/e/y"];
  assertEquals(await merged([lower, layer(...items)]), wanted);
  assertEquals((await merged([lower, layer(...items.reverse())])).sort(), wanted.sort());
  assertEquals(await merged([lower, layer(file(".wh..wh..opq", ""), file("g"))]), ["d  755", "f g: g"]);
});

Deno.test("a directory's entry may come after what is in it", async () => {
  const lower = layer(symlink("s", "d"), directory("d"), file("f"));
  const upper = layer(file("s/x"), file("f/x"), directory("s", 0o700), directory("f", 0o711));
  assertEquals(await merged([lower, upper]), [
    "d  755",
    "d d 755",
    "d f 711",
    "d s 700",
    "f s/x: s/x",
    "f f/x: f/x",
  ]);
});

Deno.test("hard links keep the contents they had, across layers and whiteouts", async () => {
  const first = layer(file("a", "1"), link("z", "a"), file("k", "2"), file("q", "3"), symlink("s", "x"));
  const second = layer(link("c", "z"), file("a", "4"), link("t", "s"), file(".wh.q", ""), link("p", "q"));
  const third = layer(file(".wh.k", ""), file(".wh.z", ""), file("c2", "5"), link("b", "k"));
  assertEquals(await merged([first, second, third]), [
    "d  755",
    "l s -> x",
    "h t = s",
    "f c: 1",
    "f b: 2",
    "f p: 3",
    "f a: 4",
    "f c2: 5",
  ]);
  assertEquals(await merged([first]), ["d  755", "l s -> x", "f a: 1", "h z = a", "f k: 2", "f q: 3"]);
});

Deno.test("of a path that a layer has twice, the last counts, and links keep the first", async () => {
  const only = layer(file("a", "1"), link("b", "a"), file("a", "2"), file("c", ""), link("e", "c"));
  assertEquals(await merged([only]), ["d  755", "f b: 1", "f a: 2", "f c: ", "h e = c"]);
});

Deno.test("metadata stays as it was", async () => {
  const mtime = { seconds: -3, nanoseconds: 5 };
  const xattrs = new Map([["user.x", "\xff\0"]]);
  const data = [{ offset: 4096, length: 2 }];
  const items = [
    { ...directory("d"), mtime, uid: 3_000_000, gid: 7, xattrs, mode: 0o1777 },
    { path: "d/c", type: "character" as const, device: { major: 1, minor: 3 }, mtime },
    { path: "d/p", type: "fifo" as const, mode: 0o600 },
    file("d/s", "ab", { size: 10_000, data, mtime, xattrs, mode: 0o4755 }),
  ];
  const source = await mergeLayers([layer(...items)]);
  await source.next();
  for (const item of items) assertEquals(await source.next(), entryOf(item));
  assertEquals((await source.read())?.offset, 4096);
  assertEquals(await source.next(), undefined);
});

Deno.test("what is below a symlink goes where it leads inside the image", async () => {
  const lower = layer(
    symlink("lib", "usr/lib"),
    directory("usr/lib", 0o700),
    file("usr/lib/old"),
    symlink("out", "../../usr/./x"),
    symlink("usr/x", "/lib"),
    symlink("loop", "loop"),
    symlink("lost", "nowhere"),
    symlink("tof", "f"),
    file("f"),
  );
  const refused: string[] = [];
  const upper = layer(
    file("lib/a"),
    file("out/new/b"),
    file("lib/.wh.old", ""),
    file("loop/c"),
    file("lost/c"),
    file("tof/c"),
    file("f/c"),
    link("h", "lib/a"),
  );
  const files = await merged([lower, upper], undefined, refused);
  assertEquals(files.filter((line) => !line.startsWith("l ")), [
    "d  755",
    "d usr 755",
    "d usr/lib 700",
    "d usr/lib/new 755",
    "f f: f",
    "f h: lib/a",
    "h usr/lib/a = h",
    "f usr/lib/new/b: out/new/b",
  ]);
  assertEquals(refused, [
    "loop/c: its parent is behind more than 40 symlinks",
    "lost/c: its parent is a symlink that leads nowhere",
    "tof/c: its parent is no directory",
    "f/c: its parent is no directory",
  ]);
});

Deno.test("entries that may be nowhere are left out and told", async () => {
  const refused: string[] = [];
  const only = layer(
    file("../x"),
    file("a/./x"),
    file("a//x"),
    // Long names are in pax records, which alone can have a NUL.
    file("n\0" + "x".repeat(120)),
    file("x/".repeat(4000) + "x"),
    file(".wh...", ""),
    file(".wh.", ""),
    file(".wh.d/x"),
    file("ok"),
    link("l", "../ok"),
    link("m", ""),
    symlink("", "x"),
  );
  assertEquals(await merged([only], undefined, refused), ["d  755", "f ok: ok"]);
  assertEquals(
    refused.map((line) => line.replace(/^(.{20}).*?(: .*)$/s, "$1…$2")),
    [
      '../x: its path has the component ".."',
      'a/./x: its path has the component "."',
      'a//x: its path has the component ""',
      `n\0${"x".repeat(18)}…: its path has a NUL byte`,
      `${"x/".repeat(10)}…: it is more than 4000 directories deep`,
      ".wh...: it is a whiteout of no name",
      ".wh.: it is a whiteout of no name",
      ".wh.d/x: it is below a whiteout",
      ": it is in the place of the root, and no directory",
      'l: it is a hard link to "../ok", where no file is',
      'm: it is a hard link to "", where no file is',
    ].map((line) => line.replace(/^(.{20}).*?(: .*)$/s, "$1…$2")),
  );
});

Deno.test("symlinks make no tree deeper than paths may be", async () => {
  const deep = "x/".repeat(3999) + "x";
  const refused: string[] = [];
  const found = await merged(
    [
      layer(
        directory(deep),
        symlink("s", deep),
        symlink("half", "x/".repeat(600)),
        symlink("x/".repeat(600) + "half", "x/".repeat(600)),
        symlink("x/".repeat(3990) + "end", "x/".repeat(9) + "x"),
      ),
      layer(file("s/y"), file("half/half/y"), file("x/".repeat(3990) + "end/y")),
    ],
    undefined,
    refused,
  );
  assertEquals(found.length, 4005);
  assertEquals(refused.map((line) => line.replace(/^.*: /, "")), [
    "its parent is a symlink that leads nowhere", // it is longer than a path may be
    "its parent is behind symlinks that lead too far",
    "it is more than 4000 directories deep",
  ]);
});

Deno.test("what AUFS leaves behind is passed over, but for the contents of hard links", async () => {
  const only = layer(
    directory(".wh..wh.plnk"),
    file(".wh..wh.plnk/1.2", "contents"),
    file(".wh..wh.aufs", ""),
    link("b", ".wh..wh.plnk/1.2"),
    link("a", ".wh..wh.plnk/1.2"),
  );
  assertEquals(await merged([only]), ["d  755", "f a: contents", "h b = a"]);
});

Deno.test("paths keep what they name, what is below, and the way there", async () => {
  const image = [
    layer(
      directory("usr/lib", 0o711),
      file("usr/lib/a"),
      directory("usr/lib/sub"),
      file("usr/lib/sub/b"),
      file("usr/z"),
      symlink("lib", "usr/lib"),
    ),
    layer(link("usr/lib/sub/c", "usr/z"), link("usr/lib/sub/d", "usr/z")),
  ];
  assertEquals(await merged(image, ["usr/lib/sub"]), [
    "d  755",
    "d usr 755",
    "d usr/lib 711",
    "d usr/lib/sub 755",
    "f usr/lib/sub/b: usr/lib/sub/b",
    // What carries the contents in the layer, usr/z, is not asked for.
    "f usr/lib/sub/c: usr/z",
    "h usr/lib/sub/d = usr/lib/sub/c",
  ]);
  assertEquals(await merged(image, ["lib/a", "lib"]), [
    "d  755",
    "d usr 755",
    "d usr/lib 711",
    "l lib -> usr/lib",
    "f usr/lib/a: usr/lib/a",
  ]);
  assertEquals(await merged(image, ["", "usr"]), await merged(image));
  await assertRejects(() => merged(image, ["usr/lib/no"]), CdebugError, 'nothing at "/usr/lib/no"');
});

Deno.test("the same layers come to the same bytes", async () => {
  const image = [
    layer(file("b"), file("a/b"), file("a-b"), directory("a"), symlink("z", "a"), file("é\xff")),
    layer(link("c", "b"), link("a/a", "b"), symlink("y", "a"), directory("a-")),
  ];
  const bytes = async () => {
    let all = "";
    const source = await mergeLayers(image);
    for (let entry = await source.next(); entry; entry = await source.next()) {
      all += byteString(formatHeader(entry)) + await contentsOf(source);
    }
    return all;
  };
  assertEquals(await bytes(), await bytes());
  assertEquals((await merged(image)).slice(0, 8), [
    "d  755",
    "d a 755",
    "d a- 755",
    "l y -> a",
    "l z -> a",
    "f a/a: b",
    "h b = a/a",
    "h c = a/a",
  ]);
});

Deno.test("layers are read to their end, opened again only for contents, and let go of", async () => {
  const events: string[] = [];
  const noted = (name: string, ...items: Item[]): LayerSource => ({
    async *open() {
      events.push(`${name} opened`);
      try {
        yield* layer(...items).open();
        yield new Uint8Array(10240);
        events.push(`${name} ended`);
      } finally {
        events.push(`${name} closed`);
      }
    },
  });
  const image = [noted("1", directory("d"), file("x")), noted("2", file("x"), file("y"))];
  const source = await mergeLayers(image);
  const first = ["1 opened", "1 ended", "1 closed", "2 opened", "2 ended", "2 closed"];
  assertEquals(events.splice(0), first);
  while ((await source.next())?.path !== "x");
  assertEquals(events.splice(0), ["2 opened"]);
  await source.close();
  assertEquals(events.splice(0), ["2 closed"]);
  assertEquals(await source.next(), undefined);
});

Deno.test("damage, a layer that changes, and an end that is asked for are errors", async () => {
  const damaged: LayerSource = { open: () => streamOf([new Uint8Array(512).fill(1)]) };
  await assertRejects(() => mergeLayers([damaged]), TarError);
  let opened = 0;
  const layers = [layer(file("a"), file("b")), layer(file("a"))];
  const changing: LayerSource = { open: () => layers[opened++]!.open() };
  await assertRejects(() => merged([changing]), CdebugError, "Layer 1 of the image is another");
  const signal = AbortSignal.abort(new CdebugError("stopped"));
  await assertRejects(() => mergeLayers([layer(file("a"))], { signal }), CdebugError, "stopped");
});

Deno.test("200,000 entries fit in about 100 MiB, and big contents are passed over", async () => {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", "--v8-flags=--max-old-space-size=110", MANY],
    cwd: new URL("../..", import.meta.url),
    stdin: "null",
  }).output();
  assertEquals(new TextDecoder().decode(stderr).slice(0, 1000), "");
  assertEquals({ code, count: new TextDecoder().decode(stdout) }, { code: 0, count: "200004\n" });
});

const MANY = `
  import { mergeLayers } from "${new URL("../../lib/layers.ts", import.meta.url)}";
  import { END_OF_ARCHIVE, formatHeader } from "${new URL("../../lib/tar.ts", import.meta.url)}";
  const common = ${JSON.stringify(entryOf({ path: "" }))};
  const header = (more) => formatHeader({ ...common, xattrs: new Map(), ...more });
  const chunk = new Uint8Array(1024 * 1024);
  const layer = {
    async *open() {
      for (let at = 0; at < 180_000; at++) {
        yield header({ path: \`usr/share/package-\${at % 20_000}/name-\${at}\` });
      }
      yield header({ path: "big", size: 8 * 1024 ** 3 });
      for (let at = 0; at < 8 * 1024; at++) yield chunk;
      yield END_OF_ARCHIVE;
    },
  };
  const source = await mergeLayers([layer], {});
  let count = 0;
  while (await source.next() !== undefined) count++;
  console.log(count);
`;

Deno.test({
  name: "random layers come to what unpacking them comes to",
  ignore: Deno.uid() !== 0,
  async fn() {
    for (let seed = 1; seed <= 200; seed++) {
      const random = randomOf(seed);
      const image = Array.from({ length: 1 + random(4) }, () => randomLayer(random));
      await using directory = await temporaryDirectory();
      const root = directory.path;
      await Deno.mkdir(`${root}/tree`);
      for (const items of image) await unpack(items, root);
      const found = await treeOf(await mergeLayers(image.map((items) => layer(...items)), {}));
      assertEquals(found, await onDisk(`${root}/tree`), `seed ${seed}: ${JSON.stringify(image)}`);
    }
  },
});

/** Numbers below `limit`. Source: xorshift32, Marsaglia. */
function randomOf(seed: number): (limit: number) => number {
  let state = seed * 2_654_435_761 >>> 0;
  return (limit) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state = (state ^ state << 5) >>> 0;
    return state % limit;
  };
}

function randomLayer(random: (limit: number) => number): Item[] {
  const name = () => "abc"[random(3)]!;
  const path = () => Array.from({ length: 1 + random(3) }, name).join("/");
  return Array.from({ length: random(12) }, (_, at): Item => {
    const parent = random(2) === 0 ? "" : `${path()}/`;
    const uid = random(3);
    switch (random(9)) {
      case 0:
        return file(`${parent}.wh.${name()}`, "");
      case 1:
        return file(`${path()}/.wh..wh..opq`, "");
      case 2:
      case 3:
        return { ...directory(path(), 0o700 + random(64)), uid };
      // It leads nowhere above the root.
      case 4:
        return symlink(path(), path());
      case 5:
      case 6:
        return link(path(), path());
      default:
        return file(path(), `${at} ${random(1000)}`, { uid });
    }
  });
}

/** The model: a layer unpacked in ROOT/tree as containerd would, but with all whiteouts first. */
async function unpack(items: readonly Item[], root: string): Promise<void> {
  const tree = `${root}/tree`;
  const last = new Map(items.map((item) => [item.path, item.type]));
  const stat = (path: string, follow: boolean) =>
    (follow ? Deno.stat : Deno.lstat)(path).catch(() => undefined);
  /** The directory that PATH is in, or undefined. */
  const parentOf = async (path: string, make: boolean) => {
    const parts = path.split("/").slice(0, -1);
    for (let depth = 1; depth <= parts.length; depth++) {
      const own = parts.slice(0, depth).join("/");
      const found = await stat(`${tree}/${own}`, false);
      if (found?.isDirectory) continue;
      if (found && last.get(own) !== "directory") {
        if ((await stat(`${tree}/${own}`, true))?.isDirectory) continue;
        return undefined;
      }
      if (!make) return undefined;
      if (found) await Deno.remove(`${tree}/${own}`);
      await Deno.mkdir(`${tree}/${own}`, { mode: 0o755 });
    }
    return await Deno.realPath([tree, ...parts].join("/"));
  };
  const base = (path: string) => path.split("/").at(-1)!;
  const remove = (path: string) => Deno.remove(path, { recursive: true }).catch(() => {});
  const linkable = async (target: string) => {
    const parent = await parentOf(target, false);
    const found = parent && await stat(`${parent}/${base(target)}`, false);
    return found && !found.isDirectory ? `${parent}/${base(target)}` : undefined;
  };

  for (const [at, { type, target }] of items.entries()) {
    const lower = type === "link" ? await linkable(target!) : undefined;
    await remove(`${root}/lower-${at}`);
    if (lower) await Deno.link(lower, `${root}/lower-${at}`);
  }
  const hidden: string[] = [];
  for (const { path } of items) {
    const parent = base(path).startsWith(".wh.") ? await parentOf(path, false) : undefined;
    if (!parent) continue;
    if (base(path) !== ".wh..wh..opq") hidden.push(`${parent}/${base(path).slice(4)}`);
    else for await (const { name } of Deno.readDir(parent)) hidden.push(`${parent}/${name}`);
  }
  for (const path of hidden) await remove(path);

  for (const [at, { path, type, target, mode, contents, uid }] of items.entries()) {
    if (base(path).startsWith(".wh.")) continue;
    const linked = type !== "link"
      ? undefined
      : await linkable(target!) ?? (await stat(`${root}/lower-${at}`, false) && `${root}/lower-${at}`);
    if (type === "link" && !linked) continue;
    if (linked) await Deno.link(linked, `${root}/new`);
    const parent = await parentOf(path, true);
    if (parent) {
      const place = `${parent}/${base(path)}`;
      if (!(type === "directory" && (await stat(place, false))?.isDirectory)) await remove(place);
      if (linked) await Deno.link(`${root}/new`, place);
      else if (type === "symlink") await Deno.symlink(target!, place);
      else if (type === "directory") await Deno.mkdir(place, { recursive: true });
      else await Deno.writeTextFile(place, contents!);
      if (!linked && type !== "symlink") {
        await Deno.chown(place, uid!, 0);
        await Deno.chmod(place, mode ?? 0o644);
      }
    }
    if (linked) await Deno.remove(`${root}/new`);
  }
}

async function onDisk(tree: string): Promise<string[]> {
  const found: { path: string; ino: number; text: string }[] = [];
  const look = async (path: string) => {
    const whole = `${tree}/${path}`;
    const { isDirectory, isSymlink, mode, uid, ino } = await Deno.lstat(whole);
    const owned = `${(mode! & 0o7777).toString(8)} ${uid}`;
    const text = isDirectory
      ? `directory ${owned}`
      : isSymlink
      ? `symlink ${await Deno.readLink(whole)}`
      : `file ${owned} ${await Deno.readTextFile(whole)}`;
    found.push({ path, ino: ino!, text });
    if (!isDirectory) return;
    for await (const { name } of Deno.readDir(whole)) {
      await look(path === "" ? name : `${path}/${name}`);
    }
  };
  await look("");
  found.sort((a, b) => a.path < b.path ? -1 : 1);
  return found.map(({ path, ino, text }) =>
    `${path}: ${text} as ${found.find((other) => other.ino === ino)!.path}`
  );
}

async function treeOf(source: EntrySource): Promise<string[]> {
  const found = new Map<string, string>();
  for (let entry = await source.next(); entry; entry = await source.next()) {
    const { path, type, mode, uid, target } = entry;
    const owned = `${mode.toString(8)} ${uid}`;
    const text = type === "directory"
      ? `directory ${owned} as ${path}`
      : type === "symlink"
      ? `symlink ${target} as ${path}`
      : type === "link"
      ? found.get(target)!
      : `file ${owned} ${await contentsOf(source)} as ${path}`;
    assert(!found.has(path));
    found.set(path, text);
  }
  return [...found].sort(([a], [b]) => a < b ? -1 : 1).map(([path, text]) => `${path}: ${text}`);
}
