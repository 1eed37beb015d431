/**
 * The plan: what cdebug is going to do, as JSON values only.
 *
 * One valibot schema gives the types, the checks and the JSON Schema. Modules on the way of a live session
 * take only the types from here, so that neither valibot nor YAML is loaded before a plan is read or printed.
 */

import { toJsonSchema } from "@valibot/to-json-schema";
import * as v from "valibot";
import { Document, isScalar, LineCounter, parseDocument, visit } from "yaml";
import { CdebugError } from "./errors.ts";
import type { Flags, Values } from "./flags.ts";
import { withoutValues } from "./history.ts";
import type { Capabilities, Target } from "./target.ts";

/** Rises only when an older cdebug would misread the plan; every reader refuses all others by name. */
export const PLAN_VERSION = 1;

/** In characters. A plan is a few KiB; what is much larger is not one, and is not worth parsing. */
export const MAX_PLAN_SIZE = 1024 * 1024;

/** As many faults as a person reads; to find the line of each takes time. */
const MAX_FAULTS = 20;

function described<const S extends v.GenericSchema>(schema: S, text: string) {
  return v.pipe(schema, v.description(text));
}

const text = v.string();
const name = v.pipe(
  v.string(),
  v.regex(/^[a-z][a-z0-9-]*$/, "Expected a-z, 0-9 and dashes"),
);
const flag = v.boolean();
const texts = v.array(text);
const pullPolicy = v.picklist(["missing", "always", "never"]);
const seconds = v.pipe(v.number(), v.finite(), v.gtValue(0));

const env = described(
  v.record(text, v.nullable(text)),
  "Environment variables; null takes the value from the environment of whoever applies the plan.",
);

const execRequest = v.strictObject({
  command: v.literal("exec"),
  target: described(text, "The target as the user named it."),
  argv: described(texts, "The command and its arguments, exactly as typed."),
  image: described(v.exactOptional(text), "The toolkit, as the user named it."),
  defaultImage: described(
    v.exactOptional(text),
    "The toolkit where that is an image and nobody has named one.",
  ),
  interactive: v.exactOptional(flag),
  tty: v.exactOptional(flag),
  detach: v.exactOptional(flag),
  user: v.exactOptional(text),
  name: v.exactOptional(text),
  keep: described(
    v.exactOptional(flag),
    "Keep the sidecar's container after the session (--rm=false).",
  ),
  privileged: v.exactOptional(flag),
  capAdd: v.exactOptional(texts),
  capDrop: v.exactOptional(texts),
  env: v.exactOptional(env),
  targetEnv: v.exactOptional(flag),
  volumes: v.exactOptional(texts),
  workdir: v.exactOptional(text),
  platform: v.exactOptional(text),
  pull: v.exactOptional(pullPolicy),
  entrypoint: v.exactOptional(text),
  noLink: v.exactOptional(flag),
  stopped: v.exactOptional(flag),
  toolkit: v.exactOptional(v.picklist(["static", "dynamic", "nix"])),
  root: v.exactOptional(v.picklist(["target", "toolkit"])),
  runtime: v.exactOptional(text),
  timeoutSeconds: v.exactOptional(seconds),
});

const protocol = v.picklist(["tcp", "udp"]);
const port = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(65535));
const via = v.picklist(["relay", "direct", "chain", "stream", "reverse"]);

const forwardRequest = v.strictObject({
  command: v.literal("port-forward"),
  target: described(text, "The target as the user named it."),
  argv: described(texts, "The command that is run while the forwards last, exactly as typed."),
  forwards: described(
    v.pipe(v.array(v.pipe(text, v.regex(/^-[LR] \S+$/, "Expected -L or -R and a forward"))), v.minLength(1)),
    "Each -L and -R with its value, as typed.",
  ),
  via: v.exactOptional(via),
  image: described(v.exactOptional(text), "The forwarder's image, as the user named it."),
  pull: v.exactOptional(pullPolicy),
  platform: v.exactOptional(text),
  detach: v.exactOptional(flag),
  runtime: v.exactOptional(text),
  runningTimeoutSeconds: v.exactOptional(seconds),
});

