/**
 * HTTP as registries and the storage behind them need it: tried again, redirected with care, watched for
 * standing still, with certificate authorities of a user's own.
 */

import { CdebugError, reason } from "../errors.ts";

/** How long things may take. */
export interface Limits {
  /** The first wait before a request is tried again, in ms; each next one is twice as long. */
  readonly backOffMs: number;
  /** A connection that says nothing for that long, in ms, is given up. */
  readonly silenceMs: number;
}

const LIMITS: Limits = { backOffMs: 500, silenceMs: 60_000 };

/** How often a request is made, the first time included. */
export const TRIES = 5;
const LONGEST_WAIT_MS = 30_000;
const MOST_REDIRECTS = 10;

/**
 * Where the docker client and Podman look for the authorities of a registry. Source: their "certs.d"
 * references.
 */
const CERTIFICATES = ["/etc/docker/certs.d", "/etc/containers/certs.d"];

/** A connection could not be made, or has broken. */
export class ConnectionError extends Error {
  /** The other side's certificate is not to be trusted: trying again is of no use. */
  readonly untrusted: boolean;

  constructor(error: unknown) {
    // The runtime's own text holds the URL, whose query may be a secret of the storage's.
    const text = reason(error instanceof Error && error.cause !== undefined ? error.cause : error);
    const why = /client error \(\w+\): (.*)/.exec(text)?.[1] ?? text;
    super(why.replace(/^invalid peer certificate: /, "its certificate is not trusted: "), { cause: error });
    this.untrusted = /invalid peer certificate/.test(text);
  }
}

/** The machine itself: plain HTTP to it passes no network. `hostname` as in a URL. */
export function isLoopback(hostname: string): boolean {
  return hostname === "localhost" || hostname === "[::1]" || /^127(\.\d+){3}$/.test(hostname);
}

/** An answer, whose contents have not come yet. It is to be closed. */
export class Reply implements AsyncDisposable {
  readonly url: URL;
  readonly status: number;
  readonly headers: Headers;
  readonly #body: ReadableStream<Uint8Array<ArrayBuffer>> | null;
  readonly #watch: Watch;

  constructor(url: URL, response: Response, watch: Watch) {
    this.url = url;
    this.status = response.status;
    this.headers = response.headers;
    this.#body = response.body;
    this.#watch = watch;
  }

  /** The contents. Throws ConnectionError where they break off, and the signal's reason. */
  async *chunks(): AsyncGenerator<Uint8Array<ArrayBuffer>> {
    try {
      for await (const chunk of this.#body ?? []) {
        this.#watch.rest();
        yield chunk;
        this.#watch.begin();
      }
    } catch (error) {
      throw this.#watch.failure(error);
    } finally {
      this.#watch.rest();
    }
  }

  /** All of the contents, undefined if they are more than `limit` bytes. Throws as `chunks` does. */
  async bytes(limit: number): Promise<Uint8Array<ArrayBuffer> | undefined> {
    const parts: Uint8Array<ArrayBuffer>[] = [];
    let size = 0;
    for await (const chunk of this.chunks()) {
      size += chunk.length;
      if (size > limit) return undefined;
      parts.push(chunk);
    }
    return await new Blob(parts).bytes();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // What has broken cannot be cancelled.
    await this.#body?.cancel().catch(() => {});
    this.#watch[Symbol.dispose]();
  }
}

