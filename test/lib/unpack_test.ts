/** Nothing leaves the folder, whatever an archive says; and what is no harm is there as it was. */

import { assert, assertEquals, assertIncludes, assertRejects } from "../assert.ts";
import { temporaryDirectory } from "../temporary.ts";
import { CdebugError } from "../../lib/errors.ts";
import { END_OF_ARCHIVE, formatHeader, TarError, TarReader } from "../../lib/tar.ts";
import { unpack, type UnpackOptions } from "../../lib/unpack.ts";
import { hasProgram } from "../engines/debian.ts";
import { dir, entry, file, link, stream, symlink } from "./archive.ts";
import { hostileArchives, picture } from "./hostile.ts";
import { shell } from "./shell.ts";
import { fuzz } from "./unpack_fuzz.ts";

const LINUX = Deno.build.os === "linux";
const ROOT = LINUX && Deno.uid() === 0;

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
  name: "unpack(): an archive that ends anywhere does no harm",
  ignore: !LINUX,
  async fn() {
    await using directory = await temporaryDirectory();
    const outside = `${directory.path}/outside`;
    await Deno.mkdir(outside);
    await Deno.writeTextFile(`${outside}/mine`, "mine");
    const bytes = new Uint8Array(
      await new Blob([
        ...dir("d"),
        ...file("d/x", "x".repeat(600), { xattrs: new Map([["user.a", "b"]]) }),
        ...file("n".repeat(150)),
        ...symlink("out", outside),
        ...file("out/new"),
        ...link("out/mine", "d/x"),
        ...file("sparse", "ab", {
          size: 9000,
          data: [{ offset: 5, length: 1 }, { offset: 7000, length: 1 }],
        }),
        ...file("../outside/new"),
      ]).arrayBuffer(),
    );
    const before = await picture(outside);
    for (let end = 0; end <= bytes.length; end += end % 512 === 0 ? 1 : 511) {
      const folder = `${directory.path}/folder`;
      await Deno.mkdir(folder);
      const parts = async function* () {
        yield await Promise.resolve(bytes.slice(0, end));
      };
      try {
        await unpack(new TarReader(parts()), { directory: folder, sameOwner: false });
      } catch (error) {
        assert(error instanceof TarError, String(error));
      }
      assertEquals(await picture(outside), before, `ending at ${end}`);
      await Deno.remove(folder, { recursive: true });
    }
    assertEquals((await Array.fromAsync(Deno.readDir(directory.path))).length, 1);
  },
});

Deno.test({
  name: "unpack(): links out that are there already are replaced, never written through",
  ignore: !LINUX,
  async fn() {
    await using directory = await temporaryDirectory();
    const [outside, folder] = [`${directory.path}/outside`, `${directory.path}/folder`];
    for (const path of [outside, `${outside}/dir`, folder]) await Deno.mkdir(path);
    for (const name of ["hard", "soft", "mode"]) await Deno.writeTextFile(`${outside}/${name}`, "mine");
    await Deno.link(`${outside}/hard`, `${folder}/hard`);
    await Deno.symlink(`${outside}/soft`, `${folder}/soft`);
    await Deno.symlink(`${outside}/dir`, `${folder}/dir`);
    await Deno.symlink(`${outside}/dir`, `${folder}/parent`);
    await Deno.symlink(`${outside}/none`, `${folder}/dangling`);
    await Deno.link(`${outside}/mode`, `${folder}/mode`);
    const { omissions } = await unpackInto(folder, [
      ...file("hard"),
      ...file("soft"),
      ...dir("dir"),
      ...file("dir/new"),
      ...file("parent/new"),
      ...file("dangling"),
      ...symlink("mode", "x"),
    ]);
    assertEquals(omissions.map(({ path, what }) => [path, what]), [["parent/new", "refused"]]);
    for (const name of ["hard", "soft", "mode"]) {
      assertEquals(await Deno.readTextFile(`${outside}/${name}`), "mine");
      assertEquals((await Deno.stat(`${outside}/${name}`)).nlink, 1);
    }
    assertEquals(await Array.fromAsync(Deno.readDir(`${outside}/dir`)), []);
    assertEquals((await Array.fromAsync(Deno.readDir(outside))).length, 4);
    assertEquals(await Deno.readTextFile(`${folder}/dangling`), "evil");
  },
});

