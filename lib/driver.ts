/** The contract between the executor and an engine. A driver translates specs and knows nothing of debugging. */

import type { Sidecar } from "./plan.ts";
import type { Candidate, Capabilities, Engine, Kind, Target } from "./target.ts";

/** Where a sidecar's input comes from and its output goes to; a stream that is missing is closed or dropped. */
export interface Streams {
  readonly stdin?: ReadableStream<Uint8Array>;
  /** Resolves when the chunk has been taken: the way that back-pressure travels. */
  readonly stdout?: (chunk: Uint8Array) => Promise<void>;
  readonly stderr?: (chunk: Uint8Array) => Promise<void>;
  /** The terminal's size at the start. */
  readonly size?: Size;
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

export interface Driver extends AsyncDisposable {
  readonly engine: Engine;
  readonly capabilities: Capabilities;
  /** The target as it is now. Throws CdebugError if it is unknown, ambiguous, or neither running nor stopped. */
  inspect(name: string, kind?: Kind): Promise<Target>;
  /** Whether a target, by ID, runs; `gone` if there is no such container any more. */
  state(id: string): Promise<"running" | "stopped" | "gone">;
  /** All containers, for pickers and suggestions. */
  list(): Promise<Candidate[]>;
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
  /** Removes a sidecar, running or not, and the image that was made for it; one that is gone is no error. */
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
  }
}
