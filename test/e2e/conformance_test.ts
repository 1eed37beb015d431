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
        async link(path, to) {
          await engine.client(["exec", found.name, "ln", "-s", to, path]);
          return {
            [Symbol.asyncDispose]: async () => void await engine.client(["exec", found.name, "rm", path]),
          };
        },
        async labelled(label) {
          const id = await engine.client(["commit", "--change", `LABEL ${label}=yes`, found.name]);
          return `sha256:${id.trim().replace(/^.*sha256:/, "")}`;
        },
        async [Symbol.asyncDispose]() {
          await found[Symbol.asyncDispose]();
          await driver[Symbol.asyncDispose]();
        },
      };
    }),
  );
}
