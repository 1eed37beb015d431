import { assertEquals, assertThrows } from "../assert.ts";
import { CdebugError } from "../../lib/errors.ts";
import { type Flags, parseFlags } from "../../lib/flags.ts";
import { ENGINES } from "../../lib/target.ts";
import { findCandidates, type FindTargets, read, syntaxOf } from "../../lib/commands/complete.ts";
import { COMMANDS } from "../../lib/commands/help.ts";
import * as exec from "../../plans/exec.ts";
import * as exports from "../../plans/export.ts";
import * as portForward from "../../plans/port_forward.ts";

const pure = { permissions: "none" } as const;

const cdebug = syntaxOf({
  exec: () => Promise.resolve(exec),
  "port-forward": () => Promise.resolve(portForward),
  export: () => Promise.resolve(exports),
});
const engines = ENGINES.map((engine) => `${engine}://`);

/** What a line may end with, the words parted by blanks; of each candidate its value. */
async function values(line: string, targets: readonly string[] = []): Promise<readonly string[] | "files"> {
  const findTargets: FindTargets = () => Promise.resolve(targets.map((value) => ({ value })));
  const found = await findCandidates(line.split(" "), cdebug, findTargets);
  return found === "files" ? found : found.map(({ value }) => value);
}

Deno.test("completion: commands, with their summaries", pure, async () => {
  assertEquals(await values(""), Object.keys(COMMANDS));
  assertEquals(await findCandidates(["pr"], cdebug, () => Promise.resolve([])), [
    { value: "prune", summary: COMMANDS.prune },
  ]);
  assertEquals(await values("--v"), ["--version"]);
  assertEquals(await values("nothing "), []);
  assertEquals(await values("constructor "), []);
});

Deno.test("completion: commands of commands", pure, async () => {
  assertEquals(await values("plan "), ["exec", "port-forward", "export", "schema"]);
  assertEquals(await values("plan -"), ["-h", "--help"]);
  assertEquals(await values("completion "), ["bash", "zsh", "fish"]);
  assertEquals(await values("completion zsh "), []);
  assertEquals(await values("help ex"), ["exec", "export"]);
  assertEquals(await values("version "), []);
});

Deno.test("completion: flags, with their help", pure, async () => {
  assertEquals(await findCandidates(["exec", "--pu"], cdebug, () => Promise.resolve([])), [
    { value: "--pull", summary: exec.flags.pull.help },
  ]);
  assertEquals(await values("exec -it --dr"), ["--dry-run"]);
  assertEquals(await values("plan exec --show"), ["--show-values"]);
  assertEquals(await values("apply plan.yaml --y"), ["--yes"]);
  assertEquals(await values("exec web --pu"), "files");
  assertEquals(await values("exec -- --pu"), []);
});

Deno.test("completion: values of flags, in all spellings", pure, async () => {
  assertEquals(await values("exec --pull "), ["missing", "always", "never"]);
  assertEquals(await values("exec --pull m"), ["missing"]);
  assertEquals(await values("plan exec --pull=m"), ["--pull=missing"]);
  assertEquals(await values("ls -o "), ["json", "yaml"]);
  assertEquals(await values("ls -qo j"), ["json"]);
  assertEquals(await values("ls -oj"), ["-ojson"]);
  assertEquals(await values("ls -o=j"), ["-o=json"]);
  assertEquals(await values("exec --rm="), ["--rm=true", "--rm=false"]);
  assertEquals(await values("exec --user "), []);
  assertEquals(await values("exec --unknown="), []);
});

Deno.test("completion: names of files", pure, async () => {
  assertEquals(await values("exec --env-file "), "files");
  assertEquals(await values("exec --env-file=x"), "files");
  assertEquals(await values("apply "), "files");
  assertEquals(await values("apply plan.yaml "), []);
  assertEquals(await values("exec web "), "files");
  assertEquals(await values("exec web cat x"), "files");
});

Deno.test("completion: targets and engines", pure, async () => {
  const targets = ["web", "worker", "podman://web"];
  assertEquals(await values("exec ", targets), targets);
  assertEquals(await values("exec -it --pull never w", targets), ["web", "worker"]);
  assertEquals(await values("plan exec -- podman:", targets), ["podman://web"]);
  assertEquals(await values("apply --retarget=wo", targets), ["--retarget=worker"]);
  assertEquals(await values("apply --retarget wo", targets), ["worker"]);
  assertEquals(await values("apply --retarget plan", targets), "files");
  assertEquals(await values("apply --retarget web ", targets), "files");
  for (const command of ["ls", "prune", "doctor"]) assertEquals(await values(`${command} `), engines);
  assertEquals(await values(`ls ${engines[0]} `), []);
});

Deno.test("completion: targets are looked for on the engine of --runtime", pure, async () => {
  const asked: unknown[] = [];
  const findTargets: FindTargets = (...args) => {
    asked.push(args);
    return Promise.resolve([]);
  };
  for (const line of ["exec w", "exec --runtime /a w", "exec --runtime=/b -i w"]) {
    await findCandidates(line.split(" "), cdebug, findTargets);
  }
  assertEquals(asked, [["w", undefined], ["w", "/a"], ["w", "/b"]]);
});

Deno.test("read() parts flags and words as parseFlags() does", pure, () => {
  const flags = {
    tty: { type: "boolean", short: "t", help: "A terminal" },
    env: { type: "string", short: "e", multiple: true, value: "NAME=VALUE", help: "A variable" },
  } as const satisfies Flags;
  const words = ["-", "--", "-t", "-te", "-eA", "-te=A", "--env", "--env=A", "--tty", "--tty=false", "web"];
  for (const passesOn of [true, false]) {
    for (const first of words) {
      for (const second of words) {
        for (const third of words) {
          const argv = [first, second, third];
          const { given, awaiting } = read({ flags, passesOn }, argv);
          const parse = () => parseFlags("test", flags, argv, { anywhere: !passesOn }).rest;
          if (awaiting) assertThrows(parse, CdebugError, "needs a value");
          else assertEquals(given, parse().length, argv.join(" "));
        }
      }
    }
  }
});
