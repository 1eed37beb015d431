/** Containers of runc and crun, by the runtimes' own `state` and `list`. Source: runc(8), crun(1), OCI runtime-spec. */

import { CdebugError, nearest, NotFound, reason } from "../../errors.ts";
import { identityOf } from "../../owner.ts";
import type { Configured } from "./target.ts";

/** The runtimes; each is also its program's name. */
export type Runtime = "runc" | "crun";

/** A container as its runtime lists it. */
export interface Listed {
  readonly id: string;
  /** `running`, `paused`, `created`, `stopped`. */
  readonly status: string;
  /** 0 where nothing runs. */
  readonly pid: number;
  readonly bundle: string;
  readonly createdAt: Date;
}

/** All containers of a runtime. `root` is its directory of states, if not its own choice. */
export async function listContainers(runtime: Runtime, root: string | undefined): Promise<Listed[]> {
  const text = await ask(runtime, root, ["list", "--format", "json"]);
  // Both say null where there is none.
  const found = (JSON.parse(text.trim() || "null") ?? []) as {
    id: string;
    status: string;
    pid: number;
    bundle?: string;
    created?: string;
  }[];
  return found.map(({ id, status, pid, bundle = "", created = "" }) => ({
    id,
    status,
    pid,
    bundle,
    createdAt: new Date(created),
  }));
}

/**
 * A running container, and what its bundle says of it. With `reading`, one that is paused or has stopped will do.
 * Throws CdebugError if there is no such container, or it does not run.
 */
export async function findContainer(
  runtime: Runtime,
  root: string | undefined,
  name: string,
  reading = false,
): Promise<Listed & { readonly configured: Configured }> {
  const all = await listContainers(runtime, root);
  const exact = all.find(({ id }) => id === name);
  const matches = exact
    ? [exact]
    : all.filter(({ id, pid }) => id.startsWith(name) || (pid > 0 && identityOf(pid).startsWith(name)));
  const [found, ...more] = matches;
  const call = root === undefined ? runtime : `${runtime} --root ${root}`;
  if (found === undefined) {
    const near = nearest(name, all.map(({ id }) => id));
    throw new NotFound(`Cannot find target "${name}": ${runtime} has no such container`, {
      hint: near.length > 0 ? `Did you mean ${near.join(" or ")}?` : `${call} list  lists the containers`,
      near,
    });
  }
  if (more.length > 0) {
    throw new CdebugError(`Cannot find target "${name}": the ID is ambiguous`, {
      hint: matches.map(({ id }) => id).join(", "),
    });
  }
  const { id, status } = found;
  const cannot = (why: string, hint: string) => new CdebugError(`Cannot debug "${id}": ${why}`, { hint });
  const whole = async () => ({ ...found, configured: { name: id, ...await readConfig(found) } });
  if (reading && ["paused", "created", "stopped"].includes(status)) return await whole();
  switch (status) {
    case "running":
      return await whole();
    case "paused":
      throw cannot("it is paused", `${call} resume ${id}`);
    case "created":
      throw cannot("it is created, and nothing of it runs yet", `${call} start ${id}`);
    case "stopped":
      throw cannot(
        "it is not running, and of a stopped container no process is left",
        `${call} delete ${id}`,
      );
    default:
      throw cannot(`it is ${status}`, `${call} state ${id}`);
  }
}

/** User, working directory and PATH as configured: what the process itself has may have changed since. */
async function readConfig({ bundle }: Listed): Promise<Partial<Configured>> {
  try {
    const { process, root } = JSON.parse(await Deno.readTextFile(`${bundle}/config.json`)) as {
      process: { user?: { uid?: number; gid?: number }; cwd?: string; env?: string[] };
      root?: { path?: string };
    };
    const { path: files = "rootfs" } = root ?? {};
    const path = process.env?.find((entry) => entry.startsWith("PATH="))?.slice("PATH=".length);
    const { uid = 0, gid = 0 } = process.user ?? {};
    return {
      user: uid === 0 ? "" : `${uid}:${gid}`,
      files: files.startsWith("/") ? files : `${bundle}/${files}`,
      ...process.cwd !== undefined && { workdir: process.cwd },
      ...path !== undefined && { path },
    };
  } catch {
    return {}; // it is gone, or closed to this user: the process tells enough
  }
}

/** The runtime's version, as in `1.1.5`. */
export async function versionOf(runtime: Runtime): Promise<string> {
  return /(\d+(?:\.\d+)+\S*)/.exec(await ask(runtime, undefined, ["--version"]))?.[1] ?? "unknown";
}

async function ask(runtime: Runtime, root: string | undefined, args: readonly string[]): Promise<string> {
  try {
    const { success, stdout, stderr } = await new Deno.Command(runtime, {
      args: [...root === undefined ? [] : ["--root", root], ...args],
      stdin: "null",
    }).output();
    const decoder = new TextDecoder();
    if (!success) throw new Error(decoder.decode(stderr).trim());
    return decoder.decode(stdout);
  } catch (error) {
    const missing = error instanceof Deno.errors.NotFound;
    // runc tells in the form of a log's line.
    const told = /msg="((?:[^"\\]|\\.)*)"/.exec(reason(error))?.[1] ?? reason(error);
    const hint = missing
      ? `cdebug doctor ${runtime}://`
      : /permission denied/.test(told)
      ? "sudo cdebug …; or --runtime DIR, where your own containers' states are"
      : undefined;
    throw new CdebugError(`Cannot ask ${runtime}: ${missing ? "it is not on PATH" : told}`, {
      ...hint !== undefined && { hint },
      cause: error,
    });
  }
}
