/**
 * Runs a plan whose session is an export: reads the target's files, and makes a folder or an archive of them, which
 * gets its name when it is whole. It decides nothing that the plan could say.
 */

import { writeAll } from "./chunk.ts";
import type { Driver } from "./driver.ts";
import { Cancelled, CdebugError, reason } from "./errors.ts";
import { type Context, type Outcome, SIGNALS } from "./executor.ts";
import { type EntrySource, mergeLayers } from "./layers.ts";
import { makeTemporary } from "./leftovers.ts";
import type { withManifest } from "./manifest.ts";
import type { ExportSession, Plan } from "./plan.ts";
import { byteString, END_OF_ARCHIVE, formatHeader, padding, shown, TarError, TarReader } from "./tar.ts";
import { type Omission, tooLarge, unlessAborted, unpack } from "./unpack.ts";

export interface ExportContext extends Context {
  /** Takes an archive that goes to stdout; resolves when the chunk has been taken. */
  readonly stdout: (chunk: Uint8Array) => Promise<void>;
}

type Bytes = AsyncIterable<Uint8Array<ArrayBuffer>>;

/** Runs the plan to its end, and returns how. Whatever ends it before, nothing is left. Throws CdebugError. */
export async function exportFiles(plan: Plan, driver: Driver, context: ExportContext): Promise<Outcome> {
  const abort = new AbortController();
  const unsubscribe = context.controls((control) => {
    if (control.kind === "signal" && !control.name.startsWith("USR")) {
      abort.abort(new Cancelled(128 + SIGNALS[control.name]));
    }
  });
  try {
    await new Export(plan, driver, context, abort.signal).run();
    return { kind: "exit", code: 0 };
  } catch (error) {
    if (abort.signal.aborted) throw abort.signal.reason;
    throw error instanceof TarError
      ? new CdebugError(
        `Cannot export "${plan.target.name}": the archive of its files is damaged: ${error.message}`,
        {
          cause: error,
        },
      )
      : error;
  } finally {
    unsubscribe();
  }
}

class Export {
  readonly #plan: Plan;
  readonly #session: ExportSession;
  readonly #driver: Driver;
  readonly #context: ExportContext;
  readonly #signal: AbortSignal;
  /** What could not be read, in the words of who has read. */
  readonly #complaints: string[] = [];
  /** No file is younger, in seconds. */
  readonly #epoch: number | undefined;
  #entries = 0;
  #bytes = 0;

  constructor(plan: Plan, driver: Driver, context: ExportContext, signal: AbortSignal) {
    if (plan.session.kind !== "export") throw new Error("the session is not one of export");
    this.#plan = plan;
    this.#session = plan.session;
    this.#driver = driver;
    this.#context = context;
    this.#signal = signal;
    this.#epoch = epochOf(context);
  }

