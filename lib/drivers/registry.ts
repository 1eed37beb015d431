/** Registries: the files of images that no engine has. Nothing runs there. */

import type { Driver } from "../driver.ts";
import { CdebugError } from "../errors.ts";
import { FILES_ONLY, type Target } from "../target.ts";
import {
  fetchLayers,
  openLayer,
  type RegistryImage,
  type RegistryOptions,
  resolveImage,
} from "../registry/client.ts";

/** Opens the driver; an image's name says where its registry is. */
export function openRegistries(): Driver {
  /** Found when it was looked at, for when its layers are wanted. */
  const found = new Map<string, { readonly image: RegistryImage; readonly options: RegistryOptions }>();
  const nothingRuns = () =>
    Promise.reject(
      new CdebugError("Cannot run anything in a registry: it has images only", {
        hint: "docker pull IMAGE, and image://IMAGE",
      }),
    );
  return {
    engine: "registry",
    capabilities: {
      join: [],
      snapshot: false,
      images: false,
      terminal: "relayed",
      ownNamespaces: false,
    },
    async inspect(name, _kind, { platform, registryConfig } = {}) {
      const options: RegistryOptions = {
        ...platform !== undefined && { platform },
        ...registryConfig !== undefined && { config: registryConfig },
      };
      const image = await resolveImage(name, options);
      found.set(image.digest, { image, options });
      const { os = "linux", architecture = "", config = {} } = image.config;
      return Object.freeze<Target>({
        ...FILES_ONLY,
        engine: "registry",
        state: "image",
        name,
        id: image.digest,
        image: image.name,
        platform: `${os}/${architecture}`,
        user: config.User ?? "",
        workdir: config.WorkingDir ?? "",
        path: config.Env?.find((entry) => entry.startsWith("PATH="))?.slice("PATH=".length) ?? "",
      });
    },
    async layers({ id }, { signal, report }) {
      const { image, options } = found.get(id)!;
      await fetchLayers(image, { ...options, signal, report });
      return {
        layers: image.layers.map((layer) => ({ open: () => openLayer(layer) })),
        [Symbol.asyncDispose]: () => Promise.resolve(),
      };
    },
    archive: () => {
      throw new Error("a registry has no containers");
    },
    state: () => Promise.resolve("stopped"),
    list: () => Promise.resolve([]),
    added: () => Promise.resolve([]),
    readLink: () => Promise.resolve(undefined),
    ended: () => Promise.resolve(),
    locality: () => Promise.resolve({ hostSockets: false, publish: false }),
    published: () => Promise.resolve([]),
    labelled: () => Promise.resolve([]),
    hasImage: () => Promise.resolve(false),
    removeResource: nothingRuns,
    describe: nothingRuns,
    run: nothingRuns,
    exec: nothingRuns,
    removeCommand: (name) => name,
    remove: () => Promise.resolve(),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}
