/** Temporary files that name their process: where that one was killed, the next one removes them. */

import { ownerState, ownIdentity } from "./owner.ts";

/** Makes one, and removes those with the same beginning whose processes are gone. Throws what the runtime throws. */
export async function makeTemporary(
  kind: "file" | "directory",
  directory: string,
  prefix: string,
): Promise<string> {
  await sweep(directory, prefix);
  const options = { dir: directory, prefix: `${prefix}${ownIdentity()}-` };
  return kind === "file" ? await Deno.makeTempFile(options) : await Deno.makeTempDir(options);
}

/** As far as they are this user's own. */
async function sweep(directory: string, prefix: string): Promise<void> {
  const names = await Array.fromAsync(Deno.readDir(directory), ({ name }) => name).catch(() => []);
  for (const name of names.filter((name) => name.startsWith(prefix))) {
    const owner = name.slice(prefix.length).replace(/-[^-]*$/, "");
    if (await ownerState(owner) !== "dead") continue;
    const path = `${directory}/${name}`;
    const { uid } = await Deno.lstat(path).catch(() => ({ uid: undefined }));
    if (uid === Deno.uid()) await Deno.remove(path, { recursive: true }).catch(() => {});
  }
}
