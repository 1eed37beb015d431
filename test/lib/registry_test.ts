import { createHash } from "node:crypto";
import { compress } from "../../lib/compressed.ts";
import { CdebugError, NotFound } from "../../lib/errors.ts";
import { listCache, pruneCache } from "../../lib/registry/cache.ts";
import { fetchLayers, openLayer, type RegistryOptions, resolveImage } from "../../lib/registry/client.ts";
import { registryOf } from "../../lib/registry/credentials.ts";
import { formatReference, parseReference } from "../../lib/registry/reference.ts";
import { parseChallenges } from "../../lib/registry/session.ts";
import { assert, assertEquals, assertIncludes, assertRejects, assertThrows } from "../assert.ts";
import { temporaryDirectory } from "../temporary.ts";

type Bytes = Uint8Array<ArrayBuffer>;

Deno.test(
  "registryOf() names the registry as the docker client's config file does",
  { permissions: "none" },
  () => {
    const hub = "https://index.docker.io/v1/";
    assertEquals(
      ["busybox", "library/busybox:musl", "docker.io/library/busybox", "index.docker.io/a/b"].map(registryOf),
      [hub, hub, hub, hub],
    );
    assertEquals(registryOf("ghcr.io/a/b:1"), "ghcr.io");
    assertEquals(registryOf("127.0.0.1:5000/a@sha256:00"), "127.0.0.1:5000");
    assertEquals(registryOf("localhost/a"), "localhost");
  },
);

Deno.test("parseReference() reads names as docker does", { permissions: "none" }, () => {
  const digest = `sha256:${"0".repeat(64)}`;
  const names = {
    "busybox": "docker.io/library/busybox:latest",
    "busybox:musl": "docker.io/library/busybox:musl",
    "docker.io/busybox": "docker.io/library/busybox:latest",
    "index.docker.io/a/b": "docker.io/a/b:latest",
    "ghcr.io/a/b_c/d--e:V1.2-x": "ghcr.io/a/b_c/d--e:V1.2-x",
    "localhost/a": "localhost/a:latest",
    "host:5000/a:1": "host:5000/a:1",
    "[::1]:5000/a": "[::1]:5000/a:latest",
    [`a@${digest}`]: `docker.io/library/a@${digest}`,
    [`host:5000/a:1@${digest}`]: `host:5000/a@${digest}`,
  };
  for (const [name, whole] of Object.entries(names)) {
    assertEquals(formatReference(parseReference(name)), whole);
    assertEquals(formatReference(parseReference(whole)), whole);
  }
  const wrong = [
    "",
    "A",
    "a//b",
    "a:",
    "a b",
    "../a",
    "-x.y/a",
    "a@",
    "a@sha256:00",
    "a@md5:0",
    "h:x/a",
    "a/../b",
  ];
  for (const name of wrong) {
    assertThrows(() => parseReference(name), CdebugError, `Cannot find image "${name}"`);
  }
});

Deno.test("parseChallenges() reads several, quoted or not", { permissions: "none" }, () => {
  assertEquals(
    parseChallenges('Basic realm="a, \\"b\\"", Bearer realm="https://x/t",service=s , scope="r:a:pull,push"'),
    [
      { scheme: "basic", parameters: { realm: 'a, "b"' } },
      { scheme: "bearer", parameters: { realm: "https://x/t", service: "s", scope: "r:a:pull,push" } },
    ],
  );
  assertEquals(parseChallenges("NEGOTIATE, Basic"), [
    { scheme: "negotiate", parameters: {} },
    { scheme: "basic", parameters: {} },
  ]);
  assertEquals(parseChallenges(""), []);
});

const OCI = "application/vnd.oci.image";
const DOCKER = "application/vnd.docker.distribution";
const REPOSITORY = "/v2/tools/box";

interface Asked {
  readonly method: string;
  readonly path: string;
  readonly authorization: string | null;
  readonly range: string | null;
}

