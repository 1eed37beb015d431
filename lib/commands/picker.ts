/** The list that a target is picked from: where none is named, or several engines have one of the name. */

import type { Driver, Size } from "../driver.ts";
import { Cancelled, CdebugError, printable } from "../errors.ts";
import { SIGNALS } from "../executor.ts";
import { type Key, type Line, openScreen } from "../screen.ts";
import {
  type Candidate,
  DEFAULT_ENGINE,
  type Engine,
  ENGINES,
  formatRef,
  highest,
  type Target,
} from "../target.ts";
import { terminalSize } from "../terminal.ts";
import { askEngine, type Patience } from "./engines.ts";
import { age, shorten } from "./output.ts";
import { tellFailure } from "./session.ts";

/** What is there within this is in the first picture. */
const FIRST_PICTURE_MS = 500;
/** Nobody waits for a slow engine: what the others have is shown. */
const PATIENCE: Patience = { local: 10_000, ssh: 30_000 };
/** Of each engine, so many running containers are looked at for what is special in them; so many at once. */
const MAX_INSPECTED = 100;
const INSPECTED_AT_ONCE = 8;

/** The widths to which columns are narrowed before the last ones are left out; the others keep theirs. */
const HEADINGS = ["NAME", "ENGINE", "IMAGE", "STATE", "AGE", "SPECIAL"];
const NARROWEST: Readonly<Record<string, number>> = { NAME: 20, IMAGE: 16, SPECIAL: 10 };
const GAP = "  ";
const LABEL = "Target: ";
const HELP = "Type to filter. Enter takes the target, Esc leaves.";
/** With fewer rows, targets need them more than help. */
const HELP_ROWS = 12;

/** A target that can be picked. */
export interface Choice {
  readonly ref: string;
  readonly engine: Engine;
  readonly id: string;
  readonly name: string;
  readonly image: string;
  /** In the engine's words. */
  readonly state: string;
  readonly createdAt?: Date;
  /** What is special in it: `read-only`. */
  readonly remarks: readonly string[];
}

/** What an engine gives to the list. */
export interface Part {
  readonly engine: Engine;
  readonly choices: readonly Choice[];
  /** Why there is nothing of it. */
  readonly note?: string;
}

/** What the list is made of, which may become more while it is shown. */
interface Listing {
  readonly parts: () => readonly Part[];
  /** Resolves when there will be no more choices. */
  readonly complete: Promise<unknown>;
  /** Calls back whenever a part has changed. */
  readonly onChange: (callback: () => void) => void;
}

/** What the user has done so far. */
export interface State {
  readonly filter: string;
  /** The ref of the choice that Enter takes. */
  readonly active?: string;
}

/**
 * Lets the user pick one of the containers of all engines, or of the one at `runtime`; returns its ref. Throws
 * CdebugError if there is none, Cancelled if the user leaves. `command` is what the target is for.
 */
