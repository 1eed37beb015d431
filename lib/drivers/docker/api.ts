/**
 * The Docker Engine API over the runtime's own HTTP.
 *
 * Loading all of dockerode makes an exec take 1.91 times as long as the original tool, this 0.99 times: most of
 * dockerode is ssh and gRPC, which a UNIX socket never needs. So dockerode gives the types, and the code only
 * where time does not count (pull.ts).
 */

import { DEFAULT_SOURCE } from "../../driver.ts";
import { CdebugError, reason } from "../../errors.ts";
import { type DockerEngine, type Endpoint, findEndpoint } from "./endpoint.ts";

/** The newest API that the calls here are written for; a daemon that is older is spoken to in its own. */
const NEWEST_VERSION = [1, 47] as const;

/** Where connections go: a UNIX socket, or a host. */
export type Address =
  | { readonly transport: "unix"; readonly path: string }
  | { readonly transport: "tcp"; readonly hostname: string; readonly port: number };

/** A raw, two-way stream that an HTTP request was upgraded to. */
export interface Hijacked {
  /** Fills the buffer with what comes next; null at the end. */
  read(buffer: Uint8Array): Promise<number | null>;
  write(chunk: Uint8Array): Promise<void>;
  /** Ends the input; output still arrives. */
  closeWrite(): Promise<void>;
  close(): void;
}

export interface Api extends AsyncDisposable {
  readonly endpoint: Endpoint;
  readonly address: Address;
  /** At least this version of the API is spoken. */
  atLeast(major: number, minor: number): boolean;
  /** Throws ApiError for a status of 400 or more, CdebugError if the daemon cannot be reached. */
  request(method: string, path: string, options?: RequestOptions): Promise<Response>;
  /** Opens a connection ahead of the request that will be sent on it. */
  dial(): Promise<Deno.Conn>;
  /** Sends a request on a connection of `dial` and upgrades it. */
  hijack(connection: Deno.Conn, path: string, body?: unknown): Promise<Hijacked>;
}

export interface RequestOptions {
  readonly query?: Record<string, string | number | boolean | undefined>;
  readonly body?: unknown;
  /** A tar archive, instead of the body. */
  readonly archive?: Uint8Array<ArrayBuffer>;
  readonly signal?: AbortSignal;
}

/** The daemon has answered, with an error. */
export class ApiError extends Error {
  readonly status: number;
  readonly headers: Headers;

  constructor(status: number, message: string, headers = new Headers()) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.headers = headers;
  }
}

/** Connects to the engine and agrees on a version. Throws CdebugError if it cannot be reached. */
export async function openApi(engine: DockerEngine, runtime: string | undefined): Promise<Api> {
  const endpoint = await findEndpoint(engine, runtime);
  const relay = endpoint.address.startsWith("ssh://")
    ? await (await import("./ssh.ts")).openRelay(endpoint)
    : undefined;
  const address: Address = relay ? { transport: "unix", path: relay.path } : parseAddress(endpoint);
  const { tls } = endpoint;
  const clientTls = {
    ...tls?.ca !== undefined && { caCerts: [tls.ca] },
    ...tls?.cert !== undefined && tls.key !== undefined && { cert: tls.cert, key: tls.key },
  };
  const client = Deno.createHttpClient({
    ...clientTls,
    poolMaxIdlePerHost: 4, // else it keeps as many as were ever at once
    ...address.transport === "unix" && { proxy: { transport: "unix", path: address.path } },
  });
  const origin = address.transport === "unix"
    ? "http://docker"
    : `${tls ? "https" : "http"}://${formatHost(address)}`;
  let version: readonly [number, number] = NEWEST_VERSION;

  const send = async (method: string, path: string, options: RequestOptions = {}) => {
    const url = new URL(origin + path);
    for (const [key, value] of Object.entries(options.query ?? {})) {
      if (value !== undefined) url.searchParams.set(key, String(value));
    }
    let response: Response;
    try {
      response = await fetch(url, {
        client,
        method,
        ...options.signal && { signal: options.signal },
        ...options.body !== undefined && {
          body: JSON.stringify(options.body),
          headers: { "content-type": "application/json" },
        },
        ...options.archive && { body: options.archive, headers: { "content-type": "application/x-tar" } },
      });
    } catch (error) {
      throw options.signal?.aborted ? error : unreachable(endpoint, error, relay?.complaint());
    }
    if (response.status >= 400) throw apiError(response.status, await response.text(), response.headers);
    return response;
  };

  const api: Api = {
    endpoint,
    address,
    atLeast: (major, minor) => version[0] > major || (version[0] === major && version[1] >= minor),
    request: (method, path, options) => send(method, `/v${version.join(".")}${path}`, options),
    async dial() {
      try {
        if (address.transport === "unix") return await Deno.connect(address);
        return tls ? await Deno.connectTls({ ...address, ...clientTls }) : await Deno.connect(address);
      } catch (error) {
        throw unreachable(endpoint, error, relay?.complaint());
      }
    },
    hijack: (connection, path, body) =>
      upgrade(
        connection,
        address.transport === "unix" ? "docker" : formatHost(address),
        `/v${version.join(".")}${path}`,
        body,
      ),
    async [Symbol.asyncDispose]() {
      client.close();
      await relay?.[Symbol.asyncDispose]();
    },
  };

  try {
    const ping = await send("GET", "/_ping");
    await ping.body?.cancel();
    const [major = 1, minor = 24] = (ping.headers.get("api-version") ?? "1.24").split(".").map(Number);
    if (major < version[0] || (major === version[0] && minor < version[1])) version = [major, minor];
  } catch (error) {
    await api[Symbol.asyncDispose]();
    throw error instanceof ApiError ? unreachable(endpoint, error, undefined) : error;
  }
  return api;
}

