/** Pulls, with the logins that the docker client's config file names, from a registry that wants one. */

import { assert, assertEquals, assertIncludes } from "../assert.ts";
import { type Registry, startRegistry } from "../engines/registry.ts";
import { run } from "../engines/debian.ts";
import { temporaryDirectory } from "../temporary.ts";
import { BARE, cdebug, docker, DOCKER_HOST, liveTest, target, TOOLKIT } from "./engine.ts";

/** A registry that has the toolkit, and a directory for a docker client's settings. */
async function withRegistry(
  check: (at: { registry: Registry; image: string; config: string; web: string }) => Promise<void>,
): Promise<void> {
  await using registry = await startRegistry();
  await using web = await target({ image: BARE });
  await using directory = await temporaryDirectory();
  const config = directory.path;
  const image = `${registry.address}/tools/busybox:1`;
  try {
    await docker(["tag", TOOLKIT, image]);
    const login = JSON.stringify({ auths: { [registry.address]: { auth: basic(registry) } } });
    await Deno.writeTextFile(`${config}/config.json`, login);
    await run("docker", ["push", "-q", image], { env: { DOCKER_HOST: DOCKER_HOST!, DOCKER_CONFIG: config } });
    await docker(["rmi", image]);
    await Deno.remove(`${config}/config.json`);
    await check({ registry, image, config, web: web.name });
  } finally {
    await docker(["rmi", "-f", image]).catch(() => {});
  }
}

function basic({ username, password }: Registry): string {
  return btoa(`${username}:${password}`);
}

/** Pulls with the settings given, and throws the image away again. */
async function pullWith(
  at: { image: string; config: string; web: string },
  settings: unknown,
  env: Record<string, string> = {},
) {
  await Deno.writeTextFile(`${at.config}/config.json`, JSON.stringify(settings));
  const result = await cdebug(["exec", "--image", at.image, at.web, "echo", "pulled"], {
    env: { DOCKER_CONFIG: at.config, ...env },
  });
  await docker(["rmi", at.image]).catch(() => {});
  return result;
}

const pulled = { code: 0, stdout: "pulled\n", stderr: "" };

liveTest("pull: with the login of auths, as a host or as a URL", () =>
  withRegistry(async (at) => {
    const auth = basic(at.registry);
    assertEquals(await pullWith(at, { auths: { [at.registry.address]: { auth } } }), pulled);
    assertEquals(await pullWith(at, { auths: { [`http://${at.registry.address}/v1/`]: { auth } } }), pulled);
  }));

liveTest(
  "pull: without a login, or with a wrong one, says so and leaves nothing",
  () =>
    withRegistry(async (at) => {
      for (const settings of [{}, { auths: { [at.registry.address]: { auth: btoa("tester:wrong") } } }]) {
        const { code, stdout, stderr } = await pullWith(at, settings);
        assertEquals([code, stdout], [125, ""]);
        assertIncludes(stderr, `Cannot pull "${at.image}"`);
        assert(/unauthorized|no basic auth|authentication required/.test(stderr), stderr);
        assertIncludes(stderr, `Hint: docker pull ${at.image}`);
      }
    }),
);

liveTest(
  "pull: with the login of a credential helper, for one registry or for all",
  () =>
    withRegistry(async (at) => {
      const { address, username, password } = at.registry;
      const bin = `${at.config}/bin`;
      await Deno.mkdir(bin);
      const helper = (name: string, body: string) =>
        Deno.writeTextFile(`${bin}/docker-credential-${name}`, `#!/bin/sh\n${body}\n`, { mode: 0o755 });
      const answer = JSON.stringify({ ServerURL: address, Username: username, Secret: password });
      await helper("good", `read -r url; [ "$1 $url" = "get ${address}" ] && echo '${answer}'`);
      await helper("empty", "echo credentials not found in native keychain; exit 1");
      await helper("broken", "echo the keychain is locked >&2; exit 1");
      const env = { PATH: `${bin}:${Deno.env.get("PATH")}` };

      assertEquals(await pullWith(at, { credHelpers: { [address]: "good" } }, env), pulled);
      assertEquals(await pullWith(at, { credsStore: "good" }, env), pulled);
      assertEquals(
        await pullWith(at, { credsStore: "broken", credHelpers: { [address]: "good" } }, env),
        pulled,
      );
      const auths = { [address]: { auth: basic(at.registry) } };
      assertEquals(await pullWith(at, { credsStore: "empty", auths }, env), pulled);

      const broken = await pullWith(at, { credsStore: "broken" }, env);
      assertEquals(broken.code, 125);
      assertIncludes(broken.stderr, "docker-credential-broken failed: the keychain is locked");
      const missing = await pullWith(at, { credsStore: "missing" }, env);
      assertEquals(missing.code, 125);
      assertIncludes(missing.stderr, "docker-credential-missing");
    }),
);

liveTest("pull: --pull says when", () =>
  withRegistry(async (at) => {
    const settings = { auths: { [at.registry.address]: { auth: basic(at.registry) } } };
    await Deno.writeTextFile(`${at.config}/config.json`, JSON.stringify(settings));
    const exec = (...flags: string[]) =>
      cdebug(["exec", ...flags, "--image", at.image, at.web, "echo", "pulled"], {
        env: { DOCKER_CONFIG: at.config },
      });
    const never = await exec("--pull", "never");
    assertEquals(never.code, 125);
    assertIncludes(never.stderr, "the daemon does not have it");
    assertEquals(await exec("--pull", "missing"), pulled);
    assertEquals(await exec("--pull", "never"), pulled);
    assertEquals(await exec("--pull", "always"), pulled);
    await at.registry.stop();
    assertEquals(await exec(), pulled);
    assertEquals((await exec("--pull", "always")).code, 125);
  }));
