/**
 * Makes executable files without a compiler: static, without a libc, a few hundred bytes. A program is a list of
 * system calls and jumps, the same for each machine; `MACHINES` says how each is encoded.
 */

/** As `uname -m` calls them. */
export type Machine = "x86_64" | "aarch64";

/** One system call, with what becomes of its result; a place to jump to; a jump; a change of the data. */
export type Step =
  | {
    call: keyof typeof CALLS;
    args?: readonly Value[];
    /** Keeps the result, for later calls. */
    keep?: Kept;
    /** Where it goes on if the call fails; without this, with the next step. */
    onError?: string;
  }
  | { label: string }
  | { jump: string }
  /** Four zeros into these bytes, from this index on. */
  | { clear: Uint8Array; at: number };

/**
 * What a call is given: a number; a result that was kept, only as its first argument; the address of these bytes;
 * or that of a list of such addresses, with a zero behind the last.
 */
type Value = number | Kept | Uint8Array | readonly Uint8Array[];

/** The two results that can be kept at a time. */
type Kept = "first" | "second";

/** The numbers of system calls. Source: linux/arch/x86/entry/syscalls/syscall_64.tbl, linux/include/uapi/asm-generic/unistd.h. */
const CALLS = {
  accept: { x86_64: 43, aarch64: 202 },
  bind: { x86_64: 49, aarch64: 200 },
  capget: { x86_64: 125, aarch64: 90 },
  capset: { x86_64: 126, aarch64: 91 },
  close: { x86_64: 3, aarch64: 57 },
  execve: { x86_64: 59, aarch64: 221 },
  exit_group: { x86_64: 231, aarch64: 94 },
  ioctl: { x86_64: 16, aarch64: 29 },
  listen: { x86_64: 50, aarch64: 201 },
  pivot_root: { x86_64: 155, aarch64: 41 },
  ppoll: { x86_64: 271, aarch64: 73 },
  prctl: { x86_64: 157, aarch64: 167 },
  recvfrom: { x86_64: 45, aarch64: 207 },
  rt_sigaction: { x86_64: 13, aarch64: 134 },
  sendto: { x86_64: 44, aarch64: 206 },
  setsockopt: { x86_64: 54, aarch64: 208 },
  shutdown: { x86_64: 48, aarch64: 210 },
  socket: { x86_64: 41, aarch64: 198 },
  umount2: { x86_64: 166, aarch64: 39 },
};

/** How the steps are encoded. Distances are in bytes, from the beginning of the jump. */
interface Encoding {
  /** e_machine in the head of the file. */
  readonly elf: number;
  /** Loads a number of 32 bits as the argument with this index. */
  load(argument: number, value: number): number[];
  /** Loads what was kept as the first argument. */
  loadKept(kept: Kept): number[];
  call(number: number): number[];
  /** Keeps the result of the last call. */
  keep(kept: Kept): number[];
  jump(distance: number): number[];
  /** Jumps if the last call has failed: its result is below zero. */
  jumpOnError(distance: number): number[];
  /** Writes four zeros to this address. */
  clear(address: number): number[];
}

/** Source: Intel SDM volume 2, System V ABI for AMD64 A.2. */
const X86_64: Encoding = {
  elf: 62,
  load: (argument, value) => [
    // mov edi | esi | edx | r10d | r8d | r9d, value
    ...[[0xbf], [0xbe], [0xba], [0x41, 0xba], [0x41, 0xb8], [0x41, 0xb9]][argument]!,
    ...word(value),
  ],
  loadKept: (kept) => kept === "first" ? [0x89, 0xdf] : [0x89, 0xef], // mov edi, ebx | ebp
  call: (number) => [0xb8, ...word(number), 0x0f, 0x05], // mov eax, number; syscall
  keep: (kept) => kept === "first" ? [0x89, 0xc3] : [0x89, 0xc5], // mov ebx | ebp, eax
  jump: (distance) => [0xe9, ...word(distance - 5)], // jmp, counted from its end
  jumpOnError: (distance) => [0x85, 0xc0, 0x0f, 0x88, ...word(distance - 8)], // test eax, eax; js
  clear: (address) => [0xc7, 0x04, 0x25, ...word(address), ...word(0)], // mov dword [address], 0
};