const bytes = v.pipe(v.number(), v.integer(), v.minValue(1));

const exportRequest = v.strictObject({
  command: v.literal("export"),
  target: described(text, "The target as the user named it."),
  argv: described(v.pipe(texts, v.maxLength(0)), "An export runs no command."),
  output: described(
    v.exactOptional(text),
    "A folder, an archive's file, or - for stdout, as typed, from / on.",
  ),
  directory: described(
    v.exactOptional(text),
    "Without an output: where the folder of the target's name is made.",
  ),
  paths: described(v.exactOptional(texts), "Only these, and what is below them."),
  volumes: described(v.exactOptional(flag), "What is mounted in the target, too."),
  sameOwner: v.exactOptional(flag),
  force: v.exactOptional(flag),
  maxSizeBytes: v.exactOptional(bytes),
  manifest: v.exactOptional(text),
  platform: v.exactOptional(text),
  registryConfig: v.exactOptional(text),
  runtime: v.exactOptional(text),
});

const target = v.strictObject({
  engine: text,
  state: described(
    v.picklist(["running", "paused", "stopped", "image"]),
    "image: not a container, but what one could be made of.",
  ),
  exitCode: described(v.exactOptional(v.pipe(v.number(), v.integer())), "Of a container that has stopped."),
  name: text,
  id: text,
  startedAt: text,
  image: text,
  platform: described(
    v.exactOptional(text),
    "Of the image, as in linux/arm64, where the plan depends on it.",
  ),
  pid: described(
    v.nullable(v.pipe(v.number(), v.integer(), v.minValue(1))),
    "The main process's number in the PID namespace that a sidecar shares; null where the engine cannot tell.",
  ),
  user: described(text, 'Of the main process, as configured; "" is root.'),
  workdir: text,
  path: described(text, 'PATH as configured; "" where it is not.'),
  readOnlyRoot: flag,
  privileged: flag,
  namespaces: v.strictObject({
    network: v.picklist(["own", "none", "host", "shared"]),
    pid: v.picklist(["own", "host", "shared"]),
    ipc: v.picklist(["own", "shareable", "host", "shared"]),
    uts: v.picklist(["own", "host"]),
    user: v.picklist(["engine", "own", "host"]),
  }),
  addLinuxCapabilities: texts,
  dropLinuxCapabilities: texts,
  securityOptions: described(
    texts,
    "seccomp, AppArmor, SELinux and no-new-privileges settings, in the engine's words.",
  ),
  networks: described(
    v.exactOptional(v.array(v.strictObject({ name: text, address: text }))),
    "The engine's networks that it is on, where the plan depends on them.",
  ),
  mounts: described(
    v.exactOptional(texts),
    "Where something is mounted in it, by its own paths, where the plan depends on them.",
  ),
  inMemory: described(v.exactOptional(texts), "Where something in memory is, which its engine cannot give."),
});

const namespace = v.picklist(["target", "host", "own"]);

const path = v.pipe(
  text,
  v.regex(
    /^\/(?!(.*\/)?\.\.?(\/|$))\P{Cc}*$/u,
    'Expected a path that begins with "/", without "." and ".." and control characters',
  ),
);

const mount = v.strictObject({
  source: described(text, "A path on the engine's machine, or a volume."),
  destination: path,
  readOnly: flag,
});

const file = v.strictObject({
  path,
  base64: described(v.pipe(text, v.base64()), "What is in it."),
  mode: described(
    v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(0o7777)),
    "As in chmod, but decimal.",
  ),
});

