/** What the kernel tells of processes. Source: proc(5), namespaces(7), user_namespaces(7), capabilities(7). */

/** The namespaces that a sidecar can share, and the mount namespace, which it never does. */
export const KINDS = ["user", "net", "ipc", "uts", "pid", "mnt"] as const;
export type Kind = typeof KINDS[number];

/** The kernel's flag of a thread of its own, in field 9 of `stat`. Source: linux/sched.h, PF_KTHREAD. */
const KERNEL_THREAD = 0x00200000;

/** Of the times in `stat`. Source: times(2), `USER_HZ`, the same on every machine. */
export const TICKS_PER_SECOND = 100;

/** By their numbers, in the kernel's words. Source: linux/capability.h. */
export const LINUX_CAPABILITIES = [
  ...["CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"],
  ...[
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
  ],
  ...[
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
  ],
  ...[
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
  ],
  ...["MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF"],
  "CHECKPOINT_RESTORE",
];

/** A process as anybody may see it. */
export interface Process {
  readonly pid: number;
  /** The program's name, as `ps` shows it: the first 15 bytes. */
  readonly name: string;
  readonly kernelThread: boolean;
  readonly zombie: boolean;
  /** When it started, in clock ticks since the machine did. */
  readonly start: number;
  /** As cdebug's own user namespace counts. */
  readonly uid: number;
  readonly gid: number;
  /** Its number in its own PID namespace. */
  readonly innerPid: number;
  /** The Linux capabilities that it has, and those that what it runs could get, as bits. */
  readonly permitted: bigint;
  readonly bounding: bigint;
  readonly noNewPrivileges: boolean;
  readonly seccomp: boolean;
}

/** The PIDs of all processes that can be seen. */
export function allPids(): number[] {
  try {
    return [...Deno.readDirSync("/proc")].map(({ name }) => Number(name)).filter(Number.isInteger);
  } catch {
    return [];
  }
}

/** What is known of a process; undefined if there is none of that number. */
export function readProcess(pid: number): Process | undefined {
  const stat = readText(`/proc/${pid}/stat`);
  const status = readText(`/proc/${pid}/status`);
  if (stat === undefined || status === undefined) return undefined;
  // The second field is the program's name, which may hold anything.
  const [state, ...fields] = stat.replace(/^.*\) /s, "").split(" ");
  const facts = new Map(
    status.split("\n").map((line) => line.split(/:\s*/, 2) as [string, string]),
  );
  const numbers = (key: string) => (facts.get(key) ?? "").split(/\s+/).map(Number);
  const bits = (key: string) => BigInt(`0x${facts.get(key) ?? "0"}`);
  return {
    pid,
    name: /\((.*)\)/s.exec(stat)?.[1] ?? "",
    kernelThread: (Number(fields[5]) & KERNEL_THREAD) !== 0,
    zombie: state === "Z" || state === "X",
    start: Number(fields[18]),
    uid: numbers("Uid")[1]!,
    gid: numbers("Gid")[1]!,
    innerPid: numbers("NSpid").at(-1) || pid,
    permitted: bits("CapPrm"),
    bounding: bits("CapBnd"),
    noNewPrivileges: facts.get("NoNewPrivs") === "1",
    seccomp: facts.get("Seccomp") === "2",
  };
}

/** When a process started; to the second, as the kernel gives the machine's own start. */
export function startOf({ start }: Process): Date {
  const seconds = Number(/^btime (\d+)$/m.exec(readText("/proc/stat") ?? "")?.[1] ?? 0);
  return new Date(seconds * 1000 + start * 1000 / TICKS_PER_SECOND);
}

/** What identifies a namespace, as in `net:[4026531840]`; undefined if this process may not look into the other. */
export function namespaceOf(pid: number | "self", kind: Kind | "pid_for_children"): string | undefined {
  return readLink(`/proc/${pid}/ns/${kind}`);
}

/** Whether a process, or with `children` what it starts, has a namespace other than cdebug's own. */
export function isForeign(pid: number, kind: Kind, children = false): boolean {
  return namespaceOf(pid, children && kind === "pid" ? "pid_for_children" : kind) !==
    namespaceOf("self", kind);
}

