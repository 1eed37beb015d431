/** The driver contract, on processes and on containers of runc and crun. */

import { conformance, type Subject } from "../conformance.ts";
import { startTarget } from "../engines/process.ts";
import { startRunc } from "../engines/runc.ts";
import { fillOrdinary } from "../engines/images.ts";
import type { LocalTarget } from "../engines/target.ts";
import { type Driver, openDriver } from "../../lib/driver.ts";
import { canMake } from "./local.ts";

const options = { fill: fillOrdinary };

function subject(driver: Driver, name: string, target: LocalTarget): Subject {
  return {
    driver,
    target: name,
    image: "host",
    containers: async () => (await driver.list({ label: "cdebug.session" })).map(({ name }) => name),
    images: () => Promise.resolve([]),
    link: () => Promise.reject(new Error("a process has no image to compare with")),
    labelled: () => Promise.reject(new Error("processes have no images")),
    [Symbol.asyncDispose]: () => target[Symbol.asyncDispose](),
  };
}

conformance(
  "pid",
  canMake("root")
    ? async () => {
      const target = await startTarget(options);
      return subject(await openDriver("pid", undefined), String(target.pid), target);
    }
    : undefined,
  { containers: false },
);

for (const runtime of ["runc", "crun"] as const) {
  conformance(
    runtime,
    canMake(runtime)
      ? async () => {
        const target = await startRunc({ ...options, runtime });
        return subject(await openDriver(runtime, target.state), target.id, target);
      }
      : undefined,
    { containers: false },
  );
}
