/** The engines of the live ring, and cdebug run against them as a user runs it. */

import { poll, run } from "../engines/debian.ts";
import { dockerClient } from "../engines/docker.ts";
import type { Client } from "../engines/engine.ts";
import { podmanClient, rootlessClient } from "../engines/podman.ts";
import { assertEquals } from "../assert.ts";
import { temporaryDirectory } from "../temporary.ts";

/** The engines that have images. */
export const IMAGE_ENGINES = ["docker", "podman"] as const;
export type ImageEngine = typeof IMAGE_ENGINES[number];

/** What the live tests run on; `rootless` is the Podman of a user. */
export type LiveEngine = ImageEngine | "rootless";

/** Where `deno task test` says which engines it has started; one that is not there has its tests skipped. */
export const HOSTS: Readonly<Record<LiveEngine, string>> = {
  docker: "CDEBUG_TEST_DOCKER_HOST",
  podman: "CDEBUG_TEST_PODMAN_HOST",
  rootless: "CDEBUG_TEST_ROOTLESS_HOST",
};
export const DOCKER_HOST = Deno.env.get(HOSTS.docker);
export const PODMAN_HOST = Deno.env.get(HOSTS.podman);
export const docker: Client = dockerClient(DOCKER_HOST ?? "");

const CLIENTS: Readonly<Record<LiveEngine, (host: string) => Client>> = {
  docker: () => docker,
  podman: (host) => podmanClient(host.replace(/^unix:\/\/(.*)\/[^/]*$/, "$1")),
  rootless: rootlessClient,
};

/** A live engine by its name; undefined where it is not there. */
export function engineOf(name: LiveEngine): { host: string; client: Client } | undefined {
  const host = Deno.env.get(HOSTS[name]);
  return host === undefined ? undefined : { host, client: CLIENTS[name](host) };
}

export const TOOLKIT = "docker.io/library/busybox:musl";
export const ORDINARY = "cdebug-test/ordinary";
export const BARE = "cdebug-test/bare";

export const MAIN = new URL("../../main.ts", import.meta.url).pathname;
export const CDEBUG = [Deno.execPath(), "run", "-A", MAIN];

/**
 * Copies cdebug into a directory, for users who may read no other: the originals may be in a home that is closed to
 * them. Returns the words that run it.
 */
export async function copyCdebug(directory: string): Promise<string[]> {
  await Deno.copyFile(Deno.execPath(), `${directory}/deno`);
  const sources = ["main.ts", "deno.json", "lib", "plans"].map((name) =>
    new URL(name, `file://${MAIN}`).pathname
  );
  await run("cp", ["-r", ...sources, directory]);
  return [`${directory}/deno`, "run", "-A", "--no-lock", `${directory}/main.ts`];
}

