/** The containers of test/engines/runc.ts: that they are what they say, and leave nothing. */

import { assert, assertEquals, assertRejects } from "../assert.ts";
import { exists, poll } from "../engines/debian.ts";
import { ANSWER } from "../engines/programs.ts";
import { type RuncContainer, type RuncOptions, startRunc } from "../engines/runc.ts";
import { answer, files, localTest, mounts, shared, status } from "./local.ts";

/** The directories of a cgroup, in all hierarchies. */
async function cgroups(cgroup: string): Promise<string[]> {
  const found: string[] = [];
  for await (const { name } of Deno.readDir("/sys/fs/cgroup")) {
    const path = `/sys/fs/cgroup/${name}${cgroup}`;
    if (await exists(path)) found.push(path);
  }
  return await exists(`/sys/fs/cgroup${cgroup}`) ? [...found, `/sys/fs/cgroup${cgroup}`] : found;
}

/** Starts a container, hands it over, and asserts that it leaves nothing. */
async function withContainer(options: RuncOptions, look: (container: RuncContainer) => Promise<void>) {
  let gone: RuncContainer;
  {
    await using container = await startRunc(options);
    gone = container;
    await look(container);
  }
  assert(!await exists(gone.root.replace(/\/root$/, "")), "the bundle is left");
  assertEquals(await cgroups(gone.cgroup), []);
  assert(!(await Deno.readTextFile("/proc/self/mounts")).includes(gone.root), "a mount is left");
  // Whoever inherits it may take a while to notice that it has ended.
  await poll(async () => assert(!await exists(`/proc/${gone.pid}`), "the process is left"));
}

for (const runtime of ["runc", "crun"] as const) {
  const runcTest = (
    name: string,
    options: Omit<RuncOptions, "runtime">,
    look: (container: RuncContainer) => Promise<void>,
  ) =>
    localTest(`${runtime} container: ${name}`, () => withContainer({ runtime, ...options }, look), runtime);

  runcTest("PID 1, alone with its file, and it answers", {}, async (container) => {
    const { pid, id, client, cgroup } = container;
    assertEquals(JSON.parse(await client(["state", id])).pid, pid);
    assertEquals(await status(pid, "NSpid"), `${pid} 1`);
    assertEquals(await shared(pid), ["user"]);
    assertEquals(await files(pid, ""), ["dev", "proc", "server"]);
    assertEquals(Object.keys(await mounts(pid)).sort(), ["/", "/dev", "/proc"]);
    assert((await cgroups(cgroup)).length > 0, "it has no cgroup");
    assertEquals(await answer(container), `${ANSWER}\n`);
  });

  runcTest("with all that makes it harder", {
    user: "1000:1001",
    readOnlyRoot: true,
    tmpfs: ["/tmp"],
    files: { "/etc/passwd": "web:x:1000:1001::/:\n" },
    env: { COLOUR: "blue" },
    dropLinuxCapabilities: ["ALL"],
    noNewPrivileges: true,
    refuse: ["mkdir", "mkdirat"],
  }, async (container) => {
    const { pid } = container;
    assertEquals(await status(pid, "Uid"), "1000 1000 1000 1000");
    assertEquals(await status(pid, "Gid"), "1001 1001 1001 1001");
    assertEquals(await status(pid, "NoNewPrivs"), "1");
    assertEquals(await status(pid, "Seccomp"), "2");
    for (const set of ["Inh", "Prm", "Eff", "Bnd", "Amb"]) {
      assertEquals(await status(pid, `Cap${set}`), "0".repeat(16), set);
    }
    const at = await mounts(pid);
    assertEquals(Object.keys(at).sort(), ["/", "/dev", "/proc", "/tmp"]);
    assert(at["/"]!.split(",").includes("ro"), at["/"]);
    assertEquals(await Deno.readTextFile(`/proc/${pid}/root/etc/passwd`), "web:x:1000:1001::/:\n");
    assertEquals(await answer(container), `${ANSWER}\n`);
  });

  runcTest("root, without one of its rights", { dropLinuxCapabilities: ["NET_RAW"] }, async ({ pid }) => {
    const withoutNetRaw = "00000000a80405fb";
    for (const set of ["Prm", "Eff", "Bnd"]) assertEquals(await status(pid, `Cap${set}`), withoutNetRaw, set);
  });

  runcTest("in a user namespace of its own", { mapTo: 200_000, user: "5:6" }, async ({ pid }) => {
    assertEquals(await status(pid, "Uid"), Array(4).fill("200005").join(" "));
    assertEquals(await shared(pid), []);
    assertEquals((await Deno.readTextFile(`/proc/${pid}/gid_map`)).trim().split(/\s+/), [
      ...["0", "200000", "65536"],
    ]);
  });

  runcTest("in the host's namespaces", { share: ["net", "pid", "ipc", "uts"] }, async ({ pid }) => {
    assertEquals(await shared(pid), ["ipc", "net", "pid", "user", "uts"]);
  });

  runcTest("created, without its program", { state: "created" }, async ({ pid, client, id }) => {
    assert(await Deno.readLink(`/proc/${pid}/exe`) !== "/server");
    assertEquals(await shared(pid), ["user"]);
    await client(["start", id]);
    await poll(async () => assertEquals(await Deno.readLink(`/proc/${pid}/exe`), "/server"));
  });

  runcTest("paused", { state: "paused" }, async ({ pid }) => {
    const [, freezer] = /^\d+:freezer:(.*)$/m.exec(await Deno.readTextFile(`/proc/${pid}/cgroup`)) ?? [];
    const [, unified] = /^0::(.*)$/m.exec(await Deno.readTextFile(`/proc/${pid}/cgroup`)) ?? [];
    if (freezer) {
      assertEquals(await Deno.readTextFile(`/sys/fs/cgroup/freezer${freezer}/freezer.state`), "FROZEN\n");
    } else assertEquals(await Deno.readTextFile(`/sys/fs/cgroup${unified}/cgroup.freeze`), "1\n");
  });

  runcTest("stopped, not deleted", { state: "stopped" }, async ({ pid, client, id }) => {
    assertEquals(JSON.parse(await client(["state", id])).status, "stopped");
    const alive = await status(pid, "State").then((state) => !state.startsWith("Z"), () => false);
    assert(!alive, "its process is alive");
  });

  localTest(`${runtime} container: one that cannot be made says why, and leaves nothing`, async () => {
    let root = "";
    await assertRejects(
      () =>
        startRunc({
          runtime,
          program: new TextEncoder().encode("neither ELF nor a script"),
          fill: (path) => Promise.resolve(void (root = path)),
        }),
      Error,
      "says that the container is stopped, not running",
    );
    const bundle = root.replace(/\/root$/, "");
    assert(bundle !== "" && !await exists(bundle), "the bundle is left");
    assertEquals(await cgroups(bundle.replace(/.*\//, "/")), []);
  }, runtime);
}
