/** Puts the files of an archive into a folder, and never anything outside of it. */

import { CdebugError } from "./errors.ts";
import type { EntrySource } from "./layers.ts";
import { formatBytes } from "./size.ts";
import * as sys from "./syscalls.ts";
import { byteString, type Entry, shown } from "./tar.ts";

export interface UnpackOptions {
  /** The folder, which is there. */
  readonly directory: string;
  /** Files belong to whom they belong to in the archive. Only root can give them away. */
  readonly sameOwner: boolean;
  /** Bytes of contents, holes included, at most. */
  readonly maxSize?: number;
  readonly signal?: AbortSignal;
}

/** What is not as it was; `path` is a byte string, `why` is for people. */
export interface Omission {
  readonly path: string;
  readonly what: "owner" | "mode" | "attribute" | "time" | "device" | "refused";
  readonly why: string;
}

export interface Unpacked {
  readonly entries: number;
  /** Of contents, without holes. */
  readonly bytes: number;
  readonly omissions: readonly Omission[];
}

/**
 * Unpacks all entries. What cannot be made as it was, or would be outside, is told of in the result, and the rest goes
 * on. Throws CdebugError where nothing can go on: the disk is full, or there is more than `maxSize`; what the source
 * throws; and, at once, what `signal` was aborted with.
 */
export async function unpack(source: EntrySource, options: UnpackOptions): Promise<Unpacked> {
  const folder = new Folder(options);
  try {
    const awaited = options.signal ? abortable(source, options.signal) : source;
    for (let entry; (entry = await awaited.next());) await folder.add(entry, awaited);
    return folder.finish();
  } finally {
    folder.close();
  }
}

/** What to say of more contents than so many bytes. */
export function tooLarge(maxSize: number): CdebugError {
  return new CdebugError(`Cannot export: there is more than the ${formatBytes(maxSize)} of --max-size`, {
    hint: "--max-size 100G, or without it",
  });
}

/** A source that is not waited for any longer once the signal is aborted. */
function abortable(source: EntrySource, signal: AbortSignal): EntrySource {
  return {
    next: () => unlessAborted(signal, () => source.next()),
    read: () => unlessAborted(signal, () => source.read()),
  };
}

