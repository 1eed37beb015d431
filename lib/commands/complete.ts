/** The hidden `cdebug __complete`: what may stand at the end of a command line, for the scripts of completion.ts. */

import { printable } from "../errors.ts";
import { COMMON_FLAGS, type Flag, type Flags } from "../flags.ts";
import type { Planner } from "../plan.ts";
import { ENGINES, formatRef, highest } from "../target.ts";
import { COMMANDS } from "./help.ts";
import { LIVE_FLAGS } from "./live.ts";
import { print } from "./session.ts";

/** What engines say later than this, in ms of this process, comes too late for who waits at a key. */
const DEADLINE_MS = 200;

type Name = keyof typeof COMMANDS;
type Planners = Readonly<Record<"exec" | "port-forward" | "export", () => Promise<Planner>>>;

/** What a command line may hold, from its command on. */
export interface Syntax {
  readonly flags?: Flags;
  /** What its words stand for, in order, in the terms of `Flag.value`. */
  readonly words?: readonly string[];
  /** Its first word ends its flags, and what follows `words` is another program's. */
  readonly passesOn?: boolean;
  /** Its first word is one of these, and the rest is that one's. */
  readonly commands?: Readonly<Record<string, Command>>;
}

interface Command {
  readonly summary: string;
  readonly syntax: () => Syntax | Promise<Syntax>;
}

/** A text that the typed one may become. */
export interface Candidate {
  readonly value: string;
  readonly summary?: string;
}

/** The targets that a ref which begins like `typed` may mean; `runtime` is that flag's value. */
export type FindTargets = (typed: string, runtime: string | undefined) => Promise<readonly Candidate[]>;

/**
 * Prints the candidates for the last one of the words after `cdebug`, a line each: the text, a tab, its summary. A
 * single line `:files` stands for the names of files. Whatever is wrong, it returns 0 and says nothing: the user has
 * but pressed a key.
 */
export async function complete(words: readonly string[], planners: Planners): Promise<number> {
  try {
    const candidates = await findCandidates(words, syntaxOf(planners), findTargets);
    await print(candidates === "files" ? ":files\n" : candidates.map(formatCandidate).join(""));
  } catch {
    // There are no candidates.
  }
  return 0;
}

/** The syntax of all of cdebug; a command's own is loaded when it is asked for. */
export function syntaxOf(planners: Planners): Syntax {
  const nothing = () => ({});
  const live = async (load: () => Promise<Planner>): Promise<Syntax> => {
    const { flags, interspersed } = await load();
    return { flags: { ...flags, ...LIVE_FLAGS }, words: ["REF"], ...!interspersed && { passesOn: true } };
  };
  const syntaxes: Readonly<Record<Name, Command["syntax"]>> = {
    exec: () => live(planners.exec),
    "port-forward": () => live(planners["port-forward"]),
    export: () => live(planners.export),
    plan: () => ({
      flags: { help: COMMON_FLAGS.help },
      commands: {
        ...named(Object.keys(planners) as Name[]),
        schema: { summary: "Print the JSON Schema of plans", syntax: nothing },
      },
    }),
    apply: async () => ({ flags: (await import("./apply.ts")).flags, words: ["FILE"] }),
    ls: async () => ({ flags: (await import("./ls.ts")).flags, words: ["ENGINE"] }),
    prune: async () => ({ flags: (await import("./prune.ts")).flags, words: ["ENGINE"] }),
    history: async () => ({
      flags: (await import("./history.ts")).flags,
      commands: {
        show: { summary: "Print the plan of a run", syntax: nothing },
        clear: { summary: "Remove all runs", syntax: nothing },
      },
    }),
    cache: async () => ({
      flags: (await import("./cache.ts")).flags,
      commands: { prune: { summary: "Remove what is in the cache", syntax: nothing } },
    }),
    doctor: async () => ({ flags: (await import("./doctor.ts")).flags, words: ["ENGINE"] }),
    completion: async () => {
      const { SHELLS } = await import("./completion.ts");
      return {
        flags: COMMON_FLAGS,
        commands: Object.fromEntries(
          SHELLS.map((shell) => [shell, { summary: `Print the script for ${shell}`, syntax: nothing }]),
        ),
      };
    },
    help: () => ({ commands: named(Object.keys(COMMANDS) as Name[], nothing) }),
    version: nothing,
  };
  const named = (names: readonly Name[], syntax?: Command["syntax"]): Record<string, Command> =>
    Object.fromEntries(
      names.map((name) => [name, { summary: COMMANDS[name], syntax: syntax ?? syntaxes[name] }]),
    );
  return {
    flags: { help: COMMON_FLAGS.help, version: { type: "boolean", help: COMMANDS.version } },
    commands: named(Object.keys(COMMANDS) as Name[]),
  };
}

