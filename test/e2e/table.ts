/** The tables of README.md: what was found on which engines, cell by cell. */

import { assertReadme } from "../golden.ts";

/** The column of what the session may do. */
export const RIGHTS_COLUMN = "Linux capabilities";

/** The bits of CapEff in proc(5), by capabilities(7). */
export const RIGHTS = { SYS_CHROOT: 18n, SYS_PTRACE: 19n } as const;
export type Right = keyof typeof RIGHTS;

/** The effective Linux capabilities in the text of /proc/PID/status. */
export function rightsIn(text: string, set = "CapEff"): bigint {
  return BigInt(`0x${new RegExp(`^${set}:\\s*([0-9a-f]+)$`, "m").exec(text)?.[1] ?? "ffffffffffffffff"}`);
}

export interface Table<Source> {
  /** Notes what a cell was found to be. */
  note(source: Source, row: string, column: string, text: string): void;
  /** Asserts that README.md shows the table as it was found; with `CDEBUG_GOLDEN=write`, writes it. */
  assertReadme(): Promise<void>;
}

/** A table of a section; `sources` are what each cell is found on, and named only where they differ. */
export function newTable<Source extends string>(
  section: string,
  rows: readonly string[],
  columns: readonly string[],
  sources: readonly Source[],
): Table<Source> {
  const found = new Map<string, Map<string, Source[]>>();
  const cellOf = (row: string, column: string) =>
    [...found.get(`${row}\n${column}`) ?? []]
      .map(([text, on]) => on.length === sources.length ? text : `${on}: ${text}`).join("; ");
  return {
    note(source, row, column, text) {
      const key = `${row}\n${column}`;
      const cell = found.get(key) ?? new Map<string, Source[]>();
      found.set(key, cell.set(text, [...cell.get(text) ?? [], source]));
    },
    assertReadme: () =>
      assertReadme(
        section,
        [
          `| target | ${columns.join(" | ")} |`,
          `| --- |${" --- |".repeat(columns.length)}`,
          ...rows.map((row) => `| ${row} | ${columns.map((column) => cellOf(row, column)).join(" | ")} |`),
        ].join("\n"),
      ),
  };
}
