/** Directories that this machine and a sidecar share, for UNIX sockets between them. */

import { CdebugError, reason } from "./errors.ts";
import { ownerState } from "./owner.ts";

/** A directory that a sidecar shares; gone when it is disposed of. */
export interface Exchange extends AsyncDisposable {
  /** What the sidecar has. */
  readonly directory: string;
  /** Where a socket is here that is somewhere else in the sidecar. */
  path(socket: string): string;
}

const PREFIX = "cdebug-exchange-";
const OWNER = "owner";
/** A UNIX socket's path has 107 bytes at most, and engines part what they mount by colons. Source: unix(7). */
const LONGEST_BASE = 107 - "/cdebug-exchange-0123456789abcdef/s/999".length;

/**
 * Makes one, in the user's runtime directory or in /tmp. Nobody but its user comes to it: the outer directory is closed
 * to all others, so that the inner one, which the sidecar has, can be open to whomever the sidecar is. `owner` is the
 * `ownIdentity` of the process that it ends with.
 */
export async function makeExchange(owner: string): Promise<Exchange> {
  const dir = await base();
  let outer: string | undefined;
  let directory: string;
  try {
    outer = await Deno.makeTempDir({ dir, prefix: PREFIX });
    directory = `${outer}/s`;
    await Deno.writeTextFile(`${outer}/${OWNER}`, owner);
    await Deno.mkdir(directory);
    await Deno.chmod(directory, 0o777);
  } catch (error) {
    if (outer !== undefined) await Deno.remove(outer, { recursive: true }).catch(() => {});
    throw new CdebugError(`Cannot forward: nothing can be made in ${dir}: ${reason(error)}`, {
      hint: "XDG_RUNTIME_DIR=/DIR cdebug …, where there is room",
      cause: error,
    });
  }
  const made = outer;
  return {
    directory,
    path: (socket) => `${directory}/${socket.replace(/^.*\//, "")}`,
    [Symbol.asyncDispose]: () => Deno.remove(made, { recursive: true }).catch(() => {}),
  };
}

/** The directories of this user's whose process is gone. */
export async function staleExchanges(): Promise<string[]> {
  const dir = await base();
  const stale: string[] = [];
  for await (const { name, isDirectory } of Deno.readDir(dir)) {
    if (!isDirectory || !name.startsWith(PREFIX)) continue;
    // Those of other users cannot be looked into.
    const owner = await Deno.readTextFile(`${dir}/${name}/${OWNER}`).catch(() => undefined);
    if (owner !== undefined && await ownerState(owner) === "dead") stale.push(`${dir}/${name}`);
  }
  return stale;
}

async function base(): Promise<string> {
  const runtime = Deno.env.get("XDG_RUNTIME_DIR");
  const there = runtime?.startsWith("/") && runtime.length <= LONGEST_BASE && !runtime.includes(":") &&
    await Deno.stat(runtime).then(({ isDirectory }) => isDirectory, () => false);
  return there ? runtime! : "/tmp";
}
