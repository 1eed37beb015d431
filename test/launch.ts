/**
 * `deno task launch`: builds plans/enter/launch.c for each architecture and writes plans/enter/launch.json, which
 * holds the programs in Base64. With `--check`, compares instead: 0 if they are the same, 1 if not, 2 where it
 * cannot be told, because the compilers are not those that made them.
 */

import { exists, hasProgram, install, obstacle, say } from "./engines/debian.ts";
import { temporaryDirectory } from "./temporary.ts";

const SOURCE = new URL("../plans/enter/launch.c", import.meta.url).pathname;
const DATA = new URL("../plans/enter/launch.json", import.meta.url).pathname;

/** As `uname -m` calls them, and the compiler for each. */
const COMPILERS = {
  x86_64: "x86_64-linux-gnu-gcc",
  aarch64: "aarch64-linux-gnu-gcc",
};

const HEADERS = {
  "/usr/include/elf.h": "libc6-dev",
  "/usr/aarch64-linux-gnu/include/elf.h": "libc6-dev-arm64-cross",
};

// deno-fmt-ignore
const FLAGS = [
  "-Os", "-std=gnu17", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-fno-stack-protector", "-fno-pic",
  "-fno-unwind-tables", "-fno-asynchronous-unwind-tables", "-no-pie", "-nostdlib", "-static",
  "-Wl,--build-id=none,-z,noseparate-code,-z,norelro,-z,noexecstack,-s",
];

if (import.meta.main) Deno.exit(await main(Deno.args));

async function main(args: readonly string[]): Promise<number> {
  if (!await obstacle()) {
    await install({ [COMPILERS.x86_64]: "gcc", [COMPILERS.aarch64]: "gcc-aarch64-linux-gnu" });
    for (const [header, name] of Object.entries(HEADERS)) {
      if (!await exists(header)) await install({ [header]: name });
    }
  }
  for (const compiler of Object.values(COMPILERS)) {
    if (await hasProgram(compiler)) continue;
    say(`${compiler} is not installed`);
    return 2;
  }
  const built = await build();
  if (!args.includes("--check")) {
    await Deno.writeTextFile(DATA, built);
    return 0;
  }
  const kept = await Deno.readTextFile(DATA);
  if (kept === built) return 0;
  const madeBy = (text: string) => /"madeBy": .*/.exec(text)?.[0];
  if (madeBy(kept) !== madeBy(built)) {
    say(`${DATA} is not from these compilers`);
    return 2;
  }
  say(`${DATA} is not what its source makes: deno task launch`);
  return 1;
}

/** The text of launch.json. Throws with the compiler's words if the source does not compile. */
async function build(): Promise<string> {
  const versions: string[] = [];
  const programs: Record<string, string> = {};
  await using directory = await temporaryDirectory();
  for (const [machine, compiler] of Object.entries(COMPILERS)) {
    versions.push(`${compiler} ${(await output(compiler, ["-dumpfullversion"])).trim()}`);
    const program = `${directory.path}/${machine}`;
    await output(compiler, [...FLAGS, "-o", program, SOURCE]);
    programs[machine] = loaded(await Deno.readFile(program)).toBase64();
  }
  return JSON.stringify({ madeBy: versions.join(" and "), ...programs }, null, 2) + "\n";
}

/** An ELF file without what the kernel does not load: the sections and their names. Source: elf(5). */
function loaded(file: Uint8Array<ArrayBuffer>): Uint8Array {
  const view = new DataView(file.buffer);
  const heads = Number(view.getBigUint64(32, true));
  let end = 0;
  for (let i = 0; i < view.getUint16(56, true); i++) {
    const at = heads + i * 56;
    const [offset, size] = [view.getBigUint64(at + 8, true), view.getBigUint64(at + 32, true)];
    if (view.getUint32(at, true) === 1) end = Math.max(end, size > 0n ? Number(offset + size) : 0);
  }
  view.setBigUint64(40, 0n, true);
  file.fill(0, 58, 64);
  return file.subarray(0, end);
}

async function output(program: string, args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(program, { args, env: { LC_ALL: "C" } })
    .output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}
