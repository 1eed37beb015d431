/**
 * Calls of the kernel that the runtime has not, through libc: all relative to an open directory, so that nothing that
 * happens to a path meanwhile leads elsewhere. Names are byte strings, as lib/tar.ts has them. Linux only.
 *
 * Source: man 2 of each call; the numbers are of asm-generic/fcntl.h, which x86 and arm64 part with as told below.
 */

import { CdebugError, reason } from "./errors.ts";
import type { Time } from "./tar.ts";

/** A call has failed; `code` is the error's name, as in `ENOENT`. */
export class SyscallError extends Error {
  readonly code: string;

  constructor(call: string, errno: number) {
    const code = ERRORS[errno]?.[0] ?? `E${errno}`;
    super(`${ERRORS[errno]?.[1] ?? `error ${errno}`} (${call})`);
    this.code = code;
  }
}

/** Source: errno(3), asm-generic/errno-base.h and errno.h. */
const ERRORS: Readonly<Record<number, readonly [string, string]>> = {
  1: ["EPERM", "Operation not permitted"],
  2: ["ENOENT", "No such file or directory"],
  5: ["EIO", "Input/output error"],
  7: ["E2BIG", "Argument list too long"],
  12: ["ENOMEM", "Out of memory"],
  13: ["EACCES", "Permission denied"],
  16: ["EBUSY", "Device or resource busy"],
  17: ["EEXIST", "File exists"],
  18: ["EXDEV", "Not on the same file system"],
  20: ["ENOTDIR", "Not a directory"],
  21: ["EISDIR", "Is a directory"],
  22: ["EINVAL", "Invalid argument"],
  23: ["ENFILE", "Too many open files in the system"],
  24: ["EMFILE", "Too many open files"],
  27: ["EFBIG", "File too large"],
  28: ["ENOSPC", "No space left on device"],
  30: ["EROFS", "Read-only file system"],
  31: ["EMLINK", "Too many links"],
  34: ["ERANGE", "Result too large"],
  36: ["ENAMETOOLONG", "File name too long"],
  39: ["ENOTEMPTY", "Directory not empty"],
  40: ["ELOOP", "It is a symbolic link"],
  95: ["EOPNOTSUPP", "Not supported by the file system"],
  116: ["ESTALE", "The file is gone from its server"],
  122: ["EDQUOT", "Disk quota exceeded"],
};

const ARM = Deno.build.arch === "aarch64";
/** Flags of openat(2). */
export const O = {
  WRONLY: 0o1,
  CREAT: 0o100,
  EXCL: 0o200,
  DIRECTORY: ARM ? 0o40000 : 0o200000,
  NOFOLLOW: ARM ? 0o100000 : 0o400000,
  CLOEXEC: 0o2000000,
  PATH: 0o10000000,
} as const;
/** Of openat2(2): nothing leads out of the directory that it begins at. Source: linux/openat2.h; the number is one on all. */
const RESOLVE_IN_ROOT = 0x10;
const SYS_openat2 = 437;
const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;
const AT_REMOVEDIR = 0x200;

/** File types of mknod(2). */
export const S = { CHARACTER: 0o020000, BLOCK: 0o060000, FIFO: 0o010000 } as const;

const SYMBOLS = {
  openat: { parameters: ["i32", "buffer", "i32", "u32"], result: "i32" },
  syscall: { parameters: ["i64", "i64", "buffer", "buffer", "usize"], result: "i64" },
  close: { parameters: ["i32"], result: "i32" },
  mkdirat: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  symlinkat: { parameters: ["buffer", "i32", "buffer"], result: "i32" },
  linkat: { parameters: ["i32", "buffer", "i32", "buffer", "i32"], result: "i32" },
  mknodat: { parameters: ["i32", "buffer", "u32", "u64"], result: "i32" },
  unlinkat: { parameters: ["i32", "buffer", "i32"], result: "i32" },
  fchown: { parameters: ["i32", "u32", "u32"], result: "i32" },
  fchownat: { parameters: ["i32", "buffer", "u32", "u32", "i32"], result: "i32" },
  fchmod: { parameters: ["i32", "u32"], result: "i32" },
  chmod: { parameters: ["buffer", "u32"], result: "i32" },
  futimens: { parameters: ["i32", "buffer"], result: "i32" },
  utimensat: { parameters: ["i32", "buffer", "buffer", "i32"], result: "i32" },
  fsetxattr: { parameters: ["i32", "buffer", "buffer", "usize", "i32"], result: "i32" },
  lsetxattr: { parameters: ["buffer", "buffer", "buffer", "usize", "i32"], result: "i32" },
  write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  pwrite: { parameters: ["i32", "buffer", "usize", "i64"], result: "isize" },
  ftruncate: { parameters: ["i32", "i64"], result: "i32" },
  __errno_location: { parameters: [], result: "pointer" },
} as const;

let opened: Deno.DynamicLibrary<typeof SYMBOLS> | undefined;

function libc() {
  try {
    return (opened ??= Deno.dlopen("libc.so.6", SYMBOLS)).symbols;
  } catch (error) {
    throw new CdebugError(
      `Cannot handle files as they are: the C library cannot be called: ${reason(error)}`,
      {
        hint: "-o FILE.tar, and tar -x where it can be",
        cause: error,
      },
    );
  }
}

