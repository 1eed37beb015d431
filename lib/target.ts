/** How a target is named (the ref), and what is known of one once it has been looked at. */

import { CdebugError, nearest } from "./errors.ts";
import type { Endpoint, PlannedTarget, Request } from "./plan.ts";

/** The target as observed once: a frozen snapshot. */
export type Target = Readonly<PlannedTarget>;

/** What an engine's driver can do, as data, known before planning. */
export interface Capabilities {
  /** The namespaces of a target that a sidecar can share. */
  readonly join: readonly ("network" | "pid" | "ipc" | "uts" | "user")[];
  /** Why not the others. */
  readonly cannotJoin?: Readonly<Record<string, string>>;
  /** What of a target's security options a sidecar cannot have, by their names, and why. */
  readonly cannotCopy?: Readonly<Record<string, string>>;
  /** The Linux capabilities that it takes to start a sidecar at all, and that the sidecar then has. */
  readonly starting?: readonly string[];
  /** Whether several targets may have one root filesystem, which outlives them. */
  readonly sharedRoots?: boolean;
  /** Whether toolkits are images; else they are `host`, this machine's own programs, and `dir:/PATH`. */
  readonly images: boolean;
  /** How a sidecar gets the user's terminal: as its own, or one that cdebug relays. */
  readonly terminal: "relayed" | "inherited";
  /** Where the engine is; there only for a compiler that asks for it. */
  readonly locality?: Locality;
  /** Whether a sidecar can have namespaces of its own but for the network, IDs of processes among them. */
  readonly ownNamespaces: boolean;
  /** Whether a sidecar can be made of a container's filesystem, with files put into it. */
  readonly snapshot: boolean;
}

/** Where the engine is, seen from here; it takes a look that most commands need not wait for. */
export interface Locality {
  /** Engine and cdebug share this machine's filesystem: a directory's sockets are reached from both sides. */
  readonly hostSockets: boolean;
  /** The ports that it publishes are this machine's. */
  readonly publish: boolean;
  /** What forwards on it where no image does. */
  readonly relay?: Relay;
}

/** cdebug itself as a forwarder. */
export interface Relay {
  /** The command, in words without blanks; the addresses come behind it, as socat's do. */
  readonly command: string;
  /** What of this machine it needs in the sidecar, by its place there. */
  readonly files: Readonly<Record<string, string>>;
  /** Whether this machine has a socat, which is preferred to it. */
  readonly spare: boolean;
}

/** What goes for a target of which nothing runs, nor is going to: only its files are there. */
export const FILES_ONLY = {
  startedAt: "",
  pid: null,
  readOnlyRoot: false,
  privileged: false,
  namespaces: { network: "own", pid: "own", ipc: "own", uts: "own", user: "own" },
  addLinuxCapabilities: [],
  dropLinuxCapabilities: [],
  securityOptions: [],
} satisfies Partial<Target>;

/** What is shown of a container in lists and suggestions. */
export interface Candidate {
  readonly id: string;
  readonly name: string;
  readonly image: string;
  /** The image's ID. */
  readonly imageId: string;
  /** In the engine's words: `running`, `exited`. */
  readonly state: string;
  readonly createdAt: Date;
  readonly labels: Readonly<Record<string, string>>;
}

/** A target as named by the user: `podman://web` → the engine `podman`, the name `web`. */
export interface Ref {
  /** Where it may be, the first one first; all engines where the user names none. */
  readonly engines: readonly Engine[];
  readonly kind: Kind;
  readonly name: string;
}

/** What a ref can name. */
export type Kind = "container" | "image";

/** The engines there is a driver for, the highest first: what one has, those behind it may see as well. */
export const ENGINES = ["docker", "podman", "runc", "crun", "pid"] as const;
/** A registry is none, but has the files of images. */
export type Engine = typeof ENGINES[number] | "registry";

/** The engine whose containers need no scheme. */
export const DEFAULT_ENGINE: Engine = ENGINES[0];

/** What a user types to see what each has. */
const LISTS: Readonly<Record<Engine, string>> = {
  docker: "docker ps",
  podman: "podman ps",
  runc: "runc list",
  crun: "crun list",
  pid: "ps -e",
  registry: "docker search",
};

/** Those whose targets can be images. */
const IMAGE_ENGINES: readonly Engine[] = ["docker", "podman", "registry"];

