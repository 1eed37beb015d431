/**
 * The filesystem that an image's layers come to, without unpacking them.
 *
 * Source: OCI image spec, "Image Layer Filesystem Changeset"; where it is silent, what containerd does.
 */

import { CdebugError } from "./errors.ts";
import { type Entry, type EntryType, type Piece, shown, TarReader } from "./tar.ts";

/** Entries and contents one after the other: a TarReader is one. */
export interface EntrySource {
  next(): Promise<Entry | undefined>;
  read(): Promise<Piece | undefined>;
}

/** A layer whose uncompressed tar archive can be read more than once. */
export interface LayerSource {
  open(): AsyncIterable<Uint8Array<ArrayBuffer>>;
}

type Refused = (path: string, why: string) => void;

interface Directory {
  readonly name: string;
  /** Undefined of the root. */
  readonly parent: Directory | undefined;
  /** The root's is 0. */
  readonly depth: number;
  readonly children: Map<string, Directory | Inode>;
  /** Undefined of one that no layer describes. */
  entry: Entry | undefined;
}

/** A file that is no directory; its paths in the tree share this one object. */
interface Inode {
  /** Undefined of a regular file, which keeps memory small: its entry comes by again with its contents. */
  readonly entry: Entry | undefined;
  readonly layer: number;
  /** Of its entry in the layer. */
  readonly index: number;
  /** Those to be emitted. */
  paths: string[] | undefined;
}

/** What a layer does to those below it. */
interface Changes {
  readonly whiteouts: { readonly directory: readonly string[]; readonly name: string | undefined }[];
  readonly additions: Addition[];
  /** The paths of directories in it. */
  readonly directories: Set<string>;
  /** Files that are there only for hard links to them. */
  readonly remnants: Map<string, Inode>;
}

interface Addition {
  readonly path: string;
  readonly type: EntryType;
  readonly entry: Entry | undefined;
  readonly index: number;
}

/** Linux follows no more either, nor a target that is longer. Source: path_resolution(7), PATH_MAX of linux/limits.h. */
const MOST_LINKS = 40;
const LONGEST_TARGET = 4095;
/** Of the names on the way to a file, those of links' targets: whoever wants more wants to keep us busy. */
const MOST_FOLLOWED = 1000;
/** So many entries are placed before others, and the user, have their turn. */
const AT_ONCE = 1000;
/** Deeper trees than can be made on Linux without tricks. */
const DEEPEST = 4000;
const TOO_DEEP = `it is more than ${DEEPEST} directories deep`;

const NO_DEVICE: Entry["device"] = { major: 0, minor: 0 };
const NO_XATTRS: Entry["xattrs"] = new Map();
const MISSING: Entry = {
  path: "",
  type: "directory",
  mode: 0o755,
  uid: 0,
  gid: 0,
  size: 0,
  mtime: { seconds: 0, nanoseconds: 0 },
  target: "",
  device: NO_DEVICE,
  xattrs: NO_XATTRS,
};

/**
 * The files that an image's layers, bottom first, come to: directories, then symlinks, devices and FIFOs,
 * then regular files; the first two sorted by the bytes of their paths, files in the order in which the
 * layers have them. The first path of a file comes as what it is, its others follow at once as hard links to
 * it. The same layers always give the same.
 *
 * `paths` (byte strings like Entry.path) keeps only those and what is below them, the directories above, and
 * the symlinks on the way. `refused` hears of entries that are left out because nothing may or can be at
 * their paths.
 *
 * Each layer is read twice: before the promise resolves, to its very end; and, where contents are wanted, as
 * the result is read, as far as needed. `close` lets go of the layer that is open.
 *
 * Throws TarError, what `open` throws, the signal's reason, and CdebugError where nothing is at one of
 * `paths`. The result throws the same, and CdebugError where a layer is another the second time.
 */
