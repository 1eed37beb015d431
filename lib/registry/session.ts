/**
 * A repository of images, asked for at its mirrors and its registry, with the logins that there are.
 *
 * Source: OCI distribution spec; distribution/distribution, "Token Authentication" and "OAuth2 Token
 * Authentication".
 */

import { CdebugError, NotFound, reason } from "../errors.ts";
import { DOCKER_HUB, findLogin, type Login } from "./credentials.ts";
import { ConnectionError, Http, isLoopback, type Limits, type Reply, TRIES } from "./http.ts";
import { formatReference, type Reference } from "./reference.ts";

/** A mirror that does not answer is not waited for as long as a registry: the next one may. */
const MIRROR_TRIES = 2;
/** Of an answer that is read as a whole; tokens of some registries are some KiB. In bytes. */
const MAX_TOKEN = 1024 * 1024;
const MAX_COMPLAINT = 64 * 1024;

export interface SessionOptions {
  /** The path of `--registry-config`. */
  readonly config?: string;
  readonly signal?: AbortSignal;
  /** How long things may take; the defaults suit people. */
  readonly limits?: Partial<Limits & { readonly helperMs: number }>;
}

interface RegistryConfig {
  readonly mirrors: Readonly<Record<string, readonly string[]>>;
  readonly ca: Readonly<Record<string, string>>;
}

/** A repository, until it is disposed of. */
export class Session implements Disposable {
  readonly http: Http;
  /** Mirrors first. */
  readonly #hosts: readonly Host[];
  readonly #name: string;

  private constructor(name: string, http: Http, hosts: readonly Host[]) {
    this.#name = name;
    this.http = http;
    this.#hosts = hosts;
  }

  /**
   * Connects to nothing yet. Throws CdebugError where the file of `--registry-config` is not as it should be.
   */
  static async open(reference: Reference, options: SessionOptions): Promise<Session> {
    const { registry } = reference;
    const { config, signal, limits } = options;
    const { mirrors, ca } = config === undefined ? { mirrors: {}, ca: {} } : await readConfig(config);
    const http = new Http({ authorities: ca, ...limits && { limits }, ...signal && { signal } });
    const helperMs = limits?.helperMs;
    const own = registry === "docker.io"
      ? new Host(http, reference, "registry-1.docker.io", DOCKER_HUB, undefined, helperMs)
      : new Host(http, reference, registry, registry, undefined, helperMs);
    const hosts = (mirrors[registry] ?? []).map((text) => {
      const url = URL.parse(text)!;
      return new Host(http, reference, url.host, url.host, url, helperMs);
    });
    return new Session(formatReference(reference), http, [...hosts, own]);
  }

  /**
   * The answer to a request below `/v2/REPOSITORY/`, of the first host that has one to give. `action` begins
   * the errors, as in `Cannot find image "web"`. Throws NotFound where the registry does not have it, else
   * CdebugError, and the signal's reason.
   */
  async get(action: string, path: string, headers: Readonly<Record<string, string>>): Promise<Reply> {
    const failures: string[] = [];
    for (const host of this.#hosts) {
      const isLast = host === this.#hosts.at(-1);
      try {
        const reply = await host.get(path, headers, isLast ? TRIES : MIRROR_TRIES);
        // A part that is not there is the asker's own mistake.
        if (reply.status < 300 || reply.status === 416) return reply;
        await using _ = reply;
        throw await host.refusal(path.startsWith("blobs/") ? undefined : this.#name, reply);
      } catch (error) {
        this.http.signal?.throwIfAborted();
        const told = error instanceof ConnectionError ? host.unreachable(error) : error;
        if (!(told instanceof CdebugError)) throw error;
        if (isLast) throw failed(action, told, failures);
        failures.push(`mirror ${host.name}: ${told.message}`);
      }
    }
    throw new Error("a session has at least one host");
  }

  [Symbol.dispose](): void {
    this.http[Symbol.dispose]();
  }
}

function failed(action: string, error: CdebugError, mirrors: readonly string[]): CdebugError {
  const message = [`${action}: ${error.message}`, ...mirrors].join("; ");
  const options = { ...error.hint !== undefined && { hint: error.hint }, cause: error };
  return error instanceof NotFound ? new NotFound(message, options) : new CdebugError(message, options);
}

/** One registry or mirror, and the login there. The messages of its errors say why only. */
class Host {
  readonly name: string;
  readonly #http: Http;
  readonly #reference: Reference;
  /** Of the docker client's config file. */
  readonly #key: string;
  readonly #helperMs: number | undefined;
  /** With the path that a mirror may have. */
  #base: Promise<URL> | undefined;
  #login: Promise<Login | undefined> | undefined;
  #authorization: string | undefined;
  #authorizing: Promise<void> | undefined;

  constructor(
    http: Http,
    reference: Reference,
    name: string,
    key: string,
    base: URL | undefined,
    helperMs: number | undefined,
  ) {
    this.#http = http;
    this.#reference = reference;
    this.name = name;
    this.#key = key;
    this.#base = base && Promise.resolve(base);
    this.#helperMs = helperMs;
  }

