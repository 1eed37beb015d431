/** Nothing leaves the folder, whatever an archive says; and what is no harm is there as it was. */

import { assert, assertEquals, assertIncludes, assertRejects } from "../assert.ts";
import { temporaryDirectory } from "../temporary.ts";
import { CdebugError } from "../../lib/errors.ts";
import { TarError, TarReader } from "../../lib/tar.ts";
import { unpack, type UnpackOptions } from "../../lib/unpack.ts";
import { dir, file, hostileArchives, picture, stream, symlink } from "./hostile.ts";
import { fuzz } from "./unpack_fuzz.ts";

const LINUX = Deno.build.os === "linux";

async function unpackInto(
  directory: string,
  parts: Uint8Array<ArrayBuffer>[],
  options: Partial<UnpackOptions> = {},
) {
  return await unpack(new TarReader(stream(parts)), {
    directory,
    sameOwner: Deno.uid() === 0,
    maxSize: 10_000_000,
    ...options,
  });
}

const places = await temporaryDirectory();
if (LINUX) await unpackInto(places.path, []); // the C library, once opened, stays
for (const [name, parts] of Object.entries(hostileArchives(`${places.path}/outside`))) {
  Deno.test({
    name: `unpack(): ${name} does no harm`,
    ignore: !LINUX,
    async fn() {
      const [outside, folder] = [`${places.path}/outside`, `${places.path}/folder`];
      for (const path of [outside, folder]) await Deno.mkdir(path);
      try {
        await Deno.writeTextFile(`${outside}/mine`, "mine");
        const before = await picture(outside);
        try {
          await unpackInto(folder, parts);
        } catch (error) {
          assert(error instanceof TarError || error instanceof CdebugError, String(error));
        }
        assertEquals(await picture(outside), before);
        assertEquals((await Array.fromAsync(Deno.readDir(places.path))).length, 2);
      } finally {
        await new Deno.Command("rm", { args: ["-rf", outside, folder] }).output(); // as deep as it may be
      }
    },
  });
}
addEventListener("unload", () => Deno.removeSync(places.path, { recursive: true }));

Deno.test({
  name: "unpack(): what is refused is told, and the rest is there",
  ignore: !LINUX,
  async fn() {
    await using directory = await temporaryDirectory();
    const { entries, omissions } = await unpackInto(directory.path, [
      ...file("../one"),
      ...symlink("out", "/"),
      ...file("out/two"),
      ...file("three", "kept"),
    ]);
    assertEquals(entries, 4);
    assertEquals(omissions.filter(({ what }) => what === "refused").map(({ path }) => path), [
      "../one",
      "out/two",
    ]);
    assertIncludes(omissions[1]!.why, '"out" on the way there is a link');
    assertEquals(await Deno.readTextFile(`${directory.path}/three`), "kept");
  },
});

Deno.test({
  name: "unpack(): a directory that becomes a link between two entries leads nowhere",
  ignore: !LINUX,
  async fn() {
    await using directory = await temporaryDirectory();
    const [outside, folder] = [`${directory.path}/outside`, `${directory.path}/folder`];
    for (const path of [outside, folder]) await Deno.mkdir(path);
    const source = new TarReader(
      stream([...dir("d"), ...file("d/first"), ...dir("e"), ...file("e/x"), ...file("d/new")]),
    );
    let count = 0;
    await unpack({
      async next() {
        if (count++ === 4) {
          await Deno.rename(`${folder}/d`, `${folder}/moved`);
          await Deno.symlink(outside, `${folder}/d`);
        }
        return await source.next();
      },
      read: () => source.read(),
    }, { directory: folder, sameOwner: false });
    assertEquals(await Array.fromAsync(Deno.readDir(outside)), []);
  },
});

Deno.test({
  name: "unpack(): --max-size ends bombs, sparse ones too",
  ignore: !LINUX,
  async fn() {
    await using directory = await temporaryDirectory();
    for (
      const parts of [
        [...file("a", "x".repeat(600)), ...file("b", "x".repeat(600))],
        [...file("s", "x", { size: 5000, data: [{ offset: 0, length: 1 }] })],
      ]
    ) {
      await assertRejects(
        () => unpackInto(directory.path, parts, { maxSize: 1000 }),
        CdebugError,
        "--max-size",
      );
    }
  },
});

Deno.test({
  name: "unpack(): without the owners, nobody gets another user's rights, and that is told",
  ignore: !LINUX,
  async fn() {
    await using directory = await temporaryDirectory();
    const { omissions } = await unpackInto(directory.path, [
      ...file("program", "x", { mode: 0o4755, uid: 4321, gid: 4321 }),
    ], { sameOwner: false });
    assertEquals((await Deno.stat(`${directory.path}/program`)).mode! & 0o7777, 0o755);
    assertEquals(omissions.map(({ what }) => what).sort(), ["mode", "owner"]);
  },
});

Deno.test({
  name: "unpack(): an abort ends it",
  ignore: !LINUX,
  async fn() {
    await using directory = await temporaryDirectory();
    await assertRejects(
      () => unpackInto(directory.path, file("x"), { signal: AbortSignal.abort(new CdebugError("ended")) }),
      CdebugError,
      "ended",
    );
  },
});

Deno.test({
  name: "unpack(): names of any bytes, times and deep trees are as they were",
  ignore: !LINUX,
  async fn() {
    await using directory = await temporaryDirectory();
    const deep = `${"n".repeat(200)}/`.repeat(30) + "file";
    const { omissions } = await unpackInto(directory.path, [
      ...file("not-\xff-text", "a"),
      ...file(deep, "b", { mtime: { seconds: 1_000_000_000, nanoseconds: 123_456_789 } }),
      ...file("early", "c", { mtime: { seconds: -86400, nanoseconds: 5 } }),
      ...[...dir("closed"), ...file("closed/x", "d")],
    ], { sameOwner: false });
    assertEquals(omissions.filter(({ what }) => what !== "owner"), []);
    const { stdout } = await new Deno.Command("find", {
      args: [directory.path, "-type", "f", "-printf", "%f %T@\n"],
    }).output();
    const lines = String.fromCharCode(...stdout);
    assertIncludes(lines, "not-\xff-text ");
    assertIncludes(lines, "file 1000000000.1234567890");
    assertIncludes(lines, "early -86400.000000005");
  },
});

Deno.test({
  name: "unpack(): archives that are damaged anywhere do no harm",
  ignore: !LINUX,
  async fn() {
    const { runs, refused } = await fuzz(500, 7);
    assertEquals(runs, 500);
    assert(refused > 0 && refused < runs, `${refused} of ${runs}`);
  },
});
