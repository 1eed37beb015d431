/** `cdebug plan`: prints the plan of a command, or what a plan may hold. */

import { CdebugError, nearest } from "../errors.ts";
import { type Planner, planSchema } from "../plan.ts";
import { live } from "./live.ts";
import { print } from "./session.ts";

const help = `Usage: cdebug plan exec [FLAGS] TARGET [COMMAND [ARG...]]
       cdebug plan port-forward [FLAGS] TARGET -L FORWARD|-R FORWARD...
       cdebug plan export [FLAGS] TARGET
       cdebug plan schema

Prints the plan that the command would run: the containers, their rights, why, and what is left behind. Nothing
is created, pulled or changed. cdebug apply runs it. Values of -e are left out unless --show-values is given.

Examples:
  cdebug plan exec web ps > ps.yaml
  cdebug plan schema > plan.schema.json        for editors
`;

/** Runs `cdebug plan` and returns its exit code. */
export async function plan(
  [command, ...rest]: readonly string[],
  planners: Readonly<Record<string, () => Promise<Planner>>>,
): Promise<number> {
  if (command === "--help" || command === "-h") {
    await print(help);
    return 0;
  }
  if (command === "schema") {
    await print(JSON.stringify(planSchema(), null, 2) + "\n");
    return 0;
  }
  const planner = command !== undefined && Object.hasOwn(planners, command) ? planners[command] : undefined;
  if (!planner) {
    const known = [...Object.keys(planners), "schema"];
    const near = nearest(command ?? "", known, 1);
    throw new CdebugError(
      command === undefined
        ? "Cannot plan: no command is named"
        : `Cannot plan "${command}": there is no such command`,
      { hint: `cdebug plan ${near[0] ?? known.join(", cdebug plan ")}` },
    );
  }
  return await live(`plan ${command}`, await planner(), rest, { print: true });
}
