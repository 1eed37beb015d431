/** Sizes as users write them. */

import { CdebugError } from "./errors.ts";

const UNITS: Readonly<Record<string, number>> = { "": 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

/**
 * `500M`, `20GiB`, `1048576` → bytes; units are of 1,024. `what` names the flag in the CdebugError of anything else, or
 * less than `least`.
 */
export function parseBytes(text: string, what: string, least = 1): number {
  const [, amount, unit = ""] = /^(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?$/i.exec(text) ?? [];
  const bytes = Math.floor(Number(amount) * UNITS[unit.toUpperCase()]!);
  if (bytes >= least && Number.isSafeInteger(bytes)) return bytes;
  throw new CdebugError(`Cannot run ${what} takes a size such as 500M or 20G, not "${text}"`);
}

/** As in `12.3 MiB`. */
export function formatBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) {
    bytes /= 1024;
    unit++;
  }
  return `${unit === 0 ? Math.floor(bytes) : bytes.toFixed(1)} ${units[unit]}`;
}
