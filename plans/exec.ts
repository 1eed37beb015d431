/** `cdebug exec`: a command, or a shell, with the toolkit's programs in the target's root filesystem. */

import { CdebugError } from "../lib/errors.ts";
import type { Values } from "../lib/flags.ts";
import type { ExecRequest, Plan, RequestSurroundings, Sidecar } from "../lib/plan.ts";
import type { Capabilities, Target } from "../lib/target.ts";
import { parseSeconds } from "./duration.ts";
import { script } from "./enter.ts";
import { copyOf, isTargetsOwn, leastRights, shareNamespaces } from "./sidecar.ts";

/** Where the entry script keeps what is its own: `c_own` in enter.sh. A thousand wrappers are made fast in memory. */
const OWN = "/.cdebug";

const DEFAULT_IMAGE = "docker.io/library/busybox:musl";

export const summary = "Run a command, or a shell, with your own tools in a container";

export const usage = `cdebug exec [FLAGS] [[SCHEME://]TARGET [COMMAND [ARG...]]]

The command sees the target's root filesystem as /, its network and its processes; the programs of the
toolkit follow the target's own on PATH. With -i alone it is a shell. Its exit code is cdebug's;
125 is cdebug's own failure. Flags go before the target: what follows it is the command's.

A target is a container's name or ID, on Docker or wherever else it is found. SCHEME says where: docker, podman,
runc, crun, oci for one of the last two, pid for any process, by its number or name; image for an image.
Without a target, on a terminal, it is picked from a list of all of them.`;

export const examples = `  cdebug exec -it web                          a shell in container web
  cdebug exec                                  a shell in a container picked from a list
  cdebug exec web ls -l /etc                   one command
  cdebug exec web ps                           the target's processes
  cdebug exec -i web sh < check.sh             a script from this machine
  cdebug exec web cat core.123 > core.123      a file out of a container without cat
  cdebug exec -it --image my/tools web         your own tools
  cdebug exec -it pid://4711                   a process, with this machine's tools; no engine
  cdebug exec --dry-run web ps                 what would be done, and why`;

export const flags = {
  interactive: { type: "boolean", short: "i", help: "Pass stdin on" },
  tty: { type: "boolean", short: "t", help: "Give the command a terminal" },
  detach: {
    type: "boolean",
    short: "d",
    help: "Leave the command running and print its container's name",
  },
  image: {
    type: "string",
    value: "IMAGE",
    help: "The toolkit (default $CDEBUG_IMAGE, else busybox:musl; of processes host; or dir:/PATH)",
  },
  pull: {
    type: "string",
    choices: ["missing", "always", "never"],
    help: "When to pull the toolkit",
  },
  platform: {
    type: "string",
    value: "OS/ARCH",
    help: "Of the toolkit, as in linux/arm64",
  },
  user: {
    type: "string",
    short: "u",
    value: "USER[:GROUP]",
    help: "Run as a name or number of the target's (default root)",
  },
  workdir: {
    type: "string",
    short: "w",
    value: "DIR",
    help: "Working directory in the target (default the target's own)",
  },
  env: {
    type: "string",
    short: "e",
    multiple: true,
    value: "NAME[=VALUE]",
    help: "Set a variable; without a value, take it from here",
  },
  "env-file": {
    type: "string",
    multiple: true,
    value: "FILE",
    help: "Set the variables of a file",
  },
  "target-env": {
    type: "boolean",
    help: "Take over the environment of the target's main process",
  },
  volume: {
    type: "string",
    short: "v",
    multiple: true,
    value: "SOURCE:DIR[:ro]",
    help: "Mount into the toolkit, at $CDEBUG_ROOTFS/DIR",
  },
  "cap-add": {
    type: "string",
    multiple: true,
    value: "CAP",
    help: "Add a Linux capability",
  },
  "cap-drop": {
    type: "string",
    multiple: true,
    value: "CAP",
    help: "Drop a Linux capability",
  },
  privileged: { type: "boolean", help: "Give the session all rights" },
  "no-link": {
    type: "boolean",
    help: "Write nothing into the target, not even the link to the toolkit",
  },
  stopped: {
    type: "boolean",
    help: "Take a throw-away copy of the filesystem of a target that has stopped",
  },
  toolkit: {
    type: "string",
    choices: ["static", "dynamic", "nix"],
    help: "How the toolkit's programs are linked (default: found out)",
  },
  root: {
    type: "string",
    choices: ["target", "toolkit"],
    help: "Whose root filesystem is /; the other one is at $CDEBUG_ROOTFS",
  },
  name: {
    type: "string",
    value: "NAME",
    help: "Name of the sidecar's container",
  },
  rm: {
    type: "boolean",
    help: "Remove the sidecar afterwards (default; --rm=false keeps it)",
  },
  entrypoint: {
    type: "string",
    value: "PATH",
    help: "The toolkit's shell, where it is not sh on its PATH",
  },
  timeout: {
    type: "string",
    value: "TIME",
    help: "End the session after 30s, 5m or 1h, with exit code 124",
  },
  runtime: {
    type: "string",
    value: "ADDRESS",
    help: "The engine's socket or URL, or runc's or crun's --root (default its client's)",
  },
} as const;

