/** `cdebug apply`: runs a saved plan, if its target is still the one that it was made for. */

import { CdebugError, reason } from "../errors.ts";
import { COMMON_FLAGS, type Flags, formatFlags, parseFlags } from "../flags.ts";
import type { ForwardSession, Plan, Planner, Sidecar } from "../plan.ts";
import { differences, refOf, type Target } from "../target.ts";
import { confirm } from "../terminal.ts";
import { openTarget } from "./find.ts";
import { capabilitiesFor, lookingFor } from "./live.ts";
import { note, print, runPlan } from "./session.ts";

export const summary = "Run a saved plan";

export const flags = {
  yes: {
    type: "boolean",
    short: "y",
    help: "Grant the rights that the plan asks for beyond the target's own",
  },
  retarget: {
    type: "string",
    optional: true,
    value: "REF",
    help: "Make the plan again for the target of today, or for another one",
  },
  output: {
    type: "string",
    short: "o",
    choices: ["json"],
    help: "Print the events of forwards for programs, a line each, on stdout",
  },
  verbose: { type: "boolean", short: "v", help: "Tell of each connection of forwards" },
  quiet: { type: "boolean", short: "q", help: "Print nothing but the command's output and failures" },
  ...COMMON_FLAGS,
} as const satisfies Flags;

const help = `Usage: cdebug apply [FLAGS] FILE|-|@N

Runs a plan of cdebug plan, from a file or from stdin, or that of a run of cdebug history. If the target has been created or started again since,
the plan is stale and is not run; --retarget makes it again from the request that it holds.

Examples:
  cdebug plan exec web ps > ps.yaml
  cdebug apply ps.yaml
  cdebug apply ps.yaml --retarget              for web as it is now
  cdebug apply ps.yaml --retarget other        for another container
  cdebug apply @12                             once more what ran before

Flags:
${formatFlags(flags)}
`;

/** Runs `cdebug apply` and returns its exit code. */
export async function apply(
  argv: readonly string[],
  planners: (command: Plan["request"]["command"]) => Promise<Planner>,
): Promise<number> {
  const { values, rest } = parseFlags("apply", flags, joinRetarget(argv), { anywhere: true });
  if (values.help) {
    await print(help);
    return 0;
  }
  const [file, ...more] = rest;
  if (file === undefined || more.length > 0) {
    throw new CdebugError("Cannot run apply: expected one plan, a file or - for stdin", {
      hint: "cdebug plan exec TARGET COMMAND > plan.yaml; cdebug apply plan.yaml",
    });
  }
  const saved = await readPlan(file);

  let plan = saved;
  const again = values.retarget !== undefined;
  const quiet = values.quiet ?? false;
  const planner = await planners(saved.request.command);
  await using found = await openTarget(
    !again ? refOf(saved.target) : values.retarget || saved.request.target,
    saved.request.runtime,
    { quiet, ...lookingFor(planner, saved.request) },
  );
  const { driver, target } = found;
  const request = { ...saved.request, target: found.ref };
  const capabilities = await capabilitiesFor(planner, driver);
  const replan = (target: Target) => planner.compile(request, target, capabilities);
  if (again) {
    plan = replan(target);
    if (!quiet) { for (const line of changes(saved, plan)) note(line); }
  } else refuseStale(saved, target, file);

  await confirmRights(extraRights(plan, target), values.yes ?? false);
  return await runPlan(plan, driver, {
    quiet,
    replan,
    json: values.output === "json",
    verbose: values.verbose ?? false,
  });
}

/** `--retarget REF FILE` → `--retarget=REF FILE`; with a single word, that is the file. */
function joinRetarget(argv: readonly string[]): readonly string[] {
  const at = argv.indexOf("--retarget");
  const ref = argv[at + 1];
  const words = argv.filter((word) => word === "-" || !word.startsWith("-"));
  if (at < 0 || ref === undefined || ref.startsWith("-") || words.length < 2) return argv;
  return [...argv.slice(0, at), `--retarget=${ref}`, ...argv.slice(at + 2)];
}

async function readPlan(file: string): Promise<Plan> {
  const { formatYaml, MAX_PLAN_SIZE, parsePlan } = await import("../plan.ts");
  if (file.startsWith("@")) {
    const [{ readRun }, { parseNumber }] = await Promise.all([
      import("../history.ts"),
      import("./history.ts"),
    ]);
    return parsePlan(formatYaml((await readRun(parseNumber(file.slice(1), file))).plan), file);
  }
  let text = "";
  try {
    const stream = file === "-" ? Deno.stdin.readable : (await Deno.open(file)).readable;
    for await (const part of stream.pipeThrough(new TextDecoderStream())) {
      text += part;
      if (text.length > MAX_PLAN_SIZE) break; // a device or a log could go on for ever; what there is says enough
    }
  } catch (error) {
    throw new CdebugError(`Cannot read plan "${file}": ${reason(error)}`, { cause: error });
  }
  return parsePlan(text, file);
}

