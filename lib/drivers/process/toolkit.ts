/** Images as toolkits where no engine is: taken from their registries, and unpacked once, in the user's cache. */

import type { Progress } from "../../driver.ts";
import { CdebugError } from "../../errors.ts";
import { mergeLayers } from "../../layers.ts";
import type { Sidecar } from "../../plan.ts";
import { cacheDirectory } from "../../registry/cache.ts";
import { fetchLayers, openLayer, resolveImage } from "../../registry/client.ts";
import { unpack } from "../../unpack.ts";

/** The directory of an image's files. What is there already is asked for again only where the spec says so. */
export async function unpackToolkit(
  { image, platform, pull }: Pick<Sidecar, "image" | "platform" | "pull">,
  signal: AbortSignal,
  report: (progress: Progress) => void,
): Promise<string> {
  const base = `${cacheDirectory()}/toolkits`;
  // What the image was when it was asked for last.
  const name = `${base}/names/${encodeURIComponent(`${image} ${platform ?? ""}`)}`;
  const known = await Deno.realPath(name).catch(() => undefined);
  if (known !== undefined && pull !== "always") return await used(known);
  if (pull === "never") {
    throw new CdebugError(`Cannot start the toolkit "${image}": it is not in the cache`, {
      hint: "leave out --pull never",
    });
  }
  report({ kind: "pulling", image });
  const options = { signal, ...platform !== undefined && { platform } };
  const found = await resolveImage(image, options);
  const digest = found.digest.replace(/^sha256:/, "");
  const directory = `${base}/${digest}`;
  if (!await Deno.stat(directory).then(() => true, () => false)) {
    await fetchLayers(found, {
      ...options,
      report: ({ digest, done, total }) =>
        report({ kind: "pull-progress", layer: digest, status: `${Math.floor(100 * done / total)}%` }),
    });
    await Deno.mkdir(base, { recursive: true, mode: 0o755 });
    const fresh = await Deno.makeTempDir({ dir: base, prefix: "part-" });
    try {
      await Deno.chmod(fresh, 0o755);
      const layers = found.layers.map((layer) => ({ open: () => openLayer(layer) }));
      await unpack(await mergeLayers(layers, { signal }), {
        directory: fresh,
        sameOwner: Deno.uid() === 0,
        signal,
      });
      await Deno.rename(fresh, directory);
    } catch (error) {
      await Deno.remove(fresh, { recursive: true });
      // Somebody else may have been faster.
      if (!await Deno.stat(directory).then(() => true, () => false)) throw error;
    }
  }
  await Deno.mkdir(`${base}/names`, { recursive: true });
  const link = `${name}.${crypto.randomUUID()}`;
  await Deno.symlink(`../${digest}`, link);
  await Deno.rename(link, name);
  report({ kind: "pulled", image });
  return await used(directory);
}

/** What is used is the last that the cache lets go. */
async function used(directory: string): Promise<string> {
  const now = new Date();
  await Deno.utime(directory, now, now).catch(() => {});
  return directory;
}
