/** The engines that a command asks: the one that is named, or all that there are. */

import { DEFAULT_SOURCE, type Driver, locate, type Location, openDriver } from "../driver.ts";
import { CdebugError, EXIT, nearest, reason } from "../errors.ts";
import type { Flags } from "../flags.ts";
import { DEFAULT_ENGINE, type Engine, ENGINES } from "../target.ts";
import { tellFailure } from "./session.ts";

export const ENGINE_FLAGS = {
  runtime: {
    type: "string",
    value: "ADDRESS",
    help: "The engine's socket or URL, or runc's or crun's --root (default its client's)",
  },
} as const satisfies Flags;

/** How long an engine may take to answer, in ms. One behind ssh has to log in first; with 0, it is not asked. */
export interface Patience {
  readonly local: number;
  readonly ssh: number;
}

/** Unless the command says otherwise. */
const PATIENCE: Patience = { local: 2_000, ssh: 10_000 };

/** An engine, and what it answered. */
export interface Asked<T> {
  readonly engine: Engine;
  /** Undefined where it cannot be told. */
  readonly location: Location | undefined;
  readonly result:
    | { readonly kind: "answered"; readonly driver: Driver; readonly answer: T }
    /** Nobody has named it, and its default socket does not exist. */
    | { readonly kind: "absent"; readonly error: CdebugError }
    | { readonly kind: "failed"; readonly error: CdebugError };
}

export interface Engines<T> extends AsyncDisposable {
  readonly all: readonly Asked<T>[];
  /** Those that answered. */
  readonly answers: readonly { readonly driver: Driver; readonly answer: T }[];
  /** Tells of those that failed; returns cdebug's exit code. Throws CdebugError if none answered. */
  tellFailures(): number;
}

/**
 * Opens the engine that `words` (`podman://`) or `runtime` name, else all that there are, and asks each, all at
 * once. Throws CdebugError where the words name no engine. An engine that takes longer than `patience` has failed.
 */
export async function askEngines<T>(
  command: string,
  words: readonly string[],
  runtime: string | undefined,
  ask: (driver: Driver) => Promise<T>,
  patience?: Patience,
): Promise<Engines<T>> {
  const named = parseEngine(command, words) ?? (runtime === undefined ? undefined : DEFAULT_ENGINE);
  const all = await Promise.all(
    (named ? [named] : ENGINES).map((engine) =>
      askEngine(engine, runtime, named !== undefined, ask, patience)
    ),
  );
  const answers = all.flatMap(({ result }) => result.kind === "answered" ? [result] : []);
  const failures = all.flatMap(({ result }) => result.kind === "failed" ? [result.error] : []);
  return {
    all,
    answers,
    tellFailures() {
      if (answers.length === 0) {
        const [only, ...more] = failures;
        if (only && more.length === 0) throw only;
        for (const error of failures) tellFailure(error, false);
        throw new CdebugError(`Cannot run ${command}: no engine answers`, {
          hint: "cdebug doctor  says what is missing",
        });
      }
      for (const error of failures) tellFailure(error, false);
      return failures.length === 0 ? 0 : EXIT.failure;
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(answers.map(({ driver }) => driver[Symbol.asyncDispose]()));
    },
  };
}

/** Opens an engine, which the user has `named` or not, and asks it. Whatever is wrong with it is the result. */
export async function askEngine<T>(
  engine: Engine,
  runtime: string | undefined,
  named: boolean,
  ask: (driver: Driver) => Promise<T>,
  patience = PATIENCE,
): Promise<Asked<T>> {
  let location: Location | undefined;
  let opening: Promise<Driver> | undefined;
  let driver: Driver | undefined;
  try {
    const found = location = await locate(engine, runtime);
    const ssh = found.address.startsWith("ssh://");
    // A login that nobody waits for would outlive this process.
    if (ssh && patience.ssh === 0) throw new Error(`${found.address} has to log in first`);
    opening = openDriver(engine, runtime);
    const answer = await within(
      ssh ? patience.ssh : patience.local,
      found,
      opening.then(async (opened) => {
        driver = opened;
        return await ask(opened);
      }),
    );
    return { engine, location, result: { kind: "answered", driver: driver!, answer } };
  } catch (thrown) {
    await driver?.[Symbol.asyncDispose]();
    if (driver === undefined) opening?.then((late) => late[Symbol.asyncDispose](), () => {});
    const error = thrown instanceof CdebugError
      ? thrown
      : new CdebugError(`Cannot ask ${engine}: ${reason(thrown)}`, { cause: thrown });
    const absent = !named && await isAbsentAt(location);
    return { engine, location, result: { kind: absent ? "absent" : "failed", error } };
  }
}

/** `podman://` → podman; undefined without a word. */
function parseEngine(command: string, [word, ...more]: readonly string[]): Engine | undefined {
  if (word === undefined) return undefined;
  const known = ENGINES.map((engine) => `${engine}://`);
  const engine = ENGINES.find((engine) => word === `${engine}://`);
  if (engine && more.length === 0) return engine;
  throw new CdebugError(
    `Cannot run ${command}: expected one engine, ${known.join(" or ")}, not "${[word, ...more].join(" ")}"`,
    { hint: `cdebug ${command} ${nearest(word, known, 1)[0] ?? known[0]}` },
  );
}

async function within<T>(
  patience: number,
  { address, source }: Location,
  answer: Promise<T>,
): Promise<T> {
  let timer;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () =>
        reject(
          new CdebugError(`Cannot reach ${address} (from ${source}): no answer within ${patience / 1000} s`),
        ),
      patience,
    );
  });
  try {
    return await Promise.race([answer, late]);
  } finally {
    clearTimeout(timer);
    answer.catch(() => {}); // it comes too late
  }
}

/** Whether an engine is one that nobody has named, and whose default socket does not exist. */
export async function isAbsent(engine: Engine): Promise<boolean> {
  return await isAbsentAt(await locate(engine, undefined).catch(() => undefined));
}

async function isAbsentAt(location: Location | undefined): Promise<boolean> {
  if (location?.source !== DEFAULT_SOURCE) return false;
  return await Deno.lstat(location.address.replace(/^unix:\/\//, "")).then(
    () => false,
    (error) => error instanceof Deno.errors.NotFound,
  );
}
