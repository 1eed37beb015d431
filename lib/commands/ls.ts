/** `cdebug ls`: the sessions on the engines. */

import { COMMON_FLAGS, type Flags, formatFlags, parseFlags } from "../flags.ts";
import { findSessions, orphans, type SessionFound } from "../sessions.ts";
import { formatRef } from "../target.ts";
import { askEngines, ENGINE_FLAGS } from "./engines.ts";
import { age, count, formatTable, OUTPUT_FLAG, printAs, shorten } from "./output.ts";
import { print } from "./session.ts";

const COMMAND_WIDTH = 30;

export const flags = {
  output: OUTPUT_FLAG,
  quiet: { type: "boolean", short: "q", help: "Print nothing but the sessions' IDs" },
  ...ENGINE_FLAGS,
  ...COMMON_FLAGS,
} as const satisfies Flags;

const help = `Usage: cdebug ls [FLAGS] [ENGINE://]

Lists the sessions on all engines that answer, or on one. OWNER is the cdebug that a session ends with: alive;
dead, the session is an orphan, and cdebug prune removes it; elsewhere, not visible from here; or detached, the
session goes on without one.

Examples:
  cdebug ls
  cdebug ls podman://                          Podman's only
  cdebug ls -o json                            for programs

Flags:
${formatFlags(flags)}
`;

/** Runs `cdebug ls` and returns its exit code. */
export async function ls(argv: readonly string[]): Promise<number> {
  const { values, rest } = parseFlags("ls", flags, argv, { anywhere: true });
  if (values.help) {
    await print(help);
    return 0;
  }
  await using engines = await askEngines("ls", rest, values.runtime, findSessions);
  const code = engines.tellFailures();
  const sessions = engines.answers.flatMap(({ answer }) => answer);
  if (values.quiet) await print(sessions.map(({ session }) => `${session}\n`).join(""));
  else await printAs(values.output, sessions.map(record), () => formatSessions(sessions));
  return code;
}

/** The table that people see. */
export function formatSessions(sessions: readonly SessionFound[], now = new Date()): string {
  return formatTable([
    ["SESSION", "TARGET", "STATE", "AGE", "OWNER", "COMMAND"],
    ...sessions.map(({ session, engine, target, state, createdAt, owner, command }) => [
      session,
      formatRef({ engine, name: target.name }),
      state,
      age(createdAt, now),
      owner,
      shorten(command, COMMAND_WIDTH),
    ]),
  ]);
}

/** A remark on the orphans among some sessions of an engine, with the command that removes them; or nothing. */
export function formatOrphans(
  sessions: readonly SessionFound[],
  runtime: string | undefined,
): string | undefined {
  const found = orphans(sessions);
  const oldest = found.at(-1);
  if (oldest === undefined) return undefined;
  const targets = [...new Set(found.map(({ target }) => target.name))].join(", ");
  const began = age(oldest.createdAt).replace(/^./, (letter) => letter.toLowerCase());
  const engine = oldest.engine === "docker" ? "" : ` ${oldest.engine}://`;
  const address = runtime === undefined ? "" : ` --runtime ${runtime}`;
  return `${count(found.length, "orphaned session")} on ${targets}, from ${began}\n` +
    `Hint: cdebug prune${address}${engine}  removes ${found.length === 1 ? "it" : "them"}`;
}

/** What programs get: names that stay. */
function record({ session, engine, target, state, createdAt, owner, command, containers }: SessionFound) {
  return {
    session,
    engine,
    target: target.name,
    targetId: target.id,
    state,
    createdAt: createdAt.toISOString(),
    owner,
    command,
    containers: containers.map(({ name }) => name),
  };
}
