/** Archives in the tests, of entries that are like most. */

import { END_OF_ARCHIVE, type Entry, formatHeader, padding } from "../../lib/tar.ts";

/** What an archive is put together from, without its end. */
export type Parts = Uint8Array<ArrayBuffer>[];

export function entry(path: string, changes: Partial<Entry> = {}): Entry {
  return {
    path,
    type: "file",
    mode: 0o644,
    uid: 0,
    gid: 0,
    size: 0,
    mtime: { seconds: 1_600_000_000, nanoseconds: 0 },
    target: "",
    device: { major: 0, minor: 0 },
    xattrs: new Map(),
    ...changes,
  };
}

/** A file with a text in it. */
export function file(path: string, text = "evil", changes: Partial<Entry> = {}): Parts {
  const bytes = new TextEncoder().encode(text);
  return [formatHeader(entry(path, { size: bytes.length, ...changes })), bytes, padding(bytes.length)];
}

export function dir(path: string): Parts {
  return [formatHeader(entry(path, { type: "directory", mode: 0o755 }))];
}

export function symlink(path: string, target: string): Parts {
  return [formatHeader(entry(path, { type: "symlink", target }))];
}

export function link(path: string, target: string): Parts {
  return [formatHeader(entry(path, { type: "link", target }))];
}

/** The parts as a stream, in pieces of this many bytes. */
export async function* stream(parts: Parts, size = 4096): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  for (const part of [...parts, END_OF_ARCHIVE]) {
    for (let at = 0; at < part.length; at += size) yield await Promise.resolve(part.slice(at, at + size));
  }
}
