/**
 * Images in registries: found, and their layers fetched into the cache.
 *
 * Source: OCI image spec, "Image Manifest", "Image Index", "Image Configuration"; OCI distribution spec,
 * "Pull"; distribution/distribution, "Image Manifest V 2, Schema 2".
 */

import { createHash, type Hash } from "node:crypto";
import { openArchive } from "../compressed.ts";
import { CdebugError, reason } from "../errors.ts";
import { discard, findBlob, forget, keep, openPartial, pruneCache } from "./cache.ts";
import { ConnectionError, type Reply, TRIES } from "./http.ts";
import { DIGEST, formatReference, parseReference, type Reference } from "./reference.ts";
import { asRecord, parseJson, Session, type SessionOptions } from "./session.ts";

/** What an image says of itself. Source: OCI image spec, "Image Configuration". */
export interface ImageConfig {
  readonly os?: string;
  readonly architecture?: string;
  readonly variant?: string;
  readonly created?: string;
  readonly config?: {
    readonly Env?: readonly string[];
    readonly Entrypoint?: readonly string[];
    readonly Cmd?: readonly string[];
    readonly User?: string;
    readonly WorkingDir?: string;
  };
}

export interface Layer {
  readonly digest: string;
  readonly mediaType: string;
  /** Compressed, in bytes. */
  readonly size: number;
}

export interface RegistryImage {
  /** With registry and tag or digest. */
  readonly name: string;
  /** Of the platform's manifest. */
  readonly digest: string;
  readonly config: ImageConfig;
  /** Bottom first. */
  readonly layers: readonly Layer[];
}

/** How an image is looked for, and where. */
export interface RegistryOptions extends SessionOptions {
  /** As in linux/amd64 or linux/arm/v7; Linux on this machine's architecture if there is none. */
  readonly platform?: string;
}

/** How far a layer is, in bytes. */
export type Report = (progress: { digest: string; done: number; total: number }) => void;

interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant: string;
}

interface Descriptor {
  readonly digest: string;
  readonly size: number;
  readonly mediaType: string;
  readonly platform?: Platform;
}

/** A manifest, an index or a configuration. */
interface Document {
  readonly digest: string;
  readonly mediaType: string;
  readonly value: Readonly<Record<string, unknown>>;
}

/** What the cache may grow to, in bytes: what has not been used for longest goes. */
const CACHE_LIMIT = 20 * 2 ** 30;
/** Of a manifest and of a configuration, in bytes. Source: OCI distribution spec, "Pushing Manifests". */
const MAX_DOCUMENT = 4 * 1024 * 1024;
/** An index may hold indexes; nobody's are deeper. */
const DEEPEST_INDEX = 3;
const FETCHED_AT_ONCE = 4;

const OCI = "application/vnd.oci.image";
const DOCKER = "application/vnd.docker.distribution";
const INDEXES = [`${OCI}.index.v1+json`, `${DOCKER}.manifest.list.v2+json`];
const MANIFESTS = [`${OCI}.manifest.v1+json`, `${DOCKER}.manifest.v2+json`];
const SCHEMA_1 = [`${DOCKER}.manifest.v1+json`, `${DOCKER}.manifest.v1+prettyjws`];
const OCI_LAYER = /^application\/vnd\.oci\.image\.layer\.v1\.tar(\+gzip|\+zstd)?$/;
const DOCKER_LAYER = /^application\/vnd\.docker\.image\.rootfs\.diff\.tar(\.gzip|\.zstd)?$/;
const FOREIGN_LAYER = /\.(nondistributable|foreign)\./;

/**
 * Finds an image in its registry: its manifest, of those in an index the one for the platform, and its
 * configuration. Throws NotFound where there is no such image, CdebugError where it cannot be read or its
 * kind is none that can be used, and the signal's reason.
 */
export async function resolveImage(image: string, options: RegistryOptions): Promise<RegistryImage> {
  const reference = parseReference(image);
  using session = await Session.open(reference, options);
  return await new Finder(image, reference, session, options.platform).find();
}

class Finder {
  readonly #reference: Reference;
  readonly #session: Session;
  /** As the user has said it. */
  readonly #platform: string | undefined;
  readonly #wanted: Platform;
  readonly #action: string;

