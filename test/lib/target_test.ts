import { assertEquals, assertThrows } from "../assert.ts";
import { fakeTarget } from "../fake_driver.ts";
import { CdebugError } from "../../lib/errors.ts";
import { differences, ENGINES, highest, parseRef } from "../../lib/target.ts";

const pure = { permissions: "none" } as const;

Deno.test("parseRef() reads names with and without a scheme", pure, () => {
  assertEquals(parseRef("web"), { engines: ENGINES, kind: "container", name: "web" });
  assertEquals(parseRef("docker://web_1.a-b"), { engines: ["docker"], kind: "container", name: "web_1.a-b" });
  assertEquals(parseRef("image://repo.example:5000/a/b:1@sha256:0"), {
    engines: ["docker", "podman", "registry"],
    kind: "image",
    name: "repo.example:5000/a/b:1@sha256:0",
  });
  assertEquals(parseRef("podman-image://busybox"), { engines: ["podman"], kind: "image", name: "busybox" });
  assertEquals(parseRef("oci://web"), { engines: ["runc", "crun"], kind: "container", name: "web" });
  assertEquals(parseRef("4213d194"), { engines: ENGINES, kind: "container", name: "4213d194" });
});

Deno.test("parseRef() refuses unknown schemes and names the known ones", pure, () => {
  assertEquals(
    assertThrows(() => parseRef("dokcer://web"), CdebugError, 'unknown scheme "dokcer"').hint,
    "cdebug knows docker://",
  );
});

Deno.test("parseRef() refuses what could reach another address of an engine's API", pure, () => {
  for (
    const ref of ["", "docker://", "../images/x", "web/json?x", "web json", "-web", "a%2Fb", "ü", "a\nb"]
  ) {
    assertThrows(() => parseRef(ref), CdebugError, "is not a container's name or ID");
  }
  for (
    const ref of ["image://", "image://../x", "image://a/../b", "image://a?b", "image://a//b", "image:///a"]
  ) {
    assertThrows(() => parseRef(ref), CdebugError, "is not an image's name");
  }
});

Deno.test("highest() takes a container that several engines see for one", pure, () => {
  const found = [
    { engine: "pid", id: "71.5.4", name: "3f2a8b7c9d0e" },
    { engine: "runc", id: "71.5.4", name: "3f2a8b7c9d0e11" },
    { engine: "podman", id: "3f2a8b7c9d0e11", name: "web" },
    { engine: "docker", id: "9", name: "web" },
    { engine: "pid", id: "80.5.4", name: "80" },
    { engine: "runc", id: "90.5.4", name: "own" },
    { engine: "pid", id: "90.5.4", name: "90" },
  ] as const;
  assertEquals(highest(found).map(({ engine, name }) => `${engine}://${name}`), [
    "podman://web",
    "docker://web",
    "pid://80",
    "runc://own",
  ]);
});

Deno.test("differences() are those of the ID and the start time", pure, () => {
  const before = fakeTarget();
  assertEquals(differences(before, fakeTarget({ image: "other" })), []);
  assertEquals(differences(before, fakeTarget({ id: "9", startedAt: "later" })), [
    "id was 4213d19412eb701a, is 9",
    "startedAt was 2026-11-23T11:55:01.5Z, is later",
  ]);
});