function refuseStale(plan: Plan, target: Target, file: string): void {
  const found = differences(plan.target, target);
  if (found.length === 0) return;
  throw new CdebugError(
    `Cannot apply "${file}": the plan is stale, target "${target.name}" is not the one it was made for: ${
      found.join("; ")
    }`,
    { hint: `cdebug apply ${file} --retarget` },
  );
}

/** What the plan asks for beyond the rights that the target has now, whatever the plan says of it; a sentence each. */
export function extraRights({ sidecars, session, request }: Plan, target: Target): string[] {
  return [
    ...sidecars.flatMap((sidecar) =>
      extraRightsOf(sidecar, target).map((text) => `${sidecar.name}: ${text}`)
    ),
    ...session.kind === "forward" ? ofForwards(session, request.argv) : [],
  ];
}

/** What forwards do to this machine that a target has no right to. */
function ofForwards({ forwards }: ForwardSession, argv: readonly string[]): string[] {
  return [
    ...argv.length > 0 ? [`the command ${argv.map(quoted).join(" ")}, run on this machine`] : [],
    ...forwards.flatMap(({ via, connect }) =>
      via === "reverse" && "path" in connect
        ? [`this machine's ${quoted(connect.path)}, for whoever connects in the target`]
        : []
    ),
  ];
}

function extraRightsOf(sidecar: Sidecar, target: Target): string[] {
  const found: string[] = [];
  if (sidecar.privileged && !target.privileged) found.push("privileged, all rights on the engine's machine");
  const added = (sidecar.addLinuxCapabilities ?? []).filter((name) =>
    !target.addLinuxCapabilities.includes(name) && !target.addLinuxCapabilities.includes("ALL")
  );
  if (added.length > 0) found.push(`Linux capabilities ${added.join(", ")}`);
  const kept = target.dropLinuxCapabilities.filter((name) =>
    !sidecar.dropLinuxCapabilities?.includes(name) && !added.includes(name)
  );
  if (kept.length > 0) found.push(`Linux capabilities that the target dropped: ${kept.join(", ")}`);
  if (sidecar.snapshot !== undefined && sidecar.snapshot !== target.id) {
    found.push(`a copy of the filesystem of container ${quoted(sidecar.snapshot)}`);
  }
  for (const { source, destination, readOnly } of sidecar.mounts ?? []) {
    found.push(
      `${quoted(source)} of the engine's machine at ${quoted(destination)}${readOnly ? ", read-only" : ""}`,
    );
  }
  for (const kind of ["network", "pid", "ipc", "uts", "user"] as const) {
    if (sidecar.namespaces[kind] === "host" && target.namespaces[kind] !== "host") {
      found.push(`the engine's machine's ${kind} namespace`);
    }
  }
  if (sidecar.namespaces.user === "engine" && target.namespaces.user === "own") {
    found.push("the engine's user namespace");
  }
  const options = (of: readonly string[]) => [...of].sort().join(" ");
  if (options(sidecar.securityOptions ?? []) !== options(target.securityOptions)) {
    found.push(`security options ${options(sidecar.securityOptions ?? []) || "of the engine's default"}`);
  }
  return found;
}

/** Without quotes where there is nothing in it that could be taken for something else. */
function quoted(text: string): string {
  return /^[\w/.:@+-]+$/.test(text) ? text : JSON.stringify(text);
}

async function confirmRights(rights: readonly string[], granted: boolean): Promise<void> {
  if (rights.length === 0 || granted) return;
  note("The plan asks for more than the target has:");
  for (const right of rights) note(`  ${right}`);
  if (!Deno.stdin.isTerminal()) {
    throw new CdebugError("Cannot apply: these rights are not granted", { hint: "--yes grants them" });
  }
  if (!await confirm("Grant them?")) {
    throw new CdebugError("Cannot apply: these rights were refused");
  }
}

/** A line for each value that differs, by its path. */
function changes(before: Plan, after: Plan): string[] {
  const [old, new_] = [flatten(before), flatten(after)];
  const show = (value: string | undefined) =>
    value === undefined ? "nothing" : value.length > 80 ? "a longer text" : value;
  return [...new Set([...old.keys(), ...new_.keys()])]
    .filter((path) => old.get(path) !== new_.get(path))
    .map((path) => `${path}: ${show(old.get(path))} → ${show(new_.get(path))}`);
}

function flatten(value: unknown, path = ""): Map<string, string> {
  if (typeof value !== "object" || value === null) return new Map([[path, JSON.stringify(value)]]);
  return new Map(
    Object.entries(value).flatMap((
      [key, inner],
    ) => [...flatten(inner, path === "" ? key : `${path}.${key}`)]),
  );
}
