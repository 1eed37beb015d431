/** The terminal, taken over whole for a while: the keys that are typed, and what is shown. It is read and written as it is. */

import { rawMode, terminalSize } from "./terminal.ts";

/** A key by its name, or the character that it types. */
export type Key = Name | { readonly text: string };
type Name = typeof KEYS[keyof typeof KEYS];

export interface Line {
  /** Without control characters. */
  readonly text: string;
  readonly style?: "bold" | "dim";
}

export interface Screen extends Disposable {
  readonly keys: AsyncIterable<Key>;
  /** Shows lines from the top, cut at the terminal's edges; the cursor stands in the first, at a column from 0. */
  draw(lines: readonly Line[], cursor: number): void;
}

/** What terminals send; `leave` stands for all keys that mean it. Source: xterm, ctlseqs, "PC-Style Function Keys". */
const KEYS = {
  "\r": "enter",
  "\n": "enter",
  "\x7f": "backspace",
  "\b": "backspace",
  "\x15": "clear", // Ctrl-U
  "\x03": "leave", // Ctrl-C
  "\x04": "leave", // Ctrl-D
  "\x1b\x1b": "leave",
  "\x10": "up", // Ctrl-P
  "\x0e": "down", // Ctrl-N
  "\x1b[A": "up",
  "\x1bOA": "up",
  "\x1b[B": "down",
  "\x1bOB": "down",
  "\x1b[5~": "page-up",
  "\x1b[6~": "page-down",
  "\x1b[H": "home",
  "\x1bOH": "home",
  "\x1b[1~": "home",
  "\x1b[F": "end",
  "\x1bOF": "end",
  "\x1b[4~": "end",
} as const;

const ESCAPE = 0x1b;
/** What belongs to an escape follows it at once; over a slow line, within this. */
const ESCAPE_MS = 50;

const STYLES = { bold: "\x1b[1m", dim: "\x1b[2m" };
/** To the terminal's other screen, which has no history, and keeps long lines in their row. */
const ENTER = "\x1b[?1049h\x1b[?7l";
const LEAVE = "\x1b[?7h\x1b[?1049l";

/** Takes the terminal over for reading; it is shown on when it is first drawn on. Disposing gives it back as it was. */
export function openScreen(): Screen {
  const restore = rawMode();
  const encoder = new TextEncoder();
  const write = (text: string) => {
    try {
      Deno.stderr.writeSync(encoder.encode(text));
    } catch {
      // The terminal has gone away.
    }
  };
  let drawn = false;
  return {
    keys: readKeys(readByte),
    draw(lines, cursor) {
      const { rows } = terminalSize();
      const shown = Array.from({ length: rows }, (_, row) => {
        const { text, style } = lines[row] ?? { text: "" };
        return `\x1b[${row + 1}H\x1b[2K${style ? `${STYLES[style]}${text}\x1b[m` : text}`;
      });
      write(`${drawn ? "" : ENTER}\x1b[?25l${shown.join("")}\x1b[1;${cursor + 1}H\x1b[?25h`);
      drawn = true;
    },
    [Symbol.dispose]() {
      if (drawn) write(LEAVE);
      drawn = false;
      restore();
    },
  };
}

/** The next byte of stdin, and not one more: what is typed after the last key belongs to whoever reads next. */
async function readByte(): Promise<number | undefined> {
  const byte = new Uint8Array(1);
  return await Deno.stdin.read(byte) === null ? undefined : byte[0]!;
}

/** The keys that bytes of a terminal in raw mode stand for; a byte is asked for when a key is. Unknown ones are left out. */
export async function* readKeys(read: () => Promise<number | undefined>): AsyncGenerator<Key> {
  const decoder = new TextDecoder();
  let early: Promise<number | undefined> | undefined;
  const next = () => {
    const byte = early ?? read();
    early = undefined;
    return byte;
  };
  for (let byte; (byte = await next()) !== undefined;) {
    if (byte !== ESCAPE) {
      const text = decoder.decode(Uint8Array.of(byte), { stream: true });
      if (isKey(text)) yield KEYS[text];
      else if (text >= " ") yield { text };
      continue;
    }
    early = read();
    if (!await arrives(early)) {
      yield "leave";
      continue;
    }
    let sequence = "\x1b";
    // deno-lint-ignore no-control-regex -- that is what they are made of
    while (/^\x1b(\[[0-?]*[ -/]*|O)?$/.test(sequence)) {
      const more = await next();
      if (more === undefined) return;
      sequence += String.fromCharCode(more);
    }
    if (isKey(sequence)) yield KEYS[sequence];
  }
}

function isKey(text: string): text is keyof typeof KEYS {
  return Object.hasOwn(KEYS, text);
}

async function arrives(byte: Promise<unknown>): Promise<boolean> {
  let timer;
  const late = new Promise<boolean>((resolve) => timer = setTimeout(resolve, ESCAPE_MS, false));
  try {
    return await Promise.race([byte.then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
}