const sidecar = v.strictObject({
  name,
  reason: described(
    text,
    "For people: changes nothing in what the plan does.",
  ),
  image: described(
    text,
    "The toolkit: an image; of a process, host for its machine's own programs, or dir:/PATH.",
  ),
  pull: pullPolicy,
  platform: v.exactOptional(text),
  containerName: described(
    v.exactOptional(text),
    "A name that the user asked for; else it is made from the session's ID.",
  ),
  keep: described(
    v.exactOptional(flag),
    "The container stays after the session.",
  ),
  snapshot: described(
    v.exactOptional(text),
    "The filesystem is a copy of this container's, as it is when the plan is applied, not the image's.",
  ),
  joins: described(
    v.exactOptional(name),
    "An earlier sidecar: what is shared with the target is shared with that one instead.",
  ),
  namespaces: v.strictObject({
    network: namespace,
    pid: namespace,
    ipc: namespace,
    uts: namespace,
    user: v.picklist(["engine", "target", "host"]),
  }),
  user: text,
  privileged: v.exactOptional(flag),
  addLinuxCapabilities: v.exactOptional(texts),
  dropLinuxCapabilities: v.exactOptional(texts),
  securityOptions: v.exactOptional(texts),
  mounts: v.exactOptional(v.array(mount)),
  exchange: described(
    v.exactOptional(path),
    "A directory that it shares with this machine: made for the session, in one that is its user's alone.",
  ),
  volumes: described(
    v.exactOptional(v.array(path)),
    "Directories of the engine's, made for the container, gone with the last one that has them.",
  ),
  volumesFrom: described(v.exactOptional(name), "An earlier sidecar, whose volumes it has as well."),
  network: described(v.exactOptional(text), "The engine's network that it is on."),
  privateNetwork: described(
    v.exactOptional(flag),
    "It is on a network of the engine's that is made for it, and that nobody else is on.",
  ),
  publish: described(
    v.exactOptional(v.array(v.strictObject({
      host: described(text, "The address on this machine."),
      port: described(port, "The port there; 0 is any."),
      to: described(port, "The container's port."),
      protocol,
    }))),
    "Ports of the container that the engine publishes.",
  ),
  tmpfs: described(
    v.exactOptional(v.array(path)),
    "Directories in memory, of the sidecar's own, from which programs can be run.",
  ),
  files: described(v.exactOptional(v.array(file)), "Put into the filesystem before the start."),
  env: v.exactOptional(env),
  tty: flag,
  stdin: described(
    v.picklist(["none", "lifeline", "open"]),
    "none: closed. open: the user's input. lifeline: carries nothing; when it closes, the sidecar ends.",
  ),
  shell: described(v.exactOptional(text), "The toolkit's program that runs the script."),
  script: v.exactOptional(text),
  args: described(texts, "The script's arguments; without a script, the program and its arguments."),
  hangup: described(
    v.exactOptional(texts),
    "The script's args, run beside it, that end the sidecar's command when their stdin closes.",
  ),
  signal: described(
    v.exactOptional(texts),
    "The script's args, run beside it with a signal's name added, that send the command that signal.",
  ),
  undo: described(
    v.exactOptional(texts),
    "The script's args that undo what a killed sidecar left in the target.",
  ),
});

const execSession = v.strictObject({
  kind: v.literal("exec"),
  attach: described(name, "The sidecar whose streams are the session's."),
  detach: flag,
  timeoutSeconds: v.exactOptional(seconds),
});

const endpoint = v.union([
  v.strictObject({ host: text, port }),
  v.strictObject({ path: described(text, "Of a UNIX socket.") }),
]);

const forward = v.strictObject({
  as: described(text, "As it was asked for, each port of a range by itself."),
  protocol,
  listen: described(endpoint, "Where connections are taken; port 0 is any."),
  connect: described(endpoint, "Where they go."),
  via: described(via, "How it goes; reverse listens in the target, all others on this machine."),
  reason: described(text, "For people: why this way."),
  sidecar: described(name, "Whose listener, or process for each connection, it is."),
  socket: described(
    v.exactOptional(path),
    "The UNIX socket, below the sidecar's exchange, that joins cdebug and the sidecar.",
  ),
  exec: described(
    v.exactOptional(texts),
    "The script's args, run beside it for each connection, that carry it on stdin and stdout; a reverse connection's name is added.",
  ),
});

