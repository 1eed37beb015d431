/** `deno task ok`: what must hold before each commit. Format, lint, types, shell scripts, all tests but the live. */

import { script } from "../plans/enter.ts";
import { scriptWithLaunch } from "../plans/port_forward.ts";
import { hasProgram, install, obstacle, say } from "./engines/debian.ts";
import { temporaryDirectory } from "./temporary.ts";

const deno = Deno.execPath();
const checks: [name: string, command: string[]][] = [
  ["format", [deno, "fmt", "--check", "--quiet"]],
  ["lint", [deno, "lint", "--quiet"]],
  ["types", [deno, "check", "--quiet", "main.ts", "test"]],
  ["tests", [deno, "test", "-A", "--quiet", "--ignore=test/e2e"]],
];

if (!await hasProgram("shellcheck") && !await obstacle()) await install({ shellcheck: "shellcheck" });
const shell = await hasProgram("shellcheck");
const directory = await temporaryDirectory();
const scripts = { enter: script, forward: scriptWithLaunch };
for (const [name, text] of Object.entries(scripts)) {
  await Deno.writeTextFile(`${directory.path}/${name}.sh`, text);
}
if (shell) {
  for (const name of Object.keys(scripts)) {
    checks.push([`${name} script`, ["shellcheck", `${directory.path}/${name}.sh`]]);
  }
  checks.push(["sidecar script", ["shellcheck", "lib/drivers/process/sidecar.sh"]]);
  checks.push(["completion", ["shellcheck", "--shell=bash", "lib/commands/completion/cdebug.bash"]]);
}
checks.push(["launch", [deno, "run", "-A", "test/launch.ts", "--check"]]);

let failed = 0;
for (const [name, [program, ...args]] of checks) {
  const { success, code } = await new Deno.Command(program!, { args, stdin: "null", env: { NO_COLOR: "1" } })
    .output()
    .then(async (output) => {
      if (!output.success) {
        await Deno.stdout.write(output.stdout);
        await Deno.stderr.write(output.stderr);
      }
      return output;
    });
  const skipped = name === "launch" && code === 2; // it has said why
  say(`${success ? "ok     " : skipped ? "skipped" : "FAILED "}  ${name}`);
  if (!success && !skipped) failed++;
}
if (!shell) {
  say("skipped enter script, forward script, sidecar script, completion: shellcheck is not installed");
}
await directory[Symbol.asyncDispose]();
Deno.exit(failed === 0 ? 0 : 1);
