/** Archives that want out of the folder that they are unpacked into, or to do harm in another way. */

import { byteString, formatHeader, padding } from "../../lib/tar.ts";
import { dir, entry, file, link, type Parts, symlink } from "./archive.ts";

/** A header whose bytes are changed, its sum put right. */
function forged(change: (block: Uint8Array<ArrayBuffer>) => void, of = entry("forged")): Parts {
  const block = formatHeader(of);
  change(block);
  block.set(new TextEncoder().encode("        "), 148);
  const sum = block.subarray(0, 512).reduce((total, byte) => total + byte, 0);
  block.set(new TextEncoder().encode(`${sum.toString(8).padStart(6, "0")}\0 `), 148);
  return [block];
}

/** An extended header of these records, as they are, and an entry behind it. */
function pax(records: string, then: Parts): Parts {
  const bytes = Uint8Array.from(records, (char) => char.charCodeAt(0));
  return [
    ...forged((block) => {
      block[156] = "x".charCodeAt(0);
      block.set(new TextEncoder().encode(bytes.length.toString(8).padStart(11, "0")), 124);
    }),
    bytes,
    padding(bytes.length),
    ...then,
  ];
}

function record(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  let length = rest.length;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return `${length}${rest}`;
}

const text = (value: string) => new TextEncoder().encode(value);
const nul = String.fromCharCode(0);

