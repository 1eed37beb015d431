/** Child processes, their streams and what they say before they are ready. */

import { letGo } from "../../chunk.ts";
import type { Streams } from "../../driver.ts";
import { CdebugError, reason } from "../../errors.ts";
import { SEARCH_PATH } from "./tools.ts";

/** A process has ended, or closed its stderr, before it was ready; the message is what it said. */
export class NotReady extends Error {}

type Reader = ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>;

/** Starts a process with PATH and the given variables only; its stderr is always piped. */
export function spawn(
  [program, ...args]: readonly string[],
  { env, stdin, stdout, detached }: {
    readonly env: Readonly<Record<string, string>>;
    readonly stdin: "piped" | "null" | "inherit";
    readonly stdout: "piped" | "null" | "inherit";
    /** In a session of its own, out of reach of the terminal's keys. */
    readonly detached: boolean;
  },
): Deno.ChildProcess {
  try {
    return new Deno.Command(program!, {
      args,
      env: { PATH: SEARCH_PATH, ...env },
      clearEnv: true,
      cwd: "/",
      stdin,
      stdout,
      stderr: "piped",
      detached,
    }).spawn();
  } catch (error) {
    if (!/os error 7\b|Argument list too long/.test(reason(error))) throw error;
    throw new CdebugError(
      "Cannot start the sidecar: the command, or its variables, are longer than the kernel passes on",
      { hint: "a file instead: -v, or -i and its contents on stdin", cause: error },
    );
  }
}

/** Kills a process; one that has ended is no error. */
export function kill(child: Deno.ChildProcess): void {
  try {
    child.kill("SIGKILL");
  } catch {
    // It has ended.
  }
}

/** Waits for a NUL, and returns what came behind it. Throws NotReady if the stream ends before. */
export async function readiness(errors: Reader): Promise<Uint8Array> {
  let said = "";
  for (let next; !(next = await errors.read()).done;) {
    const at = next.value.indexOf(0);
    if (at >= 0) return next.value.subarray(at + 1);
    said += new TextDecoder().decode(next.value);
  }
  throw new NotReady(reason(said));
}

/** Joins a process to streams; `early` is what has been read of its stderr. Resolves when all output has been taken. */
export async function join(
  child: Deno.ChildProcess,
  errors: Reader,
  early: Uint8Array,
  { stdin, stdout, stderr, inherit = false }: Streams,
): Promise<Deno.CommandStatus> {
  const input = stdin && !inherit ? stdin.getReader() : undefined;
  const sending = (async () => {
    if (!input) return;
    const writer = child.stdin.getWriter();
    try {
      for (let next; !(next = await input.read()).done;) await writer.write(next.value);
      await writer.close();
    } catch {
      // The other side has ended; how, its exit code tells.
      await writer.abort().catch(() => {});
    }
  })();
  const take = async (reader: Reader, sink: Streams["stdout"]) => {
    for (let next; !(next = await reader.read()).done;) {
      await sink?.(next.value);
      letGo(next.value);
    }
  };
  try {
    const [status] = await Promise.all([
      child.status,
      stdout && !inherit && take(child.stdout.getReader(), stdout),
      (async () => {
        if (early.length > 0) await stderr?.(early);
        await take(errors, stderr);
      })(),
    ]);
    return status;
  } finally {
    await input?.cancel().catch(() => {});
    await sending;
  }
}