const forwardSession = v.strictObject({
  kind: v.literal("forward"),
  forwards: v.pipe(v.array(forward), v.minLength(1)),
  detach: flag,
  runningTimeoutSeconds: described(seconds, "How long a target may take to run again."),
});

const fileOrStdout = v.union([v.literal("-"), path]);
const somePaths = v.pipe(v.array(path), v.minLength(1));

const exportSession = v.strictObject({
  kind: v.literal("export"),
  source: described(
    v.picklist(["archive", "layers"]),
    "archive: the engine's, of the target's files; layers: an image's, put together here.",
  ),
  reason: described(text, "For people: why this source, and what it costs the target."),
  output: described(fileOrStdout, "A folder, or an archive's file; - is stdout."),
  format: v.picklist(["directory", "tar", "tar.gz", "tar.zst"]),
  paths: described(v.exactOptional(somePaths), "Only these, and what is below them."),
  volumes: described(v.exactOptional(somePaths), "What is mounted there is added."),
  leftOut: described(v.exactOptional(v.array(path)), "What is mounted there is not; the folder is empty."),
  inMemory: described(
    v.exactOptional(v.array(path)),
    "Nor is what is mounted there in memory, which the engine cannot give.",
  ),
  sameOwner: described(flag, "Files belong to whom they belonged to; only root can give them away."),
  force: described(flag, "A folder that is not empty, or a file, is written over."),
  maxSizeBytes: described(v.exactOptional(bytes), "More contents than that end the export."),
  manifest: described(
    v.exactOptional(fileOrStdout),
    "The file that lists every entry with its digest; - is stdout.",
  ),
});

const plan = v.strictObject({
  version: v.literal(PLAN_VERSION),
  request: v.variant("command", [execRequest, forwardRequest, exportRequest]),
  target,
  sidecars: described(v.array(sidecar), "In the order in which they start; an export needs none."),
  session: v.variant("kind", [execSession, forwardSession, exportSession]),
  leaves: described(
    texts,
    "For people: what stays behind when the session has ended.",
  ),
});

/** What cdebug is going to do, all of it; see plans/README.md. */
export type Plan = v.InferOutput<typeof plan>;
/** What the user asked for: enough to compile the plan again. */
export type Request = Plan["request"];
export type ExecRequest = Extract<Request, { command: "exec" }>;
export type ForwardRequest = Extract<Request, { command: "port-forward" }>;
export type ExportRequest = Extract<Request, { command: "export" }>;
/** The target as found, and as far as the compiler used it. */
export type PlannedTarget = Plan["target"];
/** One container that cdebug adds, independent of any engine. */
export type Sidecar = Plan["sidecars"][number];
/** What the user gets. */
export type Session = Plan["session"];

export type ExecSession = Extract<Session, { kind: "exec" }>;
export type ForwardSession = Extract<Session, { kind: "forward" }>;
export type ExportSession = Extract<Session, { kind: "export" }>;
export type Forward = ForwardSession["forwards"][number];
export type Endpoint = Forward["listen"];

/** A command that makes plans: a module of plans/. */
export interface Planner<F extends Flags = Flags> {
  /** One line for the list of commands. */
  readonly summary: string;
  /** How it is called and what it does. */
  readonly usage: string;
  readonly examples: string;
  readonly flags: F;
  /** The flags that go without saying where the user picks the target from a list, and types no command. */
  implied?(values: Values<F>): readonly string[];
  /** Flags may also stand behind the target, and a command of this machine's behind `--`. */
  readonly interspersed?: boolean;
  /** The plan depends on where the engine is. */
  readonly asksLocality?: boolean;
  /** It only reads its targets: they may be paused, and be images that only a registry has. */
  readonly reads?: boolean;
  /** Reads a command line, already split into flags and words. Throws CdebugError where they contradict. */
  request(
    values: Values<F>,
    words: readonly string[],
    around: RequestSurroundings,
    command?: readonly string[],
  ): Request;
  /** The toolkit that a request means. Throws CdebugError where the engine can have no such toolkit. */
  toolkit?(request: Partial<Request>, capabilities: Capabilities): string;
  /** Makes the plan. Pure: the same request on the same target gives the same plan. */
  compile(request: Request, target: Target, capabilities: Capabilities): Plan;
}

