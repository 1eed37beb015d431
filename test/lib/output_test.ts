import { assertEquals } from "../assert.ts";
import { age, count, formatTable, shorten } from "../../lib/commands/output.ts";

Deno.test("age() says it as docker ps does", () => {
  const now = new Date("2026-11-24T12:00:00Z");
  const minute = 60, hour = 60 * minute, day = 24 * hour;
  const cases: [seconds: number, text: string][] = [
    [-5, "Less than a second ago"],
    [0.5, "Less than a second ago"],
    [1, "1 second ago"],
    [59, "59 seconds ago"],
    [90, "About a minute ago"],
    [2 * minute, "2 minutes ago"],
    [59 * minute, "59 minutes ago"],
    [60 * minute, "About an hour ago"],
    [100 * minute, "2 hours ago"],
    [47 * hour, "47 hours ago"],
    [2 * day, "2 days ago"],
    [15 * day, "2 weeks ago"],
    [61 * day, "2 months ago"],
    [800 * day, "2 years ago"],
  ];
  for (const [seconds, text] of cases) {
    assertEquals(age(new Date(now.getTime() - seconds * 1000), now), text, `${seconds} s`);
  }
});

Deno.test("formatTable() aligns columns and lets no text steer the terminal", () => {
  assertEquals(
    formatTable([["ONE", "TWO", "THREE"], ["a", "longer", ""], ["b\x1b[2Jc", "d\ne", "f"]]),
    "ONE         TWO      THREE\na           longer\nb\\x1b[2Jc   d e      f\n",
  );
});

Deno.test("shorten() keeps what fits", () => {
  assertEquals([shorten("sleep", 5), shorten("sleeps", 5)], ["sleep", "slee…"]);
});

Deno.test("count() knows one from many", () => {
  assertEquals([count(1, "link"), count(2, "link"), count(0, "link")], ["1 link", "2 links", "0 links"]);
});
