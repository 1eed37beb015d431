/** A registry of the tests' own, that wants a login. */

import { Daemon, freePort, install, run } from "./debian.ts";

export interface Registry extends AsyncDisposable {
  /** `127.0.0.1:PORT`: Docker speaks plain HTTP to this machine's own addresses. */
  readonly address: string;
  readonly username: string;
  readonly password: string;
  /** Ends it before its time. */
  stop(): Promise<void>;
}

export async function startRegistry(): Promise<Registry> {
  await install({ "docker-registry": "docker-registry", perl: "perl-base" });
  const [username, password] = ["tester", crypto.randomUUID()];
  // The registry takes bcrypt only; libcrypt makes it of a salt of this form. Source: crypt(5).
  const hash = await run("perl", ["-e", "print crypt($ARGV[0], q($2y$04$abcdefghijklmnopqrstuu))", password]);
  const dir = await Deno.makeTempDir({ prefix: "cdebug-registry-" });
  const address = `127.0.0.1:${freePort()}`;
  await Deno.writeTextFile(`${dir}/htpasswd`, `${username}:${hash}\n`);
  await Deno.writeTextFile(
    `${dir}/config.yml`,
    `version: 0.1
storage: {filesystem: {rootdirectory: ${dir}/data}}
http: {addr: "${address}"}
auth: {htpasswd: {realm: tests, path: ${dir}/htpasswd}}
`,
  );
  const daemon = Daemon.start("docker-registry", ["serve", `${dir}/config.yml`], `${dir}/log`);
  const registry: Registry = {
    address,
    username,
    password,
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
