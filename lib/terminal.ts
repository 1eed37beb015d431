/** The user's terminal: its size, its raw mode, the keys that detach. */

import type { Size } from "./driver.ts";
import { printable } from "./errors.ts";

const CTRL_P = 0x10;
const CTRL_Q = 0x11;

/** The terminal's size; 24 by 80 where it has none, or there is no terminal. */
export function terminalSize(): Size {
  try {
    const { rows, columns } = Deno.consoleSize();
    if (rows > 0 && columns > 0) return { rows, columns };
  } catch {
    // Neither stdin, stdout nor stderr is a terminal.
  }
  return { rows: 24, columns: 80 };
}

/** Whether somebody is there who can be asked: stdin and stderr are a terminal, and one that knows more than lines. */
export function isInteractive(): boolean {
  return Deno.stdin.isTerminal() && Deno.stderr.isTerminal() && Deno.env.get("TERM") !== "dumb";
}

/** Passes every key on as it is typed, Ctrl-C too, until the returned function is called; it may be called again. */
export function rawMode(): () => void {
  Deno.stdin.setRaw(true);
  let raw = true;
  return () => {
    if (!raw) return;
    raw = false;
    try {
      Deno.stdin.setRaw(false);
    } catch {
      // The terminal has gone away.
    }
  };
}

/** Asks on stderr, and reads a line of the answer; anything but a yes is a no. */
export async function confirm(question: string): Promise<boolean> {
  await Deno.stderr.write(new TextEncoder().encode(`${printable(question)} [y/N] `));
  const answer = new Uint8Array(64);
  const count = await Deno.stdin.read(answer);
  return /^y(es)?$/i.test(new TextDecoder().decode(answer.subarray(0, count ?? 0)).trim());
}

/**
 * Takes ctrl-p, ctrl-q out of what is typed, and calls `detach` for it. A ctrl-p is held back until the next key
 * shows what it is, as docker does.
 */
export function detachKeys(detach: () => void): TransformStream<Uint8Array, Uint8Array> {
  let held = false;
  return new TransformStream({
    transform(chunk, controller) {
      const passed: number[] = [];
      for (const byte of chunk) {
        if (held && byte === CTRL_Q) {
          if (passed.length > 0) controller.enqueue(Uint8Array.from(passed));
          detach();
          controller.terminate();
          return;
        }
        if (held) passed.push(CTRL_P);
        held = byte === CTRL_P;
        if (!held) passed.push(byte);
      }
      if (passed.length > 0) controller.enqueue(Uint8Array.from(passed));
    },
  });
}
