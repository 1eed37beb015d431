/** The programs of the targets on each machine that they are made for: run by qemu where it is not this one. */

import { assertEquals, assertIncludes, assertRejects } from "../assert.ts";
import { freePort, hasProgram, install, obstacle, poll } from "./debian.ts";
import { ANSWER, enterProgram, pauseProgram, serverProgram } from "./programs.ts";
import { temporaryDirectory } from "../temporary.ts";

if (!await obstacle()) await install({ "qemu-aarch64-static": "qemu-user-static" });

/** Namespaces in which a root can be changed, by anybody. */
const UNSHARED = ["--user", "--map-root-user", "--mount", "--net"];

for (const machine of ["x86_64", "aarch64"] as const) {
  const native = Deno.build.os === "linux" && machine === Deno.build.arch;
  const qemu = `qemu-${machine}-static`;
  const ignore = !native && !await hasProgram(qemu);

  /** Starts a program, and kills it at the end. */
  const start = async (program: Uint8Array<ArrayBuffer>) => {
    const directory = await temporaryDirectory();
    const path = `${directory.path}/program`;
    await Deno.writeFile(path, program, { mode: 0o755 });
    const child = new Deno.Command(native ? path : qemu, {
      args: native ? [] : [path],
      stdin: "null",
      stdout: "null",
    }).spawn();
    return {
      child,
      async [Symbol.asyncDispose]() {
        try {
          child.kill("SIGKILL");
        } catch {
          // It has ended before.
        }
        await child.status;
        await directory[Symbol.asyncDispose]();
      },
    };
  };

  Deno.test({
    name: `programs on ${machine}: the server answers, and ends at SIGTERM`,
    ignore,
    async fn() {
      const port = freePort();
      const hostname = "127.0.0.1";
      await using server = await start(serverProgram(machine, { hostname, port }));
      const get = async () => await (await fetch(`http://${hostname}:${port}/some/path`)).text();
      assertEquals(await poll(get), ANSWER);
      // One that leaves without waiting for the answer, with bytes unread: its connection is reset.
      using rude = await Deno.connect({ hostname, port });
      await rude.write(new TextEncoder().encode("GET / HTTP/1.0\r\n\r\n"));
      rude.close();
      assertEquals(await Promise.all(Array.from({ length: 20 }, get)), Array(20).fill(ANSWER));
      const large = await fetch(`http://${hostname}:${port}/`, { method: "POST", body: "x".repeat(50_000) });
      assertEquals([large.status, await large.text()], [200, ANSWER]);

      await using second = await start(serverProgram(machine, { hostname, port }));
      assertEquals((await second.child.status).code, 1);

      server.child.kill("SIGTERM");
      assertEquals((await server.child.status).signal, "SIGTERM");
      await assertRejects(get);
    },
  });

  Deno.test({
    name: `programs on ${machine}: the smallest waits`,
    ignore,
    async fn() {
      await using pause = await start(pauseProgram(machine));
      pause.child.kill("SIGTERM");
      assertEquals((await pause.child.status).signal, "SIGTERM");
    },
  });

  Deno.test({
    name: `programs on ${machine}: enter changes the root, and gives up its rights before the program starts`,
    ignore: Deno.build.os !== "linux" || !await hasProgram(qemu),
    async fn() {
      await using directory = await temporaryDirectory();
      const program = enterProgram(machine, ["/server", "a b"], { env: { COLOUR: "blue" }, loopback: true });
      await Deno.writeFile(`${directory.path}/enter`, program, { mode: 0o755 });
      const script = 'mount --bind "$1" "$1" && cd "$1" && exec "$2" -strace ./enter';
      const { code, stderr } = await new Deno.Command("unshare", {
        args: [...UNSHARED, "sh", "-c", script, "sh", directory.path, qemu],
      }).output();
      const calls = new TextDecoder().decode(stderr);
      for (
        const call of [
          'ioctl(3,SIOCSIFFLAGS,{"lo',
          'umount2(".",MNT_DETACH)',
          "capset(",
          'execve("/server",{"/server","a b",NULL})',
        ]
      ) assertIncludes(calls, call);
      assertEquals(code, 127, calls); // there is none
    },
  });
}