Deno.test({
  name: "unpack(): the last of the entries of a name is there, of whatever type, and none is waited for",
  ignore: !LINUX,
  async fn() {
    await using directory = await temporaryDirectory();
    const make = {
      file: file("x", "text"),
      fifo: [formatHeader(entry("x", { type: "fifo" }))],
      symlink: symlink("x", "nowhere"),
      directory: dir("x"),
      link: link("x", "other"),
    };
    const kinds = Object.keys(make) as (keyof typeof make)[];
    for (const first of kinds) {
      for (const last of kinds) {
        const path = `${directory.path}/${first}-${last}`;
        await Deno.mkdir(path);
        const { omissions } = await unpackInto(path, [...file("other"), ...make[first], ...make[last]]);
        assertEquals(omissions, []);
        const { isFile, isDirectory, isSymlink, isFifo, nlink } = await Deno.lstat(`${path}/x`);
        const found = isDirectory
          ? "directory"
          : isSymlink
          ? "symlink"
          : isFifo
          ? "fifo"
          : isFile && nlink === 2
          ? "link"
          : "file";
        assertEquals(found, last, `${last} over ${first}`);
      }
    }
  },
});

Deno.test({
  name: "unpack(): a process that swaps a directory for a link all the time gets nothing outside",
  ignore: !LINUX,
  async fn() {
    await using directory = await temporaryDirectory();
    const [outside, folder] = [`${directory.path}/outside`, `${directory.path}/folder`];
    for (const path of [outside, folder, `${folder}/d`]) await Deno.mkdir(path);
    await Deno.writeTextFile(`${outside}/mine`, "mine");
    const before = await picture(outside);
    const swapping = new Deno.Command("sh", {
      args: ["-c", "while [ ! -e ../stop ]; do mv d e; ln -s ../outside d; rm d; mv e d; done 2>/dev/null"],
      cwd: folder,
    }).spawn();
    const parts = Array.from({ length: 300 }, (_, i) => [
      ...dir("d"),
      ...file(`d/${i}/new`),
      ...link(`d/${i}/mine`, "d/mine"),
      formatHeader(
        entry(`d/${i}`, { type: "directory", mode: 0o700, uid: 1, mtime: { seconds: 1, nanoseconds: 0 } }),
      ),
    ]).flat();
    try {
      const end = performance.now() + 1500;
      while (performance.now() < end) await unpackInto(folder, parts);
    } finally {
      await Deno.writeTextFile(`${directory.path}/stop`, ""); // in order, so that nothing of it goes on
      await swapping.status;
    }
    assertEquals(await picture(outside), before);
  },
});

Deno.test({
  name: "unpack(): a file of zeros without end is not begun beyond --max-size",
  ignore: !LINUX,
  async fn() {
    await using directory = await temporaryDirectory();
    const bomb = async function* () {
      yield formatHeader(entry("bomb", { size: 8e15 }));
      for (;;) yield await Promise.resolve(new Uint8Array(2 ** 16));
    };
    await assertRejects(
      () => unpack(new TarReader(bomb()), { directory: directory.path, sameOwner: false, maxSize: 1e9 }),
      CdebugError,
      "--max-size",
    );
    assertEquals(await Array.fromAsync(Deno.readDir(directory.path)), []);
  },
});

Deno.test({
  name: "unpack(): a file that the file system cannot take is left out as a whole",
  ignore: !LINUX,
  async fn() {
    await using directory = await temporaryDirectory();
    const size = Number.MAX_SAFE_INTEGER; // more than ext4's 16 TiB; where it fits, that is fine as well
    const { omissions } = await unpackInto(directory.path, [
      ...file("large", "x", { size, data: [{ offset: 0, length: 1 }] }),
      ...file("small"),
    ], { maxSize: Infinity });
    const names = (await Array.fromAsync(Deno.readDir(directory.path))).map(({ name }) => name).sort();
    assertEquals(names, omissions.length === 0 ? ["large", "small"] : ["small"]);
  },
});

Deno.test({
  name: "unpack(): 5,000 directories, each in the one before, are made and set in seconds",
  ignore: !LINUX,
  async fn() {
    const memory = await Deno.stat("/dev/shm").then(() => ({ dir: "/dev/shm" }), () => ({}));
    const path = await Deno.makeTempDir({ prefix: "cdebug-test-", ...memory });
    try {
      const parts = Array.from({ length: 5000 }, (_, depth) => dir("d/".repeat(depth) + "d")).flat();
      const before = performance.now();
      const { entries, omissions } = await unpackInto(path, parts);
      assertEquals([entries, omissions], [5000, []]);
      assert(performance.now() - before < 30_000);
    } finally {
      await new Deno.Command("rm", { args: ["-rf", path] }).output(); // as deep as it is
    }
  },
});

