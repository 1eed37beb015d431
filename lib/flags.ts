/** One table of flags per command: it drives parsing, help and the README. */

import { parseArgs } from "node:util";
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
 * own flags need no `--`. With `anywhere`, flags may also follow the words. Booleans take `=true` and `=false`.
 * Throws CdebugError for an empty value, and for anything that is not in the table, naming what is nearest.
 */
export function parseFlags<F extends Flags>(
  command: string,
  flags: F,
  argv: readonly string[],
  options: { readonly anywhere?: boolean } = {},
): { values: Values<F>; rest: string[] } {
  const { tokens } = parseArgs({
    args: [...argv],
    options: Object.fromEntries(
      Object.entries(flags).map(([name, { type, optional, short }]) => [
        name,
        { type: optional ? "boolean" as const : type, ...short !== undefined && { short } },
      ]),
    ),
    strict: false,
    allowPositionals: true,
    tokens: true,
  });
  const refuse = (text: string, hint = `cdebug ${command} --help`) =>
    new CdebugError(`Cannot run ${command}: ${text}`, { hint });

  const values: Record<string, unknown> = {};
  let rest: string[] = [];
  for (const token of tokens) {
    if (token.kind === "positional" && options.anywhere) {
      rest.push(token.value);
      continue;
    }
    if (token.kind !== "option") {
      rest = argv.slice(token.kind === "positional" ? token.index : token.index + 1);
      break;
    }
    const flag = Object.hasOwn(flags, token.name) ? flags[token.name] : undefined;
    if (flag === undefined) {
      const near = nearest(token.name, Object.keys(flags), 1);
      throw refuse(
        `unknown flag ${token.rawName}`,
        near.length > 0 && token.rawName.startsWith("--") ? `Did you mean --${near[0]}?` : undefined,
      );
    }
    if (flag.type === "boolean") {
      if (![undefined, "true", "false"].includes(token.value)) {
        throw refuse(
          `${token.rawName} takes true or false, not "${token.value}"`,
        );
      }
      values[token.name] = token.value !== "false";
    } else if (token.value === undefined && flag.optional) {
      values[token.name] = "";
    } else if (!token.value) {
      throw refuse(`${token.rawName} needs a value, ${flag.value ?? "VALUE"}`);
    } else if (flag.choices && !flag.choices.includes(token.value)) {
      throw refuse(
        `${token.rawName} takes ${flag.choices.join(", ")}, not "${token.value}"`,
      );
    } else if (flag.multiple) {
      values[token.name] = [
        ...(values[token.name] as string[] | undefined ?? []),
        token.value,
      ];
    } else {
      values[token.name] = token.value;
    }
  }
  return { values: values as Values<F>, rest };
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
