/** Containers of runc and crun, without an engine above them. */

import { exists, install, poll, run } from "./debian.ts";
import type { Client } from "./engine.ts";
import { type LocalTarget, makeRoot, NAMESPACES, type TargetOptions } from "./target.ts";

export interface RuncOptions extends TargetOptions {
  readonly runtime: "runc" | "crun";
  /** `running` by default. One that is created has its namespaces and its root, but not its program yet. */
  readonly state?: "created" | "running" | "paused" | "stopped";
  /** Whether the runtime finds it by itself; otherwise its state is in a directory of its own. */
  readonly listed?: boolean;
  /** System calls that its seccomp filter refuses; without this, it has no filter. */
  readonly refuse?: readonly string[];
  /** Gives it a user namespace, whose IDs from 0 are the host's from this one, 65536 of them. */
  readonly mapTo?: number;
}

export interface RuncContainer extends LocalTarget {
  readonly id: string;
  /** The runtime's own client, on the state of this container alone. */
  readonly client: Client;
  /** The directory where the runtime keeps its state: `--root`. */
  readonly state: string;
  /** As in config.json; below it, each hierarchy of cgroups has its own. */
  readonly cgroup: string;
}

/**
 * Installs the runtime where it is missing, and starts a container of a bundle of its own, which is removed at the
 * end, with its state and its cgroups. Throws with the runtime's words; runc refuses to do without /proc. Unlike a
 * process, it outlives us if we are killed. A container that has stopped still has its last process ID.
 */
export async function startRunc(options: RuncOptions): Promise<RuncContainer> {
  const { runtime, state = "running" } = options;
  await install({ [runtime]: runtime });
  const bundle = await Deno.makeTempDir({ prefix: `cdebug-${runtime}-` });
  const id = bundle.replace(/.*\//, "");
  const manager = runtime === "crun" ? ["--cgroup-manager", "cgroupfs"] : [];
  const states = options.listed ? `/run/${runtime}` : `${bundle}/state`;
  const client: Client = (args) => run(runtime, [...manager, "--root", states, ...args]);
  const container = {
    id,
    client,
    root: `${bundle}/root`,
    state: states,
    cgroup: `/${id}`,
    async [Symbol.asyncDispose]() {
      if (await exists(`${states}/${id}`)) {
        await client(["resume", id]).catch(() => {}); // in a frozen cgroup, nothing can be killed
        await client(["delete", "--force", id]);
      }
      await Deno.remove(bundle, { recursive: true });
    },
  };
  const becomes = (wanted: string) =>
    poll(async () => {
      const { status } = JSON.parse(await client(["state", id]));
      if (status === wanted) return;
      const log = await Deno.readTextFile(`${bundle}/log`);
      throw new Error(`${runtime} says that the container is ${status}, not ${wanted}: ${log}`);
    }, 5);
  try {
    await Deno.chmod(bundle, 0o755); // for the container's user
    await makeRoot(`${bundle}/root`, options);
    if (options.mapTo !== undefined) await run("chown", ["-R", `${options.mapTo}:${options.mapTo}`, bundle]);
    await Deno.writeTextFile(`${bundle}/config.json`, JSON.stringify(configuration(options, id)));
    const create = state === "created" ? ["create"] : ["run", "--detach"];
    await run("unshare", [
      ...["--mount", "sh", "-c", CREATE, "sh", runtime, `${bundle}/log`],
      ...[runtime, ...manager, "--root", states, ...create],
      ...["--bundle", bundle, "--pid-file", `${bundle}/pid`, id],
    ]);
    if (state === "paused") await client(["pause", id]);
    if (state === "stopped") await client(["kill", id, "KILL"]);
    await becomes(state);
    return { ...container, pid: Number(await Deno.readTextFile(`${bundle}/pid`)) };
  } catch (error) {
    await container[Symbol.asyncDispose]();
    throw error;
  }
}

/**
 * Runs the rest as a command, in a mount namespace of its own. Arguments: the runtime; where its output goes, which
 * the container keeps open; the command.
 */
const CREATE = `runtime=$1 log=$2
shift 2
# crun refuses a machine with both versions of cgroups, if the second has any controllers: it gets to see the first.
if [ "$runtime" = crun ] && mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
"$@" >"$log" 2>&1 || { cat "$log" >&2; exit 1; }`;

/** What Docker leaves to root. */
const LINUX_CAPABILITIES =
  "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID SYS_CHROOT"
    .split(" ");

/** As the OCI runtime specification calls them. */
const OCI_NAMESPACES = { net: "network", pid: "pid", ipc: "ipc", uts: "uts" };

/**
 * config.json, see config.md of the OCI runtime specification. Without limits: to set them takes CAP_SYS_RESOURCE,
 * which not every machine has.
 */
function configuration(options: RuncOptions, id: string): unknown {
  const { env = {}, tmpfs = [], share = [], dropLinuxCapabilities: drop = [], mapTo, refuse } = options;
  const [uid, gid] = (options.user ?? "0:0").split(":").map(Number);
  const bounding = LINUX_CAPABILITIES.filter((name) => !drop.includes("ALL") && !drop.includes(name))
    .map((name) => `CAP_${name}`);
  const effective = uid === 0 ? bounding : [];
  const mapping = mapTo === undefined ? undefined : [{ containerID: 0, hostID: mapTo, size: 65536 }];
  const namespaces = NAMESPACES.filter((name) => !share.includes(name)).map((name) => OCI_NAMESPACES[name]);
  const memory = (destination: string) => ({ destination, type: "tmpfs", source: "tmpfs" });
  return {
    ociVersion: "1.0.2",
    root: { path: "root", readonly: options.readOnlyRoot ?? false },
    process: {
      args: ["/server"],
      cwd: "/",
      env: Object.entries(env).map(([name, value]) => `${name}=${value}`),
      user: { uid, gid },
      capabilities: { bounding, effective, permitted: effective },
      noNewPrivileges: options.noNewPrivileges ?? false,
    },
    mounts: [
      ...options.proc === false ? [] : [{ destination: "/proc", type: "proc", source: "proc" }],
      { ...memory("/dev"), options: ["nosuid", "mode=755"] },
      ...tmpfs.map(memory),
    ],
    linux: {
      cgroupsPath: `/${id}`,
      namespaces: ["mount", ...namespaces, ...mapping ? ["user"] : []].map((type) => ({ type })),
      ...mapping && { uidMappings: mapping, gidMappings: mapping },
      ...refuse && {
        seccomp: {
          defaultAction: "SCMP_ACT_ALLOW",
          syscalls: [{ names: refuse, action: "SCMP_ACT_ERRNO" }],
        },
      },
    },
  };
}
