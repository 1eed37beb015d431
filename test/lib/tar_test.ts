/** Archives of GNU tar in each of its formats are read as what they are of, and it reads ours. */

import { assertEquals, assertIncludes, assertRejects } from "../assert.ts";
import { temporaryDirectory } from "../temporary.ts";
import {
  bytesOf,
  byteString,
  END_OF_ARCHIVE,
  type Entry,
  formatHeader,
  padding,
  TarError,
  TarReader,
} from "../../lib/tar.ts";
import { entry, file, stream } from "./archive.ts";
import { shell } from "./shell.ts";

const LINUX = Deno.build.os === "linux";

/** Each entry, with its contents; holes are zeros. What is larger than 16 MiB has no contents here. */
async function readAll(
  source: AsyncIterable<Uint8Array<ArrayBuffer>>,
): Promise<Map<string, Entry & { contents: string }>> {
  const reader = new TarReader(source);
  const found = new Map<string, Entry & { contents: string }>();
  for (let entry; (entry = await reader.next());) {
    const whole = new Uint8Array(entry.size < 2 ** 24 ? entry.size : 0);
    for (let piece; (piece = await reader.read());) {
      if (whole.length > 0) whole.set(piece.bytes, piece.offset);
    }
    found.set(entry.path, { ...entry, contents: byteString(whole) });
  }
  return found;
}

/** The archive that `tar` makes of all that is in a directory, with these options. */
async function packed(directory: string, ...options: string[]) {
  await shell(directory, 'tar -cf ../archive.tar "$@" .', ...options);
  return await readAll((await Deno.open(`${directory}/../archive.tar`)).readable);
}

async function tree(script: string) {
  const base = await temporaryDirectory();
  const path = `${base.path}/tree`;
  await Deno.mkdir(path);
  await shell(path, script);
  return { path, [Symbol.asyncDispose]: () => base[Symbol.asyncDispose]() };
}

for (const format of ["v7", "ustar", "oldgnu", "gnu", "posix"]) {
  Deno.test({
    name: `TarReader: ordinary files, of format ${format}`,
    ignore: !LINUX,
    async fn() {
      await using directory = await tree(`
        umask 022; mkdir -m 1750 dir; printf hello >dir/file; chmod 4751 dir/file; : >empty
        head -c 100000 /dev/zero | tr '\\0' x >large; printf a >$'not-\\xff-text'
        ln -s ../somewhere/else dir/symlink; ln dir/file hard; [ ${format} = v7 ] || mkfifo fifo
        find . -exec touch -h -d @1600000000 {} +`);
      const found = await packed(
        directory.path,
        `--format=${format}`,
        "--sort=name",
        "--owner=:1234",
        "--group=:5678",
      );
      const summary = [...found.values()].map(({ path, type, mode, size, target }) =>
        [path, type, type === "symlink" ? "" : mode.toString(8), size, target].join(" ").trim()
      );
      assertEquals(summary, [
        "directory 755 0",
        "dir directory 1750 0",
        "dir/file file 4751 5",
        "dir/symlink symlink  0 ../somewhere/else",
        "empty file 644 0",
        ...format === "v7" ? [] : ["fifo fifo 644 0"],
        "hard link 4751 0 dir/file",
        "large file 644 100000",
        "not-\xff-text file 644 1",
      ]);
      assertEquals(found.get("dir/file")!.contents, "hello");
      assertEquals(found.get("large")!.contents, "x".repeat(100_000));
      for (const { uid, gid, mtime } of found.values()) {
        assertEquals([uid, gid, mtime], [1234, 5678, { seconds: 1_600_000_000, nanoseconds: 0 }]);
      }
    },
  });
}