export async function pickTarget(command: string, runtime: string | undefined): Promise<string> {
  const engines = runtime === undefined ? ENGINES : [DEFAULT_ENGINE];
  const parts = new Map<Engine, Part>(
    engines.map((engine) => [engine, { engine, choices: [], note: "waiting for an answer" }]),
  );
  const over = new AbortController();
  const failures: CdebugError[] = [];
  const empty: Engine[] = [];
  let changed = () => {};

  const list = async (engine: Engine) => {
    const { result } = await askEngine(
      engine,
      runtime,
      runtime !== undefined,
      (driver) => driver.list(),
      PATIENCE,
    );
    const put = (choices: readonly Choice[], note?: string) => {
      parts.set(engine, { engine, choices, ...note !== undefined && { note } });
      changed();
    };
    if (result.kind === "answered") {
      const candidates = result.answer.filter(({ labels }) => labels["cdebug.session"] === undefined);
      if (candidates.length === 0) empty.push(engine);
      put(candidates.map((candidate) => choiceOf(engine, candidate)));
      remarkOn(
        result.driver,
        candidates,
        over.signal,
        (remarks) =>
          put(candidates.map((candidate) => choiceOf(engine, candidate, remarks.get(candidate.id)))),
      );
    } else if (result.kind === "failed") {
      failures.push(result.error);
      put([], result.error.message);
    } else put([]);
  };
  const complete = Promise.all(engines.map(list));
  try {
    const choice = await choose({
      parts() {
        const shown = new Set(highest([...parts.values()].flatMap(({ choices }) => choices)));
        return [...parts.values()].map((part) => ({
          ...part,
          choices: part.choices.filter((choice) => shown.has(choice)),
        }));
      },
      complete,
      onChange: (callback) => changed = callback,
    });
    if (choice !== undefined) return choice.ref;
  } finally {
    over.abort();
  }
  for (const error of failures) tellFailure(error, false);
  const why = empty.length > 0 ? `there is no container on ${empty.join(", ")}` : "no engine answers";
  throw new CdebugError(`Cannot run ${command}: no target is named, and ${why}`, {
    hint: "cdebug doctor  says which engines there are, and what mends those that do not work",
  });
}

/** Lets the user pick one of some targets, by their refs; returns its ref. Throws Cancelled if the user leaves. */
export async function pickAmong(
  found: readonly { readonly ref: string; readonly driver: Driver; readonly target: Target }[],
): Promise<string> {
  const parts = found.map(({ ref, driver: { engine }, target }): Part => {
    const { id, name, image, state } = target;
    return { engine, choices: [{ ref, engine, id, name, image, state, remarks: remarksOf(target) }] };
  });
  const choice = await choose({ parts: () => parts, complete: Promise.resolve(), onChange: () => {} });
  return choice!.ref;
}

function choiceOf(
  engine: Engine,
  { id, name, image, state, createdAt }: Candidate,
  remarks: readonly string[] = [],
): Choice {
  return { ref: formatRef({ engine, name }), engine, id, name, image, state, createdAt, remarks };
}

/** Looks for what is special in running containers, reports it by their IDs as it is found, and closes the driver. */
async function remarkOn(
  driver: Driver,
  candidates: readonly Candidate[],
  over: AbortSignal,
  report: (remarks: ReadonlyMap<string, readonly string[]>) => void,
): Promise<void> {
  const remarks = new Map<string, readonly string[]>();
  const running = candidates.filter(isRunning).slice(0, MAX_INSPECTED);
  for (let at = 0; at < running.length && !over.aborted; at += INSPECTED_AT_ONCE) {
    await Promise.all(
      running.slice(at, at + INSPECTED_AT_ONCE).map(async ({ id }) => {
        try {
          remarks.set(id, remarksOf(await driver.inspect(id)));
        } catch {
          // It has gone, and who picks it is told so.
        }
      }),
    );
    if (!over.aborted) report(remarks);
  }
  await driver[Symbol.asyncDispose]();
}

/** What is special in a target, a word or two each. */
export function remarksOf({ readOnlyRoot, user, privileged, namespaces }: Target): string[] {
  return [
    ...readOnlyRoot ? ["read-only"] : [],
    ...privileged ? ["privileged"] : [],
    ...["", "0", "root"].includes(user.split(":")[0]!) ? [] : [`user ${user}`],
    ...namespaces.network === "own" ? [] : [`network ${namespaces.network}`],
    ...namespaces.pid === "own" ? [] : [`pid ${namespaces.pid}`],
  ];
}

