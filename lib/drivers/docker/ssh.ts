/**
 * An engine behind ssh, as the docker client reaches it: `ssh HOST docker system dial-stdio`, with the user's own
 * ssh, its config, keys and known hosts; Podman has the same command. Each connection to a private UNIX socket becomes one ssh, so
 * that everything else speaks to a UNIX socket.
 */

import { CdebugError } from "../../errors.ts";
import type { Endpoint } from "./endpoint.ts";

export interface Relay extends AsyncDisposable {
  /** The socket's path. */
  readonly path: string;
  /** What ssh has said last, for errors. */
  complaint(): string;
}

/** Opens a relay to `ssh://[USER@]HOST[:PORT][/SOCKET]`. Source: docker/cli, cli/connhelper/ssh/ssh.go. */
export async function openRelay({ engine, address, sshKey }: Endpoint): Promise<Relay> {
  const url = URL.parse(address);
  if (url === null || url.hostname === "" || url.password !== "" || url.hostname.startsWith("-")) {
    throw new CdebugError(`Cannot use "${address}": expected ssh://[USER@]HOST[:PORT]`);
  }
  // ssh hands the words of a command to a shell of the other machine.
  if (!/^[\w/.+-]*$/.test(url.pathname)) {
    throw new CdebugError(`Cannot use "${address}": a socket's path may hold letters, digits and /._+- only`);
  }
  const args = [
    ...url.username ? ["-l", decodeURIComponent(url.username)] : [],
    ...url.port ? ["-p", url.port] : [],
    ...sshKey ? ["-i", sshKey] : [],
    "-o",
    "ConnectTimeout=30",
    "-T",
    "--",
    url.hostname,
    engine,
    ...url.pathname.length > 1 ? [engine === "docker" ? "--host" : "--url", `unix://${url.pathname}`] : [],
    "system",
    "dial-stdio",
  ];
  const dir = await Deno.makeTempDir({ prefix: "cdebug-ssh-" }); // readable by the user alone
  const path = `${dir}/docker.sock`;
  const listener = Deno.listen({ transport: "unix", path });
  let complaint = "";
  const joins = new Set<Promise<void>>();
  const children = new Set<Deno.ChildProcess>();

  const join = async (connection: Deno.UnixConn) => {
    const child = new Deno.Command("ssh", {
      args,
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
      detached: true, // a Ctrl-C is for the session, not for its connection; the docker client does the same
    }).spawn();
    children.add(child);
    const complain = (async () => {
      for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
        complaint = text.trim() || complaint;
      }
    })();
    // Read by hand: the connection's own stream closes all of it at the end of one direction, and a
    // half-closed connection still gets its answer.
    const send = async () => {
      const writer = child.stdin.getWriter();
      const buffer = new Uint8Array(64 * 1024);
      for (let count; (count = await connection.read(buffer)) !== null;) {
        await writer.write(buffer.slice(0, count));
      }
      await writer.close();
    };
    const receive = async () => {
      for await (const chunk of child.stdout) {
        for (let done = 0; done < chunk.length;) done += await connection.write(chunk.subarray(done));
      }
    };
    // Sending may end before receiving; when there is nothing more to receive, all is over.
    const sending = send().catch(() => {});
    await Promise.allSettled([receive(), complain]);
    connection.close();
    await Promise.all([sending, child.status]);
    children.delete(child);
  };
  const accepting = (async () => {
    for await (const connection of listener) {
      const joined = join(connection).finally(() => joins.delete(joined));
      joins.add(joined);
    }
  })();

  return {
    path,
    complaint: () => complaint,
    async [Symbol.asyncDispose]() {
      listener.close();
      await accepting;
      for (const child of children) child.kill("SIGTERM");
      await Promise.allSettled(joins);
      await Deno.remove(dir, { recursive: true });
    },
  };
}
