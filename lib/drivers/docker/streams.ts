/** Joins the engine's streams to a session's, with back-pressure and without copies. */

import type { Streams } from "../../driver.ts";
import type { Hijacked } from "./api.ts";

const READ_SIZE = 64 * 1024;
/** Each chunk of a stream without a terminal has a head of this size. Source: Engine API, "Attach", "Stream format". */
const FRAME_HEAD = 8;

/** Joins a hijacked connection to streams. `ended` resolves when all output has been taken. */
export function join(
  connection: Hijacked,
  streams: Streams,
  tty: boolean,
): { readonly ended: Promise<void>; release(): void } {
  const drop = () => Promise.resolve();
  const { stdin, stdout = drop, stderr = drop } = streams;
  const input = stdin?.getReader();
  let released = false;
  let closed = false;
  const close = () => {
    if (!closed) connection.close();
    closed = true;
  };
  const sending = (async () => {
    if (!input) return;
    try {
      for (let next; !(next = await input.read()).done;) await connection.write(next.value);
      await connection.closeWrite();
    } catch {
      // The other side has ended; how, its exit code tells.
    }
  })();
  const ended = (async () => {
    try {
      if (tty) await copy(connection, stdout);
      else await demultiplex(connection, stdout, stderr);
    } catch (error) {
      if (!released) throw error;
    } finally {
      await input?.cancel().catch(() => {});
      close();
      await sending;
    }
  })();
  return {
    ended,
    release() {
      released = true;
      close();
      // Nobody waits for the end of what was let go.
      ended.catch(() => {});
    },
  };
}

async function copy(from: Hijacked, to: (chunk: Uint8Array) => Promise<void>): Promise<void> {
  const buffer = new Uint8Array(READ_SIZE);
  for (let count; (count = await from.read(buffer)) !== null;) await to(buffer.subarray(0, count));
}

/**
 * Parts stdout from stderr. A frame is passed on in the pieces in which it arrives, without being put together.
 */
async function demultiplex(
  from: Hijacked,
  stdout: (chunk: Uint8Array) => Promise<void>,
  stderr: (chunk: Uint8Array) => Promise<void>,
): Promise<void> {
  const buffer = new Uint8Array(READ_SIZE);
  const head = new Uint8Array(FRAME_HEAD);
  let headFilled = 0;
  let left = 0;
  for (let count; (count = await from.read(buffer)) !== null;) {
    for (let at = 0; at < count;) {
      if (left === 0) {
        const taken = Math.min(FRAME_HEAD - headFilled, count - at);
        head.set(buffer.subarray(at, at + taken), headFilled);
        headFilled += taken;
        at += taken;
        if (headFilled < FRAME_HEAD) continue;
        headFilled = 0;
        left = new DataView(head.buffer).getUint32(4);
      } else {
        const taken = Math.min(left, count - at);
        await (head[0] === 2 ? stderr : stdout)(buffer.subarray(at, at + taken));
        at += taken;
        left -= taken;
      }
    }
  }
}
