/** What every sidecar owes to its target: which namespaces it shares, and the least rights that will do. */

import { CdebugError } from "../lib/errors.ts";
import type { ExecRequest, Sidecar } from "../lib/plan.ts";
import type { Capabilities, Target } from "../lib/target.ts";
import { LAUNCH } from "./enter.ts";

type Namespaces = Sidecar["namespaces"];

/**
 * The target's own settings, as far as the engine lets a sidecar share them, and a sentence for each that it does
 * not. Throws CdebugError where it does not let it share the user namespace.
 */
export function shareNamespaces(
  target: Target,
  capabilities: Capabilities,
): { namespaces: Namespaces; reasons: string[] } {
  const { network, pid, ipc, uts, user } = target.namespaces;
  const reasons: string[] = [];
  const share = (kind: "network" | "pid" | "ipc" | "uts", setting: string) => {
    if (setting === "host") return "host";
    if (!capabilities.join.includes(kind)) {
      reasons.push(
        `${kind.toUpperCase()} is its own: ${target.engine} cannot share it`,
      );
      return "own";
    }
    if (kind === "ipc" && setting === "own") {
      reasons.push("IPC is its own: the target's is private");
      return "own";
    }
    return "target";
  };
  // Outside of it, a sidecar would have rights over more than the target, and write files that are nobody's there.
  if (user === "own" && !capabilities.join.includes("user")) {
    throw new CdebugError(
      `Cannot debug "${target.name}": it has a user namespace of its own, and ${target.engine} cannot share it`,
    );
  }
  return {
    namespaces: {
      network: share("network", network),
      pid: share("pid", pid),
      ipc: share("ipc", ipc),
      uts: share("uts", uts),
      user: user === "own" ? "target" : user,
    },
    reasons,
  };
}

/**
 * For a target that does not run: a sidecar that runs a throw-away copy of its filesystem, with nothing of it
 * started, and that copy as a target. Throws CdebugError where there can be none, or where the user has not asked.
 */
export function copyOf(
  found: Target,
  { stopped, detach }: Pick<ExecRequest, "stopped" | "detach">,
  capabilities: Capabilities,
): { sidecar: Sidecar; target: Target } {
  const refused = (why: string, hint: string) =>
    new CdebugError(`Cannot debug "${found.name}": ${why}`, { hint });
  const start = `${found.engine} start ${found.name}`;
  if (found.state === "stopped" && !stopped) {
    throw refused(
      `it is not running (exit code ${found.exitCode})`,
      `${start}; or --stopped for a throw-away copy of its filesystem`,
    );
  }
  if (!capabilities.snapshot) {
    throw refused(`it does not run, and ${found.engine} makes no copies of filesystems`, start);
  }
  if (detach) {
    throw refused(
      "a copy of it is thrown away when cdebug ends, and with --detach it ends at once",
      "leave out -d",
    );
  }
  const program = LAUNCH[found.platform?.split("/")[1] ?? ""];
  if (!program) {
    throw refused(`cdebug has no program to wait in a copy of it on ${found.platform}`, start);
  }
  const target: Target = {
    ...found,
    pid: 1,
    user: "",
    readOnlyRoot: false,
    privileged: false,
    namespaces: { network: "own", pid: "own", ipc: "own", uts: "own", user: "engine" },
    addLinuxCapabilities: [],
    dropLinuxCapabilities: [],
    securityOptions: [],
  };
  return {
    target,
    sidecar: {
      name: "copy",
      reason: `runs a throw-away copy of ${
        found.state === "image" ? "the image" : "the stopped target"
      }, of which nothing is started but a program that waits`,
      image: found.image,
      pull: "never",
      ...found.state === "stopped" && { snapshot: found.id },
      namespaces: { network: "own", pid: "own", ipc: "own", uts: "own", user: "engine" },
      user: "0",
      files: [{ path: WAITING, base64: program, mode: 0o755 }],
      tty: false,
      stdin: "none",
      args: [WAITING, "hold"],
    },
  };
}

