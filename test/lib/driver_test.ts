import { conformance } from "../conformance.ts";
import { openFake } from "../fake_driver.ts";

conformance("fake", () => {
  const driver = openFake();
  return Promise.resolve({
    driver,
    target: "web",
    image: "busybox:musl",
    images: () => Promise.resolve([...driver.images]),
    containers: () => Promise.resolve(driver.containers()),
    async link(path, to) {
      const { id } = await driver.inspect("web");
      driver.paths.set(id, new Map([[path, to]]));
      return { [Symbol.asyncDispose]: () => Promise.resolve(void driver.paths.delete(id)) };
    },
    labelled(label) {
      const id = "sha256:5eed";
      driver.resources.set(id, { kind: "image", id, names: [], labels: { [label]: "yes" } });
      return Promise.resolve(id);
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  });
});
