/** The sessions on an engine: found by their sidecars' labels, and judged by whether their cdebug lives. */

import type { Driver } from "./driver.ts";
import { ownerState } from "./owner.ts";
import type { Candidate, Engine } from "./target.ts";

/** What the entry script puts into its sidecar's `/` when the user lets go of a terminal and leaves it running. */
const DETACHED_MARK = "/.cdebug-detached";

/** A container that has ended, or is on its way out, in the words of Docker and Podman. */
const ENDED = ["exited", "stopped", "dead", "removing"];

export interface SessionFound {
  readonly session: string;
  readonly engine: Engine;
  /** The name is the beginning of the ID where the target is gone. */
  readonly target: { readonly id: string; readonly name: string };
  readonly state: string;
  readonly createdAt: Date;
  readonly command: string;
  /** `detached`: nobody's, by the user's wish. `elsewhere`: of a machine from which nothing is seen here. */
  readonly owner: "alive" | "dead" | "elsewhere" | "detached";
  readonly containers: readonly Candidate[];
  /** It has ended, or has lost its cdebug: nobody misses what is left of it. */
  readonly over: boolean;
}

/** All sessions, the newest first; `containers` are all that the engine has, asked for if not given. */
export async function findSessions(
  driver: Driver,
  containers?: readonly Candidate[],
): Promise<SessionFound[]> {
  const all = containers ?? await driver.list();
  const bySession = new Map<string, Candidate[]>();
  for (const container of all) {
    const session = container.labels["cdebug.session"];
    if (session) bySession.set(session, [...bySession.get(session) ?? [], container]);
  }
  const sessions = await Promise.all(
    [...bySession].map(async ([session, own]): Promise<SessionFound> => {
      const going = own.find(({ state }) => !ENDED.includes(state));
      const { state, createdAt, labels } = going ?? own[0]!;
      const id = labels["cdebug.target"] ?? "";
      const owner = await ownerOf(driver, labels, going);
      return {
        session,
        engine: driver.engine,
        target: { id, name: all.find((container) => container.id === id)?.name ?? id.slice(0, 12) },
        state,
        createdAt,
        command: labels["cdebug.command"] ?? "",
        owner,
        containers: own,
        over: owner !== "alive" && (owner === "dead" || !going),
      };
    }),
  );
  // Engines count in seconds.
  return sessions.sort((a, b) =>
    b.createdAt.getTime() - a.createdAt.getTime() || a.session.localeCompare(b.session)
  );
}

/** Sessions that go on without the cdebug that they belong to, against the user's wish. */
export function orphans(sessions: readonly SessionFound[]): SessionFound[] {
  return sessions.filter(({ owner, state }) => owner === "dead" && !ENDED.includes(state));
}

/** Whether an image or container that carries cdebug's labels belongs to a process that lives, or may live. */
export async function mayBeOwned(labels: Candidate["labels"]): Promise<boolean> {
  const owner = labels["cdebug.owner"];
  return owner !== undefined && await ownerState(owner) !== "dead";
}

async function ownerOf(
  driver: Driver,
  labels: Candidate["labels"],
  going: Candidate | undefined,
): Promise<SessionFound["owner"]> {
  if (labels["cdebug.detached"]) return "detached";
  const state = await ownerState(labels["cdebug.owner"] ?? "");
  const leftOnPurpose = state === "dead" && going && (await driver.added(going.id)).includes(DETACHED_MARK);
  return leftOnPurpose ? "detached" : state;
}
