/** `cdebug exec` on Podman, root's and a user's: what could be different there. */

import { assert, assertEquals, assertIncludes } from "../assert.ts";
import { poll, run } from "../engines/debian.ts";
import type { Client } from "../engines/engine.ts";
import { asOwner, rootlessDir } from "../engines/podman.ts";
import {
  BARE,
  cdebug,
  copyCdebug,
  engineOf,
  idOf,
  liveTest,
  ORDINARY,
  rootOf,
  sidecarsOf,
  spawn,
  target,
} from "./engine.ts";
import { startSshd } from "../engines/sshd.ts";
import { temporaryDirectory } from "../temporary.ts";
import { Terminal } from "./tmux.ts";

interface Podman {
  readonly engine: "podman" | "rootless";
  readonly client: Client;
  /** How cdebug finds it. */
  readonly env: Record<string, string>;
}

/** Registers a test that runs on each Podman there is. */
function podmanTest(name: string, fn: (on: Podman) => Promise<void>): void {
  for (const engine of ["podman", "rootless"] as const) {
    liveTest(`${engine}: ${name}`, () => {
      const { host, client } = engineOf(engine)!;
      return fn({ engine, client, env: { CONTAINER_HOST: host } });
    }, engine);
  }
}

/** A target with another mapping of users than its engine's, of a user that is not root. */
const MAPPED = ["--uidmap", "0:10000:10000", "--user", "1000"];

podmanTest("files, arguments, streams, exit codes", async ({ engine, env }) => {
  await using web = await target({ engine });
  assertEquals(
    (await cdebug(["exec", web.ref, "cat", "/etc/os-release"], { env })).stdout,
    "ID=debian\nNAME=ordinary\n",
  );
  const args = ["a  b", "it's", "$x", '"q"', "", "*", "ü", "tab\there\nnewline"];
  const { stdout } = await cdebug(["exec", web.ref, "printf", "[%s]", ...args], { env });
  assertEquals(stdout, args.map((arg) => `[${arg}]`).join(""));
  const both = await cdebug(["exec", "-i", web.ref, "sh", "-c", "cat; echo err >&2; exit 7"], {
    stdin: "in\n",
    env,
  });
  assertEquals(both, { code: 7, stdout: "in\n", stderr: "err\n" });
  assertEquals((await cdebug(["exec", web.ref, "no-such-program"], { env })).code, 127);
});

podmanTest(
  "a target that holds nothing but its program, read-only, of another user",
  async ({ engine, env }) => {
    await using web = await target({ engine, image: BARE, run: ["--read-only", "--user", "1000"] });
    const { code, stdout, stderr } = await cdebug([
      "exec",
      web.ref,
      "sh",
      "-c",
      "ls /server; ps | grep -c /server",
    ], { env });
    assertEquals(code, 0, stderr);
    assertEquals(stdout.split("\n")[0], "/server");
  },
);

podmanTest("namespaces are the target's", async ({ engine, client, env }) => {
  await using web = await target({ engine });
  const show = ["sh", "-c", "for ns in net pid ipc uts user; do readlink /proc/self/ns/$ns; done"];
  assertEquals(
    (await cdebug(["exec", web.ref, ...show], { env })).stdout,
    await client(["exec", web.name, ...show]),
  );
});

for (const image of [ORDINARY, BARE]) {
  for (const options of [[], ["--read-only", "--tmpfs", "/tmp"]]) {
    const name = `a user namespace of the target's own, ${[image, ...options].join(" ")}`;
    podmanTest(name, async ({ engine, env }) => {
      await using web = await target({ engine, image, run: [...MAPPED, ...options] });
      const script = "readlink /proc/self/ns/user; readlink /proc/1/ns/user; cd /tmp 2>/dev/null || cd /;" +
        " : >new; stat -c %u:%g new; rm new; ls $CDEBUG_ROOTFS/bin/sh >&2";
      const { code, stdout, stderr } = await cdebug(["exec", web.ref, "sh", "-c", script], { env });
      assertEquals(code, 0, stderr);
      const [own, targets, ...rest] = stdout.split("\n");
      assertEquals([own, ...rest], [targets, "0:0", ""]);
      assertEquals(
        (await cdebug(["exec", "-u", "7:8", web.ref, "id"], { env })).stdout,
        "uid=7 gid=8 groups=8\n",
      );
      assertEquals((await cdebug(["exec", "-u", "1000", web.ref, "id", "-u"], { env })).stdout, "1000\n");
    });
  }
}

podmanTest("a plan that leaves the target's user namespace asks", async ({ engine, env }) => {
  await using web = await target({ engine, run: MAPPED });
  const { stdout: plan } = await cdebug(["plan", "exec", web.ref, "cat", "/proc/self/uid_map"], { env });
  assertIncludes(plan, "user: own");
  const outside = plan.replace("user: target", "user: engine");
  const { code, stderr } = await cdebug(["apply", "-"], { stdin: outside, env });
  assertEquals(code, 125);
  assertIncludes(stderr, "the engine's user namespace");
});