export async function mergeLayers(
  layers: readonly LayerSource[],
  options: { paths?: readonly string[]; signal?: AbortSignal; refused?: Refused } = {},
): Promise<EntrySource & { close(): Promise<void> }> {
  const { paths, signal, refused = () => {} } = options;
  const root: Directory = { name: "", parent: undefined, depth: 0, children: new Map(), entry: undefined };
  for (const [layer, source] of layers.entries()) {
    await apply(await readChanges(source, layer, signal, refused), root, layer, signal, refused);
  }
  const files = filesOf(root, paths === undefined ? undefined : selection(root, paths));

  let contents: TarReader | undefined;
  const entries = (async function* (): AsyncGenerator<Entry, undefined> {
    for (const { path, entry } of files.directories) yield { ...entry, path };
    for (const { entry, paths } of files.special) yield* namesOf(entry!, paths!);
    for (let at = 0; at < files.regular.length;) {
      const { layer } = files.regular[at]!;
      const reader = new TarReader(chunks(layers[layer]!, signal));
      try {
        for (let index = 0; files.regular[at]?.layer === layer; index++) {
          const entry = await reader.next();
          const file = files.regular[at]!;
          if (entry !== undefined && index < file.index) continue;
          if (entry?.type !== "file") {
            throw new CdebugError(`Layer ${layer + 1} of the image is another than it was a moment ago`);
          }
          at++;
          for (const name of namesOf(entry, file.paths!)) {
            contents = name.type === "file" ? reader : undefined;
            yield name;
          }
          contents = undefined;
        }
      } finally {
        contents = undefined;
        await reader.close();
      }
    }
  })();
  return {
    async next() {
      signal?.throwIfAborted();
      return (await entries.next()).value;
    },
    async read() {
      return await contents?.read();
    },
    async close() {
      await entries.return(undefined);
    },
  };
}

async function* chunks(source: LayerSource, signal: AbortSignal | undefined) {
  for await (const chunk of source.open()) {
    signal?.throwIfAborted();
    yield chunk;
  }
}

function* namesOf(entry: Entry, paths: readonly string[]): Generator<Entry> {
  const { data: _, ...plain } = entry;
  const [first, ...others] = paths as [string, ...string[]];
  yield { ...entry, path: first };
  for (const path of others) yield { ...plain, path, type: "link", target: first, size: 0 };
}

async function readChanges(
  source: LayerSource,
  layer: number,
  signal: AbortSignal | undefined,
  refused: Refused,
): Promise<Changes> {
  const changes: Changes = { whiteouts: [], additions: [], directories: new Set(), remnants: new Map() };
  const archive = chunks(source, signal);
  const reader = new TarReader(archive);
  try {
    for (let index = 0;; index++) {
      const entry = await reader.next();
      if (entry === undefined) break;
      const why = record(entry, layer, index, changes);
      if (why !== undefined) refused(entry.path, why);
    }
    // Whoever checks a layer's digest does so at its end, which is behind the archive's.
    while (!(await archive.next()).done) continue;
  } finally {
    await reader.close();
  }
  return changes;
}

/** Why the entry is refused; undefined if it is not. */
function record(entry: Entry, layer: number, index: number, changes: Changes): string | undefined {
  const { path, type } = entry;
  const why = fault(path);
  if (why !== undefined) return why;
  const parts = path.split("/");
  const name = parts.at(-1)!;
  if (name === ".wh..wh..opq") {
    changes.whiteouts.push({ directory: parts.slice(0, -1), name: undefined });
  } else if (parts.some((part) => part.startsWith(".wh..wh."))) {
    // AUFS keeps the contents of hard links in such a directory. Source: UnpackLayer of Docker.
    if (type === "file") changes.remnants.set(path, { entry: undefined, layer, index, paths: undefined });
  } else if (name.startsWith(".wh.")) {
    const hidden = name.slice(".wh.".length);
    if (hidden === "" || fault(hidden) !== undefined) return "it is a whiteout of no name";
    changes.whiteouts.push({ directory: parts.slice(0, -1), name: hidden });
  } else if (parts.some((part) => part.startsWith(".wh."))) {
    return "it is below a whiteout";
  } else if (path === "" && type !== "directory") {
    return "it is in the place of the root, and no directory";
  } else {
    if (type === "directory") changes.directories.add(path);
    else changes.directories.delete(path);
    changes.additions.push({ path, type, index, entry: type === "file" ? undefined : compact(entry) });
  }
  return undefined;
}

