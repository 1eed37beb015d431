/** Toolkit images of every kind, made of Debian's packages. */

import { exists, install, run } from "./debian.ts";
import type { Client } from "./engine.ts";
import { fillWithBusybox, importRoot } from "./images.ts";
import { temporaryDirectory } from "../temporary.ts";

const ARCH = Deno.build.arch;
const LIBRARIES = `usr/lib/${ARCH}-linux-gnu`;
const LOADER = ARCH === "x86_64" ? "ld-linux-x86-64.so.2" : "ld-linux-aarch64.so.1";
const STANDARD_PATH = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** Each kind of toolkit: its PATH, what puts one into a root, and a command that only it has, which says hello. */
const TOOLKITS = {
  "static, relative links": {
    path: "ENV PATH=/bin",
    fill: (root: string) => fillWithStatic(root, "busybox"),
    hello: "busybox-toolkit echo hello",
  },
  "static, absolute links": {
    path: "ENV PATH=/bin",
    fill: (root: string) => fillWithStatic(root, "/bin/busybox"),
    hello: "busybox-toolkit echo hello",
  },
  "dynamic, glibc": {
    path: STANDARD_PATH,
    fill: fillWithDebian,
    hello: 'test "$(count)" = 10 && linked true && greet you',
  },
  "dynamic, musl": { path: STANDARD_PATH, fill: fillWithMusl, hello: "greet you" },
  "nix": { path: "ENV PATH=/bin", fill: fillWithNix, hello: "greet you" },
} as const;
export type ToolkitKind = keyof typeof TOOLKITS;
export const TOOLKIT_KINDS = Object.keys(TOOLKITS) as ToolkitKind[];

export function toolkitImage(kind: ToolkitKind): string {
  return `cdebug-test/toolkit-${kind.replace(/\W+/g, "-")}`;
}

/** A command that runs programs which only this toolkit has, and says hello. */
export function helloOf(kind: ToolkitKind): string {
  return TOOLKITS[kind].hello;
}

/** Makes all of them, each in a directory of its own below this one. */
export async function makeToolkits(dir: string): Promise<Readonly<Record<ToolkitKind, string>>> {
  const made: Partial<Record<ToolkitKind, string>> = {};
  for (const kind of TOOLKIT_KINDS) {
    const root = made[kind] = `${dir}/${kind.replace(/\W+/g, "-")}`;
    await Deno.mkdir(root);
    await TOOLKITS[kind].fill(root);
  }
  return made as Record<ToolkitKind, string>;
}

/** Makes all of them once, and imports them into each engine. */
export async function importToolkits(clients: readonly Client[]): Promise<void> {
  const every: Client = async (args) => {
    for (const client of clients) await client(args);
    return "";
  };
  for (const kind of TOOLKIT_KINDS) {
    const { path, fill } = TOOLKITS[kind];
    await importRoot(every, toolkitImage(kind), [path, "CMD sh"], fill);
  }
}

/** A busybox, and a program that no target has. */
async function fillWithStatic(root: string, link: string): Promise<void> {
  await fillWithBusybox(root, link);
  await Deno.symlink(link, `${root}/bin/busybox-toolkit`);
}

/** A Debian root, as far as its packages' files go; its loader's link is absolute, as in the package. */
async function fillWithDebian(root: string): Promise<void> {
  await unpackDebian(root, [...PACKAGES, "python3-minimal", "busybox-static"]);
  await Deno.symlink("dash", `${root}/usr/bin/sh`).catch(() => {}); // the package may have made it
  await Deno.mkdir(`${root}/usr/local/bin`, { recursive: true });
  await Deno.symlink("/usr/bin/env", `${root}/usr/local/bin/linked`);
  await Deno.rename(`${root}/usr/bin/busybox`, `${root}/usr/local/bin/busybox-static`);
  await writeProgram(
    `${root}/usr/local/bin/greet`,
    '#!/bin/bash\necho "hello from bash ${BASH_VERSION%%.*}, $1"\n',
  );
  await writeProgram(`${root}/usr/local/bin/count`, "#!/usr/bin/env python3\nprint(sum(range(5)))\n");
}

const PACKAGES = "bash dash coreutils procps grep sed findutils util-linux".split(" ");

/** Unpacks Debian's packages, and all that they depend on, into a root that has none. */
async function unpackDebian(root: string, names: readonly string[]): Promise<void> {
  await using cache = await temporaryDirectory();
  const archives = `${cache.path}/archives`;
  await Deno.mkdir(`${archives}/partial`, { recursive: true });
  const download = () =>
    run("apt-get", [
      ...["install", "--download-only", "-y", "--no-install-recommends"],
      ...aptOptions({ "Dir::State::status": "/dev/null", "Dir::Cache": cache.path }),
      ...names,
      "usr-is-merged", // its alternative brings perl
    ]);
  await download().catch(async () => {
    // This machine's lists of packages may be missing, or older than what there is to download.
    await run("apt-get", ["update"]);
    await download();
  });
  for (const dir of ["bin", "sbin", "lib", "lib64"]) {
    await Deno.mkdir(`${root}/usr/${dir}`, { recursive: true });
    await Deno.symlink(`usr/${dir}`, `${root}/${dir}`);
  }
  for await (const { name } of Deno.readDir(archives)) {
    if (!name.endsWith(".deb")) continue;
    const unpack =
      'dpkg-deb --fsys-tarfile "$0" | tar -x -C "$1" --keep-directory-symlink --exclude="./usr/share/[dlm]*"';
    await run("sh", ["-c", unpack, `${archives}/${name}`, root]);
  }
}