  constructor(image: string, reference: Reference, session: Session, platform: string | undefined) {
    this.#reference = reference;
    this.#session = session;
    this.#platform = platform;
    this.#action = `Cannot find image "${image}"`;
    this.#wanted = platform === undefined ? ownPlatform() : this.#parsePlatform(platform);
  }

  async find(): Promise<RegistryImage> {
    const { tag, digest } = this.#reference;
    let manifest = await this.#manifest(digest ?? tag!, digest);
    for (let depth = 1; INDEXES.includes(manifest.mediaType); depth++) {
      if (depth > DEEPEST_INDEX) throw this.#refuse(`its indexes are more than ${DEEPEST_INDEX} deep`);
      const chosen = this.#choose(manifest);
      manifest = await this.#manifest(chosen.digest, chosen.digest);
    }
    const { value } = manifest;
    if (!Array.isArray(value["layers"])) throw this.#refuse("its manifest does not say which layers it has");
    const layers = value["layers"].map((layer) => this.#layer(layer));
    const config = await this.#config(this.#descriptor(value["config"], "configuration"));
    const { os = "linux", architecture = "", variant = "" } = config;
    const found = normalized({ os, architecture, variant });
    // The only one that there is will do, unless another one is asked for.
    if (this.#platform !== undefined && rank(found, this.#wanted) === undefined) {
      throw this.#wrongPlatform([found]);
    }
    return { name: formatReference(this.#reference), digest: manifest.digest, config, layers };
  }

  async #manifest(name: string, digest: string | undefined): Promise<Document> {
    const accept = [...INDEXES, ...MANIFESTS].join(", ");
    const document = await this.#document(`manifests/${name}`, { accept }, "manifest", digest);
    const { mediaType, value } = document;
    if (value["schemaVersion"] === 1 || SCHEMA_1.includes(mediaType)) {
      throw this.#refuse(
        "its manifest is of Docker's old format, schema 1, which says too little",
        `docker pull ${formatReference(this.#reference)}, and docker push  writes it anew`,
      );
    }
    // What means one thing to one reader and another to the next is refused. Source: CVE-2021-41190.
    const isIndex = INDEXES.includes(mediaType);
    if (!isIndex && !MANIFESTS.includes(mediaType) || (isIndex ? "layers" : "manifests") in value) {
      throw this.#refuse(
        `its manifest is of a kind that cdebug cannot read: ${mediaType || "none is named"}`,
      );
    }
    return document;
  }

