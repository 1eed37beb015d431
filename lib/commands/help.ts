/** `cdebug help`, and what is said to a command that does not exist. */

import { CdebugError, nearest } from "../errors.ts";
import { print } from "./session.ts";

/** The commands that users are told of, and what each does. */
export const COMMANDS = {
  exec: "Run a command, or a shell, with your own tools in a container",
  "port-forward": "Forward ports from a container to this machine, and back",
  export: "Copy the files of a container, a process or an image to a folder or an archive",
  plan: "Print what a command would do, to review, keep and apply",
  apply: "Run a saved plan",
  ls: "List the sessions",
  prune: "Remove what belongs to no living session",
  history: "List the plans that ran, and how they ended",
  cache: "List and remove what registries have given",
  doctor: "Say which engines there are, and what mends those that do not work",
  completion: "Print the script that makes a shell complete cdebug's command lines",
  help: "Print this help",
  version: "Print the version",
};

const text = `Usage: cdebug COMMAND [FLAGS] ...

Debug containers that have no shell and no tools. Nothing is restarted, nothing is left behind.

Commands:
${Object.entries(COMMANDS).map(([name, summary]) => `  ${name.padEnd(14)}${summary}`).join("\n")}

Examples:
  cdebug exec -it web                          a shell in container web
  cdebug exec web ps                           its processes
  cdebug port-forward web -L 8080:80           its port 80 is http://127.0.0.1:8080
  cdebug exec --dry-run web ps                 what would be done, and why

cdebug COMMAND --help tells more.
`;

/** Prints the help, or throws CdebugError for a command that does not exist. */
export async function help(command: string | undefined): Promise<number> {
  if (command !== undefined && !["help", "--help", "-h"].includes(command)) {
    const near = nearest(command, Object.keys(COMMANDS), 1);
    throw new CdebugError(`Cannot run "${command}": there is no such command`, {
      hint: near.length > 0
        ? `Did you mean cdebug ${near[0]}?`
        : "cdebug exec -it NAME gives a shell in a container; cdebug help",
    });
  }
  await print(text);
  return command === undefined ? 125 : 0;
}
