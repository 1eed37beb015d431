/** The files of a process, read from outside by this machine's tar. */

import type { ArchiveOptions } from "../../driver.ts";
import { CdebugError } from "../../errors.ts";
import * as sys from "../../syscalls.ts";
import { byteString } from "../../tar.ts";
import type { Target } from "../../target.ts";
import { isForeign, readMounts, rootOf } from "./proc.ts";
import { findTool, nsenter } from "./tools.ts";

/** File systems of the kernel's own: nothing in them is kept. */
const KERNEL = new Set([
  ...[
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "devpts",
    "devtmpfs",
    "mqueue",
    "debugfs",
    "tracefs",
    "securityfs",
  ],
  ...["bpf", "pstore", "autofs", "binfmt_misc", "configfs", "fusectl", "hugetlbfs", "nsfs", "rpc_pipefs"],
]);

/** Where something is mounted in a process's root filesystem that one might want to have. */
export function mountsOf(pid: number): string[] {
  const all = readMounts(pid);
  const hidden = kernelsOwn(all);
  const kept = all.map(({ path }) => path)
    .filter((path) => path !== "/" && !hidden.some((above) => isWithin(path, above)));
  return [...new Set(kept)].sort();
}

function kernelsOwn(mounts: ReturnType<typeof readMounts>): string[] {
  return mounts.filter(({ type, path }) => KERNEL.has(type) || path === "/dev").map(({ path }) => path);
}

function isWithin(path: string, above: string): boolean {
  return path === above || path.startsWith(above === "/" ? above : `${above}/`);
}

/** The options of tar that leave out what is mounted below where it begins; mount points that are folders stay, empty. */
function exclusions(mounts: readonly string[], root: string, above: string, path: string): string[] {
  const patterns = mounts.filter((mount) => mount !== path && isWithin(mount, path)).map((mount) => {
    const pattern = `.${mount.slice(above.length).replace(/[*?[\]\\]/g, "\\$&")}`;
    const isFolder = isDirectory(`${root}${mount}`);
    return `--exclude=${pattern}${isFolder ? "/*" : ""}`;
  });
  return patterns.length > 0 ? ["--anchored", "--wildcards", ...patterns] : [];
}

function isDirectory(path: string): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch {
    return false;
  }
}

/** Where files are, and whose they are: a process, as long as it runs. */
export interface Files {
  readonly root: string;
  readonly pid?: number;
}

/** Where tar begins: a directory of the target's, whatever its links say. */
function openDirectory(target: Target, root: string, above: string, path: string | undefined): number {
  try {
    return sys.openInRoot(root, `/${byteString(new TextEncoder().encode(above))}`);
  } catch (error) {
    if (!(error instanceof sys.SyscallError)) throw error;
    throw new CdebugError(
      `Cannot read ${path ?? "the files"} of "${target.name}": ${error.message.replace(/ \(\w+\)$/, "")}`,
      {
        cause: error,
      },
    );
  }
}

/**
 * What is below a root, or at `path`, as `Driver.archive` has it: without what is in the target's `mounts`; of a target
 * that names none, with all that is mounted at `path` but the kernel's own. Owners are those of the user namespace of its
 * process. Nothing that the target does leads out of there: links on the way to `path` are followed as in its root, and
 * tar goes from directory to directory by descriptors, and follows none. Source: GNU tar, "--one-file-system",
 * "Excluding Some Files", and openat_nofollow of its create.c; openat2(2).
 */
export async function* archive(
  target: Target,
  { root, pid }: Files,
  { path, signal, complain }: ArchiveOptions,
): AsyncIterable<Uint8Array<ArrayBuffer>> {
  const program = findTool("tar");
  if (program === undefined) {
    throw new CdebugError(`Cannot read the files of "${target.name}": "tar" is not on PATH of this machine`, {
      hint: "install tar (Debian, Ubuntu: apt-get install tar)",
    });
  }
  const [, above = "", name = ""] = /^(.*?)\/?([^/]*)$/.exec(path ?? "/")!;
  const chosen = path !== undefined && target.mounts === undefined;
  const leftOut = chosen && pid !== undefined ? kernelsOwn(readMounts(pid)) : target.mounts ?? [];
  const isMapped = pid !== undefined && isForeign(pid, "user") && rootOf(pid) !== undefined;
  const [first, ...words] = [...isMapped ? nsenter(new Set(["user"]), pid) : [], program];
  const directory = openDirectory(target, root, above, path);
  const child = new Deno.Command(first!, {
    args: [
      ...words,
      ...[
        "--create",
        "--file=-",
        "--format=posix",
        "--pax-option=delete=atime,delete=ctime",
        "--numeric-owner",
      ],
      ...["--sparse", "--xattrs", "--xattrs-include=*", "--no-unquote"],
      ...chosen ? [] : ["--one-file-system"],
      ...exclusions(leftOut, root, above, path ?? "/"),
      ...["--warning=no-xdev", "--warning=no-file-ignored", "--quoting-style=literal"],
      "--",
      name === "" ? "." : `./${name}`,
    ],
    cwd: `/proc/${Deno.pid}/fd/${directory}`,
    env: { LC_ALL: "C" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  sys.close(directory);
  const kill = () => {
    try {
      child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
  };
  signal.addEventListener("abort", kill);
  const said: string[] = [];
  const isFatal = (line: string) =>
    line.startsWith("nsenter: ") || line.startsWith(`${path}: Cannot stat: No such file`);
  const listening = (async () => {
    let rest = "";
    for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      for (const line of lines.map((line) => line.replace(/^\S*tar: /, "").replace(/^\.\//, `${above}/`))) {
        if (/^Exiting with failure status|^Error is not recoverable/.test(line)) continue;
        said.push(line);
        if (!isFatal(line)) complain(line);
      }
    }
  })();
  let whole = false;
  try {
    yield* child.stdout;
    await listening;
    const { code } = await child.status;
    signal.throwIfAborted();
    // 1 and 2 tell that some files could not be read, or have changed; each has been told of.
    const fatal = said.find(isFatal);
    if (code > 2 || fatal !== undefined) {
      throw new CdebugError(
        `Cannot read ${path ?? "the files"} of "${target.name}": ${
          fatal ?? said.at(-1) ?? `tar ended with ${code}`
        }`,
      );
    }
    whole = true;
  } finally {
    signal.removeEventListener("abort", kill);
    if (!whole) kill();
    await child.status;
    await listening.catch(() => {});
  }
}
