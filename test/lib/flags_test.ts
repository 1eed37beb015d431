import { assertEquals, assertThrows } from "../assert.ts";
import { CdebugError } from "../../lib/errors.ts";
import { type Flags, formatFlags, parseFlags } from "../../lib/flags.ts";

const pure = { permissions: "none" } as const;

const flags = {
  interactive: { type: "boolean", short: "i", help: "Pass stdin on" },
  tty: { type: "boolean", short: "t", help: "A terminal" },
  env: { type: "string", short: "e", multiple: true, value: "NAME=VALUE", help: "A variable" },
  pull: { type: "string", choices: ["missing", "never"], help: "When to pull" },
  retarget: { type: "string", optional: true, value: "REF", help: "Again" },
} as const satisfies Flags;

const parse = (...argv: string[]) => parseFlags("exec", flags, argv);

Deno.test("parseFlags() leaves everything after the first word untouched", pure, () => {
  assertEquals(parse("-it", "web", "ls", "-la", "--pull", "--", "-e"), {
    values: { interactive: true, tty: true },
    rest: ["web", "ls", "-la", "--pull", "--", "-e"],
  });
});

Deno.test("parseFlags() takes words that look like flags after --", pure, () => {
  assertEquals(parse("-i", "--", "-web").rest, ["-web"]);
});

Deno.test("parseFlags() takes all spellings of a value", pure, () => {
  assertEquals(parse("-e", "A=1", "-eB=2", "-e=C=3", "--env", "D=4", "--env=E=5", "-ite", "-F").values, {
    interactive: true,
    tty: true,
    env: ["A=1", "B=2", "C=3", "D=4", "E=5", "-F"],
  });
});

Deno.test("parseFlags() takes =true and =false for booleans", pure, () => {
  assertEquals(parse("--tty=false", "--interactive=true").values, { tty: false, interactive: true });
});

Deno.test("parseFlags() takes an optional value with = only", pure, () => {
  assertEquals(parse("--retarget", "web"), { values: { retarget: "" }, rest: ["web"] });
  assertEquals(parse("--retarget=other", "web"), { values: { retarget: "other" }, rest: ["web"] });
});

Deno.test("parseFlags() finds flags anywhere where it is told to", pure, () => {
  assertEquals(parseFlags("apply", flags, ["plan.yaml", "-i", "x"], { anywhere: true }), {
    values: { interactive: true },
    rest: ["plan.yaml", "x"],
  });
});

Deno.test("parseFlags() names what is wrong, and what is near", pure, () => {
  const hint = (text: string, ...argv: string[]) =>
    assertThrows(() => parse(...argv), CdebugError, text).hint;
  assertEquals(hint("unknown flag --interactiv", "--interactiv"), "Did you mean --interactive?");
  assertEquals(hint("unknown flag -x", "-x"), "cdebug exec --help");
  assertEquals(hint("unknown flag -x", "-itx"), "cdebug exec --help");
  hint("-e needs a value, NAME=VALUE", "-e");
  hint("-e needs a value, NAME=VALUE", "-e", "");
  hint("--env needs a value, NAME=VALUE", "--env=");
  hint('--pull takes missing, never, not "often"', "--pull", "often");
  hint('--tty takes true or false, not "maybe"', "--tty=maybe");
  hint('-t takes true or false, not "1"', "-t=1");
});

Deno.test("parseFlags() knows no flag of Object's", pure, () => {
  assertThrows(() => parse("--constructor"), CdebugError, "unknown flag --constructor");
  assertThrows(() => parse("--__proto__"), CdebugError, "unknown flag --__proto__");
});

Deno.test("formatFlags() aligns the texts", pure, () => {
  assertEquals(
    formatFlags(flags),
    `  -i, --interactive         Pass stdin on
  -t, --tty                 A terminal
  -e, --env NAME=VALUE      A variable
      --pull missing|never  When to pull
      --retarget REF        Again`,
  );
});
