import { assertEquals } from "../assert.ts";
import { registryOf } from "../../lib/registry.ts";

Deno.test(
  "registryOf() names the registry as the docker client's config file does",
  { permissions: "none" },
  () => {
    const hub = "https://index.docker.io/v1/";
    assertEquals(
      ["busybox", "library/busybox:musl", "docker.io/library/busybox", "index.docker.io/a/b"].map(registryOf),
      [hub, hub, hub, hub],
    );
    assertEquals(registryOf("ghcr.io/a/b:1"), "ghcr.io");
    assertEquals(registryOf("127.0.0.1:5000/a@sha256:00"), "127.0.0.1:5000");
    assertEquals(registryOf("localhost/a"), "localhost");
  },
);