/** Each by what it tries; `outside` is a directory beside the folder, with a file `mine`. */
export function hostileArchives(outside: string): Readonly<Record<string, Parts>> {
  return {
    "an absolute name": file(`${outside}/new`),
    "a name with ..": file("../outside/new"),
    "a name with .. in its middle": file("a/../../outside/new"),
    "a directory with ..": dir("../outside/dir"),
    "a name by an extended header": pax(record("path", "../outside/new"), file("harmless")),
    "an absolute name by an extended header": pax(record("path", `${outside}/new`), file("harmless")),
    "a file through an absolute symlink": [...symlink("out", outside), ...file("out/new")],
    "a file through a relative symlink": [...symlink("out", "../outside"), ...file("out/new")],
    "a file through a chain of symlinks": [
      ...symlink("a", "b"),
      ...symlink("b", "../outside"),
      ...file("a/new"),
    ],
    "a file through a symlink to ..": [...symlink("up", ".."), ...file("up/outside/new")],
    "a file through a symlink to .": [...symlink("here", "."), ...file("here/../outside/new")],
    "a directory through a symlink": [...symlink("out", outside), ...dir("out/dir")],
    "a symlink through a symlink": [...symlink("out", outside), ...symlink("out/new", "/etc")],
    "a device through a symlink": [
      ...symlink("out", outside),
      formatHeader(entry("out/new", { type: "character", device: { major: 1, minor: 3 } })),
    ],
    "a FIFO through a symlink": [
      ...symlink("out", outside),
      formatHeader(entry("out/new", { type: "fifo" })),
    ],
    "a file over a symlink to a file": [...symlink("out", `${outside}/mine`), ...file("out")],
    "a directory over a symlink, and a file in it": [
      ...symlink("out", outside),
      ...dir("out"),
      ...file("out/new"),
    ],
    "a directory over a symlink, with its mode": [
      ...symlink("out", outside),
      formatHeader(entry("out", { type: "directory", mode: 0o777 })),
    ],
    "a directory that becomes a symlink": [
      ...dir("out"),
      ...file("out/x"),
      ...symlink("out", outside),
      ...file("out/new"),
    ],
    "an empty directory that becomes a symlink": [
      ...dir("out"),
      ...symlink("out", outside),
      ...file("out/new"),
    ],
    "a hard link to what is outside": [...link("stolen", "../outside/mine"), ...file("stolen")],
    "a hard link to an absolute path": [...link("stolen", `${outside}/mine`), ...file("stolen")],
    "a hard link by an extended header": [
      ...pax(record("linkpath", `${outside}/mine`), link("stolen", "x")),
      ...file("stolen"),
    ],
    "a hard link through a symlink": [
      ...symlink("out", outside),
      ...link("stolen", "out/mine"),
      ...file("stolen"),
    ],
    "a hard link to a symlink, written to": [
      ...symlink("out", `${outside}/mine`),
      ...link("again", "out"),
      ...file("again"),
    ],
    "a hard link to itself": link("me", "me"),
    "a hard link to a directory": [...dir("d"), ...link("e", "d")],
    "attributes through a symlink": [
      ...symlink("out", `${outside}/mine`),
      formatHeader(
        entry("out", { type: "symlink", target: `${outside}/mine`, xattrs: new Map([["user.x", "y"]]) }),
      ),
    ],
    "the folder as a file": file(""),
    "the folder as a symlink": symlink("", outside),
    "a name that is ..": file(".."),
    "a name with a NUL": pax(record("path", `a${nul}/../../outside/new`), file("harmless")),
    "a name with a line feed": file("a\nb"),
    "an empty name in the middle": file("a//b"),
    "a name of 300 bytes": file("n".repeat(300)),
    "a path of 5,000 directories": file(`${"d/".repeat(5000)}x`),
    "a directory in a directory 3,000 times": Array.from(
      { length: 3000 },
      (_, depth) => dir("d/".repeat(depth) + "d"),
    ).flat(),
    "a non-empty directory under a file": [...dir("d"), ...file("d/x"), ...file("d")],
    "a file under a directory": [...file("f"), ...file("f/x"), ...dir("f")],
    "a size without contents": forged((block) => block.set(text("77777777777"), 124)),
    "a negative size": forged((block) => block.fill(0xff, 124, 136)),
    "a size beyond all numbers": forged((block) => block.set([0x80, 0x7f, 0xff, 0xff, 0xff], 124)),
    "a size by an extended header": pax(record("size", "99999999999999999"), file("x")),
    "a record longer than its header": pax("999 path=x\n", file("x")),
    "a record without a length": pax("path=../outside/new\n", file("x")),
    "a record of length 0": pax("0 path=x\n", file("x")),
    "an extended header without end": forged((block) => {
      block[156] = "x".charCodeAt(0);
      block.set(text("77777777777"), 124);
    }),
    "a long name without end": forged((block) => {
      block[156] = "L".charCodeAt(0);
      block.set(text("77777777777"), 124);
    }),
    "a sparse file of 8 EiB": pax(
      record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") +
        record("GNU.sparse.realsize", "9223372036854775807"),
      file("x", "1\n0\n0\n".padEnd(512, nul)),
    ),
    "a sparse file whose map overlaps": pax(
      record("GNU.sparse.size", "100") + record("GNU.sparse.map", "0,50,25,50"),
      file("x", "y".repeat(100)),
    ),
    "a sparse file whose map is beyond its size": pax(
      record("GNU.sparse.size", "10") + record("GNU.sparse.map", "1000,4"),
      file("x", "yyyy"),
    ),
    "a sparse file whose map is longer than its contents": pax(
      record("GNU.sparse.size", "5000") + record("GNU.sparse.map", "0,4000"),
      file("x", "yyyy"),
    ),
    "a sparse file with a map without end": pax(
      record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") + record("GNU.sparse.realsize", "5"),
      file("x", "99999999\n".padEnd(1024, "0\n")),
    ),
    "an owner beyond all numbers": forged((block) => block.set([0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], 108)),
    "a time beyond all numbers": pax(record("mtime", "999999999999999"), file("x")),
    "an attribute of the kernel's": file("x", "y", { xattrs: new Map([["security.evil", "x"], ["", "x"]]) }),
    "a type that nobody knows": forged((block) => void (block[156] = "Z".charCodeAt(0))),
    "a sum that is wrong": [
      Uint8Array.from(formatHeader(entry("x")), (byte, at) => at === 0 ? byte + 1 : byte),
    ],
    "no archive at all": [text("hello ".repeat(200))],
    "nothing": [],
  };
}

/** All that is in a directory, with what tells whether it has been changed. */
export async function picture(directory: string): Promise<string[]> {
  const found: string[] = [];
  const look = async (path: string) => {
    const { isDirectory, isFile, isSymlink, mode, uid, mtime, nlink } = await Deno.lstat(path);
    const inside = isFile
      ? byteString(await Deno.readFile(path))
      : isSymlink
      ? await Deno.readLink(path)
      : "";
    found.push(JSON.stringify([path, mode, uid, mtime, nlink, inside]));
    if (isDirectory) { for await (const { name } of Deno.readDir(path)) await look(`${path}/${name}`); }
  };
  await look(directory);
  return found.sort();
}
