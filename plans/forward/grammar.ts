/** The words of -L and -R: `[[LOCAL_HOST:]LOCAL_PORT:][REMOTE_HOST:]REMOTE_PORT` and their like. */

import { CdebugError } from "../../lib/errors.ts";
import type { Endpoint, Forward } from "../../lib/plan.ts";
import { formatEndpoint } from "../../lib/target.ts";

/** One forward as it was asked for; a host that was not named is undefined. */
export interface Asked {
  /** `-L 8080:80`: each port of a range by itself. */
  readonly as: string;
  readonly direction: "local" | "remote";
  readonly protocol: Forward["protocol"];
  readonly listen: Endpoint;
  readonly connect: Endpoint | { readonly port: number };
}

/** What people call by name; those of IANA's register that are forwarded most. */
const PORT_NAMES: Readonly<Record<string, number>> = {
  amqp: 5672,
  domain: 53,
  ftp: 21,
  http: 80,
  "http-alt": 8080,
  https: 443,
  imap: 143,
  ldap: 389,
  ldaps: 636,
  memcache: 11211,
  mongodb: 27017,
  mqtt: 1883,
  mysql: 3306,
  nfs: 2049,
  ntp: 123,
  postgresql: 5432,
  redis: 6379,
  smtp: 25,
  ssh: 22,
  submission: 587,
  syslog: 514,
};

const LOOPBACK = "127.0.0.1";
/** More than anybody means. */
const LONGEST_RANGE = 100;
/** What a UNIX socket's address holds, with the zero at its end. Source: unix(7). */
const LONGEST_PATH = 107;

const USAGE = {
  L: "-L [[LOCAL_HOST:]LOCAL_PORT:][REMOTE_HOST:]REMOTE_PORT, as in -L 8080:80",
  R: "-R [REMOTE_HOST:]REMOTE_PORT:[LOCAL_HOST:]LOCAL_PORT, as in -R 9000:localhost:3000",
} as const;

type Letter = keyof typeof USAGE;
/** A port, or the first and the last of several. */
type Ports = readonly [first: number, last: number];
type Side = { readonly path: string } | { readonly host: string | undefined; readonly ports: Ports };

/** Reads the value of one -L or -R; several for a range. Throws CdebugError where it is none. */
export function parseForward(letter: Letter, text: string): Asked[] {
  const refused = (why: string) =>
    new CdebugError(`Cannot forward "-${letter} ${text}": ${why}`, { hint: USAGE[letter] });
  const [, words = text, protocol = "tcp"] = /^(.*?)(?:\/(tcp|udp))?$/s.exec(text)!;
  const tokens = split(words);
  if (tokens === undefined) throw refused("it is not a forward");
  const port = (word: string): Ports => parsePorts(word, refused);
  const host = (word: string): string | undefined => parseHost(word, refused);
  const isPort = (token: string) => token === "" || /^[\d-]+$/.test(token);
  const side = (hostWord: string | undefined, portWord: string): Side => ({
    host: hostWord === undefined ? undefined : host(hostWord),
    ports: port(portWord),
  });
  const path = (token: string): Side => ({ path: parsePath(token.slice(UNIX.length), refused) });

  /** One side's words; the port of a listener that is not named is any. */
  const one = (words: readonly string[]): Side | undefined => {
    const [first, second] = words;
    if (words.length === 1 && isPath(first!)) return path(first!);
    if (words.length === 1) return side(undefined, first!);
    if (words.join("") === "" && words.length > 1) return undefined; // an IPv6 address without brackets
    if (words.length === 2 && !isPath(first!) && !isPath(second!)) return side(first, second!);
    return undefined;
  };
  const count = tokens.length;
  let from: Side | undefined;
  let to: Side | undefined;
  if (count === 1) {
    to = one(tokens);
    from = to && "ports" in to ? { host: undefined, ports: letter === "L" ? [0, 0] : to.ports } : undefined;
  } else if (isPath(tokens[0]!)) {
    [from, to] = [path(tokens[0]!), one(tokens.slice(1))];
  } else if (isPath(tokens.at(-1)!)) {
    [from, to] = [one(tokens.slice(0, -1)), path(tokens.at(-1)!)];
  } else if (count === 2 && letter === "L" && !isPort(tokens[0]!)) {
    [from, to] = [{ host: undefined, ports: [0, 0] }, one(tokens)];
  } else {
    const split = count === 4 ? 2 : count === 3 ? (tokens[0] !== "" && isPort(tokens[0]!) ? 1 : 2) : 1;
    if (count <= 4) [from, to] = [one(tokens.slice(0, split)), one(tokens.slice(split))];
  }
  if (from === undefined || to === undefined) throw refused("it is not a forward");
  if (protocol === "udp" && ("path" in from || "path" in to)) throw refused("a UNIX socket has no datagrams");
  return pair(letter, text, protocol as Asked["protocol"], from, to, refused);
}

