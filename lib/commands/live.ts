/** A command that makes plans, run live; or printed, with `--dry-run` and by `cdebug plan`. */

import type { Driver, Looking } from "../driver.ts";
import { CdebugError, reason } from "../errors.ts";
import { COMMON_FLAGS, type Flags, formatFlags, parseFlags, type Values } from "../flags.ts";
import type { Plan, Planner, Request, RequestSurroundings } from "../plan.ts";
import type { Capabilities, Target } from "../target.ts";
import { confirm, isInteractive } from "../terminal.ts";
import { openTarget } from "./find.ts";
import { print, runPlan, say } from "./session.ts";

/** What every command that makes plans takes besides its own flags. */
export const LIVE_FLAGS = {
  quiet: { type: "boolean", short: "q", help: "Print nothing but the command's output and failures" },
  "dry-run": { type: "boolean", help: "Print the plan and do nothing" },
  "show-values": { type: "boolean", help: "Print the values of -e in the plan" },
  ...COMMON_FLAGS,
} as const satisfies Flags;

/**
 * Runs the command that a planner stands for, or prints its plan. Returns cdebug's exit code.
 * `name` is what the user calls it: `exec`, `plan exec`.
 */
export async function live<F extends Flags>(
  name: string,
  planner: Planner<F>,
  argv: readonly string[],
  options: { print: boolean },
): Promise<number> {
  const flags = { ...planner.flags, ...LIVE_FLAGS };
  const interspersed = planner.interspersed ?? false;
  const parsing = { anywhere: interspersed, parted: interspersed };
  const { values, rest, behind } = parseFlags(name, flags, argv, parsing);
  // The compiler does not see that the values of two tables are the values of each.
  const own = values as Values<F>;
  const common = values as Values<typeof LIVE_FLAGS>;
  if (common.help) {
    await print(formatHelp(planner));
    return 0;
  }
  if (rest.length === 0 && isInteractive()) {
    const words = [...planner.implied?.(own) ?? [], ...argv];
    // What is wrong with the flags is told before anybody picks a target for them.
    const whole = parseFlags(name, flags, words, parsing).values as Values<F>;
    const { runtime } = planner.request(whole, ["TARGET"], aroundRequest(), behind);
    const { formatCommandLine, pickTarget } = await import("./picker.ts");
    const picked = await pickTarget(name, runtime);
    words.splice(interspersed && words.includes("--") ? words.indexOf("--") : words.length, 0, picked);
    if (!common.quiet) say(formatCommandLine(["cdebug", ...name.split(" "), ...words]));
    return await live(name, planner, words, options);
  }
  let request = planner.request(own, rest, aroundRequest(), behind);
  const printing = options.print || common["dry-run"];
  const quiet = common.quiet ?? false;
  await using found = await openTarget(request.target, request.runtime, {
    quiet,
    ...lookingFor(planner, request),
  });
  const { driver, target } = found;
  request = { ...request, target: found.ref };
  const remark = printing || quiet ? undefined : orphanRemark(driver, request.runtime);
  if (
    request.command === "exec" && target.state === "stopped" && !request.stopped && !printing &&
    Deno.stdin.isTerminal()
  ) {
    const stopped = await confirm(
      `"${target.name}" is not running (exit code ${target.exitCode}). Take a throw-away copy of its filesystem?`,
    );
    request = { ...request, ...stopped && { stopped } };
  }
  const capabilities = await capabilitiesFor(planner, driver);
  const replan = (target: Target) => planner.compile(request, target, capabilities);
  const plan: Plan = replan(target);
  if (printing) {
    const { formatPlan } = await import("../plan.ts");
    await print(formatPlan(plan, { showValues: common["show-values"] ?? false }));
    return 0;
  }
  return await runPlan(plan, driver, {
    quiet,
    replan,
    json: own["output"] === "json",
    verbose: own["verbose"] === true,
    ...remark && { remark },
  });
}

/** How a planner's targets are looked at. */
export function lookingFor({ reads = false }: Planner, request: Request): Looking {
  if (request.command !== "export") return { reading: reads };
  const { platform, registryConfig } = request;
  return {
    reading: reads,
    ...platform !== undefined && { platform },
    ...registryConfig !== undefined && { registryConfig },
  };
}

/** What a compiler is told of the driver. */
export async function capabilitiesFor(planner: Planner, driver: Driver): Promise<Capabilities> {
  return planner.asksLocality
    ? { ...driver.capabilities, locality: await driver.locality() }
    : driver.capabilities;
}

/**
 * What there is to say of sessions on the engine that have lost their cdebug, or nothing: asked for while the
 * session begins, which never waits for it, nor fails with it.
 */
async function orphanRemark(driver: Driver, runtime: string | undefined): Promise<string | undefined> {
  try {
    const owned = await driver.list({ label: "cdebug.owner" });
    if (owned.length === 0) return undefined;
    const [{ findSessions }, { formatOrphans }] = await Promise.all([
      import("../sessions.ts"),
      import("./ls.ts"),
    ]);
    const first = formatOrphans(await findSessions(driver), runtime);
    // One that ends just now is seen to run, and then its cdebug is seen to be gone: a second look tells.
    return first && formatOrphans(await findSessions(driver), runtime);
  } catch {
    return undefined;
  }
}

/** The help of a command that makes plans. */
export function formatHelp(
  { usage, examples, flags }: Pick<Planner, "usage" | "examples" | "flags">,
): string {
  return `Usage: ${usage}

Examples:
${examples}

Flags:
${formatFlags({ ...flags, ...LIVE_FLAGS })}
`;
}

/** What a request of this process depends on besides its words. */
export function aroundRequest(): RequestSurroundings {
  return {
    cwd: Deno.cwd(),
    image: Deno.env.get("CDEBUG_IMAGE") || undefined,
    isRoot: Deno.uid() === 0,
    readText,
  };
}

function readText(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    throw new CdebugError(`Cannot read "${path}": ${reason(error)}`, { cause: error });
  }
}
