/** The targets of test/engines/process.ts: that they are what they say, and leave nothing. */

import { assert, assertEquals, assertRejects } from "../assert.ts";
import { exists, poll, run } from "../engines/debian.ts";
import { type ProcessOptions, startTarget } from "../engines/process.ts";
import { ANSWER } from "../engines/programs.ts";
import type { LocalTarget } from "../engines/target.ts";
import { answer, files, localTest, mounts, shared, status } from "./local.ts";
import { temporaryDirectory } from "../temporary.ts";

/** An ordinary user, whether there is such a name or not. */
const ORDINARY_USER = "1234:1235";

/** Starts a target, hands it over, and asserts that it leaves nothing. */
async function withTarget(options: ProcessOptions, look: (target: LocalTarget) => Promise<void>) {
  let gone: LocalTarget | undefined;
  {
    await using target = await startTarget(options);
    gone = target;
    await look(target);
  }
  assert(!await exists(`/proc/${gone.pid}`), "the process is left");
  assert(!await exists(gone.root.replace(/\/root$/, "")), "the directory is left");
  assert(!(await Deno.readTextFile("/proc/self/mounts")).includes(gone.root), "a mount is left");
}

localTest(
  "process target: PID 1, alone with its file, and it answers",
  () =>
    withTarget({}, async (target) => {
      const { pid } = target;
      assertEquals(await status(pid, "NSpid"), `${pid} 1`);
      assertEquals(await Deno.readTextFile(`/proc/${pid}/cmdline`), "/server\0");
      assertEquals(await shared(pid), Deno.uid() === 0 ? ["user"] : []);
      assertEquals(Object.keys(await mounts(pid)).sort(), ["/", "/dev", "/dev/null", "/proc"]);
      assertEquals(await files(pid, ""), ["dev", "proc", "server"]);
      assertEquals(await files(pid, "/dev"), ["null"]);
      assertEquals((await files(pid, "/proc")).filter((name) => /^\d+$/.test(name)), ["1"]);
      assertEquals(await answer(target), `${ANSWER}\n`);
    }),
);

for (const owner of [undefined, ORDINARY_USER]) {
  const whose = owner ? "an ordinary user's" : "root's";

  localTest(`process target: ${whose}, with all that makes it harder`, () =>
    withTarget({
      ...owner && { owner },
      user: "1000:1001",
      readOnlyRoot: true,
      proc: false,
      tmpfs: ["/tmp", "/var/run"],
      devices: [],
      files: { "/etc/passwd": "web:x:1000:1001::/:\n" },
      env: { COLOUR: "it's\nblue", EMPTY: "" },
      dropLinuxCapabilities: ["ALL"],
      noNewPrivileges: true,
    }, async (target) => {
      const { pid } = target;
      const [uid, gid] = (owner ?? "1000:1001").split(":");
      assertEquals(await status(pid, "Uid"), Array(4).fill(uid).join(" "));
      assertEquals(await status(pid, "Gid"), Array(4).fill(gid).join(" "));
      assertEquals(await shared(pid), owner ? [] : ["user"]);
      assertEquals(await status(pid, "NoNewPrivs"), "1");
      for (const set of ["Inh", "Prm", "Eff", "Bnd", "Amb"]) {
        assertEquals(await status(pid, `Cap${set}`), "0".repeat(16), set);
      }
      assertEquals(await Deno.readTextFile(`/proc/${pid}/environ`), "COLOUR=it's\nblue\0EMPTY=\0");
      const at = await mounts(pid);
      assertEquals(Object.keys(at).sort(), ["/", "/dev", "/tmp", "/var/run"]);
      assert(at["/"]!.split(",").includes("ro"), at["/"]);
      assertEquals(await files(pid, ""), ["dev", "etc", "proc", "server", "tmp", "var"]);
      assertEquals(await Deno.readTextFile(`/proc/${pid}/root/etc/passwd`), "web:x:1000:1001::/:\n");
      assertEquals(await answer(target), `${ANSWER}\n`);
    }), "root");
}