  /** Asks, and logs in if that is wanted; any status is an answer. */
  async get(path: string, headers: Readonly<Record<string, string>>, tries: number): Promise<Reply> {
    const base = await (this.#base ??= this.#findBase());
    const prefix = base.href.replace(/\/$/, "");
    const url = new URL(`${prefix}/v2/${this.#reference.repository}/${path}`);
    for (let asked = 1;; asked++) {
      const used = this.#authorization;
      const reply = await this.#http.get(url, headers, used, tries);
      // What storage says after a redirect is not for the registry's login.
      if (reply.status !== 401 || reply.url.origin !== url.origin || asked > 1) return reply;
      const challenges = parseChallenges(reply.headers.get("www-authenticate") ?? "");
      if (challenges.length === 0) return reply;
      await reply[Symbol.asyncDispose]();
      // Of several requests that are refused at once, the first one logs in for all.
      if (used === this.#authorization) {
        this.#authorizing ??= this.#authorize(challenges).finally(() => this.#authorizing = undefined);
        await this.#authorizing;
      }
    }
  }

  /** Why the host does not give what was asked for: an image of that name, or a part of one. */
  async refusal(image: string | undefined, reply: Reply): Promise<CdebugError> {
    const said = await complaintOf(reply);
    const { status } = reply;
    if (status === 404 && image === undefined) return new CdebugError(`${this.name} does not have it${said}`);
    if (status === 404) {
      return new NotFound(`there is no such image at ${this.name}${said}`, {
        hint: `is it spelled like this: ${image}?`,
      });
    }
    if (status === 401 || status === 403) return await this.#denied(said);
    if (status === 429) {
      return new CdebugError(`${this.name} has had too many requests from here${said}`, {
        hint: `${this.#loginCommand()}  has a higher limit, on most registries`,
      });
    }
    return new CdebugError(`${this.name} answers with status ${status}${said}`);
  }

  unreachable(error: ConnectionError): CdebugError {
    return new CdebugError(`${this.name} cannot be reached: ${error.message}`, {
      hint: error.untrusted
        ? `--registry-config FILE, with  ca: {"${this.name}": /path/of/ca.pem}`
        : `curl https://${this.name}/v2/`,
      cause: error,
    });
  }

  /** HTTPS; plain HTTP only on this machine, where there is no HTTPS. */
  async #findBase(): Promise<URL> {
    const base = URL.parse(`https://${this.name}`)!;
    if (!isLoopback(base.hostname)) return base;
    try {
      const reply = await this.#http.get(new URL("/v2/", base), {}, undefined, 1);
      await reply[Symbol.asyncDispose]();
      return base;
    } catch (error) {
      if (!(error instanceof ConnectionError) || error.untrusted) throw error;
      return new URL(`http://${this.name}`);
    }
  }

  #loginCommand(): string {
    return this.#key === DOCKER_HUB ? "docker login" : `docker login ${this.name}`;
  }

  async #denied(said: string): Promise<CdebugError> {
    const login = await this.#login;
    return new CdebugError(
      login
        ? `${this.name} refuses the login of ${login.source}${said}`
        : `${this.name} wants a login, of which there is none, or there is no such image${said}`,
      { hint: this.#loginCommand() },
    );
  }

  async #authorize(challenges: readonly Challenge[]): Promise<void> {
    const { signal } = this.#http;
    const login = await (this.#login ??= findLogin(this.#key, this.#reference.repository, {
      ...signal && { signal },
      ...this.#helperMs !== undefined && { helperLimitMs: this.#helperMs },
    }));
    const bearer = challenges.find(({ scheme }) => scheme === "bearer");
    if (bearer) {
      this.#authorization = `Bearer ${await this.#fetchToken(bearer.parameters, login)}`;
    } else if (challenges.some(({ scheme }) => scheme === "basic")) {
      const basic = basicOf(login);
      if (basic === undefined) throw await this.#denied("");
      this.#authorization = basic;
    } else {
      const schemes = challenges.map(({ scheme }) => scheme).join(", ");
      throw new CdebugError(`${this.name} wants a login of a kind that cdebug does not know: ${schemes}`, {
        hint: `docker pull ${formatReference(this.#reference)}, and export it from the engine`,
      });
    }
  }

  async #fetchToken(
    { realm = "", service, scope }: Readonly<Record<string, string>>,
    login: Login | undefined,
  ): Promise<string> {
    const url = URL.parse(realm);
    const isSafe = url?.protocol === "https:" || (url?.protocol === "http:" && isLoopback(url.hostname));
    if (!url || !isSafe) {
      throw new CdebugError(`${this.name} wants a login at "${realm}", which is not safe`);
    }
    const asked = {
      ...service !== undefined && { service },
      scope: scope ?? `repository:${this.#reference.repository}:pull`,
    };
    const identity = login && "identitytoken" in login.credentials
      ? login.credentials.identitytoken
      : undefined;
    let reply: Reply;
    try {
      if (identity !== undefined) {
        const form = {
          grant_type: "refresh_token",
          client_id: "cdebug",
          refresh_token: identity,
          ...asked,
        };
        reply = await this.#http.post(url, form);
      } else {
        for (const [key, value] of Object.entries(asked)) url.searchParams.set(key, value);
        reply = await this.#http.get(url, {}, basicOf(login));
      }
    } catch (error) {
      if (!(error instanceof ConnectionError)) throw error;
      throw new CdebugError(
        `${url.host}, where ${this.name} has its logins, cannot be reached: ${error.message}`,
        {
          hint: error.untrusted
            ? `--registry-config FILE, with  ca: {"${url.host}": /path/of/ca.pem}`
            : `curl ${url.origin}`,
          cause: error,
        },
      );
    }
    await using _ = reply;
    if ([400, 401, 403].includes(reply.status)) throw await this.#denied(await complaintOf(reply));
    const place = `${url.host}, where ${this.name} has its logins,`;
    if (reply.status !== 200) {
      const said = await complaintOf(reply);
      throw new CdebugError(`${place} answers with status ${reply.status}${said}`);
    }
    const bytes = await reply.bytes(MAX_TOKEN);
    const { token, access_token = token } = asRecord(bytes && parseJson(bytes));
    if (typeof access_token !== "string" || !/^[\x21-\x7e]+$/.test(access_token)) {
      throw new CdebugError(`${place} answers with no token`);
    }
    return access_token;
  }
}

