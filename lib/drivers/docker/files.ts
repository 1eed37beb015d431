/** The files of containers and images, as the engine gives them. */

import { dirname, join } from "node:path/posix";
import { writeAll } from "../../chunk.ts";
import type { ArchiveOptions, LayerOptions, Layers } from "../../driver.ts";
import { CdebugError, reason } from "../../errors.ts";
import { makeTemporary } from "../../leftovers.ts";
import { byteString, TarReader } from "../../tar.ts";
import type { Target } from "../../target.ts";
import { type Api, ApiError } from "./api.ts";

type Bytes = AsyncIterable<Uint8Array<ArrayBuffer>>;

/** The files of a container, as `Driver.archive` has them. Source: Engine API, "Export a container", "Get an archive". */
export async function* archive(api: Api, target: Target, { path, signal }: ArchiveOptions): Bytes {
  try {
    const response = path === undefined
      ? await api.request("GET", `/containers/${target.id}/export`, { signal })
      : await api.request("GET", `/containers/${target.id}/archive`, { query: { path }, signal });
    yield* response.body! as ReadableStream<Uint8Array<ArrayBuffer>>;
  } catch (error) {
    if (signal.aborted || error instanceof CdebugError) throw error;
    throw new CdebugError(
      `Cannot read ${path === undefined ? "the files" : path} of "${target.name}": ${reason(error)}`,
      {
        hint: error instanceof ApiError && error.status === 404
          ? `cdebug exec ${target.name} ls /  shows what there is`
          : `${api.endpoint.engine} ps -a  shows whether it is still there`,
        cause: error,
      },
    );
  }
}

/**
 * An image's layers, as `Driver.layers` has them: taken out of `docker save`, into files that are removed at the end.
 * Source: Engine API, "Export an image"; manifest.json names the layers' files, the lowest first.
 */
export async function saveLayers(
  api: Api,
  target: Target,
  { signal, report }: LayerOptions,
): Promise<Layers> {
  const { openArchive } = await import("../../compressed.ts"); // which takes long to load
  const dir = await makeTemporary("directory", "/var/tmp", "cdebug-layers-");
  await using stack = new AsyncDisposableStack();
  stack.defer(() => Deno.remove(dir, { recursive: true }).catch(() => {}));
  const response = await api.request("GET", `/images/${target.id}/get`, { signal }).catch((error) => {
    if (!(error instanceof ApiError)) throw error;
    throw new CdebugError(`Cannot export "${target.name}": the engine does not save it: ${reason(error)}`, {
      cause: error,
    });
  });
  const reader = new TarReader(response.body! as ReadableStream<Uint8Array<ArrayBuffer>>);
  const files = new Map<string, string>();
  const links = new Map<string, string>();
  let manifest = "";
  for (let entry; (entry = await reader.next());) {
    const { path, type } = entry;
    // Podman writes a layer that it has written before as a link to that one.
    if (type === "symlink") links.set(path, join(dirname(path), entry.target));
    if (type === "link") links.set(path, entry.target);
    if (type !== "file") continue;
    if (path === "manifest.json") {
      for (let piece; (piece = await reader.read());) manifest += byteString(piece.bytes);
      continue;
    }
    const name = `${dir}/${files.size}`;
    files.set(path, name);
    using file = await Deno.open(name, { write: true, createNew: true, mode: 0o600 });
    // Configurations are there, too, and small.
    const digest = entry.size > 100_000 ? /[\da-f]{64}/.exec(path)?.[0] : undefined;
    let done = 0;
    for (let piece; (piece = await reader.read());) {
      signal.throwIfAborted();
      writeAll(file, piece.bytes);
      done += piece.bytes.length;
      if (digest !== undefined) report({ digest, done, total: entry.size });
    }
  }
  const [{ Layers: names }] = JSON.parse(manifest) as [{ Layers: string[] }];
  const layers = names.map((name) => {
    const file = files.get(name) ?? files.get(links.get(name) ?? "");
    if (file === undefined) {
      throw new CdebugError(`Cannot export "${target.name}": the engine has not given layer ${name}`);
    }
    return { open: () => openArchive(file) };
  });
  const kept = stack.move();
  return { layers, [Symbol.asyncDispose]: () => kept.disposeAsync() };
}