/** A registry that answers as it is told to. */
class Fake implements AsyncDisposable {
  readonly asked: Asked[] = [];
  readonly contents = new Map<string, { readonly type: string; readonly bytes: Bytes }>();
  /** Asked first; what it answers, if anything, counts. */
  rule: (request: Request, path: string) => Response | undefined | Promise<Response | undefined> = () =>
    undefined;
  readonly #server: Deno.HttpServer<Deno.NetAddr>;
  readonly #abort = new AbortController();

  constructor() {
    this.#server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {}, signal: this.#abort.signal },
      (request) => this.#answer(request),
    );
  }

  get address(): string {
    return `127.0.0.1:${this.#server.addr.port}`;
  }

  get image(): string {
    return `${this.address}/tools/box:1`;
  }

  /** What was asked for that ends like this. */
  of(end: string): Asked[] {
    return this.asked.filter(({ path }) => path.endsWith(end));
  }

  put(
    path: string,
    type: string,
    contents: Bytes | object,
  ): { digest: string; size: number; mediaType: string } {
    const bytes = contents instanceof Uint8Array
      ? contents
      : new TextEncoder().encode(JSON.stringify(contents));
    const digest = digestOf(bytes);
    for (const name of [path, digest]) {
      const kind = path === "" ? "blobs" : "manifests";
      this.contents.set(`${REPOSITORY}/${kind}/${name || digest}`, { type, bytes });
    }
    return { digest, size: bytes.length, mediaType: type };
  }

  /** Puts an image of these layers, under a tag; returns what an index says of it. */
  putImage(tag: string, layers: readonly { bytes: Bytes; type?: string }[], config: object = {}) {
    return this.put(tag, `${OCI}.manifest.v1+json`, {
      schemaVersion: 2,
      mediaType: `${OCI}.manifest.v1+json`,
      config: this.put("", `${OCI}.config.v1+json`, { os: "linux", architecture: "amd64", ...config }),
      layers: layers.map(({ bytes, type = `${OCI}.layer.v1.tar` }) => this.put("", type, bytes)),
    });
  }

  async #answer(request: Request): Promise<Response> {
    const { pathname } = new URL(request.url);
    const range = request.headers.get("range");
    const { method } = request;
    this.asked.push({ method, path: pathname, authorization: request.headers.get("authorization"), range });
    const ruled = await this.rule(request, pathname);
    if (ruled) return ruled;
    const found = this.contents.get(pathname);
    if (!found) {
      return Response.json({ errors: [{ code: "UNKNOWN", message: "nobody knows it" }] }, { status: 404 });
    }
    const { bytes, type } = found;
    const start = Number(/^bytes=(\d+)-$/.exec(range ?? "")?.[1] ?? 0);
    return new Response(bytes.slice(start), {
      status: range === null ? 200 : 206,
      headers: {
        "content-type": type,
        ...range !== null && { "content-range": `bytes ${start}-${bytes.length - 1}/${bytes.length}` },
      },
    });
  }

  async [Symbol.asyncDispose]() {
    this.#abort.abort();
    await this.#server.finished;
  }
}

/** The first bytes of what is then longer; the connection stays open and says nothing more. */
function standingStill(bytes: Bytes, count: number, status = 200): Response {
  const body = new ReadableStream({ start: (controller) => controller.enqueue(bytes.slice(0, count)) });
  return new Response(body, { status, headers: { "content-length": String(bytes.length) } });
}

/** The first bytes, after which the connection is cut. */
function cut(bytes: Bytes, count: number): Response {
  let begun = false;
  const body = new ReadableStream({
    pull(controller) {
      if (begun) controller.close();
      else controller.enqueue(bytes.slice(0, count));
      begun = true;
    },
  });
  return new Response(body, { headers: { "content-length": String(bytes.length) } });
}

function digestOf(bytes: Bytes): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

/** Bytes that do not repeat. */
function noise(size: number): Bytes {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
  return bytes;
}

const limits = { backOffMs: 1 };

/** Finds the image and fetches its layers; returns their contents. */
async function pull(image: string, options: RegistryOptions = {}): Promise<Bytes[]> {
  const found = await resolveImage(image, { limits, ...options });
  await fetchLayers(found, { limits, ...options });
  return await Promise.all(found.layers.map(async (layer) => {
    const chunks = await Array.fromAsync(openLayer(layer), (chunk) => chunk.slice());
    return await new Blob(chunks).bytes();
  }));
}

