/** `cdebug prune`: removes what belongs to no living session. */

import type { Driver } from "../driver.ts";
import { CdebugError, EXIT, printable, reason } from "../errors.ts";
import { staleExchanges } from "../exchange.ts";
import { execute } from "../executor.ts";
import { COMMON_FLAGS, type Flags, formatFlags, parseFlags } from "../flags.ts";
import { ownIdentity } from "../owner.ts";
import type { Planner } from "../plan.ts";
import { findSessions, mayBeOwned } from "../sessions.ts";
import { type Candidate, formatRef } from "../target.ts";
import { confirm } from "../terminal.ts";
import { askEngines, ENGINE_FLAGS } from "./engines.ts";
import { aroundRequest } from "./live.ts";
import { count } from "./output.ts";
import { note, print, tellFailure } from "./session.ts";

export const flags = {
  yes: { type: "boolean", short: "y", help: "Do not ask" },
  "dry-run": { type: "boolean", help: "Print what would be removed and do nothing" },
  image: {
    type: "string",
    value: "IMAGE",
    help: "The toolkit that removes links (default $CDEBUG_IMAGE, else busybox:musl)",
  },
  quiet: { type: "boolean", short: "q", help: "Print nothing but failures" },
  ...ENGINE_FLAGS,
  ...COMMON_FLAGS,
} as const satisfies Flags;

const help = `Usage: cdebug prune [FLAGS] [ENGINE://] [SESSION...]

Removes what belongs to no living session, on all engines that answer or on one: sidecars that have ended, or
whose cdebug is dead; their links in running targets; snapshots and networks that no container uses; and directories of forwards. Prints what it has
removed. Sessions whose cdebug lives, or runs on another machine, are left alone, and so are detached ones; those
that are named, as cdebug ls shows them, are ended instead, whatever they are.

Examples:
  cdebug prune --dry-run                       what would be removed
  cdebug prune                                 asks first
  cdebug prune --yes podman://                 Podman's only, without asking
  cdebug prune --yes 6cd0d060                  ends a detached session

Flags:
${formatFlags(flags)}
`;

/** Something that is left of a session. */
export type Leftover =
  | { readonly kind: "container"; readonly id: string; readonly name: string; readonly session: string }
  | { readonly kind: "link"; readonly target: Candidate; readonly path: string }
  | { readonly kind: "image" | "network"; readonly id: string; readonly name: string };

/** Runs `cdebug prune` and returns its exit code. `planner` makes the sessions that remove links. */
export async function prune(argv: readonly string[], planner: () => Promise<Planner>): Promise<number> {
  const { values, rest } = parseFlags("prune", flags, argv, { anywhere: true });
  if (values.help) {
    await print(help);
    return 0;
  }
  const named = rest.filter((word) => SESSION.test(word));
  const words = rest.filter((word) => !SESSION.test(word));
  await using engines = await askEngines("prune", words, values.runtime, (driver) => driver.list());
  let code = engines.tellFailures();
  const found = await Promise.all(
    engines.answers.map(async ({ driver, answer }) => ({
      driver,
      leftovers: named.length > 0
        ? await partsOf(driver, answer, named)
        : await findLeftovers(driver, answer),
    })),
  );
  for (const session of named) {
    if (found.some(({ leftovers }) => leftovers.some((leftover) => sessionOf(leftover) === session))) {
      continue;
    }
    throw new CdebugError(`Cannot end session "${session}": no engine that answers has it`, {
      hint: "cdebug ls  lists the sessions",
    });
  }
  const directories = named.length > 0 ? [] : await staleExchanges();
  const all = [
    ...found.flatMap(({ driver, leftovers }) => leftovers.map((leftover) => describe(driver, leftover))),
    ...directories.map((directory) => `directory ${directory}`),
  ];
  if (values["dry-run"]) {
    await print(all.map((line) => `${line}\n`).join(""));
    return code;
  }
  if (all.length === 0) {
    if (!values.quiet) note("There is nothing to remove");
    return code;
  }
  if (!values.yes) {
    const kinds = found.flatMap(({ leftovers }) => leftovers.map(({ kind }) => kind));
    await agree(all, [...kinds, ...directories.map(() => "directory" as const)]);
  }

  for (const { driver, leftovers } of found) {
    const sweep = async (target: Candidate) => await sweepLinks(await planner(), driver, target, values);
    for await (const { leftover, failure } of remove(driver, leftovers, sweep)) {
      if (failure) code = tellFailure(failure, false);
      else if (!values.quiet) await print(`${describe(driver, leftover)}\n`);
    }
  }
  for (const directory of directories) {
    await Deno.remove(directory, { recursive: true });
    if (!values.quiet) await print(`directory ${directory}\n`);
  }
  return code;
}