/** Whoever picks a target from a list wants a shell there. */
export function implied({ interactive, tty, detach }: Values<typeof flags>): string[] {
  if (detach) return [];
  const letters = [...interactive === undefined ? ["i"] : [], ...tty === undefined ? ["t"] : []];
  return letters.length > 0 ? [`-${letters.join("")}`] : [];
}

/** Reads the command line, already split into flags and words. Throws CdebugError where they contradict. */
export function request(
  values: Values<typeof flags>,
  words: readonly string[],
  surroundings: RequestSurroundings,
): ExecRequest {
  const [target, ...command] = words;
  // kubectl's users part the command with it; no command has this name.
  const argv = command[0] === "--" ? command.slice(1) : command;
  if (target === undefined) {
    throw refused(
      "no target is named",
      "cdebug exec -it NAME; docker ps  lists the names",
    );
  }
  const timeoutSeconds = values.timeout === undefined
    ? undefined
    : parseSeconds(values.timeout, "exec: --timeout");
  if (values.detach && timeoutSeconds !== undefined) {
    throw refused(
      "--timeout cannot end a detached session",
      "put the limit into the command: timeout 60 COMMAND",
    );
  }
  if (values.name !== undefined && !/^[a-zA-Z0-9][a-zA-Z0-9_.-]+$/.test(values.name)) {
    throw refused(`--name takes letters, digits, "_", "." and "-", two or more, not "${values.name}"`);
  }
  if (argv.length === 0 && !values.interactive) {
    throw refused("no command is named, and a shell has no input without -i", `cdebug exec -it ${target}`);
  }
  const env = parseEnv(values, surroundings.readText);
  const volumes = values.volume?.map((volume) => absolute(volume, surroundings.cwd));
  return {
    command: "exec",
    target,
    argv: argv.length > 0 ? argv : ["sh"],
    ...values.image && { image: values.image },
    ...surroundings.image && { defaultImage: surroundings.image },
    ...values.interactive && { interactive: true },
    ...values.tty && { tty: true },
    ...values.detach && { detach: true },
    ...values.user && { user: values.user },
    ...values.name && { name: values.name },
    ...values.rm === false && { keep: true },
    ...values.privileged && { privileged: true },
    ...values["cap-add"] && {
      capAdd: values["cap-add"].flatMap(parseCapabilities),
    },
    ...values["cap-drop"] && {
      capDrop: values["cap-drop"].flatMap(parseCapabilities),
    },
    ...Object.keys(env).length > 0 && { env },
    ...values["target-env"] && { targetEnv: true },
    ...volumes && { volumes },
    ...values.workdir && { workdir: values.workdir },
    ...values.platform && { platform: values.platform },
    ...values.pull && { pull: values.pull as Sidecar["pull"] },
    ...values.entrypoint && { entrypoint: values.entrypoint },
    ...values["no-link"] && { noLink: true },
    ...values.stopped && { stopped: true },
    ...values.toolkit && { toolkit: values.toolkit as NonNullable<ExecRequest["toolkit"]> },
    ...values.root && { root: values.root as NonNullable<ExecRequest["root"]> },
    ...values.runtime && { runtime: values.runtime },
    ...timeoutSeconds !== undefined && { timeoutSeconds },
  };
}