/** What a request depends on besides the words of the command line. */
export interface RequestSurroundings {
  readonly cwd: string;
  /** From `CDEBUG_IMAGE`. */
  readonly image: string | undefined;
  /** The user is root. */
  readonly isRoot: boolean;
  /** The text of a file named on the command line; throws if it cannot be read. */
  readonly readText: (path: string) => string;
}

/** The JSON Schema of a plan, for editors. */
export function planSchema(): unknown {
  return {
    ...toJsonSchema(plan, { errorMode: "ignore" }),
    title: `cdebug plan, version ${PLAN_VERSION}`,
  };
}

/**
 * The plan as YAML. Scripts are literal blocks. Values of environment variables are left out (null) unless
 * `showValues`: they are often secrets, and plans are made to be shown.
 */
export function formatPlan(
  plan: Plan,
  options: { showValues?: boolean } = {},
): string {
  const shown = options.showValues ? plan : withoutValues(plan);
  return formatYaml(shown);
}

/** What a YAML text says, as JSON values. Throws where it is none. */
export function parseYaml(text: string): unknown {
  const document = parseDocument(text, { schema: "core" });
  if (document.errors[0]) throw document.errors[0];
  return document.toJS();
}

/** JSON values as YAML, texts of several lines as blocks. */
export function formatYaml(value: unknown): string {
  return new Document(value, { aliasDuplicateObjects: false })
    .toString({ lineWidth: 0, blockQuote: "literal" });
}

/**
 * Reads a plan. `source` names the text in errors (a file, or `-`).
 * Throws one CdebugError that lists every fault with its line and path.
 */
export function parsePlan(yaml: string, source: string): Plan {
  try {
    return readPlan(yaml, source);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // the stack has run out
    throw invalid(source, [{ line: 1, text: "Expected a plan, found values nested without end" }]);
  }
}

function readPlan(yaml: string, source: string): Plan {
  if (yaml.length > MAX_PLAN_SIZE) {
    throw invalid(source, [{
      line: 1,
      text: `Expected a plan of at most ${MAX_PLAN_SIZE >> 10} KiB, found more`,
    }]);
  }
  const lines = new LineCounter();
  const document = parseDocument(yaml, {
    lineCounter: lines,
    prettyErrors: false,
    schema: "core",
    uniqueKeys: false, // found below: the library compares each key with all others
  });
  const at = (offset: number) => lines.linePos(offset).line;

  const faults: Fault[] = [...document.errors, ...document.warnings].map(
    (error) => ({ line: at(error.pos[0]), text: error.message }),
  );
  visit(document, {
    Map(_, { items }) {
      const seen = new Set<unknown>();
      for (const { key } of items) {
        if (!isScalar(key)) continue;
        if (seen.has(key.value)) {
          faults.push({
            line: at(startOf(key)),
            text: `Map keys must be unique, "${key.value}" is there twice`,
          });
        }
        seen.add(key.value);
      }
    },
    Alias(_, node) {
      faults.push({
        line: at(node.range?.[0] ?? 0),
        text: "Aliases are not allowed in a plan",
      });
    },
  });
  // Anything said about values that are half read or expanded from aliases would mislead.
  if (faults.length > 0) throw invalid(source, faults);

  const value: unknown = document.toJS();
  const versionLine = at(rangeStart(document, ["version"]));
  const found = isRecord(value) ? value["version"] : undefined;
  if (found !== PLAN_VERSION) {
    throw invalid(source, [{
      line: versionLine,
      path: "version",
      text: !isRecord(value)
        ? "Expected a plan, a mapping that begins with its version"
        : found === undefined
        ? `Expected version: ${PLAN_VERSION}, found none`
        : `This cdebug reads plans of version ${PLAN_VERSION}, not ${JSON.stringify(found)}`,
    }]);
  }

  const result = v.safeParse(plan, value);
  if (!result.success) {
    throw invalid(
      source,
      result.issues.slice(0, MAX_FAULTS).map((issue) => {
        const keys = (issue.path ?? []).map((item) => item.key);
        return {
          line: at(rangeStart(document, keys)),
          path: formatPath(keys),
          text: faultText(issue),
        };
      }),
      result.issues.length,
    );
  }
  const inconsistent = contradictions(result.output).map(({ keys, text }) => ({
    line: at(rangeStart(document, keys)),
    path: formatPath(keys),
    text,
  }));
  if (inconsistent.length > 0) throw invalid(source, inconsistent);
  return result.output;
}

