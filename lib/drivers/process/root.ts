/** What a sidecar's root filesystem is put together from: the toolkit, and what every Linux program expects. */

import { CdebugError } from "../../errors.ts";
import type { Sidecar } from "../../plan.ts";
import { readMounts } from "./proc.ts";
import { SEARCH_PATH } from "./tools.ts";

/** A root filesystem, as the script wants it. */
export interface Layout {
  /** Where it is made. */
  readonly root: string;
  /** The toolkit's PATH. */
  readonly path: string;
  /** What is mounted, as fstab(5). */
  readonly fstab: string;
  /** Directories and files to mount on, one a line. */
  readonly directories: string;
  readonly files: string;
  /** Symbolic links, and where they lead, a pair a line. */
  readonly links: string;
  /** How hosts are called in the network that it shares: the target's own files, as text. */
  readonly names: Readonly<Record<"CDEBUG_HOSTS" | "CDEBUG_RESOLV_CONF", string>>;
  /** Where the toolkit is on this machine. */
  readonly origin: string;
}

/** The namespaces that decide what may be mounted. */
export interface Surroundings {
  /** Whom the kernel takes its root for, where the sidecar is in a user namespace other than cdebug's. */
  readonly root?: number | undefined;
  /** Its processes are in a PID namespace other than cdebug's. */
  readonly ownPid: boolean;
  /** The process whose network it shares. */
  readonly target: number;
}

/** This machine's own programs. */
const HOST = "host";
/** An unpacked root filesystem: `dir:/PATH`. */
const DIR = /^dir:(\/.*)$/s;

const DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** Where machines keep programs and their libraries. What belongs to people, /etc, /home, /root, the target may not see. */
const PROGRAMS = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/gnu"];
/** How those find each other: update-alternatives(1), ld.so(8), musl's dynlink.c. */
const SETTINGS = ["/etc/alternatives", "/etc/ld.so.conf", "/etc/ld.so.conf.d"];
const MUSL_SETTINGS = /^ld-musl-.*\.path$/;

const DEVICES = ["null", "zero", "full", "random", "urandom", "tty"].map((name) => `/dev/${name}`);

/** The root filesystem of a spec. Throws CdebugError where the toolkit, or a mount's source, is not there. */
export function layOut({ image, mounts = [], tmpfs = [] }: Sidecar, around: Surroundings): Layout {
  const dir = DIR.exec(image)?.[1]?.replace(/(?<=.)\/+$/, "");
  if (dir !== undefined && !isDirectory(dir)) {
    throw new CdebugError(`Cannot start the toolkit "${image}": there is no such directory`, {
      hint:
        "--image dir:/PATH, of an unpacked root filesystem, or leave out --image for this machine's own programs",
    });
  }
  const root = dir === undefined ? "/sys" : "/sys/root";
  const path = dir === undefined ? SEARCH_PATH : DEFAULT_PATH;
  const lines: string[] = [];
  const mount = (source: string, at: string, type: string, options: string) => {
    if (!files.includes(at)) directories.push(at);
    lines.push(`${escape(source)} ${escape(root + at)} ${type} ${options} 0 0`);
  };
  const directories: string[] = [];
  const files = DEVICES.filter((device) => kindOf(device) === "other");
  const links: string[] = [];
  // A user namespace of its own takes mounts only as whole trees, whose files are not its root's to change.
  const isolated = around.root !== undefined;
  const bindings = isolated ? () => "rbind" : (readOnly: boolean) => readOnly ? "bind,ro" : "bind";

  if (dir === undefined) {
    const elsewhere = SEARCH_PATH.split(":").filter((entry) =>
      !PROGRAMS.some((above) => `${entry}/`.startsWith(`${above}/`)) &&
      (around.root === undefined || isOpenTo(around.root, entry))
    );
    const inside = isolated ? [] : readMounts("self").filter(({ type }) => type !== "autofs");
    for (const entry of [...PROGRAMS, ...SETTINGS, ...muslSettings(), ...new Set(elsewhere)]) {
      switch (kindOf(entry)) {
        case "link":
          if (PROGRAMS.includes(entry)) {
            links.push(`${entry} ${Deno.readLinkSync(entry)}`);
            break;
          }
          // falls through
        case "directory":
          if (!isDirectory(entry)) break;
          for (
            const at of [
              entry,
              ...inside.map(({ path }) => path).filter((path) => path.startsWith(`${entry}/`)),
            ]
          ) {
            mount(at, at, "none", `${bindings(true)}`);
          }
          break;
        case "file":
          files.push(entry);
          mount(entry, entry, "none", bindings(true));
      }
    }
  } else {
    lines.push(
      `${escape(dir)} /sys/lower none ${bindings(false)} 0 0`,
      `overlay /sys/root overlay lowerdir=/sys/lower,upperdir=/sys/upper,workdir=/sys/work${
        isolated ? ",userxattr" : ""
      } 0 0`,
    );
  }
  for (const device of DEVICES) {
    if (files.includes(device)) mount(device, device, "none", isolated ? "rbind" : "bind");
  }
  if (isolated && !around.ownPid) mount("/proc", "/proc", "none", "rbind");
  else mount("proc", "/proc", "proc", "defaults");
  for (const at of tmpfs) mount("cdebug", at, "tmpfs", "mode=755");
  for (const { source, destination, readOnly } of mounts) {
    const kind = source.startsWith("/") ? kindOf(source) : "volume";
    if (kind === "volume" || kind === undefined) {
      throw new CdebugError(
        `Cannot mount "${source}": ${
          kind === "volume"
            ? "volumes are an engine's, and there is none"
            : "there is no such file or directory"
        }`,
        { hint: "-v /SOURCE:/DIR, with a path of this machine" },
      );
    }
    const above = dir === undefined &&
      PROGRAMS.find((program) => `${destination}/`.startsWith(`${program}/`));
    if (above) {
      throw new CdebugError(
        `Cannot mount "${source}" at "${destination}": ${above} is this machine's own there`,
        {
          hint: `-v ${source}:/mnt, or another directory that is no program's`,
        },
      );
    }
    if (isDirectory(source)) mount(source, destination, "none", `${bindings(readOnly)}`);
    else {
      files.push(destination);
      mount(source, destination, "none", bindings(readOnly));
    }
  }
  return {
    root,
    path,
    fstab: lines.map((line) => `${line}\n`).join(""),
    directories: directories.map((directory) => `${directory}\n`).join(""),
    files: files.map((file) => `${file}\n`).join(""),
    links: links.map((link) => `${link}\n`).join(""),
    names: {
      CDEBUG_HOSTS: readText(`/proc/${around.target}/root/etc/hosts`),
      CDEBUG_RESOLV_CONF: readText(`/proc/${around.target}/root/etc/resolv.conf`),
    },
    origin: dir ?? "/",
  };
}

