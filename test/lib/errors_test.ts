import { assertEquals } from "../assert.ts";
import { CdebugError, nearest, printable, reason } from "../../lib/errors.ts";

const pure = { permissions: "none" } as const;

Deno.test("reason() is one line", pure, () => {
  assertEquals(reason(new Error("first\n  second\n")), "first; second");
  assertEquals(reason("text"), "text");
});

Deno.test("printable() writes control characters out, but for the line feed", pure, () => {
  assertEquals(printable("a\x1b[2Kb\rc\nd\x9b"), "a\\x1b[2Kb\\x0dc\nd\\x9b");
});

Deno.test("CdebugError exits with 125 unless told otherwise", pure, () => {
  assertEquals(new CdebugError("x").exitCode, 125);
  assertEquals(new CdebugError("x", { exitCode: 130 }).exitCode, 130);
});

Deno.test("nearest() finds what is contained and what is mistyped, best first", pure, () => {
  const names = ["web", "web-1", "wbe", "database", "cache"];
  assertEquals(nearest("wb", names), ["wbe", "web"]);
  assertEquals(nearest("web-2", names), ["web", "web-1"]);
  assertEquals(nearest("databsae", names), ["database"]);
  assertEquals(nearest("exce", ["exec", "help"]), ["exec"]);
  assertEquals(nearest("zzz", names), []);
});

Deno.test("nearest() gives no more than asked for, each once", pure, () => {
  assertEquals(nearest("a", ["ab", "ac", "ad", "ab"], 2), ["ab", "ac"]);
});
