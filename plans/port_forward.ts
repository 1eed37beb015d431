/** `cdebug port-forward`: the target's ports on this machine, and this machine's in the target. */

import { CdebugError } from "../lib/errors.ts";
import type { Values } from "../lib/flags.ts";
import type { Endpoint, Forward, ForwardRequest, Plan, RequestSurroundings, Sidecar } from "../lib/plan.ts";
import type { Capabilities, Relay, Target } from "../lib/target.ts";
import { parseSeconds } from "./duration.ts";
import { launchFunction } from "./enter.ts";
import { type Asked, parseForward } from "./forward/grammar.ts";
import forward from "./forward/forward.sh" with { type: "text" };
import posix from "./posix.sh" with { type: "text" };
import { leastRights, shareNamespaces } from "./sidecar.ts";

const DEFAULT_IMAGE = "nixery.dev/shell/socat:latest";
const DEFAULT_RUNNING_TIMEOUT_SECONDS = 10;

/** Where the sidecars have what they share: with this machine, with each other, with nobody. */
const EXCHANGE = "/.cdebug-exchange";
const VOLUME = "/.cdebug-volume";
const OWN = "/.cdebug";
/** The first of the ports that forwarders listen on for the engine: any would do, in a network of their own. */
const FIRST_PORT = 20000;

/**
 * Large blocks, a third faster than those of 64 KiB. A side that has closed its half waits for the other's answer, as
 * long as TCP would: for ever.
 */
const STREAM_OPTIONS = "-b 262144 -t 86400";
/**
 * Of a UNIX socket, so that it takes a block at once when it takes anything: a socat that waits for the rest to be taken
 * takes nothing from there itself, and the other end may wait for just that. Source: unix_writable() and
 * unix_stream_sendmsg() of linux/net/unix/af_unix.c: of a buffer of twice that, a quarter is used at most, and there is
 * room for 8 pieces of 35 KiB; socket(7), SO_SNDBUF.
 */
const ROOM = "sndbuf-late=212992";
/** Of a process for one connection: what launch carries at once, and a UNIX socket takes without more room. */
const PROCESS_OPTIONS = "-b 65536 -t 86400";
/** Sessions of datagrams end when nothing has come for a minute. */
const DATAGRAM_OPTIONS = "-b 65536 -T 60";

const script = [forward, posix, 'main "$@"\n'].join("\n");
/** The same with the program that carries datagrams, and connections over a process. */
export const scriptWithLaunch = [forward, posix, launchFunction(), 'main "$@"\n'].join("\n");

export const summary = "Forward ports from a container to this machine, and back";

export const usage =
  `cdebug port-forward [FLAGS] [[SCHEME://]TARGET] -L FORWARD|-R FORWARD... [-- COMMAND [ARG...]]

  -L [[LOCAL_HOST:]LOCAL_PORT:][REMOTE_HOST:]REMOTE_PORT   a port of the target's, or one that it reaches, here
  -R [REMOTE_HOST:]REMOTE_PORT:[LOCAL_HOST:]LOCAL_PORT     a port of this machine's, or one that it reaches, there

Without a REMOTE_HOST, -L goes to the target's own localhost; without a LOCAL_PORT, to any port that is free.
Listeners are on 127.0.0.1 unless a host is named. IPv6 addresses are in brackets; a port may be a name (http) or a
range (8000-8010); /udp behind it all means UDP; unix:PATH is a socket on either side. The forwards last until
Ctrl-C, outlive the target's restart, or last as long as COMMAND, whose exit code is then cdebug's.`;

export const examples =
  `  cdebug port-forward web -L 8080:80                    http://127.0.0.1:8080 is the target's port 80
  cdebug port-forward web -L 80                         the same on any free port, which is printed
  cdebug port-forward web -L 5432:db.internal:5432      a third host, as the target reaches it
  cdebug port-forward web -R 9000:localhost:3000        the target's 127.0.0.1:9000 is this machine's port 3000
  cdebug port-forward web -L 5300:53/udp -R 0.0.0.0:9000:3000
  cdebug port-forward web -L unix:/tmp/db.sock:5432 -L 2375:unix:/run/docker.sock
  cdebug port-forward pid://4711 -L 8080:80             a process; no engine
  cdebug port-forward web -L 5432 -- sh -c 'psql -h 127.0.0.1 -p \${CDEBUG_FORWARD_0##*:}'
  cdebug port-forward --dry-run web -L 8080:80          what would be done, and why`;

