/** The files of a process, read from outside by this machine's tar. */

import type { ArchiveOptions } from "../../driver.ts";
import { CdebugError } from "../../errors.ts";
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
  const hidden = all.filter(({ type, path }) => KERNEL.has(type) || path === "/dev").map(({ path }) => path);
  return [
    ...new Set(
      all.map(({ path }) => path).filter((path) =>
        path !== "/" && !hidden.some((above) => path === above || path.startsWith(`${above}/`))
      ),
    ),
  ].sort();
}

/** Where files are, and whose they are: a process, as long as it runs. */
export interface Files {
  readonly root: string;
  readonly pid?: number;
}

/**
 * What is below a root, with the owners that it has in the user namespace of its process, as `Driver.archive` has it. Nothing that the target does meanwhile leads tar out of there: it
 * goes from directory to directory by descriptors, and follows no link. Source: GNU tar, "--one-file-system", and
 * openat_nofollow of its create.c.
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
  const [, above, name] = /^(.*?)\/?([^/]*)$/.exec(path ?? "/")!;
  const isMapped = pid !== undefined && isForeign(pid, "user") && rootOf(pid) !== undefined;
  const [first, ...words] = [...isMapped ? nsenter(new Set(["user"]), pid) : [], program];
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
      ...["--sparse", "--xattrs", "--xattrs-include=*", "--one-file-system", "--no-unquote"],
      ...["--warning=no-xdev", "--warning=no-file-ignored", "--quoting-style=literal"],
      `--directory=${root}${above}`,
      "--",
      name === "" ? "." : `./${name}`,
    ],
    env: { LC_ALL: "C" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const kill = () => {
    try {
      child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
  };
  signal.addEventListener("abort", kill);
  const said: string[] = [];
  const listening = (async () => {
    let rest = "";
    for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      for (const line of lines.map((line) => line.replace(/^\S*tar: /, "").replace(/^\.\//, "/"))) {
        if (/^Exiting with failure status|^Error is not recoverable/.test(line)) continue;
        said.push(line);
        complain(line);
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
    if (
      code > 2 ||
      said.some((line) =>
        /Cannot (chdir|open): (No such process|No such file)/.test(line) && line.includes(root) ||
        line.startsWith("nsenter: ")
      )
    ) {
      throw new CdebugError(
        `Cannot read ${path ?? "the files"} of "${target.name}": ${said.at(-1) ?? `tar ended with ${code}`}`,
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