/** What a call gives, which is not waited for once the signal is aborted. Throws the signal's reason then. */
export function unlessAborted<T>(signal: AbortSignal, call: () => Promise<T>): Promise<T> {
  // One listener for each call: a promise that lasts as long as the signal would keep what waited for it.
  return new Promise<T>((resolve, reject) => {
    signal.throwIfAborted();
    const abort = () => reject(signal.reason);
    signal.addEventListener("abort", abort);
    call().then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}

/** An entry cannot be where it wants to be. */
class Refused extends Error {}

/** Parents that stay open; the last ones are mostly wanted again. */
const MOST_OPEN = 64;
/** Of one name. Source: NAME_MAX of linux/limits.h. */
const LONGEST_NAME = 255;
/** Sixteen times PATH_MAX: a longer one is there to make directories without end. */
const LONGEST_PATH = 65_536;
/** Of the directories that are walked through, so many of the last stay open: what comes next is near. */
const MOST_KEPT = 32;
/** 2^32 - 1 means "leave it" to chown(2). */
const LARGEST_ID = 2 ** 32 - 2;
/** Of device numbers. Source: MINORBITS of linux/kdev_t.h. */
const [LARGEST_MAJOR, LARGEST_MINOR] = [2 ** 12 - 1, 2 ** 20 - 1];
const SET_ID = 0o6000;

class Folder {
  readonly #options: UnpackOptions;
  readonly #root: number;
  /** Directories that are open, by their paths, the last used at the end. */
  readonly #open = new Map<string, number>();
  /** What directories get when nothing is put into them any more. */
  readonly #directories = new Map<string, Entry>();
  readonly #omissions: Omission[] = [];
  readonly #uid = Deno.uid() ?? 0;
  readonly #gid = Deno.gid() ?? 0;
  #entries = 0;
  #bytes = 0;
  #size = 0;

  constructor(options: UnpackOptions) {
    this.#options = options;
    const path = byteString(new TextEncoder().encode(options.directory));
    try {
      this.#root = sys.open(undefined, path, sys.O.PATH | sys.O.DIRECTORY);
    } catch (error) {
      throw this.#fatal(error) ?? error;
    }
  }

  /** Makes what an entry says. */
  async add(entry: Entry, source: EntrySource): Promise<void> {
    this.#closeOldest();
    this.#entries++;
    this.#size += entry.size;
    if (this.#size > (this.#options.maxSize ?? Infinity)) {
      throw tooLarge(this.#options.maxSize!);
    }
    try {
      await this.#make(entry, source);
    } catch (error) {
      if (error instanceof Refused) this.#omit(entry, "refused", error.message);
      else throw error;
    }
  }

  /** Gives directories what making files in them would have changed. */
  finish(): Unpacked {
    // What is in a directory comes before it: its path is longer, and begins with the directory's.
    const innerFirst = [...this.#directories.values()].sort((a, b) => a.path < b.path ? 1 : -1);
    for (const entry of innerFirst) {
      this.#options.signal?.throwIfAborted();
      this.#closeOldest();
      try {
        const parent = entry.path === "" ? this.#root : this.#parent(entry.path, false);
        const fd = sys.open(parent, nameOf(entry.path) || ".", sys.O.DIRECTORY);
        try {
          this.#describe(fd, entry);
        } finally {
          sys.close(fd);
        }
      } catch (error) {
        const refusal = this.#refusal(error);
        if (!(refusal instanceof Refused)) throw refusal;
        this.#omit(entry, "mode", `it cannot be opened again: ${refusal.message}`);
      }
    }
    return { entries: this.#entries, bytes: this.#bytes, omissions: this.#omissions };
  }

  close(): void {
    for (const fd of this.#open.values()) sys.close(fd);
    sys.close(this.#root);
  }

  async #make(entry: Entry, source: EntrySource): Promise<void> {
    const { path, type } = entry;
    if (path === "") {
      if (type !== "directory") throw new Refused("it would be the folder itself");
      this.#directories.set("", entry);
      return;
    }
    const parent = this.#parent(path, true);
    const name = nameOf(path);
    switch (type) {
      case "directory":
        this.#makeDirectory(entry, parent, name);
        break;
      case "file":
        await this.#makeFile(entry, parent, name, source);
        break;
      case "link": {
        const from = this.#parent(entry.target, false);
        if (entry.target === path) throw new Refused("it is a hard link to itself");
        this.#place(entry, parent, () => sys.makeLink(from, nameOf(entry.target), parent, name));
        break;
      }
      case "symlink":
        if (entry.target === "" || entry.target.includes("\0")) throw new Refused("it leads to no path");
        this.#place(entry, parent, () => sys.makeSymlink(entry.target, parent, name));
        this.#describeAt(parent, name, entry);
        break;
      default:
        this.#makeNode(entry, parent, name);
    }
  }

  #makeDirectory(entry: Entry, parent: number, name: string): void {
    const { path } = entry;
    try {
      sys.makeDirectory(parent, name, 0o700);
    } catch (error) {
      if (!isCode(error, "EEXIST")) throw this.#refusal(error);
      // One that is there stays, with what is in it.
      if (!this.#isDirectory(parent, name)) {
        this.#place(entry, parent, () => sys.makeDirectory(parent, name, 0o700));
      }
    }
    this.#directories.set(path, entry);
  }

  #isDirectory(parent: number, name: string): boolean {
    try {
      sys.close(sys.open(parent, name, sys.O.PATH | sys.O.DIRECTORY));
      return true;
    } catch {
      return false;
    }
  }

  async #makeFile(entry: Entry, parent: number, name: string, source: EntrySource): Promise<void> {
    const { WRONLY, CREAT, EXCL } = sys.O;
    let fd = -1;
    this.#place(entry, parent, () => fd = sys.open(parent, name, WRONLY | CREAT | EXCL, 0o600));
    try {
      for (let piece; (piece = await source.read());) {
        this.#write(entry, parent, () => {
          if (entry.data) sys.writeAllAt(fd, piece.bytes, piece.offset);
          else sys.writeAll(fd, piece.bytes);
        });
        this.#bytes += piece.bytes.length;
      }
      if (entry.data) this.#write(entry, parent, () => sys.setSize(fd, entry.size));
      this.#describe(fd, entry);
    } finally {
      sys.close(fd);
    }
  }

  /** Writes to a file, which is not left there with a part of its contents if the file system takes no more of it. */
  #write(entry: Entry, parent: number, action: () => void): void {
    try {
      action();
    } catch (error) {
      const refusal = this.#refusal(error);
      if (refusal instanceof Refused) this.#remove(parent, entry.path);
      throw refusal;
    }
  }

  #makeNode(entry: Entry, parent: number, name: string): void {
    const { type, device: { major, minor } } = entry;
    if (!(within(major, LARGEST_MAJOR) && within(minor, LARGEST_MINOR))) {
      return this.#omit(entry, "device", `there is no device ${major}:${minor}`);
    }
    const kind = type === "character" ? sys.S.CHARACTER : type === "block" ? sys.S.BLOCK : sys.S.FIFO;
    try {
      this.#place(entry, parent, () => sys.makeNode(parent, name, kind | 0o600, major, minor));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.#omit(entry, "device", error.message);
      return;
    }
    const owned = this.#describeAt(parent, name, entry);
    this.#attempt(entry, "mode", () => {
      const fd = sys.open(parent, name, sys.O.PATH);
      try {
        sys.setModeOfPath(fd, this.#modeOf(entry, owned));
      } finally {
        sys.close(fd);
      }
    });
  }

  /** Makes something where something else may be, which goes first. Throws Refused. */
  #place({ path }: Entry, parent: number, make: () => void): void {
    for (let attempt = 0;; attempt++) {
      try {
        return make();
      } catch (error) {
        if (!isCode(error, "EEXIST") || attempt > 1) throw this.#refusal(error);
        this.#remove(parent, path);
      }
    }
  }

  #remove(parent: number, path: string): void {
    const name = nameOf(path);
    try {
      sys.remove(parent, name, false);
    } catch (error) {
      if (isCode(error, "ENOENT")) return;
      if (!isCode(error, "EISDIR", "EPERM")) throw this.#refusal(error);
      this.#forget(path);
      try {
        sys.remove(parent, name, true);
      } catch (error) {
        throw isCode(error, "ENOTEMPTY", "EEXIST")
          ? new Refused("a folder that is not empty is there")
          : this.#refusal(error);
      }
      this.#directories.delete(path);
    }
  }

  /** Closes a directory, and those in it. */
  #forget(path: string): void {
    for (const [known, fd] of this.#open) {
      if (known !== path && !known.startsWith(`${path}/`)) continue;
      sys.close(fd);
      this.#open.delete(known);
    }
  }

  /**
   * The directory that a path is in, open: walked to from the folder, name by name, and never through a symlink. With
   * `make`, what is missing is made. Throws Refused.
   */
  #parent(path: string, make: boolean): number {
    checkPath(path);
    const end = path.lastIndexOf("/");
    if (end < 0) return this.#root;
    const wanted = path.slice(0, end);
    let known = wanted;
    let fd = this.#open.get(known);
    for (let above = 0; fd === undefined && known !== ""; above++) {
      const cut = known.lastIndexOf("/");
      // Further up nothing is open, or not for long: looking for it costs more than walking.
      known = cut < 0 || above === MOST_OPEN ? "" : known.slice(0, cut);
      fd = this.#open.get(known);
    }
    if (fd === undefined) fd = this.#root;
    else {
      this.#open.delete(known);
      this.#open.set(known, fd);
    }
    let at = known.length;
    const names = known === wanted ? [] : wanted.slice(known === "" ? 0 : at + 1).split("/");
    let kept = true;
    for (const [index, name] of names.entries()) {
      const above = fd;
      try {
        fd = this.#enter(above, name, make);
      } finally {
        if (!kept) sys.close(above);
      }
      at += name.length + (at === 0 ? 0 : 1);
      kept = names.length - index <= MOST_KEPT;
      if (kept) this.#open.set(wanted.slice(0, at), fd);
    }
    return fd;
  }

  /** Only between entries: one may need two of them. */
  #closeOldest(): void {
    for (const [path, fd] of this.#open) {
      if (this.#open.size <= MOST_OPEN) return;
      sys.close(fd);
      this.#open.delete(path);
    }
  }

  #enter(parent: number, name: string, make: boolean): number {
    const flags = sys.O.PATH | sys.O.DIRECTORY;
    try {
      return sys.open(parent, name, flags);
    } catch (error) {
      if (isCode(error, "ENOTDIR", "ELOOP")) {
        throw new Refused(`"${shown(name)}" on the way there is a link, or no folder`);
      }
      if (!make || !isCode(error, "ENOENT")) throw this.#refusal(error);
    }
    try {
      sys.makeDirectory(parent, name, 0o755);
      const fd = sys.open(parent, name, flags);
      sys.setModeOfPath(fd, 0o755); // whatever the umask has made of it
      return fd;
    } catch (error) {
      throw this.#refusal(error);
    }
  }

  /**
   * Owner, attributes, mode and time of a regular file, or a directory, in an order in which none undoes another: a
   * change of owner takes set-user-ID and capabilities away, and without write permission there is no user.* attribute.
   */
  #describe(fd: number, entry: Entry): void {
    const { uid, gid, xattrs, mtime } = entry;
    const owned = this.#own(entry, () => sys.setOwner(fd, uid, gid));
    for (const [name, value] of xattrs) {
      this.#attempt(entry, "attribute", () => sys.setAttribute(fd, name, value), name);
    }
    this.#attempt(entry, "mode", () => sys.setMode(fd, this.#modeOf(entry, owned)));
    this.#attempt(entry, "time", () => sys.setTime(fd, mtime));
  }

  /** The same of anything else, without the mode; returns whether its owner is as it was. */
  #describeAt(parent: number, name: string, entry: Entry): boolean {
    const { uid, gid, xattrs, mtime } = entry;
    const owned = this.#own(entry, () => sys.setOwnerAt(parent, name, uid, gid));
    for (const [key, value] of xattrs) {
      this.#attempt(entry, "attribute", () => sys.setAttributeAt(parent, name, key, value), key);
    }
    this.#attempt(entry, "time", () => sys.setTimeAt(parent, name, mtime));
    return owned;
  }

  /** Sets the owner, where that is asked for. Returns whether it is as it was; where it is not, that is told. */
  #own(entry: Entry, action: () => void): boolean {
    const { uid, gid } = entry;
    if (!(within(uid, LARGEST_ID) && within(gid, LARGEST_ID))) {
      this.#omit(entry, "owner", `there is no owner ${uid}:${gid}`);
      return false;
    }
    if (this.#options.sameOwner) return this.#attempt(entry, "owner", action);
    if (uid === this.#uid && gid === this.#gid) return true;
    this.#omit(entry, "owner", `it belongs to ${uid}:${gid}`);
    return false;
  }

  /** Nobody gets the rights of another user, whose file this is not any more. GNU tar does the same without -p. */
  #modeOf(entry: Entry, owned: boolean): number {
    const { mode } = entry;
    if (owned || !(mode & SET_ID)) return mode;
    this.#omit(entry, "mode", `its mode is ${mode.toString(8).padStart(4, "0")}`);
    return mode & ~SET_ID;
  }

  /** Whether it has been done; where not, that is told. */
  #attempt(entry: Entry, what: Omission["what"], action: () => void, detail?: string): boolean {
    try {
      action();
      return true;
    } catch (error) {
      if (!(error instanceof sys.SyscallError)) throw error;
      const failure = this.#fatal(error);
      if (failure) throw failure;
      this.#omit(entry, what, `${detail === undefined ? "" : `${shown(detail)}: `}${error.message}`);
      return false;
    }
  }

  #omit({ path }: Entry, what: Omission["what"], why: string): void {
    this.#omissions.push({ path, what, why });
  }

  /** What a failed call is for the entry; or for all of it. */
  #refusal(error: unknown): unknown {
    if (!(error instanceof sys.SyscallError)) return error;
    return this.#fatal(error) ?? new Refused(error.message);
  }

  /** What no entry after it would do better with. */
  #fatal(error: unknown): CdebugError | undefined {
    if (!isCode(error, "ENOSPC", "EDQUOT", "EROFS", "EIO", "EMFILE", "ENFILE", "ENOMEM")) return undefined;
    return new CdebugError(
      `Cannot export to "${this.#options.directory}": ${(error as Error).message.replace(/ \(\w+\)$/, "")}`,
      { hint: "-o PATH, where there is room", cause: error },
    );
  }
}

function isCode(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof sys.SyscallError && codes.includes(error.code);
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

/** Whether it is a number that the kernel takes as it is. */
function within(value: number, largest: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= largest;
}

/** Throws Refused for a path that is none of the folder's. */
function checkPath(path: string): void {
  if (path.length > LONGEST_PATH) throw new Refused(`its path is longer than ${LONGEST_PATH} bytes`);
  for (const name of path.split("/")) {
    if (name === "" || name === ".") throw new Refused("its path has an empty part");
    if (name === "..") throw new Refused('its path has a ".."');
    if (name.length > LONGEST_NAME) {
      throw new Refused(`a name in its path is longer than ${LONGEST_NAME} bytes`);
    }
    if (name.includes("\0")) throw new Refused("its path has a NUL");
  }
}
