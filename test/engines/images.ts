/** The images of the tests and the demo, made here: none is pulled. */

import { install, run } from "./debian.ts";
import type { Client } from "./engine.ts";
import { pauseProgram } from "./programs.ts";

/** An image whose only file is a program. */
export async function importBare(client: Client, image: string): Promise<void> {
  await importRoot(client, image, ["CMD /server"], async (root) => {
    await Deno.writeFile(`${root}/server`, pauseProgram(Deno.build.arch), { mode: 0o755 });
  });
}

/** A toolkit of Debian's busybox-static, with a relative link for each of its programs. */
export async function importToolkit(client: Client, image: string): Promise<void> {
  await importRoot(client, image, ["ENV PATH=/bin:/sbin", "CMD sh"], (root) => fillWithBusybox(root));
}

/** A target with a root filesystem of its own, and these files. */
export async function importOrdinary(
  client: Client,
  image: string,
  files: Readonly<Record<string, string>> = {},
): Promise<void> {
  await importRoot(client, image, ["CMD sleep 1000000"], (root) => fillOrdinary(root, files));
}

/** Puts into a root what most targets have, told apart from the toolkit's by /etc/os-release, and these files. */
export async function fillOrdinary(
  root: string,
  files: Readonly<Record<string, string>> = {},
): Promise<void> {
  await fillWithBusybox(root);
  for (const dir of ["etc", "tmp", "root", "srv", "home/web"]) {
    await Deno.mkdir(`${root}/${dir}`, { recursive: true });
  }
  await Deno.writeTextFile(`${root}/etc/os-release`, "ID=debian\nNAME=ordinary\n");
  await Deno.writeTextFile(
    `${root}/etc/passwd`,
    "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:web:/home/web:/bin/sh\n",
  );
  await Deno.writeTextFile(`${root}/etc/group`, "root:x:0:\nweb:x:102:\nstaff:x:50:web\n");
  await Deno.writeTextFile(`${root}/srv/not-executable`, "");
  for (const [path, text] of Object.entries(files)) {
    await Deno.mkdir(`${root}${path.replace(/[^/]*$/, "")}`, { recursive: true });
    await Deno.writeTextFile(`${root}${path}`, text);
  }
}

/** Puts a busybox into a root, this machine's if no other is named, and for each of its programs a link with this text. */
export async function fillWithBusybox(root: string, link = "busybox", busybox?: string): Promise<void> {
  await install({ busybox: "busybox-static" });
  busybox ??= (await run("sh", ["-c", "command -v busybox"])).trim();
  await Deno.mkdir(`${root}/bin`, { recursive: true });
  await Deno.copyFile(busybox, `${root}/bin/busybox`);
  for (const name of (await run(`${root}/bin/busybox`, ["--list"])).trim().split("\n")) {
    if (name !== "busybox") await Deno.symlink(link, `${root}/bin/${name}`);
  }
}

/** A forwarder of Debian's socat, with the libraries that it is linked to, and busybox for a shell. */
export async function importForwarder(client: Client, image: string): Promise<void> {
  await install({ socat: "socat" });
  await importRoot(client, image, ["ENV PATH=/bin"], async (root) => {
    await fillWithBusybox(root);
    const socat = (await run("sh", ["-c", "command -v socat"])).trim();
    await Deno.copyFile(socat, `${root}/bin/socat`);
    for (const [, library] of (await run("ldd", [socat])).matchAll(/(\/\S+) \(/g)) {
      await Deno.mkdir(`${root}${library!.replace(/[^/]*$/, "")}`, { recursive: true });
      await Deno.copyFile(library!, `${root}${library}`);
    }
  });
}

/** Makes an image of what `fill` puts into a directory, with `changes` as of `docker import -c`. */
export async function importRoot(
  client: Client,
  image: string,
  changes: readonly string[],
  fill: (root: string) => Promise<void>,
): Promise<void> {
  const root = await Deno.makeTempDir({ prefix: "cdebug-image-" });
  const archive = await Deno.makeTempFile({ prefix: "cdebug-image-", suffix: ".tar" });
  try {
    await Deno.chmod(root, 0o755); // a target's user may look into its root
    await fill(root);
    await run("tar", ["-C", root, "--owner=0", "--group=0", "-cf", archive, "."]);
    await client(["import", ...changes.flatMap((change) => ["-c", change]), archive, image]);
  } finally {
    await Deno.remove(root, { recursive: true });
    await Deno.remove(archive);
  }
}
