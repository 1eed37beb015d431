import { assertEquals } from "../assert.ts";
import { type Key, readKeys } from "../../lib/screen.ts";

const pure = { permissions: "none" } as const;

/** The keys that some bytes are, and how many bytes have been asked for when the first so many keys are there. */
async function keysOf(text: string, limit = Infinity): Promise<{ keys: Key[]; read: number }> {
  const bytes = new TextEncoder().encode(text);
  let read = 0;
  const keys: Key[] = [];
  if (limit > 0) {
    for await (const key of readKeys(() => Promise.resolve(bytes[read++]))) {
      keys.push(key);
      if (keys.length === limit) break;
    }
  }
  return { keys, read };
}

Deno.test("readKeys() tells characters, of any length, from keys", pure, async () => {
  const { keys } = await keysOf("aü€\x7f\x15\r");
  assertEquals(keys, [{ text: "a" }, { text: "ü" }, { text: "€" }, "backspace", "clear", "enter"]);
});

Deno.test("readKeys() knows what terminals send for the keys that move", pure, async () => {
  const { keys } = await keysOf("\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[H\x1bOF\x10\x0e");
  assertEquals(keys, ["up", "down", "page-up", "page-down", "home", "end", "up", "down"]);
});

Deno.test("readKeys() leaves out what it does not know, whole", pure, async () => {
  const { keys } = await keysOf("\x1b[1;5Cx\x1b[200~y\x1bbz\x00\x1b[<0;1;1Mq");
  assertEquals(keys, ["x", "y", "z", "q"].map((text) => ({ text })));
});

Deno.test("readKeys() takes an Escape that nothing follows for the key, and goes on with what comes later", async () => {
  const later = Promise.withResolvers<number>();
  const bytes: (number | Promise<number>)[] = [0x1b, later.promise];
  const keys = readKeys(async () => await bytes.shift());
  assertEquals((await keys.next()).value, "leave");
  later.resolve("x".charCodeAt(0));
  assertEquals((await keys.next()).value, { text: "x" });
  assertEquals((await keysOf("\x1b\x1b")).keys, ["leave"]);
});

Deno.test("readKeys() asks for no byte beyond the key that is taken", pure, async () => {
  assertEquals(await keysOf("w\rls\r", 2), { keys: [{ text: "w" }, "enter"], read: 2 });
});
