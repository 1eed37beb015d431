/** The Docker daemon of the live ring, and cdebug run against it as a user runs it. */

import { poll, run } from "../engines/debian.ts";
import { dockerClient } from "../engines/docker.ts";
import type { Docker } from "../engines/images.ts";
import { assertEquals } from "../assert.ts";

/** The daemon that `deno task test` has started; undefined where the live ring is skipped. */
export const DOCKER_HOST = Deno.env.get("CDEBUG_TEST_DOCKER_HOST");
export const docker: Docker = dockerClient(DOCKER_HOST ?? "");

export const TOOLKIT = "docker.io/library/busybox:musl";
export const ORDINARY = "cdebug-test/ordinary";
export const BARE = "cdebug-test/bare";

export const MAIN = new URL("../../main.ts", import.meta.url).pathname;
export const CDEBUG = [Deno.execPath(), "run", "-A", MAIN];

export interface Result {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Registers a test that needs the live engine. */
export function liveTest(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, ignore: DOCKER_HOST === undefined, fn });
}

/** The environment of a user whose docker client has no settings of its own. */
export function userEnv(extra: Record<string, string> = {}): Record<string, string> {
  return { DOCKER_HOST: DOCKER_HOST!, DOCKER_CONFIG: "/nonexistent", NO_COLOR: "1", ...extra };
}

export interface RunOptions {
  readonly stdin?: string | Uint8Array<ArrayBuffer>;
  readonly env?: Record<string, string>;
}

/** Starts cdebug. Without `stdin` it has none. */
export function spawn(args: readonly string[], options: RunOptions = {}): Deno.ChildProcess {
  return new Deno.Command(CDEBUG[0]!, {
    args: [...CDEBUG.slice(1), ...args],
    env: userEnv(options.env),
    stdin: options.stdin === undefined ? "null" : "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
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
}

/**
 * A running container of this test's own. When it is disposed of, its root must be as it was before, and no
 * sidecar may be left: every live test asserts that.
 */
export async function target(
  options: { image?: string; run?: readonly string[]; command?: readonly string[] } = {},
): Promise<TestTarget> {
  const name = `target-${crypto.randomUUID().slice(0, 8)}`;
  const image = options.image ?? ORDINARY;
  const command = options.command ?? (image === BARE ? ["/server"] : ["sleep", "1000000"]);
  await docker(["run", "-d", "--name", name, ...options.run ?? [], image, ...command]);
  const id = await idOf(name);
  const before = await rootOf(name);
  return {
    name,
    async [Symbol.asyncDispose]() {
      try {
        await poll(async () => assertEquals(await sidecarsOf(id), []));
        if (await docker(["inspect", name]).then(() => true, () => false)) {
          assertEquals(await rootOf(name), before);
        }
      } finally {
        await docker(["rm", "-f", "-v", name]).catch(() => {});
      }
    },
  };
}

export async function idOf(name: string): Promise<string> {
  return (await docker(["inspect", "--format", "{{.Id}}", name])).trim();
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
export async function sidecarsOf(id: string): Promise<string[]> {
  const names = await docker(["ps", "-a", "--filter", `label=cdebug.target=${id}`, "--format", "{{.Names}}"]);
  return names.split("\n").filter(Boolean);
}

/** What is in a container's `/`, running or stopped, without its tools' help. */
export async function rootOf(name: string): Promise<string[]> {
  const host = DOCKER_HOST!;
  const listing = await run("sh", [
    "-c",
    'docker --host "$1" export "$2" | tar -t | grep -v "/." ; true',
    "sh",
    host,
    name,
  ]);
  return listing.split("\n").filter(Boolean).sort();
}
