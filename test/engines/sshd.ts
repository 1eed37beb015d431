/** An ssh server of the tests' own, for the user that runs them, and an ssh client that knows it. */

import { Daemon, freePort, install, run } from "./debian.ts";

export interface SshServer extends AsyncDisposable {
  /** `127.0.0.1:PORT`. */
  readonly address: string;
  /** A directory with an `ssh` that has the key and the known host, to be put in front of PATH. */
  readonly bin: string;
}

export async function startSshd(): Promise<SshServer> {
  await install({ sshd: "openssh-server", ssh: "openssh-client" });
  const dir = await Deno.makeTempDir({ prefix: "cdebug-sshd-" });
  const port = freePort();
  for (const name of ["host", "user"]) {
    await run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", `${dir}/${name}`]);
  }
  await Deno.copyFile(`${dir}/user.pub`, `${dir}/authorized`);
  const hostKey = await Deno.readTextFile(`${dir}/host.pub`);
  await Deno.writeTextFile(`${dir}/known`, `[127.0.0.1]:${port} ${hostKey}`);
  await Deno.mkdir(`${dir}/bin`);
  await Deno.writeTextFile(
    `${dir}/bin/ssh`,
    `#!/bin/sh
exec /usr/bin/ssh -F none -i ${dir}/user -o UserKnownHostsFile=${dir}/known -o BatchMode=yes "$@"
`,
    { mode: 0o755 },
  );
  // What sshd insists on before it takes a connection.
  await Deno.mkdir("/run/sshd", { recursive: true, mode: 0o755 });
  const daemon = Daemon.start("/usr/sbin/sshd", [
    "-D",
    "-e",
    "-f",
    "/dev/null",
    ...[
      `Port=${port}`,
      "ListenAddress=127.0.0.1",
      `HostKey=${dir}/host`,
      `AuthorizedKeysFile=${dir}/authorized`,
      "PasswordAuthentication=no",
      "PermitRootLogin=prohibit-password",
      "StrictModes=no",
      "UsePAM=no",
      "PidFile=none",
    ].flatMap((option) => ["-o", option]),
  ], `${dir}/log`);
  const server: SshServer = {
    address: `127.0.0.1:${port}`,
    bin: `${dir}/bin`,
    async [Symbol.asyncDispose]() {
      await daemon[Symbol.asyncDispose]();
      await Deno.remove(dir, { recursive: true });
    },
  };
  try {
    await daemon.ready(() => run(`${dir}/bin/ssh`, ["-p", String(port), "127.0.0.1", "true"]));
    return server;
  } catch (error) {
    await server[Symbol.asyncDispose]();
    throw error;
  }
}