/** The plan of a session. Pure: the same request on the same target gives the same plan. */
export function compile(
  request: ExecRequest,
  found: Target,
  capabilities: Capabilities,
): Plan {
  const { tty = false, interactive = false, detach = false } = request;
  const copy = found.state === "running" ? undefined : copyOf(found, request, capabilities);
  const target = copy?.target ?? found;
  const { namespaces, reasons: shared } = shareNamespaces(target, capabilities);
  const { rights, reasons: granted } = leastRights(target, request, capabilities);
  const reasons = [...granted, ...shared];

  const own = isTargetsOwn(request.user ?? "", target);
  const unwritten = request.root === "toolkit"
    ? "the session's root is the toolkit's"
    : request.noLink
    ? "it was asked for"
    : target.readOnlyRoot
    ? "its root is read-only"
    : own
    ? `its root is not user ${target.user}'s to write to`
    : undefined;
  if (unwritten) reasons.push(`nothing is written to the target: ${unwritten}`);
  const link = unwritten ? "no-link" : capabilities.sharedRoots ? "shared-link" : "link";

  // A lifeline where stdin is not needed for anything else, so that a killed cdebug leaves nothing.
  const stdin = interactive ? "open" : tty || detach ? "none" : "lifeline";
  const mode = stdin === "lifeline" ? "lifeline" : tty || interactive ? "attached" : "detached";

  // The sidecar's own PATH must stay the toolkit's; the script sets the command's.
  const { PATH, ...env } = request.env ?? {};
  if (PATH === null) {
    throw refused("-e PATH needs its value here", "-e PATH=$PATH");
  }
  const path = PATH ?? (request.targetEnv ? "" : target.path);
  const given = `:${Object.keys(request.env ?? {}).join(":")}:`;
  const process = String(target.pid ?? `container:${target.id}`);
  const mounts = (request.volumes ?? []).map(parseVolume);

  const debugger_: Sidecar = {
    name: "debugger",
    reason: reasons.length > 0
      ? reasons.join("; ")
      : "shares what the target shares, with the target's own rights",
    image: toolkit(request, capabilities),
    pull: isImage(toolkit(request, capabilities)) ? request.pull ?? "missing" : "never",
    ...request.platform && { platform: request.platform },
    ...request.name && { containerName: request.name },
    ...request.keep && { keep: true },
    ...copy && { joins: copy.sidecar.name },
    namespaces,
    user: "0",
    ...rights,
    ...mounts.length > 0 && { mounts },
    tmpfs: [OWN],
    ...Object.keys(env).length > 0 && { env },
    tty,
    stdin,
    shell: request.entrypoint ?? "sh",
    script,
    args: [
      "session",
      process,
      link,
      mode,
      request.toolkit ?? "auto",
      request.root ?? "target",
      path,
      request.targetEnv ? "target" : "own",
      given,
      request.workdir ?? (request.root === "toolkit" ? "/" : target.workdir || "/"),
      own ? "=" : request.user ?? "",
      ...request.argv,
    ],
    ...mode === "attached" && !detach && { hangup: ["hangup"] },
    signal: ["signal"],
    ...!unwritten && !copy && { undo: ["undo", process] },
  };
  const { networks: _networks, ...facts } = found;
  return {
    version: 1,
    request,
    target: facts,
    sidecars: copy ? [copy.sidecar, debugger_] : [debugger_],
    session: {
      kind: "exec",
      attach: debugger_.name,
      detach,
      ...request.timeoutSeconds !== undefined &&
        { timeoutSeconds: request.timeoutSeconds },
    },
    leaves: [
      ...detach ? [`the debugger and its link until the command ends`] : [],
      ...request.keep ? ["the debugger's container, stopped"] : [],
      ...mounts.map(({ source }) => `${source}, made by the engine if it was not there`),
    ],
  };
}