export const flags = {
  local: {
    type: "string",
    short: "L",
    multiple: true,
    value: "FORWARD",
    help: "Forward a port from the target to this machine",
  },
  remote: {
    type: "string",
    short: "R",
    multiple: true,
    value: "FORWARD",
    help: "Forward a port from this machine into the target",
  },
  via: {
    type: "string",
    choices: ["relay", "direct", "chain", "stream"],
    help: "How to go, where cdebug is not to choose (see README)",
  },
  detach: {
    type: "boolean",
    short: "d",
    help: "Leave the forwards to the engine and print the session; cdebug prune SESSION ends it",
  },
  "forwarder-image": {
    type: "string",
    value: "IMAGE",
    help: `The image whose socat forwards (default ${DEFAULT_IMAGE}; of processes host)`,
  },
  pull: {
    type: "string",
    choices: ["missing", "always", "never"],
    help: "When to pull the forwarder's image",
  },
  platform: { type: "string", value: "OS/ARCH", help: "Of the forwarder's image, as in linux/arm64" },
  "running-timeout": {
    type: "string",
    value: "TIME",
    help: `How long to wait for a target that has stopped (default ${DEFAULT_RUNNING_TIMEOUT_SECONDS}s)`,
  },
  output: {
    type: "string",
    short: "o",
    choices: ["json"],
    help: "Print events for programs, a line each, on stdout",
  },
  verbose: { type: "boolean", short: "v", help: "Tell of each connection" },
  runtime: {
    type: "string",
    value: "ADDRESS",
    help: "The engine's socket or URL, or runc's or crun's --root (default its client's)",
  },
} as const;

/** Flags may stand behind the target, as with ssh; what is behind `--` is the command's. */
export const interspersed = true;

/** Which way there is depends on where the engine is. */
export const asksLocality = true;

/** Reads the command line, already split into flags and words. Throws CdebugError where they contradict. */
export function request(
  values: Values<typeof flags>,
  words: readonly string[],
  _around: RequestSurroundings,
  command: readonly string[] = [],
): ForwardRequest {
  const [target, ...ports] = words;
  if (target === undefined) {
    throw refused("no target is named", "cdebug port-forward TARGET -L 8080:80");
  }
  const forwards = [
    ...[...ports, ...values.local ?? []].map((text) => `-L ${text}`),
    ...(values.remote ?? []).map((text) => `-R ${text}`),
  ];
  if (forwards.length === 0) {
    throw refused("no port is named", `cdebug port-forward ${target} -L 8080:80`);
  }
  for (const text of forwards) parse(text);
  if (values.detach && command.length > 0) {
    throw refused("--detach ends cdebug at once, and a command is to end the forwards", "leave out -d");
  }
  const timeout = values["running-timeout"];
  return {
    command: "port-forward",
    target,
    argv: [...command],
    forwards,
    ...values.via && { via: values.via as NonNullable<ForwardRequest["via"]> },
    ...values["forwarder-image"] && { image: values["forwarder-image"] },
    ...values.pull && { pull: values.pull as Sidecar["pull"] },
    ...values.platform && { platform: values.platform },
    ...values.detach && { detach: true },
    ...values.runtime && { runtime: values.runtime },
    ...timeout &&
      { runningTimeoutSeconds: parseSeconds(timeout, "port-forward: --running-timeout") },
  };
}

/** cdebug itself as the forwarder, on processes. */
const OWN_RELAY = "cdebug";

/** The forwarder that a request means. Throws CdebugError for an image where there can be none. */
export function toolkit({ image }: Partial<ForwardRequest>, { images, locality }: Capabilities): string {
  if (images) return image ?? DEFAULT_IMAGE;
  const found = image ?? (locality?.relay?.spare === false ? OWN_RELAY : "host");
  if (/^(host$|dir:\/)/.test(found) || (found === OWN_RELAY && locality?.relay)) return found;
  throw refused(
    `the forwarder "${found}" is an image, and a process's sidecar is none of an engine that has images`,
    "--forwarder-image host, this machine's own socat; cdebug, which is slower; or dir:/PATH, a root filesystem",
  );
}

