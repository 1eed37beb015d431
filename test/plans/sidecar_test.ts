import { assertEquals, assertThrows } from "../assert.ts";
import { fakeTarget } from "../fake_driver.ts";
import { CdebugError } from "../../lib/errors.ts";
import { isRoot, leastRights, shareNamespaces } from "../../plans/sidecar.ts";
import type { Capabilities, Target } from "../../lib/target.ts";

const pure = { permissions: "none" } as const;

function shared(namespaces: Partial<Target["namespaces"]>, join: Capabilities["join"]) {
  const target = fakeTarget();
  return shareNamespaces({ ...target, namespaces: { ...target.namespaces, ...namespaces } }, {
    join,
    snapshot: true,
    images: true,
    terminal: "relayed",
    ownNamespaces: true,
  });
}

Deno.test("shareNamespaces() shares what the target and the engine allow, and says what not", pure, () => {
  assertEquals(shared({}, ["network", "pid", "ipc"]), {
    namespaces: { network: "target", pid: "target", ipc: "own", uts: "own", user: "engine" },
    reasons: ["IPC is its own: the target's is private", "UTS is its own: docker cannot share it"],
  });
  assertEquals(shared({ ipc: "shareable" }, ["network", "pid", "ipc", "uts"]), {
    namespaces: { network: "target", pid: "target", ipc: "target", uts: "target", user: "engine" },
    reasons: [],
  });
});

Deno.test("shareNamespaces() follows a target into the host's, whatever the engine can join", pure, () => {
  assertEquals(
    shared({ network: "host", pid: "host", ipc: "host", uts: "host", user: "host" }, []),
    {
      namespaces: { network: "host", pid: "host", ipc: "host", uts: "host", user: "host" },
      reasons: [],
    },
  );
});

Deno.test("shareNamespaces() joins a user namespace of the target's own, or refuses", pure, () => {
  assertEquals(shared({ user: "own" }, ["network", "pid", "ipc", "uts", "user"]).namespaces.user, "target");
  assertEquals(
    shared({ user: "engine" }, ["network", "pid", "ipc", "uts", "user"]).namespaces.user,
    "engine",
  );
  assertThrows(() => shared({ user: "own" }, ["network", "pid", "ipc"]), CdebugError);
});

Deno.test("leastRights() adds nothing for a root target", pure, () => {
  assertEquals(leastRights(fakeTarget(), {}), { rights: {}, reasons: [] });
});

Deno.test("leastRights() adds SYS_PTRACE for a target that is not root, and says why", pure, () => {
  assertEquals(leastRights(fakeTarget({ user: "1000:1000" }), {}), {
    rights: { addLinuxCapabilities: ["SYS_PTRACE"] },
    reasons: [
      "SYS_PTRACE is added: the target runs as user 1000:1000, its root is closed to others without it",
    ],
  });
});

Deno.test("leastRights() gives back SYS_CHROOT to a target that dropped it", pure, () => {
  for (const dropped of ["ALL", "SYS_CHROOT"]) {
    const { rights, reasons } = leastRights(fakeTarget({ dropLinuxCapabilities: [dropped] }), {});
    assertEquals(rights.addLinuxCapabilities, ["SYS_CHROOT"]);
    assertEquals(reasons, [
      `SYS_CHROOT is added: entering the target's root takes it, and the target dropped ${dropped}`,
    ]);
  }
});

Deno.test("leastRights() gives the target's own user no SYS_PTRACE", pure, () => {
  for (const user of ["1000", "1000:1000"]) {
    assertEquals(leastRights(fakeTarget({ user: "1000:1000" }), { user }), { rights: {}, reasons: [] });
  }
  const { rights } = leastRights(fakeTarget({ user: "1000", dropLinuxCapabilities: ["ALL"] }), {
    user: "1000",
  });
  assertEquals(rights.addLinuxCapabilities, ["SYS_CHROOT", "SETUID", "SETGID", "KILL"]);
});

Deno.test("leastRights() does not enter the target's root where the toolkit's stays /", pure, () => {
  const target = fakeTarget({ dropLinuxCapabilities: ["ALL"] });
  assertEquals(leastRights(target, { root: "toolkit" }).reasons, []);
});

Deno.test("leastRights() takes over the target's own set and settings", pure, () => {
  const target = fakeTarget({
    addLinuxCapabilities: ["NET_ADMIN"],
    dropLinuxCapabilities: ["MKNOD"],
    securityOptions: ["no-new-privileges"],
  });
  assertEquals(leastRights(target, {}).rights, {
    addLinuxCapabilities: ["NET_ADMIN"],
    dropLinuxCapabilities: ["MKNOD"],
    securityOptions: ["no-new-privileges"],
  });
});

Deno.test("leastRights() lets what was asked for win", pure, () => {
  const target = fakeTarget({
    user: "1000",
    addLinuxCapabilities: ["NET_ADMIN"],
    dropLinuxCapabilities: ["MKNOD"],
  });
  assertEquals(leastRights(target, { capAdd: ["MKNOD"], capDrop: ["NET_ADMIN"] }).rights, {
    addLinuxCapabilities: ["MKNOD", "SYS_PTRACE"],
    dropLinuxCapabilities: ["NET_ADMIN"],
  });
  assertEquals(leastRights(target, { capDrop: ["SYS_PTRACE"] }).rights, {
    addLinuxCapabilities: ["NET_ADMIN"],
    dropLinuxCapabilities: ["MKNOD", "SYS_PTRACE"],
  });
  assertEquals(leastRights(target, { privileged: true }), {
    rights: {
      privileged: true,
      addLinuxCapabilities: ["NET_ADMIN"],
      dropLinuxCapabilities: ["MKNOD"],
    },
    reasons: ["privileged: it was asked for"],
  });
});

Deno.test("leastRights() keeps a root target's door open for a session with fewer rights", pure, () => {
  assertEquals(leastRights(fakeTarget(), { capDrop: ["NET_RAW"] }), {
    rights: { addLinuxCapabilities: ["SYS_PTRACE"], dropLinuxCapabilities: ["NET_RAW"] },
    reasons: [
      "SYS_PTRACE is added: the target's root is closed to who has fewer Linux capabilities than the target",
    ],
  });
  assertEquals(leastRights(fakeTarget(), { capDrop: ["ALL"] }).rights, {
    addLinuxCapabilities: ["SYS_PTRACE", "SYS_CHROOT"],
    dropLinuxCapabilities: ["ALL"],
  });
});

Deno.test("isRoot() reads a container's user setting", pure, () => {
  assertEquals(["", "0", "root", "0:5", "root:staff"].every(isRoot), true);
  assertEquals(["1000", "web", "1000:0", "00x"].some(isRoot), false);
});
