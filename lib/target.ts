/** How a target is named (the ref), and what is known of one once it has been looked at. */

import { CdebugError, nearest } from "./errors.ts";
import type { PlannedTarget } from "./plan.ts";

/** The target as observed once: a frozen snapshot. Running, or `inspect` would have refused it. */
export type Target = Readonly<PlannedTarget>;

/** What an engine's driver can do, as data, known before planning. */
export interface Capabilities {
  /** The namespaces of a target that a sidecar can share. */
  readonly join: readonly ("network" | "pid" | "ipc" | "uts")[];
}

/** What is shown of a container in lists and suggestions. */
export interface Candidate {
  readonly id: string;
  readonly name: string;
  readonly image: string;
  readonly state: string;
}

/** A target as named by the user: `docker://web` → engine `docker`, name `web`. */
export interface Ref {
  readonly engine: Engine;
  readonly name: string;
}

/** The engines there is a driver for; each is also the scheme of its refs. */
export const ENGINES = ["docker", "podman"] as const;
export type Engine = typeof ENGINES[number];

/** Reads `[SCHEME://]NAME`. Throws CdebugError for a scheme without a driver, or a name that cannot be one. */
export function parseRef(text: string): Ref {
  const [, scheme, rest] = /^([a-zA-Z0-9+.-]+):\/\/(.*)$/s.exec(text) ??
    [text, "docker", text];
  const engine = ENGINES.find((known) => known === scheme);
  if (engine === undefined) {
    const near = nearest(scheme!, ENGINES);
    throw new CdebugError(
      `Cannot find target "${text}": unknown scheme "${scheme}"`,
      {
        hint: `cdebug knows ${
          (near.length > 0 ? near : ENGINES).map((known) => `${known}://`)
            .join(", ")
        }`,
      },
    );
  }
  // The engine's own rule for names; anything else could reach another address of its API.
  if (!/^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/.test(rest!)) {
    throw new CdebugError(
      `Cannot find target "${text}": "${rest}" is not a container's name or ID`,
      { hint: `${engine} ps  lists the containers` },
    );
  }
  return { engine, name: rest! };
}

/** What has changed between the target of a plan and the target of now, or nothing. */
export function differences(planned: Target, now: Target): string[] {
  return (["id", "startedAt"] as const)
    .filter((key) => planned[key] !== now[key])
    .map((key) => `${key} was ${planned[key]}, is ${now[key]}`);
}
