/**
 * `deno task bench`: what cdebug costs, as ratios to the barest way of doing the same. Both are measured in turns
 * in one run, and the medians are compared: times of different runs or machines say nothing.
 */

import { BARE, MAIN, TOOLKIT } from "./e2e/engine.ts";
import { startDocker } from "./engines/docker.ts";
import { fillWithBusybox, importBare, importRoot, importToolkit } from "./engines/images.ts";
import { startTarget } from "./engines/process.ts";

const PAIRS = Number(Deno.args[0] ?? 41);

interface Comparison {
  readonly name: string;
  readonly cdebug: readonly string[];
  readonly bare: readonly string[];
  readonly bareName: string;
}

await using engine = await startDocker();
await importBare(engine.client, BARE);
await importToolkit(engine.client, TOOLKIT);
const THOUSAND = "cdebug-bench/thousand";
await importRoot(engine.client, THOUSAND, ["ENV PATH=/bin"], async (root) => {
  await fillWithBusybox(root);
  for (let i = 1; i <= 1000; i++) await Deno.symlink("busybox", `${root}/bin/program-${i}`);
});
await engine.client(["run", "-d", "--name", "web", BARE, "/server"]);
await using process = await startTarget();
const empty = await Deno.makeTempFile({ suffix: ".ts" });

const exec = [Deno.execPath(), "run", "-A", MAIN, "exec"];
const comparisons: Comparison[] = [
  {
    name: "cdebug --version",
    cdebug: [Deno.execPath(), "run", "-A", MAIN, "--version"],
    bare: [Deno.execPath(), "run", "-A", empty],
    bareName: "an empty script",
  },
  {
    name: "cdebug exec web true",
    cdebug: [...exec, "web", "true"],
    bare: ["docker", "run", "--rm", "--network", "container:web", "--pid", "container:web", TOOLKIT, "true"],
    bareName: "docker run --rm --network container:web --pid container:web IMAGE true",
  },
  {
    name: "cdebug exec pid://PID true",
    cdebug: [...exec, `pid://${process.pid}`, "true"],
    bare: ["nsenter", `--target=${process.pid}`, "--net", "--ipc", "--uts", "--pid", "true"],
    bareName: "nsenter --target PID --net --ipc --uts --pid true",
  },
  {
    name: "cdebug exec web true, with wrappers for 1,000 programs",
    cdebug: [...exec, "--image", THOUSAND, "--toolkit", "dynamic", "web", "true"],
    bare: [...exec, "--image", THOUSAND, "--toolkit", "static", "web", "true"],
    bareName: "without wrappers",
  },
];

try {
  for (const comparison of comparisons) print(await measure(comparison));
} finally {
  await Deno.remove(empty);
}

async function measure({ name, cdebug, bare, bareName }: Comparison): Promise<string> {
  const [ours, theirs]: [number[], number[]] = [[], []];
  for (let pair = -3; pair < PAIRS; pair++) {
    // By turns, each first as often as the other; the first pairs only warm the caches.
    const [first, second] = pair % 2 === 0 ? [cdebug, bare] : [bare, cdebug];
    const times = new Map([[first, await seconds(first)], [second, await seconds(second)]]);
    if (pair < 0) continue;
    ours.push(times.get(cdebug)!);
    theirs.push(times.get(bare)!);
  }
  const [mine, other] = [median(ours), median(theirs)];
  return `${name}: ${(mine / other).toFixed(2)} × ${bareName} (${ms(mine)} to ${
    ms(other)
  }, medians of ${PAIRS} pairs)`;
}

async function seconds([program, ...args]: readonly string[]): Promise<number> {
  const start = performance.now();
  const { success, stderr } = await new Deno.Command(program!, {
    args,
    env: { DOCKER_HOST: engine.host, CDEBUG_HISTORY: "off" },
    stdin: "null",
  }).output();
  if (!success) throw new Error(`${program} ${args.join(" ")} failed: ${new TextDecoder().decode(stderr)}`);
  return (performance.now() - start) / 1000;
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return (sorted[Math.ceil(middle) - 1]! + sorted[Math.floor(middle)]!) / 2;
}

function ms(seconds: number): string {
  return `${(seconds * 1000).toFixed(0)} ms`;
}

function print(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
}
