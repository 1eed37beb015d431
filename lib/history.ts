/**
 * What ran: a file for each run in the user's state directory. Nothing here ever fails a session: where nothing can
 * be kept, nothing is.
 */

import { CdebugError, EXIT, reason } from "./errors.ts";
import { ownerState } from "./owner.ts";
import type { Plan } from "./plan.ts";

/** How many runs are kept. */
const KEPT = 1000;
const NAME = /^([1-9]\d{0,14})\.json$/;

/** How a run ended: with the command's exit code, without cdebug, or not at all. */
export type Ending =
  | { readonly kind: "exit"; readonly code: number }
  | { readonly kind: "detached" }
  | { readonly kind: "failed"; readonly code: number; readonly message: string };

/** A run as it is kept. */
export interface Run {
  /** ISO 8601. */
  readonly startedAt: string;
  /** The cdebug that ran it; see `ownIdentity`. */
  readonly owner: string;
  /** Values of environment variables are null, unless the user has said otherwise. */
  readonly plan: Plan;
  readonly ending?: Ending;
  readonly durationMs?: number;
}

/** A run and its number; one that cannot be read has no `run`. */
export interface Entry {
  readonly number: number;
  readonly run?: Run;
}

/** A run that has begun. */
export interface Recording {
  /** Waits until its ending is kept. */
  end(ending: Ending): Promise<void>;
  /** The same, where cdebug itself has failed. */
  fail(error: unknown): Promise<void>;
}

/** The plan with every environment value taken out: they are often secrets. */
export function withoutValues(plan: Plan): Plan {
  const hide = <T extends object>(part: T): T =>
    !("env" in part) || typeof part.env !== "object" || part.env === null
      ? part
      : { ...part, env: Object.fromEntries(Object.keys(part.env).map((name) => [name, null])) };
  return { ...plan, request: hide(plan.request), sidecars: plan.sidecars.map(hide) };
}

/**
 * Begins to keep a run, as `CDEBUG_HISTORY` says: `off` keeps none, `values` the values of environment variables, too.
 * Returns at once.
 */
export function record(plan: Plan, owner: string): Recording {
  const began = performance.now();
  const setting = Deno.env.get("CDEBUG_HISTORY");
  const run: Run = {
    startedAt: new Date().toISOString(),
    owner,
    plan: setting === "values" ? plan : withoutValues(plan),
  };
  const writing = setting === "off" ? undefined : create(run).catch(() => undefined);
  return {
    async end(ending) {
      const path = await writing;
      if (path === undefined) return;
      const durationMs = Math.round(performance.now() - began);
      const next = `${path}.next`;
      try {
        await Deno.writeTextFile(next, JSON.stringify({ ...run, ending, durationMs }), { mode: 0o600 });
        await Deno.rename(next, path);
      } catch {
        await Deno.remove(next).catch(() => {});
      }
    },
    fail(error) {
      const code = error instanceof CdebugError ? error.exitCode : EXIT.failure;
      return this.end({ kind: "failed", code, message: reason(error) });
    },
  };
}

/** All runs that are kept, the newest first. Throws CdebugError if the directory is there and cannot be read. */
export async function listRuns(): Promise<Entry[]> {
  const dir = directory();
  const numbers = dir === undefined ? [] : await numbersIn(dir).catch((error) => {
    throw unreadable(dir, error);
  });
  return await Promise.all(
    numbers.toReversed().map(async (number) => {
      const run = await readFile(`${dir}/${number}.json`).catch(() => undefined);
      return { number, ...run && { run } };
    }),
  );
}

/** The run of a number. Throws CdebugError if it is not kept, or cannot be read. */
export async function readRun(number: number): Promise<Run> {
  const dir = directory();
  try {
    if (dir === undefined) throw new Deno.errors.NotFound();
    return await readFile(`${dir}/${number}.json`);
  } catch (error) {
    const missing = error instanceof Deno.errors.NotFound;
    throw new CdebugError(
      `Cannot read run ${number} of the history: ${missing ? "there is no such run" : reason(error)}`,
      { hint: "cdebug history  lists the runs", cause: error },
    );
  }
}

/** Removes all runs, and returns how many there were. */
export async function clearRuns(): Promise<number> {
  const dir = directory();
  if (dir === undefined) return 0;
  const numbers = await numbersIn(dir).catch((error) => {
    throw unreadable(dir, error);
  });
  for (const number of numbers) {
    await Deno.remove(`${dir}/${number}.json`).catch((error) => {
      if (!(error instanceof Deno.errors.NotFound)) {
        throw new CdebugError(`Cannot clear the history in "${dir}": ${reason(error)}`, { cause: error });
      }
    });
  }
  return numbers.length;
}

/** How a run stands: its ending, or whether its cdebug still lives. */
export async function standing({ ending, owner }: Run): Promise<Ending["kind"] | "running" | "lost"> {
  if (ending !== undefined) return ending.kind;
  return await ownerState(owner) === "dead" ? "lost" : "running";
}

/** Where runs are kept; undefined where there is no place of this user's own: sudo may keep another one's HOME. */
function directory(): string | undefined {
  const state = Deno.env.get("XDG_STATE_HOME");
  const home = Deno.env.get("HOME");
  const base = state?.startsWith("/") ? state : home ? `${home}/.local/state` : undefined;
  if (base === undefined || (home && !isOwn(home))) return undefined;
  return `${base}/cdebug/history`;
}

function isOwn(home: string): boolean {
  try {
    return Deno.statSync(home).uid === Deno.uid();
  } catch {
    return false;
  }
}

/** Writes a run under the next number, and removes the oldest of too many. Returns its path. */
async function create(run: Run): Promise<string | undefined> {
  const dir = directory();
  if (dir === undefined) return undefined;
  await Deno.mkdir(dir, { recursive: true, mode: 0o700 });
  const numbers = await numbersIn(dir);
  const text = JSON.stringify(run);
  for (let number = (numbers.at(-1) ?? 0) + 1;; number++) {
    const path = `${dir}/${number}.json`;
    try {
      await Deno.writeTextFile(path, text, { createNew: true, mode: 0o600 });
    } catch (error) {
      if (error instanceof Deno.errors.AlreadyExists) continue; // another cdebug's, just now
      throw error;
    }
    for (const old of numbers.slice(0, Math.max(0, numbers.length + 1 - KEPT))) {
      await Deno.remove(`${dir}/${old}.json`).catch(() => {});
    }
    return path;
  }
}

/** The numbers of the runs that are kept, the oldest first. */
async function numbersIn(dir: string): Promise<number[]> {
  const numbers: number[] = [];
  try {
    for await (const { name, isFile } of Deno.readDir(dir)) {
      const number = isFile ? NAME.exec(name)?.[1] : undefined;
      if (number !== undefined) numbers.push(Number(number));
    }
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  return numbers.sort((a, b) => a - b);
}

async function readFile(path: string): Promise<Run> {
  const run: Partial<Run> | null = JSON.parse(await Deno.readTextFile(path));
  const { startedAt, owner, plan } = run ?? {};
  if (
    typeof startedAt !== "string" || typeof owner !== "string" || typeof plan?.request?.target !== "string" ||
    typeof plan.target?.id !== "string" || !Array.isArray(plan.request.argv)
  ) {
    throw new Error("the file holds no run");
  }
  return run as Run;
}

function unreadable(dir: string, error: unknown): CdebugError {
  return new CdebugError(`Cannot read the history in "${dir}": ${reason(error)}`, { cause: error });
}
