/** How commands that list things print them: a table for people, JSON and YAML for programs. */

import { printable } from "../errors.ts";
import type { Flag } from "../flags.ts";
import { print } from "./session.ts";

export const OUTPUT_FLAG = {
  type: "string",
  short: "o",
  choices: ["json", "yaml"],
  help: "Print it for programs",
} as const satisfies Flag;

/** Prints `value` in the format of `-o`, or as `text`. */
export async function printAs(format: string | undefined, value: unknown, text: () => string): Promise<void> {
  switch (format) {
    case "json":
      // What JSON leaves as it is may still steer a terminal.
      await print(`${JSON.stringify(value, null, 2).replace(/[\x7f-\x9f]/g, escaped)}\n`);
      break;
    case "yaml": {
      const { formatYaml } = await import("../plan.ts");
      await print(printable(formatYaml(value)));
      break;
    }
    default:
      await print(text());
  }
}

/** The rows as lines, their columns aligned as `docker ps` aligns them. */
export function formatTable(rows: readonly (readonly string[])[], indent = ""): string {
  const cells = rows.map((row) => row.map((cell) => printable(cell.replaceAll("\n", " "))));
  const widths: number[] = [];
  for (const row of cells) row.forEach((cell, i) => widths[i] = Math.max(widths[i] ?? 0, cell.length));
  return cells
    .map((row) => indent + row.map((cell, i) => cell.padEnd(widths[i]!)).join("   ").trimEnd() + "\n")
    .join("");
}

/** The beginning of a text, at most `length` characters of it. */
export function shorten(text: string, length: number): string {
  const characters = [...text];
  return characters.length <= length ? text : `${characters.slice(0, length - 1).join("")}…`;
}

/** How long ago something was, as `docker ps` says it. Source: docker/go-units, duration.go. */
export function age(since: Date, now = new Date()): string {
  const seconds = Math.max(0, Math.floor((now.getTime() - since.getTime()) / 1000));
  const minutes = Math.floor(seconds / 60);
  const hours = Math.round(seconds / 3600);
  const days = Math.floor(hours / 24);
  const text = seconds < 1
    ? "Less than a second"
    : seconds === 1
    ? "1 second"
    : seconds < 60
    ? `${seconds} seconds`
    : minutes === 1
    ? "About a minute"
    : minutes < 60
    ? `${minutes} minutes`
    : hours === 1
    ? "About an hour"
    : hours < 48
    ? `${hours} hours`
    : hours < 24 * 14
    ? `${days} days`
    : hours < 24 * 60
    ? `${Math.floor(days / 7)} weeks`
    : hours < 24 * 365 * 2
    ? `${Math.floor(days / 30)} months`
    : `${Math.floor(days / 365)} years`;
  return `${text} ago`;
}

/** `2 containers`, `1 link`. */
export function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

function escaped(char: string): string {
  return `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`;
}