/** The bytes of a byte string, and a NUL. */
function c(text: string): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(text.length + 1);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return bytes;
}

function check(call: string, result: number | bigint): number {
  if (result >= 0) return Number(result);
  throw new SyscallError(call, new Deno.UnsafePointerView(libc().__errno_location()!).getInt32());
}

/** Opens a file of a directory, which is never a symlink's; without `at`, of any directory by its whole path. */
export function open(at: number | undefined, name: string, flags: number, mode = 0): number {
  return check("open", libc().openat(at ?? AT_FDCWD, c(name), flags | O.NOFOLLOW | O.CLOEXEC, mode));
}

/**
 * Opens a directory for what is in it: the one at `path` where `root`, a path too, is the root directory. Links are
 * followed as they are there.
 */
export function openInRoot(root: string, path: string): number {
  const flags = O.PATH | O.DIRECTORY | O.CLOEXEC;
  const { syscall } = libc();
  const at = open(undefined, `${root}/.`, flags);
  try {
    const how = new Uint8Array(new BigUint64Array([BigInt(flags), 0n, BigInt(RESOLVE_IN_ROOT)]).buffer);
    const call = syscall(BigInt(SYS_openat2), BigInt(at), c(path), how, BigInt(how.length));
    return check("open", call);
  } finally {
    close(at);
  }
}

export function close(fd: number): void {
  libc().close(fd);
}

export function makeDirectory(at: number, name: string, mode: number): void {
  check("mkdir", libc().mkdirat(at, c(name), mode));
}

export function makeSymlink(target: string, at: number, name: string): void {
  check("symlink", libc().symlinkat(c(target), at, c(name)));
}

/** A hard link; of a symlink it is one to the symlink itself. */
export function makeLink(fromAt: number, from: string, at: number, name: string): void {
  check("link", libc().linkat(fromAt, c(from), at, c(name), 0));
}

/** A device or a FIFO; `mode` has the type of `S`. Source: gnu_dev_makedev() of glibc. */
export function makeNode(at: number, name: string, mode: number, major: number, minor: number): void {
  const [high, low] = [BigInt(major), BigInt(minor)];
  const device = ((high & 0xfffff000n) << 32n) | ((high & 0xfffn) << 8n) | ((low & 0xffffff00n) << 12n) |
    (low & 0xffn);
  check("mknod", libc().mknodat(at, c(name), mode, device));
}

export function remove(at: number, name: string, directory: boolean): void {
  check("unlink", libc().unlinkat(at, c(name), directory ? AT_REMOVEDIR : 0));
}

export function setOwner(fd: number, uid: number, gid: number): void {
  check("chown", libc().fchown(fd, uid, gid));
}

/** As `setOwner`, for what is no regular file. */
export function setOwnerAt(at: number, name: string, uid: number, gid: number): void {
  check("chown", libc().fchownat(at, c(name), uid, gid, AT_SYMLINK_NOFOLLOW));
}

export function setMode(fd: number, mode: number): void {
  check("chmod", libc().fchmod(fd, mode));
}

/** As `setMode`, for what is opened by O.PATH only. */
export function setModeOfPath(fd: number, mode: number): void {
  check("chmod", libc().chmod(c(`/proc/self/fd/${fd}`), mode));
}

export function setTime(fd: number, time: Time): void {
  check("utimens", libc().futimens(fd, timespecs(time)));
}

export function setTimeAt(at: number, name: string, time: Time): void {
  check("utimens", libc().utimensat(at, c(name), timespecs(time), AT_SYMLINK_NOFOLLOW));
}

/** When it was read last, and when it was written last: the same. */
function timespecs({ seconds, nanoseconds }: Time): Uint8Array<ArrayBuffer> {
  const pair = new BigInt64Array([
    BigInt(seconds),
    BigInt(nanoseconds),
    BigInt(seconds),
    BigInt(nanoseconds),
  ]);
  return new Uint8Array(pair.buffer);
}

export function setAttribute(fd: number, name: string, value: string): void {
  check("setxattr", libc().fsetxattr(fd, c(name), c(value), BigInt(value.length), 0));
}

/** As `setAttribute`, for what is no regular file and no directory. */
export function setAttributeAt(at: number, file: string, name: string, value: string): void {
  const path = c(`/proc/self/fd/${at}/${file}`);
  check("setxattr", libc().lsetxattr(path, c(name), c(value), BigInt(value.length), 0));
}

/** Writes all of it. */
export function writeAll(fd: number, bytes: Uint8Array<ArrayBuffer>): void {
  const { write } = libc();
  for (let done = 0; done < bytes.length;) {
    done += check("write", write(fd, bytes.subarray(done), BigInt(bytes.length - done)));
  }
}

/** The same, from an offset on. */
export function writeAllAt(fd: number, bytes: Uint8Array<ArrayBuffer>, offset: number): void {
  const { pwrite } = libc();
  for (let done = 0; done < bytes.length;) {
    const rest = bytes.subarray(done);
    done += check("write", pwrite(fd, rest, BigInt(rest.length), BigInt(offset + done)));
  }
}

export function setSize(fd: number, size: number): void {
  check("truncate", libc().ftruncate(fd, BigInt(size)));
}
