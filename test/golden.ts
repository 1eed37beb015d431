/** Golden plans: compiled, printed and read again must be what a file of test/golden/ holds. */

import { assertEquals } from "./assert.ts";
import { formatPlan, parsePlan, type Plan } from "../lib/plan.ts";

const DIR = new URL("golden/", import.meta.url);

/** Instead of the entry script, which the plan holds whole: a change of it is no change of every golden plan. */
const PLACEHOLDER = "#!/bin/sh\n# the text of plans/enter/\n";

/**
 * Registers a test that a plan is as the golden file says, and that the file survives being read and printed.
 * With `CDEBUG_GOLDEN=write` in the environment the file is written instead: read the diff before committing it.
 */
export function golden(name: string, compile: () => Plan): void {
  const file = new URL(`${name}.yaml`, DIR);
  const print = (plan: Plan) => formatPlan(plan, { showValues: true });
  const shorten = (plan: Plan) => ({
    ...plan,
    sidecars: plan.sidecars.map((sidecar) => ({ ...sidecar, script: PLACEHOLDER })),
  });
  if (Deno.env.get("CDEBUG_GOLDEN") === "write") {
    Deno.mkdirSync(DIR, { recursive: true });
    Deno.writeTextFileSync(file, print(shorten(compile())));
  }
  const wanted = Deno.readTextFileSync(file);
  // The YAML library looks for its own debugging switches.
  const permissions = { env: ["LOG_TOKENS", "LOG_STREAM"] };
  Deno.test(`golden plan ${name}`, { permissions }, () => {
    const plan = compile();
    assertEquals(print(shorten(plan)), wanted);
    assertEquals(print(parsePlan(wanted, name)), wanted);
    const whole = print(plan);
    assertEquals(print(parsePlan(whole, name)), whole);
  });
}

/**
 * Asserts that a marked section of README.md holds a text, however its tables are aligned; with
 * `CDEBUG_GOLDEN=write` writes it.
 */
export async function assertReadme(section: string, text: string): Promise<void> {
  const file = new URL("../README.md", import.meta.url);
  const readme = await Deno.readTextFile(file);
  const marked = new RegExp(`(<!-- ${section} -->\n)([^]*)(\n<!-- /${section} -->)`);
  if (Deno.env.get("CDEBUG_GOLDEN") === "write") {
    await Deno.writeTextFile(
      file,
      readme.replace(marked, (_, head, __, tail) => `${head}\n${text}\n${tail}`),
    );
    return;
  }
  const plain = (table: string) => table.replace(/-+/g, "-").replace(/ +/g, " ");
  assertEquals(plain(marked.exec(readme)?.[2] ?? "").trim(), plain(text));
}