/** As Alpine: musl's loader, and a dynamic busybox with an absolute link for each of its programs. */
async function fillWithMusl(root: string): Promise<void> {
  await install({ "musl-gcc": "musl-tools", make: "make", bzip2: "bzip2" });
  // What the compiler only recommends: headers for the build's own tools, and the kernel's.
  if (!await exists("/usr/include/stdio.h")) await install({ "libc6-dev": "libc6-dev" });
  await using build = await temporaryDirectory();
  const source = await debianSource("busybox", build.path);
  // musl brings no headers of the kernel's.
  await Deno.mkdir(`${build.path}/headers`);
  for (
    const [name, dir] of [["linux", "linux"], ["asm-generic", "asm-generic"], ["mtd", "mtd"], [
      "asm",
      `${ARCH}-linux-gnu/asm`,
    ]]
  ) {
    await Deno.symlink(`/usr/include/${dir}`, `${build.path}/headers/${name}`);
  }
  const make = (...args: string[]) => run("make", ["-C", source, ...args]);
  await make("allnoconfig");
  const config = await Deno.readTextFile(`${source}/.config`);
  const wanted = new RegExp(`^# CONFIG_(${BUSYBOX_OPTIONS.join("|")}) is not set$`, "gm");
  await Deno.writeTextFile(`${source}/.config`, config.replace(wanted, "CONFIG_$1=y"));
  await run("sh", ["-c", 'yes "" | make -C "$0" oldconfig', source]);
  await make("-j2", "CC=musl-gcc", `CFLAGS=-I${build.path}/headers`, "busybox");
  await Deno.mkdir(`${root}/lib`);
  const loader = `ld-musl-${ARCH}.so.1`;
  await Deno.copyFile(await Deno.realPath(`/lib/${loader}`), `${root}/lib/${loader}`);
  await Deno.chmod(`${root}/lib/${loader}`, 0o755);
  await fillWithBusybox(root, "/bin/busybox", `${source}/busybox`);
  await Deno.mkdir(`${root}/usr/bin`, { recursive: true });
  await Deno.writeTextFile(
    `${build.path}/greet.c`,
    `#include <libgen.h>
#include <stdio.h>
int main(int n, char **args) {
  printf("%s: hello from musl, %s\\n", basename(args[0]), n > 1 ? args[1] : "");
}
`,
  );
  await run("musl-gcc", ["-o", `${root}/usr/bin/greet`, `${build.path}/greet.c`]);
}

// deno-fmt-ignore
const BUSYBOX_OPTIONS = [
  "BUSYBOX", "ASH", "SH_IS_ASH", "ASH_ECHO", "ASH_PRINTF", "ASH_TEST", "ASH_JOB_CONTROL", "FEATURE_SH_MATH", "ASH_CMDCMD",
  "FEATURE_EDITING", "INCLUDE_SUSv2", "NSENTER", "CHROOT", "RMDIR", "FEATURE_FANCY_HEAD",
  "LONG_OPTS", "SHOW_USAGE", "LFS", "LS", "CAT", "ID", "PS", "GREP", "SED", "HEAD", "XARGS",
  "FEATURE_XARGS_SUPPORT_ZERO_TERM", "READLINK", "UNAME", "SLEEP", "FEATURE_FANCY_SLEEP", "STTY", "LN", "RM", "ENV",
  "CHMOD", "MKDIR", "TEST", "TRUE", "WC", "ECHO", "PRINTF", "FIND", "SORT", "KILL",
];