/** Whether a toolkit is an image, and not a process's machine's own programs, or a directory there. */
function isImage(toolkit: string): boolean {
  return !/^(host$|dir:\/)/.test(toolkit);
}

/** The toolkit that a request means. Throws CdebugError for an image where there can be none. */
export function toolkit(
  { image, defaultImage, platform, keep }: Partial<ExecRequest>,
  { images }: Capabilities,
): string {
  if (images) return image ?? defaultImage ?? DEFAULT_IMAGE;
  const toolkit = image ?? "host";
  if (/^dir:(?!\/)/.test(toolkit)) {
    throw refused(`the toolkit "${toolkit}" is no directory from / on`, "--image dir:/PATH");
  }
  if (platform && !isImage(toolkit)) {
    throw refused("--platform is an image's, and the toolkit is none", "leave it out");
  }
  if (keep) {
    throw refused("--rm=false keeps a container, and a process's sidecar leaves none", "leave it out");
  }
  return toolkit;
}

function refused(text: string, hint?: string): CdebugError {
  return new CdebugError(`Cannot run exec: ${text}`, {
    ...hint !== undefined && { hint },
  });
}

/** As docker: files first, then flags; a name without a value takes the value from cdebug's environment. */
function parseEnv(
  values: Values<typeof flags>,
  readText: (path: string) => string,
): Record<string, string | null> {
  const fromFiles = (values["env-file"] ?? []).flatMap((path) =>
    readText(path).split(/\r?\n/)
      .map((line) => line.trimStart())
      .filter((line) => line !== "" && !line.startsWith("#"))
  );
  const env: Record<string, string | null> = {};
  for (const entry of [...fromFiles, ...values.env ?? []]) {
    const at = entry.indexOf("=");
    const name = at < 0 ? entry.trimEnd() : entry.slice(0, at);
    if (!/^[^\s=\0]+$/.test(name)) {
      throw refused(`"${entry}" is not a variable`, "-e NAME=VALUE");
    }
    env[name] = at < 0 ? null : entry.slice(at + 1);
  }
  return env;
}

/** `cap_sys_ptrace,NET_ADMIN` → the kernel's names without their prefix. */
function parseCapabilities(text: string): string[] {
  return text.split(",").map((word) => {
    const name = word.trim().toUpperCase().replace(/^CAP_/, "");
    if (!/^[A-Z_]+$/.test(name)) throw refused(`"${text}" is not a Linux capability`, "--cap-add SYS_PTRACE");
    return name;
  });
}

/** A relative source is a path below the working directory, as with docker. */
function absolute(volume: string, cwd: string): string {
  return volume.replace(/^\.(?=\/|:)/, () => cwd);
}

function parseVolume(volume: string): NonNullable<Sidecar["mounts"]>[number] {
  const [source, destination, mode = "rw", ...more] = volume.split(":");
  if (
    !source || !destination?.startsWith("/") || /\/\.\.?(\/|$)|\p{Cc}/u.test(destination) ||
    more.length > 0 ||
    !["ro", "rw"].includes(mode)
  ) {
    throw refused(
      `"${volume}" is not a volume`,
      "-v SOURCE:/DIR or -v SOURCE:/DIR:ro",
    );
  }
  return { source, destination, readOnly: mode === "ro" };
}