/** What an ID of cdebug's user namespace is in that of a process; undefined if it is nothing there. */
export function mapInto(pid: number, map: "uid_map" | "gid_map", id: number): number | undefined {
  for (const [inside, outside, length] of readMap(pid, map)) {
    if (id >= outside && id < outside + length) return inside + id - outside;
  }
  return undefined;
}

/** Who root of the user namespace of a process is in cdebug's own; undefined if it has none. */
export function rootOf(pid: number): number | undefined {
  return readMap(pid, "uid_map").find(([inside]) => inside === 0)?.[1];
}

/** Whether who enters the user namespace of a process may change its groups. */
export function maySetGroups(pid: number): boolean {
  return readText(`/proc/${pid}/setgroups`)?.trim() !== "deny";
}

function readMap(pid: number, map: string): [number, number, number][] {
  return (readText(`/proc/${pid}/${map}`) ?? "").split("\n").filter(Boolean)
    .map((line) => line.trim().split(/\s+/).map(Number) as [number, number, number]);
}

/** The names of Linux capabilities given as bits; those that the kernel may know and we do not are left out. */
export function capabilityNames(bits: bigint): string[] {
  return LINUX_CAPABILITIES.filter((_, number) => bits & (1n << BigInt(number)));
}

/** The variables that a process was started with, as far as they may be seen. */
export function readEnviron(pid: number): Map<string, string> {
  return new Map(
    (readText(`/proc/${pid}/environ`) ?? "").split("\0").filter(Boolean)
      .map((entry) => entry.split(/=(.*)/s, 2) as [string, string]),
  );
}

/** The words that a process was started with. */
export function readCommand(pid: number): string[] {
  return (readText(`/proc/${pid}/cmdline`) ?? "").split("\0").slice(0, -1);
}

/** Whether the root filesystem of a process is mounted read-only. */
export function hasReadOnlyRoot(pid: number): boolean {
  const root = readMounts(pid).findLast(({ path }) => path === "/");
  return root?.options.includes("ro") ?? false;
}

/** The mounts that a process sees, by their mount points. */
export function readMounts(pid: number | "self"): { path: string; type: string; options: string[] }[] {
  return (readText(`/proc/${pid}/mountinfo`) ?? "").split("\n").filter(Boolean).map((line) => {
    const [before, after] = line.split(" - ", 2) as [string, string];
    const fields = before.split(" ");
    const [type, , superOptions = ""] = after.split(" ");
    return {
      path: fields[4]!.replace(/\\([0-7]{3})/g, (_, digits) => String.fromCharCode(parseInt(digits, 8))),
      type: type!,
      options: [...fields[5]!.split(","), ...superOptions.split(",")],
    };
  });
}

/** The engine and the ID of the container that a process is part of, as the name of its cgroup tells; or nothing. */
export function containerOf(pid: number): { readonly by: string; readonly id: string } | undefined {
  for (const line of (readText(`/proc/${pid}/cgroup`) ?? "").split("\n")) {
    const path = line.split(":").slice(2).join(":");
    const [, prefix = "", id] =
      /(?:^|\/)(?:([a-z][a-z-]*)[-/:])?([0-9a-f]{64})(?:\.scope)?(?:\/|$)/.exec(path) ?? [];
    if (id === undefined) continue;
    const by = /libpod/.test(path)
      ? "podman"
      : /crio/.test(path)
      ? "cri-o"
      : /cri-containerd|kubepods/.test(path)
      ? "kubernetes"
      : prefix === "docker"
      ? "docker"
      : prefix === "nerdctl" || prefix === "default"
      ? "containerd"
      : "a container engine";
    return { by, id };
  }
  return undefined;
}

/** Where a link of the kernel's leads; undefined if it is not there, or may not be read. */
export function readLink(path: string): string | undefined {
  try {
    return Deno.readLinkSync(path);
  } catch {
    return undefined;
  }
}

function readText(path: string): string | undefined {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return undefined;
  }
}
