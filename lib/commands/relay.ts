/**
 * `cdebug __relay [OPTION...] FROM TO`: what forwards where there is no socat. It has socat's words for what forwards take of it:
 * TCP4-LISTEN, TCP6-LISTEN and UNIX-LISTEN with bind; TCP-CONNECT, TCP4-, TCP6- and UNIX-CONNECT.
 * The rest of its words and options are as they always are here, and left aside.
 */

import { CdebugError, reason } from "../errors.ts";
import type { Endpoint } from "../plan.ts";
import { connectTo, join, listen } from "../tunnel.ts";

const LISTEN = /^(?:TCP[46]-LISTEN:(?<port>\d+),bind=(?<host>[^,]+)|UNIX-LISTEN:(?<path>[^,]+))/;
const CONNECT = /^(?:TCP[46]?-CONNECT:(?<host>.+):(?<port>\d+)|UNIX-CONNECT:(?<path>[^,]+))(?:,|$)/;

/** Joins each connection to FROM with one to TO, until a signal ends it. Throws CdebugError if it cannot listen. */
export async function relay(args: readonly string[]): Promise<number> {
  const [from, to] = args.slice(-2);
  const listening = endpointOf(from, LISTEN);
  const connecting = endpointOf(to, CONNECT);
  const listener = await listen(listening, async (client) => {
    try {
      await join(client, await connectTo(connecting), { sent: 0, received: 0 });
    } catch (error) {
      client.reset();
      await say(reason(error));
    }
  });
  if ("path" in listening) await Deno.chmod(listening.path, 0o666); // whoever may come to its directory may connect
  await new Promise<void>((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) Deno.addSignalListener(signal, resolve);
  });
  listener.close();
  if ("path" in listening) await Deno.remove(listening.path).catch(() => {});
  return 0;
}

function endpointOf(address: string | undefined, pattern: RegExp): Endpoint {
  const { host, port, path } = pattern.exec(address ?? "")?.groups ?? {};
  if (path !== undefined) return { path };
  if (host !== undefined) return { host: host.replace(/^\[(.*)\]$/, "$1"), port: Number(port) };
  throw new CdebugError(`Cannot relay "${address ?? ""}": it is no address that this relay knows`);
}

async function say(text: string): Promise<void> {
  await Deno.stderr.write(new TextEncoder().encode(`cdebug: ${text}\n`));
}
