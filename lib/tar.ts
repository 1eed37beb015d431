/**
 * Tar archives, read and written to the byte: names, links and attributes are _byte strings_, in which each character
 * stands for one byte, because what files are called need not be text.
 *
 * Source: POSIX pax ("ustar Interchange Format", "pax Header"), and "Tar Internals" of GNU tar's manual.
 */

/** A file, as an archive has it. */
export interface Entry {
  /** A byte string: without the root's "./" or "/" before it, nor "/" behind; "" is the root. Else it is as it came. */
  readonly path: string;
  readonly type: EntryType;
  /** Permissions, with set-user-ID, set-group-ID and the sticky bit. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Of the file's contents, holes included, in bytes. */
  readonly size: number;
  /** Where the contents that are there are, in order; without it, all are. */
  readonly data?: readonly Extent[];
  readonly mtime: Time;
  /** A byte string: where a symlink leads; of a hard link, the path of what it links to, written as `path` is. */
  readonly target: string;
  /** Of a character or block device. */
  readonly device: { readonly major: number; readonly minor: number };
  /** Extended attributes; names and values are byte strings. */
  readonly xattrs: ReadonlyMap<string, string>;
}

/** `link` is a hard link to an entry before it. */
export type EntryType = "file" | "directory" | "symlink" | "link" | "character" | "block" | "fifo";

/** In bytes. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
}

export interface Time {
  readonly seconds: number;
  readonly nanoseconds: number;
}

/** A piece of an entry's contents, and where in them it belongs; to be used before the next call. */
export interface Piece {
  readonly offset: number;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** The archive is not one, or is damaged; the message says where and how. */
export class TarError extends Error {}

const BLOCK = 512;
/** No honest archive has longer ones: names, and lists of attributes and of extents. */
const LARGEST_HEADER = 8 * 1024 * 1024;
/** Global headers cost something at every entry. Git's, of a commit's ID, has 52 bytes. */
const LARGEST_GLOBALS = 64 * 1024;
/** Headers in front of one entry: an extended one, a global one, a long name, a long target, a label. */
const MOST_HEADERS = 100;
/** What fills the last record of a tape is no more than this. */
const LARGEST_REST = 1024 * 1024 * 1024;

/** What the keys of records with extended attributes begin with; an empty value is one, and deletes nothing. */
const ATTRIBUTE = "SCHILY.xattr.";

const TYPES: Readonly<Record<string, EntryType>> = {
  "\0": "file",
  "0": "file",
  "7": "file",
  "S": "file",
  "1": "link",
  "2": "symlink",
  "3": "character",
  "4": "block",
  "5": "directory",
  "D": "directory",
  "6": "fifo",
};

/** Reads an archive entry by entry. */
export class TarReader {
  readonly #source: AsyncIterator<Uint8Array<ArrayBuffer>>;
  #chunk = new Uint8Array();
  #at = 0;
  /** Bytes taken from the source, for messages. */
  #position = 0;
  /** Of the current entry: stored bytes that are still to come, what fills their last block, where they belong. */
  #left = 0;
  #padding = 0;
  #extents: Extent[] = [];
  #globals: ReadonlyMap<string, string> = new Map();
  #globalsSize = 0;