Deno.test({
  name: "unpack(): a path that makes directories without end is refused",
  ignore: !LINUX,
  async fn() {
    await using directory = await temporaryDirectory();
    const { omissions } = await unpackInto(directory.path, file("d/".repeat(100_000) + "x"));
    assertEquals(omissions.map(({ what }) => what), ["refused"]);
    assertEquals(await Array.fromAsync(Deno.readDir(directory.path)), []);
  },
});

Deno.test({
  name: "unpack(): an abort is not kept waiting by the source",
  ignore: !LINUX,
  async fn() {
    await using directory = await temporaryDirectory();
    const never = new Promise<undefined>(() => {});
    const whole = new TarReader(stream(file("x")));
    for (
      const source of [
        { next: () => never, read: () => never },
        { next: () => whole.next(), read: () => never },
      ]
    ) {
      const abort = new AbortController();
      const timer = setTimeout(() => abort.abort(new CdebugError("ended")), 20);
      await assertRejects(
        () => unpack(source, { directory: directory.path, sameOwner: false, signal: abort.signal }),
        CdebugError,
        "ended",
      );
      clearTimeout(timer);
    }
  },
});

Deno.test({
  name: "unpack(): owners and devices that no kernel has are told, and give no rights",
  ignore: !ROOT,
  async fn() {
    await using directory = await temporaryDirectory();
    const { omissions } = await unpackInto(directory.path, [
      ...file("minus-one", "x", { uid: 2 ** 32 - 1, mode: 0o4755 }),
      ...file("wraps-to-root", "x", { gid: 2 ** 32, mode: 0o2755 }),
      formatHeader(entry("wraps-to-null", { type: "character", device: { major: 2 ** 20, minor: 3 } })),
    ]);
    assertEquals(omissions.map(({ path, what }) => `${path} ${what}`), [
      "minus-one owner",
      "minus-one mode",
      "wraps-to-root owner",
      "wraps-to-root mode",
      "wraps-to-null device",
    ]);
    for (const name of ["minus-one", "wraps-to-root"]) {
      assertEquals((await Deno.stat(`${directory.path}/${name}`)).mode! & 0o7777, 0o755);
    }
  },
});

Deno.test({
  name: "unpack(): who is not root gets all but owners and devices, in read-only directories too",
  ignore: !ROOT,
  async fn() {
    await using directory = await temporaryDirectory();
    const [archive, folder] = [`${directory.path}/archive.tar`, `${directory.path}/folder`];
    await Deno.mkdir(folder);
    const xattrs = new Map([["user.a", "b"]]);
    const bytes = await new Blob([
      formatHeader(entry("closed", { type: "directory", mode: 0o500 })),
      ...file("closed/x", "a", { mode: 0o400, xattrs }),
      ...file("implied/x"),
      formatHeader(entry("null", { type: "character", device: { major: 1, minor: 3 } })),
      formatHeader(entry("fifo", { type: "fifo", mode: 0o600 })),
      ...file("setuid", "a", { mode: 0o4755, uid: 12, gid: 34 }),
      ...file("own-setuid", "a", { mode: 0o4755 }),
      END_OF_ARCHIVE,
    ]).bytes();
    await Deno.writeFile(archive, bytes);
    // Root without a single right is nobody in particular, who can read these modules.
    const program = `
      import { TarReader } from "${new URL("../../lib/tar.ts", import.meta.url)}";
      import { unpack } from "${new URL("../../lib/unpack.ts", import.meta.url)}";
      for (const sameOwner of [false, true]) {
        const source = new TarReader((await Deno.open("${archive}")).readable);
        const { omissions } = await unpack(source, { directory: "${folder}", sameOwner });
        console.log(omissions.map(({ path, what }) => path + " " + what).join());
      }`;
    const printed = await shell(
      folder,
      'umask 077; setpriv --bounding-set=-all --inh-caps=-all "$@"',
      Deno.execPath(),
      "eval",
      program,
    );
    const [without, asked] = printed.trimEnd().split("\n");
    assertEquals(without, "null device,setuid owner,setuid mode");
    // Again, over what is there: in "closed" nothing can be made any more.
    assertEquals(asked, "closed/x refused,null device,setuid owner,setuid mode");
    const modes = await shell(folder, "stat -c '%n %a' closed closed/x implied fifo own-setuid setuid");
    assertEquals(modes, "closed 500\nclosed/x 400\nimplied 755\nfifo 600\nown-setuid 4755\nsetuid 755\n");
  },
});

