import { assertEquals, assertRejects } from "../assert.ts";
import { type Duplex, inBlocks } from "../../lib/tunnel.ts";

/** A stream whose bytes come back, in pieces of a size. */
function loop(size: number): Duplex {
  const bytes: number[] = [];
  let closed = false;
  return {
    read: () => Promise.resolve(bytes.length > 0 ? Uint8Array.from(bytes.splice(0, size)) : null),
    write: (chunk) => {
      assertEquals(chunk.length % 2, 0);
      bytes.push(...chunk);
      return Promise.resolve();
    },
    closeWrite: () => Promise.resolve(void (closed = true)),
    reset: () => {},
    close: () => assertEquals(closed, false),
  };
}

async function readAll(duplex: Duplex): Promise<number[]> {
  const all: number[] = [];
  for (let chunk; (chunk = await duplex.read()) !== null;) all.push(...chunk);
  return all;
}

Deno.test("inBlocks() carries what it is given, whatever pieces the stream makes of it, and the end of a half", async () => {
  for (const size of [1, 2, 3, 1000, 1_000_000]) {
    const blocks = inBlocks(loop(size));
    const sent = [1, 2, 65535, 65536, 3].map((length) =>
      Uint8Array.from({ length }, (_, at) => (at * 7 + length) % 256)
    );
    for (const chunk of sent) await blocks.write(chunk);
    await blocks.closeWrite();
    assertEquals(await readAll(blocks), sent.flatMap((chunk) => [...chunk]));
    assertEquals(await blocks.read(), null);
  }
});

Deno.test("inBlocks() takes the end of the stream for a broken connection", async () => {
  const blocks = inBlocks(loop(100));
  await blocks.write(Uint8Array.of(1));
  assertEquals(await blocks.read(), Uint8Array.of(1));
  await assertRejects(() => blocks.read(), Error, "the other side has gone");
});
