/** Scripts that make what a test is about, and look at what has come of it. */

import { byteString } from "../../lib/tar.ts";

/** Runs a bash script with these arguments in a directory; what it prints, as a byte string. Throws if it fails. */
export async function shell(directory: string, script: string, ...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command("bash", {
    args: ["-euc", script, "bash", ...args],
    cwd: directory,
    env: { LC_ALL: "C", TZ: "UTC" },
  }).output();
  if (!success) throw new Error(byteString(stderr));
  return byteString(stdout);
}