interface World {
  readonly registry: Fake;
  readonly dir: string;
  /** Writes the docker client's settings. */
  docker(settings: unknown): Promise<void>;
}

/** Registers a test with a registry, in a user's environment that has nothing. */
function registryTest(name: string, check: (world: World) => Promise<void>): void {
  Deno.test(`registry: ${name}`, async () => {
    await using directory = await temporaryDirectory();
    await using registry = new Fake();
    const dir = directory.path;
    const env: Record<string, string> = {
      XDG_CACHE_HOME: `${dir}/cache`,
      XDG_RUNTIME_DIR: `${dir}/run`,
      HOME: dir,
      DOCKER_CONFIG: `${dir}/docker`,
      REGISTRY_AUTH_FILE: "",
      PATH: `${dir}/bin:${Deno.env.get("PATH")}`,
    };
    const before = Object.keys(env).map((name) => [name, Deno.env.get(name)] as const);
    for (const [name, value] of Object.entries(env)) Deno.env.set(name, value);
    try {
      await Deno.mkdir(`${dir}/docker`);
      await check({
        registry,
        dir,
        docker: (settings) => Deno.writeTextFile(`${dir}/docker/config.json`, JSON.stringify(settings)),
      });
    } finally {
      for (const [name, value] of before) {
        value === undefined ? Deno.env.delete(name) : Deno.env.set(name, value);
      }
    }
  });
}

/** The names of the files in the cache. */
async function cached(dir: string): Promise<string[]> {
  try {
    return (await Array.fromAsync(Deno.readDir(`${dir}/cache/cdebug/blobs/sha256`), ({ name }) => name))
      .sort();
  } catch {
    return [];
  }
}

registryTest("layers of all compressions come out as they were, once each", async ({ registry, dir }) => {
  const contents = [1, 2, 3].map((size) => noise(size * 100_000));
  const packed = async (bytes: Bytes, method: "gzip" | "zstd") =>
    await new Blob(
      await Array.fromAsync(compress(
        (async function* () {
          yield await Promise.resolve(bytes);
        })(),
        method,
      )),
    ).bytes();
  const [plain, gzip, zstd] = [
    { bytes: contents[0]! },
    {
      bytes: await packed(contents[1]!, "gzip"),
      type: `${DOCKER.replace("distribution", "image")}.rootfs.diff.tar.gzip`,
    },
    { bytes: await packed(contents[2]!, "zstd"), type: `${OCI}.layer.v1.tar+zstd` },
  ];
  registry.putImage("1", [plain!, gzip!, zstd!, plain!], {
    created: "then",
    config: { User: "me", Env: ["A=b"] },
  });
  const found = await resolveImage(registry.image, { limits });
  assertEquals(found.name, registry.image);
  assertEquals(found.config, {
    os: "linux",
    architecture: "amd64",
    created: "then",
    config: { User: "me", Env: ["A=b"] },
  });
  const [a, b, c] = contents as [Bytes, Bytes, Bytes];
  assertEquals(await pull(registry.image), [a, b, c, a]);
  const before = registry.asked.length;
  const reports: unknown[] = [];
  await fetchLayers(found, { report: (progress) => reports.push(progress) });
  assertEquals([registry.asked.length, reports.length], [before, 3]);
  assertEquals(registry.of(digestOf(a)).length, 1);
  assertEquals((await cached(dir)).length, 3);
  assertEquals(await pull(`${registry.image}@${found.digest}`), [a, b, c, a]);
  assertEquals((await Deno.stat(`${dir}/cache/cdebug/blobs/sha256`)).mode! & 0o777, 0o700);
});

