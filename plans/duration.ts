/** Times as users write them. */

import { CdebugError } from "../lib/errors.ts";

/** Beyond it, timers wrap around and would fire at once. */
const LONGEST_HOURS = 576;
const UNITS = { s: 1, m: 60, h: 3600 } as const;

/** `90`, `30s`, `5m`, `1h` → seconds. `what` names the flag and its command in the CdebugError of anything else. */
export function parseSeconds(text: string, what: string): number {
  const [, amount, unit = "s"] = /^(\d+(?:\.\d+)?)([smh])?$/.exec(text) ?? [];
  const seconds = Number(amount) * UNITS[unit as keyof typeof UNITS];
  if (seconds > 0 && seconds <= LONGEST_HOURS * UNITS.h) return seconds;
  throw new CdebugError(
    `Cannot run ${what} takes a time such as 30s, 5m or 1h, at most ${LONGEST_HOURS}h, not "${text}"`,
  );
}
