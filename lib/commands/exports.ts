/** Runs a plan of an export for a person. */

import type { Driver } from "../driver.ts";
import { CdebugError, printable } from "../errors.ts";
import type { Event } from "../executor.ts";
import { exportFiles } from "../exporting.ts";
import { record } from "../history.ts";
import { ownIdentity } from "../owner.ts";
import type { Plan } from "../plan.ts";
import { formatBytes } from "../size.ts";
import { terminalSize } from "../terminal.ts";
import { listen, newControls, note, type RunOptions, say, writeStdout } from "./session.ts";

/** Runs the plan and returns cdebug's exit code. Throws CdebugError where cdebug itself failed. */
export async function runExport(plan: Plan, driver: Driver, options: RunOptions): Promise<number> {
  if (plan.session.kind === "export" && plan.session.output === "-" && Deno.stdout.isTerminal()) {
    throw new CdebugError("Cannot export to stdout: it is a terminal", {
      hint: "-o FOLDER, or -o - | tar -t",
    });
  }
  const { controls, tell } = newControls();
  const stopListening = listen((name) => tell({ kind: "signal", name }), undefined);
  const progress = newProgress(options.quiet);
  const owner = ownIdentity();
  const recording = record(plan, owner);
  try {
    const outcome = await exportFiles(plan, driver, {
      controls,
      env: (name) => Deno.env.get(name),
      report: (event) => progress.print(event),
      owner,
      stdout: writeStdout,
    });
    await recording.end(outcome);
    return outcome.kind === "exit" ? outcome.code : 0;
  } catch (error) {
    await recording.fail(error);
    throw error;
  } finally {
    progress.clear();
    stopListening();
  }
}

/** Complaints that people read; the rest is in the list beside the result. */
const MOST_COMPLAINTS = 5;

/** What is told while it runs: on a terminal a line for each layer, and one of how far it is. */
function newProgress(quiet: boolean) {
  const drawing = !quiet && Deno.stderr.isTerminal();
  const layers = new Map<string, Part>();
  const began = performance.now();
  let readingSince: number | undefined;
  let drawn = 0;
  let complaints = 0;
  const clear = () => {
    if (drawn > 0) write(`\r${drawn > 1 ? `\x1b[${drawn - 1}A` : ""}\x1b[J`);
    drawn = 0;
  };
  const draw = (lines: readonly string[]) => {
    if (!drawing) return;
    clear();
    const { columns, rows } = terminalSize();
    const shown = lines.slice(-Math.max(1, rows - 1)).map((line) => printable(line).slice(0, columns - 1));
    write(shown.join("\n"));
    drawn = shown.length;
  };
  const tell = (line: string) => {
    if (quiet) return;
    clear();
    note(line);
  };
  return {
    clear,
    print(event: Event): void {
      switch (event.kind) {
        case "layer": {
          const { digest, done, total } = event;
          layers.set(digest, { done, total });
          draw([...[...layers].map(lineOf), sumOf([...layers.values()], (performance.now() - began) / 1000)]);
          break;
        }
        case "export-progress": {
          // Layers have been fetched before.
          readingSince ??= performance.now();
          const rate = rateOf(event.bytes, (performance.now() - readingSince) / 1000);
          const count = event.entries > 0 ? `${event.entries} files, ` : "";
          draw([`Exporting: ${count}${formatBytes(event.bytes)}, ${rate}  ${event.path ?? ""}`]);
          break;
        }
        case "left-out":
          tell(
            event.inMemory
              ? `Left out, as it is in memory, where the engine does not look: ${event.paths.join(", ")}`
              : `Left out, as it is mounted there: ${event.paths.join(", ")} (--volumes adds it)`,
          );
          break;
        case "unreadable":
          if (++complaints <= MOST_COMPLAINTS) tell(event.text);
          break;
        case "omitted":
          tell(
            `Not as in the target: ${
              Object.entries(event.counts).map(([what, many]) => `${many} × ${what}`).join(", ")
            }; all are in ${event.list}`,
          );
          break;
        case "exported":
          if (quiet || event.output === "-") break;
          clear();
          say(
            `Exported ${
              event.entries > 0 ? `${event.entries} ${event.entries === 1 ? "entry" : "entries"}, ` : ""
            }${formatBytes(event.bytes)} to ${event.output}`,
          );
          break;
        default: // of sessions with sidecars
      }
    },
  };
}

/** How much of a layer is there, in bytes. */
interface Part {
  readonly done: number;
  readonly total: number;
}

function lineOf([digest, { done, total }]: readonly [string, Part]): string {
  const name = digest.replace(/^sha256:/, "").slice(0, 12);
  return `${name}  ${bar(done, total)} ${formatBytes(done)} of ${formatBytes(total)}`;
}

/** All layers that are known of by now, their rate, and how long they take at that. */
function sumOf(parts: readonly Part[], seconds: number): string {
  const done = parts.reduce((sum, part) => sum + part.done, 0);
  const total = parts.reduce((sum, part) => sum + part.total, 0);
  const left = done > 0 ? Math.ceil((total - done) * seconds / done) : undefined;
  return `Fetching: ${formatBytes(done)} of ${formatBytes(total)}, ${rateOf(done, seconds)}${
    left === undefined ? "" : `, ${left} s left`
  }`;
}

function rateOf(bytes: number, seconds: number): string {
  return `${formatBytes(bytes / Math.max(0.1, seconds))}/s`;
}

function bar(done: number, total: number): string {
  const width = 20;
  const filled = total > 0 ? Math.min(width, Math.floor(width * done / total)) : 0;
  return `[${"#".repeat(filled)}${" ".repeat(width - filled)}]`;
}

function write(text: string): void {
  try {
    Deno.stderr.writeSync(new TextEncoder().encode(text));
  } catch {
    // Nobody reads any more.
  }
}
