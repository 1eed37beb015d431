import { createHash } from "node:crypto";
import type { EntrySource } from "../../lib/layers.ts";
import { withManifest } from "../../lib/manifest.ts";
import { bytesOf, END_OF_ARCHIVE, type Entry, formatHeader, padding, TarReader } from "../../lib/tar.ts";
import { assertEquals } from "../assert.ts";
import { entry } from "./archive.ts";

type Item = Partial<Entry> & { path: string; contents?: string };

function archive(...items: Item[]): TarReader {
  const parts = items.flatMap(({ contents = "", ...item }) => {
    const stored = bytesOf(contents);
    const header = formatHeader(
      entry(item.path, { size: stored.length, mtime: { seconds: 1_700_000_000, nanoseconds: 0 }, ...item }),
    );
    return [header, stored, padding(stored.length)];
  });
  return new TarReader((async function* () {
    for (const part of [...parts, END_OF_ARCHIVE]) yield await Promise.resolve(part);
  })());
}

/** Contents are read to their end, to their first piece, or not at all. */
async function manifest(source: EntrySource, reads = Infinity): Promise<string[]> {
  const recorded = withManifest(source);
  while (await recorded.next() !== undefined) {
    for (let left = reads; left > 0 && await recorded.read() !== undefined; left--);
  }
  return recorded.lines();
}

const digest = (contents: string) => `sha256:${createHash("sha256").update(bytesOf(contents)).digest("hex")}`;

Deno.test("a line tells of a path what applies to it, in a fixed order", async () => {
  const lines = await manifest(archive(
    { path: "", type: "directory", mode: 0o755 },
    {
      path: "z",
      contents: "abc",
      mode: 0o4755,
      uid: 1,
      gid: 2,
      mtime: { seconds: 1_700_000_000, nanoseconds: 5e8 },
    },
    {
      path: "a",
      type: "symlink",
      target: "z\xff",
      mode: 0o777,
      mtime: { seconds: -2, nanoseconds: 5e8 },
    },
    { path: "n", type: "character", device: { major: 1, minor: 3 }, mtime: { seconds: 0, nanoseconds: 1 } },
    { path: "p", type: "fifo", mode: 0, xattrs: new Map([["user.b", "\0\xff"], ["user.a", "\xc3\xa9"]]) },
  ));
  assertEquals(lines, [
    '{"path":"","type":"directory","mode":"0755","uid":0,"gid":0,"mtime":"1700000000"}',
    '{"path":"a","type":"symlink","mode":"0777","uid":0,"gid":0,"target":"z\\\\xff","mtime":"-1.5"}',
    '{"path":"n","type":"character","mode":"0644","uid":0,"gid":0,"mtime":"0.000000001","device":"1:3"}',
    '{"path":"p","type":"fifo","mode":"0000","uid":0,"gid":0,"mtime":"1700000000",' +
    '"xattrs":{"user.a":"é","user.b":"\\u0000\\\\xff"}}',
    `{"path":"z","type":"file","mode":"4755","uid":1,"gid":2,"size":3,"digest":"${digest("abc")}",` +
    '"mtime":"1700000000.5"}',
  ]);
});

Deno.test("lines are in the order of the bytes of paths, which are shown as text", async () => {
  const lines = await manifest(archive(
    { path: "b" },
    { path: "\xff" },
    { path: "\xc3\xa9" },
    { path: "a/b" },
    { path: "a-b" },
    { path: 'a"\n' },
  ));
  assertEquals(lines.map((line) => JSON.parse(line).path), ['a"\n', "a-b", "a/b", "b", "é", "\\xff"]);
});

Deno.test("digests are of whole contents, however little of them is read", async () => {
  const contents = "0123456789".repeat(100_000);
  const files = () => archive({ path: "a", contents }, { path: "b" }, { path: "c", contents: "c" });
  const lines = await manifest(files());
  assertEquals(lines.map((line) => JSON.parse(line).digest), [contents, "", "c"].map(digest));
  assertEquals(await manifest(files(), 1), lines);
  assertEquals(await manifest(files(), 0), lines);
});

Deno.test("holes count as zeros", async () => {
  const size = 3 * 1024 * 1024 + 7;
  const data = [{ offset: 1_500_000, length: 2 }, { offset: 2_000_000, length: 1 }];
  const [line] = await manifest(archive({ path: "s", contents: "abc", size, data }));
  const whole = `${"\0".repeat(1_500_000)}ab${"\0".repeat(499_998)}c`.padEnd(size, "\0");
  assertEquals(JSON.parse(line!).size, size);
  assertEquals(JSON.parse(line!).digest, digest(whole));
  const [empty] = await manifest(archive({ path: "s", size, data: [] }));
  assertEquals(JSON.parse(empty!).digest, digest("\0".repeat(size)));
});

Deno.test("hard links are told the same whichever path has the contents", async () => {
  const link = (path: string, target: string): Item => ({ path, type: "link", target, mode: 0o600 });
  const first = await manifest(archive({ path: "a", contents: "1" }, link("b", "a"), link("c", "a")));
  const second = await manifest(archive({ path: "c", contents: "1" }, link("a", "c"), link("b", "a")));
  assertEquals(first, second);
  assertEquals(
    first[1],
    `{"path":"b","type":"file","mode":"0644","uid":0,"gid":0,"size":1,"digest":"${digest("1")}",` +
      '"mtime":"1700000000","links":3}',
  );
  const symlinks = await manifest(archive({ path: "s", type: "symlink", target: "x" }, link("t", "s")));
  assertEquals(symlinks.map((line) => JSON.parse(line).links), [2, 2]);
  assertEquals(symlinks.map((line) => JSON.parse(line).target), ["x", "x"]);
});

Deno.test("of a path that comes twice the last counts, and a link to nothing is told as one", async () => {
  const lines = await manifest(archive(
    { path: "a", contents: "1" },
    { path: "b", type: "link", target: "a" },
    { path: "a", contents: "2" },
    { path: "c", type: "link", target: "none" },
  ));
  assertEquals(lines.map((line) => JSON.parse(line).digest), [digest("2"), digest("1"), undefined]);
  assertEquals(lines.map((line) => JSON.parse(line).links), [undefined, undefined, undefined]);
  assertEquals(JSON.parse(lines[2]!).type, "link");
});