  async run(): Promise<void> {
    const { output, format, leftOut, inMemory, manifest } = this.#session;
    if (manifest !== undefined && manifest !== "-") await refuseFile(manifest, this.#session.force);
    await using place = output === "-" ? undefined : await makePlace(this.#session);
    if (leftOut) this.#context.report({ kind: "left-out", paths: leftOut, inMemory: false });
    if (inMemory) this.#context.report({ kind: "left-out", paths: inMemory, inMemory: true });
    let list: ReturnType<typeof withManifest> | undefined;
    let omissions: readonly Omission[] = [];
    await using stack = new AsyncDisposableStack();
    const entries = async () => {
      const source = this.#counted(await this.#entriesOf(stack));
      if (!manifest) return source;
      const { withManifest } = await import("./manifest.ts");
      return list = withManifest(source);
    };
    if (format === "directory") {
      ({ omissions } = await unpack(await entries(), {
        directory: place!.path,
        sameOwner: this.#session.sameOwner,
        signal: this.#signal,
        ...this.#session.maxSizeBytes !== undefined && { maxSize: this.#session.maxSizeBytes },
      }));
    } else {
      let archive = this.#isPlain()
        ? this.#countedBytes(this.#archive(undefined))
        : pack(await entries(), this.#session.maxSizeBytes);
      if (format !== "tar") {
        const { compress } = await import("./compressed.ts"); // which takes as long to load as all the rest
        archive = compress(archive, format === "tar.gz" ? "gzip" : "zstd");
      }
      await this.#write(archive, place?.path);
    }
    if (manifest) {
      const text = list!.lines().map((line) => `${line}\n`).join("");
      if (manifest === "-") await this.#context.stdout(new TextEncoder().encode(text));
      else await writeText(manifest, text);
    }
    await place?.finish();
    await this.#tellOmissions(omissions);
    this.#context.report({ kind: "exported", output, entries: this.#entries, bytes: this.#bytes });
  }

  /** Whether the engine's archive is what is asked for, byte by byte. */
  #isPlain(): boolean {
    const { source, paths, volumes, manifest, maxSizeBytes } = this.#session;
    const asItIs = !paths && !volumes && !manifest && maxSizeBytes === undefined && this.#epoch === undefined;
    return source === "archive" && asItIs;
  }

  #archive(path: string | undefined): Bytes {
    return this.#driver.archive(this.#plan.target, {
      ...path !== undefined && { path },
      signal: this.#signal,
      complain: (line) => this.#complain(line),
    });
  }

  #complain(line: string): void {
    this.#complaints.push(line);
    this.#context.report({ kind: "unreadable", text: line });
  }

  async #entriesOf(stack: AsyncDisposableStack): Promise<EntrySource> {
    const { source, paths, volumes } = this.#session;
    if (source === "layers") {
      const layers = stack.use(
        await this.#driver.layers(this.#plan.target, {
          signal: this.#signal,
          report: (layer) => this.#context.report({ kind: "layer", ...layer }),
        }),
      );
      const merged = await mergeLayers(layers.layers, {
        ...paths && { paths: paths.map(entryPath) },
        signal: this.#signal,
        refused: (path, why) => this.#complain(`/${shown(path)} is left out: ${why}`),
      });
      stack.defer(() => merged.close());
      return merged;
    }
    const parts = paths ?? volumes;
    const reader = (path: string | undefined) => {
      const reader = new TarReader(this.#archive(path));
      stack.defer(() => reader.close());
      return reader;
    };
    if (!parts) return reader(undefined);
    const names = parts.map(entryPath);
    // What is below another part comes with its own.
    const sources = parts.map((path, at) => () =>
      without(below(reader(path), names[at]!), names.filter((name) => name.startsWith(`${names[at]}/`)))
    );
    return chained(paths ? sources : [() => without(reader(undefined), names), ...sources]);
  }

  #counted(source: EntrySource): EntrySource {
    return {
      next: async () => {
        const entry = await source.next();
        if (!entry) return undefined;
        this.#entries++;
        this.#tellProgress(entry.path);
        const isLate = this.#epoch !== undefined && entry.mtime.seconds >= this.#epoch;
        return isLate ? { ...entry, mtime: { seconds: this.#epoch!, nanoseconds: 0 } } : entry;
      },
      read: async () => {
        const piece = await source.read();
        if (piece) {
          this.#bytes += piece.bytes.length;
          this.#tellProgress();
        }
        return piece;
      },
    };
  }

  async *#countedBytes(archive: Bytes): Bytes {
    for await (const chunk of archive) {
      this.#signal.throwIfAborted();
      this.#bytes += chunk.length;
      this.#tellProgress();
      yield chunk;
    }
  }

  #told = 0;

  #tellProgress(path?: string): void {
    const now = performance.now();
    if (now - this.#told < 100) return;
    this.#told = now;
    this.#context.report({
      kind: "export-progress",
      entries: this.#entries,
      bytes: this.#bytes,
      ...path !== undefined && { path: `/${shown(path)}` },
    });
  }

  async #write(archive: Bytes, path: string | undefined): Promise<void> {
    if (path === undefined) {
      // Who reads may wait for something else, and the user not.
      for await (const chunk of archive) {
        await unlessAborted(this.#signal, () => this.#context.stdout(chunk));
      }
      return;
    }
    using file = await open(path);
    try {
      for await (const chunk of archive) {
        writeAll(file, chunk);
      }
    } catch (error) {
      throw error instanceof CdebugError || error instanceof TarError || this.#signal.aborted
        ? error
        : cannotWrite(this.#session.output, error);
    }
  }

  /** What is not as it was is listed beside the result. */
  async #tellOmissions(omissions: readonly Omission[]): Promise<void> {
    const { output, force } = this.#session;
    if (output === "-") return;
    const path = `${output}.cdebug-export.json`;
    if (omissions.length + this.#complaints.length === 0) {
      if (force) await Deno.remove(path).catch(() => {}); // of the result that was there before
      return;
    }
    const report = {
      omissions: omissions.map(({ path, what, why }) => ({ path: `/${shown(path)}`, what, why })),
      unreadable: this.#complaints,
    };
    await writeText(path, `${JSON.stringify(report, null, 2)}\n`);
    const counts: Record<string, number> = {};
    for (const { what } of omissions) counts[what] = (counts[what] ?? 0) + 1;
    if (this.#complaints.length > 0) counts.unreadable = this.#complaints.length;
    this.#context.report({ kind: "omitted", counts, list: path });
  }
}

