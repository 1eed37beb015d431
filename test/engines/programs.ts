/** The programs of the targets, assembled here. */

import { assemble, type Machine, type Step, word } from "./elf.ts";

/** A string as C has it. */
function text(string: string): Uint8Array {
  return new TextEncoder().encode(`${string}\0`);
}

/** Does nothing until it is killed: the smallest target there can be. */
export function pauseProgram(machine: Machine): Uint8Array<ArrayBuffer> {
  return assemble(machine, [
    { label: "again" },
    { call: "ppoll", args: [0, 0, 0, 0, 0] },
    { jump: "again" },
  ]);
}

// Source of the numbers below: linux/include/uapi/{asm-generic,linux}, the same for both machines.
const AF_INET = 2;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const SO_RCVTIMEO = 20;
const SHUT_WR = 1;
const MSG_TRUNC = 0x20;
const MSG_NOSIGNAL = 0x4000;
const SIGCHLD = 17;

/** What the server answers. */
export const ANSWER = "hello\n";

/**
 * A server that answers each HTTP request with `hello`, one after the other. It can be PID 1: it does nothing about
 * signals, and orphans leave no zombies. Exits with 1 if it cannot listen at this IPv4 address.
 */
export function serverProgram(
  machine: Machine,
  { hostname = "0.0.0.0", port = 8080 }: { hostname?: string; port?: number } = {},
): Uint8Array<ArrayBuffer> {
  const address = new Uint8Array(16); // struct sockaddr_in
  address.set([AF_INET, 0, port >>> 8, port & 0xff, ...hostname.split(".").map(Number)]);
  const one = new Uint8Array([1, 0, 0, 0]);
  const fiveSeconds = new Uint8Array(16); // struct timeval
  fiveSeconds[0] = 5;
  const ignore = new Uint8Array(32); // the kernel's struct sigaction: SIG_IGN, no flags, no mask
  ignore[0] = 1;
  const head = `HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: ${ANSWER.length}\r\n\r\n`;
  const answer = new TextEncoder().encode(head + ANSWER);
  return assemble(machine, [
    { call: "rt_sigaction", args: [SIGCHLD, ignore, 0, 8] }, // who ignores it need not wait for children
    { call: "socket", args: [AF_INET, SOCK_STREAM, 0], keep: "first", onError: "exit" },
    { call: "setsockopt", args: ["first", SOL_SOCKET, SO_REUSEADDR, one, one.length] },
    { call: "bind", args: ["first", address, address.length], onError: "exit" },
    { call: "listen", args: ["first", 128], onError: "exit" },

    { label: "next" },
    { call: "accept", args: ["first", 0, 0], keep: "second", onError: "next" },
    // A client that says nothing, or never ends, does not keep the others waiting for long.
    { call: "setsockopt", args: ["second", SOL_SOCKET, SO_RCVTIMEO, fiveSeconds, fiveSeconds.length] },
    // MSG_TRUNC: the request is thrown away unread, see tcp(7).
    { call: "recvfrom", args: ["second", 0, 65536, MSG_TRUNC, 0, 0] },
    { call: "sendto", args: ["second", answer, answer.length, MSG_NOSIGNAL, 0, 0] },
    { call: "shutdown", args: ["second", SHUT_WR] },
    { call: "recvfrom", args: ["second", 0, 65536, MSG_TRUNC, 0, 0] }, // its end
    { call: "close", args: ["second"] },
    { jump: "next" },

    { label: "exit" },
    { call: "exit_group", args: [1] },
  ]);
}

const SOCK_CLOEXEC = 0o2000000;
const SIOCSIFFLAGS = 0x8914;
const IFF_UP = 1;
const MNT_DETACH = 2;
const PR_SET_PDEATHSIG = 1;
const SIGKILL = 9;
const PR_CAP_AMBIENT = 47;
const PR_CAP_AMBIENT_CLEAR_ALL = 4;
const LINUX_CAPABILITY_VERSION_3 = 0x20080522;

/**
 * Makes the working directory the root, lets go of the old one, and becomes `argv`: what is to be done when none of
 * the host's tools can be found any more. Wants CAP_SYS_ADMIN, CAP_NET_ADMIN for `loopback`, and passes on neither
 * them nor any other Linux capability that is inheritable or ambient. Dies with its parent. Exits with 1 if the root
 * cannot be changed, with 127 if there is no such program.
 */
export function enterProgram(
  machine: Machine,
  argv: readonly string[],
  { env = {}, loopback = false }: { env?: Readonly<Record<string, string>>; loopback?: boolean } = {},
): Uint8Array<ArrayBuffer> {
  const dot = text(".");
  const lo = new Uint8Array(40); // struct ifreq
  lo.set(text("lo"));
  lo[16] = IFF_UP;
  const capabilitiesOfSelf = new Uint8Array([...word(LINUX_CAPABILITY_VERSION_3), ...word(0)]);
  // Two times the same, for 32 capabilities each: effective, permitted, inheritable.
  const capabilities = new Uint8Array(24);
  const args = argv.map(text);
  const environment = Object.entries(env).map(([name, value]) => text(`${name}=${value}`));
  const up: Step[] = [
    { call: "socket", args: [AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0], keep: "first", onError: "exit" },
    { call: "ioctl", args: ["first", SIOCSIFFLAGS, lo], onError: "exit" },
  ];
  return assemble(machine, [
    ...loopback ? up : [],
    // Both on each other: see pivot_root(2).
    { call: "pivot_root", args: [dot, dot], onError: "exit" },
    { call: "umount2", args: [dot, MNT_DETACH], onError: "exit" },
    { call: "prctl", args: [PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0] },
    { call: "capget", args: [capabilitiesOfSelf, capabilities], onError: "exit" },
    { clear: capabilities, at: 8 },
    { clear: capabilities, at: 20 },
    { call: "capset", args: [capabilitiesOfSelf, capabilities], onError: "exit" },
    // Last: who gains capabilities loses it. For the same reason, those that root gets again are not given up here.
    { call: "prctl", args: [PR_SET_PDEATHSIG, SIGKILL] },
    { call: "execve", args: [args[0]!, args, environment] },
    { call: "exit_group", args: [127] },
    { label: "exit" },
    { call: "exit_group", args: [1] },
  ]);
}
