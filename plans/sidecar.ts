/** What every sidecar owes to its target: which namespaces it shares, and the least rights that will do. */

import type { Sidecar } from "../lib/plan.ts";
import type { Capabilities, Target } from "../lib/target.ts";

type Namespaces = Sidecar["namespaces"];

/** The target's own settings, as far as the engine lets a sidecar share them, and a sentence for each that it does not. */
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
  return {
    namespaces: {
      network: share("network", network),
      pid: share("pid", pid),
      ipc: share("ipc", ipc),
      uts: share("uts", uts),
      user,
    },
    reasons,
  };
}

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
    if (root !== "toolkit") needKept("SYS_CHROOT", "entering the target's root takes it");
    if (!isRoot(user)) {
      needKept("SETUID", `becoming user ${user} takes it`);
      needKept("SETGID", `becoming user ${user} takes it`);
      needKept("KILL", `ending what user ${user} runs takes it`);
    }
  }

  return {
    rights: {
      ...(privileged || target.privileged) && { privileged: true },
      ...add.size > 0 && { addLinuxCapabilities: [...add] },
      ...drop.size > 0 && { dropLinuxCapabilities: [...drop] },
      ...target.securityOptions.length > 0 &&
        { securityOptions: [...target.securityOptions] },
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