function parseAddress(endpoint: Endpoint): Address {
  const unix = /^unix:\/\/(\/.*)$/.exec(endpoint.address);
  if (unix) return { transport: "unix", path: unix[1]! };
  const tcp = /^(?:tcp|https?):\/\/(?:\[([0-9a-fA-F:.]+)\]|([^:/]+))(?::(\d+))?\/?$/.exec(endpoint.address);
  if (tcp) {
    return {
      transport: "tcp",
      hostname: tcp[1] ?? tcp[2]!,
      port: Number(tcp[3] ?? (endpoint.tls ? 2376 : 2375)),
    };
  }
  throw new CdebugError(
    `Cannot use "${endpoint.address}" (from ${endpoint.source}): it is not an engine's address`,
    { hint: "unix:///path/docker.sock, tcp://host:2376 or ssh://user@host" },
  );
}

function formatHost({ hostname, port }: { hostname: string; port: number }): string {
  return `${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;
}

/** What is wrong with a daemon that does not answer, from the runtime's own words for it. */
function unreachable(endpoint: Endpoint, error: unknown, complaint: string | undefined): CdebugError {
  const details = `${reason(error)} ${reason((error as { cause?: unknown } | undefined)?.cause ?? "")}`;
  const socket = endpoint.address.replace(/^unix:\/\//, "");
  const variable = endpoint.engine === "docker" ? "DOCKER_HOST" : "CONTAINER_HOST";
  const start = startHint(endpoint, variable);
  const version = endpoint.engine === "docker"
    ? `docker --host ${endpoint.address} version`
    : `podman --url ${endpoint.address} version`;
  const [why, hint] = complaint
    ? [complaint, version]
    : /os error 2\b/.test(details)
    ? ["there is no such socket", start]
    : /os error 13\b/.test(details)
    ? [
      "permission denied",
      endpoint.engine === "docker" && endpoint.source === DEFAULT_SOURCE
        ? "sudo usermod -aG docker $USER, and log in again; or sudo cdebug"
        : `ls -l ${socket}  shows who may; sudo, or membership in its group, helps`,
    ]
    : /os error 111\b/.test(details)
    ? ["nobody listens there", start]
    : [details.trim(), version];
  return new CdebugError(
    `Cannot reach ${endpoint.service} at ${endpoint.address} (from ${endpoint.source}): ${why}`,
    { hint, cause: error },
  );
}

/** What makes an engine answer that is not there. */
function startHint({ engine, source }: Endpoint, variable: string): string {
  switch (source) {
    case DEFAULT_SOURCE:
      return engine === "docker"
        ? "systemctl start docker"
        : `systemctl ${Deno.uid() === 0 ? "" : "--user "}enable --now podman.socket`;
    case variable:
      return `unset ${variable}  for the default address; or start it there`;
    default:
      return `start it, or name another with ${variable} or --runtime`;
  }
}

function apiError(status: number, text: string, headers?: Headers): ApiError {
  let message = text;
  try {
    message = (JSON.parse(text) as { message?: string }).message ?? text;
  } catch {
    // A proxy's page, or nothing: the text is all there is.
  }
  return new ApiError(status, message.trim() || `HTTP status ${status}`, headers);
}

/** Source: Docker Engine API, "Attach to a container", "Hijacking". */
async function upgrade(connection: Deno.Conn, host: string, path: string, body: unknown): Promise<Hijacked> {
  const text = body === undefined ? "" : JSON.stringify(body);
  const payload = new TextEncoder().encode(text);
  const head = [
    `POST ${path} HTTP/1.1`,
    `Host: ${host}`,
    "Connection: Upgrade",
    "Upgrade: tcp",
    ...body === undefined ? [] : ["Content-Type: application/json"],
    `Content-Length: ${payload.length}`,
    "",
    text,
  ].join("\r\n");
  const writeAll = async (chunk: Uint8Array) => {
    for (let done = 0; done < chunk.length;) {
      done += await connection.write(chunk.subarray(done));
    }
  };

  try {
    await writeAll(new TextEncoder().encode(head));
    let received: Uint8Array<ArrayBufferLike> = new Uint8Array();
    let end = -1;
    const buffer = new Uint8Array(16 * 1024);
    while ((end = headEnd(received)) < 0) {
      const count = await connection.read(buffer);
      if (count === null) throw new Error("the daemon closed the connection");
      const more = new Uint8Array(received.length + count);
      more.set(received);
      more.set(buffer.subarray(0, count), received.length);
      received = more;
    }
    const status = Number(
      /^HTTP\/1\.[01] (\d{3})/.exec(new TextDecoder().decode(received.subarray(0, end)))?.[1],
    );
    let rest = received.subarray(end);
    if (status !== 101 && status !== 200) {
      // The daemon keeps such a connection open; what has come with the head is the message.
      throw apiError(status, new TextDecoder().decode(rest).replace(/^[^{]*/, "").replace(/[^}]*$/, ""));
    }
    return {
      async read(target) {
        if (rest.length === 0) return await connection.read(target);
        const count = Math.min(rest.length, target.length);
        target.set(rest.subarray(0, count));
        rest = rest.subarray(count);
        return count;
      },
      write: writeAll,
      closeWrite: () => connection.closeWrite(),
      close: () => connection.close(),
    };
  } catch (error) {
    connection.close();
    throw error;
  }
}

/** The offset behind the empty line that ends an HTTP head, or -1. */
function headEnd(bytes: Uint8Array): number {
  for (let i = 3; i < bytes.length; i++) {
    if (bytes[i] === 10 && bytes[i - 1] === 13 && bytes[i - 2] === 10 && bytes[i - 3] === 13) return i + 1;
  }
  return -1;
}
