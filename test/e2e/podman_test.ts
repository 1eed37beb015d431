/** `cdebug exec` on Podman: what could be different there. */

import { assert, assertEquals, assertIncludes } from "../assert.ts";
import { BARE, cdebug, engineOf, idOf, liveTest, rootOf, sidecarsOf, spawn, target } from "./engine.ts";
import { poll } from "../engines/debian.ts";
import { Terminal } from "./tmux.ts";

const podmanTest = (name: string, fn: () => Promise<void>) => liveTest(`podman: ${name}`, fn, "podman");
const podman = (...args: string[]) => engineOf("podman")!.client(args);

podmanTest("files, arguments, streams, exit codes", async () => {
  await using web = await target({ engine: "podman" });
  assertEquals(
    (await cdebug(["exec", web.ref, "cat", "/etc/os-release"])).stdout,
    "ID=debian\nNAME=ordinary\n",
  );
  const args = ["a  b", "it's", "$x", '"q"', "", "*", "ü", "tab\there\nnewline"];
  const { stdout } = await cdebug(["exec", web.ref, "printf", "[%s]", ...args]);
  assertEquals(stdout, args.map((arg) => `[${arg}]`).join(""));
  const both = await cdebug(["exec", "-i", web.ref, "sh", "-c", "cat; echo err >&2; exit 7"], {
    stdin: "in\n",
  });
  assertEquals(both, { code: 7, stdout: "in\n", stderr: "err\n" });
  assertEquals((await cdebug(["exec", web.ref, "no-such-program"])).code, 127);
});

podmanTest("a target that holds nothing but its program, read-only, of another user", async () => {
  await using web = await target({ engine: "podman", image: BARE, run: ["--read-only", "--user", "1000"] });
  const { code, stdout, stderr } = await cdebug([
    "exec",
    web.ref,
    "sh",
    "-c",
    "ls /server; ps | grep -c /server",
  ]);
  assertEquals(code, 0, stderr);
  assertEquals(stdout.split("\n")[0], "/server");
});

podmanTest("namespaces are the target's", async () => {
  await using web = await target({ engine: "podman" });
  const show = ["sh", "-c", "for ns in net pid ipc uts; do readlink /proc/self/ns/$ns; done"];
  assertEquals((await cdebug(["exec", web.ref, ...show])).stdout, await podman("exec", web.name, ...show));
});

podmanTest("a terminal of the right size", async () => {
  await using web = await target({ engine: "podman", image: BARE });
  await using terminal = await Terminal.open({ columns: 97, rows: 31 });
  await terminal.type(`cdebug exec -it ${web.ref} stty size; echo code=$?`);
  await terminal.shows("31 97");
  await terminal.shows("code=0");
});

for (const [signal, code] of [["SIGTERM", 143], ["SIGINT", 130], ["SIGKILL", 137]] as const) {
  podmanTest(`${signal} to cdebug leaves nothing`, async () => {
    await using web = await target({ engine: "podman", image: BARE });
    const child = spawn(["exec", web.ref, "sh", "-c", "echo up; while :; do sleep 0.1; done"]);
    const reader = child.stdout.getReader();
    await reader.read();
    child.kill(signal);
    while (!(await reader.read()).done);
    assertEquals([(await child.status).code, await new Response(child.stderr).text()], [code, ""]);
  });
}

podmanTest("a target that is killed leaves nothing", async () => {
  await using web = await target({ engine: "podman", image: BARE });
  const { client } = engineOf("podman")!;
  const [root, id] = [await rootOf(web.name, client), await idOf(web.name, client)];
  const child = spawn(["exec", web.ref, "sh", "-c", "echo up; while :; do sleep 0.1; done"]);
  const reader = child.stdout.getReader();
  await reader.read();
  await podman("kill", web.name);
  while (!(await reader.read()).done);
  const stderr = await new Response(child.stderr).text();
  assertEquals((await child.status).code, 137, stderr);
  await poll(async () => assertEquals(await sidecarsOf(id, client), []));
  assertEquals(await rootOf(web.name, client), root);
});

podmanTest("a plan holds for one engine, and --retarget takes it to the other", async () => {
  await using web = await target({ engine: "podman" });
  const { stdout: plan } = await cdebug(["plan", "exec", web.ref, "echo", "ran"]);
  assertIncludes(plan, "engine: podman");
  assertEquals((await cdebug(["apply", "-"], { stdin: plan })).stdout, "ran\n");
  if (engineOf("docker")) {
    await using other = await target();
    const { code, stdout, stderr } = await cdebug(["apply", "--retarget", other.ref, "-"], { stdin: plan });
    assertEquals([code, stdout], [0, "ran\n"], stderr);
  }
});

podmanTest("what cannot be is said in Podman's words", async () => {
  const missing = await cdebug(["exec", "podman://no-such", "true"]);
  assertEquals(missing.code, 125);
  assertIncludes(missing.stderr, "Hint: podman ps");
  const nowhere = await cdebug(["exec", "--runtime", "/no/podman.sock", "podman://web", "true"]);
  assertEquals(nowhere.code, 125);
  assert(
    nowhere.stderr.includes("Cannot reach Podman") && nowhere.stderr.includes("CONTAINER_HOST"),
    nowhere.stderr,
  );
});
