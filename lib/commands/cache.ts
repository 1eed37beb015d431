/** `cdebug cache`: what registries have given, and is kept for the next time. */

import { CdebugError } from "../errors.ts";
import { COMMON_FLAGS, type Flags, formatFlags, parseFlags } from "../flags.ts";
import { type Cached, cacheDirectory, listCache, pruneCache } from "../registry/cache.ts";
import { formatBytes, parseBytes } from "../size.ts";
import { age, formatTable, OUTPUT_FLAG, printAs } from "./output.ts";
import { note, print } from "./session.ts";

export const flags = {
  output: OUTPUT_FLAG,
  limit: {
    type: "string",
    value: "SIZE",
    help: "Of prune: how much may stay, the last used first (default 0)",
  },
  ...COMMON_FLAGS,
} as const satisfies Flags;

const help = `Usage: cdebug cache [FLAGS] [prune]

Lists the layers that registries have given, and the images that are unpacked as toolkits for processes: they are
kept in the user's cache, for the next time. prune removes them, or what has not been used for longest, but nothing
that is being fetched, and no toolkit of a session that runs.

Examples:
  cdebug cache
  cdebug cache prune                           all of it
  cdebug cache prune --limit 2G                down to 2 GiB

Flags:
${formatFlags(flags)}
`;

/** Runs `cdebug cache` and returns its exit code. */
export async function cache(argv: readonly string[]): Promise<number> {
  const { values, rest } = parseFlags("cache", flags, argv, { anywhere: true });
  const { limit, output } = values;
  if (values.help) {
    await print(help);
    return 0;
  }
  const pruning = rest[0] === "prune";
  if (rest.length > (pruning ? 1 : 0)) {
    throw new CdebugError(`Cannot run cache: expected nothing, or prune, not "${rest.join(" ")}"`, {
      hint: "cdebug cache prune",
    });
  }
  if (!pruning && limit !== undefined) {
    throw new CdebugError("Cannot run cache: --limit is of prune", {
      hint: `cdebug cache prune --limit ${limit}`,
    });
  }
  const entries = pruning
    ? await pruneCache(limit === undefined ? 0 : parseBytes(limit, "cache: --limit", 0))
    : await listCache();
  await printAs(output, entries.map(record), () => formatCached(entries));
  if (output === undefined) {
    const total = formatBytes(entries.reduce((sum, { size }) => sum + size, 0));
    note(pruning ? `Removed ${total} from ${cacheDirectory()}` : `${total} in ${cacheDirectory()}`);
  }
  return 0;
}

/** The table that people see. */
export function formatCached(entries: readonly Cached[], now = new Date()): string {
  return formatTable([
    ["CONTENTS", "SIZE", "USED"],
    ...entries.map(({ name, size, usedAt, partial }) => [
      partial ? `${name} (not whole)` : name,
      formatBytes(size),
      age(usedAt, now),
    ]),
  ]);
}

/** What programs get: names that stay. */
function record({ name, path, size, usedAt, partial }: Cached) {
  return { name, path, sizeBytes: size, usedAt: usedAt.toISOString(), partial };
}
