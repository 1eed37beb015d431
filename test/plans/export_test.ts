import { assert, assertEquals, assertThrows } from "../assert.ts";
import { FAKE_CAPABILITIES as docker, fakeTarget } from "../fake_driver.ts";
import { golden } from "../golden.ts";
import { CdebugError } from "../../lib/errors.ts";
import { parseFlags } from "../../lib/flags.ts";
import { formatYaml, parsePlan, type Plan } from "../../lib/plan.ts";
import type { Target } from "../../lib/target.ts";
import * as exports from "../../plans/export.ts";
import { parseBytes } from "../../lib/size.ts";

const pure = { permissions: "none" } as const;
const around = { cwd: "/home/me", image: undefined, isRoot: true, readText: () => "" };
const image = fakeTarget({
  state: "image",
  engine: "registry",
  name: "alpine:3.20",
  image: "docker.io/library/alpine:3.20",
  id: "sha256:1e42bbe2508154c9126d48c2b8a75420c3544343bf86fd041fb7527e017a4b4a",
  pid: null,
});

function request(...argv: string[]) {
  const { values, rest, behind } = parseFlags("export", exports.flags, argv, {
    anywhere: true,
    parted: true,
  });
  return exports.request(values, rest, around, behind);
}

function session(argv: readonly string[], target: Target = fakeTarget()) {
  const { session } = exports.compile(request(...argv), target, docker);
  assert(session.kind === "export");
  return session;
}

for (
  const [name, argv, target] of [
    ["export_folder", ["web"], fakeTarget({ mounts: ["/data", "/etc/hosts"] })],
    [
      "export_archive",
      ["web", "--volumes", "-o", "/tmp/web.tar.zst", "--max-size", "2G", "--manifest", "web.jsonl"],
      fakeTarget({ mounts: ["/data"], state: "paused" }),
    ],
    ["export_registry", ["image://alpine:3.20", "--path", "etc", "--force"], image],
  ] as const
) {
  golden(name, () => exports.compile(request(...argv), target, docker));
}

Deno.test("export: the name says what is made", pure, () => {
  for (
    const [argv, output, format] of [
      [["web"], "/home/me/web", "directory"],
      [["podman://web"], "/home/me/web", "directory"],
      [["image://shop/web:1.2"], "/home/me/web-1.2", "directory"],
      [["pid://4711"], "/home/me/4711", "directory"],
      [["web", "-o", "x/../y"], "/home/me/y", "directory"],
      [["web", "-o", "/tmp/a.tar"], "/tmp/a.tar", "tar"],
      [["web", "-o", "a.tgz"], "/home/me/a.tgz", "tar.gz"],
      [["web", "-o", "a.tar.gz"], "/home/me/a.tar.gz", "tar.gz"],
      [["web", "-o", "a.tar.zst"], "/home/me/a.tar.zst", "tar.zst"],
      [["web", "-o", "-"], "-", "tar"],
    ] as const
  ) {
    const found = session(argv);
    assertEquals([found.output, found.format], [output, format]);
  }
});

Deno.test("export: what is mounted is left out, or added, or asked for", pure, () => {
  const target = fakeTarget({ mounts: ["/data"] });
  assertEquals(session(["web"], target).leftOut, ["/data"]);
  assertEquals(session(["web", "--volumes"], target).volumes, ["/data"]);
  const { paths, leftOut, volumes } = session(["web", "--path", "/data/./x/../y", "--path", "etc"], target);
  assertEquals([paths, leftOut, volumes], [["/data/y", "/etc"], undefined, undefined]);
  const once = session([
    "web",
    "--path",
    "/etc/passwd",
    "--path",
    "/etc",
    "--path",
    "/etc",
    "--path",
    "/etcd",
  ]);
  assertEquals(once.paths, ["/etc", "/etcd"]);
  const memory = fakeTarget({ mounts: ["/data"], inMemory: ["/run"] });
  for (const flags of [[], ["--volumes"]]) {
    assertEquals(session(["web", ...flags], memory).inMemory, ["/run"]);
  }
});

Deno.test("export: refuses what makes no sense", pure, () => {
  assertThrows(() => request(), CdebugError, "no target is named");
  assertThrows(() => request("web", "/etc"), CdebugError, 'expected one target, found also "/etc"');
  assertThrows(() => request("image://.."), CdebugError, "gives no name for a folder");
  assertThrows(() => request("web", "--max-size", "much"), CdebugError, "takes a size such as");
  assertThrows(() => session(["image://alpine:3.20", "--volumes"], image), CdebugError, "is an image");
  assertThrows(() => request("web:/etc"), CdebugError, "is no target");
  for (const name of ["x.zip", "x.TAR", "x.tar.xz", "x.tbz2"]) {
    assertThrows(() => request("web", "-o", name), CdebugError, "of a kind that cdebug does not make");
  }
  assertThrows(() => request("web", "-o", "x.tar", "--no-same-owner"), CdebugError, "always has the owners");
  for (const [output, manifest] of [["x.tar", "./x.tar"], ["x", "x/list"], ["-", "-"]] as const) {
    const words = ["web", "-o", output, "--manifest", manifest];
    assertThrows(() => request(...words), CdebugError, "in what -o makes");
  }
  assertThrows(() => session(["web", "--platform", "linux/arm64"]), CdebugError, "not an image");
});

Deno.test("export: another target gives its name to the folder, where the user has not", pure, () => {
  const again = (argv: readonly string[]) =>
    exports.compile({ ...request(...argv), target: "docker://shop" }, fakeTarget(), docker).session;
  assertEquals(again(["web"]), { ...session(["web"]), output: "/home/me/shop" });
  assertEquals(again(["web", "-o", "web"]), session(["web"]));
});

Deno.test("export: a saved plan that contradicts itself is refused", () => {
  const plan = exports.compile(request("web", "-o", "/tmp/web.tar"), fakeTarget(), docker);
  assertEquals(parsePlan(formatYaml(plan), "plan.yaml"), plan);
  for (
    const [session, text] of [
      [{ output: "/etc/passwd" }, "Expected what the request says, /tmp/web.tar"],
      [{ output: "-", format: "directory" }, "Expected tar, as stdout takes one"],
      [{ force: true }, "Expected what the request says, false"],
      [{ manifest: "/etc/passwd" }, "Expected what the request says, none"],
      [{ source: "layers" }, "Expected archive, as the target is running"],
      [{ paths: [] }, "session.paths"],
    ] as const
  ) {
    const edited = formatYaml({ ...plan, session: { ...plan.session, ...session } } as unknown as Plan);
    assertThrows(() => parsePlan(edited, "plan.yaml"), CdebugError, text);
  }
});

Deno.test("parseBytes() reads sizes", pure, () => {
  for (
    const [text, bytes] of [["1", 1], ["2k", 2048], ["500M", 500 * 2 ** 20], ["1.5GiB", 1.5 * 2 ** 30], [
      "1TB",
      2 ** 40,
    ]] as const
  ) {
    assertEquals(parseBytes(text, "x"), bytes);
  }
  for (const text of ["", "0", "-1", "1Q", "1 G", "9999999T"]) {
    assertThrows(() => parseBytes(text, "x"), CdebugError, "takes a size");
  }
});
