/** A Podman of the tests' own: its socket, storage and bridge are nobody else's. */

import { Daemon, exists, install, run } from "./debian.ts";
import { bridgeName, type Client, type Engine, freeSubnet, removeDirectory } from "./engine.ts";

/** The podman client, on the storage in `dir`. */
export function podmanClient(dir: string): Client {
  return (args, stdin) => run("env", [...command(dir), ...args], stdin ? { stdin } : {});
}

/** How podman is called, by env(1): with this variable set to anything, it would call another one instead. */
function command(dir: string): string[] {
  return [
    ...["-u", "CONTAINER_HOST", `CONTAINERS_CONF=${dir}/containers.conf`],
    ...["podman", "--root", `${dir}/root`, "--runroot", `${dir}/run`, "--tmpdir", `${dir}/tmp`],
  ];
}

/** Installs Podman where it is missing, and starts its API in a new directory, which is removed at the end. */
export async function startPodman(): Promise<Engine> {
  await install({
    podman: "podman",
    conmon: "conmon",
    runc: "runc",
    ip: "iproute2",
    iptables: "iptables",
    pgrep: "procps",
  });
  if (!await exists("/usr/lib/cni/bridge")) await install({ "cni-bridge": "containernetworking-plugins" });
  const dir = await Deno.makeTempDir({ prefix: "cdebug-podman-" });
  const host = `unix://${dir}/podman.sock`;
  const client = podmanClient(dir);
  const bridge = bridgeName();
  const subnet = await freeSubnet();

  // Limits that a machine without CAP_SYS_RESOURCE can give, and a network of its own without firewall rules.
  await Deno.writeTextFile(
    `${dir}/containers.conf`,
    `[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "cni"
network_config_dir = "${dir}/net"
default_network = "${bridge}"
`,
  );
  await Deno.mkdir(`${dir}/net`);
  await Deno.writeTextFile(
    `${dir}/net/${bridge}.conflist`,
    JSON.stringify({
      cniVersion: "0.4.0",
      name: bridge,
      plugins: [{
        type: "bridge",
        bridge,
        isGateway: true,
        ipam: { type: "host-local", dataDir: `${dir}/ipam`, ranges: [[{ subnet: `${subnet}.0/24` }]] },
      }],
    }),
  );
  const daemon = Daemon.start(
    "env",
    [...command(dir), "system", "service", "--time", "0", host],
    `${dir}/log`,
  );
  const engine: Engine = {
    host,
    client,
    async [Symbol.asyncDispose]() {
      await client(["rm", "--all", "--force", "--volumes", "--time", "0"]).catch(() => {});
      await daemon[Symbol.asyncDispose]();
      // The monitors of exec sessions stay for five minutes, and would then make the directory again.
      const monitors = await run("pgrep", ["-f", `^\\S*conmon .*${dir}/`]).catch(() => "");
      for (const pid of monitors.split("\n").filter(Boolean)) {
        await run("kill", ["-KILL", pid]).catch(() => {}); // it may have ended since
      }
      await run("ip", ["link", "delete", bridge]).catch(() => {});
      await removeDirectory(dir);
    },
  };
  try {
    await daemon.ready(async () => void await Deno.lstat(`${dir}/podman.sock`));
    return engine;
  } catch (error) {
    await engine[Symbol.asyncDispose]();
    throw error;
  }
}
