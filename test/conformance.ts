/** What every driver owes to the executor; the same cases run on the fake and on real engines. */

import { assert, assertEquals, assertRejects } from "./assert.ts";
import { fakeSidecar } from "./fake_driver.ts";
import type { Driver, Progress, Realised } from "../lib/driver.ts";
import { CdebugError, NotFound } from "../lib/errors.ts";
import type { Sidecar } from "../lib/plan.ts";

export interface Subject extends AsyncDisposable {
  readonly driver: Driver;
  /** The name of a running target. */
  readonly target: string;
  /** An image with a shell. */
  readonly image: string;
  /** The names of the sidecars that exist. */
  containers(): Promise<string[]>;
  /** The names and IDs of the images that exist. */
  images(): Promise<string[]>;
  /** Makes a link in the target's root, which is removed when it is disposed of. */
  link(path: string, to: string): Promise<AsyncDisposable>;
  /** Makes an image with a label, and returns its ID. */
  labelled(label: string): Promise<string>;
}

const never = new AbortController().signal;

/**
 * Registers the suite under an engine's name; ignored where there is no subject. Without `containers`, an engine of
 * processes, it leaves out what takes images, and containers that stay.
 */
export function conformance(
  engine: string,
  open: (() => Promise<Subject>) | undefined,
  { containers = true } = {},
): void {
  const containerTest: typeof test = (behaviour, check) => containers && test(behaviour, check);
  const test = (behaviour: string, check: (subject: Subject) => Promise<void>) =>
    Deno.test({
      name: `${engine}: ${behaviour}`,
      ignore: open === undefined,
      async fn() {
        await using subject = await open!();
        await check(subject);
        await eventually(async () => assertEquals(await subject.containers(), []));
      },
    });

  test("inspect() refuses an unknown target and names what is near", async ({ driver, target }) => {
    const error = await assertRejects(() => driver.inspect(`${target}x`), NotFound);
    assert(error.hint?.includes(target), `hint ${error.hint}`);
  });

  test("inspect() finds a target by the beginning of its ID", async ({ driver, target }) => {
    const { id } = await driver.inspect(target);
    assertEquals((await driver.inspect(id.slice(0, 8))).id, id);
  });

  test("inspect() gives the same snapshot twice", async ({ driver, target }) => {
    assertEquals(await driver.inspect(target), await driver.inspect(target));
  });

  containerTest("inspect() of an image tells what a container of it would be", async ({ driver, image }) => {
    const { state, id, platform } = await driver.inspect(image, "image");
    assertEquals([state, platform?.split("/")[0]], ["image", "linux"]);
    assertEquals((await driver.inspect(image, "image")).id, id);
    await assertRejects(() => driver.inspect("cdebug-test/missing", "image"), NotFound, "no such image");
  });

  test("list() names the target", async ({ driver, target }) => {
    assert((await driver.list()).some(({ name }) => name === target));
  });

  test("list() finds sidecars by their labels", async (subject) => {
    const { driver, target } = subject;
    const first = await start(subject, { script: "cat", stdin: "lifeline" }, { stdin: new ReadableStream() });
    const [found, ...more] = await driver.list({ label: "cdebug.session" });
    assertEquals([found?.name, found?.state, more.length], ["cdebug-conformance", "running", 0]);
    assertEquals(found!.labels["cdebug.session"], "conformance");
    assert(Math.abs(Date.now() - found!.createdAt.getTime()) < 60_000, `${found!.createdAt}`);
    assert((await driver.list()).some(({ name }) => name === target));
    await driver.remove(first.id);
    await first.exit.catch(() => {});
  });

  containerTest("list() finds sidecars that have ended, until they are removed", async (subject) => {
    const { driver } = subject;
    const kept = await start(subject, { script: "true", keep: true });
    await kept.exit;
    await eventually(async () =>
      assertEquals((await driver.list({ label: "cdebug.session" })).map(({ state }) => state), ["exited"])
    );
    await driver.remove(kept.id);
  });

  containerTest(
    "added() and readLink() tell what a container's root has more than its image",
    async (subject) => {
      const { driver, target } = subject;
      const { id } = await driver.inspect(target);
      assertEquals((await driver.added(id)).filter((path) => path === "/added"), []);
      await using _link = await subject.link("/added", "/proc/999999/root/nix");
      assertEquals((await driver.added(id)).filter((path) => path === "/added"), ["/added"]);
      assertEquals(await driver.readLink(id, "/added"), "/proc/999999/root/nix");
      assertEquals(await driver.readLink(id, "/no-such-path"), undefined);
      assertEquals(await driver.added("0123456789abcdef"), []);
    },
  );

  containerTest(
    "labelled() finds images by a label, and removeResource() removes them",
    async (subject) => {
      const { driver } = subject;
      assertEquals(await driver.labelled("cdebug.conformance"), []);
      const id = await subject.labelled("cdebug.conformance");
      const [found, ...more] = await driver.labelled("cdebug.conformance");
      assertEquals([found?.id, found?.names, more.length], [id, [], 0]);
      assertEquals(Object.hasOwn(found!.labels, "cdebug.conformance"), true);
      await driver.removeResource({ kind: "image", id });
      await driver.removeResource({ kind: "image", id });
      assertEquals(await driver.labelled("cdebug.conformance"), []);
    },
  );

  test("hasImage() tells whether it need be pulled", async ({ driver, image }) => {
    assertEquals(await driver.hasImage(image), true);
    assertEquals(await driver.hasImage("cdebug-test/missing"), false);
  });

  test("describe() says what the engine is", async ({ driver }) => {
    const { version, apiVersion, platform, storageDriver } = await driver.describe();
    assert(/\d/.test(version) && /^\d+\.\d+|^$/.test(apiVersion ?? ""), `${version}, ${apiVersion}`);
    assert(/^linux\/\w+$/.test(platform) && storageDriver !== "", `${platform}, ${storageDriver}`);
  });

  test("state() tells running from gone", async ({ driver, target }) => {
    assertEquals(await driver.state((await driver.inspect(target)).id), "running");
    assertEquals(await driver.state("0123456789abcdef"), "gone");
  });

  test("run() keeps stdout and stderr apart and gives the exit code", async (subject) => {
    const result = await runToEnd(subject, { script: "echo out; echo err >&2; exit 7" });
    assertEquals(result, { code: 7, stdout: "out\n", stderr: "err\n" });
  });

  test("run() passes arguments exactly", async (subject) => {
    const args = ["a  b", "it's", "$x", '"q"', "", "*", "ü", "tab\there\nnewline"];
    const result = await runToEnd(subject, { script: 'printf "[%s]" "$@"', args });
    assertEquals(result.stdout, args.map((arg) => `[${arg}]`).join(""));
  });

  test("run() sets the environment of the spec", async (subject) => {
    const result = await runToEnd(subject, { script: 'echo "$EXTRA"' }, { EXTRA: "a 'b' $c" });
    assertEquals(result.stdout, "a 'b' $c\n");
  });

  test("run() passes stdin and its end", async (subject) => {
    const result = await runToEnd(subject, { script: "cat; echo end", stdin: "open" }, {}, "in\n");
    assertEquals(result.stdout, "in\nend\n");
  });

  test("run() gives all of a large output before the exit code", async (subject) => {
    const result = await runToEnd(subject, { script: "head -c 1000000 /dev/zero; exit 3" });
    assertEquals([result.stdout.length, result.code], [1_000_000, 3]);
  });

  test("run() refuses a name that is in use", async (subject) => {
    const containerName = "cdebug-conformance";
    const first = await start(subject, { script: "cat", stdin: "lifeline", containerName }, {
      stdin: new ReadableStream(),
    });
    await assertRejects(() => start(subject, { script: "true", containerName }), CdebugError, "in use");
    await subject.driver.remove(first.id);
    await first.exit.catch(() => {});
  });

  containerTest("run() refuses an image that it may not pull", async (subject) => {
    const spec: Partial<Sidecar> = { script: "true", image: "cdebug-test/missing", pull: "never" };
    await assertRejects(() => start(subject, spec), CdebugError, "does not have it");
  });

  test("run() refuses a toolkit without a shell and leaves nothing", async (subject) => {
    await assertRejects(
      () => start(subject, { script: "true", shell: "/no/sh" }),
      CdebugError,
      "has no shell",
    );
  });

  containerTest("run() keeps a container that the spec keeps", async (subject) => {
    const running = await start(subject, { script: "true", keep: true });
    await running.exit;
    assertEquals(await subject.containers(), ["cdebug-conformance"]);
    await subject.driver.remove(running.id);
  });

  test("run() cancelled leaves nothing", async (subject) => {
    await assertRejects(() => start(subject, { script: "sleep 100" }, {}, AbortSignal.abort()));
  });

  containerTest("run() of a container's copy, with files put into it", async (subject) => {
    const { id, state } = await subject.driver.inspect(subject.target);
    assertEquals(state, "running");
    const images = await subject.images();
    const program = '#!/bin/sh\necho "$@"\nexec sleep 1000\n';
    let stdout = "";
    const copy = await start(subject, {
      snapshot: id,
      files: [{ path: "/put", base64: btoa(program), mode: 0o755 }],
      namespaces: { network: "own", pid: "own", ipc: "own", uts: "own", user: "engine" },
      args: ["/put", "a  b"],
    }, { stdout: (chunk) => Promise.resolve(void (stdout += new TextDecoder().decode(chunk))) });
    await eventually(() => Promise.resolve(assertEquals(stdout, "a  b\n")));
    await subject.driver.remove(copy.id);
    await copy.exit.catch(() => {});
    assertEquals(await subject.images(), images);
  });

  containerTest("run() joins another sidecar", async (subject) => {
    const namespaces = { network: "own", pid: "own", ipc: "own", uts: "own", user: "engine" } as const;
    const first = await start(subject, { script: "exec sleep 1000.5", namespaces });
    let stdout = "";
    const second = await start(
      subject,
      {
        namespaces: { ...namespaces, network: "target", pid: "target" },
        script: "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'sleep 1000.5'",
      },
      { stdout: (chunk) => Promise.resolve(void (stdout += new TextDecoder().decode(chunk))) },
      never,
      {},
      { name: "cdebug-conformance-2", joined: first.id },
    );
    assertEquals([await second.exit, stdout.trim()], [0, "1"]);
    await subject.driver.remove(first.id);
    await first.exit.catch(() => {});
  });

  test("exec() runs beside the sidecar's script", async (subject) => {
    const first = await start(subject, { script: "cat", stdin: "lifeline" }, { stdin: new ReadableStream() });
    let stdout = "";
    const second = await subject.driver.exec(first.id, ["sh", "-c", "echo beside; exit 4"], {
      stdout: (chunk) => Promise.resolve(void (stdout += new TextDecoder().decode(chunk))),
    });
    assertEquals([await second.exit, stdout], [4, "beside\n"]);
    const third = await subject.driver.exec(first.id, ["sh", "-c", "exit 5"], {});
    assertEquals(await third.exit, 5);
    await subject.driver.remove(first.id);
    await first.exit.catch(() => {});
  });

  test("remove() of what is gone is no error", async ({ driver }) => {
    await driver.remove("0123456789abcdef");
  });

  async function start(
    { driver, target, image }: Subject,
    sidecar: Partial<Sidecar>,
    streams: Parameters<Driver["run"]>[1] = {},
    signal = never,
    env: Record<string, string> = {},
    realised: Partial<Realised> = {},
  ) {
    const { shell, script, ...plain } = fakeSidecar({ image });
    const found = await driver.inspect(target);
    const spec: Realised = {
      target: found,
      name: "cdebug-conformance",
      labels: { "cdebug.session": "conformance" },
      env: { ...env, ...sidecar.script !== undefined && { CDEBUG_SCRIPT: sidecar.script } },
      detached: false,
      sidecar: {
        ...plain,
        ...sidecar.script !== undefined && { shell: shell!, script: script! },
        ...sidecar,
      },
      ...realised,
    };
    const events: Progress[] = [];
    return await driver.run(spec, streams, signal, (event) => events.push(event));
  }

  async function runToEnd(
    subject: Subject,
    sidecar: Partial<Sidecar>,
    env: Record<string, string> = {},
    input?: string,
  ) {
    const output = { stdout: "", stderr: "" };
    const take = (name: "stdout" | "stderr") => (chunk: Uint8Array) => {
      output[name] += new TextDecoder().decode(chunk);
      return Promise.resolve();
    };
    const running = await start(
      subject,
      sidecar,
      {
        stdout: take("stdout"),
        stderr: take("stderr"),
        ...input !== undefined && { stdin: new Blob([input]).stream() },
      },
      never,
      env,
    );
    return { code: await running.exit, ...output };
  }
}

async function eventually(check: () => Promise<void>): Promise<void> {
  for (let attempt = 0;; attempt++) {
    try {
      return await check();
    } catch (error) {
      if (attempt === 100) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}
