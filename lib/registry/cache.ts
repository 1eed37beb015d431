/**
 * What registries have given, in the user's cache directory: layers, a file for each by its digest, and
 * images that are unpacked as toolkits. Many processes may use it at once: a layer gets its name when it is
 * whole, and until then belongs to who has locked it.
 */

import { CdebugError, reason } from "../errors.ts";

/** What broke off is worth resuming for that long, in ms. */
const STALE_MS = 24 * 60 * 60_000;
/** Between two looks at what another process fetches, in ms. */
const LOOK_MS = 200;
const PARTIAL = ".partial";
const BLOB = /^([\da-f]{64})(\.partial)?$/;
/** Toolkits that are being unpacked, or removed. */
const PART = "part-";

/** Something in the cache. */
export interface Cached {
  /** A layer, by its digest; or an image that is unpacked, as a toolkit. */
  readonly name: string;
  readonly path: string;
  /** As it is on the disk, in bytes. */
  readonly size: number;
  readonly usedAt: Date;
  /** Not whole: a layer whose next fetch goes on from there, or what is left of a toolkit. */
  readonly partial: boolean;
}

/**
 * `$XDG_CACHE_HOME/cdebug`, else `~/.cache/cdebug` of who has that home: sudo may keep another one's, whose
 * cache would then hold files that are root's. Throws CdebugError if there is neither. Source: XDG Base
 * Directory Specification.
 */
export function cacheDirectory(): string {
  const named = Deno.env.get("XDG_CACHE_HOME");
  if (named?.startsWith("/")) return `${named}/cdebug`;
  const home = Deno.env.get("HOME");
  if (home?.startsWith("/") && isOwn(home)) return `${home}/.cache/cdebug`;
  if (Deno.uid() === 0) return "/var/cache/cdebug";
  throw new CdebugError("Cannot find the user's cache: this user has no home directory", {
    hint: "export XDG_CACHE_HOME=/var/tmp/my-cache",
  });
}

function isOwn(directory: string): boolean {
  try {
    return Deno.statSync(directory).uid === Deno.uid();
  } catch {
    return false;
  }
}

/**
 * The path of a layer that is in the cache with that many bytes, which counts as used now; undefined if it is
 * not. Throws CdebugError where the user has no cache.
 */
export async function findBlob(digest: string, size: number): Promise<string | undefined> {
  const path = blobPath(digest);
  try {
    // Names are not trusted any further: after a loss of power there may be less behind one.
    const there = await Deno.stat(path);
    if (!there.isFile || there.size !== size) return undefined;
    await Deno.utime(path, new Date(), new Date()).catch(() => {}); // a cache that is read-only is one, too
    return path;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw unusable(error);
  }
}

/**
 * Opens the file that a layer is to be fetched into, with what is in it already; undefined if the layer has
 * come into the cache. While another process fetches it, waits, and calls `waiting` with how many bytes that
 * one has. To be closed after `keep` or `discard`, or as it is, to be resumed. Throws CdebugError, and the
 * signal's reason.
 */