/** What is to be the same of two trees, a line each; run in each of them. */
const DESCRIBE = `
  find . -type d -printf '%p %y %m %U %G %T@\\n' -o -printf '%p %y %m %U %G %s %n %T@ [%l]\\n' | sort
  find . \\( -type b -o -type c \\) -exec stat -c '%n %t:%T' {} + | sort
  find . -type f -exec sha256sum {} + | sort
  find . -print0 | sort -z | xargs -0 getfattr -h -d -m - -e hex 2>/dev/null
  stat -c '%n of less than 1 MiB: %b' sparse | awk '{ print $1, $NF < 2048 }'`;

Deno.test({
  name: "unpack(): what GNU tar has packed is all there, as it was",
  ignore: !ROOT || !await hasProgram("setfattr"),
  async fn() {
    await using directory = await temporaryDirectory();
    const [tree, folder] = [`${directory.path}/tree`, `${directory.path}/folder`];
    for (const path of [tree, folder]) await Deno.mkdir(path);
    await shell(
      tree,
      `umask 022; n=$(printf 'n%.0s' {1..150}); mkdir -p dir/closed empty $n/$n/$n; chmod 1777 empty
      printf hello >dir/file; ln dir/file hard; ln dir/file dir/closed/harder; printf deep >$n/$n/$n/file
      printf suid >dir/suid; chown 12:34 dir/suid; chmod 6711 dir/suid; : >dir/readonly; chmod 400 dir/readonly
      ln -s ../../outside symlink; ln -s $n/$n symlink2; chown -h 56:78 symlink; mkfifo -m 640 fifo
      mknod null c 1 3; mknod disk b 259 1000000; chown 5:6 disk; chmod 660 disk
      printf x >$'not-\\xff-text'; printf x >$'line\\nfeed'; printf x >' '; printf x >'\\back"slash'
      for i in 0 3 9; do printf "part %s" $i | dd of=sparse bs=1M seek=$i conv=notrunc status=none; done
      truncate -s 20M sparse; truncate -s 5M hole; head -c 3000000 /dev/urandom >random
      setfattr -n user.a=b%25 -v v dir/file; setfattr -n user.empty dir/file; setfattr -n user.bin -v 0x00ff dir/readonly
      printf x >cap; chown 7:8 cap; setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 cap
      setfattr -n trusted.t -v t dir; setfattr -n user.d -v d dir/closed; setfattr -h -n trusted.s -v s symlink
      setfattr -n trusted.n -v n fifo
      chown 4000000000:3000000 random; chown -R 9:9 empty; chmod 500 dir/closed; chmod 0 $n/$n/$n
      find . -exec touch -h -d @1234567890.123456789 {} +
      touch -d @-86400.25 random; touch -h -d @9000000000.000000001 symlink; touch -d @1000000000.5 dir .`,
    );
    await shell(
      directory.path,
      "tar --format=posix --xattrs --xattrs-include='*' --sparse -cf archive.tar -C tree .",
    );
    const archive = (await Deno.open(`${directory.path}/archive.tar`)).readable;
    const { omissions } = await unpack(new TarReader(archive), { directory: folder, sameOwner: true });
    assertEquals(omissions, []);
    const [wanted, found] = [await shell(tree, DESCRIBE), await shell(folder, DESCRIBE)];
    for (const part of ["security.capability", "user.empty", "103:f4240", "not-", "sparse 1"]) {
      assertIncludes(wanted, part);
    }
    assertEquals(found.split("\n"), wanted.split("\n"));
  },
});

Deno.test({
  name: "unpack(): archives that are damaged anywhere do no harm",
  ignore: !LINUX,
  async fn() {
    const { runs, refused } = await fuzz(2000, 7);
    assertEquals(runs, 2000);
    assert(refused > 0 && refused < runs, `${refused} of ${runs}`);
  },
});
