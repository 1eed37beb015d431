/** The driver contract, on a real Docker daemon. */

import { conformance } from "../conformance.ts";
import { openDriver } from "../../lib/driver.ts";
import { docker, DOCKER_HOST, target, TOOLKIT } from "./engine.ts";

conformance(
  "docker",
  DOCKER_HOST === undefined ? undefined : async () => {
    const driver = await openDriver("docker", DOCKER_HOST);
    const found = await target();
    return {
      driver,
      target: found.name,
      image: TOOLKIT,
      async containers() {
        const names = await docker([
          "ps",
          "-a",
          "--filter",
          "label=cdebug.session",
          "--format",
          "{{.Names}}",
        ]);
        return names.split("\n").filter(Boolean);
      },
      async [Symbol.asyncDispose]() {
        await found[Symbol.asyncDispose]();
        await driver[Symbol.asyncDispose]();
      },
    };
  },
);
