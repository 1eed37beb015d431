/**
 * What `launch` asks of the kernel, on each architecture that it is built for: run by qemu, which tells its calls.
 * None of them succeeds, because what it would become is not executable here. That the programs really run is
 * shown live, by the table of test/e2e/table_test.ts.
 */

import { assertEquals, assertIncludes } from "../assert.ts";
import { hasProgram, install, obstacle } from "../engines/debian.ts";
import { pauseProgram } from "../engines/programs.ts";
import launch from "../../plans/enter/launch.json" with { type: "json" };
import { temporaryDirectory } from "../temporary.ts";

if (!await obstacle()) await install({ "qemu-aarch64-static": "qemu-user-static" });

for (const machine of ["x86_64", "aarch64"] as const) {
  const qemu = `qemu-${machine}-static`;
  const ignore = !await hasProgram(qemu);

  Deno.test({
    name: `launch on ${machine}: starts each kind of program as its own root filesystem would`,
    ignore,
    async fn() {
      await using toolkit = await newToolkit(machine);
      const at = toolkit.path;
      const dynamic = [`${at}/lib/loader`, "--library-path", `${at}/lib`];
      const cases: Record<string, string[]> = {
        "/bin/dynamic": [...dynamic, `${at}/bin/dynamic`],
        "/bin/applet": [...dynamic, "--argv0", `${at}/bin/applet`, `${at}/bin/dynamic`],
        "/bin/static": [`${at}/bin/static`],
        "/bin/relative/../script": [...dynamic, `${at}/bin/dynamic`, "-e -x", `${at}/bin/script`],
        "/bin/plain": [...dynamic, "--argv0", `${at}/bin/sh`, `${at}/bin/dynamic`, `${at}/bin/plain`],
      };
      for (const [program, wanted] of Object.entries(cases)) {
        await Deno.writeTextFile(`${at}/wrapper`, `#!${at}/.cdebug/launch\n${program}\n`);
        const calls = await run(qemu, at, [`${at}/wrapper`, "a", "b c", ""]);
        const argv = [...wanted, "a", "b c", ""].map((arg) => `"${arg}"`).join(",");
        assertIncludes(calls, `{${argv},NULL})`);
        const path = program === "/bin/static" ? `${at}/bin/static` : `${at}/lib/loader`;
        assertIncludes(calls, `execve("${path}",`);
      }
    },
  });

  Deno.test({
    name: `launch on ${machine}: says what cannot be run`,
    ignore,
    async fn() {
      await using toolkit = await newToolkit(machine);
      const at = toolkit.path;
      const cases: Record<string, string> = {
        "/bin/missing": "cdebug: Cannot run /bin/missing: the toolkit does not have it",
        "/bin/circle": "cdebug: Cannot run /bin/circle: the toolkit does not have it",
        "/bin/endless": "cdebug: Cannot run /bin/endless: its interpreters are scripts without end",
        "/bin/outside": "cdebug: Cannot run /bin/outside: the toolkit does not have it",
      };
      for (const [program, wanted] of Object.entries(cases)) {
        await Deno.writeTextFile(`${at}/wrapper`, `#!${at}/.cdebug/launch\n${program}\n`);
        const calls = await run(qemu, at, [`${at}/wrapper`], { told: false });
        assertEquals(calls.trim(), wanted);
      }
    },
  });

  Deno.test({
    name: `launch on ${machine}: becomes a user with groups, and no other`,
    ignore: ignore || Deno.uid() !== 0,
    async fn() {
      await using toolkit = await newToolkit(machine);
      const calls = await run(qemu, toolkit.path, ["1000:100,5,6", "/", "/nonexistent", "x"]);
      assertIncludes(calls, "setgroups(3,");
      assertIncludes(calls, "setresgid(100,100,100) = 0");
      assertIncludes(calls, "setresuid(1000,1000,1000) = 0");
      assertIncludes(calls, 'execve("/nonexistent",{"/nonexistent","x",NULL})');
      for (
        const ids of [
          "4294967296:0",
          "4294967295:0",
          "99999999999999999999:0",
          "web:0",
          "1000:",
          "1000:5,-1",
          ":",
        ]
      ) {
        const told = await run(qemu, toolkit.path, [ids, "/", "/nonexistent"], { told: false });
        assertEquals(told.trim(), `cdebug: Cannot run as ${ids}: these are no numbers of a user and groups`);
      }
    },
  });

  Deno.test({
    name: `launch on ${machine}: holds until SIGTERM`,
    ignore,
    async fn() {
      await using toolkit = await newToolkit(machine);
      const child = new Deno.Command(qemu, {
        args: ["-strace", `${toolkit.path}/.cdebug/launch`, "hold"],
        stderr: "piped",
      }).spawn();
      let told = "";
      for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
        told += text;
        if (!told.includes("rt_sigtimedwait")) continue;
        child.kill("SIGINT");
        child.kill("SIGTERM");
        break;
      }
      assertEquals((await child.status).code, 0);
    },
  });
}

/** A root filesystem with programs of every kind, none of them executable, and launch. */
async function newToolkit(machine: "x86_64" | "aarch64") {
  const directory = await temporaryDirectory();
  const at = directory.path;
  for (const dir of [".cdebug", "bin/relative", "lib"]) await Deno.mkdir(`${at}/${dir}`, { recursive: true });
  await Deno.writeFile(`${at}/.cdebug/launch`, Uint8Array.fromBase64(launch[machine]), { mode: 0o755 });
  await Deno.writeTextFile(`${at}/.cdebug/libraries`, `${at}/lib`);
  await Deno.writeTextFile(`${at}/lib/loader`, "");
  await Deno.symlink("/lib/loader", `${at}/lib/ld.so`);
  await Deno.writeFile(`${at}/bin/dynamic`, dynamicProgram("/lib/ld.so"));
  await Deno.writeFile(`${at}/bin/static`, pauseProgram("x86_64"));
  for (const name of ["applet", "sh"]) await Deno.symlink("/bin/dynamic", `${at}/bin/${name}`);
  await Deno.symlink("circle", `${at}/bin/circle`);
  await Deno.symlink("../../../../../../../../etc/passwd", `${at}/bin/outside`);
  await Deno.writeTextFile(`${at}/bin/script`, "#! /bin/dynamic \t-e -x \nexit\n");
  await Deno.writeTextFile(`${at}/bin/plain`, "exit\n");
  await Deno.writeTextFile(`${at}/bin/endless`, "#!/bin/endless\n");
  return directory;
}

/** A program that names a loader, behind its own end, as patched ones do. */
function dynamicProgram(loader: string): Uint8Array<ArrayBuffer> {
  const program = pauseProgram("x86_64");
  const name = new TextEncoder().encode(`${loader}\0`);
  const bytes = new Uint8Array(8192 + name.length);
  bytes.set(program);
  bytes.set(name, 8192);
  const view = new DataView(bytes.buffer);
  view.setUint32(64, 3, true); // the program's only part: the interpreter
  view.setBigUint64(72, 8192n, true);
  view.setBigUint64(96, BigInt(name.length), true);
  return bytes;
}

/** What launch says, with the calls that it makes unless `told` is false. */
async function run(
  qemu: string,
  root: string,
  args: readonly string[],
  { told = true } = {},
): Promise<string> {
  const launched = `${root}/.cdebug/launch`;
  const { stderr } = await new Deno.Command(qemu, {
    args: [...told ? ["-strace"] : [], "-0", launched, launched, ...args],
  }).output();
  return new TextDecoder().decode(stderr);
}