/** Source: Arm Architecture Reference Manual C6.2; syscall(2) for the registers. */
const AARCH64: Encoding = {
  elf: 183,
  load: (argument, value) => [
    ...word(0x52800000 | (value & 0xffff) << 5 | argument), // movz w<argument>, its lower half
    ...word(0x72a00000 | (value >>> 16) << 5 | argument), // movk w<argument>, its upper half, lsl 16
  ],
  loadKept: (kept) => word(0x2a0003e0 | (kept === "first" ? 19 : 20) << 16), // mov w0, w19 | w20
  call: (number) => [...AARCH64.load(8, number), ...word(0xd4000001)], // svc 0
  keep: (kept) => word(0x2a0003e0 | (kept === "first" ? 19 : 20)), // mov w19 | w20, w0
  jump: (distance) => word(0x14000000 | distance >> 2 & 0x3ffffff), // b
  jumpOnError: (distance) => word(0x37f80000 | (distance >> 2 & 0x3fff) << 5), // tbnz w0, bit 31
  clear: (address) => [...AARCH64.load(9, address), ...word(0xb900013f)], // str wzr, [x9]
};

const MACHINES: Readonly<Record<Machine, Encoding>> = { x86_64: X86_64, aarch64: AARCH64 };

/** Where the file is loaded, and the size of its head: one ELF header and one program header. */
const BASE = 0x400000;
const HEAD = 64 + 56;

/** An executable file that does these steps, one after the other. */
export function assemble(machine: Machine, steps: readonly Step[]): Uint8Array<ArrayBuffer> {
  const encoding = MACHINES[machine];
  const addresses = new Map<string | Value, number>();
  const data: Value[] = [];
  const addressOf = (what: string | Value): number => {
    if (typeof what !== "string" && !addresses.has(what)) {
      if (!(what instanceof Uint8Array) && typeof what !== "number") what.forEach(addressOf);
      addresses.set(what, 0);
      data.push(what);
    }
    return addresses.get(what) ?? 0;
  };

  let bytes: number[] = [];
  const here = () => BASE + HEAD + bytes.length;
  // All steps have the same length wherever they jump to: the first time is for the addresses.
  for (let time = 0; time < 2; time++) {
    bytes = [];
    for (const step of steps) {
      if ("label" in step) addresses.set(step.label, here());
      else if ("jump" in step) bytes.push(...encoding.jump(addressOf(step.jump) - here()));
      else if ("clear" in step) bytes.push(...encoding.clear(addressOf(step.clear) + step.at));
      else {
        for (const [index, value] of (step.args ?? []).entries()) {
          if (typeof value === "string") bytes.push(...encoding.loadKept(value));
          else bytes.push(...encoding.load(index, typeof value === "number" ? value : addressOf(value)));
        }
        bytes.push(...encoding.call(CALLS[step.call][machine]));
        if (step.keep) bytes.push(...encoding.keep(step.keep));
        if (step.onError) bytes.push(...encoding.jumpOnError(addressOf(step.onError) - here()));
      }
    }
    for (const value of data) {
      addresses.set(value, here());
      if (value instanceof Uint8Array) bytes.push(...value);
      else {for (const each of [...value as Uint8Array[], 0]) {
          bytes.push(...word(each && addressOf(each)), ...word(0));
        }}
    }
  }
  return executable(encoding.elf, bytes);
}

/** An ELF file of one part, loaded as it is, that starts with its first byte of code. Source: elf(5). */
function executable(machine: number, code: readonly number[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(HEAD + code.length);
  const view = new DataView(bytes.buffer);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 2, true); // executable
  view.setUint16(18, machine, true);
  view.setUint32(20, 1, true);
  view.setBigUint64(24, BigInt(BASE + HEAD), true); // entry
  view.setBigUint64(32, 64n, true); // program headers
  view.setUint16(52, 64, true);
  view.setUint16(54, 56, true);
  view.setUint16(56, 1, true);
  view.setUint32(64, 1, true); // load
  view.setUint32(68, 7, true); // readable, writable, executable: code and data in one
  view.setBigUint64(80, BigInt(BASE), true);
  view.setBigUint64(88, BigInt(BASE), true);
  view.setBigUint64(96, BigInt(bytes.length), true);
  view.setBigUint64(104, BigInt(bytes.length), true);
  view.setBigUint64(112, 0x1000n, true);
  bytes.set(code, HEAD);
  return bytes;
}

/** A number of 32 bits, the lowest byte first. */
export function word(value: number): number[] {
  return [value, value >>> 8, value >>> 16, value >>> 24].map((byte) => byte & 0xff);
}