  async #config({ digest }: Descriptor): Promise<ImageConfig> {
    const { value } = await this.#document(`blobs/${digest}`, {}, "configuration", digest);
    const text = (value: unknown) => typeof value === "string" ? value : undefined;
    const texts = (value: unknown) =>
      Array.isArray(value) && value.every((item) => typeof item === "string") ? value : undefined;
    const config = asRecord(value["config"]);
    return defined({
      os: text(value["os"]),
      architecture: text(value["architecture"]),
      variant: text(value["variant"]),
      created: text(value["created"]),
      config: defined({
        Env: texts(config["Env"]),
        Entrypoint: texts(config["Entrypoint"]),
        Cmd: texts(config["Cmd"]),
        User: text(config["User"]),
        WorkingDir: text(config["WorkingDir"]),
      }),
    });
  }

  /** Gets a document as a whole, and holds it against `digest` if that is known. */
  async #document(
    path: string,
    headers: Readonly<Record<string, string>>,
    what: string,
    digest: string | undefined,
  ): Promise<Document> {
    for (let tried = 1;; tried++) {
      await using reply = await this.#session.get(this.#action, path, headers);
      let bytes: Uint8Array<ArrayBuffer> | undefined;
      try {
        bytes = await reply.bytes(MAX_DOCUMENT);
      } catch (error) {
        if (!(error instanceof ConnectionError)) throw error;
        if (tried === TRIES) {
          throw this.#refuse(`the connection to ${reply.url.host} breaks: ${error.message}`);
        }
        await this.#session.http.pause(tried);
        continue;
      }
      if (bytes === undefined) {
        throw this.#refuse(`its ${what} is larger than ${MAX_DOCUMENT >> 20} MiB, as none should be`);
      }
      const found = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
      if (digest !== undefined && found !== digest) {
        throw this.#refuse(`its ${what} is damaged: it should be ${digest} and is ${found}`);
      }
      const parsed = parseJson(bytes);
      const value = asRecord(parsed);
      if (parsed !== value) throw this.#refuse(`its ${what} is not a JSON object`);
      const type = reply.headers.get("content-type")?.replace(/\s*;.*$/, "") ?? "";
      const own = value["mediaType"];
      return { digest: found, mediaType: typeof own === "string" ? own : type, value };
    }
  }

  #layer(value: unknown): Layer {
    const { digest, mediaType, size } = this.#descriptor(value, "layer");
    if (FOREIGN_LAYER.test(mediaType)) {
      throw this.#refuse(
        `its layer ${digest} is not in the registry, but with its maker, who lets nobody else give it away`,
      );
    }
    if (!OCI_LAYER.test(mediaType) && !DOCKER_LAYER.test(mediaType)) {
      throw this.#refuse(`its layer ${digest} holds no files, but ${mediaType}`);
    }
    return { digest, mediaType, size };
  }

  #descriptor(value: unknown, what: string): Descriptor {
    const { digest, size, mediaType, platform } = asRecord(value);
    if (
      typeof digest !== "string" || typeof size !== "number" || typeof mediaType !== "string" ||
      !DIGEST.test(digest) || !Number.isSafeInteger(size) || size < 0
    ) {
      throw this.#refuse(`its manifest does not say which ${what} it has, by SHA-256`);
    }
    const { os, architecture, variant = "" } = asRecord(platform);
    const isKnown = typeof os === "string" && typeof architecture === "string" && typeof variant === "string";
    return {
      digest,
      size,
      mediaType,
      ...isKnown && { platform: normalized({ os, architecture, variant }) },
    };
  }

  /** The manifest of an index that suits the platform best. */
  #choose({ value }: Document): Descriptor {
    const all = listOf(value["manifests"]).map((entry) => this.#descriptor(entry, "manifest"));
    const ranked = all
      .map((entry) => ({ entry, rank: entry.platform && rank(entry.platform, this.#wanted) }))
      .filter(({ rank }) => rank !== undefined)
      .sort((a, b) => a.rank! - b.rank!);
    // An index within an index need not say what it is for.
    const chosen = ranked[0]?.entry ??
      all.find(({ platform, mediaType }) => !platform && INDEXES.includes(mediaType));
    if (chosen) return chosen;
    throw this.#wrongPlatform(all.flatMap(({ platform }) => platform ? [platform] : []));
  }

  #wrongPlatform(found: readonly Platform[]): CdebugError {
    // What builders attest is filed under unknown/unknown.
    const real = [...new Set(found.filter(({ os }) => os !== "unknown").map(formatPlatform))];
    return this.#refuse(
      `it is not made for ${formatPlatform(this.#wanted)}, but for ${real.join(", ") || "no platform"}`,
      real.length > 0 ? `--platform ${real[0]}` : undefined,
    );
  }

  #parsePlatform(text: string): Platform {
    const [os = "", architecture = "", variant = "", ...more] = text.toLowerCase().split("/");
    if (os !== "" && architecture !== "" && more.length === 0) {
      return normalized({ os, architecture, variant });
    }
    throw this.#refuse(`"${text}" is not a platform`, "--platform linux/amd64");
  }

  #refuse(why: string, hint?: string): CdebugError {
    // Registries are quoted, and lines are ours.
    return new CdebugError(`${this.#action}: ${why.replace(/\s*[\r\n]\s*/g, "; ")}`, {
      ...hint !== undefined && { hint },
    });
  }
}

/**
 * Fetches the layers that are not in the cache, up to four at once. What breaks off is resumed where it is,
 * now or by the next cdebug; `report` is told how much of each layer is there. Throws CdebugError for a layer
 * that cannot be fetched or is not what its digest says, and the signal's reason.
 */