function basicOf(login: Login | undefined): string | undefined {
  if (!login || !("username" in login.credentials)) return undefined;
  const { username, password } = login.credentials;
  return `Basic ${new TextEncoder().encode(`${username}:${password}`).toBase64()}`;
}

/**
 * What a registry says of its refusal, for the end of a message. Source: OCI distribution spec, "Error
 * Codes".
 */
async function complaintOf(reply: Reply): Promise<string> {
  try {
    const bytes = await reply.bytes(MAX_COMPLAINT);
    const { errors, details } = asRecord(bytes && parseJson(bytes));
    const first = Array.isArray(errors) ? asRecord(errors[0]) : { message: details };
    const text = first["message"] ?? first["code"];
    return typeof text === "string" && text !== "" ? `: ${text.slice(0, 200)}` : "";
  } catch (error) {
    if (error instanceof ConnectionError) return "";
    throw error;
  }
}

/** A JSON text; undefined if it is none. */
export function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return undefined;
  }
}

/** A JSON object; of anything else, an empty one. */
export function asRecord(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value)
    ? value as Readonly<Record<string, unknown>>
    : {};
}

interface Challenge {
  /** In small letters. */
  readonly scheme: string;
  readonly parameters: Readonly<Record<string, string>>;
}

/** Reads `WWW-Authenticate`, which may hold several challenges. Source: RFC 9110, 11.6.1. */
export function parseChallenges(text: string): Challenge[] {
  const challenges: { scheme: string; parameters: Record<string, string> }[] = [];
  const part = /\s*(?:([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]*))|([\w-]+))\s*,?/gy;
  for (const [, name, quoted, plain, scheme] of text.matchAll(part)) {
    if (scheme !== undefined) challenges.push({ scheme: scheme.toLowerCase(), parameters: {} });
    else {
      const value = quoted?.replace(/\\(.)/g, "$1") ?? plain!;
      const last = challenges.at(-1);
      if (last) last.parameters[name!.toLowerCase()] = value;
    }
  }
  return challenges;
}

/** Reads the file of `--registry-config`. Throws CdebugError, which says what should be there. */
async function readConfig(path: string): Promise<RegistryConfig> {
  const refuse = (why: string, cause?: unknown) =>
    new CdebugError(`Cannot read "${path}", the file of --registry-config: ${why}`, {
      hint: 'as in  mirrors: {docker.io: ["https://mirror:5000"]}  and  ca: {"host:5000": /path/of/ca.pem}',
      cause,
    });
  let value: unknown;
  try {
    const text = await Deno.readTextFile(path);
    value = (await import("../plan.ts")).parseYaml(text) ?? {};
  } catch (error) {
    throw refuse(reason(error), error);
  }
  const { mirrors = {}, ca = {}, ...others } = asRecord(value);
  const wrong = [value, mirrors, ca].find((part) => asRecord(part) !== part) ?? Object.keys(others)[0];
  if (wrong !== undefined) throw refuse(`expected mappings, mirrors and ca, found ${JSON.stringify(wrong)}`);
  for (const [registry, urls] of Object.entries(mirrors as object)) {
    for (const text of Array.isArray(urls) ? urls : [urls]) {
      const url = typeof text === "string" ? URL.parse(text) : null;
      const isSafe = url?.protocol === "https:" || (url?.protocol === "http:" && isLoopback(url.hostname));
      if (!Array.isArray(urls) || !url || !isSafe || url.username !== "") {
        throw refuse(
          `expected a list of https:// addresses as mirrors of ${registry}, found ${JSON.stringify(text)}`,
        );
      }
    }
  }
  for (const [host, file] of Object.entries(ca as object)) {
    if (typeof file !== "string") throw refuse(`expected a path for ${host}, found ${JSON.stringify(file)}`);
  }
  return { mirrors, ca } as RegistryConfig;
}
