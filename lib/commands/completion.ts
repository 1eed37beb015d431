/** `cdebug completion`: the scripts with which shells complete cdebug's command lines. */

import bash from "./completion/cdebug.bash" with { type: "text" };
import fish from "./completion/cdebug.fish" with { type: "text" };
import zsh from "./completion/cdebug.zsh" with { type: "text" };
import { CdebugError, nearest } from "../errors.ts";
import { COMMON_FLAGS, parseFlags } from "../flags.ts";
import { print } from "./session.ts";

/** Each asks the hidden `cdebug __complete`, of complete.ts. */
const SCRIPTS: Readonly<Record<string, string>> = { bash, zsh, fish };

export const SHELLS: readonly string[] = Object.keys(SCRIPTS);

const help = `Usage: cdebug completion ${SHELLS.join("|")}

Prints a script for the shell, which completes commands, flags, their values, and the names of running
containers. Engines that do not answer within 0.2 s are left out, and so are those behind ssh.

Examples:
  source <(cdebug completion bash)             in ~/.bashrc
  source <(cdebug completion zsh)              in ~/.zshrc, after compinit
  cdebug completion fish > ~/.config/fish/completions/cdebug.fish
`;

/** Prints the script for a shell and returns the exit code. Throws CdebugError for a shell that there is none for. */
export async function completion(argv: readonly string[]): Promise<number> {
  const { values, rest } = parseFlags("completion", COMMON_FLAGS, argv, { anywhere: true });
  if (values.help) {
    await print(help);
    return 0;
  }
  const [shell, ...more] = rest;
  if (shell === undefined || more.length > 0 || !Object.hasOwn(SCRIPTS, shell)) {
    throw new CdebugError(
      `Cannot run completion: expected one shell, ${SHELLS.join(" or ")}, not "${rest.join(" ")}"`,
      { hint: `cdebug completion ${nearest(shell ?? "", SHELLS, 1)[0] ?? SHELLS.join("|")}` },
    );
  }
  await print(SCRIPTS[shell]!);
  return 0;
}