/** cdebug itself as the forwarder, where it is. */
function ownRelay(request: ForwardRequest, capabilities: Capabilities): Relay | undefined {
  return toolkit(request, capabilities) === OWN_RELAY ? capabilities.locality?.relay : undefined;
}

/** How one forward goes, and what its sidecars have to do for it. */
interface Way {
  readonly forward: Forward;
  /** What the sidecar in the target's network listens on, if it does. */
  readonly listener?: readonly string[];
  /** The same of the one that the engine publishes. */
  readonly published?: { readonly listener: readonly string[]; readonly port: number };
}

/** The plan of a session. Pure: the same request on the same target gives the same plan. */
export function compile(request: ForwardRequest, target: Target, capabilities: Capabilities): Plan {
  if (target.state !== "running") {
    throw refused(
      target.state === "image"
        ? `"${target.name}" is an image, and has no ports`
        : `"${target.name}" is not running (exit code ${target.exitCode})`,
      target.state === "image"
        ? "cdebug port-forward TARGET, a running container"
        : `${target.engine} start ${target.name}`,
    );
  }
  const asked = request.forwards.flatMap(parse);
  const { via } = request;
  if ((via === "direct" || via === "chain") && asked.every(({ direction }) => direction === "remote")) {
    throw refused(`--via ${via} is a way for -L, and there is none`, "leave out --via");
  }
  const ways = asked.map((one, index) => findWay(one, index, request, target, capabilities));
  const inTarget = ways.filter(({ forward: { sidecar } }) => sidecar === FORWARDER);
  const { networks: _networks, ...facts } = target;
  const neighbours = ways.filter(({ forward: { sidecar } }) => sidecar === NEIGHBOUR);
  const chained = ways.filter(({ forward: { via } }) => via === "chain");
  return {
    version: 1,
    request,
    target: neighbours.length > 0 ? target : facts,
    sidecars: [
      ...inTarget.length > 0 ? [forwarder(inTarget, request, target, capabilities)] : [],
      ...chained.length > 0 ? [publisher(chained, request, target, capabilities)] : [],
      ...neighbours.length > 0 ? [neighbour(neighbours, request, target, capabilities)] : [],
    ],
    session: {
      kind: "forward",
      forwards: ways.map(({ forward }) => forward),
      detach: request.detach ?? false,
      runningTimeoutSeconds: request.runningTimeoutSeconds ?? DEFAULT_RUNNING_TIMEOUT_SECONDS,
    },
    leaves: request.detach ? ["the forwarders, until cdebug prune SESSION"] : [],
  };
}

const NO_RELAY = "--via relay takes an engine that shares this machine's filesystem";

/** In the target's network namespace; in front of it, published by the engine; beside it, on its network. */
const FORWARDER = "forwarder";
const PUBLISHER = "publisher";
const NEIGHBOUR = "neighbour";