/** Why nothing may be at the path; undefined if something may. */
function fault(path: string): string | undefined {
  if (path === "") return undefined;
  const parts = path.split("/");
  if (parts.length > DEEPEST) return TOO_DEEP;
  if (path.includes("\0")) return "its path has a NUL byte";
  const part = parts.find((part) => part === "" || part === "." || part === "..");
  return part === undefined ? undefined : `its path has the component "${part}"`;
}

/** The same in less memory, and without its path. */
function compact(entry: Entry): Entry {
  const { device, xattrs } = entry;
  return {
    ...entry,
    path: "",
    device: device.major === 0 && device.minor === 0 ? NO_DEVICE : device,
    xattrs: xattrs.size === 0 ? NO_XATTRS : xattrs,
  };
}

async function apply(
  changes: Changes,
  root: Directory,
  layer: number,
  signal: AbortSignal | undefined,
  refused: Refused,
): Promise<void> {
  const { whiteouts, additions, directories, remnants } = changes;
  // Whiteouts are for what lower layers have, and links may be to it even where this layer hides it; so that
  // the order of entries is of no matter, all are looked up before anything changes.
  const hidden = whiteouts.map(({ directory, name }) => ({
    from: walk(root, directory, { directories }),
    name,
  }));
  const lower = new Map<Addition, Inode>();
  for (const [at, addition] of additions.entries()) {
    if (at % AT_ONCE === 0) await turn(signal);
    const found = addition.type === "link" ? find(root, addition.entry!.target, directories) : undefined;
    if (found !== undefined) lower.set(addition, found);
  }
  for (const { from, name } of hidden) {
    if (typeof from === "string") continue;
    if (name === undefined) from.children.clear();
    else from.children.delete(name);
  }

  for (const [at, addition] of additions.entries()) {
    if (at % AT_ONCE === 0) await turn(signal);
    const { path, type, entry, index } = addition;
    if (path === "") {
      root.entry = entry;
      continue;
    }
    let file: Inode | undefined;
    if (type === "link") {
      const { target } = entry!;
      file = find(root, target, directories) ?? lower.get(addition) ?? remnants.get(target);
      if (file === undefined) {
        refused(path, `it is a hard link to "${shown(target)}", where no file is`);
        continue;
      }
    } else if (type !== "directory") file = { entry, layer, index, paths: undefined };
    const parts = path.split("/");
    const name = parts.pop()!;
    const parent = walk(root, parts, { directories, make: true });
    if (typeof parent === "string" || parent.depth >= DEEPEST) {
      refused(path, typeof parent === "string" ? parent : TOO_DEEP);
      continue;
    }
    if (file !== undefined) {
      parent.children.set(name, file);
      continue;
    }
    const before = parent.children.get(name);
    if (before !== undefined && isDirectory(before)) before.entry = entry;
    else make(parent, name, entry);
  }
}

async function turn(signal: AbortSignal | undefined): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve));
  signal?.throwIfAborted();
}

function isDirectory(node: Directory | Inode): node is Directory {
  return "children" in node;
}

function make(parent: Directory, name: string, entry: Entry | undefined): Directory {
  const made: Directory = { name, parent, depth: parent.depth + 1, children: new Map(), entry };
  parent.children.set(name, made);
  return made;
}

/**
 * The directory at a path, symlinks followed inside the root; a text says why there is none. `directories`
 * are paths that are directories in the layer to come: whatever else the tree has there is none on the way.
 * With `make`, what is missing of the path is made, but nothing that a symlink leads to. `passed` hears of
 * symlinks on the way.
 */
