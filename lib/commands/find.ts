/** Finds the target that a ref names: in the first engine that it may mean, or in whichever else has it. */

import { type Driver, type Looking, openDriver } from "../driver.ts";
import { CdebugError, NotFound } from "../errors.ts";
import { type Engine, formatRef, highest, parseRef, type Ref, refOf, type Target } from "../target.ts";
import type { Asked } from "./engines.ts";
import { isInteractive } from "../terminal.ts";
import { note, tellFailure } from "./session.ts";

/** As many suggestions as a person compares. */
const MAX_NEAR = 3;

/** How a target is looked for. */
export interface FindOptions extends Looking {
  readonly quiet: boolean;
}

export interface Found extends AsyncDisposable {
  readonly driver: Driver;
  readonly target: Target;
  /** What names the target: the text that was given, or a ref with the engine that has turned out to be meant. */
  readonly ref: string;
}

/**
 * Opens the engine that has the target, and looks at it. A ref without a scheme means the default engine's target;
 * where that engine does not know it, or is not there, all others are asked at once: one that has it is taken, and a
 * line on stderr says so unless `quiet`; of several, the user picks one. With `runtime`, the address of an engine, no
 * other one is asked. Throws CdebugError if there is no such target, or several and nobody to pick.
 */
export async function openTarget(
  text: string,
  runtime: string | undefined,
  options: FindOptions,
): Promise<Found> {
  return await findTarget(parseRef(text), text, runtime, options);
}

/** As `openTarget`, for a ref that has been read from `text`. */
export async function findTarget(
  ref: Ref,
  text: string,
  runtime: string | undefined,
  options: FindOptions,
): Promise<Found> {
  const engines = ref.engines.filter((engine) => engine !== "registry" || options.reading);
  const [first, ...others] = engines as [Engine, ...Engine[]];
  if (first === undefined) {
    throw new CdebugError(`Cannot run anything in "${text}": it is in a registry`, {
      hint: `docker pull ${ref.name}, and image://${ref.name}; cdebug export takes it as it is`,
    });
  }
  try {
    return found(text, ...await inspect(first, runtime, ref, options));
  } catch (error) {
    if (!(error instanceof CdebugError) || others.length === 0 || runtime !== undefined) throw error;
    return await findElsewhere(ref, first, others, error, options);
  }
}

function found(ref: string, driver: Driver, target: Target): Found {
  return { ref, driver, target, [Symbol.asyncDispose]: () => driver[Symbol.asyncDispose]() };
}

async function inspect(
  engine: Engine,
  runtime: string | undefined,
  { name, kind }: Ref,
  looking: Looking,
): Promise<[Driver, Target]> {
  const driver = await openDriver(engine, runtime);
  try {
    return [driver, await driver.inspect(name, kind, looking)];
  } catch (error) {
    await driver[Symbol.asyncDispose]();
    throw error;
  }
}

/** What the first engine could not give, from the only other one that can. */
async function findElsewhere(
  ref: Ref,
  first: Engine,
  others: readonly Engine[],
  error: CdebugError,
  options: FindOptions,
): Promise<Found> {
  const { askEngine, isAbsent } = await import("./engines.ts");
  const [absent, ...asked] = await Promise.all([
    isAbsent(first),
    ...others.filter((engine) => engine !== "registry").map((engine) =>
      askEngine(engine, undefined, false, (driver) => driver.inspect(ref.name, ref.kind, options))
    ),
  ]);
  const all = asked.flatMap(({ result }) =>
    result.kind === "answered" ? [found(refOf(result.answer), result.driver, result.answer)] : []
  );
  const unused = new Set(all);
  const hits = meantBy(all);
  await using stack = new AsyncDisposableStack();
  stack.defer(async () => {
    for (const hit of unused) await hit[Symbol.asyncDispose]();
  });
  const refs = hits.map(({ ref }) => ref);

  if (!(error instanceof NotFound) && !absent) {
    // It may have the target that is meant, so that no other engine's is taken for it.
    if (hits.length === 0) throw error;
    throw new CdebugError(error.message, {
      hint: [...error.hint ? [error.hint] : [], `or ${refs.join(" or ")}, if that is meant`].join("; "),
      cause: error,
    });
  }
  if (hits.length === 0 && others.includes("registry")) return await findInRegistry(ref, error, options);
  if (hits.length === 0) throw nowhere(first, error, asked);
  if (hits.length > 1 && !isInteractive()) {
    throw new CdebugError(`Cannot tell which "${ref.name}" is meant: several engines have one`, {
      hint: `name it with its engine: ${refs.join(" or ")}`,
    });
  }
  const picked = hits.length === 1 ? refs[0] : await (await import("./picker.ts")).pickAmong(hits);
  const taken = hits.find(({ ref }) => ref === picked)!;
  unused.delete(taken);
  if (!options.quiet) note(`"${ref.name}" is ${taken.ref}`);
  return taken;
}

/** An image that no engine has; `error` says so. */
async function findInRegistry(ref: Ref, error: CdebugError, options: FindOptions): Promise<Found> {
  try {
    const [driver, target] = await inspect("registry", undefined, ref, options);
    if (!options.quiet) note(`"${ref.name}" is taken from its registry, as no engine has it`);
    return found(refOf(target), driver, target);
  } catch (failure) {
    if (!(failure instanceof CdebugError)) throw failure;
    throw new CdebugError(`${failure.message}; and no engine has it (${error.message})`, {
      ...failure.hint !== undefined && { hint: failure.hint },
      cause: failure,
    });
  }
}

/** Each once; and a process that is just called so only where no container is. */
function meantBy(all: readonly Found[]): Found[] {
  const apart = highest(all.map((hit) => ({ ...hit.target, engine: hit.driver.engine, hit })));
  const containers = apart.filter(({ engine }) => engine !== "pid");
  return (containers.length > 0 ? containers : apart).map(({ hit }) => hit);
}

/**
 * The failure to tell of when no engine has the target: that of the first engine, or of one that is there. Those that
 * could not be asked are told of at once.
 */
function nowhere(first: Engine, error: CdebugError, asked: readonly Asked<Target>[]): CdebugError {
  const failures = asked.flatMap(({ engine, result }) =>
    result.kind === "failed" ? [{ engine, error: result.error }] : []
  );
  for (const { error } of failures) if (!(error instanceof NotFound)) tellFailure(error, false);
  const [told, ...others] = [{ engine: first, error }, ...failures].flatMap(({ engine, error }) =>
    error instanceof NotFound ? [{ engine, error }] : []
  );
  if (told === undefined) return error;
  const near = [told, ...others].flatMap(({ engine, error }) =>
    error.near.map((name) => formatRef({ engine, name }))
  );
  const hint = near.length > 0 ? `Did you mean ${near.slice(0, MAX_NEAR).join(" or ")}?` : told.error.hint;
  return new CdebugError(
    [
      told.error.message,
      ...others.length > 0 ? [`nor on ${others.map(({ engine }) => engine).join(", ")}`] : [],
      ...told.engine === first ? [] : [`${first} is not there`],
    ].join("; "),
    { ...hint !== undefined && { hint }, cause: error },
  );
}