/** What the user picks; undefined if there is nothing to pick from. Throws Cancelled if the user leaves. */
async function choose(listing: Listing): Promise<Choice | undefined> {
  using stack = new DisposableStack();
  const screen = stack.use(openScreen());
  const ended = Promise.withResolvers<undefined>();
  let state: State = { filter: "" };
  let page = 1;
  let complete = false;
  let visible = false;
  let over = false;
  stack.defer(() => over = true);

  const update = () => {
    if (over) return; // the terminal is another one's
    const choices = inOrder(listing.parts());
    if (complete && choices.length === 0) ended.resolve(undefined);
    else if (visible) {
      const active = activeOf(state, choices)?.ref;
      state = { filter: state.filter, ...active !== undefined && { active } };
      const picture = formatPicture(listing.parts(), state, terminalSize());
      page = picture.page;
      screen.draw(picture.lines, picture.cursor);
    }
  };
  const show = () => {
    visible = true;
    update();
  };
  const read = async (): Promise<Choice> => {
    for await (const key of screen.keys) {
      if (key === "leave") break;
      const choices = inOrder(listing.parts());
      if (key !== "enter") state = press(state, key, choices, page);
      else if (visible) { // nobody has seen what it would be otherwise
        const choice = activeOf(state, choices);
        if (choice !== undefined) return choice;
      }
      update();
    }
    throw new Cancelled(128 + SIGNALS.INT);
  };

  const timer = setTimeout(show, FIRST_PICTURE_MS);
  stack.defer(() => clearTimeout(timer));
  listing.onChange(update);
  listing.complete.then(() => {
    complete = true;
    show();
  });
  const on = (signal: Deno.Signal, handler: () => void) => {
    Deno.addSignalListener(signal, handler);
    stack.defer(() => Deno.removeSignalListener(signal, handler));
  };
  on("SIGWINCH", update);
  for (const name of ["HUP", "INT", "TERM"] as const) {
    on(`SIG${name}`, () => ended.reject(new Cancelled(128 + SIGNALS[name])));
  }
  return await Promise.race([read(), ended.promise]);
}

/** The choices of all parts: what runs comes first. */
export function inOrder(parts: readonly Part[]): Choice[] {
  const choices = parts.flatMap(({ choices }) => choices);
  return [...choices.filter(isRunning), ...choices.filter((choice) => !isRunning(choice))];
}

function isRunning({ state }: { readonly state: string }): boolean {
  return state === "running";
}

/** The choices whose name, engine, ref or image holds the filter, in capitals or not. */
export function matching(choices: readonly Choice[], filter: string): Choice[] {
  const wanted = filter.trim().toLowerCase();
  return choices.filter(({ engine, name, image }) =>
    [`${engine}://${name}`, image].some((text) => text.toLowerCase().includes(wanted))
  );
}

/** What Enter takes: what was active if the filter lets it, else the first. */
function activeOf({ filter, active }: State, choices: readonly Choice[]): Choice | undefined {
  const left = matching(choices, filter);
  return left.find(({ ref }) => ref === active) ?? left[0];
}

/** What a key makes of the state, with so many choices on a page. */
export function press(state: State, key: Key, choices: readonly Choice[], page: number): State {
  const { filter } = state;
  const left = matching(choices, filter);
  const now = left.findIndex(({ ref }) => ref === activeOf(state, choices)?.ref);
  const go = (to: number): State => {
    const active = left[Math.max(0, Math.min(to, left.length - 1))]?.ref;
    return { filter, ...active !== undefined && { active } };
  };
  if (typeof key === "object") return { filter: filter + key.text };
  switch (key) {
    case "backspace":
      return { filter: [...filter].slice(0, -1).join("") };
    case "clear":
      return { filter: "" };
    case "up":
      return go(now - 1);
    case "down":
      return go(now + 1);
    case "page-up":
      return go(now - page);
    case "page-down":
      return go(now + page);
    case "home":
      return go(0);
    case "end":
      return go(left.length - 1);
    default:
      return state;
  }
}

