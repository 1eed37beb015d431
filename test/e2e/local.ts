/** Tests on targets that take no engine's daemon: made by the kernel alone, or by runc and crun. */

import { obstacle, run, say } from "../engines/debian.ts";
import { targetObstacle } from "../engines/process.ts";
import type { LocalTarget } from "../engines/target.ts";

/** What makes the target; `root`: the kernel, asked by root. */
export type Maker = "process" | "root" | "runc" | "crun";

const OBSTACLES: Readonly<Record<Maker, string | undefined>> = {
  process: await targetObstacle(),
  root: await targetObstacle() ?? (Deno.uid() === 0 ? undefined : "it takes root"),
  runc: await obstacle(),
  crun: await obstacle(),
};
const asked = Deno.env.get("CI") === "true" ? ["all"] : (Deno.env.get("CDEBUG_E2E") ?? "").split(",");

/**
 * Registers a test on targets of this maker. Where there can be none, it is skipped and the reason is said; with
 * `CI=true`, or where `CDEBUG_E2E` names the maker, it fails.
 */
export function localTest(name: string, fn: () => Promise<void>, maker: Maker = "process"): void {
  const ignore = !canMake(maker);
  if (ignore) say(`Skipped, for ${OBSTACLES[maker]}: ${name}`);
  Deno.test({ name, ignore, fn });
}

/** Whether tests on targets of this maker are to run. */
export function canMake(maker: Maker): boolean {
  return OBSTACLES[maker] === undefined || asked.includes("all") || asked.includes(maker);
}

/** A field of /proc/PID/status. */
export async function status(pid: number, field: string): Promise<string> {
  const text = await Deno.readTextFile(`/proc/${pid}/status`);
  return new RegExp(`^${field}:\\s*(.*)$`, "m").exec(text)![1]!.replaceAll("\t", " ");
}

/** Where something is mounted in its mount namespace, and with which options. */
export async function mounts(pid: number): Promise<Record<string, string>> {
  const lines = (await Deno.readTextFile(`/proc/${pid}/mountinfo`)).trim().split("\n");
  return Object.fromEntries(lines.map((line) => [line.split(" ")[4]!, line.split(" ")[5]!]));
}

/** The namespaces that a process has in common with this one. */
export async function shared(pid: number): Promise<string[]> {
  const names = ["ipc", "mnt", "net", "pid", "user", "uts"];
  const same = await Promise.all(
    names.map(async (name) =>
      await Deno.readLink(`/proc/${pid}/ns/${name}`) === await Deno.readLink(`/proc/self/ns/${name}`)
    ),
  );
  return names.filter((_, index) => same[index]);
}

export async function files(pid: number, path: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(`/proc/${pid}/root${path}`), ({ name }) => name)).sort();
}

/** What the server answers to a client in its network namespace. */
export async function answer({ pid }: LocalTarget): Promise<string> {
  const namespaces = Deno.uid() === 0 ? ["--net"] : ["--net", "--user", "--preserve-credentials"];
  const script = 'console.log(await (await fetch("http://127.0.0.1:8080")).text())';
  return await run("nsenter", ["--target", `${pid}`, ...namespaces, Deno.execPath(), "eval", script]);
}
