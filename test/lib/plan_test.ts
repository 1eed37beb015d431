import { assert, assertEquals, assertIncludes, assertThrows } from "../assert.ts";
import { fakeSidecar, fakeTarget } from "../fake_driver.ts";
import { CdebugError } from "../../lib/errors.ts";
import { formatPlan, parsePlan, type Plan, planSchema } from "../../lib/plan.ts";

// The YAML library looks for its own debugging switches.
const pure = { permissions: { env: ["LOG_TOKENS", "LOG_STREAM"] } };

const plan: Plan = {
  version: 1,
  request: {
    command: "exec",
    target: "web",
    argv: ["ls"],
    image: "busybox:musl",
    env: { SECRET: "hunter2" },
  },
  target: fakeTarget(),
  sidecars: [fakeSidecar({
    env: { SECRET: "hunter2" },
    script: "echo one\n\n  echo two: #\n",
    args: ["a  b", "", "- x", "it's", "true", "0x10", "1e3", "~"],
  })],
  session: { kind: "exec", attach: "debugger", detach: false },
  leaves: [],
};
const yaml = formatPlan(plan, { showValues: true });

/** The message of the error that reading a plan gives. */
function refusal(text: string): string {
  return assertThrows(() => parsePlan(text, "p.yaml"), CdebugError).message;
}

function lineOf(text: string, part: string): number {
  const at = text.split("\n").findIndex((line) => line.includes(part));
  assert(at >= 0, `no line with ${part}`);
  return at + 1;
}

Deno.test("formatPlan() and parsePlan() are each other's inverse", pure, () => {
  assertEquals(parsePlan(yaml, "p.yaml"), plan);
  // What was written in another order is printed in the schema's.
  const ordered = formatPlan(parsePlan(yaml, "p.yaml"), { showValues: true });
  assertEquals(formatPlan(parsePlan(ordered, "p.yaml"), { showValues: true }), ordered);
});

Deno.test("formatPlan() begins with the version and prints scripts as literal blocks", pure, () => {
  assert(yaml.startsWith("version: 1\n"));
  assertIncludes(yaml, "    script: |\n      echo one\n\n        echo two: #\n");
});

Deno.test("formatPlan() leaves values of variables out unless asked", pure, () => {
  const masked = formatPlan(plan);
  assert(!masked.includes("hunter2"));
  assertEquals(parsePlan(masked, "p.yaml").sidecars[0]!.env, { SECRET: null });
});

Deno.test("parsePlan() refuses another version before it looks at anything else", pure, () => {
  assertEquals(
    refusal("kind: other\nversion: 2\nnonsense: true\n"),
    'Cannot read plan "p.yaml":\n  p.yaml:2: version: This cdebug reads plans of version 1, not 2',
  );
  assertIncludes(refusal("request: {}\n"), "p.yaml:1: version: Expected version: 1, found none");
});

Deno.test("parsePlan() names every fault, with its line and path", pure, () => {
  const broken = yaml
    .replace("pull: missing", "pull: sometimes")
    .replace("tty: false", "ttty: false")
    .replace("readOnlyRoot: false", 'readOnlyRoot: "no"')
    .replace("session:", "sesion: {}\nsession:");
  const message = refusal(broken);
  assertIncludes(message, `p.yaml:${lineOf(broken, "pull: sometimes")}: sidecars[0].pull: Expected`);
  assertIncludes(message, `p.yaml:${lineOf(broken, "ttty: false")}: sidecars[0].ttty: Unknown key "ttty"`);
  assertIncludes(message, 'sidecars[0].tty: Expected the key "tty", found none');
  assertIncludes(message, `p.yaml:${lineOf(broken, "readOnlyRoot:")}: target.readOnlyRoot: Expected boolean`);
  assertIncludes(message, `p.yaml:${lineOf(broken, "sesion:")}: sesion: Unknown key "sesion"`);
});

Deno.test("parsePlan() refuses duplicate keys with the line of the second", pure, () => {
  const broken = yaml.replace('    user: "0"\n', '    user: "0"\n    user: "1000"\n');
  assertIncludes(refusal(broken), `p.yaml:${lineOf(broken, 'user: "1000"')}: Map keys must be unique`);
});

Deno.test("parsePlan() refuses a truncated plan wherever it ends", pure, () => {
  const lines = yaml.trimEnd().split("\n");
  for (let count = 1; count < lines.length; count++) {
    assertIncludes(refusal(lines.slice(0, count).join("\n")), "p.yaml:");
  }
});

Deno.test("parsePlan() refuses noise, quickly and briefly", pure, () => {
  const noise = Array.from({ length: 20_000 }, (_, i) => String.fromCharCode(33 + (i * i * 7) % 90)).join("");
  for (
    const text of ["", "\0\0", "- a\n- b\n", "text", "{", "!!binary x", noise, "a".repeat(2 * 1024 * 1024)]
  ) {
    assert(refusal(text).length < 5000);
  }
  assertIncludes(
    refusal("x".repeat(10 * 1024 * 1024)),
    "Expected a plan of at most 1024 KiB, found more",
  );
});

Deno.test("parsePlan() refuses aliases before it expands them", pure, () => {
  const bomb = ["version: 1", "a: &a [x]"];
  for (let i = 1; i < 20; i++) {
    const [from, to] = [String.fromCharCode(96 + i), String.fromCharCode(97 + i)];
    bomb.push(`${to}: &${to} [*${from}, *${from}, *${from}, *${from}]`);
  }
  assertIncludes(refusal(bomb.join("\n")), "p.yaml:3: Aliases are not allowed in a plan");
});

Deno.test("parsePlan() refuses what is nested without end, and many faults without delay", pure, () => {
  assertIncludes(refusal("[".repeat(50_000)), "p.yaml:");
  const keys = Array.from({ length: 60_000 }, (_, i) => `k${i}: 1`).join("\n");
  assertIncludes(refusal(`version: 1\n${keys}\n`), 'Unknown key "k0"');
  assertIncludes(refusal(`version: 1\n${keys}\n${keys}\n`.slice(0, 1000_000)), " more");
});

Deno.test("parsePlan() refuses references to nothing", pure, () => {
  const broken = yaml.replace("attach: debugger", "attach: other");
  assertIncludes(
    refusal(broken),
    `p.yaml:${
      lineOf(broken, "attach: other")
    }: session.attach: Expected the name of a sidecar (debugger), found "other"`,
  );
});

Deno.test("parsePlan() refuses a document after the plan", pure, () => {
  assertIncludes(refusal(`${yaml}---\nversion: 1\n`), "p.yaml:");
});

Deno.test("planSchema() describes every key that a plan may have", pure, () => {
  const schema = JSON.stringify(planSchema());
  for (const key of ["request", "target", "sidecars", "session", "leaves", "hangup", "timeoutSeconds"]) {
    assertIncludes(schema, `"${key}"`);
  }
});
