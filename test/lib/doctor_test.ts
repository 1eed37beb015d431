import { assertEquals } from "../assert.ts";
import { openFake } from "../fake_driver.ts";
import { formatReport } from "../../lib/commands/doctor.ts";

Deno.test("formatReport() says what an engine can do, cannot, and what is wrong", async () => {
  const text = formatReport({
    engine: "docker",
    status: "works",
    address: "unix:///run/docker.sock",
    source: 'context "a\x1b[2J"',
    ...await openFake().describe(),
    userNamespaceRemapped: true,
    joins: ["network", "pid"],
    cannotJoin: { uts: "a test cannot" },
    toolkit: { image: "busybox:musl", present: false },
    sessions: 3,
    orphans: 1,
    problems: [{ problem: "1 session lost its cdebug", hint: "cdebug prune" }],
  });
  assertEquals(
    text,
    `docker works
  address    unix:///run/docker.sock (from context "a\\x1b[2J")
  version    1, API 1.0, as root, user namespaces remapped
  machine    linux/amd64, a test
  storage    none
  cgroups    version 2
  security   seccomp
  joins      the target's network, pid namespaces; not uts: a test cannot
  toolkit    busybox:musl, pulled when it is first needed
  sessions   3
  ! 1 session lost its cdebug
    Hint: cdebug prune
`,
  );
});

Deno.test("formatReport() of an engine that is not there says what starts it", () => {
  const problems = [{ problem: "Cannot reach Podman", hint: "systemctl start podman" }];
  assertEquals(
    formatReport({ engine: "podman", status: "absent", problems }),
    "podman is not there\n  ! Cannot reach Podman\n    Hint: systemctl start podman\n",
  );
});
