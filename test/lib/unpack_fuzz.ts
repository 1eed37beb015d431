/** `deno task fuzz [COUNT] [SEED]`: unpacks archives whose bytes have been changed here and there. */

import { CdebugError } from "../../lib/errors.ts";
import { END_OF_ARCHIVE, formatHeader, padding, TarError, TarReader } from "../../lib/tar.ts";
import { unpack } from "../../lib/unpack.ts";
import { dir, entry, file, link, stream, symlink } from "./archive.ts";
import { hostileArchives, picture } from "./hostile.ts";

/** Numbers from 0 to `below`, the same for the same seed. Source: mulberry32, public domain. */
function randomNumbers(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

/** Puts the sum of a header right, so that what is changed in it is read at all. */
function mend(bytes: Uint8Array, at: number): void {
  bytes.fill(0x20, at + 148, at + 156);
  const sum = bytes.subarray(at, at + 512).reduce((total, byte) => total + byte, 0);
  bytes.set(new TextEncoder().encode(`${sum.toString(8).padStart(6, "0")}\0 `), at + 148);
}

/** Archives with something of everything. */
function harmless(): Uint8Array<ArrayBuffer>[][] {
  const xattrs = new Map([["user.a", "b"], ["security.capability", "\x01\0\0\x02"]]);
  const data = [{ offset: 4096, length: 1 }, { offset: 9000, length: 3 }];
  const sparse = entry("sparse", { size: 10_000, data });
  return [
    [...dir("d"), ...file("d/x", "text", { mode: 0o6755, uid: 12, gid: 34, xattrs }), ...link("y", "d/x")],
    [
      formatHeader(sparse),
      new Uint8Array(4),
      padding(4),
      ...file("n".repeat(200)),
      ...symlink("s", "sparse"),
    ],
    [
      formatHeader(entry("null", { type: "character", device: { major: 1, minor: 3 } })),
      formatHeader(entry("fifo", { type: "fifo", mtime: { seconds: -5, nanoseconds: 7 } })),
      ...file("fifo"),
    ],
  ];
}

/**
 * So many runs; returns how many ended with a refusal of the whole archive. Throws if anything outside of the folder
 * has been changed, or something else than a refusal was thrown.
 */
export async function fuzz(count: number, seed: number): Promise<{ runs: number; refused: number }> {
  const random = randomNumbers(seed);
  // In memory, where there is such a place: it is many small files.
  const memory = await Deno.stat("/dev/shm").then(() => ({ dir: "/dev/shm" }), () => ({}));
  const base = await Deno.makeTempDir({ prefix: "cdebug-fuzz-", ...memory });
  const [outside, folder] = [`${base}/outside`, `${base}/folder`];
  await Deno.mkdir(outside);
  await Deno.writeTextFile(`${outside}/mine`, "mine");
  const before = JSON.stringify(await picture(outside));
  const archives = [...Object.values(hostileArchives(outside)), ...harmless()].filter((parts) =>
    parts.reduce((sum, { length }) => sum + length, 0) < 10_000
  );
  let refused = 0;
  try {
    for (let run = 0; run < count; run++) {
      const parts = [archives[random(archives.length)]!, archives[random(archives.length)]!].flat();
      const bytes = new Uint8Array(await new Blob([...parts, END_OF_ARCHIVE]).arrayBuffer());
      for (let change = random(8); change >= 0; change--) {
        const at = random(bytes.length);
        bytes[at] = random(3) === 0 ? "/.\0-0x57L"[random(9)]!.charCodeAt(0) : random(256);
        if (random(4) > 0) mend(bytes, at - at % 512);
      }
      const cut = random(10) === 0 ? random(bytes.length) : bytes.length;
      await Deno.mkdir(folder);
      try {
        await unpack(new TarReader(stream([bytes.slice(0, cut)], 1 + random(5000))), {
          directory: folder,
          sameOwner: run % 2 === 0 && Deno.uid() === 0,
          maxSize: 1_000_000,
        });
      } catch (error) {
        if (!(error instanceof TarError || error instanceof CdebugError)) {
          throw new Error(`run ${run} of seed ${seed}: ${error}`, { cause: error });
        }
        refused++;
      }
      if (JSON.stringify(await picture(outside)) !== before) {
        throw new Error(`run ${run} of seed ${seed} has changed what is outside`);
      }
      if ((await Array.fromAsync(Deno.readDir(base))).length !== 2) {
        throw new Error(`run ${run} of seed ${seed} has made something outside`);
      }
      await Deno.remove(folder, { recursive: true });
    }
  } finally {
    await new Deno.Command("rm", { args: ["-rf", base] }).output();
  }
  return { runs: count, refused };
}

if (import.meta.main) {
  const [count = 100_000, seed = 1] = Deno.args.map(Number);
  const { runs, refused } = await fuzz(count, seed);
  await Deno.stdout.write(
    new TextEncoder().encode(
      `${runs} archives of seed ${seed}, ${refused} refused as a whole, none did harm\n`,
    ),
  );
}