registryTest("a busy registry is asked again", async ({ registry }) => {
  registry.putImage("1", [{ bytes: noise(1000) }]);
  const busy = [
    () => new Response(null, { status: 429, headers: { "retry-after": "0" } }),
    () => new Response(null, { status: 503, headers: { "retry-after": new Date(0).toUTCString() } }),
    () => new Response(null, { status: 500 }),
  ];
  registry.rule = (_, path) => path.endsWith("/1") ? busy.shift()?.() : undefined;
  await pull(registry.image);
  assertEquals(registry.of("/manifests/1").length, 4);

  registry.rule = () => Response.json({ errors: [{ message: "enough" }] }, { status: 429 });
  const error = await assertRejects(
    () => pull(registry.image),
    CdebugError,
    "too many requests from here: enough",
  );
  assertEquals(error.hint, `docker login ${registry.address}  has a higher limit, on most registries`);
  assertEquals(registry.of("/manifests/1").length, 9);
});

registryTest("a connection that is cut, or stands still, is resumed", async ({ registry }) => {
  const bytes = noise(500_000);
  registry.putImage("1", [{ bytes }]);
  const blob = digestOf(bytes);
  const answers = [() => cut(bytes, 200_000), () => undefined];
  registry.rule = (_, path) => path.endsWith(blob) ? answers.shift()?.() : undefined;
  assertEquals(await pull(registry.image), [bytes]);
  assertEquals(registry.of(blob).map(({ range }) => range), [null, "bytes=200000-"]);

  await pruneCache(0);
  answers.push(() => standingStill(bytes, 300_000));
  assertEquals(await pull(registry.image, { limits: { ...limits, silenceMs: 1000 } }), [bytes]);
  assertEquals(registry.of(blob).map(({ range }) => range).slice(2), [null, "bytes=300000-"]);

  await pruneCache(0);
  registry.rule = (_, path) => path.endsWith(blob) ? cut(bytes, 0) : undefined;
  const error = await assertRejects(() => pull(registry.image), CdebugError, `Cannot fetch layer ${blob}`);
  assertIncludes(error.message, "breaks");
});

registryTest(
  "a registry that does not resume, or elsewhere, is heard from the beginning",
  async ({ registry }) => {
    const bytes = noise(500_000);
    registry.putImage("1", [{ bytes }]);
    const blob = digestOf(bytes);
    const whole = () => new Response(bytes);
    const elsewhere = () =>
      new Response(bytes.slice(7), { status: 206, headers: { "content-range": "bytes 7-499999/500000" } });
    for (const second of [whole, elsewhere, () => new Response(null, { status: 416 })]) {
      const answers = [() => cut(bytes, 200_000), second];
      registry.rule = (_, path) => path.endsWith(blob) ? answers.shift()?.() : undefined;
      assertEquals(await pull(registry.image), [bytes]);
      assertEquals(answers, []);
      await pruneCache(0);
    }
  },
);

registryTest(
  "what an earlier cdebug has left is resumed, unless it is damaged",
  async ({ registry, dir }) => {
    const bytes = noise(500_000);
    registry.putImage("1", [{ bytes }]);
    const blob = digestOf(bytes);
    registry.rule = (_, path) => path.endsWith(blob) ? standingStill(bytes, 100_000) : undefined;
    const found = await resolveImage(registry.image, { limits });
    const stop = new AbortController();
    const report = ({ done }: { done: number }) => done > 0 && stop.abort(new Error("stopped"));
    await assertRejects(() => fetchLayers(found, { limits, report, signal: stop.signal }), Error, "stopped");
    const [left, ...others] = await cached(dir);
    assert(left!.endsWith(".partial"), left);
    assertEquals(others, []);
    registry.rule = () => undefined;
    assertEquals(await pull(registry.image), [bytes]);
    assert(/^bytes=[1-9]/.test(registry.of(blob).at(-1)!.range!));

    for (const size of [1000, 600_000]) {
      await pruneCache(0);
      await Deno.writeFile(`${dir}/cache/cdebug/blobs/sha256/${left}`, noise(size));
      assertEquals(await pull(registry.image), [bytes]);
      assertEquals(registry.of(blob).at(-1)!.range, null);
    }
    const whole = left!.replace(".partial", "");
    await Deno.truncate(`${dir}/cache/cdebug/blobs/sha256/${whole}`, 10);
    assertEquals(await pull(registry.image), [bytes]);
    await Deno.writeFile(`${dir}/cache/cdebug/blobs/sha256/${whole}`, noise(500_000));
    assertEquals(await pull(registry.image), [bytes]);
  },
);