function findWay(
  { as, direction, protocol, listen, connect }: Asked,
  index: number,
  request: ForwardRequest,
  target: Target,
  capabilities: Capabilities,
): Way {
  const { hostSockets = false, publish = false } = capabilities.locality ?? {};
  const { via, detach = false } = request;
  const number = index + 1;
  const destination: Endpoint = "host" in connect || "path" in connect
    ? connect
    : { host: "127.0.0.1", port: connect.port };
  const shown = { as, protocol, listen, connect: destination };
  const cannot = (why: string, hint?: string) =>
    new CdebugError(`Cannot forward "${as}": ${why}`, { ...hint !== undefined && { hint } });
  const exchanged = `${EXCHANGE}/${number}`;
  if ((protocol === "udp" || via === "stream") && ownRelay(request, capabilities)) {
    throw cannot(
      `${protocol === "udp" ? "UDP" : "--via stream"} takes socat, which this machine does not have`,
      "install socat (Debian, Ubuntu: apt-get install socat)",
    );
  }

  if (direction === "remote") {
    if (detach) throw cannot("-R ends here, and with --detach nobody is here", "leave out -d");
    if (via === "relay" && !hostSockets) throw cannot(NO_RELAY, "--via stream, or leave out --via");
    const streamed = via === "stream" || !hostSockets;
    const onward = streamed ? `announce ${number}` : `dial ${exchanged}`;
    return {
      forward: {
        ...shown,
        via: "reverse",
        reason: streamed
          ? "each connection is announced, and joined by a process in the sidecar"
          : "the sidecar and cdebug share a UNIX socket",
        sidecar: FORWARDER,
        ...streamed ? { exec: ["connection", PROCESS_OPTIONS] } : { socket: exchanged },
      },
      listener: [
        waitFor(protocol, inside(listen, target)),
        protocol === "udp" ? DATAGRAM_OPTIONS : STREAM_OPTIONS,
        listenAddress(protocol, inside(listen, target)),
        protocol === "udp"
          ? scriptAddress(`packets ${onward}`)
          : streamed
          ? scriptAddress(onward)
          : unixConnect(exchanged),
      ],
    };
  }

  const to = connectAddress(protocol, inside(destination, target));
  const streamTo = protocol === "udp" ? scriptAddress(`datagrams ${to}`) : to;
  const address = directAddress(connect, target);
  const publishable = publish && !("path" in listen);
  // What listens on the target's localhost alone is not there on its address.
  const publishedVia = address !== undefined && "host" in connect ? "direct" : "chain";
  const chosen = via ??
    (detach ? publishedVia : hostSockets ? "relay" : publishable ? publishedVia : "stream");
  if (detach && chosen !== "direct" && chosen !== "chain") {
    throw cannot(`--via ${chosen} goes through cdebug, and with --detach that ends`, "leave out -d");
  }
  const whyNot = detach ? "with --detach it goes on without cdebug" : "it was asked for";
  const chosenBecause = via || detach ? whyNot : undefined;
  if (chosen === "relay" || chosen === "stream") {
    if (chosen === "relay" && !hostSockets) {
      throw cannot(NO_RELAY, "--via stream, or leave out --via");
    }
    const relayed = chosen === "relay";
    return {
      forward: {
        ...shown,
        via: chosen,
        reason: chosenBecause ??
          (relayed
            ? "the engine is on this machine: a UNIX socket joins cdebug and the sidecar"
            : "the engine publishes no ports here: each connection is a process in the sidecar"),
        sidecar: FORWARDER,
        ...relayed ? { socket: exchanged } : { exec: ["join", PROCESS_OPTIONS, streamTo] },
      },
      ...relayed && {
        listener: [
          `unix ${exchanged}`,
          protocol === "udp" ? DATAGRAM_OPTIONS : STREAM_OPTIONS,
          unixListen(exchanged),
          streamTo,
        ],
      },
    };
  }
  if (!publishable) {
    throw cannot(
      "path" in listen
        ? "the engine publishes ports, not UNIX sockets"
        : publish
        ? "it cannot be published"
        : `${target.engine} publishes no ports on this machine`,
      detach ? "leave out -d" : "leave out --via",
    );
  }
  const port = FIRST_PORT + number;
  const published = {
    port,
    listener: [
      waitFor(protocol, { host: "0.0.0.0", port }),
      protocol === "udp" ? DATAGRAM_OPTIONS : STREAM_OPTIONS,
      listenAddress(protocol, { host: "0.0.0.0", port }),
    ],
  };
  if (chosen === "direct") {
    if (address === undefined) {
      throw cannot(
        "--via direct goes to an address of the target's on one of its networks, and that is none",
        "--via chain, or leave out --via",
      );
    }
    return {
      forward: {
        ...shown,
        connect: address,
        via: "direct",
        reason: chosenBecause ?? "the engine publishes a port on this machine, and the target has an address",
        sidecar: NEIGHBOUR,
      },
      published: { port, listener: [...published.listener, connectAddress(protocol, address)] },
    };
  }
  const joint = `${VOLUME}/${number}`;
  // Datagrams keep their ends on sockets of this type.
  const packets = protocol === "udp" ? ",type=5" : "";
  return {
    forward: {
      ...shown,
      via: "chain",
      reason: chosenBecause ?? "only the target itself gets there, and the engine publishes a port",
      sidecar: FORWARDER,
    },
    listener: [`unix ${joint}`, published.listener[1]!, `${unixListen(joint)}${packets}`, to],
    published: { port, listener: [...published.listener, `${unixConnect(joint)}${packets}`] },
  };
}

/** The target's address that a connection would go to, if it is one. */
function directAddress(connect: Asked["connect"], { networks = [] }: Target): Endpoint | undefined {
  if ("path" in connect) return undefined;
  if (!("host" in connect)) {
    return networks[0] && { host: networks[0].address, port: connect.port };
  }
  return networks.some(({ address }) => address === connect.host) ? connect : undefined;
}

