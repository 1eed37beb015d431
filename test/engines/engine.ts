/** What every container engine of the tests' own is, and the network it gets. */

import { run } from "./debian.ts";

export interface Engine extends AsyncDisposable {
  /** The address of its API: `unix:///…`. */
  readonly host: string;
  /** Runs the engine's own client against it. */
  readonly client: Client;
}

/** Runs an engine's client to its end and returns its output. Throws with its errors if it fails. */
export type Client = (args: readonly string[], stdin?: Uint8Array<ArrayBuffer>) => Promise<string>;

/** A name for a bridge that no interface has: 12 characters, of 15 that there may be. */
export function bridgeName(): string {
  return `cdbg${crypto.randomUUID().slice(0, 8)}`;
}

/** The first three numbers of a network that no interface of this machine has. */
export async function freeSubnet(): Promise<string> {
  const taken = await run("ip", ["-4", "address"]);
  for (let third = 64; third < 256; third++) {
    const subnet = `10.213.${third}`;
    if (!taken.includes(`${subnet}.`)) return subnet;
  }
  throw new Error("no network is free for the tests' bridge");
}

/** Removes an engine's directory and what it left mounted there. */
export async function removeDirectory(dir: string): Promise<void> {
  const mounts = await Deno.readTextFile("/proc/self/mounts");
  const below = mounts.split("\n").map((line) => line.split(" ")[1] ?? "").filter((path) =>
    path.startsWith(`${dir}/`)
  );
  for (const path of below.toReversed()) await run("umount", [path]).catch(() => {});
  await Deno.remove(dir, { recursive: true });
}
