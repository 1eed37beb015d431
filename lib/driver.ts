/** The contract between the executor and an engine. A driver translates specs and knows nothing of debugging. */

import type { LayerSource } from "./layers.ts";
import type { Sidecar } from "./plan.ts";
import type { Candidate, Capabilities, Engine, Kind, Locality, Target } from "./target.ts";

/** Where a sidecar's input comes from and its output goes to; a stream that is missing is closed or dropped. */
export interface Streams {
  readonly stdin?: ReadableStream<Uint8Array>;
  /** Resolves when the chunk has been taken: the way that back-pressure travels. */
  readonly stdout?: (chunk: Uint8Array) => Promise<void>;
  readonly stderr?: (chunk: Uint8Array) => Promise<void>;
  /** The terminal's size at the start. */
  readonly size?: Size;
  /** The sidecar has cdebug's own stdin and stdout, a terminal, instead. */
  readonly inherit?: boolean;
}

export interface Size {
  readonly rows: number;
  readonly columns: number;
}

/** A spec with what only the executor knows. */
export interface Realised {
  readonly sidecar: Sidecar;
  readonly target: Target;
  /** The container's name. */
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly env: Readonly<Record<string, string>>;
  /** Not attached: the streams are closed, and the container outlives cdebug. */
  readonly detached: boolean;
  /** The container that it joins instead of the target's, by ID. */
  readonly joined?: string;
  /** The container whose volumes it has as well, by ID. */
  readonly volumesFrom?: string;
  /** Where to mount the root filesystem of a target that has stopped. */
  readonly targetRoot?: string;
}

export type Progress =
  | { readonly kind: "pulling"; readonly image: string }
  | {
    readonly kind: "pull-progress";
    readonly layer: string;
    readonly status: string;
  }
  | { readonly kind: "pulled"; readonly image: string };

/** A process that a driver has started. */
export interface Running {
  /** The container's ID. */
  readonly id: string;
  /** The exit code, once the process has ended and all its output has been taken. Rejects if the engine is lost. */
  readonly exit: Promise<number>;
  resize(size: Size): Promise<void>;
  /** Lets go of the streams and leaves the process running. */
  release(): void;
}

/** A port of a container that the engine has published. */
export interface Published {
  /** The container's port. */
  readonly to: number;
  readonly protocol: "tcp" | "udp";
  /** The port of the engine's machine. */
  readonly port: number;
}

/** Something that an engine has besides containers, and that was made for one. */
export interface ResourceFound {
  readonly kind: "image" | "network";
  readonly id: string;
  /** Its names; none if it has only its ID. */
  readonly names: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
}

/** Where an engine is. */
export interface Location {
  /** As the user knows it: `unix:///var/run/docker.sock`. */
  readonly address: string;
  /** What named it: `DOCKER_HOST`, `context "prod"`; DEFAULT_SOURCE if nothing did. */
  readonly source: string;
}

/** The source of an address that nobody has chosen. */
export const DEFAULT_SOURCE = "the default";

/** What an engine says of itself. */
export interface EngineDescription {
  readonly version: string;
  /** The newest version of its API, where it has one. */
  readonly apiVersion?: string;
  /** Of its machine, as in `linux/amd64`. */
  readonly platform: string;
  readonly operatingSystem: string;
  readonly rootless: boolean;
  /** Root in its containers is not root on its machine. */
  readonly userNamespaceRemapped: boolean;
  readonly storageDriver?: string;
  readonly cgroupVersion?: string;
  /** What confines its containers: `seccomp`, `apparmor`, `selinux`. */
  readonly securityOptions: readonly string[];
}

/** How a target is looked at. */
export interface Looking {
  /** Only its files matter: it may be paused, or have stopped where that leaves nothing to enter; `mounts` is told. */
  readonly reading?: boolean;
  /** Of an image in a registry, as in linux/arm64. */
  readonly platform?: string;
  /** The file that names mirrors and certificate authorities of registries. */
  readonly registryConfig?: string;
}

export interface ArchiveOptions {
  readonly path?: string;
  readonly signal: AbortSignal;
  /** Called with what could not be read, for people. */
  readonly complain: (line: string) => void;
}

export interface LayerOptions {
  readonly signal: AbortSignal;
  /** Called with how much of a layer is there, in bytes. */
  readonly report: (progress: { digest: string; done: number; total: number }) => void;
}

/** Layers that can be read until they are disposed of. */
export interface Layers extends AsyncDisposable {
  readonly layers: readonly LayerSource[];
}

