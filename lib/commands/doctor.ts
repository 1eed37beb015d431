/** `cdebug doctor`: which engines there are, what each can do, and what mends those that do not work. */

import type { Driver, EngineDescription } from "../driver.ts";
import { EXIT, printable } from "../errors.ts";
import { COMMON_FLAGS, type Flags, formatFlags, parseFlags } from "../flags.ts";
import type { Planner } from "../plan.ts";
import { findSessions, orphans } from "../sessions.ts";
import type { Capabilities } from "../target.ts";
import { type Asked, askEngines, ENGINE_FLAGS } from "./engines.ts";
import { aroundRequest } from "./live.ts";
import { count, formatTable, OUTPUT_FLAG, printAs } from "./output.ts";
import { print } from "./session.ts";

export const flags = {
  output: OUTPUT_FLAG,
  image: {
    type: "string",
    value: "IMAGE",
    help: "The toolkit to look for (default $CDEBUG_IMAGE, else busybox:musl)",
  },
  ...ENGINE_FLAGS,
  ...COMMON_FLAGS,
} as const satisfies Flags;

const help = `Usage: cdebug doctor [FLAGS] [ENGINE://]

Says which engines are found and how, what each is and can do, and what is wrong with the command that mends
it. Nothing is created, pulled or changed. The exit code is 0 if at least one engine works, else 125.

Examples:
  cdebug doctor
  cdebug doctor podman://                      Podman only
  cdebug doctor -o json                        for programs

Flags:
${formatFlags(flags)}
`;

/** What an engine that works has to say. */
interface Findings {
  readonly description: EngineDescription;
  readonly toolkit: NonNullable<Report["toolkit"]>;
  readonly sessions: number;
  readonly orphans: number;
}

/** Something that is wrong, and the command that mends it. */
interface Problem {
  readonly problem: string;
  readonly hint?: string;
}

/** What is reported of an engine; programs get it as it is. */
export interface Report extends Partial<EngineDescription> {
  readonly engine: string;
  readonly status: "works" | "fails" | "absent";
  readonly address?: string;
  readonly source?: string;
  /** The namespaces of a target that a sidecar can share, and why not the others. */
  readonly joins?: Capabilities["join"];
  readonly cannotJoin?: Readonly<Record<string, string>>;
  /** Where it is not present, it is pulled. */
  readonly toolkit?: { readonly image: string; readonly present: boolean };
  readonly sessions?: number;
  readonly orphans?: number;
  readonly problems: readonly Problem[];
}

/** Runs `cdebug doctor` and returns its exit code. `planner` knows the default toolkit. */
export async function doctor(
  argv: readonly string[],
  planner: () => Promise<Planner & Required<Pick<Planner, "toolkit">>>,
  version: string,
): Promise<number> {
  const { values, rest } = parseFlags("doctor", flags, argv, { anywhere: true });
  if (values.help) {
    await print(help);
    return 0;
  }
  const { request, toolkit } = await planner();
  const wanted = request({ ...values.image && { image: values.image } }, ["any", "true"], aroundRequest());
  await using engines = await askEngines("doctor", rest, values.runtime, (driver) => {
    const { capabilities } = driver;
    return examine(driver, toolkit(capabilities.images ? wanted : {}, capabilities));
  });
  const reports = engines.all.map(reportOn);
  const client = { version, deno: Deno.version.deno, platform: `${Deno.build.os}/${Deno.build.arch}` };
  await printAs(
    values.output,
    { cdebug: client, engines: reports },
    () =>
      `cdebug ${client.version}, Deno ${client.deno}, ${client.platform}\n` +
      reports.map((report) => `\n${formatReport(report)}`).join(""),
  );
  return engines.answers.length > 0 ? 0 : EXIT.failure;
}

async function examine(driver: Driver, image: string): Promise<Findings> {
  const [description, present, sessions] = await Promise.all([
    driver.describe(),
    driver.hasImage(image),
    findSessions(driver),
  ]);
  return {
    description,
    toolkit: { image, present },
    sessions: sessions.length,
    orphans: orphans(sessions).length,
  };
}

function reportOn({ engine, location, result }: Asked<Findings>): Report {
  const where = location && { address: location.address, source: location.source };
  if (result.kind !== "answered") {
    const { message, hint } = result.error;
    return {
      engine,
      status: result.kind === "absent" ? "absent" : "fails",
      ...where,
      problems: [{ problem: message, ...hint !== undefined && { hint } }],
    };
  }
  const { driver: { capabilities: { join, cannotJoin = {} } }, answer } = result;
  return {
    engine,
    status: "works",
    ...where,
    ...answer.description,
    joins: join,
    cannotJoin,
    toolkit: answer.toolkit,
    sessions: answer.sessions,
    orphans: answer.orphans,
    problems: answer.orphans === 0 ? [] : [{
      problem: `${count(answer.orphans, "session")} lost ${answer.orphans === 1 ? "its" : "their"} cdebug`,
      hint: "cdebug prune",
    }],
  };
}

/** What an engine may have nothing to say of. */
function row(name: string, text: string | undefined): [string, string][] {
  return text ? [[name, text]] : [];
}

/** The report as people read it. */
export function formatReport(report: Report): string {
  const { engine, status, address, source, problems } = report;
  const rows: [string, string][] = [];
  if (address !== undefined) rows.push(["address", `${address} (from ${source})`]);
  if (report.status === "works") {
    const { joins = [], cannotJoin = {}, toolkit, securityOptions = [] } = report;
    const user = report.rootless
      ? "rootless"
      : report.userNamespaceRemapped
      ? "as root, user namespaces remapped"
      : "as root";
    const cannot = Object.entries(cannotJoin).map(([kind, why]) => `; not ${kind}: ${why}`).join("");
    rows.push(
      ["version", `${report.version}, ${report.apiVersion ? `API ${report.apiVersion}, ` : ""}${user}`],
      ["machine", `${report.platform}, ${report.operatingSystem}`],
      ...row("storage", report.storageDriver),
      ...row("cgroups", report.cgroupVersion && `version ${report.cgroupVersion}`),
      ["security", securityOptions.join(", ") || "none"],
      ["joins", `the target's ${joins.join(", ")} namespaces${cannot}`],
      ["toolkit", `${toolkit!.image}, ${toolkit!.present ? "there" : "pulled when it is first needed"}`],
      ["sessions", String(report.sessions)],
    );
  }
  const headline = { works: "works", fails: "does not work", absent: "is not there" }[status];
  const told = problems.map(({ problem, hint }) =>
    printable(`  ! ${problem}\n${hint === undefined ? "" : `    Hint: ${hint}\n`}`)
  );
  return `${engine} ${headline}\n${formatTable(rows, "  ")}${told.join("")}`;
}
