/** Targets without a container engine: a program in namespaces of its own, made with util-linux alone. */

import { Daemon, hasProgram, run } from "./debian.ts";
import { enterProgram, serverProgram } from "./programs.ts";

export type Namespace = "net" | "pid" | "ipc" | "uts";

export interface TargetOptions {
  /** What runs, as `/server`; by default, a server that answers `hello` at port 8080 of all addresses. */
  program?: Uint8Array<ArrayBuffer>;
  env?: Readonly<Record<string, string>>;
  /** Text files of the root: path → text. */
  files?: Readonly<Record<string, string>>;
  /** Puts more into the root. */
  fill?: (root: string) => Promise<void>;
  readOnlyRoot?: boolean;
  /** Directories in memory. */
  tmpfs?: readonly string[];
  /** Whether /proc is mounted; it is by default. */
  proc?: boolean;
  /** What of the host's /dev is there; `null` by default. */
  devices?: readonly string[];
  /** `uid:gid`, as numbers of the target's own user namespace if it has one; root by default. */
  user?: string;
  /** Without `CAP_`, or `ALL`. */
  dropLinuxCapabilities?: readonly string[];
  noNewPrivileges?: boolean;
  /** The namespaces that are the host's; by default, none of these is. */
  share?: readonly Namespace[];
  /** Whether it has a user namespace of its own, with `user` alone in it; by default, where we are not root. */
  userNamespace?: boolean;
  /** Root only: whom it belongs to, as `uid:gid`; an ordinary user has no other way than a user namespace. */
  owner?: string;
}

export interface ProcessTarget extends AsyncDisposable {
  /** Its number in our own PID namespace. */
  readonly pid: number;
  /** Its root directory, as we see it. */
  readonly root: string;
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
  // Some machines let nobody but root have one.
  return await run("unshare", ["--user", "true"]).then(() => undefined, (error: Error) => error.message);
}

/**
 * Starts a program as PID 1 in namespaces of its own, with a root directory that holds `/server` and what is asked
 * for. It dies with this process. Throws with the words of the tool that fails.
 */
export async function startTarget(options: TargetOptions = {}): Promise<ProcessTarget> {
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
    await makeFiles(dir, root, options);
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

/** What the target consists of, and what starts it. */
async function makeFiles(dir: string, root: string, options: TargetOptions): Promise<void> {
  const { tmpfs = [], files = {}, env = {}, share = [], program = serverProgram(Deno.build.arch) } = options;
  await Deno.chmod(dir, 0o755); // for the target's user
  for (const path of ["/dev", "/proc", ...tmpfs]) await Deno.mkdir(`${root}${path}`, { recursive: true });
  for (const [path, text] of Object.entries(files)) {
    await Deno.mkdir(`${root}${path.replace(/[^/]*$/, "")}`, { recursive: true });
    await Deno.writeTextFile(`${root}${path}`, text);
  }
  await options.fill?.(root);
  await Deno.writeFile(`${root}/server`, program, { mode: 0o755 });
  const enter = enterProgram(Deno.build.arch, ["/server"], { env, loopback: !share.includes("net") });
  await Deno.writeFile(`${dir}/enter`, enter, { mode: 0o755 });
}

/** The command that starts the target. */
function command(dir: string, root: string, options: TargetOptions): string[] {
  const { readOnlyRoot, tmpfs = [], proc = true, devices = ["null"], share = [], owner } = options;
  const { userNamespace = Deno.uid() !== 0 || owner !== undefined, dropLinuxCapabilities = [] } = options;
  const [uid, gid] = (options.user ?? "0:0").split(":");
  const namespaces: Namespace[] = ["net", "pid", "ipc", "uts"];
  // What enter wants, and then gives up.
  const rights = "-all,+sys_admin,+net_admin";
  const dropped = dropLinuxCapabilities.map((name) => `-${name.toLowerCase()}`);
  return [
    ...["setpriv", "--pdeathsig", "KILL", ...owner ? asUser(owner) : []],
    // Who drops all can still pass on what it was given before.
    ...userNamespace ? [] : ["--inh-caps", rights],
    ...[
      "unshare",
      "--mount",
      ...namespaces.filter((name) => !share.includes(name)).map((name) => `--${name}`),
    ],
    ...["--fork", "--kill-child"],
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
