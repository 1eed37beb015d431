/** A real terminal, on a tmux server of the test's own. */

import { assertIncludes } from "../assert.ts";
import { poll, run } from "../engines/debian.ts";
import { CDEBUG, userEnv } from "./engine.ts";

/** A terminal with a shell in it. */
export class Terminal implements AsyncDisposable {
  readonly #socket = `cdebug-test-${crypto.randomUUID().slice(0, 8)}`;

  /** Runs sh, with `cdebug` as a command, or a shell of the test's own, whose prompt must hold a `$`. */
  static async open(
    size = { columns: 100, rows: 30 },
    env: Record<string, string> = {},
    shell?: readonly string[],
  ): Promise<Terminal> {
    const terminal = new Terminal();
    await run("tmux", [
      "-L",
      terminal.#socket,
      "-f",
      "/dev/null",
      "new-session",
      "-d",
      "-x",
      String(size.columns),
      "-y",
      String(size.rows),
      "env",
      ...Object.entries(userEnv({ PS1: "$ ", ENV: "", ...env })).map(([name, value]) => `${name}=${value}`),
      ...shell ?? ["sh"],
    ]);
    await terminal.shows("$");
    if (!shell) await terminal.type(`cdebug() { ${CDEBUG.join(" ")} "$@"; }`);
    return terminal;
  }

  async #tmux(...args: string[]): Promise<string> {
    return await run("tmux", ["-L", this.#socket, ...args]);
  }

  /** Types a line and Enter. */
  async type(line: string): Promise<void> {
    await this.write(line);
    await this.keys("Enter");
  }

  /** Types a part of a line. */
  async write(text: string): Promise<void> {
    await this.#tmux("send-keys", "-l", text);
  }

  /** Types keys by tmux's names for them: `C-c`, `Enter`. */
  async keys(...names: string[]): Promise<void> {
    await this.#tmux("send-keys", ...names);
  }

  async resize(columns: number, rows: number): Promise<void> {
    await this.#tmux("resize-window", "-x", String(columns), "-y", String(rows));
  }

  async screen(): Promise<string> {
    return await this.#tmux("capture-pane", "-p", "-S", "-200");
  }

  /** Waits until the screen holds a text. */
  async shows(text: string): Promise<void> {
    await poll(async () => assertIncludes(await this.screen(), text));
  }

  /** The process ID of the cdebug that runs in the terminal. */
  async cdebugPid(): Promise<number> {
    const shell = (await this.#tmux("display-message", "-p", "#{pane_pid}")).trim();
    return await poll(async () => Number((await run("pgrep", ["-P", shell])).trim()));
  }

  /** Closes the terminal under whatever runs in it. */
  async close(): Promise<void> {
    await this.#tmux("kill-server").catch(() => {});
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
