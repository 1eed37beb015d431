/** The documents say what the program does. `CDEBUG_GOLDEN=write` writes the help texts of README.md anew. */

import { assertEquals, assertIncludes } from "./assert.ts";
import { run } from "./engines/debian.ts";
import { parsePlan, planSchema } from "../lib/plan.ts";

const ROOT = new URL("..", import.meta.url);
const read = (path: string) => Deno.readTextFile(new URL(path, ROOT));

Deno.test("README.md holds the help texts", async () => {
  const readme = await read("README.md");
  const marked = /<!-- help: ([\w-]+) -->\n[^]*?<!-- \/help -->/g;
  const commands = [...readme.matchAll(marked)].map(([, command]) => command!);
  assertEquals(commands, [
    "exec",
    "port-forward",
    "export",
    "plan",
    "apply",
    "ls",
    "prune",
    "history",
    "cache",
    "doctor",
    "completion",
  ]);
  let wanted = readme;
  for (const command of commands) {
    const help = await run(Deno.execPath(), ["run", "-A", new URL("main.ts", ROOT).href, command, "--help"]);
    const section = `<!-- help: ${command} -->\n\n\`\`\`text\n${help.trimEnd()}\n\`\`\`\n\n<!-- /help -->`;
    wanted = wanted.replace(new RegExp(`<!-- help: ${command} -->\\n[^]*?<!-- /help -->`), () => section);
  }
  if (Deno.env.get("CDEBUG_GOLDEN") === "write") await Deno.writeTextFile(new URL("README.md", ROOT), wanted);
  else assertEquals(readme, wanted);
});

Deno.test("plans/README.md holds a plan, and names every field that there is", async () => {
  const text = await read("plans/README.md");
  const plans = [...text.matchAll(/^```yaml\n([^]*?)^```$/gm)].map(([, yaml]) =>
    parsePlan(yaml!, "README.md")
  );
  assertEquals(plans.length, 1);
  for (const key of keysOf(planSchema())) {
    if (!new RegExp(`^ *(- )?${key}:|\`${key}\``, "m").test(text)) {
      throw new Error(`plans/README.md says nothing of ${key}`);
    }
  }
});

Deno.test("lib/README.md names every module", async () => {
  const text = await read("lib/README.md");
  for (const dir of ["lib", "plans"]) {
    for await (const { name, isFile } of Deno.readDir(new URL(dir, ROOT))) {
      if (isFile && !name.endsWith(".md")) assertIncludes(text, `\`${dir}/${name}\``);
    }
  }
});

/** The names of all properties in a JSON Schema. */
function keysOf(schema: unknown): Set<string> {
  const keys = new Set<string>();
  const walk = (value: unknown) => {
    if (typeof value !== "object" || value === null) return;
    if ("properties" in value) Object.keys(value.properties as object).forEach((key) => keys.add(key));
    Object.values(value).forEach(walk);
  };
  walk(schema);
  return keys;
}