export interface Driver extends AsyncDisposable {
  readonly engine: Engine;
  readonly capabilities: Capabilities;
  /**
   * The target as it is now. Throws NotFound if it is unknown, CdebugError if it is ambiguous, or neither running nor
   * stopped.
   */
  inspect(name: string, kind?: Kind, looking?: Looking): Promise<Target>;
  /** Whether a target, by ID, runs; `gone` if there is no such container any more. */
  state(id: string): Promise<"running" | "stopped" | "gone">;
  /** All containers, running or not; with `label`, those that have it. */
  list(options?: { readonly label?: string }): Promise<Candidate[]>;
  /**
   * The paths that a container's root filesystem has and its image has not; none where the engine cannot tell, or
   * the container is gone.
   */
  added(id: string): Promise<string[]>;
  /** Where a symbolic link in a container leads; undefined if it is none, or cannot be read. */
  readLink(id: string, path: string): Promise<string | undefined>;
  /**
   * The files of a container, running or not, as a tar archive. Of the whole, what is mounted in it is left out; of a
   * path it is there, and the names begin with the path's last part. Throws CdebugError.
   */
  archive(target: Target, options: ArchiveOptions): AsyncIterable<Uint8Array<ArrayBuffer>>;
  /** The layers of an image that this driver has looked at, the lowest first. Throws CdebugError. */
  layers(target: Target, options: LayerOptions): Promise<Layers>;
  /** Resolves when a target does not run any more, the engine does not answer, or `signal` has fired. */
  ended(id: string, signal: AbortSignal): Promise<void>;
  /** Where the engine is, seen from here. */
  locality(): Promise<Locality>;
  /** The ports that a running sidecar has got. */
  published(id: string): Promise<Published[]>;
  /** All images and networks that have a label. */
  labelled(label: string): Promise<ResourceFound[]>;
  /** Whether the engine has an image, by its name. */
  hasImage(name: string): Promise<boolean>;
  /** Removes an image or a network that no container uses; one that is gone is no error, one in use is. */
  removeResource(resource: Pick<ResourceFound, "kind" | "id">): Promise<void>;
  /** What the engine says of itself. */
  describe(): Promise<EngineDescription>;
  /**
   * Starts a sidecar and returns as soon as it runs. Pulls its image, or makes it of a container, as the spec says. When it has failed, or
   * `signal` has fired, nothing is left of it. The engine removes the container when it has ended, unless the
   * spec keeps it.
   */
  run(
    spec: Realised,
    streams: Streams,
    signal: AbortSignal,
    report: (progress: Progress) => void,
  ): Promise<Running>;
  /** Runs one more process in a running sidecar. */
  exec(id: string, argv: readonly string[], streams: Streams): Promise<Running>;
  /** What a user types to remove a sidecar, by its name. */
  removeCommand(name: string): string;
  /** Removes a sidecar, running or not, and the image and the network that were made for it; one that is gone is no error. */
  remove(id: string): Promise<void>;
}

/**
 * The argv that runs a spec's script in one of its modes; without a script, it is `args`. The text itself travels in the environment
 * (`CDEBUG_SCRIPT`), so that process lists stay readable.
 */
export function scriptCommand(
  sidecar: Sidecar,
  args: readonly string[],
): string[] {
  if (sidecar.shell === undefined) return [...args];
  return [sidecar.shell, "-c", 'eval "$CDEBUG_SCRIPT"', "cdebug", ...args];
}

/** Where the driver would look for its engine. Throws CdebugError if what is named cannot be read. */
export async function locate(engine: Engine, address: string | undefined): Promise<Location> {
  switch (engine) {
    case "docker":
    case "podman": {
      const { findEndpoint } = await import("./drivers/docker/endpoint.ts");
      return await findEndpoint(engine, address);
    }
    case "registry":
      return { address: "its registry", source: DEFAULT_SOURCE };
    case "runc":
    case "crun":
    case "pid": {
      const { locateTool } = await import("./drivers/process/tools.ts");
      return locateTool(engine, address);
    }
  }
}

/** Opens the driver of an engine; the others are never loaded. `address` stands in for what it would find itself. */
export async function openDriver(
  engine: Engine,
  address: string | undefined,
): Promise<Driver> {
  switch (engine) {
    case "docker":
    case "podman": {
      const { openDocker } = await import("./drivers/docker/driver.ts");
      return await openDocker(engine, address);
    }
    case "registry": {
      const { openRegistries } = await import("./drivers/registry.ts");
      return openRegistries();
    }
    case "runc":
    case "crun":
    case "pid": {
      const { openProcesses } = await import("./drivers/process/driver.ts");
      return openProcesses(engine, address);
    }
  }
}
