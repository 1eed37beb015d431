/** Images from a real registry, that wants a login and may have a certificate of the tests' own; no engine. */

import { CdebugError, NotFound } from "../../lib/errors.ts";
import { fetchLayers, openLayer, type RegistryOptions, resolveImage } from "../../lib/registry/client.ts";
import { assertEquals, assertIncludes, assertRejects } from "../assert.ts";
import { obstacle, run, say } from "../engines/debian.ts";
import { pushImage, type Registry, startRegistry } from "../engines/registry.ts";
import { temporaryDirectory } from "../temporary.ts";
import { cdebug } from "./engine.ts";

/** The runtime's packages, which it would else look for in the cache of a test's own. */
const DENO_DIR = JSON.parse(await run(Deno.execPath(), ["info", "--json"])).denoDir;

const why = await obstacle();
if (why) say(`Skipped, for ${why}: images from a registry`);

/** A large layer, which comes in several pieces, and a small one. */
const LAYERS = [5_000_000, 1000].map((size) => {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
  return bytes;
});

interface World {
  readonly registry: Registry;
  readonly image: string;
  /** `--registry-config` names the authority. */
  readonly config: string;
  readonly dir: string;
  docker(settings: unknown): Promise<void>;
}

/** Registers a test with the image in a registry, in the environment of a user who has nothing. */
function registryTest(name: string, options: { tls: boolean }, check: (world: World) => Promise<void>): void {
  Deno.test({
    name: `registry: ${name}`,
    ignore: why !== undefined && Deno.env.get("CI") !== "true",
    async fn() {
      await using registry = await startRegistry(options);
      await using directory = await temporaryDirectory();
      const dir = directory.path;
      const config = `${dir}/registries.json`;
      await Deno.writeTextFile(
        config,
        JSON.stringify(registry.ca === undefined ? {} : { ca: { [registry.address]: registry.ca } }),
      );
      await pushImage(registry, "tools/box:1", LAYERS);
      const env = {
        XDG_CACHE_HOME: `${dir}/cache`,
        XDG_RUNTIME_DIR: dir,
        HOME: dir,
        DOCKER_CONFIG: dir,
        REGISTRY_AUTH_FILE: "",
        PATH: `${dir}:${Deno.env.get("PATH")}`,
      };
      const before = Object.keys(env).map((name) => [name, Deno.env.get(name)] as const);
      for (const [name, value] of Object.entries(env)) Deno.env.set(name, value);
      try {
        await check({
          registry,
          image: `${registry.address}/tools/box:1`,
          config,
          dir,
          docker: (settings) => Deno.writeTextFile(`${dir}/config.json`, JSON.stringify(settings)),
        });
      } finally {
        for (const [name, value] of before) {
          if (value === undefined) Deno.env.delete(name);
          else Deno.env.set(name, value);
        }
      }
    },
  });
}

async function pull(image: string, options: RegistryOptions): Promise<Uint8Array[]> {
  const found = await resolveImage(image, options);
  await fetchLayers(found, options);
  return await Promise.all(found.layers.map(async (layer) => {
    const chunks = await Array.fromAsync(openLayer(layer), (chunk) => chunk.slice());
    return await new Blob(chunks).bytes();
  }));
}

const loginOf = ({ username, password }: Registry) => btoa(`${username}:${password}`);

registryTest("with TLS by an own authority, and the right login", { tls: true }, async (world) => {
  const { registry, image, config, docker } = world;
  await docker({ auths: { [registry.address]: { auth: loginOf(registry) } } });
  const error = await assertRejects(() => pull(image, {}), CdebugError, "its certificate is not trusted");
  assertIncludes(error.hint!, `--registry-config FILE, with  ca: {"${registry.address}"`);
  assertEquals(await pull(image, { config }), LAYERS);
  const missing = await assertRejects(() => pull(`${image}2`, { config }), NotFound, "no such image");
  assertIncludes(missing.message, "manifest unknown");
  // Half of a layer, as a cdebug that was killed leaves it, is gone on with.
  const { digest, size } = (await resolveImage(image, { config })).layers[0]!;
  const path = `${world.dir}/cache/cdebug/blobs/sha256/${digest.replace("sha256:", "")}`;
  await Deno.rename(path, `${path}.partial`);
  await Deno.truncate(`${path}.partial`, size / 2);
  assertEquals(await pull(image, { config }), LAYERS);
});

registryTest("without a login, with a wrong one, and with Podman's", { tls: true }, async (world) => {
  const { registry, image, config, docker, dir } = world;
  const refused = async (text: string) => {
    const { hint } = await assertRejects(() => pull(image, { config }), CdebugError, text);
    assertEquals(hint, `docker login ${registry.address}`);
  };
  await refused("wants a login, of which there is none");
  await docker({ auths: { [registry.address]: { auth: btoa("tester:wrong") } } });
  await refused(`refuses the login of ${dir}/config.json`);
  await docker({});
  await Deno.mkdir(`${dir}/.config/containers`, { recursive: true });
  const auths = { [`${registry.address}/tools`]: { auth: loginOf(registry) } };
  await Deno.writeTextFile(`${dir}/.config/containers/auth.json`, JSON.stringify({ auths }));
  assertEquals(await pull(image, { config }), LAYERS);
});

registryTest("with a credential helper", { tls: false }, async ({ registry, image, docker, dir }) => {
  const answer = JSON.stringify({ Username: registry.username, Secret: registry.password });
  const helper = (name: string, body: string) =>
    Deno.writeTextFile(`${dir}/docker-credential-${name}`, `#!/bin/sh\n${body}\n`, { mode: 0o755 });
  await helper("good", `read -r url; [ "$1 $url" = "get ${registry.address}" ] && echo '${answer}'`);
  await helper("broken", "echo the keychain is locked >&2; exit 1");
  await docker({ credsStore: "broken" });
  await assertRejects(
    () => pull(image, {}),
    CdebugError,
    "docker-credential-broken failed: the keychain is locked",
  );
  await docker({ credsStore: "broken", credHelpers: { [registry.address]: "good" } });
  assertEquals(await pull(image, {}), LAYERS);
});

registryTest("what is in the cache is listed, and removed", { tls: false }, async (world) => {
  const { registry, image, docker, dir } = world;
  await docker({ auths: { [registry.address]: { auth: loginOf(registry) } } });
  await pull(image, {});
  const cache = (...args: string[]) => cdebug(["cache", ...args], { env: { DENO_DIR } });
  const sizes = async () => {
    const cached: { sizeBytes: number }[] = JSON.parse((await cache("-o", "json")).stdout);
    return cached.map(({ sizeBytes }) => sizeBytes).sort((a, b) => a - b);
  };
  assertEquals(await sizes(), [1000, 5_000_000]);
  assertIncludes((await cache()).stdout, "4.8 MiB");
  assertIncludes((await cache()).stderr, `4.8 MiB in ${dir}/cache/cdebug`);
  assertEquals((await cache("prune", "--limit", "1G")).code, 0);
  assertEquals((await sizes()).length, 2);
  assertEquals((await cache("prune")).code, 0);
  assertEquals(await sizes(), []);
  for (const args of [["prun"], ["--limit", "1G"], ["prune", "--limit", "lots"]]) {
    const { code, stderr } = await cache(...args);
    assertEquals(code, 125);
    assertIncludes(stderr, "cdebug: Cannot run cache");
  }
});