localTest(
  "process target: root keeps what is not dropped",
  () =>
    withTarget({ dropLinuxCapabilities: ["NET_RAW", "SYS_ADMIN"] }, async ({ pid }) => {
      const [NET_RAW, SYS_ADMIN] = [1n << 13n, 1n << 21n];
      const own = BigInt(`0x${await status(Deno.pid, "CapBnd")}`);
      const rights = (own & ~NET_RAW & ~SYS_ADMIN).toString(16).padStart(16, "0");
      for (const set of ["Prm", "Eff", "Bnd"]) assertEquals(await status(pid, `Cap${set}`), rights, set);
      for (const set of ["Inh", "Amb"]) assertEquals(await status(pid, `Cap${set}`), "0".repeat(16), set);
    }),
  "root",
);

localTest(
  "process target: in the host's namespaces",
  () =>
    withTarget({ share: ["net", "pid", "ipc", "uts"] }, async ({ pid }) => {
      assertEquals(await shared(pid), ["ipc", "net", "pid", "user", "uts"]);
      assertEquals(await status(pid, "NSpid"), String(pid));
    }),
  "root",
);

localTest("process target: orphans leave no zombies", () =>
  withTarget({}, async ({ pid }) => {
    // The orphan ends when its parent has, by then a child of PID 1.
    const orphan = "(read -r end; exit) </dev/null & exit";
    await run("nsenter", ["--target", String(pid), "--pid", "sh", "-c", orphan]);
    await poll(async () =>
      assertEquals((await files(pid, "/proc")).filter((name) => /^\d+$/.test(name)), ["1"])
    );
  }), "root");

localTest("process target: one that cannot be made says why, and leaves nothing", async () => {
  const cases: [ProcessOptions, string][] = [
    // Only the owner of a PID namespace may mount its /proc.
    [{ userNamespace: true, share: ["pid"] }, "mount: "],
    [{ program: new TextEncoder().encode("neither ELF nor a script") }, "the daemon has ended"],
  ];
  for (const [options, why] of cases) {
    let root = "";
    const fill = (path: string) => Promise.resolve(void (root = path));
    await assertRejects(() => startTarget({ ...options, fill }), Error, why);
    assert(root !== "" && !await exists(root.replace(/\/root$/, "")), "the directory is left");
  }
});

for (const owner of Deno.uid() === 0 ? [undefined, ORDINARY_USER] : [undefined]) {
  const whose = owner ? "an ordinary user's" : "our own";
  localTest(
    `process target: ${whose} dies with whoever started it`,
    () => diesWithStarter(owner),
  );
}

async function diesWithStarter(owner: string | undefined): Promise<void> {
  await using directory = await temporaryDirectory();
  const { path } = directory;
  const modules = ["debian", "elf", "process", "programs", "target"];
  await Deno.chmod(path, 0o755);
  for (const name of modules) {
    await Deno.copyFile(new URL(`../engines/${name}.ts`, import.meta.url), `${path}/${name}.ts`);
  }
  await Deno.writeTextFile(
    `${path}/main.ts`,
    `import { startTarget } from "./process.ts";
const target = await startTarget({ readOnlyRoot: true });
console.log(target.pid);
await new Promise((resolve) => setTimeout(resolve, 3_600_000));`,
  );
  await Deno.copyFile(Deno.execPath(), `${path}/deno`); // its own directory may be closed to others
  await Deno.mkdir(`${path}/tmp`);
  const [uid, gid] = owner?.split(":") ?? [String(Deno.uid()), String(Deno.gid())];
  const other = owner ? ["setpriv", "--reuid", uid!, "--regid", gid!, "--clear-groups"] : [];
  await run("chown", [`${uid}:${gid}`, `${path}/tmp`]);
  const [program, ...args] = [
    ...[...other, "env", `TMPDIR=${path}/tmp`, `DENO_DIR=${path}/tmp/deno`],
    ...[`${path}/deno`, "run", "-A", "--no-config", `${path}/main.ts`],
  ];
  const child = new Deno.Command(program!, { args, stdin: "null", stdout: "piped" }).spawn();
  let said = "";
  for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
    said += text;
    if (said.includes("\n")) break;
  }
  const pid = Number(said);
  try {
    assertEquals(await status(pid, "NSpid"), `${pid} 1`);
    assertEquals(await status(pid, "Uid"), Array(4).fill(uid).join(" "));
  } finally {
    child.kill("SIGKILL");
    await child.status;
  }
  await poll(async () =>
    assert(!await exists(`/proc/${pid}`), "it has outlived the process that started it")
  );
}