interface Fault {
  line: number;
  path?: string;
  text: string;
}

/** What a forward lacks for the way that it goes. */
function cannotForward({ via, sidecar, socket, exec, listen }: Forward, plan: Plan): string | undefined {
  const own = plan.sidecars.find(({ name }) => name === sidecar);
  const published = via === "direct" || via === "chain";
  if (plan.session.kind === "forward" && plan.session.detach && !published) {
    return `Expected direct or chain, as it is detached, found ${via}`;
  }
  if (published && !("port" in listen)) return "Expected a port to listen on: UNIX sockets are not published";
  const publisher = via === "direct" ? own : plan.sidecars.find(({ privateNetwork }) => privateNetwork);
  if (published && !publisher?.publish?.length) return `Expected a sidecar that publishes a port for ${via}`;
  if (via === "relay" && socket === undefined) return "Expected a socket, as it is a relay";
  if (via === "stream" && exec === undefined) return "Expected exec, as it is a stream";
  if (via === "reverse" && (socket === undefined) === (exec === undefined)) {
    return "Expected a socket, or exec";
  }
  if (socket !== undefined && own?.exchange === undefined) return "Expected an exchange of its sidecar's";
  return undefined;
}

/** What in a session of an export is not as the rest of the plan says it, by its keys. */
function cannotExport(
  { output, format, source, force, manifest }: ExportSession,
  { request, target }: Plan,
): Partial<Record<keyof ExportSession, string>> {
  if (request.command !== "export") return {};
  const sources = target.state === "image" ? "layers" : "archive";
  const unlike = (of: unknown) => `Expected what the request says, ${of}`;
  return {
    ...source !== sources && { source: `Expected ${sources}, as the target is ${target.state}` },
    ...output === "-" && format !== "tar" && { format: "Expected tar, as stdout takes one" },
    ...request.output !== undefined && request.output !== output && { output: unlike(request.output) },
    ...request.output === undefined && !output.startsWith(`${request.directory?.replace(/\/$/, "")}/`) &&
      { output: `Expected a folder in the request's directory, ${request.directory}` },
    ...force !== (request.force ?? false) && { force: unlike(request.force ?? false) },
    ...manifest !== request.manifest && { manifest: unlike(request.manifest ?? "none") },
  };
}

