/**
 * What an archive has: a line of JSON for each path, the same for the same files whatever archive they came
 * in.
 */

import { createHash, type Hash } from "node:crypto";
import type { EntrySource } from "./layers.ts";
import { type Entry, type Piece, shown, type Time } from "./tar.ts";

/** A file, by however many paths. */
interface File {
  /** Its fields, as JSON without braces: what is kept of an entry is to be small. */
  readonly fields: string;
  links: number;
}

/** Holes are hashed as so many zeros at a time. */
const ZEROS = new Uint8Array(1024 * 1024);

/**
 * The same entries and contents, each recorded as it passes; contents that are passed over are read all the
 * same.
 *
 * `lines` are those of the entries so far, of the one before the latest at least, sorted by the bytes of
 * their paths:
 * `{"path","type","mode","uid","gid","size","digest","target","mtime","xattrs","device","links"}` with only
 * those that apply. `mode` is octal ("0644"); `size` is in bytes, holes included; `digest` is the "sha256:…"
 * of contents, holes being zeros; `mtime` is in seconds ("1700000000.5"); `device` is "MAJOR:MINOR"; `links`
 * is how many paths the file has, if more than one: each path of a hard link is described as the file itself.
 * Bytes that are no UTF-8 are written out as `\xff`. Of a path that comes twice, the last counts. A hard link
 * to nothing that came before has the type "link".
 *
 * Throws what `source` throws.
 */
export function withManifest(source: EntrySource): EntrySource & { lines(): string[] } {
  const files = new Map<string, File>();
  let entry: Entry | undefined;
  let hash: Hash | undefined;
  /** How many bytes of contents are hashed. */
  let hashed = 0;

  async function read(): Promise<Piece | undefined> {
    const piece = await source.read();
    if (piece === undefined || hash === undefined) return piece;
    await fill(piece.offset);
    hash.update(piece.bytes);
    hashed += piece.bytes.length;
    return piece;
  }

  async function fill(end: number): Promise<void> {
    for (let turn = 1; hashed < end; turn++) {
      const zeros = ZEROS.subarray(0, Math.min(ZEROS.length, end - hashed));
      hash!.update(zeros);
      hashed += zeros.length;
      // A hole may be of any size, and the user may want to cancel.
      if (turn % 64 === 0) await new Promise((resolve) => setTimeout(resolve));
    }
  }

  async function finish({ size }: Entry): Promise<string | undefined> {
    if (hash === undefined) return undefined;
    while (await read() !== undefined) continue;
    await fill(size);
    return `sha256:${hash.digest("hex")}`;
  }

  function record(entry: Entry, digest: string | undefined): void {
    const linked = entry.type === "link" ? files.get(entry.target) : undefined;
    const file = linked ?? { fields: fieldsOf(entry, digest), links: 0 };
    const before = files.get(entry.path);
    if (before !== undefined) before.links--;
    file.links++;
    files.set(entry.path, file);
  }

  return {
    async next() {
      if (entry !== undefined) record(entry, await finish(entry));
      entry = await source.next();
      hash = entry?.type === "file" ? createHash("sha256") : undefined;
      hashed = 0;
      return entry;
    },
    read,
    lines() {
      return [...files.keys()].sort().map((path) => {
        const { fields, links } = files.get(path)!;
        const more = links > 1 ? `,"links":${links}` : "";
        return `{"path":${JSON.stringify(shown(path))},${fields}${more}}`;
      });
    },
  };
}

function fieldsOf(entry: Entry, digest: string | undefined): string {
  const { type, mode, uid, gid, size, target, mtime, xattrs, device } = entry;
  const names = [...xattrs.keys()].sort();
  const fields = {
    type,
    mode: mode.toString(8).padStart(4, "0"),
    uid,
    gid,
    ...digest !== undefined && { size, digest },
    ...target !== "" && { target: shown(target) },
    mtime: secondsOf(mtime),
    ...names.length > 0 &&
      { xattrs: Object.fromEntries(names.map((name) => [shown(name), shown(xattrs.get(name)!)])) },
    ...(type === "character" || type === "block") && { device: `${device.major}:${device.minor}` },
  };
  return JSON.stringify(fields).slice(1, -1);
}

function secondsOf({ seconds, nanoseconds }: Time): string {
  const total = BigInt(seconds) * 1_000_000_000n + BigInt(nanoseconds);
  const digits = String(total < 0n ? -total : total).padStart(10, "0");
  const fraction = digits.slice(-9).replace(/0+$/, "");
  return `${total < 0n ? "-" : ""}${digits.slice(0, -9)}${fraction === "" ? "" : `.${fraction}`}`;
}
