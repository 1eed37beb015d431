/** Exit codes of cdebug's own making; every other one is the command's. */
export const EXIT = {
  /** cdebug itself failed, as with docker run. */
  failure: 125,
  /** `--timeout` ran out, as with coreutils' timeout. */
  timeout: 124,
} as const;

/** A failure told to the user: what could not be done, to which thing, why; and the command to type next. */
export class CdebugError extends Error {
  readonly hint: string | undefined;
  readonly exitCode: number;

  constructor(
    message: string,
    options: { hint?: string; exitCode?: number; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause });
    this.name = "CdebugError";
    this.hint = options.hint;
    this.exitCode = options.exitCode ?? EXIT.failure;
  }
}

/** An engine has answered, and has nothing of the name that was given. */
export class NotFound extends CdebugError {
  /** What it has of names like that one. */
  readonly near: readonly string[];

  constructor(message: string, options: { hint?: string; near?: readonly string[]; cause?: unknown }) {
    super(message, options);
    this.near = options.near ?? [];
  }
}

/** The user has turned back, and needs not be told. */
export class Cancelled extends CdebugError {
  constructor(exitCode: number) {
    super("Cancelled", { exitCode });
  }
}

/** The text of anything thrown, on one line and without a stack trace. */
export function reason(thrown: unknown): string {
  const text = thrown instanceof Error ? thrown.message : String(thrown);
  return text.trim().replace(/\s*\n\s*/g, "; ");
}

/** The text with every control character but the line feed written out: what others have named may not steer a terminal. */
export function printable(text: string): string {
  return text.replace(
    // deno-lint-ignore no-control-regex -- that is what it is for
    /[\x00-\x09\x0b-\x1f\x7f-\x9f]/g,
    (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, "0")}`,
  );
}

/**
 * The candidates nearest to a mistyped word, best first, at most `limit`:
 * those that contain it or that it contains, then those a few keystrokes away.
 */
export function nearest(
  word: string,
  candidates: Iterable<string>,
  limit = 3,
): string[] {
  const wanted = word.toLowerCase();
  return [...new Set(candidates)]
    .map((candidate) => {
      const found = candidate.toLowerCase();
      const contained = wanted !== "" && found !== "" &&
        (found.includes(wanted) || wanted.includes(found));
      return { candidate, cost: contained ? 0 : keystrokes(wanted, found) };
    })
    .filter(({ cost }) => cost <= Math.max(1, wanted.length / 3))
    .sort((a, b) => a.cost - b.cost || a.candidate.localeCompare(b.candidate))
    .slice(0, limit)
    .map(({ candidate }) => candidate);
}

/** The number of letters to add, leave out, exchange or swap with their neighbour: optimal string alignment. */
function keystrokes(a: string, b: string): number {
  let before: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      next[j] = Math.min(
        row[j]! + 1,
        next[j - 1]! + 1,
        row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1),
        swapped ? before[j - 2]! + 1 : Infinity,
      );
    }
    before = row;
    row = next;
  }
  return row[b.length]!;
}
