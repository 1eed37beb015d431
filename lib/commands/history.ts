/** `cdebug history`: what ran, when, and how it ended. */

import { CdebugError, nearest, printable } from "../errors.ts";
import { COMMON_FLAGS, type Flags, formatFlags, parseFlags } from "../flags.ts";
import { clearRuns, type Entry, listRuns, readRun, type Run, standing } from "../history.ts";
import { titleOf } from "../target.ts";
import { confirm } from "../terminal.ts";
import { age, count, formatTable, OUTPUT_FLAG, printAs, shorten } from "./output.ts";
import { print } from "./session.ts";

const COMMAND_WIDTH = 40;

export const flags = {
  output: OUTPUT_FLAG,
  yes: { type: "boolean", short: "y", help: "Do not ask" },
  ...COMMON_FLAGS,
} as const satisfies Flags;

const help = `Usage: cdebug history [FLAGS]
       cdebug history show N
       cdebug history clear

Lists the plans that ran, the newest first: the last 1000. show prints one, as cdebug apply reads it; apply @N runs
it again. Values of -e are not kept, unless CDEBUG_HISTORY=values; with CDEBUG_HISTORY=off nothing is.

Examples:
  cdebug history | head
  cdebug history show 12 > plan.yaml
  cdebug apply @12                             once more, on the same target
  cdebug apply @12 --retarget                  on the one that has its name today

Flags:
${formatFlags(flags)}
`;

/** Runs `cdebug history` and returns its exit code. */
export async function history(argv: readonly string[]): Promise<number> {
  const { values, rest } = parseFlags("history", flags, argv, { anywhere: true });
  const [word, ...more] = rest;
  if (values.help) await print(help);
  else if (word === undefined) await list(values.output);
  else if (word === "show" && more.length === 1) await show(more[0]!, values.output);
  else if (word === "clear" && more.length === 0) await clear(values.yes ?? false);
  else {
    const near = nearest(word, ["show", "clear"], 1)[0];
    throw new CdebugError(
      word === "show"
        ? "Cannot run history show: expected the number of one run"
        : `Cannot run history: expected nothing, show N or clear, not "${rest.join(" ")}"`,
      { hint: near === "clear" ? "cdebug history clear" : "cdebug history show 12" },
    );
  }
  return 0;
}

/** The number in `text`, a run's. Throws CdebugError if it is none; `shown` is what the user typed. */
export function parseNumber(text: string, shown: string): number {
  if (/^[1-9]\d{0,14}$/.test(text)) return Number(text);
  throw new CdebugError(`Cannot read run "${shown}": expected the number of a run`, {
    hint: "cdebug history  lists the runs",
  });
}

async function list(output: string | undefined): Promise<void> {
  const entries = await listRuns();
  const rows = await Promise.all(
    entries.map(async ({ number, run }) => ({ number, run, state: run && await standing(run) })),
  );
  await printAs(
    output,
    rows.map(({ number, run, state }) => recordOf({ number, ...run && { run } }, state)),
    () =>
      formatTable([
        ["RUN", "STARTED", "TARGET", "COMMAND", "ENDING", "TOOK"],
        ...rows.map(({ number, run, state }) =>
          run === undefined ? [String(number), "", "", "", "cannot be read", ""] : [
            String(number),
            age(new Date(run.startedAt)),
            run.plan.request.target,
            shorten(titleOf(run.plan.request), COMMAND_WIDTH),
            endingOf(run, state!),
            run.durationMs === undefined ? "" : `${(run.durationMs / 1000).toFixed(1)} s`,
          ]
        ),
      ]),
  );
}

async function show(word: string, output: string | undefined): Promise<void> {
  const number = parseNumber(word, word);
  const run = await readRun(number);
  const state = await standing(run);
  const { formatYaml } = await import("../plan.ts");
  await printAs(output, { ...recordOf({ number, run }, state), plan: run.plan }, () => {
    const { request } = run.plan;
    const facts = [
      `run ${number}, ${run.startedAt}: ${request.command} on ${request.target}`,
      run.durationMs === undefined
        ? endingOf(run, state)
        : `${endingOf(run, state)}, after ${(run.durationMs / 1000).toFixed(1)} s`,
      ...run.ending?.kind === "failed" ? run.ending.message.split("\n") : [],
    ];
    return facts.map((fact) => `# ${printable(fact)}\n`).join("") + printable(formatYaml(run.plan));
  });
}

async function clear(granted: boolean): Promise<void> {
  if (!granted) {
    if (!Deno.stdin.isTerminal()) {
      throw new CdebugError("Cannot clear the history: nobody is there to ask", {
        hint: "cdebug history clear --yes",
      });
    }
    if (!await confirm(`Remove ${count((await listRuns()).length, "run")} from the history?`)) {
      throw new CdebugError("Cannot clear the history: the removal was refused");
    }
  }
  await clearRuns();
}

function endingOf({ ending }: Run, state: string): string {
  return ending === undefined || ending.kind === "detached"
    ? state
    : ending.kind === "failed"
    ? `failed (${ending.code})`
    : `exit code ${ending.code}`;
}

/** What programs get: names that stay. */
function recordOf({ number, run }: Entry, state: string | undefined) {
  if (run === undefined) return { run: number, state: "unreadable" };
  const { startedAt, durationMs, ending, plan: { request, target } } = run;
  return {
    run: number,
    startedAt,
    target: request.target,
    targetId: target.id,
    command: request.command,
    argv: request.argv,
    state,
    ...ending && ending.kind !== "detached" && { exitCode: ending.code },
    ...ending?.kind === "failed" && { message: ending.message },
    ...durationMs !== undefined && { durationMs },
  };
}
