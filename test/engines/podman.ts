/** A Podman of the tests' own: its socket, storage and bridge are nobody else's. */

import { Daemon, exists, install, poll, run } from "./debian.ts";
import { bridgeName, type Client, type Engine, freeSubnet, removeDirectory } from "./engine.ts";

/** The podman client, on the storage in `dir`. */
export function podmanClient(dir: string): Client {
  return (args, stdin) => run("env", [...command(dir), ...args], stdin ? { stdin } : {});
}

/** How podman is called, by env(1): with this variable set to anything, it would call another one instead. */
function call(dir: string): string[] {
  return ["-u", "CONTAINER_HOST", `CONTAINERS_CONF=${dir}/containers.conf`, "podman"];
}

function command(dir: string): string[] {
  return [...call(dir), "--root", `${dir}/root`, "--runroot", `${dir}/run`, "--tmpdir", `${dir}/tmp`];
}

const PROGRAMS = { podman: "podman", conmon: "conmon", runc: "runc", pgrep: "procps" };

/** Limits that a machine without CAP_SYS_RESOURCE can give. */
const LIMITS = 'default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]';
const ENGINE = `[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"`;

/** Installs Podman where it is missing, and starts its API in a new directory, which is removed at the end. */
export async function startPodman(): Promise<Engine> {
  await install({ ...PROGRAMS, ip: "iproute2", iptables: "iptables" });
  if (!await exists("/usr/lib/cni/bridge")) await install({ "cni-bridge": "containernetworking-plugins" });
  const dir = await Deno.makeTempDir({ prefix: "cdebug-podman-" });
  const host = `unix://${dir}/podman.sock`;
  const client = podmanClient(dir);
  const bridge = bridgeName();
  const subnet = await freeSubnet();

  // A network of its own, without firewall rules but those of the ports that are published.
  await Deno.writeTextFile(
    `${dir}/containers.conf`,
    `[containers]
${LIMITS}
${ENGINE}
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
      }, { type: "portmap", capabilities: { portMappings: true } }],
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
      await removeContainers(client);
      await daemon[Symbol.asyncDispose]();
      // The monitors of exec sessions stay for five minutes, and would then make the directory again.
      await killAll(["-f", `^\\S*conmon .*${dir}/`]);
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

/** Removes all there are; each time, those that no other one depends on. */
async function removeContainers(client: Client): Promise<void> {
  await poll(() => client(["rm", "--all", "--force", "--volumes", "--time", "0"]), 5).catch(() => {});
}

/** Ends the processes that pgrep finds. */
async function killAll(search: readonly string[]): Promise<void> {
  for (const pid of (await run("pgrep", search).catch(() => "")).split("\n").filter(Boolean)) {
    await run("kill", ["-KILL", pid]).catch(() => {}); // it may have ended since
  }
}

/** The podman client, by root through the API at `host`: it reads and writes the files of whoever runs the tests. */
export function rootlessClient(host: string): Client {
  const dir = rootlessDir(host);
  return (args, stdin) => run("env", [...call(dir), "--url", host, ...args], stdin ? { stdin } : {});
}

/** The home and the runtime directory of the user whose Podman has this address. */
export function rootlessDir(host: string): string {
  return host.replace(/^unix:\/\/(.*)\/podman\/podman.sock$/, "$1");
}

/** The words that run a program as the owner of `dir`, who knows nothing but what a login would set. */
export async function asOwner(dir: string, words: readonly string[]): Promise<string[]> {
  const { uid, gid } = await Deno.stat(dir);
  return [
    ...["setpriv", "--reuid", String(uid), "--regid", String(gid), "--clear-groups", "env", "-i", "-C", dir],
    ...[`PATH=${Deno.env.get("PATH")}`, `HOME=${dir}`, `XDG_RUNTIME_DIR=${dir}`],
    ...words,
  ];
}

/**
 * Starts the API of an ordinary user's Podman, where that user's own client looks for it. The user is made for it
 * and removed at the end. Containers have no network but their own loopback: it would take /dev/net/tun.
 */
export async function startRootlessPodman(): Promise<Engine> {
  await install({ ...PROGRAMS, newuidmap: "uidmap", useradd: "passwd" });
  const user = `cdebug-${crypto.randomUUID().slice(0, 8)}`;
  const dir = await Deno.makeTempDir({ prefix: "cdebug-podman-" });
  const host = `unix://${dir}/podman/podman.sock`;
  const client = rootlessClient(host);
  let uid: string | undefined;
  let daemon: Daemon | undefined;
  const engine: Engine = {
    host,
    client,
    async [Symbol.asyncDispose]() {
      if (daemon) await removeContainers(client);
      await daemon?.[Symbol.asyncDispose]();
      if (uid) {
        // Monitors, and the process that holds the user's namespaces.
        await poll(async () => {
          await killAll(["-U", uid!]);
          await run("userdel", [user]); // refuses as long as there are any
        });
        await Deno.remove(`/dev/shm/libpod_rootless_lock_${uid}`).catch(() => {}); // made by the first command
      }
      await removeDirectory(dir);
    },
  };
  try {
    await Deno.writeTextFile(
      `${dir}/containers.conf`,
      `[containers]\n${LIMITS}\nnetns = "none"\n${ENGINE}\n`,
    );
    await Deno.mkdir(`${dir}/podman`);
    await run("useradd", ["--no-create-home", "--home-dir", dir, user]);
    uid = (await run("id", ["-u", user])).trim();
    await run("chown", ["-R", `${user}:`, dir]);
    // Left to itself, a Podman that may not open /dev/fuse copies whole images.
    const podman = ["env", ...call(dir), "--storage-driver", "overlay"];
    const [program, ...args] = await asOwner(dir, [...podman, "system", "service", "--time", "0", host]);
    daemon = Daemon.start(program!, args, `${dir}/log`);
    await daemon.ready(async () => void await Deno.lstat(`${dir}/podman/podman.sock`));
    return engine;
  } catch (error) {
    await engine[Symbol.asyncDispose]();
    throw error;
  }
}