type Refused = (why: string) => CdebugError;

function pair(
  letter: Letter,
  text: string,
  protocol: Asked["protocol"],
  from: Side,
  to: Side,
  refused: Refused,
): Asked[] {
  const direction = letter === "L" ? "local" : "remote";
  const length = (side: Side) => "path" in side ? 1 : side.ports[1] - side.ports[0] + 1;
  const any = "ports" in from && from.ports[1] === 0;
  if ("ports" in to && to.ports[0] === 0) throw refused("the port to go to is missing");
  if (any && direction === "remote") throw refused("the port to listen on in the target is missing");
  if (!any && length(from) !== length(to)) {
    throw refused(`${length(from)} ports cannot go to ${length(to)}`);
  }
  const endpoint = (side: Side, index: number, fallback: string): Endpoint =>
    "path" in side ? side : { host: side.host ?? fallback, port: side.ports[0] + index };
  return Array.from({ length: length(to) }, (_, index): Asked => {
    const listen = any && "ports" in from
      ? { host: from.host ?? LOOPBACK, port: 0 }
      : endpoint(from, index, LOOPBACK);
    const connect = "ports" in to && to.host === undefined && direction === "local"
      ? { port: to.ports[0] + index }
      : endpoint(to, index, LOOPBACK);
    const single = length(to) === 1;
    return {
      as: `-${letter} ${single ? text : formatSides(listen, connect, protocol)}`,
      direction,
      protocol,
      listen,
      connect,
    };
  });
}

function formatSides(listen: Endpoint, connect: Asked["connect"], protocol: string): string {
  const connected = "host" in connect || "path" in connect ? formatEndpoint(connect) : String(connect.port);
  return `${formatEndpoint(listen)}:${connected}${protocol === "udp" ? "/udp" : ""}`;
}

const UNIX = "unix:";

function isPath(token: string): boolean {
  return token.startsWith(UNIX);
}

/** Parts the words at colons that are in no brackets, nor behind `unix`. */
function split(text: string): string[] | undefined {
  const tokens: string[] = [];
  for (let rest = text;;) {
    const [token] = /^unix:[^:]*|^\[[^\]]*\]|^[^:[\]]*/.exec(rest)!;
    tokens.push(token);
    rest = rest.slice(token.length);
    if (rest === "") return tokens;
    if (!rest.startsWith(":")) return undefined;
    rest = rest.slice(1);
  }
}

function parsePorts(word: string, refused: Refused): Ports {
  if (word === "") return [0, 0];
  const named = Object.hasOwn(PORT_NAMES, word) ? PORT_NAMES[word]! : undefined;
  if (named !== undefined) return [named, named];
  const [, first, last = first] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(word) ?? [];
  const ports: Ports = [Number(first), Number(last)];
  if (first === undefined || ports.some((port) => port < 1 || port > 65535)) {
    throw refused(`"${word}" is not a port, from 1 to 65535`);
  }
  if (ports[1] < ports[0] || ports[1] - ports[0] >= LONGEST_RANGE) {
    throw refused(`"${word}" is not a range of at most ${LONGEST_RANGE} ports`);
  }
  return ports;
}

function parseHost(word: string, refused: Refused): string | undefined {
  if (word === "") return undefined;
  if (word === "*") return "0.0.0.0";
  const inBrackets = /^\[([0-9a-fA-F:.]+)\]$/.exec(word)?.[1];
  if (inBrackets?.includes(":")) return inBrackets.toLowerCase();
  if (/^[a-zA-Z0-9_]([a-zA-Z0-9._-]*[a-zA-Z0-9_])?$/.test(word)) return word;
  throw refused(`"${word}" is not a host`);
}

function parsePath(path: string, refused: Refused): string {
  if (!path.startsWith("/")) throw refused(`"${path}" is not a path that begins with "/"`);
  // What socat takes for its own; nobody calls sockets so.
  if (!/^[\w/.@%+=-]+$/.test(path)) throw refused(`"${path}" has other than letters, digits and /._-@%+=`);
  if (path.length > LONGEST_PATH) throw refused(`"${path}" is longer than ${LONGEST_PATH} bytes`);
  return path;
}