registryTest("two who want the same layer fetch it once", async ({ registry, dir }) => {
  const bytes = noise(100_000);
  registry.putImage("1", [{ bytes }]);
  const found = await resolveImage(registry.image, { limits });
  await Promise.all(Array.from({ length: 3 }, () => fetchLayers(found, { limits })));
  assertEquals(registry.of(digestOf(bytes)).length, 1);
  assertEquals(await cached(dir), [digestOf(bytes).replace("sha256:", "")]);
});

registryTest("a layer that is not what its digest says is refused", async ({ registry, dir }) => {
  const [bytes, other] = [noise(1000), noise(1000)];
  registry.putImage("1", [{ bytes }]);
  registry.rule = (_, path) => path.endsWith(digestOf(bytes)) ? new Response(other) : undefined;
  const error = await assertRejects(() => pull(registry.image), CdebugError, digestOf(bytes));
  assertIncludes(error.message, digestOf(other));
  registry.rule = (_, path) => path.endsWith(digestOf(bytes)) ? new Response(noise(1001)) : undefined;
  await assertRejects(() => pull(registry.image), CdebugError, "larger than the 1000 bytes");
  assertEquals(await cached(dir), []);
  registry.rule = (_, path) =>
    path.endsWith(digestOf(bytes)) ? new Response(null, { status: 404 }) : undefined;
  await assertRejects(() => pull(registry.image), CdebugError, "does not have it");
  registry.rule = ({ headers }, path) => {
    if (!path.endsWith(digestOf(bytes))) return undefined;
    return headers.has("range") ? new Response(null, { status: 416 }) : new Response(bytes.slice(0, 900));
  };
  const before = registry.of(digestOf(bytes)).length;
  await assertRejects(() => pull(registry.image), CdebugError, "it ended too early");
  assert(registry.of(digestOf(bytes)).length - before < 20);
});

registryTest("a blob's storage elsewhere never sees the login", async ({ registry, docker }) => {
  await using storage = new Fake();
  const bytes = noise(1000);
  registry.putImage("1", [{ bytes }]);
  const auth = btoa("me:secret");
  await docker({ auths: { [registry.address]: { auth } } });
  storage.rule = (_, path) =>
    path === "/back" ? Response.redirect(`http://${registry.address}/end`, 302) : undefined;
  let location = `http://${storage.address}/back`;
  registry.rule = (request, path) => {
    if (path === "/end") return new Response(bytes);
    if (request.headers.get("authorization") !== `Basic ${auth}`) {
      return new Response(null, { status: 401, headers: { "www-authenticate": 'Basic realm="x"' } });
    }
    if (path.endsWith(digestOf(bytes))) return new Response(null, { status: 307, headers: { location } });
  };
  assertEquals(await pull(registry.image), [bytes]);
  assertEquals(storage.of("/back").map(({ authorization }) => authorization), [null]);
  assertEquals(registry.of("/end").map(({ authorization }) => authorization), [null]);
  assertEquals(registry.of(digestOf(bytes)).map(({ authorization }) => authorization), [
    null,
    `Basic ${auth}`,
  ]);

  await pruneCache(0);
  location = "http://192.0.2.1/blob?signature=s3cret";
  const error = await assertRejects(() => pull(registry.image), CdebugError, "which is not safe");
  assert(!error.message.includes("s3cret"));
  storage.rule = () =>
    new Response(null, { status: 401, headers: { "www-authenticate": `Basic realm="x"` } });
  location = `http://${storage.address}/denied`;
  await assertRejects(() => pull(registry.image), CdebugError, "refuses the login");
  assertEquals(storage.of("/denied").map(({ authorization }) => authorization), [null]);
});

