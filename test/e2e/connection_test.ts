/** The daemon is found as the docker client finds it: sockets, contexts, TLS, ssh. */

import { assert, assertEquals, assertIncludes } from "../assert.ts";
import { freePort, install, run } from "../engines/debian.ts";
import { startDocker } from "../engines/docker.ts";
import { importBare, importToolkit } from "../engines/images.ts";
import { startSshd } from "../engines/sshd.ts";
import { temporaryDirectory } from "../temporary.ts";
import { BARE, cdebug, DOCKER_HOST, liveTest, target, TOOLKIT } from "./engine.ts";

const found = { code: 0, stdout: "found\n", stderr: "" };

liveTest("connection: by --runtime, a URL or a path, before DOCKER_HOST", async () => {
  await using web = await target({ image: BARE });
  const env = { DOCKER_HOST: "unix:///no/docker.sock" };
  for (const address of [DOCKER_HOST!, DOCKER_HOST!.replace("unix://", "")]) {
    const result = await cdebug(["exec", "--runtime", address, web.name, "echo", "found"], { env });
    assertEquals(result, found);
  }
});

liveTest("connection: by DOCKER_CONTEXT, and by the current context", async () => {
  await using directory = await temporaryDirectory();
  const dir = directory.path;
  await using web = await target({ image: BARE });
  const docker = (...args: string[]) => run("docker", args, { env: { DOCKER_CONFIG: dir, DOCKER_HOST: "" } });
  await docker("context", "create", "mine", "--docker", `host=${DOCKER_HOST}`);
  const exec = (env: Record<string, string>) =>
    cdebug(["exec", web.name, "echo", "found"], { env: { DOCKER_HOST: "", DOCKER_CONFIG: dir, ...env } });
  assertEquals(await exec({ DOCKER_CONTEXT: "mine" }), found);
  await docker("context", "use", "mine");
  assertEquals(await exec({}), found);
  assertEquals(await exec({ DOCKER_HOST: DOCKER_HOST!, DOCKER_CONTEXT: "" }), found);
  const broken = await exec({ DOCKER_CONTEXT: "other" });
  assertEquals(broken.code, 125);
  assertIncludes(broken.stderr, 'Cannot use Docker context "other": there is no such context');
});

liveTest("connection: over TCP with certificates of both sides", async () => {
  await using directory = await temporaryDirectory();
  const dir = directory.path;
  await certificates(dir);
  const port = freePort();
  await using engine = await startDocker([
    "--host",
    `tcp://127.0.0.1:${port}`,
    "--tlsverify",
    `--tlscacert=${dir}/ca.pem`,
    `--tlscert=${dir}/server.pem`,
    `--tlskey=${dir}/server.key`,
  ]);
  await importBare(engine.client, BARE);
  await importToolkit(engine.client, TOOLKIT);
  await engine.client(["run", "-d", "--name", "web", BARE, "/server"]);
  const exec = (env: Record<string, string>, stdin?: string) =>
    cdebug(["exec", "-i", "web", "sh", "-c", "cat; echo found"], {
      env: { DOCKER_HOST: `tcp://127.0.0.1:${port}`, ...env },
      ...stdin !== undefined && { stdin },
    });
  const env = { DOCKER_TLS_VERIFY: "1", DOCKER_CERT_PATH: dir };
  assertEquals(await exec(env, "in\n"), { code: 0, stdout: "in\nfound\n", stderr: "" });

  const strange = `${dir}/strange`;
  await Deno.mkdir(strange);
  await certificates(strange);
  for (const wrong of [{ DOCKER_TLS_VERIFY: "1", DOCKER_CERT_PATH: strange }, {}]) {
    const { code, stderr } = await exec(wrong);
    assertEquals(code, 125);
    assertIncludes(stderr, `Cannot reach the Docker daemon at tcp://127.0.0.1:${port}`);
    assert(stderr.trimEnd().split("\n").length <= 2, stderr);
  }

  const docker = (...args: string[]) =>
    run("docker", args, {
      env: { DOCKER_CONFIG: `${dir}/config`, DOCKER_HOST: "", DOCKER_TLS_VERIFY: "" },
    });
  const files = `ca=${dir}/ca.pem,cert=${dir}/cert.pem,key=${dir}/key.pem`;
  await docker("context", "create", "far", "--docker", `host=tcp://127.0.0.1:${port},${files}`);
  const inContext = { DOCKER_HOST: "", DOCKER_CONFIG: `${dir}/config`, DOCKER_CONTEXT: "far" };
  assertEquals(await exec(inContext, ""), found);
});

liveTest("connection: over ssh", async () => {
  await using web = await target({ image: BARE });
  await using sshd = await startSshd();
  const user = (await run("id", ["-un"])).trim();
  const host = `ssh://${user}@${sshd.address}${DOCKER_HOST!.replace("unix://", "")}`;
  const env = { DOCKER_HOST: host, PATH: `${sshd.bin}:${Deno.env.get("PATH")}` };
  assertEquals(await cdebug(["exec", web.name, "echo", "found"], { env }), found);
  const piped = await cdebug(["exec", "-i", web.name, "sh", "-c", "cat; exit 7"], { env, stdin: "in\n" });
  assertEquals(piped, { code: 7, stdout: "in\n", stderr: "" });

  const refused = await cdebug(["exec", web.name, "true"], {
    env: { ...env, DOCKER_HOST: host.replace(user, "nobody-here") },
  });
  assertEquals(refused.code, 125);
  assertIncludes(refused.stderr, "Permission denied");
  assertIncludes(refused.stderr, "Hint: docker --host ssh://nobody-here@");
});

/** An authority, and certificates that it has signed: `server` for this machine, `cert` and `key` for clients. */
async function certificates(dir: string): Promise<void> {
  await install({ openssl: "openssl" });
  await run("sh", [
    "-ec",
    `cd "$1"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority \
      -addext basicConstraints=critical,CA:TRUE -keyout ca.key -out ca.pem
    sign() {
      openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$2" -out request
      printf '%s\\n' "$4" >extensions
      openssl x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out "$3"
    }
    sign 127.0.0.1 server.key server.pem 'subjectAltName=IP:127.0.0.1
extendedKeyUsage=serverAuth'
    sign client key.pem cert.pem extendedKeyUsage=clientAuth`,
    "sh",
    dir,
  ]);
}