const SPARSE = [
  ["--format=oldgnu"],
  ["--format=gnu"],
  ...["0.0", "0.1", "1.0"].map((version) => ["--format=posix", `--sparse-version=${version}`]),
];
for (const options of SPARSE) {
  Deno.test({
    name: `TarReader: sparse files, ${options.join(" ")}`,
    ignore: !LINUX,
    async fn() {
      await using directory = await tree(`
        for i in {0..99}; do printf "part %s" $i | dd of=many bs=64K seek=$i conv=notrunc status=none; done
        truncate -s 1M hole; printf x >end; truncate -s 300000 end
        printf x | dd of=start bs=1 seek=200000 status=none
        printf huge | dd of=huge bs=1M seek=9000 status=none; truncate -s 9G huge
        printf after >z`);
      const found = await packed(directory.path, "--sparse", "--sort=name", ...options);
      assertEquals([...found.keys()], ["", "end", "hole", "huge", "many", "start", "z"]);
      for (const name of ["end", "hole", "many", "start", "z"]) {
        const wanted = byteString(await Deno.readFile(`${directory.path}/${name}`));
        assertEquals(found.get(name)!.contents === wanted, true, name);
      }
      const { size, data } = found.get("huge")!;
      assertEquals(size, 9 * 2 ** 30);
      assertEquals(data?.some(({ offset }) => offset === 9000 * 2 ** 20), true);
      assertEquals(found.get("many")!.data!.filter(({ length }) => length > 0).length, 100);
    },
  });
}

for (const format of ["ustar", "gnu", "posix"]) {
  Deno.test({
    name: `TarReader: long names and targets, of format ${format}`,
    ignore: !LINUX,
    async fn() {
      await using directory = await tree(`
        n=$(printf 'n%.0s' {1..90}); mkdir -p $n/$n; printf a >$n/$n/file; [ ${format} = ustar ] || {
        l=$(printf 'l%.0s' {1..250}); mkdir -p $l/$l; printf b >$l/$l/file; ln $l/$l/file hard
        ln -s $l/$l/$l symlink; ln -s $l $l/$l/short; }`);
      const found = await packed(directory.path, `--format=${format}`, "--sort=name");
      const [n, l] = ["n".repeat(90), "l".repeat(250)];
      assertEquals(found.get(`${n}/${n}/file`)!.contents, "a");
      if (format === "ustar") return;
      const links = ["hard", `${l}/${l}/file`].map((path) => found.get(path)!);
      assertEquals(links.map(({ type }) => type).sort(), ["file", "link"]);
      assertEquals(links.find(({ type }) => type === "file")!.contents, "b");
      assertIncludes(["hard", `${l}/${l}/file`].join(), links.find(({ type }) => type === "link")!.target);
      assertEquals(found.get("symlink")!.target, `${l}/${l}/${l}`);
      assertEquals(found.get(`${l}/${l}/short`)!.target, l);
    },
  });
}

for (const format of ["gnu", "posix"]) {
  Deno.test({
    name: `TarReader: numbers that octal digits have no room for, of format ${format}`,
    ignore: !LINUX,
    async fn() {
      await using directory = await tree(`
        : >early; : >late; touch -d @-86400.25 early; touch -d @9000000000.123456789 late`);
      const found = await packed(
        directory.path,
        `--format=${format}`,
        "--owner=:4000000000",
        "--group=:3000000",
      );
      const { uid, gid, mtime } = found.get("early")!;
      assertEquals([uid, gid], [4_000_000_000, 3_000_000]);
      assertEquals(mtime, { seconds: -86_401, nanoseconds: format === "gnu" ? 0 : 750_000_000 });
      const late = { seconds: 9_000_000_000, nanoseconds: format === "gnu" ? 0 : 123_456_789 };
      assertEquals(found.get("late")!.mtime, late);
    },
  });
}

const HAS_ATTRIBUTES = LINUX && await shell("/", "command -v setfattr").then(() => true, () => false);
Deno.test({
  name: "TarReader: attributes of any name and value",
  ignore: !HAS_ATTRIBUTES,
  async fn() {
    await using directory = await tree(`
      : >f; setfattr -n user.a=b%25 -v v f; setfattr -n user.empty f; setfattr -n user.nul -v 0x00ff0a f`);
    const found = await packed(directory.path, "--format=posix", "--xattrs");
    assertEquals([...found.get("f")!.xattrs].filter(([name]) => name.startsWith("user.")).sort(), [
      ["user.a=b%25", "v"],
      ["user.empty", ""],
      ["user.nul", "\0\xff\n"],
    ]);
  },
});