/** What the schema cannot say: references between the parts. */
function contradictions(plan: Plan): { keys: unknown[]; text: string }[] {
  const faults: { keys: unknown[]; text: string }[] = [];
  const names = plan.sidecars.map(({ name }) => name);
  names.forEach((name, i) => {
    if (names.indexOf(name) !== i) {
      faults.push({
        keys: ["sidecars", i, "name"],
        text: `Expected a name of its own, "${name}" is taken`,
      });
    }
  });
  plan.sidecars.forEach(({ script, shell, ...sidecar }, i) => {
    for (const key of ["joins", "volumesFrom"] as const) {
      const earlier = sidecar[key];
      if (earlier === undefined || names.slice(0, i).includes(earlier)) continue;
      faults.push({
        keys: ["sidecars", i, key],
        text: `Expected the name of an earlier sidecar, found "${earlier}"`,
      });
    }
    if ((script === undefined) !== (shell === undefined)) {
      faults.push({ keys: ["sidecars", i], text: "Expected shell and script, or neither" });
    }
  });
  const { session } = plan;
  const referred: [unknown[], string][] = session.kind === "exec"
    ? [[["session", "attach"], session.attach]]
    : session.kind === "forward"
    ? session.forwards.map(({ sidecar }, i) => [["session", "forwards", i, "sidecar"], sidecar])
    : [];
  if (session.kind === "forward") {
    session.forwards.forEach((forward, i) => {
      const why = cannotForward(forward, plan);
      if (why !== undefined) faults.push({ keys: ["session", "forwards", i], text: why });
    });
  }
  for (const [keys, name] of referred) {
    if (names.includes(name)) continue;
    faults.push({ keys, text: `Expected the name of a sidecar (${names.join(", ")}), found "${name}"` });
  }
  if (session.kind === "export") {
    for (const [key, text] of Object.entries(cannotExport(session, plan))) {
      if (text !== undefined) faults.push({ keys: ["session", key], text });
    }
  }
  const [wants, is] = [session.kind === "forward" ? "port-forward" : session.kind, plan.request.command];
  if (wants !== is) {
    faults.push({ keys: ["session", "kind"], text: `Expected the session of ${is}, found ${session.kind}` });
  }
  return faults;
}

function invalid(source: string, faults: Fault[], count = faults.length): CdebugError {
  const shown = faults.slice(0, MAX_FAULTS).map(({ line, path, text }) =>
    `  ${source}:${line}: ${path ? `${path}: ` : ""}${text}`
  );
  if (count > shown.length) {
    shown.push(`  and ${count - shown.length} more`);
  }
  return new CdebugError(
    `Cannot read plan "${source}":\n${shown.join("\n")}`,
    { hint: "cdebug plan schema  prints what a plan may hold" },
  );
}

function faultText(issue: v.BaseIssue<unknown>): string {
  const key = issue.path?.at(-1)?.key;
  if (issue.type === "strict_object" && issue.expected === "never") {
    return `Unknown key "${String(key)}"`;
  }
  if (issue.type === "strict_object" && issue.received === "undefined") {
    return `Expected the key "${String(key)}", found none`;
  }
  if (issue.type === "regex") return `${issue.message}, found ${issue.received}`;
  return issue.expected === null ? issue.message : `Expected ${issue.expected}, found ${issue.received}`;
}

/** `["sidecars", 0, "image"]` → `sidecars[0].image`. */
function formatPath(keys: unknown[]): string {
  return keys.map((key) => typeof key === "number" ? `[${key}]` : `.${key}`)
    .join("").replace(/^\./, "");
}

/** Where the value at `keys` begins, or the nearest thing around it that is in the text. */
function rangeStart(document: Document, keys: unknown[]): number {
  for (let depth = keys.length; depth > 0; depth--) {
    const parent = document.getIn(keys.slice(0, depth - 1), true);
    const key = keys[depth - 1];
    for (const item of itemsOf(parent)) {
      if (isRecord(item) && isRecord(item["key"])) {
        if (item["key"]["value"] === key) return startOf(item["key"]);
      }
    }
    const node = document.getIn(keys.slice(0, depth), true);
    if (node !== undefined && node !== null) return startOf(node);
  }
  return startOf(document.contents);
}

function itemsOf(node: unknown): unknown[] {
  return isRecord(node) && Array.isArray(node["items"]) ? node["items"] : [];
}

function startOf(node: unknown): number {
  const range = isRecord(node) ? node["range"] : undefined;
  return Array.isArray(range) && typeof range[0] === "number" ? range[0] : 0;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
