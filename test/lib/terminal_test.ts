import { assertEquals } from "../assert.ts";
import { detachKeys } from "../../lib/terminal.ts";

const pure = { permissions: "none" } as const;

/** What comes out for chunks of typed bytes, and whether the keys detached. */
async function typed(...chunks: number[][]): Promise<{ passed: number[]; detached: boolean }> {
  let detached = false;
  const input = new ReadableStream<Uint8Array>({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(Uint8Array.from(chunk));
      controller.close();
    },
  });
  const passed: number[] = [];
  for await (const chunk of input.pipeThrough(detachKeys(() => detached = true))) passed.push(...chunk);
  return { passed, detached };
}

const P = 0x10;
const Q = 0x11;

Deno.test("detachKeys() passes everything else on", pure, async () => {
  assertEquals(await typed([1, 2, Q, 3], [4]), { passed: [1, 2, Q, 3, 4], detached: false });
});

Deno.test(
  "detachKeys() detaches on ctrl-p ctrl-q, in one chunk or two, and passes nothing more",
  pure,
  async () => {
    assertEquals(await typed([1, P, Q, 2], [3]), { passed: [1], detached: true });
    assertEquals(await typed([1, P], [Q], [3]), { passed: [1], detached: true });
  },
);

Deno.test("detachKeys() holds a ctrl-p back until the next key", pure, async () => {
  assertEquals(await typed([P], [1]), { passed: [P, 1], detached: false });
  assertEquals(await typed([P, P], [1]), { passed: [P, P, 1], detached: false });
  assertEquals(await typed([P, P, Q]), { passed: [P], detached: true });
});