const long = `${"d".repeat(200)}/${"\xfe".repeat(150)}`;
const WRITTEN: readonly Entry[] = [
  entry("", { type: "directory", mode: 0o700 }),
  entry("dir", { type: "directory", mode: 0o1777 }),
  entry("dir/file", { size: 3, mode: 0o6711, uid: 12, gid: 34 }),
  entry(long, { size: 3, mtime: { seconds: -86_400, nanoseconds: 5 } }),
  entry("large-ids", { size: 3, uid: 4_000_000_000, gid: 3_000_000 }),
  entry("late", { size: 3, mtime: { seconds: 9_000_000_000, nanoseconds: 120_000_000 } }),
  entry("symlink", { type: "symlink", target: `/${"t".repeat(300)}`, mode: 0o777 }),
  entry("hard", { type: "link", target: long }),
  entry("fifo", { type: "fifo" }),
  entry("null", { type: "character", device: { major: 1, minor: 3 } }),
  entry("disk", { type: "block", device: { major: 259, minor: 1_000_000 } }),
  entry("sparse", {
    size: 1_000_003,
    data: [{ offset: 4096, length: 512 }, { offset: 1_000_000, length: 3 }],
  }),
  entry("hole", { size: 5000, data: [] }),
  entry("attributes", {
    size: 3,
    xattrs: new Map([["user.a=b%25", "v"], ["user.empty", ""], ["user.nul", "\0\xff\n"]]),
  }),
];
const archive = () => [
  ...WRITTEN.flatMap((entry) => {
    const stored = entry.data ? entry.data.reduce((sum, { length }) => sum + length, 0) : entry.size;
    return [formatHeader(entry), bytesOf("abc".padStart(stored, "-").slice(0, stored)), padding(stored)];
  }),
];

Deno.test("TarReader reads what formatHeader() writes, in pieces of any size", async () => {
  for (const size of [1, 511, 512, 513, 100_000]) {
    const found = await readAll(stream(archive(), size));
    assertEquals([...found.values()].map(({ contents: _, ...entry }) => entry), WRITTEN.slice());
    assertEquals(found.get("dir/file")!.contents, "abc");
    const { contents } = found.get("sparse")!;
    assertEquals([contents.slice(4096, 4609), contents.slice(999_999)], ["-".repeat(512) + "\0", "\0abc"]);
  }
});

