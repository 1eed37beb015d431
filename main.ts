/** cdebug: a swiss army knife of container debugging. Finds the command, runs it, exits with its code. */

import type { Planner } from "./lib/plan.ts";
import config from "./deno.json" with { type: "json" };

const planners = {
  exec: () => import("./plans/exec.ts"),
  "port-forward": () => import("./plans/port_forward.ts"),
  export: () => import("./plans/export.ts"),
};

const argv = Deno.args;
Deno.exit(await run(argv));

async function run([command, ...rest]: readonly string[]): Promise<number> {
  try {
    switch (command) {
      case "exec":
      case "port-forward":
      case "export": {
        const { live } = await import("./lib/commands/live.ts");
        const planner: Planner = await planners[command]();
        return await live(command, planner, rest, { print: false });
      }
      case "plan": {
        const { plan } = await import("./lib/commands/plan.ts");
        return await plan(rest, planners);
      }
      case "apply": {
        const { apply } = await import("./lib/commands/apply.ts");
        return await apply(rest, (name) => planners[name]());
      }
      case "ls": {
        const { ls } = await import("./lib/commands/ls.ts");
        return await ls(rest);
      }
      case "prune": {
        const { prune } = await import("./lib/commands/prune.ts");
        return await prune(rest, planners.exec);
      }
      case "history": {
        const { history } = await import("./lib/commands/history.ts");
        return await history(rest);
      }
      case "doctor": {
        const { doctor } = await import("./lib/commands/doctor.ts");
        return await doctor(rest, planners.exec, config.version);
      }
      case "completion": {
        const { completion } = await import("./lib/commands/completion.ts");
        return await completion(rest);
      }
      case "cache": {
        const { cache } = await import("./lib/commands/cache.ts");
        return await cache(rest);
      }
      case "__relay": {
        const { relay } = await import("./lib/commands/relay.ts");
        return await relay(rest);
      }
      case "__complete": {
        const { complete } = await import("./lib/commands/complete.ts");
        return await complete(rest, planners);
      }
      case "--version":
      case "version":
        await Deno.stdout.write(new TextEncoder().encode(`cdebug ${config.version}\n`));
        return 0;
      case "help":
        if (rest.length > 0) return await run([...rest, "--help"]);
        // falls through
      default: {
        const { help } = await import("./lib/commands/help.ts");
        return await help(command);
      }
    }
  } catch (error) {
    const { tellFailure } = await import("./lib/commands/session.ts");
    return tellFailure(error, argv.includes("--debug"));
  }
}