/** As `cdebug ls` shows them. */
const SESSION = /^[0-9a-f]{8}$/;

function sessionOf(leftover: Leftover): string | undefined {
  return leftover.kind === "container" ? leftover.session : undefined;
}

/** What there is of some sessions, alive or not. */
async function partsOf(
  driver: Driver,
  containers: readonly Candidate[],
  sessions: readonly string[],
): Promise<Leftover[]> {
  const own = containers.flatMap(({ id, name, labels }) => {
    const session = labels["cdebug.session"];
    return session !== undefined && sessions.includes(session)
      ? [{ kind: "container" as const, id, name, session }]
      : [];
  });
  const resources = (await driver.labelled("cdebug.session"))
    .filter(({ labels }) => sessions.includes(labels["cdebug.session"] ?? ""))
    .map(({ kind, id, names }) => ({ kind, id, name: names[0] ?? id }));
  return [...own, ...resources];
}

/**
 * What belongs to no living session on an engine; `containers` are all of its. Nothing is run: a link is known
 * from what the engine says has been added to a container's root.
 */
export async function findLeftovers(driver: Driver, containers: readonly Candidate[]): Promise<Leftover[]> {
  const isSidecar = ({ labels }: Candidate) => labels["cdebug.session"] !== undefined;
  const [links, resources] = await Promise.all([
    Promise.all(
      containers
        .filter((container) => container.state === "running" && !isSidecar(container))
        .map(async (target) => ({ target, paths: await linksIn(driver, target) })),
    ),
    driver.labelled("cdebug.session"),
  ]);
  // Only now: a session that has begun meanwhile has its container before its link.
  const now = await driver.list();
  const sessions = await findSessions(driver, now);
  const living = sessions.filter(({ over }) => !over);
  const unused = [];
  for (const { kind, id, names, labels } of resources) {
    const used = now.some(({ imageId }) => imageId === id) ||
      living.some(({ session }) => session === labels["cdebug.session"]) || await mayBeOwned(labels);
    // A name of the user's own says that the image is wanted: a sidecar's labels pass to what is made of it.
    const ownName = names.some((name) => !/^(localhost\/)?cdebug-/.test(name));
    if (!used && !ownName) unused.push({ kind, id, name: names[0] ?? id });
  }
  return [
    ...sessions.filter(({ over }) => over).flatMap(({ session, containers }) =>
      containers.map(({ id, name }) => ({ kind: "container" as const, id, name, session }))
    ),
    ...links.flatMap(({ target, paths }) => {
      const here = living.filter((session) => session.target.id === target.id);
      return paths
        // Nothing tells whose /nix is, so that it stays as long as anybody's session does.
        .filter((path) =>
          path === "/nix" ? here.length === 0 : !here.some(({ session }) => path === `/.cdebug-${session}`)
        )
        .map((path) => ({ kind: "link" as const, target, path }));
    }),
    ...unused,
  ];
}

/** The links that sessions have made in a target, dead or alive. */
async function linksIn(driver: Driver, { id }: Candidate): Promise<string[]> {
  const added = await driver.added(id);
  const links = added.filter((path) => /^\/\.cdebug-[0-9a-f]{8}$/.test(path));
  const nix = added.includes("/nix") &&
    /^\/proc\/\d+\/root\/nix$/.test(await driver.readLink(id, "/nix") ?? "");
  return nix ? [...links, "/nix"] : links;
}