/** A UNIX socket of the target's, as its sidecar sees it. */
function inside(endpoint: Endpoint, { pid, name }: Target): Endpoint {
  if (!("path" in endpoint)) return endpoint;
  if (pid === null) {
    throw refused(`where the files of "${name}" are, the engine cannot tell`, "a TCP port instead");
  }
  return { path: `/proc/${pid}/root${endpoint.path}` };
}

const isSocket = (endpoint: Endpoint) => "path" in endpoint;

/** In the target's network namespace. */
function forwarder(
  ways: readonly Way[],
  request: ForwardRequest,
  target: Target,
  capabilities: Capabilities,
): Sidecar {
  const { namespaces, reasons: shared } = shareNamespaces(target, capabilities);
  const listening = ways.filter(({ forward: { via } }) => via === "reverse").map(({ forward }) => forward);
  const intoFiles = ways.some(({ forward: { via, listen, connect } }) =>
    isSocket(via === "reverse" ? listen : connect)
  );
  const { rights, reasons: granted } = leastRights(target, { root: "toolkit" }, capabilities);
  const low = listening.filter(({ listen }) => "port" in listen && listen.port < 1024);
  const launches = ways.some(({ forward: { protocol, exec } }) => protocol === "udp" || exec !== undefined);
  const needed = [...capabilities.starting ?? [], ...low.length > 0 ? ["NET_BIND_SERVICE"] : []];
  const reasons = [
    "is in the target's network namespace, and nowhere else",
    ...low.length > 0 ? [`NET_BIND_SERVICE is added: ${low[0]!.as} listens below port 1024`] : [],
    ...intoFiles
      ? ["shares the target's PIDs, to find its UNIX sockets", ...granted]
      : ["has no Linux capability that it does not need"],
    ...intoFiles ? shared : [],
  ];
  return {
    name: FORWARDER,
    reason: reasons.join("; "),
    ...common(request, capabilities),
    namespaces: {
      ...namespaces,
      ...capabilities.ownNamespaces && { ipc: "own", uts: "own", ...!intoFiles && { pid: "own" } },
    },
    user: "0",
    ...intoFiles
      ? {
        ...rights,
        ...low.length > 0 && {
          addLinuxCapabilities: [...new Set([...rights.addLinuxCapabilities ?? [], ...needed])],
        },
      }
      : unprivileged(rights, needed),
    ...ways.some(({ forward: { socket } }) => socket !== undefined) && { exchange: EXCHANGE },
    ...ways.some(({ forward: { via } }) => via === "chain") && { volumes: [VOLUME] },
    ...launches && { tmpfs: [OWN] },
    ...life(
      request.detach,
      ways.flatMap(({ listener = [] }) => listener),
      launches,
      ownRelay(request, capabilities)?.command,
    ),
  };
}

/** In front of the forwarder, with ports that the engine publishes. */
function publisher(
  ways: readonly Way[],
  request: ForwardRequest,
  target: Target,
  capabilities: Capabilities,
): Sidecar {
  return front(ways, request, target, capabilities, {
    name: PUBLISHER,
    reason:
      "publishes the ports, on a network that nobody else is on; a volume's UNIX sockets lead to the forwarder",
  }, { volumesFrom: FORWARDER, privateNetwork: true });
}

/** On the target's network, with ports that the engine publishes. */
function neighbour(
  ways: readonly Way[],
  request: ForwardRequest,
  target: Target,
  capabilities: Capabilities,
): Sidecar {
  const { connect } = ways[0]!.forward;
  const { name } = target.networks!.find(({ address }) => "host" in connect && address === connect.host)!;
  return front(ways, request, target, capabilities, {
    name: NEIGHBOUR,
    reason: `publishes the ports, and reaches the target on its network ${name}`,
  }, { network: name });
}

function front(
  ways: readonly Way[],
  request: ForwardRequest,
  target: Target,
  capabilities: Capabilities,
  what: Pick<Sidecar, "name" | "reason">,
  place: Pick<Sidecar, "volumesFrom" | "network" | "privateNetwork">,
): Sidecar {
  const { rights } = leastRights(target, { root: "toolkit" }, capabilities);
  return {
    ...what,
    ...common(request, capabilities),
    namespaces: { network: "own", pid: "own", ipc: "own", uts: "own", user: "engine" },
    user: "0",
    ...unprivileged(rights, []),
    ...place,
    publish: ways.map(({ forward: { listen, protocol }, published }) => ({
      ...listen as { host: string; port: number },
      to: published!.port,
      protocol,
    })),
    ...life(request.detach, ways.flatMap(({ published }) => published!.listener), false),
  };
}