registryTest("of an index, the image for the platform is taken", async ({ registry }) => {
  const put = (tag: string, architecture: string, variant?: string) => ({
    ...registry.putImage(tag, [{ bytes: new TextEncoder().encode(tag) }], { architecture, variant }),
    platform: { os: "linux", architecture, ...variant && { variant } },
  });
  const unknown = { ...registry.putImage("x", []), platform: { os: "unknown", architecture: "unknown" } };
  const manifests = [
    unknown,
    put("v6", "arm", "v6"),
    put("v7", "arm", "v7"),
    put("arm64", "arm64", "v8"),
    put("amd64", "amd64"),
  ];
  const index = { schemaVersion: 2, manifests };
  for (const type of [`${OCI}.index.v1+json`, `${DOCKER}.manifest.list.v2+json`]) {
    registry.put("1", type, index);
    const chosen = async (platform: string) =>
      new TextDecoder().decode((await pull(registry.image, { platform }))[0]);
    assertEquals(await chosen("linux/amd64"), "amd64");
    assertEquals(await chosen("linux/x86_64"), "amd64");
    assertEquals(await chosen("linux/arm64"), "arm64");
    assertEquals(await chosen("linux/arm64/v8"), "arm64");
    assertEquals(await chosen("linux/arm"), "v7");
    assertEquals(await chosen("linux/arm/v6"), "v6");
  }
  const own = Deno.build.arch === "aarch64" ? "arm64" : "amd64";
  assertEquals((await resolveImage(registry.image, {})).config.architecture, own);
  const error = await assertRejects(
    () => pull(registry.image, { platform: "linux/s390x" }),
    CdebugError,
    "not made for linux/s390x, but for linux/arm/v6, linux/arm/v7, linux/arm64, linux/amd64",
  );
  assertEquals(error.hint, "--platform linux/arm/v6");
  await assertRejects(() => pull(registry.image, { platform: "amd64" }), CdebugError, "not a platform");

  registry.putImage("1", [], { architecture: "riscv64" });
  assertEquals((await resolveImage(registry.image, {})).config.architecture, "riscv64");
  await assertRejects(
    () => pull(registry.image, { platform: "linux/amd64" }),
    CdebugError,
    "not made for linux/amd64, but for linux/riscv64",
  );
  const deeper = registry.put("1", `${OCI}.index.v1+json`, index);
  registry.put("1", `${OCI}.index.v1+json`, { schemaVersion: 2, manifests: [deeper] });
  assertEquals(
    (await resolveImage(registry.image, { platform: "linux/amd64" })).config.architecture,
    "amd64",
  );
});

registryTest("what is no image of files is refused, and why", async ({ registry }) => {
  const refuses = async (text: string) => await assertRejects(() => pull(registry.image), CdebugError, text);
  const missing = await assertRejects(() => pull(registry.image), NotFound, "no such image at");
  assertIncludes(missing.message, `Cannot find image "${registry.image}"`);
  assertIncludes(missing.message, "nobody knows it");

  registry.put("1", `${DOCKER}.manifest.v1+prettyjws`, { schemaVersion: 1, fsLayers: [] });
  await refuses("schema 1");
  for (
    const type of [
      `${OCI}.layer.nondistributable.v1.tar+gzip`,
      `application/vnd.docker.image.rootfs.foreign.diff.tar.gzip`,
    ]
  ) {
    registry.putImage("1", [{ bytes: noise(10), type }]);
    await refuses("is not in the registry, but with its maker");
  }
  registry.putImage("1", [{ bytes: noise(10), type: "application/vnd.cncf.helm.chart.content.v1.tar+gzip" }]);
  await refuses("holds no files, but application/vnd.cncf.helm");
  registry.put("1", `${OCI}.manifest.v1+json`, { schemaVersion: 2, layers: [], manifests: [], config: {} });
  await refuses("of a kind that cdebug cannot read");
  registry.put("1", "text/html", new TextEncoder().encode("<p>Log in, please"));
  await refuses("not a JSON object");
  registry.put("1", `${OCI}.manifest.v1+json`, {
    schemaVersion: 2,
    layers: [],
    config: { digest: "sha256:../x" },
  });
  await refuses("does not say which configuration");
  const endless = { "content-type": `${OCI}.manifest.v1+json` };
  registry.rule = () =>
    new Response(new ReadableStream({ pull: (to) => to.enqueue(new Uint8Array(65536)) }), {
      headers: endless,
    });
  await refuses("larger than 4 MiB");
  registry.rule = (_, path) => path.includes("/manifests/") ? undefined : new Response("other");
  registry.putImage("1", []);
  await refuses("its configuration is damaged");
});

