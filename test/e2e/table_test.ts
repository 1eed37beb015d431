/** Any target, any toolkit: every cell of the table in README.md, on Docker and on Podman. */

import { assertEquals, assertIncludes } from "../assert.ts";
import { importOrdinary } from "../engines/images.ts";
import { helloOf, importToolkits, TOOLKIT_KINDS, toolkitImage } from "../engines/toolkits.ts";
import { newTable, type Right, RIGHTS, RIGHTS_COLUMN, rightsIn } from "./table.ts";
import {
  BARE,
  cdebug,
  engineOf,
  filesOf,
  idOf,
  IMAGE_ENGINES,
  type ImageEngine,
  liveTest,
  ORDINARY,
  sidecarsOf,
  target,
} from "./engine.ts";
import { poll } from "../engines/debian.ts";

interface Row {
  readonly image?: string;
  readonly run?: readonly string[];
  readonly command?: readonly string[];
  /** What the session may do besides what an ordinary container may; or, without the ordinary rights, alone. */
  readonly rights?: { readonly ordinary: boolean; readonly added: readonly Right[] };
  /** Reads the target's files; what is in them. */
  readonly read?: readonly [command: string, text: string];
  /** Whether the target has programs of its own. */
  readonly programs?: boolean;
  /** Whether its link is in the target's root as long as the session lasts; undefined: as the engine lets it. */
  readonly link?: boolean | undefined;
  readonly state?: "stopped" | "image";
}

const OWN_NIX = "cdebug-test/own-nix";
const OTHER = "OTHER"; // stands for another container

const TARGETS: Readonly<Record<string, Row>> = {
  "ordinary": {},
  "read-only root": { run: ["--read-only"], link: false },
  "user 1000": { run: ["--user", "1000"], rights: { ordinary: true, added: ["SYS_PTRACE"] } },
  "user 1000, read-only root": {
    run: ["--user", "1000", "--read-only"],
    rights: { ordinary: true, added: ["SYS_PTRACE"] },
    link: false,
  },
  "`--cap-drop ALL`": {
    run: ["--cap-drop", "ALL"],
    rights: { ordinary: false, added: ["SYS_CHROOT"] },
    link: undefined,
  },
  "`no-new-privileges`": { run: ["--security-opt", "no-new-privileges"] },
  "`--pid host`": { run: ["--pid", "host"] },
  "`--network host`": { run: ["--network", "host"] },
  "`--network none`": { run: ["--network", "none"] },
  "another container's PIDs": { run: ["--pid", `container:${OTHER}`] },
  "a `/nix` of its own": { image: OWN_NIX, read: ["cat /nix/store/mark", "mine"] },
  "one program, no `/etc`, `/tmp`, shell": {
    image: BARE,
    read: ["grep -q ELF /server && echo found", "found"],
    programs: false,
  },
  "volumes and tmpfs": {
    run: ["--volume", "/data", "--tmpfs", "/scratch"],
    command: ["sh", "-c", "echo kept > /data/x; echo fleeting > /scratch/x; exec sleep 1000000"],
    read: ["cat /data/x /scratch/x", "kept\nfleeting"],
  },
  "stopped, `--stopped`": { command: ["true"], state: "stopped" },
  "image, `image://`": { state: "image" },
};

const table = newTable("table", Object.keys(TARGETS), [...TOOLKIT_KINDS, RIGHTS_COLUMN], IMAGE_ENGINES);

let imported: Promise<void> | undefined;

/** The images that only this table needs, made for both engines at once. */
function images(): Promise<void> {
  return imported ??= (async () => {
    const clients = IMAGE_ENGINES.flatMap((engine) => engineOf(engine)?.client ?? []);
    await importToolkits(clients);
    for (const client of clients) await importOrdinary(client, OWN_NIX, { "/nix/store/mark": "mine\n" });
  })();
}