/** Where the result is made before it has its name. */
interface Place extends AsyncDisposable {
  readonly path: string;
  /** Gives it its name. */
  finish(): Promise<void>;
}

/** Of what is beside a result until it is whole. */
const PREFIX = ".cdebug-export-";

/** Beside the result, so that it gets there in one step. Throws CdebugError if it is in the way, or cannot be made. */
async function makePlace({ output: named, format, force }: ExportSession): Promise<Place> {
  const isFolder = format === "directory";
  let output = named;
  let there = await Deno.lstat(output).catch(() => undefined);
  if (isFolder && there?.isSymlink) {
    output = await Deno.realPath(output).catch(() => output);
    there = await Deno.lstat(output);
  }
  const parent = parentOf(output);
  let full = false;
  if (there && isFolder) {
    if (!there.isDirectory) throw inTheWay(output, "it is there, and no folder", "another -o");
    full = !(await Deno.readDir(output)[Symbol.asyncIterator]().next()).done;
    if (full && !force) throw inTheWay(output, "it is not empty", "another -o, or --force to write into it");
  }
  if (!isFolder) await refuseFile(output, force);
  // What is merged with what is there has its name from the beginning.
  if (full) {
    return { path: output, finish: () => Promise.resolve(), [Symbol.asyncDispose]: () => Promise.resolve() };
  }
  let path: string;
  try {
    path = await makeTemporary(isFolder ? "directory" : "file", parent, PREFIX);
    await Deno.chmod(path, isFolder ? 0o755 : 0o644);
  } catch (error) {
    throw cannotWrite(output, error);
  }
  let finished = false;
  return {
    path,
    async finish() {
      if (isFolder || force) await moveTo(path, output);
      else await moveToFree(path, output);
      finished = true;
    },
    async [Symbol.asyncDispose]() {
      if (!finished) await Deno.remove(path, { recursive: true }).catch(() => {});
    },
  };
}

function parentOf(path: string): string {
  return path.replace(/\/[^/]*$/, "") || "/";
}

async function moveTo(from: string, to: string): Promise<void> {
  await Deno.rename(from, to).catch((error) => {
    throw cannotWrite(to, error);
  });
}

/** The same, where nothing may have come meanwhile. */
async function moveToFree(from: string, to: string): Promise<void> {
  try {
    await Deno.link(from, to);
  } catch (error) {
    if (error instanceof Deno.errors.AlreadyExists) throw inTheWay(to, "it is there by now", "another name");
    return await moveTo(from, to); // a file system without links
  }
  await Deno.remove(from);
}

