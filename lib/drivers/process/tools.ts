/** The programs of this machine that sidecars are made with. */

import { DEFAULT_SOURCE, type Location } from "../../driver.ts";
import { CdebugError } from "../../errors.ts";
import type { Relay } from "../../target.ts";
import { type Kind, maySetGroups } from "./proc.ts";

/** Where programs are looked for. */
export const SEARCH_PATH = searchPath(Deno.env.get("PATH"));

/** The absolute path of a program. Throws CdebugError if it is not on PATH. */
export function tool(name: string): string {
  const found = findTool(name);
  if (found !== undefined) return found;
  throw new CdebugError(`Cannot debug processes: "${name}" is not on PATH`, {
    hint: "install util-linux (Debian, Ubuntu: apt-get install util-linux; Alpine: apk add util-linux)",
  });
}

/**
 * The words before a command that put it into namespaces of a process; none where there are none. Of a sidecar, its
 * PID namespace is that of what it starts.
 */
export function nsenter(kinds: ReadonlySet<Kind>, pid: number, sidecar = false): string[] {
  if (kinds.size === 0) return [];
  return [
    tool("nsenter"),
    ...[...kinds].map((kind) =>
      `--${kind === "mnt" ? "mount" : kind}=/proc/${pid}/ns/${
        sidecar && kind === "pid" ? "pid_for_children" : kind
      }`
    ),
    // Root there, although this process may be nobody; its groups have to stay.
    ...kinds.has("user") && !maySetGroups(pid) ? ["--preserve-credentials", "--setuid=0"] : [],
  ];
}

/** As `tool`; undefined if it is not on PATH. */
export function findTool(name: string): string | undefined {
  return SEARCH_PATH.split(":").map((dir) => `${dir}/${name}`).find(isFile);
}

/** Directories that are named in full, with those of the administrator, which the PATH of users seldom has. */
function searchPath(path: string | undefined): string {
  const given = (path ?? "").split(":").filter((dir) => dir.startsWith("/"));
  return [
    ...new Set([...given, ...[
      "/usr/local/sbin",
      "/usr/sbin",
      "/sbin",
      "/usr/local/bin",
      "/usr/bin",
      "/bin",
    ]]),
  ]
    .map((dir) => dir.replace(/(?<=.)\/+$/, ""))
    .join(":");
}

function isFile(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

/** cdebug itself, as what carries connections in a sidecar: compiled, or by deno from its sources. */
export function ownRelay(): Relay {
  const spare = findTool("socat") !== undefined;
  const program = `${OWN}/cdebug`;
  const files = { [program]: Deno.execPath() };
  if (Deno.build.standalone) return { command: `${program} __relay`, files, spare };
  const source = new URL("../../..", import.meta.url).pathname;
  return {
    command: `env DENO_DIR=/tmp NO_COLOR=1 ${program} run -A --cached-only ${OWN}/source/main.ts __relay`,
    files: { ...files, [`${OWN}/source`]: source },
    spare,
  };
}

/** Where sidecars keep what is cdebug's. */
const OWN = "/.cdebug";

/** Where processes are, or a runtime's program, or the directory of its states that `--runtime` names. */
export function locateTool(engine: string, address: string | undefined): Location {
  if (engine === "pid") return { address: "/proc", source: DEFAULT_SOURCE };
  if (address !== undefined) return { address, source: "--runtime" };
  return { address: findTool(engine) ?? engine, source: DEFAULT_SOURCE };
}