for (const engine of IMAGE_ENGINES) {
  for (const [name, row] of Object.entries(TARGETS)) {
    liveTest(`table: ${engine}: ${name}`, async () => {
      await images();
      const { client } = engineOf(engine)!;
      await using other = await target({ engine });
      if (row.state === "image") {
        await checkRow(engine, name, row, `${engine}-image://${ORDINARY}`, async () => {
          const list = await client(["images", "--no-trunc", "--format", "{{.ID}} {{.Tag}}"]);
          return list.split("\n").sort();
        });
        return;
      }
      const { run = [], ...options } = row;
      await using web = await target({
        engine,
        ...options,
        run: run.map((word) => word.replace(OTHER, other.name)),
      });
      if (row.state === "stopped") await client(["wait", web.name]);
      const id = await idOf(web.name, client);
      await checkRow(engine, name, row, web.ref, async () => {
        await poll(async () => assertEquals(await sidecarsOf(id, client), []));
        const state = "{{.State.Status}} {{.State.StartedAt}} {{.RestartCount}}";
        return [
          await client(["inspect", "--format", state, web.name]),
          ...row.state ? [] : await processesOf(engine, web.name),
          ...await filesOf(web.name, client),
        ];
      });
    }, engine);
  }
}

/** The numbers and names of a container's processes; with the host's PIDs, Podman lists everybody's. */
async function processesOf(engine: ImageEngine, name: string): Promise<string[]> {
  const { client } = engineOf(engine)!;
  const format = "{{.HostConfig.PidMode}} {{.State.Pid}}";
  const [mode, main] = (await client(["inspect", "--format", format, name])).trim().split(" ");
  const columns = engine === "docker" ? ["-o", "pid,comm"] : ["pid", "comm"];
  const lines = (await client(["top", name, ...columns])).split("\n").slice(1).map((line) =>
    line.trim().replace(/\s+/g, " ")
  );
  return lines.filter((line) => mode === "host" ? line.startsWith(`${main} `) : line !== "");
}

/** Runs every toolkit on a target, whose `state` must be the same before and after each. */
async function checkRow(
  engine: ImageEngine,
  name: string,
  row: Row,
  ref: string,
  state: () => Promise<string[]>,
): Promise<void> {
  const { client } = engineOf(engine)!;
  const rights = { ordinary: true, added: [], ...row.rights };
  const allowed = rights.added.reduce(
    (sum, right) => sum | 1n << RIGHTS[right],
    rights.ordinary ? rightsIn(await client(["run", "--rm", ORDINARY, "cat", "/proc/self/status"])) : 0n,
  );
  const [read, text] = row.read ?? ["cat /etc/os-release", "NAME=ordinary"];
  for (const kind of TOOLKIT_KINDS) {
    const before = await state();
    const script = [
      "id -u",
      read,
      "ps -e 2>/dev/null || ps",
      helloOf(kind),
      ...row.programs === false ? [] : ["/bin/busybox echo own program"],
      "cat /proc/self/status",
      'echo "rootfs $CDEBUG_ROOTFS"',
      "exit 7",
    ].join("\n");
    const flags = row.state === "stopped" ? ["--stopped"] : [];
    const result = await cdebug(["exec", "--image", toolkitImage(kind), ...flags, ref, "sh", "-c", script]);
    const { code, stdout, stderr } = result;
    assertEquals({ code, stderr }, { code: 7, stderr: "" }, `${kind}: ${stdout}${stderr}`);
    assertEquals(stdout.split("\n")[0], "0", kind);
    assertIncludes(stdout, text);
    assertIncludes(stdout, row.state ? "hold" : row.programs === false ? "server" : "sleep");
    assertIncludes(stdout, "hello");
    if (row.programs !== false) assertIncludes(stdout, "own program");
    const linked = stdout.includes("rootfs /.cdebug-");
    if (!("link" in row) || row.link !== undefined) assertEquals(linked, row.link ?? true, kind);
    assertEquals(rightsIn(stdout) & ~allowed, 0n, `${kind}: rights beyond the ladder's`);
    assertEquals(await state(), before, kind);
    table.note(engine, name, kind, linked ? "yes" : "yes, nothing written");
  }
  table.note(
    engine,
    name,
    RIGHTS_COLUMN,
    [...rights.ordinary ? ["ordinary"] : [], ...rights.added].join(" + "),
  );
}

liveTest("table: README.md shows it as it was found", () => table.assertReadme());