function walk(
  root: Directory,
  parts: readonly string[],
  { directories, make: making = false, passed }: {
    directories?: ReadonlySet<string>;
    make?: boolean;
    passed?: (directory: Directory, name: string) => void;
  },
): Directory | string {
  let at = root;
  let links = 0;
  let steps = 0;
  /** The components to come, the next one last. */
  const left = parts.toReversed();
  /** How many of them are of symlinks' targets. */
  let followed = 0;
  while (left.length > 0) {
    const name = left.pop()!;
    const own = followed === 0;
    if (!own) {
      followed--;
      if (name === "..") at = at.parent ?? root;
      if (name === "" || name === "." || name === "..") continue;
    }
    let child = at.children.get(name);
    const replaced = own && child !== undefined && !isDirectory(child) &&
      directories?.has(parts.slice(0, parts.length - left.length).join("/"));
    if (child === undefined || replaced) {
      if (!own) return "its parent is a symlink that leads nowhere";
      if (!making) return "its parent is not there";
      if (at.depth >= DEEPEST) return TOO_DEEP;
      child = make(at, name, undefined);
    }
    if (isDirectory(child)) {
      at = child;
      continue;
    }
    if (child.entry?.type !== "symlink") return "its parent is no directory";
    const { target } = child.entry;
    if (target === "" || target.length > LONGEST_TARGET) return "its parent is a symlink that leads nowhere";
    if (++links > MOST_LINKS) return `its parent is behind more than ${MOST_LINKS} symlinks`;
    passed?.(at, name);
    if (target.startsWith("/")) at = root;
    const further = target.split("/");
    if ((steps += further.length) > MOST_FOLLOWED) return "its parent is behind symlinks that lead too far";
    followed += further.length;
    for (const part of further.reverse()) left.push(part);
  }
  return at;
}

/** What is at a path, if it is no directory; a symlink at its end is not followed. */
function find(root: Directory, path: string, directories: ReadonlySet<string>): Inode | undefined {
  const parts = path.split("/");
  const name = parts.pop()!;
  const parent = walk(root, parts, { directories });
  const found = typeof parent === "string" ? undefined : parent.children.get(name);
  return found === undefined || isDirectory(found) ? undefined : found;
}

/** A part of the tree: directories with all that is in them; and of others, some names. */
interface Selection {
  readonly whole: Set<Directory>;
  readonly some: Map<Directory, Set<string>>;
}

/** Throws CdebugError where nothing is at a path. */
function selection(root: Directory, paths: readonly string[]): Selection {
  const whole = new Set<Directory>();
  const some = new Map<Directory, Set<string>>();
  const keep = (directory: Directory, name: string) => {
    for (let at: Directory | undefined = directory, below = name; at; below = at.name, at = at.parent) {
      some.set(at, (some.get(at) ?? new Set()).add(below));
    }
  };
  for (const path of paths) {
    if (path === "") {
      whole.add(root);
      continue;
    }
    const parts = path.split("/");
    const name = parts.pop()!;
    const parent = walk(root, parts, { passed: keep });
    const found = typeof parent === "string" ? undefined : parent.children.get(name);
    if (typeof parent === "string" || found === undefined) {
      throw new CdebugError(`The image has nothing at "/${shown(path)}"`);
    }
    keep(parent, name);
    if (isDirectory(found)) whole.add(found);
  }
  return { whole, some };
}

/** What is to be emitted, in order; the paths of inodes are set, and sorted. */
function filesOf(root: Directory, selected: Selection | undefined): {
  directories: { readonly path: string; readonly entry: Entry }[];
  special: Inode[];
  regular: Inode[];
} {
  const directories: { path: string; entry: Entry }[] = [];
  const special: Inode[] = [];
  const regular: Inode[] = [];
  const left = [{ directory: root, path: "", whole: selected === undefined || selected.whole.has(root) }];
  for (let next = left.pop(); next !== undefined; next = left.pop()) {
    const { directory, path, whole } = next;
    directories.push({ path, entry: directory.entry ?? MISSING });
    const names = selected?.some.get(directory);
    for (const [name, child] of directory.children) {
      if (!whole && !names?.has(name)) continue;
      const below = path === "" ? name : `${path}/${name}`;
      if (isDirectory(child)) {
        left.push({ directory: child, path: below, whole: whole || selected!.whole.has(child) });
      } else if (child.paths !== undefined) {
        child.paths.push(below);
      } else {
        child.paths = [below];
        (child.entry === undefined ? regular : special).push(child);
      }
    }
  }
  for (const inode of [...special, ...regular]) inode.paths!.sort();
  directories.sort((a, b) => inOrder(a.path, b.path));
  special.sort((a, b) => inOrder(a.paths![0]!, b.paths![0]!));
  regular.sort((a, b) => a.layer - b.layer || a.index - b.index);
  return { directories, special, regular };
}

/** Byte strings compare as their bytes do. */
function inOrder(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
