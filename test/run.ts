/**
 * `deno task test`: starts engines for the live tests, runs every test, stops the engines. Its last line is
 * `N passed, N failed`, and how many were skipped if any were.
 *
 * Where an engine cannot be started, its tests are skipped with the reason; with `CI=true`, or where `CDEBUG_E2E`
 * names it (`docker`, `podman`, `rootless`, `all`), that is a failure. Arguments are passed on to `deno test`.
 */

import { BARE, HOSTS, type LiveEngine, ORDINARY, TOOLKIT } from "./e2e/engine.ts";
import { FORWARDER } from "./e2e/forward.ts";
import { install, obstacle, say } from "./engines/debian.ts";
import { startDocker } from "./engines/docker.ts";
import type { Engine } from "./engines/engine.ts";
import { importBare, importForwarder, importOrdinary, importToolkit } from "./engines/images.ts";
import { startPodman, startRootlessPodman } from "./engines/podman.ts";

const START: Record<LiveEngine, () => Promise<Engine>> = {
  docker: startDocker,
  podman: startPodman,
  rootless: startRootlessPodman,
};
const asked = Deno.env.get("CI") === "true" ? ["all"] : (Deno.env.get("CDEBUG_E2E") ?? "").split(",");

/** All tests take a quarter of it on a slow machine. */
const LIMIT_MS = 60 * 60_000;

let child: Deno.ChildProcess | undefined;
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  // The tests end, and with them this program, in order.
  Deno.addSignalListener(signal, () => child?.kill("SIGTERM"));
}

Deno.exit(await runTests());

async function runTests(): Promise<number> {
  await using engines = new AsyncDisposableStack();
  const env: Record<string, string> = { NO_COLOR: "1", CDEBUG_HISTORY: "off" };
  let missing = 0;
  for (const name of Object.keys(START) as LiveEngine[]) {
    try {
      const why = await obstacle();
      if (why) throw new Error(why);
      say(`starting ${name === "rootless" ? "rootless podman" : name} for the tests`);
      await install({ tmux: "tmux", pgrep: "procps", bash: "bash", zsh: "zsh", fish: "fish" });
      const engine = engines.use(await START[name]());
      await importBare(engine.client, BARE);
      await importForwarder(engine.client, FORWARDER);
      await importOrdinary(engine.client, ORDINARY);
      await importToolkit(engine.client, TOOLKIT);
      env[HOSTS[name]] = engine.host;
    } catch (error) {
      const required = asked.includes("all") || asked.includes(name);
      if (required) missing++;
      const text = error instanceof Error ? error.message : String(error);
      say(`The live tests on ${name} ${required ? "cannot run" : "are skipped"}: ${text}`);
    }
  }

  child = new Deno.Command(Deno.execPath(), {
    args: ["test", "-A", ...Deno.args],
    env,
    stdin: "null",
    stdout: "piped",
  }).spawn();
  const limit = setTimeout(() => {
    say(`The tests have not ended after ${LIMIT_MS / 60_000} minutes, and are ended`);
    child?.kill("SIGKILL");
  }, LIMIT_MS);
  let tail = "";
  const decoder = new TextDecoder();
  for await (const chunk of child.stdout) {
    await Deno.stdout.write(chunk);
    tail = (tail + decoder.decode(chunk, { stream: true })).slice(-2000);
  }
  const { code } = await child.status;
  clearTimeout(limit);

  const count = (word: string) =>
    Number(new RegExp(`\\b(\\d+) ${word}\\b(?!.*\\d+ ${word}\\b)`, "s").exec(tail)?.[1] ?? 0);
  const [passed, skipped] = [count("passed"), count("ignored")];
  // What ends the test runner without a failed test, a type error for one, is a failure too.
  const failed = (code === 0 ? 0 : Math.max(1, count("failed"))) + missing;
  await engines.disposeAsync();
  await Deno.stdout.write(
    new TextEncoder().encode(
      `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}\n`,
    ),
  );
  return failed === 0 ? 0 : 1;
}