/** What is seen: lines that fit the terminal, the cursor's column in the first, and how many choices are on a page. */
export function formatPicture(
  parts: readonly Part[],
  state: State,
  { rows, columns }: Size,
  now = new Date(),
): { lines: Line[]; cursor: number; page: number } {
  const all = inOrder(parts);
  const left = matching(all, state.filter);
  const at = left.findIndex(({ ref }) => ref === activeOf(state, all)?.ref);

  const noted = parts.flatMap(({ engine, note }) => note === undefined ? [] : [{ engine, note }]);
  const spoken = noted.slice(0, Math.max(1, Math.floor(rows / 3)));
  const notes = spoken.map(({ engine, note }) => {
    const beginning = `${engine}: `;
    return beginning + shortenStart(printable(note).replaceAll("\n", "; "), columns - beginning.length);
  });
  if (noted.length > spoken.length) notes.push(`${noted.length - spoken.length} more engines have no answer`);
  if (rows >= HELP_ROWS) notes.push(HELP);

  const page = Math.max(1, rows - 2 - notes.length);
  const first = Math.max(0, Math.min(at - Math.floor(page / 2), left.length - page));
  const [heading, ...table] = formatRows(all, columns - 2, now);
  const texts = new Map(all.map(({ ref }, i) => [ref, table[i]!]));

  const counted = `${left.length}/${all.length}`;
  const typed = shortenStart(state.filter, columns - LABEL.length - 1);
  const top = LABEL + typed;
  const room = columns - top.length - counted.length;
  const lines: Line[] = [
    { text: room > 0 ? `${top}${" ".repeat(room)}${counted}` : top },
    { text: `  ${heading}`, style: "dim" },
    ...left.slice(first, first + page).map((choice, i): Line => ({
      text: `${first + i === at ? "> " : "  "}${texts.get(choice.ref)}`,
      ...first + i === at ? { style: "bold" } : isRunning(choice) ? {} : { style: "dim" },
    })),
    ...left.length === 0 && all.length > 0 ? [{ text: "  nothing matches", style: "dim" } as const] : [],
    ...notes.map((note): Line => ({ text: shorten(note, columns), style: "dim" })),
  ];
  return { lines, cursor: top.length, page };
}

/**
 * The headings and a row for each choice, in columns that fit the width: those that are empty are left out, and the
 * last ones where there is no room for them.
 */
function formatRows(choices: readonly Choice[], width: number, now: Date): string[] {
  const rows = choices.map(({ engine, name, image, state, createdAt, remarks }) =>
    [name, engine, image, state, createdAt === undefined ? "" : age(createdAt, now), remarks.join(", ")]
      .map((cell) => printable(cell.replaceAll("\n", " ")))
  );
  const columns = HEADINGS
    .map((heading, i) => ({ heading, cells: [heading, ...rows.map((row) => row[i]!)] }))
    .filter(({ cells }) => cells.slice(1).some((cell) => cell !== ""))
    .map(({ heading, cells }) => {
      const natural = Math.max(...cells.map((cell) => cell.length));
      return { heading, cells, natural, width: Math.min(natural, NARROWEST[heading] ?? natural) };
    });
  const spare = () => width - columns.reduce((sum, { width }) => sum + width + GAP.length, -GAP.length);
  while (columns.length > 1 && spare() < 0) columns.pop();
  // The narrowest is widened first: a single long name does not take all the room.
  while (spare() > 0) {
    const tight = columns.filter(({ width, natural }) => width < natural);
    const [narrowest] = tight.sort((a, b) => a.width - b.width);
    if (narrowest === undefined) break;
    narrowest.width++;
  }
  if (spare() < 0) columns[0]!.width += spare();
  return ["", ...rows].map((_, at) =>
    columns.map(({ heading, cells, width }) =>
      // What tells images apart is mostly at their end.
      (heading === "IMAGE" ? shortenStart : shorten)(cells[at]!, width).padEnd(width)
    ).join(GAP).trimEnd()
  );
}

/** The end of a text, at most `length` characters of it. */
function shortenStart(text: string, length: number): string {
  const characters = [...text];
  return characters.length <= length ? text : `…${characters.slice(characters.length - length + 1).join("")}`;
}

/** Words as a line that a shell reads as these words. */
export function formatCommandLine(words: readonly string[]): string {
  return words.map((word) => /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`)
    .join(
      " ",
    );
}