/** Removes leftovers, each told as soon as it is gone, or why it is not. */
async function* remove(
  driver: Driver,
  leftovers: readonly Leftover[],
  sweep: (target: Candidate) => Promise<void>,
): AsyncGenerator<{ leftover: Leftover; failure?: CdebugError }> {
  const failed = (leftover: Leftover, error: unknown) => ({
    leftover,
    failure: new CdebugError(`Cannot remove ${describe(driver, leftover)}: ${reason(error)}`, {
      ...error instanceof CdebugError && error.hint && { hint: error.hint },
      cause: error,
    }),
  });
  for (const leftover of leftovers) {
    if (leftover.kind === "link") continue;
    try {
      await (leftover.kind === "container" ? driver.remove(leftover.id) : driver.removeResource(leftover));
      yield { leftover };
    } catch (error) {
      yield failed(leftover, error);
    }
  }
  const links = Map.groupBy(
    leftovers.flatMap((leftover) => leftover.kind === "link" ? [leftover] : []),
    ({ target }) => target.id,
  );
  for (const stale of links.values()) {
    const { target } = stale[0]!;
    let failure: unknown;
    try {
      await sweep(target);
    } catch (error) {
      failure = error;
    }
    const added = await driver.added(target.id);
    for (const leftover of stale) {
      if (!added.includes(leftover.path)) yield { leftover };
      else yield failed(leftover, failure ?? new Error("a session there has left it"));
    }
  }
}

/** Runs a session that does nothing: each removes the stale links of its target when it begins. */
async function sweepLinks(
  { request, compile }: Planner,
  driver: Driver,
  { id }: Candidate,
  { image, quiet }: { readonly image?: string; readonly quiet?: boolean },
): Promise<void> {
  const words = [`${driver.engine}://${id}`, "sh", "-c", ":"];
  const wanted = request({ ...image && driver.capabilities.images && { image } }, words, aroundRequest());
  let complaint = "";
  const outcome = await execute(
    compile(wanted, await driver.inspect(id), driver.capabilities),
    driver,
    {
      streams: {
        stderr: (chunk) => Promise.resolve(void (complaint += new TextDecoder().decode(chunk))),
      },
      controls: () => () => {},
      env: () => undefined,
      report: (event) => {
        if (event.kind === "pulling" && !quiet) note(`Pulling ${event.image}`);
      },
      owner: ownIdentity(),
    },
  );
  if (outcome.kind === "exit" && outcome.code !== 0) {
    throw new Error(complaint.trim() || `exit code ${outcome.code}`);
  }
}

/** As in `link podman://web:/.cdebug-1a2b3c4d`. */
function describe({ engine }: Driver, leftover: Leftover): string {
  const name = leftover.kind === "link" ? leftover.target.name : leftover.name;
  const path = leftover.kind === "link" ? `:${leftover.path}` : "";
  return printable(`${leftover.kind} ${formatRef({ engine, name })}${path}`);
}

/** Throws CdebugError unless the user says yes. */
async function agree(
  lines: readonly string[],
  kinds: readonly (Leftover["kind"] | "directory")[],
): Promise<void> {
  const counts = (["container", "link", "image", "network", "directory"] as const)
    .map((kind) => [kinds.filter((other) => other === kind).length, kind] as const)
    .filter(([number]) => number > 0)
    .map(([number, kind]) => count(number, kind));
  const what = [counts.slice(0, -1).join(", "), counts.at(-1)].filter(Boolean).join(" and ");
  if (!Deno.stdin.isTerminal()) {
    throw new CdebugError(`Cannot remove ${what}: nobody is there to ask`, {
      hint: "cdebug prune --yes  removes them, --dry-run lists them",
    });
  }
  for (const line of lines) note(line);
  if (!await confirm(`Remove ${what}?`)) {
    throw new CdebugError("Cannot prune: the removal was refused", { exitCode: EXIT.failure });
  }
}