/** Ends a request when its connection stands still, or when the user says so. */
class Watch implements Disposable {
  readonly #abort = new AbortController();
  readonly #silenceMs: number;
  readonly #outer: AbortSignal | undefined;
  readonly #cancel = () => this.#abort.abort(this.#outer!.reason);
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(silenceMs: number, outer: AbortSignal | undefined) {
    outer?.throwIfAborted();
    this.#silenceMs = silenceMs;
    this.#outer = outer;
    outer?.addEventListener("abort", this.#cancel);
    this.begin();
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** The other side is waited for. */
  begin(): void {
    this.rest();
    const silent = () => this.#abort.abort(new Error(`nothing has come for ${this.#silenceMs / 1000} s`));
    this.#timer = setTimeout(silent, this.#silenceMs);
  }

  /** It is not, for now. */
  rest(): void {
    clearTimeout(this.#timer);
  }

  /** What a failed request is to throw. */
  failure(error: unknown): unknown {
    return this.#outer?.aborted ? this.#outer.reason : new ConnectionError(error);
  }

  [Symbol.dispose](): void {
    this.rest();
    this.#outer?.removeEventListener("abort", this.#cancel);
  }
}

/** Requests that belong together, and end together. */
export class Http implements Disposable {
  readonly signal: AbortSignal | undefined;
  readonly #authorities: Readonly<Record<string, string>>;
  readonly #limits: Limits;
  readonly #clients = new Map<string, Promise<Deno.HttpClient>>();
  readonly #open: Deno.HttpClient[] = [];

  /** `authorities`: a host, with its port if it is not the usual one, → the path of a PEM file. */
  constructor(options: {
    readonly authorities?: Readonly<Record<string, string>>;
    readonly limits?: Partial<Limits>;
    readonly signal?: AbortSignal;
  }) {
    this.signal = options.signal;
    this.#authorities = options.authorities ?? {};
    this.#limits = { ...LIMITS, ...options.limits };
  }

  /**
   * Gets `url`, `tries` times where the other side is busy (429, 5xx) or the connection fails, and follows
   * redirects; `authorization` goes to the origin of `url` and to no other. Any status is an answer. Throws
   * ConnectionError, the signal's reason, and CdebugError for a redirect that is not to be followed or a CA's
   * file that cannot be read.
   */
  async get(
    url: URL,
    headers: Readonly<Record<string, string>>,
    authorization?: string,
    tries = TRIES,
  ): Promise<Reply> {
    return await this.#persist(tries, () => this.#follow(url, headers, authorization));
  }

  /** Posts a form, as `get` gets; a redirect is not followed. */
  async post(url: URL, form: Readonly<Record<string, string>>): Promise<Reply> {
    return await this.#persist(
      TRIES,
      () => this.#send(url, { method: "POST", body: new URLSearchParams(form) }),
    );
  }

  /** Waits before what has failed `failures` times is tried again. Throws the signal's reason. */
  async pause(failures: number, waitMs = this.#limits.backOffMs * 2 ** (failures - 1)): Promise<void> {
    this.signal?.throwIfAborted();
    const over = Promise.withResolvers<void>();
    const timer = setTimeout(over.resolve, Math.min(waitMs, LONGEST_WAIT_MS));
    const cancel = () => over.reject(this.signal!.reason);
    this.signal?.addEventListener("abort", cancel);
    try {
      await over.promise;
    } finally {
      clearTimeout(timer);
      this.signal?.removeEventListener("abort", cancel);
    }
  }

  async #persist(tries: number, attempt: () => Promise<Reply>): Promise<Reply> {
    for (let tried = 1;; tried++) {
      let waitMs: number | undefined;
      try {
        const reply = await attempt();
        if (!isTemporary(reply.status) || tried >= tries) return reply;
        waitMs = retryAfter(reply.headers);
        await reply[Symbol.asyncDispose]();
      } catch (error) {
        if (!(error instanceof ConnectionError) || error.untrusted || tried >= tries) throw error;
      }
      await this.pause(tried, waitMs);
    }
  }

  async #follow(
    start: URL,
    headers: Readonly<Record<string, string>>,
    authorization: string | undefined,
  ): Promise<Reply> {
    let url = start;
    let secret = authorization;
    for (let redirects = 0;; redirects++) {
      const reply = await this.#send(url, {
        headers: { ...headers, ...secret !== undefined && { authorization: secret } },
      });
      const location = reply.headers.get("location");
      if (![301, 302, 303, 307, 308].includes(reply.status) || location === null) return reply;
      await reply[Symbol.asyncDispose]();
      const next = URL.parse(location, url);
      const isSafe = next?.protocol === "https:" ||
        (next?.protocol === "http:" && isLoopback(next.hostname));
      if (!next || !isSafe || redirects === MOST_REDIRECTS) {
        throw new CdebugError(
          `Cannot get anything from ${start.host}: ${url.host} redirects ${
            !next || isSafe ? "without end" : `to ${next.protocol}//${next.host}, which is not safe`
          }`,
        );
      }
      // Once out of hand, a login does not come back with a redirect to where it belongs.
      if (next.origin !== url.origin) secret = undefined;
      url = next;
    }
  }

  async #send(url: URL, init: RequestInit): Promise<Reply> {
    const client = await this.#clientFor(url);
    const watch = new Watch(this.#limits.silenceMs, this.signal);
    try {
      const response = await fetch(url, {
        ...init,
        // Layers are kept as they are sent: what compresses them on the way would break their digests.
        headers: { ...init.headers as Record<string, string>, "accept-encoding": "identity" },
        redirect: "manual",
        signal: watch.signal,
        client,
      });
      watch.begin();
      return new Reply(url, response as Response & { body: ReadableStream<Uint8Array<ArrayBuffer>> }, watch);
    } catch (error) {
      watch[Symbol.dispose]();
      throw watch.failure(error);
    }
  }

  #clientFor({ protocol, host, hostname }: URL): Promise<Deno.HttpClient> {
    const key = protocol === "https:" ? host : "";
    let client = this.#clients.get(key);
    if (client === undefined) {
      const made = async () => {
        const caCerts = key === "" ? [] : await this.#certificates(host, hostname);
        const client = Deno.createHttpClient({ poolMaxIdlePerHost: 4, ...caCerts.length > 0 && { caCerts } });
        this.#open.push(client);
        return client;
      };
      client = made();
      this.#clients.set(key, client);
    }
    return client;
  }

  /** The certificates of the authorities that are trusted for a host, besides the usual ones; PEM. */
  async #certificates(host: string, hostname: string): Promise<string[]> {
    const named = this.#authorities[host] ?? this.#authorities[`${hostname}:443`];
    const paths = named === undefined ? [] : [named];
    for (const dir of CERTIFICATES.map((dir) => `${dir}/${host}`)) {
      try {
        for await (const { name } of Deno.readDir(dir)) {
          if (name.endsWith(".crt")) paths.push(`${dir}/${name}`);
        }
      } catch {
        // Most hosts have none, and there may be one that only root may read.
      }
    }
    return await Promise.all(paths.map(async (path) => {
      try {
        return await Deno.readTextFile(path);
      } catch (error) {
        throw new CdebugError(
          `Cannot read "${path}", the certificate authority of ${host}: ${reason(error)}`,
          { cause: error },
        );
      }
    }));
  }

  [Symbol.dispose](): void {
    for (const client of this.#open) client.close();
  }
}

function isTemporary(status: number): boolean {
  return status === 429 || (status >= 500 && status !== 501);
}

/** What `Retry-After` says, in ms: seconds, or a date. Source: RFC 9110, 10.2.3. */
function retryAfter(headers: Headers): number | undefined {
  const text = headers.get("retry-after") ?? "";
  const waitMs = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now();
  return Number.isNaN(waitMs) ? undefined : Math.max(0, waitMs);
}
