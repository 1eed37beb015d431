/** Which engine's target a ref means, on engines that know nothing but names. */

import { assertEquals, assertIncludes, assertRejects } from "../assert.ts";
import { temporaryDirectory } from "../temporary.ts";
import { findTarget, openTarget } from "../../lib/commands/find.ts";
import { CdebugError } from "../../lib/errors.ts";
import { parseRef } from "../../lib/target.ts";

const QUIET = { quiet: true };

/** An engine's containers, or `dead`: it is named, and does not listen; without either, nobody names it. */
type Fake = readonly string[] | "dead";

/** Engines at the addresses that the environment names. */
async function engines(fakes: { readonly docker?: Fake; readonly podman?: Fake }) {
  await using stack = new AsyncDisposableStack();
  const { path: dir } = stack.use(await temporaryDirectory());
  const asked: string[] = [];
  for (const [engine, variable] of [["docker", "DOCKER_HOST"], ["podman", "CONTAINER_HOST"]] as const) {
    const path = `${dir}/${engine}.sock`;
    const before = Deno.env.get(variable);
    const containers = fakes[engine];
    if (containers) Deno.env.set(variable, `unix://${path}`);
    else Deno.env.delete(variable);
    stack.defer(() => before === undefined ? Deno.env.delete(variable) : Deno.env.set(variable, before));
    if (containers === undefined || containers === "dead") continue;
    const server = Deno.serve({ path, onListen: () => {} }, ({ url }) => {
      asked.push(engine);
      return answer(new URL(url).pathname, containers);
    });
    stack.defer(() => server.shutdown());
  }
  const own = stack.move();
  return { asked, [Symbol.asyncDispose]: () => own.disposeAsync() };
}

/** Source: Engine API, the requests of an inspect. */
function answer(path: string, containers: readonly string[]): Response {
  if (path === "/_ping") return new Response("OK", { headers: { "api-version": "1.41" } });
  if (path.endsWith("/containers/json")) {
    return Response.json(
      containers.map((name) => ({ Id: `id-of-${name}`, Names: [`/${name}`], Created: 0 })),
    );
  }
  const name = /\/containers\/(.*)\/json$/.exec(path)?.[1];
  if (name === undefined || !containers.includes(name)) {
    return Response.json({ message: "none" }, { status: 404 });
  }
  return Response.json({
    Id: `id-of-${name}`,
    Name: `/${name}`,
    State: { Running: true, Paused: name === "paused", StartedAt: "" },
    HostConfig: {},
    Config: { Image: "any" },
  });
}

/** The error's text and hint. */
async function failure(found: () => Promise<unknown>): Promise<string> {
  const { message, hint } = await assertRejects(found, CdebugError);
  return `${message}\n${hint}`;
}

Deno.test("openTarget() takes the default engine's target, and asks no other engine", async () => {
  await using fakes = await engines({ docker: ["web"], podman: ["web"] });
  await using found = await openTarget("web", undefined, QUIET);
  assertEquals([found.ref, found.target.engine, new Set(fakes.asked)], [
    "web",
    "docker",
    new Set(["docker"]),
  ]);
});

Deno.test("openTarget() takes the target of the only other engine that has it", async () => {
  await using _ = await engines({ docker: [], podman: ["web"] });
  await using found = await openTarget("web", undefined, QUIET);
  assertEquals([found.ref, found.target.engine, found.driver.engine], ["podman://web", "podman", "podman"]);
});

Deno.test("openTarget() asks the engine that is named alone", async () => {
  await using fakes = await engines({ docker: [], podman: ["web"] });
  assertIncludes(
    await failure(() => openTarget("docker://web", undefined, QUIET)),
    "no such container\ndocker ps",
  );
  assertIncludes(
    await failure(() => openTarget("web", Deno.env.get("DOCKER_HOST"), QUIET)),
    "no such container",
  );
  assertEquals(new Set(fakes.asked), new Set(["docker"]));
});

Deno.test("openTarget() names every engine that has not the target, and what is near on each", async () => {
  await using _ = await engines({ docker: ["web-1"], podman: ["web-2"] });
  const text = await failure(() => openTarget("web", undefined, QUIET));
  assertIncludes(text, "docker.sock: there is no such container; nor on podman");
  assertIncludes(text, "Did you mean web-1 or podman://web-2?");
});

Deno.test("openTarget() does not take another engine's target for that of one which fails", async () => {
  await using _ = await engines({ docker: "dead", podman: ["web"] });
  const text = await failure(() => openTarget("web", undefined, QUIET));
  assertIncludes(text, "there is no such socket\n");
  assertIncludes(text, "; or podman://web, if that is meant");
  assertIncludes(
    await failure(() => openTarget("other", undefined, QUIET)),
    "there is no such socket\nunset",
  );
});

Deno.test("openTarget() tells what the default engine knows of a target that cannot be debugged", async () => {
  await using _ = await engines({ docker: ["paused"], podman: [] });
  assertIncludes(await failure(() => openTarget("paused", undefined, QUIET)), "it is paused\ndocker unpause");
});

Deno.test({
  name: "openTarget() does without a default engine that is not there",
  ignore: await Deno.lstat("/var/run/docker.sock").then(() => true, () => false),
  async fn() {
    await using _ = await engines({ podman: ["web"] });
    await using found = await openTarget("web", undefined, QUIET);
    assertEquals(found.ref, "podman://web");
    const text = await failure(() => openTarget("wbe", undefined, QUIET));
    assertIncludes(text, "podman.sock: there is no such container");
    assertIncludes(text, "; docker is not there\n");
    assertIncludes(text, "Did you mean podman://web?");
  },
});

Deno.test("findTarget() names all engines that have the target", async () => {
  await using _ = await engines({ docker: [], podman: ["web"] });
  const ref = { ...parseRef("web"), engines: ["docker", "podman", "podman"] as const };
  const text = await failure(() => findTarget(ref, "web", undefined, QUIET));
  assertEquals(
    text,
    'Cannot tell which "web" is meant: several engines have one\n' +
      "name it with its engine: podman://web or podman://web",
  );
});
