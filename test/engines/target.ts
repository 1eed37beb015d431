/** What the targets that are made without an engine's daemon have in common. */

import { serverProgram } from "./programs.ts";

export type Namespace = "net" | "pid" | "ipc" | "uts";

export const NAMESPACES: readonly Namespace[] = ["net", "pid", "ipc", "uts"];

export interface TargetOptions {
  /** What runs, as `/server`; by default, a server that answers `hello` at port 8080 of all addresses. */
  readonly program?: Uint8Array<ArrayBuffer>;
  readonly env?: Readonly<Record<string, string>>;
  /** Text files of the root: path → text. */
  readonly files?: Readonly<Record<string, string>>;
  /** Puts more into the root. */
  readonly fill?: (root: string) => Promise<void>;
  readonly readOnlyRoot?: boolean;
  /** Directories in memory. */
  readonly tmpfs?: readonly string[];
  /** Whether /proc is mounted; it is by default. */
  readonly proc?: boolean;
  /** `uid:gid`, as numbers of the target's own user namespace if it has one; root by default. */
  readonly user?: string;
  /** Without `CAP_`, or `ALL`. */
  readonly dropLinuxCapabilities?: readonly string[];
  readonly noNewPrivileges?: boolean;
  /** The namespaces that are the host's; by default, none of these is. */
  readonly share?: readonly Namespace[];
}

/** A target that is there until it is disposed of. */
export interface LocalTarget extends AsyncDisposable {
  /** Its number in our own PID namespace. */
  readonly pid: number;
  /** Its root directory, as we see it. */
  readonly root: string;
}

/** Makes the root directory of a target: `/server`, what is asked for, and the directories to mount something at. */
export async function makeRoot(root: string, options: TargetOptions): Promise<void> {
  const { tmpfs = [], files = {}, program = serverProgram(Deno.build.arch) } = options;
  for (const path of ["/dev", "/proc", ...tmpfs]) await Deno.mkdir(`${root}${path}`, { recursive: true });
  for (const [path, text] of Object.entries(files)) {
    await Deno.mkdir(`${root}${path.replace(/[^/]*$/, "")}`, { recursive: true });
    await Deno.writeTextFile(`${root}${path}`, text);
  }
  await options.fill?.(root);
  await Deno.writeFile(`${root}/server`, program, { mode: 0o755 });
}
