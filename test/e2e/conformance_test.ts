/** The driver contract, on real engines. */

import { conformance } from "../conformance.ts";
import { openDriver } from "../../lib/driver.ts";
import { engineOf, HOSTS, type LiveEngine, target, TOOLKIT } from "./engine.ts";

for (const name of Object.keys(HOSTS) as LiveEngine[]) {
  const engine = engineOf(name);
  conformance(
    name,
    engine && (async () => {
      const driver = await openDriver(name === "docker" ? name : "podman", engine.host);
      const found = await target({ engine: name });
      return {
        driver,
        target: found.name,
        image: TOOLKIT,
        async containers() {
          const filter = ["--filter", "label=cdebug.session"];
          const names = await engine.client(["ps", "-a", ...filter, "--format", "{{.Names}}"]);
          return names.split("\n").filter(Boolean);
        },
        async images() {
          return (await engine.client(["images", "-a", "--format", "{{.ID}} {{.Repository}}"])).split("\n")
            .sort();
        },
        async [Symbol.asyncDispose]() {
          await found[Symbol.asyncDispose]();
          await driver[Symbol.asyncDispose]();
        },
      };
    }),
  );
}
