/** The table of README.md for targets without an engine: processes, and containers of runc and crun. */

import { assertEquals, assertIncludes } from "../assert.ts";
import { run } from "../engines/debian.ts";
import { fillOrdinary } from "../engines/images.ts";
import { startTarget } from "../engines/process.ts";
import { startRunc } from "../engines/runc.ts";
import type { LocalTarget, TargetOptions } from "../engines/target.ts";
import { helloOf, makeToolkits, TOOLKIT_KINDS, type ToolkitKind } from "../engines/toolkits.ts";
import { temporaryDirectory } from "../temporary.ts";
import { cdebug } from "./engine.ts";
import { localTest } from "./local.ts";
import { newTable, type Right, RIGHTS, RIGHTS_COLUMN, rightsIn } from "./table.ts";

interface Row extends TargetOptions {
  readonly bare?: boolean;
  readonly rights?: readonly Right[];
  /** Whether its link is in the target's root as long as the session lasts. */
  readonly link?: boolean;
  /** Whether an ordinary user can make it, who has a user namespace with one user in it, and mounts no other's /proc. */
  readonly isolated?: boolean;
  /** Reads the target's files; what is in them. */
  readonly read?: readonly [command: string, text: string];
}

const TARGETS: Readonly<Record<string, Row>> = {
  "ordinary": {},
  "read-only root": { readOnlyRoot: true, link: false },
  "user 1000": { user: "1000:1000", isolated: false, rights: ["SYS_PTRACE"] },
  "user 1000, read-only root": {
    user: "1000:1000",
    isolated: false,
    readOnlyRoot: true,
    rights: ["SYS_PTRACE"],
    link: false,
  },
  "no Linux capabilities": { dropLinuxCapabilities: ["ALL"], rights: ["SYS_CHROOT"] },
  "`no-new-privileges`": { noNewPrivileges: true },
  "the machine's PIDs": { share: ["pid"], isolated: false },
  "the machine's network": { share: ["net"] },
  "all of the machine's but the files": { share: ["pid", "net", "ipc", "uts"], isolated: false },
  "a `/nix` of its own": {
    files: { "/nix/store/mark": "mine\n" },
    read: ["cat /nix/store/mark", "mine"],
  },
  "one program, no `/etc`, `/tmp`, shell": {
    bare: true,
    read: ["grep -q ELF /server && echo found", "found"],
  },
  "tmpfs": { tmpfs: ["/scratch"], read: ["echo fleeting >/scratch/x; cat /scratch/x", "fleeting"] },
};

/** What makes the targets; `isolated`: a process in a user namespace that is an ordinary user's. */
const MAKERS = {
  process: (options: TargetOptions) => start(startTarget(options), "pid"),
  isolated: (options: TargetOptions) => start(startTarget({ ...options, owner: "1234:1235" }), "pid"),
  runc: (options: TargetOptions) => start(startRunc({ ...options, runtime: "runc" }), "runc"),
  crun: (options: TargetOptions) => start(startRunc({ ...options, runtime: "crun" }), "crun"),
} as const;
type Maker = keyof typeof MAKERS;

async function start(
  starting: Promise<LocalTarget & { readonly id?: string; readonly state?: string }>,
  scheme: string,
) {
  const target = await starting;
  const { pid, id, state } = target;
  return { target, ref: `${scheme}://${id ?? pid}`, flags: state === undefined ? [] : ["--runtime", state] };
}

const HOST = "host";
const table = newTable(
  "table: processes",
  Object.keys(TARGETS),
  [HOST, ...TOOLKIT_KINDS, RIGHTS_COLUMN],
  Object.keys(MAKERS) as Maker[],
);

let made: Promise<Readonly<Record<ToolkitKind, string>>> | undefined;