/** Throws CdebugError if no file can be made there. */
async function refuseFile(path: string, force: boolean): Promise<void> {
  const there = await Deno.stat(path).catch(() => undefined);
  if (there?.isDirectory) throw inTheWay(path, "a folder is there", "another name");
  if (there && !force) throw inTheWay(path, "it is there already", "another name, or --force");
  await Deno.stat(parentOf(path)).catch((error) => {
    throw cannotWrite(path, error);
  });
}

function inTheWay(output: string, why: string, hint: string): CdebugError {
  return new CdebugError(`Cannot export to "${output}": ${why}`, { hint });
}

function cannotWrite(output: string, error: unknown): CdebugError {
  const missing = error instanceof Deno.errors.NotFound;
  return new CdebugError(
    `Cannot export to "${output}": ${
      missing ? "there is no such directory to make it in" : reason(error).replace(/ \(os error .*/, "")
    }`,
    { hint: missing ? `mkdir -p ${parentOf(output)}` : "another -o", cause: error },
  );
}

async function open(path: string): Promise<Deno.FsFile> {
  return await Deno.open(path, { write: true, truncate: true });
}

/** In one step, and never through a link that is there. */
async function writeText(path: string, text: string): Promise<void> {
  let fresh: string | undefined;
  try {
    fresh = await makeTemporary("file", parentOf(path), PREFIX);
    await Deno.writeTextFile(fresh, text);
    await Deno.chmod(fresh, 0o644);
    await Deno.rename(fresh, path);
  } catch (error) {
    if (fresh !== undefined) await Deno.remove(fresh).catch(() => {});
    throw cannotWrite(path, error);
  }
}

/** As entries name it: "/etc" is "etc". */
function entryPath(path: string): string {
  return byteString(new TextEncoder().encode(path.replace(/^\/+/, "")));
}

/** An archive of what is at one path, whose names begin with the last part of it, by the names of the whole. */
function below(source: EntrySource, path: string): EntrySource {
  const parent = path.replace(/[^/]*$/, "");
  const place = (name: string) => `${parent}${name}`;
  return {
    async next() {
      const entry = await source.next();
      if (!entry) return undefined;
      return {
        ...entry,
        path: place(entry.path),
        ...entry.type === "link" && { target: place(entry.target) },
      };
    },
    read: () => source.read(),
  };
}

/** One source after the other; each is opened when its turn has come. */
function chained(sources: readonly (() => EntrySource)[]): EntrySource {
  const left = [...sources];
  let current = left.shift()!();
  return {
    async next() {
      for (;;) {
        const entry = await current.next();
        if (entry || left.length === 0) return entry;
        current = left.shift()!();
      }
    },
    read: () => current.read(),
  };
}

/** Leaves out what is at or below some paths. */
function without(source: EntrySource, paths: readonly string[]): EntrySource {
  if (paths.length === 0) return source;
  return {
    async next() {
      for (let entry; (entry = await source.next());) {
        const { path } = entry;
        if (!paths.some((other) => path === other || path.startsWith(`${other}/`))) return entry;
      }
      return undefined;
    },
    read: () => source.read(),
  };
}

/** An archive of entries. Throws CdebugError beyond `maxSize`. */
async function* pack(source: EntrySource, maxSize = Infinity): Bytes {
  let total = 0;
  for (let entry; (entry = await source.next());) {
    total += entry.size;
    if (total > maxSize) throw tooLarge(maxSize);
    yield formatHeader(entry);
    let written = 0;
    for (let piece; (piece = await source.read());) {
      written += piece.bytes.length;
      yield piece.bytes;
    }
    const rest = padding(written);
    if (rest.length > 0) yield rest;
  }
  yield END_OF_ARCHIVE;
}

/** In seconds. Throws CdebugError for what is no time. Source: reproducible-builds.org, SOURCE_DATE_EPOCH. */
function epochOf({ env }: Context): number | undefined {
  const text = env("SOURCE_DATE_EPOCH");
  if (!text) return undefined;
  if (/^\d{1,12}$/.test(text)) return Number(text);
  throw new CdebugError(`Cannot export: SOURCE_DATE_EPOCH is "${text}", and no number of seconds`, {
    hint: "unset SOURCE_DATE_EPOCH",
  });
}