registryTest(
  "tokens: without a login, with one, renewed, and for an identity",
  async ({ registry, docker }) => {
    const bytes = noise(1000);
    registry.putImage("1", [{ bytes }]);
    let token = "first";
    const asked: string[] = [];
    registry.rule = async (request, path) => {
      const { host, searchParams } = new URL(request.url);
      const given = request.headers.get("authorization");
      if (path === "/token") {
        asked.push(request.method === "POST" ? await request.text() : `${searchParams} ${given}`);
        return Response.json({ token });
      }
      if (given === `Bearer ${token}`) return undefined;
      const challenge =
        `Bearer realm="http://${host}/token",service="the registry",scope="repository:tools/box:pull"`;
      return Response.json({ errors: [{ message: "no token" }] }, {
        status: 401,
        headers: { "www-authenticate": challenge },
      });
    };
    const query = "service=the+registry&scope=repository%3Atools%2Fbox%3Apull";
    assertEquals(await pull(registry.image), [bytes]);
    assertEquals(asked.splice(0), [`${query} null`, `${query} null`]);

    const auth = new TextEncoder().encode("me:sécret").toBase64();
    await docker({ auths: { [registry.address]: { auth } } });
    await pruneCache(0);
    const found = await resolveImage(registry.image, { limits });
    token = "second";
    await fetchLayers(found, { limits });
    assertEquals(asked.splice(0), Array(2).fill(`${query} Basic ${auth}`));

    await docker({ auths: { [registry.address]: { identitytoken: "id en" } } });
    await resolveImage(registry.image, { limits });
    assertEquals(asked, [`grant_type=refresh_token&client_id=cdebug&refresh_token=id+en&${query}`]);
  },
);

registryTest(
  "a login that is refused is named, with the command to log in",
  async ({ registry, docker, dir }) => {
    registry.rule = (_, path) =>
      path === "/v2/" ? undefined : Response.json({ errors: [{ message: "go away" }] }, {
        status: 401,
        headers: { "www-authenticate": "Basic realm=x" },
      });
    const refused = async (text: string) => {
      const error = await assertRejects(() => pull(registry.image), CdebugError, text);
      assertEquals(error.hint, `docker login ${registry.address}`);
      return error;
    };
    await refused("wants a login, of which there is none, or there is no such image");
    const auth = btoa("me:wrong");
    await docker({ auths: { [registry.address]: { auth } } });
    assertIncludes((await refused(`refuses the login of ${dir}/docker/config.json`)).message, "go away");
    await docker({});
    await Deno.mkdir(`${dir}/run/containers`, { recursive: true });
    const settings = {
      auths: { [registry.address]: { auth: btoa("a:a") }, [`${registry.address}/tools`]: { auth } },
    };
    await Deno.writeTextFile(`${dir}/run/containers/auth.json`, JSON.stringify(settings));
    await refused(`refuses the login of ${dir}/run/containers/auth.json`);
    assertEquals(registry.asked.at(-1)!.authorization, `Basic ${auth}`);
    registry.rule = () => Response.json({ details: "not for you" }, { status: 403 });
    await refused("not for you");
    registry.rule = () =>
      new Response(null, {
        status: 401,
        headers: { "www-authenticate": 'Bearer realm="http://192.0.2.1/t"' },
      });
    await assertRejects(() => pull(registry.image), CdebugError, "which is not safe");
  },
);

registryTest("a credential helper that hangs is given up", async ({ registry, docker, dir }) => {
  registry.rule = () => new Response(null, { status: 401, headers: { "www-authenticate": "Basic realm=x" } });
  await Deno.mkdir(`${dir}/bin`);
  const helper = `${dir}/bin/docker-credential-hangs`;
  await Deno.writeTextFile(helper, '#!/bin/sh\nsleep 1000 & echo $! > "$0.pid"; wait\n', { mode: 0o755 });
  await docker({ credsStore: "hangs" });
  try {
    const options = { limits: { ...limits, helperMs: 2000 } };
    const error = await assertRejects(
      () => pull(registry.image, options),
      CdebugError,
      "docker-credential-hangs failed: it has not answered within 2 s",
    );
    assertEquals(error.hint, `echo ${registry.address} | docker-credential-hangs get`);
  } finally {
    Deno.kill(Number(await Deno.readTextFile(`${helper}.pid`)), "SIGKILL");
  }
});