/** The toolkits, made once, and removed when the tests have run. */
function toolkits(): Promise<Readonly<Record<ToolkitKind, string>>> {
  return made ??= (async () => {
    const { path } = await temporaryDirectory();
    await Deno.chmod(path, 0o755); // for the ordinary user
    globalThis.addEventListener("unload", () => Deno.removeSync(path, { recursive: true }));
    return await makeToolkits(path);
  })();
}

for (const maker of Object.keys(MAKERS) as Maker[]) {
  for (const [name, row] of Object.entries(TARGETS)) {
    if (maker === "isolated" && row.isolated === false) continue;
    localTest(`table: ${maker}: ${name}`, async () => {
      const dirs = await toolkits();
      const { bare, rights: added = [], link = true, read: _read, isolated: _isolated, files, ...options } =
        row;
      const fill = bare ? undefined : (root: string) => fillOrdinary(root, files);
      const { target, ref, flags } = await MAKERS[maker]({ ...options, ...fill && { fill } });
      await using _target = target;
      const status = await Deno.readTextFile(`/proc/${target.pid}/status`);
      const own = rightsIn(status, options.user === undefined ? "CapPrm" : "CapBnd");
      const allowed = added.reduce((sum, right) => sum | 1n << RIGHTS[right], own);

      for (const kind of [HOST, ...TOOLKIT_KINDS] as const) {
        const before = await stateOf(target);
        const image = kind === HOST ? HOST : `dir:${dirs[kind]}`;
        const script = scriptOf(row, kind);
        const { code, stdout, stderr } = await cdebug([
          ...["exec", "--image", image, ...flags, ref, "sh", "-c", script],
        ]);
        assertEquals({ code, stderr }, { code: 7, stderr: "" }, `${kind}: ${stdout}${stderr}`);
        assertEquals(stdout.split("\n")[0], "0", kind);
        assertIncludes(stdout, (row.read ?? ["", "NAME=ordinary"])[1]);
        assertIncludes(stdout, "server");
        assertIncludes(stdout, "hello");
        if (!bare) assertIncludes(stdout, "own program");
        const linked = stdout.includes("rootfs /.cdebug-");
        assertEquals(linked, link, kind);
        assertEquals(rightsIn(stdout) & ~allowed, 0n, `${kind}: rights beyond the ladder's`);
        assertEquals(await stateOf(target), before, kind);
        table.note(maker, name, kind, linked ? "yes" : "yes, nothing written");
      }
      table.note(maker, name, RIGHTS_COLUMN, ["the target's", ...added].join(" + "));
    }, maker === "process" || maker === "isolated" ? "root" : maker);
  }
}

function scriptOf(
  { bare, read = ["cat /etc/os-release", ""] }: Row,
  kind: ToolkitKind | typeof HOST,
): string {
  return [
    "id -u",
    read[0],
    "ps -e 2>/dev/null || ps",
    kind === HOST ? "env echo hello" : helloOf(kind),
    ...bare ? [] : ["/bin/busybox echo own program"],
    "cat /proc/self/status",
    'echo "rootfs $CDEBUG_ROOTFS"',
    "exit 7",
  ].join("\n");
}

/** The target's files, its start, and the processes whose root they are. */
async function stateOf({ pid, root }: LocalTarget): Promise<string[]> {
  const rootOf = async (process: string | number) => {
    const { dev, ino } = await Deno.stat(`/proc/${process}/root`).catch(() => ({ dev: 0, ino: 0 }));
    return `${dev} ${ino}`;
  };
  const own = await rootOf(pid);
  const processes: string[] = [];
  for await (const { name } of Deno.readDir("/proc")) {
    if (await rootOf(name) === own) processes.push(name);
  }
  const files = await run("find", [root, "-xdev", "-printf", "%M %U:%G %P %l\\n"]);
  const stat = (await Deno.readTextFile(`/proc/${pid}/stat`)).replace(/^.*\) /s, "").split(" ");
  return [stat[19]!, ...processes.sort(), ...files.split("\n").sort()];
}

localTest("table: README.md shows it as it was found, without an engine", () => table.assertReadme(), "crun");