/** The schemes of refs: each engine's for its containers, and for its images; `image://` and `oci://` are any of theirs. */
const SCHEMES: Readonly<Record<string, Pick<Ref, "engines" | "kind">>> = {
  ...Object.fromEntries(ENGINES.map((engine) => [engine, { engines: [engine], kind: "container" }])),
  ...Object.fromEntries(
    IMAGE_ENGINES.map((engine) => [`${engine}-image`, { engines: [engine], kind: "image" }]),
  ),
  image: { engines: IMAGE_ENGINES, kind: "image" },
  oci: { engines: ["runc", "crun"], kind: "container" },
};

/** What a ref without a scheme means. */
const BARE: Pick<Ref, "engines" | "kind"> = { engines: ENGINES, kind: "container" };

/** What the engines take for a name; anything else could reach another address of their API. */
const NAMES: Readonly<Record<Kind, RegExp>> = {
  container: /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/,
  image: /^[a-zA-Z0-9][a-zA-Z0-9_.:@-]*(\/[a-zA-Z0-9_][a-zA-Z0-9_.:@-]*)*$/,
};

/** Reads `[SCHEME://]NAME`. Throws CdebugError for a scheme without a driver, or a name that cannot be one. */
export function parseRef(text: string): Ref {
  const [, scheme, name = text] = /^([a-zA-Z0-9+.-]+):\/\/(.*)$/s.exec(text) ?? [];
  const known = scheme === undefined ? BARE : Object.hasOwn(SCHEMES, scheme) ? SCHEMES[scheme] : undefined;
  if (known === undefined) {
    const schemes = Object.keys(SCHEMES);
    const near = nearest(scheme!, schemes);
    throw new CdebugError(
      `Cannot find target "${text}": unknown scheme "${scheme}"`,
      { hint: `cdebug knows ${(near.length > 0 ? near : schemes).map((found) => `${found}://`).join(", ")}` },
    );
  }
  const { engines: [engine], kind } = known;
  // Programs are called anything, and no address is made of it.
  const process = scheme === "pid";
  if (process ? name === "" : !NAMES[kind].test(name)) {
    throw new CdebugError(
      `Cannot find target "${text}": "${name}" is not ${
        process
          ? "a PID or a program's name"
          : kind === "image"
          ? "an image's name"
          : "a container's name or ID"
      }`,
      { hint: `${kind === "image" ? `${engine} images` : LISTS[engine!]}  lists what there is` },
    );
  }
  return { ...known, name };
}

const RANKS: readonly Engine[] = [...ENGINES, "registry"];

/** How much of an ID tells that it is the same. */
const TELLING_ID = 12;

/** What several engines have, each thing once: as the highest of the engines that have it knows it. */
export function highest<T extends { readonly engine: Engine; readonly id: string; readonly name: string }>(
  all: readonly T[],
): T[] {
  return all.filter(({ engine, id, name }) =>
    !all.some((other) =>
      RANKS.indexOf(other.engine) < RANKS.indexOf(engine) &&
      (other.id === id || (name.length >= TELLING_ID && other.id.startsWith(name)))
    )
  );
}

/** The target of a plan, by a ref that is sure to mean the same. */
export function refOf({ engine, state, name }: Target): string {
  return `${engine}${state === "image" ? "-image" : ""}://${name}`;
}

/** The shortest text that `parseRef` reads as this container. */
export function formatRef({ engine, name }: { readonly engine: string; readonly name: string }): string {
  return engine === DEFAULT_ENGINE ? name : `${engine}://${name}`;
}

/** As a user would type it: `127.0.0.1:80`, `[::1]:80`, `unix:/run/app.sock`. */
export function formatEndpoint(endpoint: Endpoint): string {
  if ("path" in endpoint) return `unix:${endpoint.path}`;
  return `${endpoint.host.includes(":") ? `[${endpoint.host}]` : endpoint.host}:${endpoint.port}`;
}

/** What a request does, in the user's words: the command, or the forwards. */
export function titleOf(request: Request): string {
  switch (request.command) {
    case "exec":
      return request.argv.join(" ");
    case "port-forward":
      return request.forwards.join(" ");
    case "export":
      return `-o ${request.output}`;
  }
}

/** What has changed between the target of a plan and the target of now, or nothing. */
export function differences(planned: Target, now: Target): string[] {
  return (["id", "startedAt", "state"] as const)
    .filter((key) => planned[key] !== now[key])
    .map((key) => `${key} was ${planned[key]}, is ${now[key]}`);
}
