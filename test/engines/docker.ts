/** A Docker daemon of the tests' own: its sockets, data, bridge and process are nobody else's. */

import { Daemon, install, run } from "./debian.ts";
import { bridgeName, type Client, type Engine, freeSubnet, removeDirectory } from "./engine.ts";

export interface DockerEngine extends Engine {
  /** Stops the daemon and starts it again on the same data. */
  restart(): Promise<void>;
}

/** The docker client, against the daemon at `host`. */
export function dockerClient(host: string): Client {
  return (args, stdin) =>
    run("docker", args, {
      env: { DOCKER_HOST: host, DOCKER_CONTEXT: "" },
      ...stdin && { stdin },
    });
}

/**
 * Installs Docker where it is missing, and starts a daemon in a new directory, which is removed at the end.
 * `args` are added to the daemon's own.
 */
export async function startDocker(args: readonly string[] = []): Promise<DockerEngine> {
  await install({
    dockerd: "docker.io",
    docker: "docker.io",
    runc: "runc",
    ip: "iproute2",
    iptables: "iptables",
  });
  const dir = await Deno.makeTempDir({ prefix: "cdebug-docker-" });
  const host = `unix://${dir}/docker.sock`;
  const client = dockerClient(host);
  const bridge = bridgeName();
  const subnet = await freeSubnet();
  const link = async (...args: string[]) => await run("ip", ["link", ...args]);

  const start = async () => {
    const daemon = Daemon.start("dockerd", [
      "--host",
      host,
      "--data-root",
      `${dir}/data`,
      "--exec-root",
      `${dir}/exec`,
      "--pidfile",
      `${dir}/pid`,
      "--bridge",
      bridge,
      // The rules of a second daemon would get in the way of the first.
      "--iptables=false",
      "--ip6tables=false",
      "--ip-masq=false",
      "--config-file",
      `${dir}/daemon.json`,
      "--log-level",
      "warn",
      ...args,
    ], `${dir}/log`);
    try {
      await daemon.ready(() => client(["version"]));
    } catch (error) {
      await daemon[Symbol.asyncDispose]();
      throw error;
    }
    return daemon;
  };
  const removeAll = async () => {
    await link("delete", bridge).catch(() => {});
    await removeDirectory(dir);
  };

  let daemon: Daemon;
  try {
    await Deno.writeTextFile(`${dir}/daemon.json`, "{}");
    await link("add", bridge, "type", "bridge");
    await run("ip", ["address", "add", `${subnet}.1/24`, "dev", bridge]);
    await link("set", bridge, "up");
    daemon = await start();
  } catch (error) {
    await removeAll();
    throw error;
  }
  return {
    host,
    client,
    async restart() {
      await daemon[Symbol.asyncDispose]();
      daemon = await start();
    },
    async [Symbol.asyncDispose]() {
      const containers = (await client(["ps", "-aq"]).catch(() => "")).split("\n").filter(Boolean);
      if (containers.length > 0) await client(["rm", "-f", "-v", ...containers]).catch(() => {});
      await daemon[Symbol.asyncDispose]();
      await removeAll();
    },
  };
}