/** What the last one of the words may become; `files` for the names of files. */
export async function findCandidates(
  words: readonly string[],
  syntax: Syntax,
  findTargets: FindTargets,
): Promise<readonly Candidate[] | "files"> {
  const { flags = {}, commands, passesOn } = syntax;
  const [command, ...others] = words;
  if (commands && others.length > 0) {
    if (!Object.hasOwn(commands, command!)) return [];
    return await findCandidates(others, await commands[command!]!.syntax(), findTargets);
  }

  const typed = words.at(-1) ?? "";
  const { given, open, awaiting, runtime } = read(syntax, words.slice(0, -1));
  const find = async (kind: string | undefined, text: string) => {
    switch (kind) {
      case "FILE":
        return "files";
      case "REF":
        return matching(text, await findTargets(text, runtime));
      case "ENGINE":
        return matching(text, ENGINES.map((engine) => ({ value: `${engine}://` })));
      default:
        return [];
    }
  };
  const findValues = async ({ type, choices, value }: Flag, text: string) => {
    const fixed = type === "boolean" ? ["true", "false"] : choices;
    return fixed ? matching(text, fixed.map((value) => ({ value }))) : await find(value, text);
  };

  if (awaiting) {
    const found = await findValues(awaiting, typed);
    // A value that may be left out is, where none begins like this.
    if (found.length > 0 || !awaiting.optional) return found;
  }
  if (open && typed.startsWith("-")) {
    const { flag, value } = flagIn(flags, typed) ?? {};
    if (flag === undefined || value === undefined) return matching(typed, flagCandidates(flags));
    const found = await findValues(flag, value);
    const begun = typed.slice(0, typed.length - value.length);
    return found === "files" ? found : found.map((each) => ({ ...each, value: begun + each.value }));
  }
  if (commands) {
    return matching(typed, Object.entries(commands).map(([value, { summary }]) => ({ value, summary })));
  }
  return await find(syntax.words?.[given] ?? (passesOn ? "FILE" : undefined), typed);
}

/** What words say of the one that follows them; they are read as `parseFlags` reads them, whatever is wrong with them. */
export function read({ flags = {}, passesOn = false }: Syntax, before: readonly string[]) {
  const words = [...before];
  let given = 0;
  let open = true;
  let awaiting: Flag | undefined;
  let runtime: string | undefined;
  while (words.length > 0) {
    const word = words.shift()!;
    if (!open || !/^-./.test(word)) {
      given++;
      if (passesOn) open = false;
    } else if (word === "--") {
      open = false;
    } else {
      const { name, flag, value } = flagIn(flags, word) ?? {};
      if (flag?.type !== "string") continue;
      const text = value ?? words.shift();
      if (text === undefined) awaiting = flag;
      if (name === "runtime") runtime = text;
    }
  }
  return {
    /** How many of them are neither flags nor flags' values. */
    given,
    /** Whether the next one may be a flag. */
    open,
    /** The flag whose value the next one is. */
    awaiting,
    /** The value of `--runtime`. */
    runtime,
  };
}

/** The flag of a word, `--pull`, `--pull=never`, `-it`, `-ojson`, and the value that the word gives to it. */
function flagIn(
  flags: Flags,
  word: string,
): { name: string; flag: Flag; value: string | undefined } | undefined {
  const [, long, value] = /^--([^=]+)(?:=(.*))?$/s.exec(word) ?? [];
  if (long !== undefined) {
    return Object.hasOwn(flags, long) ? { name: long, flag: flags[long]!, value } : undefined;
  }
  for (let at = 1; at < word.length; at++) {
    const found = Object.entries(flags).find(([, { short }]) => short === word[at]);
    if (found?.[1].type !== "string") continue;
    const behind = word.slice(at + 1);
    return { name: found[0], flag: found[1], value: behind === "" ? undefined : behind.replace(/^=/, "") };
  }
}

function flagCandidates(flags: Flags): Candidate[] {
  return Object.entries(flags).flatMap(([name, { short, help }]) => [
    ...short ? [{ value: `-${short}`, summary: help }] : [],
    { value: `--${name}`, summary: help },
  ]);
}

function matching(text: string, candidates: readonly Candidate[]): Candidate[] {
  return candidates.filter(({ value }) => value.startsWith(text));
}

/** The running containers, cdebug's own aside, of the engines that answer in time; with a scheme where `typed` has one. */
async function findTargets(typed: string, runtime: string | undefined): Promise<Candidate[]> {
  const { askEngines } = await import("./engines.ts");
  const scheme = ENGINES.map((engine) => `${engine}://`).find((scheme) => typed.startsWith(scheme));
  await using engines = await askEngines(
    "completion",
    scheme === undefined ? [] : [scheme],
    runtime,
    (driver) => driver.list(),
    { local: DEADLINE_MS - performance.now(), ssh: 0 },
  );
  const found = engines.answers.flatMap(({ driver: { engine }, answer }) =>
    answer
      .filter(({ state, labels }) => state === "running" && labels["cdebug.session"] === undefined)
      .map((candidate) => ({ engine, ...candidate }))
  );
  return highest(found).map(({ engine, name, image }) => ({
    value: scheme === undefined ? formatRef({ engine, name }) : scheme + name,
    summary: image,
  }));
}

function formatCandidate({ value, summary = "" }: Candidate): string {
  return `${[value, summary].map((text) => printable(text).replaceAll("\n", " ")).join("\t")}\n`;
}
