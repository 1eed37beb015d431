/**
 * `deno task bench [exec|forward|export]... [PAIRS]`: what cdebug costs, as ratios to the barest way of doing the same.
 * Both are measured in turns in one run, and the medians are compared: times of different runs or machines say
 * nothing.
 */

import { benchExec } from "./bench/exec.ts";
import { benchExport } from "./bench/export.ts";
import { benchForward } from "./bench/forward.ts";

const BENCHES = { exec: benchExec, forward: benchForward, export: benchExport };

const pairs = Number(Deno.args.find((arg) => /^\d+$/.test(arg)) ?? 41);
const names = Deno.args.filter((arg) => arg in BENCHES) as (keyof typeof BENCHES)[];
for (const name of names.length > 0 ? names : Object.keys(BENCHES) as (keyof typeof BENCHES)[]) {
  await BENCHES[name](pairs);
}
