/** Puts the files of an archive into a folder, and never anything outside of it. */

import { CdebugError } from "./errors.ts";
import type { EntrySource } from "./layers.ts";
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
  readonly what: "owner" | "mode" | "attribute" | "device" | "refused";
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
 * throws; and what `signal` was aborted with.
 */
export async function unpack(source: EntrySource, options: UnpackOptions): Promise<Unpacked> {
  const before = Deno.umask(0); // modes are the archive's
  const folder = new Folder(options);
  try {
    for (let entry; (entry = await source.next());) await folder.add(entry, source);
    return folder.finish();
  } finally {
    folder.close();
    Deno.umask(before);
  }
}

/** An entry cannot be where it wants to be. */
class Refused extends Error {}

/** Parents that stay open; the last ones are mostly wanted again. */
const MOST_OPEN = 64;
/** Of one name. Source: NAME_MAX of linux/limits.h. */
const LONGEST_NAME = 255;
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
    this.#options.signal?.throwIfAborted();
    this.#closeOldest();
    this.#entries++;
    this.#size += entry.size;
    if (this.#size > (this.#options.maxSize ?? Infinity)) {
      throw new CdebugError(
        `Cannot export: there is more than the ${this.#options.maxSize} bytes of --max-size`,
        { hint: "--max-size 100G, or without it" },
      );
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
    const deepestFirst = [...this.#directories.values()].sort((a, b) =>
      depthOf(b.path) - depthOf(a.path) || (a.path < b.path ? 1 : -1)
    );
    for (const entry of deepestFirst) {
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
        if (error instanceof Refused || error instanceof sys.SyscallError) {
          this.#omit(entry, "refused", `it has been replaced: ${error.message}`);
        } else throw error;
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
        checkPath(entry.target);
        const from = this.#parent(entry.target, false);
        if (entry.target === path) throw new Refused("it is a hard link to itself");
        this.#place(entry, parent, () => sys.makeLink(from, nameOf(entry.target), parent, name));
        break;
      }
      case "symlink":
        if (entry.target === "" || entry.target.includes("\0")) throw new Refused("it leads to no path");
        if (!this.#place(entry, parent, () => sys.makeSymlink(entry.target, parent, name))) break;
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
        this.#options.signal?.throwIfAborted();
        try {
          if (entry.data) sys.writeAllAt(fd, piece.bytes, piece.offset);
          else sys.writeAll(fd, piece.bytes);
        } catch (error) {
          throw this.#refusal(error);
        }
        this.#bytes += piece.bytes.length;
      }
      try {
        if (entry.data) sys.setSize(fd, entry.size);
      } catch (error) {
        throw this.#refusal(error);
      }
      this.#describe(fd, entry);
    } finally {
      sys.close(fd);
    }
  }

  #makeNode(entry: Entry, parent: number, name: string): void {
    const { type, device: { major, minor } } = entry;
    const kind = type === "character" ? sys.S.CHARACTER : type === "block" ? sys.S.BLOCK : sys.S.FIFO;
    try {
      this.#place(entry, parent, () => sys.makeNode(parent, name, kind | 0o600, major, minor));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.#omit(entry, "device", error.message);
      return;
    }
    this.#describeAt(parent, name, entry);
    const fd = sys.open(parent, name, sys.O.PATH);
    try {
      this.#attempt(entry, "mode", () => sys.setModeOfPath(fd, this.#modeOf(entry)));
      sys.setTimeAt(parent, name, entry.mtime); // which the owner's change leaves, and the mode's too
    } finally {
      sys.close(fd);
    }
  }

  /** Makes something where something else may be, which goes first. Returns true; throws Refused. */
  #place({ path }: Entry, parent: number, make: () => void): true {
    for (let attempt = 0;; attempt++) {
      try {
        make();
        return true;
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
    while (fd === undefined && known !== "") {
      const cut = known.lastIndexOf("/");
      known = cut < 0 ? "" : known.slice(0, cut);
      fd = known === "" ? this.#root : this.#open.get(known);
    }
    fd ??= this.#root;
    if (known !== "") {
      this.#open.delete(known);
      this.#open.set(known, fd);
    }
    if (known === wanted) return fd;
    const kept = fd;
    for (const name of wanted.slice(known === "" ? 0 : known.length + 1).split("/")) {
      const above = fd;
      try {
        fd = this.#enter(above, name, make);
      } finally {
        if (above !== kept) sys.close(above);
      }
    }
    this.#open.set(wanted, fd);
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
      return sys.open(parent, name, flags);
    } catch (error) {
      throw this.#refusal(error);
    }
  }

  /** Owner, mode, attributes and time of a regular file, or a directory, in an order in which none undoes another. */
  #describe(fd: number, entry: Entry): void {
    const { uid, gid, xattrs, mtime } = entry;
    if (this.#owns(entry)) this.#attempt(entry, "owner", () => sys.setOwner(fd, uid, gid));
    this.#attempt(entry, "mode", () => sys.setMode(fd, this.#modeOf(entry)));
    for (const [name, value] of xattrs) {
      this.#attempt(entry, "attribute", () => sys.setAttribute(fd, name, value), name);
    }
    sys.setTime(fd, mtime);
  }

  /** The same of anything else, without the mode. */
  #describeAt(parent: number, name: string, entry: Entry): void {
    const { uid, gid, xattrs, mtime } = entry;
    if (this.#owns(entry)) this.#attempt(entry, "owner", () => sys.setOwnerAt(parent, name, uid, gid));
    for (const [key, value] of xattrs) {
      this.#attempt(entry, "attribute", () => sys.setAttributeAt(parent, name, key, value), key);
    }
    sys.setTimeAt(parent, name, mtime);
  }

  /** Whether the owner is to be set; where another one stays, that is told. */
  #owns(entry: Entry): boolean {
    if (this.#options.sameOwner) return true;
    const { uid, gid } = entry;
    if (uid !== this.#uid || gid !== this.#gid) this.#omit(entry, "owner", `it belongs to ${uid}:${gid}`);
    return false;
  }

  /** Nobody gets the rights of another user, whose file this is not any more. GNU tar does the same. */
  #modeOf(entry: Entry): number {
    const { mode, uid, gid } = entry;
    if (this.#options.sameOwner || (uid === this.#uid && gid === this.#gid) || !(mode & SET_ID)) return mode;
    this.#omit(entry, "mode", `its mode is ${mode.toString(8).padStart(4, "0")}`);
    return mode & ~SET_ID;
  }

  #attempt(entry: Entry, what: Omission["what"], action: () => void, detail?: string): void {
    try {
      action();
    } catch (error) {
      if (!(error instanceof sys.SyscallError)) throw error;
      const failure = this.#fatal(error);
      if (failure) throw failure;
      this.#omit(entry, what, `${detail === undefined ? "" : `${detail}: `}${error.message}`);
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
    if (!isCode(error, "ENOSPC", "EDQUOT", "EROFS", "EIO", "EMFILE")) return undefined;
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

function depthOf(path: string): number {
  return path === "" ? 0 : path.split("/").length;
}

/** Throws Refused for a path that is none of the folder's. */
function checkPath(path: string): void {
  for (const name of path.split("/")) {
    if (name === "" || name === ".") throw new Refused("its path has an empty part");
    if (name === "..") throw new Refused('its path has a ".."');
    if (name.length > LONGEST_NAME) {
      throw new Refused(`a name in its path is longer than ${LONGEST_NAME} bytes`);
    }
    if (name.includes("\0")) throw new Refused("its path has a NUL");
  }
}