function common(
  request: ForwardRequest,
  capabilities: Capabilities,
): Pick<Sidecar, "image" | "pull" | "mounts"> {
  const relay = ownRelay(request, capabilities);
  const mounts = Object.entries(relay?.files ?? {}).map(([destination, source]) => ({
    source,
    destination,
    readOnly: true,
  }));
  return {
    image: relay ? "host" : toolkit(request, capabilities),
    ...mounts.length > 0 && { mounts },
    pull: capabilities.images ? request.pull ?? "missing" : "never",
    ...request.platform && { platform: request.platform },
  };
}

function unprivileged(
  { securityOptions }: Pick<Sidecar, "securityOptions">,
  needed: readonly string[],
): Pick<Sidecar, "addLinuxCapabilities" | "dropLinuxCapabilities" | "securityOptions"> {
  return {
    ...needed.length > 0 && { addLinuxCapabilities: [...needed] },
    dropLinuxCapabilities: ["ALL"],
    ...securityOptions && { securityOptions },
  };
}

function life(
  detach: boolean | undefined,
  listeners: readonly string[],
  launches: boolean,
  relay = "socat",
): Pick<Sidecar, "tty" | "stdin" | "shell" | "script" | "args"> {
  return {
    tty: false,
    stdin: detach ? "none" : "lifeline",
    shell: "sh",
    script: launches ? scriptWithLaunch : script,
    args: [detach ? "hold" : "serve", relay, ...listeners],
  };
}

/** What shows that a listener listens, in the words of forward.sh. */
function waitFor(protocol: string, endpoint: Endpoint): string {
  return "path" in endpoint ? `unix ${endpoint.path}` : `${protocol} ${endpoint.host} ${endpoint.port}`;
}

function unixListen(path: string): string {
  return `UNIX-LISTEN:${path},fork,mode=666,backlog=4096,${ROOM}`;
}

function unixConnect(path: string): string {
  return `UNIX-CONNECT:${path},${ROOM}`;
}

/** Source: socat(1). */
function listenAddress(protocol: string, endpoint: Endpoint): string {
  if ("path" in endpoint) return unixListen(endpoint.path);
  const { host, port } = endpoint;
  const family = isIpv6(host) ? "6" : "4";
  const bind = isIpv6(host) ? `[${host}]` : host;
  const options = protocol === "udp" ? "" : ",backlog=4096,nodelay";
  return `${protocol.toUpperCase()}${family}-LISTEN:${port},bind=${bind},fork,reuseaddr${options}`;
}

/** Source: socat(1). A host that does not answer is given up before people give up. */
function connectAddress(protocol: string, endpoint: Endpoint): string {
  if ("path" in endpoint) return unixConnect(endpoint.path);
  const { host, port } = endpoint;
  const family = isIpv6(host) ? "6" : /^[\d.]+$/.test(host) ? "4" : "";
  const shown = isIpv6(host) ? `[${host}]` : host;
  const options = protocol === "udp" ? "" : ",connect-timeout=20,nodelay";
  return `${protocol.toUpperCase()}${family}-CONNECT:${shown}:${port}${options}`;
}

function isIpv6(host: string): boolean {
  return host.includes(":");
}

/**
 * A process of this script's that takes over a connection, as its stdin and stdout.
 * Source: socat(1), SYSTEM, nofork; what socat takes for its own is behind a backslash.
 */
function scriptAddress(mode: string): string {
  const quoted = mode.replace(/[:,\\!"']/g, (char) => `\\${char}`);
  return `SYSTEM:set -- ${quoted}; eval \\"$CDEBUG_SCRIPT\\",nofork`;
}

function parse(text: string): Asked[] {
  const [, letter, value] = /^-([LR]) (.*)$/s.exec(text) ?? [];
  return parseForward(letter as "L" | "R", value ?? "");
}

function refused(text: string, hint?: string): CdebugError {
  return new CdebugError(`Cannot forward: ${text}`, { ...hint !== undefined && { hint } });
}
