/** One table of flags per command: it drives parsing, help, completion and the README. */

import { CdebugError, nearest } from "./errors.ts";

export interface Flag {
  readonly type: "boolean" | "string";
  readonly short?: string;
  /** The value may be left out, and is given with `=` only; without one it is "". */
  readonly optional?: boolean;
  /** May be given more than once; the values are a list. */
  readonly multiple?: boolean;
  readonly choices?: readonly string[];
  /** What stands for the value in help: `USER`. */
  readonly value?: string;
  readonly help: string;
}

export type Flags = Readonly<Record<string, Flag>>;

/** What was given, by the flag's long name; a flag that was not given has no entry. */
export type Values<F extends Flags = Flags> = {
  readonly [K in keyof F]?: F[K]["type"] extends "boolean" ? boolean
    : F[K]["multiple"] extends true ? readonly string[]
    : string;
};

/** What every command takes. */
export const COMMON_FLAGS = {
  help: { type: "boolean", short: "h", help: "Print this help" },
  debug: { type: "boolean", help: "Print the stack trace of a failure" },
} as const satisfies Flags;

/**
 * Reads flags up to the first word that is not one; all from there on is `rest`, untouched, so that a command's
 * own flags need no `--`. With `anywhere`, flags may also follow the words; with `parted`, what follows `--` is
 * `behind`, not `rest`. Short flags combine (`-it`), values follow as a word, after `=`, or right behind a short flag;
 * booleans take `=true` and `=false`, and a `no-` in front. Throws CdebugError for an empty value, and for anything
 * that is not in the table, naming what is nearest.
 *
 * By hand because loading node:util for its parseArgs takes a third as long as starting the runtime.
 */
export function parseFlags<F extends Flags>(
  command: string,
  flags: F,
  argv: readonly string[],
  options: { readonly anywhere?: boolean; readonly parted?: boolean } = {},
): { values: Values<F>; rest: string[]; behind?: string[] } {
  const refuse = (text: string, hint = `cdebug ${command} --help`) =>
    new CdebugError(`Cannot run ${command}: ${text}`, { hint });
  const values: Record<string, unknown> = {};
  const rest: string[] = [];
  const behind: string[] = [];
  const words = [...argv];

  const take = (name: string, shown: string, flag: Flag, value: string | undefined) => {
    if (flag.type === "boolean") {
      if (![undefined, "true", "false"].includes(value)) {
        throw refuse(`${shown} takes true or false, not "${value}"`);
      }
      values[name] = value !== "false";
      return;
    }
    const text = value ?? (flag.optional ? "" : words.shift());
    if (!text && !flag.optional) throw refuse(`${shown} needs a value, ${flag.value ?? "VALUE"}`);
    if (flag.choices && !flag.choices.includes(text!)) {
      throw refuse(`${shown} takes ${flag.choices.join(", ")}, not "${text}"`);
    }
    values[name] = flag.multiple ? [...(values[name] as string[] | undefined ?? []), text] : text;
  };

  while (words.length > 0) {
    const word = words.shift()!;
    if (word === "--") {
      (options.parted ? behind : rest).push(...words.splice(0));
    } else if (word.startsWith("--")) {
      const [, name, value] = /^--([^=]*)(?:=(.*))?$/s.exec(word)!;
      const known = (name: string) => Object.hasOwn(flags, name) ? flags[name] : undefined;
      const denied = name!.startsWith("no-") ? name!.slice("no-".length) : "";
      if (known(denied)?.type === "boolean" && value === undefined) {
        take(denied, `--${name}`, known(denied)!, "false");
        continue;
      }
      const flag = known(name!);
      if (flag === undefined) {
        const near = nearest(name!, Object.keys(flags), 1);
        throw refuse(`unknown flag --${name}`, near.length > 0 ? `Did you mean --${near[0]}?` : undefined);
      }
      take(name!, `--${name}`, flag, value);
    } else if (word.startsWith("-") && word !== "-") {
      for (let at = 1; at < word.length; at++) {
        const letter = word[at]!;
        const found = Object.entries(flags).find(([, { short }]) => short === letter);
        if (found === undefined) throw refuse(`unknown flag -${letter}`);
        const [name, flag] = found;
        const behind = word.slice(at + 1);
        if (flag.type === "string" || behind.startsWith("=")) {
          take(name, `-${letter}`, flag, behind === "" ? undefined : behind.replace(/^=/, ""));
          break;
        }
        take(name, `-${letter}`, flag, undefined);
      }
    } else {
      rest.push(word);
      if (!options.anywhere) rest.push(...words.splice(0));
    }
  }
  return { values: values as Values<F>, rest, ...options.parted && { behind } };
}

/** The table as help shows it: a line a flag, the texts aligned. */
export function formatFlags(flags: Flags): string {
  const rows = Object.entries(flags).map(([name, flag]) => {
    const short = flag.short ? `-${flag.short}, ` : "    ";
    const value = flag.type === "string" ? ` ${flag.choices?.join("|") ?? flag.value ?? "VALUE"}` : "";
    return [`  ${short}--${name}${value}`, flag.help] as const;
  });
  const width = Math.max(...rows.map(([left]) => left.length)) + 2;
  return rows.map(([left, help]) => left.padEnd(width) + help).join("\n");
}