export async function fetchLayers(
  image: RegistryImage,
  options: RegistryOptions & { readonly report?: Report },
): Promise<void> {
  const { signal, report = () => {} } = options;
  const missing: Layer[] = [];
  for (const layer of new Map(image.layers.map((layer) => [layer.digest, layer])).values()) {
    const { digest, size } = layer;
    if (await isCached(layer, signal)) report({ digest, done: size, total: size });
    else missing.push(layer);
  }
  if (missing.length === 0) return;

  const ending = new AbortController();
  using session = await Session.open(parseReference(image.name), { ...options, signal: ending.signal });
  const work = async () => {
    for (let layer = missing.shift(); layer !== undefined; layer = missing.shift()) {
      await fetchLayer(image.name, layer, session, ending.signal, report);
    }
  };
  const cancel = () => ending.abort(signal!.reason);
  signal?.throwIfAborted();
  signal?.addEventListener("abort", cancel);
  try {
    // With the first failure, the others are of no use.
    const fail = (error: unknown) => ending.abort(error);
    await Promise.all(Array.from({ length: FETCHED_AT_ONCE }, () => work().catch(fail)));
    ending.signal.throwIfAborted();
    // What cannot be removed is no reason to do without what has been fetched.
    await pruneCache(CACHE_LIMIT).catch(() => {});
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
}

/** Whether a layer is in the cache, as it was when it came there: on a disk, things change. */
async function isCached({ digest, size }: Layer, signal: AbortSignal | undefined): Promise<boolean> {
  const path = await findBlob(digest, size);
  if (path === undefined) return false;
  using file = await Deno.open(path);
  const hash = createHash("sha256");
  await hashRest(file, hash, signal);
  if (`sha256:${hash.digest("hex")}` === digest) return true;
  await forget(digest);
  return false;
}

/** Hashes a file from where it is to its end; returns how many bytes that are. */
async function hashRest(file: Deno.FsFile, hash: Hash, signal: AbortSignal | undefined): Promise<number> {
  let total = 0;
  const buffer = new Uint8Array(256 * 1024);
  for (let count; (count = await file.read(buffer)) !== null;) {
    signal?.throwIfAborted();
    hash.update(buffer.subarray(0, count));
    total += count;
  }
  return total;
}

async function fetchLayer(
  image: string,
  { digest, size }: Layer,
  session: Session,
  signal: AbortSignal,
  report: Report,
): Promise<void> {
  const tell = (done: number) => report({ digest, done, total: size });
  using file = await openPartial(digest, size, { signal, waiting: tell });
  if (file === undefined) return tell(size);
  const download = new Download(image, digest, size, file, session, tell);
  const resumed = await download.resume();
  let found = await download.fetch();
  // What an earlier cdebug has left may have been lost with the power.
  if (found !== digest && resumed) {
    await download.restart();
    found = await download.fetch();
  }
  if (found !== digest) {
    await discard(digest);
    throw new CdebugError(
      `Cannot fetch a layer of "${image}": it is damaged, or is not what it should be: ${digest} is ${found}`,
      { hint: "once more; if that does not help, the image has to be pushed anew" },
    );
  }
  await keep(digest);
}

/** A layer on its way into a file. */
class Download {
  readonly #action: string;
  readonly #digest: string;
  readonly #size: number;
  readonly #file: Deno.FsFile;
  readonly #session: Session;
  readonly #tell: (done: number) => void;
  #hash: Hash = createHash("sha256");
  /** How many bytes are in the file, and hashed. */
  #done = 0;

  constructor(
    image: string,
    digest: string,
    size: number,
    file: Deno.FsFile,
    session: Session,
    tell: (done: number) => void,
  ) {
    this.#action = `Cannot fetch layer ${digest} of "${image}"`;
    this.#digest = digest;
    this.#size = size;
    this.#file = file;
    this.#session = session;
    this.#tell = tell;
  }

  /** Takes what is in the file; false if it is empty. */
  async resume(): Promise<boolean> {
    if ((await this.#file.stat()).size > this.#size) await this.restart();
    this.#done += await hashRest(this.#file, this.#hash, this.#session.http.signal);
    return this.#done > 0;
  }

  /** Empties the file. */
  async restart(): Promise<void> {
    await this.#file.truncate(0);
    await this.#file.seek(0, Deno.SeekMode.Start);
    this.#hash = createHash("sha256");
    this.#done = 0;
  }

  /** Gets what is missing, and returns the digest of all of it. Connections that break are resumed. */
  async fetch(): Promise<string> {
    this.#tell(this.#done);
    let most = this.#done;
    for (let failures = 0; this.#done < this.#size;) {
      const before = this.#done;
      await using reply = await this.#session.get(
        this.#action,
        `blobs/${this.#digest}`,
        before > 0 ? { range: `bytes=${before}-` } : {},
      );
      const isElsewhere = reply.status === 416 || (reply.status === 206 && startOf(reply) !== before);
      if (isElsewhere || (reply.status === 200 && before > 0)) await this.restart();
      try {
        if (isElsewhere) {
          throw new ConnectionError(new Error("it answers with another part than was asked for"));
        }
        await this.#take(reply);
        if (this.#done < this.#size) throw new ConnectionError(new Error("it ended too early"));
      } catch (error) {
        if (!(error instanceof ConnectionError)) throw error;
        failures = this.#done > most ? 1 : failures + 1;
        most = Math.max(most, this.#done);
        if (failures === TRIES) {
          throw new CdebugError(
            `${this.#action}: the connection to ${reply.url.host} breaks: ${error.message}`,
            {
              hint: "once more: it resumes where it is",
              cause: error,
            },
          );
        }
        await this.#session.http.pause(failures);
      }
    }
    return `sha256:${this.#hash.digest("hex")}`;
  }

  async #take(reply: Reply): Promise<void> {
    for await (const chunk of reply.chunks()) {
      if (this.#done + chunk.length > this.#size) {
        await discard(this.#digest);
        throw new CdebugError(
          `${this.#action}: it is larger than the ${this.#size} bytes that its manifest says`,
        );
      }
      try {
        for (let at = 0; at < chunk.length;) at += await this.#file.write(chunk.subarray(at));
      } catch (error) {
        throw new CdebugError(`${this.#action}: it cannot be kept: ${reason(error)}`, {
          hint: "cdebug cache prune  makes room; XDG_CACHE_HOME names another place",
          cause: error,
        });
      }
      this.#hash.update(chunk);
      this.#done += chunk.length;
      this.#tell(this.#done);
    }
  }
}

/** Where a part begins, in bytes. Source: RFC 9110, 14.4. */
function startOf(reply: Reply): number {
  return Number(/^bytes (\d+)-/.exec(reply.headers.get("content-range") ?? "")?.[1]);
}

/**
 * The uncompressed bytes of a layer that is in the cache: of gzip, zstd or plain tar, as its first bytes
 * tell. Throws CdebugError if it is not there, or not whole.
 */
export async function* openLayer(layer: Layer): AsyncIterable<Uint8Array<ArrayBuffer>> {
  const action = `Cannot read layer ${layer.digest}`;
  const path = await findBlob(layer.digest, layer.size);
  if (path === undefined) {
    throw new CdebugError(`${action}: it is not in the cache any more`, {
      hint: "once more; cdebug cache prune  has run meanwhile",
    });
  }
  try {
    yield* openArchive(path);
  } catch (error) {
    throw new CdebugError(`${action}: ${reason(error)}`, { cause: error });
  }
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

/** Without the keys that have no value. */
function defined<T extends object>(value: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, item]) => item !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}

function ownPlatform(): Platform {
  return normalized({ os: "linux", architecture: Deno.build.arch, variant: "" });
}

/** The names that indexes use. Source: containerd/platforms, database.go. */
function normalized({ os, architecture, variant }: Platform): Platform {
  switch (architecture) {
    case "x86_64":
      return { os, architecture: "amd64", variant };
    case "aarch64":
    case "arm64":
      return { os, architecture: "arm64", variant: variant === "v8" ? "" : variant };
    case "armhf":
    case "arm":
      return { os, architecture: "arm", variant: variant === "" ? "v7" : variant };
    default:
      return { os, architecture, variant };
  }
}

/** How well a platform suits, 0 is best; undefined if it does not. A variant counts where it is asked for. */
function rank(found: Platform, wanted: Platform): number | undefined {
  if (found.os !== wanted.os || found.architecture !== wanted.architecture) return undefined;
  if (found.variant === wanted.variant) return 0;
  return wanted.variant === "" ? 1 : undefined;
}

function formatPlatform({ os, architecture, variant }: Platform): string {
  return [os, architecture, variant].filter(Boolean).join("/");
}