Deno.test({
  name: "GNU tar reads what formatHeader() writes",
  ignore: !LINUX,
  async fn() {
    await using base = await temporaryDirectory();
    const path = `${base.path}/archive.tar`;
    await Deno.writeFile(path, new Uint8Array(await new Blob([...archive(), END_OF_ARCHIVE]).arrayBuffer()));
    const listed = await shell(
      base.path,
      "tar -tvf archive.tar --full-time --numeric-owner --quoting-style=literal",
    );
    const lines = listed.trimEnd().split("\n").map((line) => line.replace(/ +/g, " "));
    // What tar prints of a time before 1970 is wrong; what it sets is right, see below.
    assertEquals(lines.splice(3, 1)[0]!.replace(/ 1969.*? d/, " d"), `-rw-r--r-- 0/0 3 ${long}`);
    assertEquals(lines, [
      "drwx------ 0/0 0 2020-09-13 12:26:40 ./",
      "drwxrwxrwt 0/0 0 2020-09-13 12:26:40 dir/",
      "-rws--s--x 12/34 3 2020-09-13 12:26:40 dir/file",
      "-rw-r--r-- 4000000000/3000000 3 2020-09-13 12:26:40 large-ids",
      "-rw-r--r-- 0/0 3 2255-03-14 16:00:00.12 late",
      `lrwxrwxrwx 0/0 0 2020-09-13 12:26:40 symlink -> /${"t".repeat(300)}`,
      `hrw-r--r-- 0/0 0 2020-09-13 12:26:40 hard link to ${long}`,
      "prw-r--r-- 0/0 0 2020-09-13 12:26:40 fifo",
      "crw-r--r-- 0/0 1,3 2020-09-13 12:26:40 null",
      "brw-r--r-- 0/0 259,1000000 2020-09-13 12:26:40 disk",
      "-rw-r--r-- 0/0 1000003 2020-09-13 12:26:40 sparse",
      "-rw-r--r-- 0/0 5000 2020-09-13 12:26:40 hole",
      "-rw-r--r-- 0/0 3 2020-09-13 12:26:40 attributes",
    ]);
    await shell(
      base.path,
      "mkdir x; tar -xf archive.tar -C x --no-same-owner --xattrs --exclude=fifo --exclude=null --exclude=disk",
    );
    assertEquals(await shell(base.path, "find x/dd* -type f -printf %T@"), "-86400.0000000050");
    const wanted = new Uint8Array(1_000_003);
    wanted.fill("-".charCodeAt(0), 4096, 4608);
    wanted.set(bytesOf("abc"), 1_000_000);
    assertEquals(byteString(await Deno.readFile(`${base.path}/x/sparse`)) === byteString(wanted), true);
    assertEquals((await Deno.stat(`${base.path}/x/hole`)).size, 5000);
    if (!HAS_ATTRIBUTES) return;
    const attributes = await shell(base.path, "getfattr -d -m '^user' -e hex x/attributes");
    for (const line of ["user.a\\075b%25=0x76", "user.nul=0x00ff0a"]) assertIncludes(attributes, line);
    assertIncludes(attributes, "user.empty");
  },
});

/** A stream that never ends: the parts, then a part again and again. */
async function* endless(parts: Uint8Array<ArrayBuffer>[], again: Uint8Array<ArrayBuffer>) {
  yield* parts;
  for (;;) yield await Promise.resolve(again);
}

function extended(flag: string, records: string) {
  const [block, ...contents] = file("pax", records);
  block![156] = flag.charCodeAt(0);
  block!.fill(0x20, 148, 156);
  const sum = block!.reduce((total, byte) => total + byte, 0);
  block!.set(bytesOf(`${sum.toString(8).padStart(6, "0")}\0 `), 148);
  return new Uint8Array([block!, ...contents].flatMap((part) => [...part!]));
}

const WITHOUT_END: Readonly<Record<string, AsyncIterable<Uint8Array<ArrayBuffer>>>> = {
  "zeros behind the end": endless([END_OF_ARCHIVE], new Uint8Array(2 ** 20)),
  "extended headers": endless([], extended("x", "11 path=ab\n")),
  "global headers": endless([], extended("g", `2008 comment=${"x".repeat(1994)}\n`)),
  "long names": endless([], extended("L", "name\0")),
  "a sparse file's map": endless(
    [formatHeader(entry("s", { size: 9e15, data: [{ offset: 0, length: 8e15 }] })).slice(0, -512)],
    bytesOf("1".repeat(4096)),
  ),
};
for (const [name, source] of Object.entries(WITHOUT_END)) {
  Deno.test(`TarReader: ${name} without end come to an end`, async () => {
    await assertRejects(() => readAll(source), TarError, "near byte");
  });
}

Deno.test("TarReader: a path of a million slashes takes no longer than another", async () => {
  const before = performance.now();
  const path = `a${"/".repeat(1_000_000)}b`;
  assertEquals((await readAll(stream([formatHeader(entry(path))]))).has(path), true);
  assertEquals(performance.now() - before < 5000, true);
});

Deno.test("TarReader: a size that is no number is none of another reader's", async () => {
  const size = "99999999999999999999";
  await assertRejects(
    () => readAll(stream([extended("x", `${size.length + 9} size=${size}\n`), ...file("x")])),
    TarError,
    "impossible size",
  );
});