export interface Result {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Registers a test that needs a live engine. */
export function liveTest(name: string, fn: () => Promise<void>, engine: LiveEngine = "docker"): void {
  Deno.test({ name, ignore: engineOf(engine) === undefined, fn });
}

/** The environment of a user whose engines' clients have no settings of their own. */
export function userEnv(extra: Record<string, string> = {}): Record<string, string> {
  return {
    DOCKER_HOST: DOCKER_HOST ?? "",
    CONTAINER_HOST: PODMAN_HOST ?? "",
    DOCKER_CONFIG: "/nonexistent",
    NO_COLOR: "1",
    CDEBUG_HISTORY: "off",
    ...extra,
  };
}

export interface RunOptions {
  readonly stdin?: string | Uint8Array<ArrayBuffer>;
  readonly env?: Record<string, string>;
}

/** Longer than any command of a test takes: what is still there then hangs. */
const HANGS_MS = 5 * 60_000;

/** Starts cdebug. Without `stdin` it has none. One that hangs is killed, so that its test fails and the next ones run. */
export function spawn(args: readonly string[], options: RunOptions = {}): Deno.ChildProcess {
  const child = new Deno.Command(CDEBUG[0]!, {
    args: [...CDEBUG.slice(1), ...args],
    env: userEnv(options.env),
    stdin: options.stdin === undefined ? "null" : "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const timer = setTimeout(() => child.kill("SIGKILL"), HANGS_MS);
  child.status.then(() => clearTimeout(timer));
  return child;
}

/** Runs cdebug to its end; stdout as bytes. */
export async function cdebugBytes(args: readonly string[], options: RunOptions = {}) {
  const child = spawn(args, options);
  const [output] = await Promise.all([
    child.output(),
    options.stdin !== undefined && new Blob([options.stdin]).stream().pipeTo(child.stdin).catch(() => {}),
  ]);
  return output;
}

/** Runs cdebug to its end. */
export async function cdebug(args: readonly string[], options: RunOptions = {}): Promise<Result> {
  const { code, stdout, stderr } = await cdebugBytes(args, options);
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, stdout: text(stdout), stderr: text(stderr) };
}

export interface TestTarget extends AsyncDisposable {
  readonly name: string;
  /** As a user names it. */
  readonly ref: string;
}

/**
 * A running container of this test's own. When it is disposed of, its root must be as it was before, and no
 * sidecar may be left: every live test asserts that.
 */
export async function target(
  options: { engine?: LiveEngine; image?: string; run?: readonly string[]; command?: readonly string[] } = {},
): Promise<TestTarget> {
  const { engine = "docker", image = ORDINARY } = options;
  const { client } = engineOf(engine)!;
  const name = `target-${crypto.randomUUID().slice(0, 8)}`;
  const command = options.command ?? (image === BARE ? ["/server"] : ["sleep", "1000000"]);
  await client(["run", "-d", "--name", name, ...options.run ?? [], image, ...command]);
  const id = await idOf(name, client);
  const before = await rootOf(name, client);
  return {
    name,
    ref: `${engine === "docker" ? engine : "podman"}://${name}`,
    async [Symbol.asyncDispose]() {
      try {
        await poll(async () => assertEquals(await sidecarsOf(id, client), []));
        if (await client(["inspect", name]).then(() => true, () => false)) {
          assertEquals(await rootOf(name, client), before);
        }
      } finally {
        await client(["kill", name]).catch(() => {}); // rm of some engines asks it to stop, and waits
        await client(["rm", "-f", "-v", name]).catch(() => {});
      }
    },
  };
}

export async function idOf(name: string, client = docker): Promise<string> {
  return (await client(["inspect", "--format", "{{.Id}}", name])).trim();
}

/** Waits until the process that ends an interactive session, should cdebug die, runs beside the target's sidecar. */
export async function hangupProcess(name: string): Promise<void> {
  const [sidecar] = await sidecarsOf(await idOf(name));
  await poll(async () => {
    const { length } = JSON.parse(await docker(["inspect", "--format", "{{json .ExecIDs}}", sidecar!])) ?? [];
    assertEquals(length, 1);
  });
}

/** The containers that cdebug has added to a target, by its ID; running or not. */
export async function sidecarsOf(id: string, client = docker): Promise<string[]> {
  const names = await client(["ps", "-a", "--filter", `label=cdebug.target=${id}`, "--format", "{{.Names}}"]);
  return names.split("\n").filter(Boolean);
}

/** What is in a container's `/`, running or stopped, without its tools' help. */
export async function rootOf(name: string, client = docker): Promise<string[]> {
  const paths = (await filesOf(name, client)).map((line) =>
    line.replace(/^\S+ \S+ (\.\/)?/, "").replace(/ -> .*/, "")
  );
  return paths.filter((path) => path !== "" && !/\/./.test(path));
}

/** The mode, the owner, the path and the link's text of each file in a container's root filesystem, sorted. */
export async function filesOf(name: string, client = docker): Promise<string[]> {
  await using directory = await temporaryDirectory();
  const archive = `${directory.path}/root.tar`;
  await client(["export", "-o", archive, name]);
  const list = await run("tar", ["--numeric-owner", "-tvf", archive]);
  // Between owner and path: the size, the date, the time.
  return list.split("\n").filter(Boolean).map((line) => line.replace(/^(\S+ \S+) +\S+ \S+ \S+ /, "$1 "))
    .sort();
}
