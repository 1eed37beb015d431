/** Targets without a container engine: a program in namespaces of its own, made with util-linux alone. */

import { Daemon, hasProgram, run } from "./debian.ts";
import { enterProgram } from "./programs.ts";
import { type LocalTarget, makeRoot, NAMESPACES, type TargetOptions } from "./target.ts";

export interface ProcessOptions extends TargetOptions {
  /** What of the host's /dev is there; `null` by default. */
  readonly devices?: readonly string[];
  /** Whether it has a user namespace of its own, with `user` alone in it; by default, where we are not root. */
  readonly userNamespace?: boolean;
  /** Root only: whom it belongs to, as `uid:gid`; an ordinary user has no other way than a user namespace. */
  readonly owner?: string;
}

/**
 * Makes the root, and what is mounted below it, then leaves the rest to the program `enter`: behind it, no tool of
 * the host's can be found any more. Runs in the target's namespaces, as their root.
 * Arguments: where our process ID is to be written, the root; the word `ro` for a root that cannot be written;
 * whether to mount /proc: `proc`; the devices and the directories in memory, each as one word with spaces; then the
 * command that becomes the program.
 */
const SETUP = `set -eu
pid=$1 root=$2 mode=$3 proc=$4 devices=$5 tmpfs=$6
shift 6
read -r own rest </proc/self/stat # still the host's /proc
mount --bind "$root" "$root"
cd "$root"
if [ "$proc" = proc ]; then mount -t proc proc proc; fi
mount -t tmpfs -o mode=755 tmpfs dev
for device in $devices; do
  : >"dev/$device"
  mount --bind "/dev/$device" "dev/$device" # who is not really root makes no devices
done
for directory in $tmpfs; do mount -t tmpfs tmpfs ".$directory"; done
mount -o "remount,bind,$mode" .
echo "$own" >"$pid"
exec "$@"`;

/** Why no target can be started here, or nothing. */
export async function targetObstacle(): Promise<string | undefined> {
  if (Deno.build.os !== "linux") return `this is ${Deno.build.os}, not Linux`;
  for (const program of ["unshare", "setpriv", "mount"]) {
    if (!await hasProgram(program)) return `${program} of util-linux is not installed`;
  }
  // Some machines let nobody but root have a user namespace; root in a container may have none at all.
  const namespace = Deno.uid() === 0 ? "--mount" : "--user";
  return await run("unshare", [namespace, "true"]).then(() => undefined, (error: Error) => error.message);
}

/**
 * Starts a program as PID 1 in namespaces of its own, with a root directory that holds `/server` and what is asked
 * for. It dies with this process. Throws with the words of the tool that fails.
 */
export async function startTarget(options: ProcessOptions = {}): Promise<LocalTarget> {
  const dir = await Deno.makeTempDir({ prefix: "cdebug-target-" });
  const root = `${dir}/root`;
  let daemon: Daemon | undefined;
  let pid = 0;
  const removeAll = async () => {
    await end(pid);
    await daemon?.[Symbol.asyncDispose]();
    await Deno.remove(dir, { recursive: true });
  };
  try {
    await Deno.chmod(dir, 0o755); // for the target's user
    await makeRoot(root, options);
    const loopback = !options.share?.includes("net");
    const enter = enterProgram(Deno.build.arch, ["/server"], { env: options.env ?? {}, loopback });
    await Deno.writeFile(`${dir}/enter`, enter, { mode: 0o755 });
    if (options.owner) await run("chown", ["-R", options.owner, dir]);
    const [program, ...args] = command(dir, root, options);
    daemon = Daemon.start(program!, args, `${dir}/log`);
    await daemon.ready(async () => {
      pid = Number(await Deno.readTextFile(`${dir}/pid`));
      if (!await runs(pid)) throw new Error("it has not started");
    });
    return { pid, root, [Symbol.asyncDispose]: removeAll };
  } catch (error) {
    await removeAll();
    throw error;
  }
}

/** Whether this process is a target. */
async function runs(pid: number): Promise<boolean> {
  return await Deno.readLink(`/proc/${pid}/exe`).then((path) => path === "/server", () => false);
}

/** Ends a target, and with it its PID namespace; unshare waits for it, then ends, too. */
async function end(pid: number): Promise<void> {
  if (await runs(pid)) Deno.kill(pid, "SIGKILL");
}

/** The command that starts the target. */
function command(dir: string, root: string, options: ProcessOptions): string[] {
  const { readOnlyRoot, tmpfs = [], proc = true, devices = ["null"], share = [], owner } = options;
  const { userNamespace = Deno.uid() !== 0 || owner !== undefined, dropLinuxCapabilities = [] } = options;
  const [uid, gid] = (options.user ?? "0:0").split(":");
  const namespaces = NAMESPACES.filter((name) => !share.includes(name)).map((name) => `--${name}`);
  // What enter wants, and then gives up.
  const rights = "-all,+sys_admin,+net_admin";
  const dropped = dropLinuxCapabilities.map((name) => `-${name.toLowerCase()}`);
  return [
    ...["setpriv", "--pdeathsig", "KILL", ...owner ? asUser(owner) : []],
    // Who drops all can still pass on what it was given before.
    ...userNamespace ? [] : ["--inh-caps", rights],
    ...["unshare", "--mount", ...namespaces, "--fork", "--kill-child"],
    ...userNamespace ? [`--map-user=${uid}`, `--map-group=${gid}`, "--keep-caps"] : [],
    ...["sh", "-c", SETUP, "sh", `${dir}/pid`, root, readOnlyRoot ? "ro" : "rw", proc ? "proc" : ""],
    ...[devices.join(" "), tmpfs.join(" ")],
    ...["setpriv", "--inh-caps", rights, "--ambient-caps", rights],
    ...userNamespace ? [] : asUser(`${uid}:${gid}`),
    ...dropped.length > 0 ? ["--bounding-set", dropped.join()] : [],
    ...options.noNewPrivileges ? ["--no-new-privs"] : [],
    `${dir}/enter`,
  ];
}

/** The arguments of setpriv for `uid:gid`. */
function asUser(user: string): string[] {
  const [uid, gid] = user.split(":");
  return ["--reuid", uid!, "--regid", gid!, "--clear-groups"];
}