podmanTest("a terminal of the right size", async ({ engine, env }) => {
  await using web = await target({ engine, image: BARE });
  await using terminal = await Terminal.open({ columns: 97, rows: 31 }, env);
  await terminal.type(`cdebug exec -it ${web.ref} stty size; echo code=$?`);
  await terminal.shows("31 97");
  await terminal.shows("code=0");
});

for (const [signal, code] of [["SIGTERM", 143], ["SIGINT", 130], ["SIGKILL", 137]] as const) {
  podmanTest(`${signal} to cdebug leaves nothing`, async ({ engine, env }) => {
    await using web = await target({ engine, image: BARE });
    const child = spawn(["exec", web.ref, "sh", "-c", "echo up; while :; do sleep 0.1; done"], { env });
    const reader = child.stdout.getReader();
    await reader.read();
    child.kill(signal);
    while (!(await reader.read()).done);
    assertEquals([(await child.status).code, await new Response(child.stderr).text()], [code, ""]);
  });
}

for (const [what, options] of [["a target", []], ["a target with a user namespace", MAPPED]] as const) {
  podmanTest(`${what} that is killed leaves nothing`, async ({ engine, client, env }) => {
    await using web = await target({ engine, image: BARE, run: options });
    const [root, id] = [await rootOf(web.name, client), await idOf(web.name, client)];
    const child = spawn(["exec", web.ref, "sh", "-c", "echo up; while :; do sleep 0.1; done"], { env });
    const reader = child.stdout.getReader();
    await reader.read();
    await client(["kill", web.name]);
    while (!(await reader.read()).done);
    const stderr = await new Response(child.stderr).text();
    assertEquals((await child.status).code, 137, stderr);
    await poll(async () => assertEquals(await sidecarsOf(id, client), []));
    assertEquals(await rootOf(web.name, client), root);
  });
}

podmanTest("a plan holds for one engine, and --retarget takes it to the other", async ({ engine, env }) => {
  await using web = await target({ engine });
  const { stdout: plan } = await cdebug(["plan", "exec", web.ref, "echo", "ran"], { env });
  assertIncludes(plan, "engine: podman");
  assertEquals((await cdebug(["apply", "-"], { stdin: plan, env })).stdout, "ran\n");
  if (engineOf("docker")) {
    await using other = await target();
    const { code, stdout, stderr } = await cdebug(["apply", "--retarget", other.ref, "-"], { stdin: plan });
    assertEquals([code, stdout], [0, "ran\n"], stderr);
  }
});

podmanTest("what cannot be is said in Podman's words", async ({ env }) => {
  const missing = await cdebug(["exec", "podman://no-such", "true"], { env });
  assertEquals(missing.code, 125);
  assertIncludes(missing.stderr, "Hint: podman ps");
  const nowhere = await cdebug(["exec", "--runtime", "/no/podman.sock", "podman://web", "true"]);
  assertEquals(nowhere.code, 125);
  assert(
    nowhere.stderr.includes("Cannot reach Podman") && nowhere.stderr.includes("CONTAINER_HOST"),
    nowhere.stderr,
  );
});

podmanTest("over ssh, and by a connection's name", async ({ engine, env }) => {
  await using web = await target({ engine, image: BARE });
  await using sshd = await startSshd();
  await using directory = await temporaryDirectory();
  const user = (await run("id", ["-un"])).trim();
  const host = `ssh://${user}@${sshd.address}${env["CONTAINER_HOST"]!.replace("unix://", "")}`;
  const found = { code: 0, stdout: "in\nfound\n", stderr: "" };
  const exec = (env: Record<string, string>) =>
    cdebug(["exec", "-i", web.ref, "sh", "-c", "cat; echo found"], {
      env: { PATH: `${sshd.bin}:${Deno.env.get("PATH")}`, CONTAINERS_CONF: `${directory.path}/conf`, ...env },
      stdin: "in\n",
    });
  assertEquals(await exec({ CONTAINER_HOST: host }), found);

  await Deno.writeTextFile(
    `${directory.path}/conf`,
    `[engine.service_destinations.far]\nuri = "${host}"\nidentity = "${directory.path}/no-key"\n`,
  );
  const named = await exec({ CONTAINER_HOST: "", CONTAINER_CONNECTION: "far" });
  assertEquals([named.code, named.stdout], [0, found.stdout], named.stderr);
  const { code, stderr } = await exec({ CONTAINER_HOST: "", CONTAINER_CONNECTION: "near" });
  assertEquals(code, 125);
  assertIncludes(stderr, 'Cannot use Podman connection "near": there is no such connection');
});

liveTest("rootless: a user finds the own socket, and a target that keeps the user's ID", async () => {
  await using web = await target({ engine: "rootless", run: ["--userns", "keep-id"] });
  const dir = rootlessDir(engineOf("rootless")!.host);
  const show = ["sh", "-c", "cat /etc/os-release; id -u; stat -c %u /proc/1"];
  const [program, ...args] = await asOwner(dir, [...await copyCdebug(dir), "exec", web.ref, ...show]);
  const { uid } = await Deno.stat(dir);
  assertEquals(await run(program!, args), `ID=debian\nNAME=ordinary\n0\n${uid}\n`);
}, "rootless");