registryTest("mirrors are asked first, in order", async ({ registry, dir }) => {
  await using broken = new Fake();
  await using empty = new Fake();
  await using mirror = new Fake();
  const bytes = noise(1000);
  mirror.putImage("1", [{ bytes }]);
  broken.rule = () => new Response(null, { status: 500 });
  const config = `${dir}/registries.yaml`;
  const write = (mirrors: readonly string[], more = "") =>
    Deno.writeTextFile(config, `mirrors:\n  ${registry.address}: [${mirrors.join(", ")}]\n${more}`);
  await write([broken, empty, mirror].map(({ address }) => `http://${address}/`));
  assertEquals(await pull(registry.image, { config }), [bytes]);
  assertEquals(registry.asked, []);
  assertEquals([broken, empty, mirror].map(({ asked }) => asked.length), [6, 3, 3]);

  await write([`http://${mirror.address}/some/path`]);
  registry.putImage("1", [{ bytes: noise(10) }]);
  await pull(registry.image, { config });
  assertEquals(mirror.asked.at(-1)!.path.startsWith(`/some/path${REPOSITORY}`), true);
  assertEquals(registry.of("/manifests/1").length, 1);
  registry.contents.clear();
  const error = await assertRejects(() => pull(registry.image, { config }), NotFound, "no such image");
  assertIncludes(error.message, `mirror ${mirror.address}: there is no such image`);

  const wrong = ["mirrors: {a: http://b}", "mirrors: {a: [http://b.c]}", "miror: {}", "[", "ca: {a: 1}", "7"];
  for (const text of [...wrong, "mirrors: {a: [b]}", "mirrors: 7", "ca: [x]"]) {
    await Deno.writeTextFile(config, text);
    await assertRejects(() => pull(registry.image, { config }), CdebugError, `Cannot read "${config}"`);
  }
  await Deno.writeTextFile(config, "");
  await assertRejects(() => pull(registry.image, { config }), NotFound);
});

registryTest("pruning removes what was used longest ago, and nothing in use", async ({ registry, dir }) => {
  const layers = [1, 2, 3].map((size) => noise(size * 1000));
  registry.putImage("1", layers.map((bytes) => ({ bytes })));
  await pull(registry.image);
  const blobs = `${dir}/cache/cdebug/blobs/sha256`;
  const path = (bytes: Bytes) => `${blobs}/${digestOf(bytes).replace("sha256:", "")}`;
  for (const [day, bytes] of layers.entries()) {
    const date = new Date(Date.UTC(2020, 0, day + 1));
    await Deno.utime(path(bytes), date, date);
  }
  const [old, fetching] = ["0", "1"].map((digit) => `${blobs}/${digit.repeat(64)}.partial`) as [
    string,
    string,
  ];
  for (const partial of [old, fetching]) {
    await Deno.writeFile(partial, noise(10));
    await Deno.utime(partial, 0, 0);
  }
  await Deno.mkdir(`${dir}/cache/cdebug/toolkits/abc/bin`, { recursive: true });
  await Deno.writeFile(`${dir}/cache/cdebug/toolkits/abc/bin/sh`, noise(500));
  using file = await Deno.open(fetching, { write: true });
  assert(await file.tryLock(true));

  const names = (all: readonly { name: string }[]) => all.map(({ name }) => name);
  const [a, b, c] = layers.map(digestOf);
  assertEquals(names(await listCache()).slice(0, 4), ["toolkit abc", c, b, a]);
  assertEquals((await listCache()).map(({ size }) => size), [500, 3000, 2000, 1000, 10, 10]);
  assertEquals(names(await pruneCache(1_000_000)), [`sha256:${"0".repeat(64)}`]);
  assertEquals(names(await pruneCache(4000)), [a, b]);
  assertEquals(names(await pruneCache(0)), [c, "toolkit abc"]);
  assertEquals(await cached(dir), [`${"1".repeat(64)}.partial`]);
});
