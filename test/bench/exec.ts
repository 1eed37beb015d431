/** `cdebug exec` against what the engine and the kernel offer. */

import { BARE, MAIN, TOOLKIT } from "../e2e/engine.ts";
import { startDocker } from "../engines/docker.ts";
import { fillWithBusybox, importBare, importRoot, importToolkit } from "../engines/images.ts";
import { startTarget } from "../engines/process.ts";
import { compare, ms, print, seconds } from "./measure.ts";

interface Comparison {
  readonly name: string;
  readonly cdebug: readonly string[];
  readonly bare: readonly string[];
  readonly bareName: string;
}

/** Prints one line for each comparison. */
export async function benchExec(pairs: number): Promise<void> {
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
      bare: [
        "docker",
        "run",
        "--rm",
        "--network",
        "container:web",
        "--pid",
        "container:web",
        TOOLKIT,
        "true",
      ],
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
    for (const { name, cdebug, bare, bareName } of comparisons) {
      const env = { DOCKER_HOST: engine.host, CDEBUG_HISTORY: "off" };
      const medians = await compare(pairs, () => seconds(cdebug, env), () => seconds(bare, env));
      print(
        `${name}: ${(medians.ours / medians.bare).toFixed(2)} × ${bareName} (${ms(medians.ours)} to ${
          ms(medians.bare)
        }, medians of ${pairs} pairs)`,
      );
    }
  } finally {
    await Deno.remove(empty);
  }
}
