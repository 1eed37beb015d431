/** Tests on targets that take no engine's daemon: made by the kernel alone, or by runc and crun. */

import { obstacle, say } from "../engines/debian.ts";
import { targetObstacle } from "../engines/process.ts";

/** What makes the target; `root`: the kernel, asked by root. */
export type Maker = "process" | "root" | "runc" | "crun";

const OBSTACLES: Readonly<Record<Maker, string | undefined>> = {
  process: await targetObstacle(),
  root: await targetObstacle() ?? (Deno.uid() === 0 ? undefined : "it takes root"),
  runc: await obstacle(),
  crun: await obstacle(),
};
const asked = Deno.env.get("CI") === "true" ? ["all"] : (Deno.env.get("CDEBUG_E2E") ?? "").split(",");

/**
 * Registers a test on targets of this maker. Where there can be none, it is skipped and the reason is said; with
 * `CI=true`, or where `CDEBUG_E2E` names the maker, it fails.
 */
export function localTest(name: string, fn: () => Promise<void>, maker: Maker = "process"): void {
  const why = OBSTACLES[maker];
  const ignore = why !== undefined && !asked.includes("all") && !asked.includes(maker);
  if (ignore) say(`Skipped, for ${why}: ${name}`);
  Deno.test({ name, ignore, fn });
}