export async function openPartial(
  digest: string,
  size: number,
  options: { readonly signal?: AbortSignal; readonly waiting?: (done: number) => void } = {},
): Promise<Deno.FsFile | undefined> {
  const { signal, waiting } = options;
  const path = blobPath(digest) + PARTIAL;
  for (;;) {
    signal?.throwIfAborted();
    if (await findBlob(digest, size)) return undefined;
    let file: Deno.FsFile | undefined;
    try {
      await Deno.mkdir(blobsDirectory(), { recursive: true, mode: 0o700 });
      file = await Deno.open(path, { read: true, write: true, create: true, mode: 0o600 });
      if (!(await file.stat()).isFile) throw new Error(`${path} is no file`);
      const isMine = await file.tryLock(true) && await isAt(file, path);
      if (isMine && !await findBlob(digest, size)) {
        const mine = file;
        file = undefined;
        return mine;
      }
      // Another one has put the layer there before this file was made.
      if (isMine) await discard(digest);
      else waiting?.((await file.stat()).size);
    } catch (error) {
      throw unusable(error);
    } finally {
      file?.close();
    }
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

/** Puts the layer whose file is open into the cache. Its contents have been verified. */
export async function keep(digest: string): Promise<void> {
  await Deno.rename(blobPath(digest) + PARTIAL, blobPath(digest)).catch((error) => {
    throw unusable(error);
  });
}

/** Removes the file of a layer that is open. */
export async function discard(digest: string): Promise<void> {
  await removeFile(blobPath(digest) + PARTIAL);
}

/** Removes a layer that is not what its digest says. */
export async function forget(digest: string): Promise<void> {
  await removeFile(blobPath(digest));
}

async function removeFile(path: string): Promise<void> {
  await Deno.remove(path).catch((error) => {
    if (!(error instanceof Deno.errors.NotFound)) throw unusable(error);
  });
}

/** All that is in the cache, the latest used first. Throws CdebugError if it cannot be read. */
export async function listCache(): Promise<Cached[]> {
  const found: Cached[] = [];
  const add = async (directory: string, file: string, name: string, partial: boolean) => {
    const path = `${directory}/${file}`;
    try {
      const { mtime, isDirectory, size } = await Deno.stat(path);
      found.push({
        name,
        path,
        size: isDirectory ? await sizeOf(path) : size,
        usedAt: mtime ?? new Date(0),
        partial,
      });
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw unusable(error); // it has just been removed
    }
  };
  for (const file of await filesIn(blobsDirectory())) {
    const [, hex, partial] = BLOB.exec(file) ?? [];
    if (hex !== undefined) await add(blobsDirectory(), file, `sha256:${hex}`, partial !== undefined);
  }
  const toolkits = `${cacheDirectory()}/toolkits`;
  for (const file of await filesIn(toolkits)) {
    // Beside the toolkits are the names that they have.
    if (file !== "names") await add(toolkits, file, `toolkit ${file}`, file.startsWith(PART));
  }
  return found.sort((a, b) => b.usedAt.getTime() - a.usedAt.getTime() || (a.name < b.name ? -1 : 1));
}

/**
 * Removes what has not been used for longest until the rest has at most `limit` bytes, and what broke off
 * more than a day ago; but nothing that is being fetched, and no toolkit of a session that runs. Returns what
 * is removed. Throws CdebugError if it cannot.
 */
export async function pruneCache(limit: number): Promise<Cached[]> {
  const all = await listCache();
  let total = all.reduce((sum, { size }) => sum + size, 0);
  const removed: Cached[] = [];
  for (const cached of all.toReversed()) {
    const isStale = cached.partial && cached.usedAt.getTime() < Date.now() - STALE_MS;
    if (!isStale && limit > 0 && total <= limit) continue;
    try {
      if (!await remove(cached, isStale)) continue;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw unusable(error); // somebody else prunes as well
    }
    total -= cached.size;
    removed.push(cached);
  }
  return removed;
}

/** Removes something, unless it is in use. */
async function remove({ path, partial }: Cached, isStale: boolean): Promise<boolean> {
  if (path.endsWith(PARTIAL)) {
    using file = await Deno.open(path, { read: true, write: true });
    if (!await file.tryLock(true) || !await isAt(file, path)) return false;
    await Deno.remove(path);
    return true;
  }
  if (!(await Deno.stat(path)).isDirectory) {
    await Deno.remove(path);
    return true;
  }
  // Nothing tells whether it is being unpacked just now.
  if (partial && !isStale || await isMounted(path)) return false;
  // At once: nobody is to find half of a toolkit.
  const gone = path.replace(/[^/]*$/, PART + crypto.randomUUID());
  await Deno.rename(path, gone);
  await removeDirectory(gone);
  return true;
}

/** Whether a session has a toolkit mounted, as far as this user can see. Source: proc_pid_mountinfo(5). */
async function isMounted(toolkit: string): Promise<boolean> {
  // Without what is before: other characters may be escaped there.
  const name = toolkit.slice(toolkit.lastIndexOf("/toolkits/"));
  for (const pid of await filesIn("/proc")) {
    if (!/^\d+$/.test(pid)) continue;
    const mounts = await Deno.readTextFile(`/proc/${pid}/mountinfo`).catch(() => ""); // it has ended
    if (mounts.includes(name)) return true;
  }
  return false;
}

/** Removes a directory with all that is in it, also where an image says that nobody may write. */
async function removeDirectory(directory: string): Promise<void> {
  try {
    await Deno.remove(directory, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.PermissionDenied)) throw error;
    const open = async (path: string) => {
      await Deno.chmod(path, 0o700);
      for await (const { name, isDirectory } of Deno.readDir(path)) {
        if (isDirectory) await open(`${path}/${name}`);
      }
    };
    await open(directory);
    await Deno.remove(directory, { recursive: true });
  }
}

/** Whether an open file is still the one at a path: who had it before may have renamed or removed it. */
async function isAt(file: Deno.FsFile, path: string): Promise<boolean> {
  const [open, there] = await Promise.all([file.stat(), Deno.stat(path).catch(() => undefined)]);
  return there?.ino === open.ino && there.dev === open.dev;
}

function blobsDirectory(): string {
  return `${cacheDirectory()}/blobs/sha256`;
}

function blobPath(digest: string): string {
  return `${blobsDirectory()}/${digest.replace(/^sha256:/, "")}`;
}

async function filesIn(directory: string): Promise<string[]> {
  try {
    return await Array.fromAsync(Deno.readDir(directory), ({ name }) => name);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw unusable(error);
  }
}

/** What the files below a directory have, in bytes, as far as they may be looked at, and have names that are text. */
async function sizeOf(directory: string): Promise<number> {
  const unseen = (error: unknown) => {
    if (error instanceof Deno.errors.PermissionDenied || error instanceof Deno.errors.NotFound) return 0;
    throw error;
  };
  let size = 0;
  try {
    for await (const { name, isDirectory } of Deno.readDir(directory)) {
      const path = `${directory}/${name}`;
      size += isDirectory
        ? await sizeOf(path)
        : await Deno.lstat(path).then(({ size }) => size).catch(unseen);
    }
  } catch (error) {
    unseen(error);
  }
  return size;
}

function unusable(error: unknown): CdebugError {
  if (error instanceof CdebugError) return error;
  return new CdebugError(`Cannot use the cache in "${cacheDirectory()}": ${reason(error)}`, {
    hint: "cdebug cache prune  makes room; XDG_CACHE_HOME=/DIR  names another place",
    cause: error,
  });
}