  constructor(source: AsyncIterable<Uint8Array<ArrayBuffer>>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** The next entry; undefined at the end. What has not been read of the one before is passed over. Throws TarError. */
  async next(): Promise<Entry | undefined> {
    let records = new Map<string, string>(this.#globals);
    let longName: string | undefined;
    let longTarget: string | undefined;
    for (let headers = 0;; headers++) {
      if (headers > MOST_HEADERS) throw this.#error("headers without an entry");
      await this.#skip(this.#left + this.#padding);
      this.#left = this.#padding = 0;
      const block = await this.#block();
      if (block === undefined) {
        await this.#drain();
        return undefined;
      }
      const { type, size } = headerOf(block, this.#position - BLOCK);
      switch (type) {
        case "x":
          records = new Map([...this.#globals, ...paxRecords(await this.#text(size))]);
          continue;
        case "g":
          this.#globalsSize += size;
          if (this.#globalsSize > LARGEST_GLOBALS) throw this.#error("global headers of more than 64 KiB");
          this.#globals = new Map([...this.#globals, ...paxRecords(await this.#text(size))]);
          records = new Map([...this.#globals, ...records]);
          continue;
        case "L":
          longName = untilNul(await this.#text(size));
          continue;
        case "K":
          longTarget = untilNul(await this.#text(size));
          continue;
        case "V":
          this.#expect(size);
          continue;
      }
      return await this.#entry(block, type, records, longName, longTarget);
    }
  }

  /** The next piece of the current entry's contents; undefined at their end. Throws TarError. */
  async read(): Promise<Piece | undefined> {
    while (this.#extents[0]?.length === 0) this.#extents.shift();
    const [extent] = this.#extents;
    if (extent === undefined) return undefined;
    const bytes = await this.#some(extent.length);
    this.#left -= bytes.length;
    this.#extents[0] = { offset: extent.offset + bytes.length, length: extent.length - bytes.length };
    return { offset: extent.offset, bytes };
  }

  /** Lets go of the source. */
  async close(): Promise<void> {
    await this.#source.return?.();
  }

  async #entry(
    block: Uint8Array,
    flag: string,
    records: ReadonlyMap<string, string>,
    longName: string | undefined,
    longTarget: string | undefined,
  ): Promise<Entry> {
    const known = TYPES[flag];
    if (known === undefined) throw this.#error(`an entry of the unknown type ${JSON.stringify(flag)}`);
    const gnu = text(block, 257, 8) === "ustar  ";
    const prefix = gnu || text(block, 257, 5) !== "ustar" ? "" : text(block, 345, 155);
    const short = text(block, 0, 100);
    const raw = records.get("GNU.sparse.name") ?? records.get("path") ?? longName ??
      (prefix === "" ? short : `${prefix}/${short}`);
    const type = known === "file" && raw.endsWith("/") ? "directory" : known;
    const target = records.get("linkpath") ?? longTarget ?? text(block, 157, 100);
    const stored = records.has("size") ? recordNumber(records.get("size")) ?? NaN : number(block, 124, 12);
    if (!(Number.isSafeInteger(stored) && stored >= 0)) throw this.#error("an entry of an impossible size");
    // What the others say of a size is none of contents. Source: archive/tar of Go, isHeaderOnlyType.
    this.#expect(known === "file" || flag === "D" ? stored : 0);
    let size = type === "file" ? stored : 0;
    let data: readonly Extent[] | undefined;
    if (type === "file") {
      const sparse = await this.#sparse(block, flag, records);
      if (sparse) ({ size, data } = sparse);
    }
    this.#extents = type === "file" ? [...data ?? [{ offset: 0, length: this.#left }]] : [];
    if (data) {
      const there = data.reduce((sum, { length }) => sum + length, 0);
      if (there > this.#left) throw this.#error("a sparse file whose map is longer than its contents");
    }
    const xattrs = new Map<string, string>();
    for (const [key, value] of records) {
      if (key.startsWith(ATTRIBUTE)) xattrs.set(decodeName(key.slice(ATTRIBUTE.length)), value);
    }
    return {
      path: plain(raw),
      type,
      mode: number(block, 100, 8) & 0o7777,
      uid: recordNumber(records.get("uid")) ?? number(block, 108, 8),
      gid: recordNumber(records.get("gid")) ?? number(block, 116, 8),
      size,
      ...data && { data },
      mtime: recordTime(records.get("mtime")) ?? { seconds: number(block, 136, 12), nanoseconds: 0 },
      target: type === "link" ? plain(target) : type === "symlink" ? target : "",
      device: type === "character" || type === "block"
        ? { major: number(block, 329, 8), minor: number(block, 337, 8) }
        : { major: 0, minor: 0 },
      xattrs,
    };
  }

  /** The map of a sparse file, in one of the four formats that GNU tar has had; undefined for any other file. */
  async #sparse(
    block: Uint8Array,
    flag: string,
    records: ReadonlyMap<string, string>,
  ): Promise<{ size: number; data: Extent[] } | undefined> {
    const numbers: number[] = [];
    let size: number | undefined;
    if (flag === "S") {
      size = number(block, 483, 12);
      let more = block[482] !== 0;
      for (let at = 386; at < 482 && block[at] !== 0; at += 12) numbers.push(number(block, at, 12));
      while (more) {
        const next = await this.#block();
        if (next === undefined) throw this.#error("an end in the middle of a sparse file's map");
        for (let at = 0; at < 504 && next[at] !== 0; at += 12) numbers.push(number(next, at, 12));
        more = next[504] !== 0;
        if (numbers.length * 12 > LARGEST_HEADER) throw this.#error("a sparse file's map without end");
      }
    } else if (records.get("GNU.sparse.major") === "1") {
      size = recordNumber(records.get("GNU.sparse.realsize"));
      let rest = "";
      let wanted = Infinity;
      while (numbers.length < wanted) {
        const next = this.#left < BLOCK ? undefined : await this.#block(true);
        if (next === undefined) throw this.#error("an end in the middle of a sparse file's map");
        this.#left -= BLOCK;
        const lines = (rest + text(next, 0, BLOCK)).split("\n");
        rest = lines.pop()!;
        if (rest.length > BLOCK) throw this.#error("a sparse file whose map makes no sense");
        for (const line of lines) {
          const found = recordNumber(line);
          if (found === undefined) throw this.#error("a sparse file whose map makes no sense");
          if (wanted === Infinity) wanted = 2 * found;
          else if (numbers.length < wanted) numbers.push(found);
        }
        if (numbers.length * 2 > LARGEST_HEADER) throw this.#error("a sparse file's map without end");
      }
    } else if (records.has("GNU.sparse.map")) {
      size = recordNumber(records.get("GNU.sparse.size"));
      for (const part of records.get("GNU.sparse.map")!.split(",")) numbers.push(recordNumber(part) ?? NaN);
    } else return undefined;
    const data: Extent[] = [];
    let end = 0;
    for (let at = 0; at + 1 < numbers.length; at += 2) {
      const [offset, length] = [numbers[at]!, numbers[at + 1]!];
      if (!(offset >= end && Number.isSafeInteger(offset + length) && length >= 0)) {
        throw this.#error("a sparse file whose map makes no sense");
      }
      end = offset + length;
      if (length > 0) data.push({ offset, length });
    }
    if (size === undefined || !Number.isSafeInteger(size) || size < end) {
      throw this.#error("a sparse file that is smaller than its contents");
    }
    return { size, data };
  }

  #expect(stored: number): void {
    this.#left = stored;
    this.#padding = (BLOCK - stored % BLOCK) % BLOCK;
  }

  /** A header's contents, as a byte string. */
  async #text(size: number): Promise<string> {
    if (size > LARGEST_HEADER) throw this.#error("a header of more than 8 MiB");
    const parts: string[] = [];
    for (let left = size; left > 0;) {
      const bytes = await this.#some(left);
      left -= bytes.length;
      parts.push(byteString(bytes));
    }
    await this.#skip((BLOCK - size % BLOCK) % BLOCK);
    return parts.join("");
  }

  /** The next block; undefined at the end, which is the source's or a block of zeros. */
  async #block(data = false): Promise<Uint8Array | undefined> {
    let block: Uint8Array | undefined;
    if (this.#chunk.length - this.#at >= BLOCK) {
      block = this.#chunk.subarray(this.#at, this.#at += BLOCK);
      this.#position += BLOCK;
    } else {
      const whole = new Uint8Array(BLOCK);
      let filled = 0;
      while (filled < BLOCK) {
        if (filled === 0 && !await this.#fill()) return undefined;
        const bytes = await this.#some(BLOCK - filled);
        whole.set(bytes, filled);
        filled += bytes.length;
      }
      block = whole;
    }
    if (data || block.some((byte) => byte !== 0)) return block;
    return undefined;
  }

  /** At least one and at most so many bytes. */
  async #some(most: number): Promise<Uint8Array<ArrayBuffer>> {
    if (!await this.#fill()) throw this.#error("an end in the middle of an entry");
    const bytes = this.#chunk.subarray(this.#at, this.#at + most);
    this.#at += bytes.length;
    this.#position += bytes.length;
    return bytes;
  }

  /** What follows is of no interest, but that the source comes to its end without an error is. */
  async #drain(): Promise<void> {
    let drained = 0;
    do {
      drained += this.#chunk.length - this.#at;
      if (drained > LARGEST_REST) throw this.#error("more than 1 GiB behind its end");
      this.#at = this.#chunk.length;
    } while (await this.#fill());
  }

  async #skip(count: number): Promise<void> {
    for (let left = count; left > 0;) left -= (await this.#some(left)).length;
  }

  /** Whether there is more. */
  async #fill(): Promise<boolean> {
    while (this.#at === this.#chunk.length) {
      const next = await this.#source.next();
      if (next.done) return false;
      this.#chunk = next.value;
      this.#at = 0;
    }
    return true;
  }

  #error(what: string): TarError {
    return new TarError(`it has ${what}, near byte ${this.#position}`);
  }
}

/**
 * The bytes that an entry begins with in an archive; behind them come the contents and `padding`. All extents but the
 * last are whole blocks, as GNU tar makes them: it reads each of them from a block of its own.
 */
export function formatHeader(entry: Entry): Uint8Array<ArrayBuffer> {
  const { path, type, target, data, mtime, xattrs } = entry;
  const records: string[] = [];
  const record = (key: string, value: string) => records.push(formatRecord(key, value));
  const name = path === "" ? "./" : type === "directory" ? `${path}/` : path;
  const map = data && formatMap(data, entry.size);
  const stored = map === undefined
    ? (type === "file" ? entry.size : 0)
    : map.length + data!.reduce((sum, { length }) => sum + length, 0);
  // Names that are no text are told as such. Source: POSIX pax, hdrcharset.
  if ((name.length > 100 || target.length > 100) && !(isUtf8(name) && isUtf8(target))) {
    record("hdrcharset", "BINARY");
  }
  if (map !== undefined) {
    record("GNU.sparse.major", "1");
    record("GNU.sparse.minor", "0");
    record("GNU.sparse.name", name);
    record("GNU.sparse.realsize", String(entry.size));
  } else if (name.length > 100) record("path", name);
  if (target.length > 100) record("linkpath", target);
  if (stored > 0o77777777777) record("size", String(stored));
  if (entry.uid > 0o7777777) record("uid", String(entry.uid));
  if (entry.gid > 0o7777777) record("gid", String(entry.gid));
  if (mtime.nanoseconds !== 0 || mtime.seconds < 0 || mtime.seconds > 0o77777777777) {
    record("mtime", formatTime(mtime));
  }
  for (const key of [...xattrs.keys()].sort()) record(ATTRIBUTE + encodeName(key), xattrs.get(key)!);
  const own = formatBlock(entry, name.slice(0, 100), flagOf(type), stored);
  if (records.length === 0) return concatenate([own, ...map ? [map] : []]);
  const text = bytesOf(records.join(""));
  const head = { ...entry, mode: 0o644, uid: 0, gid: 0, mtime: { seconds: 0, nanoseconds: 0 }, target: "" };
  return concatenate([
    formatBlock(head, "PaxHeader", "x", text.length),
    text,
    padding(text.length),
    own,
    ...map ? [map] : [],
  ]);
}

/** What fills the last block of contents of so many bytes. */
export function padding(size: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array((BLOCK - size % BLOCK) % BLOCK);
}

/** What an archive ends with. */
export const END_OF_ARCHIVE: Uint8Array<ArrayBuffer> = new Uint8Array(2 * BLOCK);

/** An archive of files that are in memory; they belong to root. */
export function pack(
  files: readonly { readonly path: string; readonly bytes: Uint8Array<ArrayBuffer>; readonly mode: number }[],
): Uint8Array<ArrayBuffer> {
  return concatenate([
    ...files.flatMap(({ path, bytes, mode }) => [
      formatHeader({
        path: byteString(new TextEncoder().encode(path.replace(/^\/+/, ""))),
        type: "file",
        mode,
        uid: 0,
        gid: 0,
        size: bytes.length,
        mtime: { seconds: 0, nanoseconds: 0 },
        target: "",
        device: { major: 0, minor: 0 },
        xattrs: new Map(),
      }),
      bytes,
      padding(bytes.length),
    ]),
    END_OF_ARCHIVE,
  ]);
}

/** Bytes as a byte string. */
export function byteString(bytes: Uint8Array): string {
  let found = "";
  for (let at = 0; at < bytes.length; at += 8192) {
    found += String.fromCharCode.apply(null, bytes.subarray(at, at + 8192) as unknown as number[]);
  }
  return found;
}

/** The bytes of a byte string. */
export function bytesOf(text: string): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return bytes;
}

/** A byte string as people read it; bytes that are no text are written out as `\xff`. */
export function shown(path: string): string {
  const bytes = bytesOf(path);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return path.replace(/[\x80-\xff]/g, (char) => `\\x${char.charCodeAt(0).toString(16)}`);
  }
}

function headerOf(block: Uint8Array, position: number): { type: string; size: number } {
  let sum = 8 * 0x20;
  for (let at = 0; at < BLOCK; at++) {
    if (at < 148 || at >= 156) sum += block[at]!;
  }
  if (sum !== number(block, 148, 8)) {
    throw new TarError(
      position === 0 ? "it is no tar archive" : `it has a damaged header, at byte ${position}`,
    );
  }
  return { type: String.fromCharCode(block[156]!), size: Math.max(0, number(block, 124, 12)) };
}

function text(block: Uint8Array, at: number, length: number): string {
  let end = at;
  while (end < at + length && block[end] !== 0) end++;
  return String.fromCharCode.apply(null, block.subarray(at, end) as unknown as number[]);
}

/** A number in octal digits; or, where its first bit is set, in binary, the highest byte first. */
function number(block: Uint8Array, at: number, length: number): number {
  if (block[at]! & 0x80) {
    let value = block[at]! & 0x40 ? -1 : 0;
    value = value * 64 + (block[at]! & 0x3f);
    for (let i = at + 1; i < at + length; i++) value = value * 256 + block[i]!;
    return value;
  }
  let value = 0;
  let i = at;
  while (i < at + length && block[i] === 0x20) i++;
  for (; i < at + length && block[i]! >= 0x30 && block[i]! <= 0x37; i++) value = value * 8 + block[i]! - 0x30;
  return value;
}

/** Source: POSIX pax, "pax Extended Header": "%d %s=%s\n", the number being the record's own length. */
function paxRecords(bytes: string): Map<string, string> {
  const records = new Map<string, string>();
  for (let at = 0; at < bytes.length;) {
    const [head, digits] = /^(\d{1,9}) /.exec(bytes.slice(at, at + 11)) ?? [];
    const end = at + Number(digits);
    const equals = bytes.indexOf("=", at);
    if (head === undefined || end > bytes.length || equals < 0 || equals >= end || bytes[end - 1] !== "\n") {
      if (/^\0*$/.test(bytes.slice(at))) break;
      throw new TarError("it has a damaged extended header");
    }
    const key = bytes.slice(at + head.length, equals);
    const value = bytes.slice(equals + 1, end - 1);
    // Format 0.0 has a record for each number of the map.
    if (key === "GNU.sparse.offset" || key === "GNU.sparse.numbytes") {
      const map = records.get("GNU.sparse.map");
      records.set("GNU.sparse.map", map === undefined ? value : `${map},${value}`);
    } else if (value === "" && !key.startsWith(ATTRIBUTE)) records.delete(key);
    else records.set(key, value);
    at = end;
  }
  return records;
}

/** A record's key ends at "=". Source: xattr_encode_keyword() and xattr_decode_keyword() of GNU tar's xheader.c. */
function encodeName(name: string): string {
  return name.replaceAll("%", "%25").replaceAll("=", "%3D");
}

function decodeName(name: string): string {
  return name.replace(/%(?:3D|25)/g, (code) => code === "%25" ? "%" : "=");
}

function recordNumber(value: string | undefined): number | undefined {
  return value !== undefined && /^\d{1,16}$/.test(value) ? Number(value) : undefined;
}

function recordTime(value: string | undefined): Time | undefined {
  const [, sign, whole, fraction = ""] = /^(-?)(\d{1,15})(?:\.(\d*))?$/.exec(value ?? "") ?? [];
  if (whole === undefined) return undefined;
  const nanoseconds = Number(fraction.slice(0, 9).padEnd(9, "0"));
  if (sign === "") return { seconds: Number(whole), nanoseconds };
  return nanoseconds === 0
    ? { seconds: -Number(whole), nanoseconds }
    : { seconds: -Number(whole) - 1, nanoseconds: 1e9 - nanoseconds };
}

function formatTime({ seconds, nanoseconds }: Time): string {
  if (nanoseconds === 0) return String(seconds);
  const [whole, rest] = seconds < 0 ? [seconds + 1, 1e9 - nanoseconds] : [seconds, nanoseconds];
  const sign = seconds < 0 && whole === 0 ? "-" : "";
  return `${sign}${whole}.${String(rest).padStart(9, "0").replace(/0+$/, "")}`;
}

function formatRecord(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  let length = rest.length;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return `${length}${rest}`;
}

/** The map in front of a sparse file's contents, of format 1.0. An empty extent at the end tells the size, as GNU tar's does. */
function formatMap(data: readonly Extent[], size: number): Uint8Array<ArrayBuffer> {
  const extents = [...data, { offset: size, length: 0 }];
  const lines = [extents.length, ...extents.flatMap(({ offset, length }) => [offset, length])];
  const text = bytesOf(lines.map((line) => `${line}\n`).join(""));
  return concatenate([text, padding(text.length)]);
}

function formatBlock(entry: Entry, name: string, flag: string, size: number): Uint8Array<ArrayBuffer> {
  const { mode, uid, gid, mtime, target, device } = entry;
  const block = new Uint8Array(BLOCK);
  const put = (at: number, value: string) => block.set(bytesOf(value), at);
  const octal = (at: number, length: number, value: number) => {
    const most = 8 ** (length - 1) - 1;
    put(at, Math.min(Math.max(0, value), most).toString(8).padStart(length - 1, "0"));
  };
  put(0, name);
  octal(100, 8, mode);
  octal(108, 8, uid);
  octal(116, 8, gid);
  octal(124, 12, size);
  octal(136, 12, mtime.seconds);
  put(148, "        ");
  put(156, flag);
  put(157, target.slice(0, 100));
  put(257, "ustar\0" + "00");
  if (flag === "3" || flag === "4") {
    octal(329, 8, device.major);
    octal(337, 8, device.minor);
  }
  const sum = block.reduce((total, byte) => total + byte, 0);
  put(148, `${sum.toString(8).padStart(6, "0")}\0 `);
  return block;
}

function flagOf(type: EntryType): string {
  return { file: "0", link: "1", symlink: "2", character: "3", block: "4", directory: "5", fifo: "6" }[type];
}

/** Without what stands for the root: "./etc/" and "/etc" are "etc". */
function plain(path: string): string {
  const found = path.replace(/^(?:\.?\/+)+/, "");
  let end = found.length; // not by a pattern, which would begin anew at each of a million slashes
  while (found[end - 1] === "/") end--;
  return found.slice(0, end).replace(/^\.$/, "");
}

function untilNul(text: string): string {
  const end = text.indexOf("\0");
  return end < 0 ? text : text.slice(0, end);
}

function isUtf8(path: string): boolean {
  // deno-lint-ignore no-control-regex -- bytes
  if (/^[\x00-\x7f]*$/.test(path)) return true;
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(bytesOf(path));
    return true;
  } catch {
    return false;
  }
}

function concatenate(parts: readonly Uint8Array<ArrayBuffer>[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
