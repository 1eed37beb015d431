/** A registry of the tests' own, that wants a login. */

import { Daemon, freePort, install, run } from "./debian.ts";

export interface Registry extends AsyncDisposable {
  /** `127.0.0.1:PORT`: Docker speaks plain HTTP to this machine's own addresses. */
  readonly address: string;
  readonly username: string;
  readonly password: string;
  /** The path of the authority's certificate, where it speaks TLS. */
  readonly ca: string | undefined;
  /** Ends it before its time. */
  stop(): Promise<void>;
}

export async function startRegistry(options: { readonly tls?: boolean } = {}): Promise<Registry> {
  await install({
    "docker-registry": "docker-registry",
    perl: "perl-base",
    ...options.tls && { openssl: "openssl" },
  });
  const [username, password] = ["tester", crypto.randomUUID()];
  // The registry takes bcrypt only; libcrypt makes it of a salt of this form. Source: crypt(5).
  const hash = await run("perl", ["-e", "print crypt($ARGV[0], q($2y$04$abcdefghijklmnopqrstuu))", password]);
  const dir = await Deno.makeTempDir({ prefix: "cdebug-registry-" });
  const address = `127.0.0.1:${freePort()}`;
  if (options.tls) await makeCertificates(dir);
  const tls = options.tls ? `, tls: {certificate: ${dir}/server.pem, key: ${dir}/server.key}` : "";
  await Deno.writeTextFile(`${dir}/htpasswd`, `${username}:${hash}\n`);
  await Deno.writeTextFile(
    `${dir}/config.yml`,
    `version: 0.1
storage: {filesystem: {rootdirectory: ${dir}/data}}
http: {addr: "${address}"${tls}}
auth: {htpasswd: {realm: tests, path: ${dir}/htpasswd}}
`,
  );
  const daemon = Daemon.start("docker-registry", ["serve", `${dir}/config.yml`], `${dir}/log`);
  const registry: Registry = {
    address,
    username,
    password,
    ca: options.tls ? `${dir}/ca.pem` : undefined,
    stop: () => daemon[Symbol.asyncDispose](),
    async [Symbol.asyncDispose]() {
      await registry.stop();
      await Deno.remove(dir, { recursive: true });
    },
  };
  try {
    await daemon.ready(async () => {
      const response = await fetch(`http://${address}/v2/`);
      await response.body?.cancel();
    });
    return registry;
  } catch (error) {
    await registry[Symbol.asyncDispose]();
    throw error;
  }
}

/** An authority of the tests' own, `ca.pem`, and what it says of 127.0.0.1, `server.pem` and `server.key`. */
async function makeCertificates(dir: string): Promise<void> {
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
  await run("openssl", [
    ...[
      "req",
      "-x509",
      ...key,
      "-subj",
      "/CN=cdebug tests",
      "-keyout",
      `${dir}/ca.key`,
      "-out",
      `${dir}/ca.pem`,
    ],
    ...["-addext", "keyUsage=critical,keyCertSign"],
  ]);
  await run("openssl", [
    ...["req", "-x509", ...key, "-subj", "/CN=registry", "-keyout", `${dir}/server.key`],
    ...["-out", `${dir}/server.pem`, "-CA", `${dir}/ca.pem`, "-CAkey", `${dir}/ca.key`],
    ...["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"],
  ]);
}

/**
 * Pushes an image of some layers, plain tar archives, as `name` (`tools/box:1`), without an engine.
 * Source: OCI distribution spec, "Push".
 */
export async function pushImage(
  { address, username, password, ca }: Registry,
  name: string,
  layers: readonly Uint8Array<ArrayBuffer>[],
): Promise<void> {
  const [repository, tag] = name.split(":") as [string, string];
  using client = Deno.createHttpClient(ca === undefined ? {} : { caCerts: [await Deno.readTextFile(ca)] });
  const send = async (method: string, url: URL, type: string, body?: BodyInit) => {
    const response = await fetch(url, {
      client,
      method,
      ...body !== undefined && { body },
      headers: { authorization: `Basic ${btoa(`${username}:${password}`)}`, "content-type": type },
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${url.pathname}: ${response.status} ${text}`);
    return response;
  };
  const base = new URL(`${ca === undefined ? "http" : "https"}://${address}/v2/${repository}/`);
  const put = async (bytes: Uint8Array<ArrayBuffer>, mediaType: string) => {
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const digest = `sha256:${hash.toHex()}`;
    const begun = await send("POST", new URL("blobs/uploads/", base), "text/plain");
    const place = new URL(begun.headers.get("location")!, base);
    place.searchParams.set("digest", digest);
    await send("PUT", place, "application/octet-stream", bytes);
    return { mediaType, digest, size: bytes.length };
  };
  const config = new TextEncoder().encode(JSON.stringify({ os: "linux", architecture: "amd64" }));
  const type = "application/vnd.oci.image";
  const manifest = {
    schemaVersion: 2,
    mediaType: `${type}.manifest.v1+json`,
    config: await put(config, `${type}.config.v1+json`),
    layers: await Promise.all(layers.map((layer) => put(layer, `${type}.layer.v1.tar`))),
  };
  await send("PUT", new URL(`manifests/${tag}`, base), manifest.mediaType, JSON.stringify(manifest));
}