/** Where the program that waits is in a copy. */
const WAITING = "/.cdebug-hold";

/** Who the session is, and the rights that its request adds to, or takes from, the target's own. */
export interface AskedRights {
  readonly user?: string;
  readonly root?: "target" | "toolkit";
  readonly privileged?: boolean;
  readonly capAdd?: readonly string[];
  readonly capDrop?: readonly string[];
}

type Rights = Pick<
  Sidecar,
  | "privileged"
  | "addLinuxCapabilities"
  | "dropLinuxCapabilities"
  | "securityOptions"
>;

/**
 * The least-privilege ladder: the target's own set, with what was asked for; then the one Linux capability that a
 * fact makes necessary, unless just that one was to be dropped; `privileged` only when asked for. Each step up
 * has a sentence that names the fact.
 */
export function leastRights(
  target: Target,
  { user = "", root, privileged, capAdd = [], capDrop = [] }: AskedRights,
  { starting = [], cannotCopy = {} }: Pick<Capabilities, "starting" | "cannotCopy"> = {},
): { rights: Rights; reasons: string[] } {
  const add = new Set(target.addLinuxCapabilities);
  const drop = new Set(target.dropLinuxCapabilities);
  for (const capability of capAdd) {
    add.add(capability);
    drop.delete(capability);
  }
  const fewer = capDrop.some((capability) => !target.dropLinuxCapabilities.includes(capability));
  for (const capability of capDrop) {
    drop.add(capability);
    add.delete(capability);
  }

  const reasons: string[] = [];
  const need = (capability: string, fact: string) => {
    if (add.has(capability) || add.has("ALL") || capDrop.includes(capability)) return;
    add.add(capability);
    drop.delete(capability);
    reasons.push(`${capability} is added: ${fact}`);
  };
  const needKept = (capability: string, fact: string) => {
    const dropped = ["ALL", capability].find((name) => drop.has(name));
    if (dropped) {
      need(
        capability,
        `${fact}, and ${capDrop.includes(dropped) ? "the session" : "the target"} dropped ${dropped}`,
      );
    }
  };
  if (privileged && !target.privileged) {
    reasons.push("privileged: it was asked for");
  } else if (!target.privileged) {
    if (isTargetsOwn(user, target)) {
      // Who is the target's user may look into its processes without any right.
    } else if (!isRoot(target.user)) {
      need("SYS_PTRACE", `the target runs as user ${target.user}, its root is closed to others without it`);
    } else if (fewer) {
      need("SYS_PTRACE", "the target's root is closed to who has fewer Linux capabilities than the target");
    }
    for (const capability of starting) needKept(capability, "starting the sidecar takes it");
    if (root !== "toolkit") needKept("SYS_CHROOT", "entering the target's root takes it");
    if (!isRoot(user)) {
      needKept("SETUID", `becoming user ${user} takes it`);
      needKept("SETGID", `becoming user ${user} takes it`);
      needKept("KILL", `ending what user ${user} runs takes it`);
    }
  }

  const securityOptions = target.securityOptions.filter((option) => {
    const kind = option.split(/[=:]/)[0]!;
    const why = cannotCopy[kind];
    if (why !== undefined) reasons.push(`${kind} is not the target's: ${why}`);
    return why === undefined;
  });
  return {
    rights: {
      ...(privileged || target.privileged) && { privileged: true },
      ...add.size > 0 && { addLinuxCapabilities: [...add] },
      ...drop.size > 0 && { dropLinuxCapabilities: [...drop] },
      ...securityOptions.length > 0 && { securityOptions },
    },
    reasons,
  };
}

/** Whether a container's user setting (`name|uid[:group|gid]`) means uid 0. */
export function isRoot(user: string): boolean {
  return ["", "0", "root"].includes(user.split(":")[0]!);
}

/** Whether a session's user setting means the user that a target runs as, who is not root. */
export function isTargetsOwn(user: string, target: Target): boolean {
  return !isRoot(target.user) && (user === target.user || user === target.user.split(":")[0]);
}
