/** Installs what the live tests and the demo need, where that is possible. */

/** Why nothing can be installed or started here, or nothing. */
export async function obstacle(): Promise<string | undefined> {
  if (Deno.build.os !== "linux") return `this is ${Deno.build.os}, not Linux`;
  if (Deno.uid() !== 0) return "it takes root";
  const release = await Deno.readTextFile("/etc/os-release").catch(() => "");
  if (!/^ID(_LIKE)?=.*\b(debian|ubuntu)\b/m.test(release)) return "this is neither Debian nor Ubuntu";
}

/** Installs the Debian packages whose program is not there yet: program → package. Says so first; throws where it cannot. */
export async function install(programs: Readonly<Record<string, string>>): Promise<void> {
  const missing = new Set<string>();
  for (const [program, name] of Object.entries(programs)) {
    if (!await hasProgram(program)) missing.add(name);
  }
  if (missing.size === 0) return;
  const why = await obstacle();
  if (why) throw new Error(`cannot install ${[...missing].join(", ")}: ${why}`);
  say(`installing ${[...missing].join(", ")}`);
  // A service that a package brings would be an engine that nobody asked for.
  const policy = "/usr/sbin/policy-rc.d";
  const hadPolicy = await exists(policy);
  if (!hadPolicy) await Deno.writeTextFile(policy, "#!/bin/sh\nexit 101\n", { mode: 0o755 });
  try {
    await run("apt-get", ["update"]);
    await run("apt-get", ["install", "-y", "--no-install-recommends", ...missing], {
      env: { DEBIAN_FRONTEND: "noninteractive" },
    });
  } finally {
    if (!hadPolicy) await Deno.remove(policy);
  }
}

export async function hasProgram(name: string): Promise<boolean> {
  for (const dir of [...(Deno.env.get("PATH") ?? "").split(":"), "/usr/sbin", "/sbin"]) {
    if (await exists(`${dir}/${name}`)) return true;
  }
  return false;
}

export async function exists(path: string): Promise<boolean> {
  return await Deno.lstat(path).then(() => true, () => false);
}

/** Runs a program to its end and returns its output; throws with its errors if it fails. */
export async function run(
  program: string,
  args: readonly string[],
  options: { env?: Record<string, string>; stdin?: Uint8Array<ArrayBuffer> } = {},
): Promise<string> {
  const child = new Deno.Command(program, {
    args: [...args],
    stdin: options.stdin ? "piped" : "null",
    stdout: "piped",
    stderr: "piped",
    ...options.env && { env: options.env },
  }).spawn();
  const [output] = await Promise.all([
    child.output(),
    options.stdin && new Blob([options.stdin]).stream().pipeTo(child.stdin),
  ]);
  const text = new TextDecoder().decode(output.stdout);
  if (!output.success) {
    const errors = new TextDecoder().decode(output.stderr);
    throw new Error(`${program} ${args.join(" ")} failed with exit code ${output.code}: ${errors}${text}`);
  }
  return text;
}

/** Calls `check` until it does not throw; its last error if it still does after `seconds`. */
export async function poll<T>(check: () => Promise<T>, seconds = 15): Promise<T> {
  const end = performance.now() + seconds * 1000;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (performance.now() > end) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** A TCP port of this machine that nobody listens on. */
export function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

export function say(text: string): void {
  Deno.stderr.writeSync(new TextEncoder().encode(`${text}\n`));
}

/** A daemon that was started here: ended by its own process ID, then waited for. */
export class Daemon implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #log: string;

  private constructor(child: Deno.ChildProcess, log: string) {
    this.#child = child;
    this.#log = log;
  }

  /** Starts a program whose output goes to a file. In a session of its own: a Ctrl-C is not for it. */
  static start(program: string, args: readonly string[], log: string): Daemon {
    const child = new Deno.Command("sh", {
      args: ["-c", 'log=$1; shift; exec "$@" >"$log" 2>&1', "sh", log, program, ...args],
      detached: true,
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    return new Daemon(child, log);
  }

  /** Waits until `check` passes; throws with the end of the log if it does not, or if the daemon has ended. */
  async ready(check: () => Promise<unknown>): Promise<void> {
    let ended = false;
    this.#child.status.then(() => ended = true);
    try {
      await poll(async () => {
        if (!ended) await check();
      }, 60);
      if (ended) throw new Error("the daemon has ended");
    } catch (error) {
      const log = await Deno.readTextFile(this.#log).catch(() => "");
      throw new Error(`${error}; its log ends with:\n${log.split("\n").slice(-15).join("\n")}`);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGTERM");
    } catch {
      // It has ended before.
    }
    await this.#child.status;
  }
}
