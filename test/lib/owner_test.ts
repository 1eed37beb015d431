import { assert, assertEquals } from "../assert.ts";
import { ownerState, ownIdentity } from "../../lib/owner.ts";

const own = ownIdentity();
const [pid, start, ...place] = own.split(".");

Deno.test("ownIdentity() fits into a label of any engine", () => {
  assert(/^[A-Za-z0-9][A-Za-z0-9_.-]{1,62}$/.test(own), own);
  assertEquals(Number(pid), Deno.pid);
});

Deno.test("ownerState() knows a process that lives", async () => {
  assertEquals(await ownerState(own), "alive");
});

Deno.test("ownerState() does not mistake a PID that is used again", async () => {
  assertEquals(await ownerState([pid, Number(start) - 1, ...place].join(".")), "dead");
  assertEquals(await ownerState([2 ** 22 + 1, start, ...place].join(".")), "dead");
});

Deno.test("ownerState() knows that a zombie is dead", async () => {
  // A process that becomes `sleep` without waiting for its child.
  const parent = new Deno.Command("sh", {
    args: ["-c", "sh -c 'cat /proc/$$/stat; kill -KILL $$' & exec sleep 100"],
    stdout: "piped",
  }).spawn();
  const reader = parent.stdout.getReader();
  const stat = new TextDecoder().decode((await reader.read()).value);
  const zombie = [stat.split(" ")[0], stat.replace(/^.*\) /s, "").split(" ")[19], ...place].join(".");
  while (!(await Deno.readTextFile(`/proc/${stat.split(" ")[0]}/stat`)).includes(") Z ")) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assertEquals(await ownerState(zombie), "dead");
  parent.kill();
  await Promise.all([parent.status, reader.cancel()]);
});

Deno.test("ownerState() judges nobody who cannot be seen from here", async () => {
  const [namespace, ...machine] = place;
  for (
    const elsewhere of [
      [pid, start, "1", ...machine].join("."),
      [pid, start, namespace, "another-boot"].join("."),
      "",
      "nonsense",
      "../../1.2.3.4",
    ]
  ) assertEquals(await ownerState(elsewhere), "elsewhere", elsewhere);
});
