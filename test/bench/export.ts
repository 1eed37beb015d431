/** `cdebug export` against `docker export`, and tar; from a registry against a pull, a container and an export. */

import { CDEBUG } from "../e2e/engine.ts";
import { makeDebian } from "../e2e/export.ts";
import { run } from "../engines/debian.ts";
import { startDocker } from "../engines/docker.ts";
import { importRoot } from "../engines/images.ts";
import { startRegistry } from "../engines/registry.ts";
import { temporaryDirectory } from "../temporary.ts";
import { compare, ms, print, seconds } from "./measure.ts";

const IMAGE = "cdebug-bench/large";
/** In MiB, besides the Debian's 200. */
const MORE = 300;

/** Prints a line for each comparison. */
export async function benchExport(pairs: number): Promise<void> {
  await using engine = await startDocker();
  await using registry = await startRegistry();
  await using directory = await temporaryDirectory();
  const debian = await makeDebian();
  await importRoot(engine.client, IMAGE, ["CMD sleep 1"], async (root) => {
    await run("cp", ["-a", `${debian}/.`, root]);
    await run("sh", ["-c", `head -c ${MORE}M /dev/urandom | split -b 1M - "$0/srv/"`, root]);
  });
  await engine.client(["create", "--name", "web", IMAGE]);
  const remote = `${registry.address}/large:1`;
  const login = ["login", "-u", registry.username, "-p", registry.password, registry.address];
  // The runtime has its own cache in XDG_CACHE_HOME, too: it stays.
  const env = {
    DOCKER_HOST: engine.host,
    DOCKER_CONFIG: directory.path,
    XDG_CACHE_HOME: `${directory.path}/cache`,
    CDEBUG_HISTORY: "off",
  };
  await run("docker", login, { env });
  await run("docker", ["tag", IMAGE, remote], { env });
  await run("docker", ["push", remote], { env });
  const out = `${directory.path}/out`;
  const cdebug = CDEBUG.map((word) => `'${word}'`).join(" ");
  const timed = (script: string, prepare: string) => async () => {
    await run("sh", ["-ec", `rm -rf ${out} ${out}.tar; sync; ${prepare}`], { env });
    return await seconds(["sh", "-ec", script], env);
  };
  const rounds = Math.max(3, Math.ceil(pairs / 8));
  const fresh =
    `rm -rf ${directory.path}/cache/cdebug; docker rm -f pulled >/dev/null 2>&1 || :; docker rmi ${remote} ${IMAGE} >/dev/null 2>&1 || :`;
  for (
    const [name, ours, bare, prepare] of [
      [
        "to a folder",
        `${cdebug} export -q web -o ${out}`,
        `mkdir ${out}; docker export web | tar -x -p -C ${out}`,
        ":",
      ],
      ["to a tar", `${cdebug} export -q web -o ${out}.tar`, `docker export web -o ${out}.tar`, ":"],
      [
        "from a registry, to a folder",
        `${cdebug} export -q registry-image://${remote} -o ${out}`,
        `mkdir ${out}; docker pull -q ${remote}; docker create --name pulled ${remote} true; docker export pulled | tar -x -p -C ${out}`,
        fresh,
      ],
    ] as const
  ) {
    if (prepare !== ":") await run("docker", ["rm", "-f", "web"], { env });
    const medians = await compare(rounds, timed(ours, prepare), timed(bare, prepare));
    print(
      `export, ${name}: ${(medians.ours / medians.bare).toFixed(2)} × docker's (${ms(medians.ours)} to ${
        ms(medians.bare)
      }, medians of ${rounds} pairs)`,
    );
  }
}
