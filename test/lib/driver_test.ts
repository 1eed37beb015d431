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
    [Symbol.asyncDispose]: () => Promise.resolve(),
  });
});