/** As much as names take; a target may have anything there. */
function readText(path: string): string {
  try {
    return Deno.statSync(path).size > 16384 ? "" : Deno.readTextFileSync(path);
  } catch {
    return "";
  }
}

/** Whether a toolkit has a program, by its path, or its name on the toolkit's PATH. */
export function hasProgram({ origin, path }: Pick<Layout, "origin" | "path">, program: string): boolean {
  const places = program.includes("/") ? [program] : path.split(":").map((dir) => `${dir}/${program}`);
  return places.some((place) => {
    const kind = kindOf(origin === "/" ? place : `${origin}${place}`);
    return kind === "file" || kind === "link"; // where a link leads, the toolkit's own root tells
  });
}

/** Whether a toolkit is an image, and not this machine's own programs or a directory. */
export function isImage(toolkit: string): boolean {
  return toolkit !== HOST && !DIR.test(toolkit);
}

/** Whether an image is a toolkit that is there. */
export function hasToolkit(image: string): boolean {
  const dir = DIR.exec(image)?.[1];
  return image === HOST || (dir !== undefined && isDirectory(dir));
}

function muslSettings(): string[] {
  try {
    return [...Deno.readDirSync("/etc")].map(({ name }) => name).filter((name) => MUSL_SETTINGS.test(name))
      .map((name) => `/etc/${name}`);
  } catch {
    return [];
  }
}

function kindOf(path: string): "directory" | "file" | "link" | "other" | undefined {
  try {
    const { isDirectory, isFile, isSymlink } = Deno.lstatSync(path);
    return isSymlink ? "link" : isDirectory ? "directory" : isFile ? "file" : "other";
  } catch {
    return undefined;
  }
}

function isDirectory(path: string): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch {
    return false;
  }
}

/** Whether a user who is in none of the groups may reach a directory. */
function isOpenTo(user: number, path: string): boolean {
  const above = path.split("/").map((_, depth, names) => names.slice(0, depth + 1).join("/") || "/");
  try {
    return above.every((dir) => {
      const { mode, uid } = Deno.statSync(dir);
      return (mode! & (uid === user ? 0o100 : 0o001)) !== 0;
    });
  } catch {
    return false;
  }
}

/** Source: fstab(5). */
function escape(text: string): string {
  return text.replace(/[\s\\#]/g, (char) => `\\${char.charCodeAt(0).toString(8).padStart(3, "0")}`);
}