/** As nixery: all is in /nix/store, and knows its way there by absolute names; /bin is a farm of links. */
async function fillWithNix(root: string): Promise<void> {
  await install({ patchelf: "patchelf" });
  await using directory = await temporaryDirectory();
  const debian = `${directory.path}/debian`;
  await Deno.mkdir(debian);
  await unpackDebian(debian, PACKAGES);
  const programs = {
    "bash-5.2": ["bash"],
    "coreutils-9.1": COREUTILS,
    "procps-4.0": ["ps"],
    "gnugrep-3.8": ["grep"],
    "gnused-4.9": ["sed"],
    "findutils-4.9": ["xargs", "find"],
    "util-linux-2.38": ["nsenter", "setpriv"],
  };
  // Of nix's 32 characters: it has no e, o, t, u.
  const store = (name: string) =>
    `/nix/store/${name.replace(/[^0-9a-z]|[eotu]/g, "").repeat(32).slice(0, 32)}-${name}`;
  const glibc = `${store("glibc-2.36")}/lib`;
  const place = async (from: string, to: string) => {
    await Deno.mkdir(`${root}${to.replace(/\/[^/]*$/, "")}`, { recursive: true });
    await Deno.copyFile(from, `${root}${to}`);
  };
  const placed = new Set<string>();
  /** Places the libraries that a file needs, and tells the file where they are. */
  const link = async (file: string) => {
    const dirs = new Set<string>();
    for (const name of (await run("patchelf", ["--print-needed", file])).split("\n").filter(Boolean)) {
      const ofGlibc = /^(ld-linux|libc|libm|libpthread|libdl|librt|libresolv)\b/.test(name);
      const dir = ofGlibc ? glibc : `${store(name.replace(".so.", "-"))}/lib`;
      dirs.add(dir);
      if (placed.has(name)) continue;
      placed.add(name);
      await place(`${debian}/${LIBRARIES}/${name}`, `${dir}/${name}`);
      if (!ofGlibc) await link(`${root}${dir}/${name}`);
    }
    await run("patchelf", ["--set-rpath", [...dirs].join(":"), file]);
    // Some libraries are programs too.
    const program = await run("patchelf", ["--print-interpreter", file]).catch(() => "");
    if (program) await run("patchelf", ["--set-interpreter", `${glibc}/${LOADER}`, file]);
  };
  await place(`${debian}/${LIBRARIES}/${LOADER}`, `${glibc}/${LOADER}`);
  await Deno.mkdir(`${root}/bin`);
  for (const [name, files] of Object.entries(programs)) {
    for (const file of files) {
      const to = `${store(name)}/bin/${file}`;
      await place(`${debian}/usr/bin/${file}`, to);
      await link(`${root}${to}`);
      await Deno.symlink(to, `${root}/bin/${file}`);
    }
  }
  const bash = `${store("bash-5.2")}/bin/bash`;
  await Deno.symlink(bash, `${root}/bin/sh`);
  const greet = `${store("greet-1")}/bin`;
  await Deno.mkdir(`${root}${greet}`, { recursive: true });
  await writeProgram(`${root}${greet}/greet`, `#!${bash}\necho "hello from nix, $1"\n`);
  await Deno.symlink(`${greet}/greet`, `${root}/bin/greet`);
}

// deno-fmt-ignore
const COREUTILS = [
  "basename", "cat", "chmod", "chown", "cp", "cut", "date", "df", "dirname", "du", "echo", "env", "expr", "false", "head",
  "id", "ln", "ls", "mkdir", "mktemp", "mv", "nproc", "od", "printenv", "printf", "pwd", "readlink", "realpath", "rm",
  "rmdir", "seq", "sleep", "sort", "stat", "stty", "sync", "tail", "tee", "test", "touch", "tr", "true", "tty", "uname",
  "uniq", "wc", "whoami",
];

/** Unpacks a package's source below a directory, from where this machine gets its packages, and returns where. */
async function debianSource(name: string, dir: string): Promise<string> {
  const state = `${dir}/apt`;
  await Deno.mkdir(`${state}/lists/partial`, { recursive: true });
  await Deno.mkdir(`${state}/sources`);
  for await (const file of sourceFiles()) {
    const sources = (await Deno.readTextFile(file)).replace(/^deb /gm, "deb-src ").replace(
      /^Types:.*$/gm,
      "Types: deb-src",
    );
    await Deno.writeTextFile(`${state}/sources/${file.replace(/.*\//, "")}`, sources);
  }
  const options = aptOptions({
    "Dir::Etc::SourceList": "/dev/null",
    "Dir::Etc::SourceParts": `${state}/sources`,
    "Dir::State::Lists": `${state}/lists`,
    "Dir::Cache": state,
  });
  await run("apt-get", ["update", ...options]);
  await run("sh", ["-c", 'cd "$0" && apt-get source --download-only "$@"', dir, ...options, name]);
  await run("sh", [
    "-c",
    'cd "$0" && mkdir source && tar -xf *.orig.tar.* -C source --strip-components=1',
    dir,
  ]);
  return `${dir}/source`;
}

/** The files that say where this machine gets its packages; apt reads no others. */
async function* sourceFiles(): AsyncGenerator<string> {
  const [list, parts] = ["/etc/apt/sources.list", "/etc/apt/sources.list.d"];
  if (await exists(list)) yield list;
  if (!await exists(parts)) return;
  for await (const { name } of Deno.readDir(parts)) {
    if (/^[\w.-]+\.(list|sources)$/.test(name)) yield `${parts}/${name}`;
  }
}

/** apt's options, for a download into a directory that only this user can read. */
function aptOptions(options: Readonly<Record<string, string>>): string[] {
  return Object.entries({ ...options, "APT::Sandbox::User": "root" }).flatMap((
    [name, value],
  ) => ["-o", `${name}=${value}`]);
}

async function writeProgram(path: string, text: string): Promise<void> {
  await Deno.writeTextFile(path, text);
  await Deno.chmod(path, 0o755);
}
