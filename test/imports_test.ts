/** The import rules of lib/README.md, on the real graph; and each rule on a graph that breaks it. */

import { assertEquals } from "./assert.ts";
import { run } from "./engines/debian.ts";

interface Import {
  /** A path from the project's root, or `npm:NAME`. */
  readonly to: string;
  readonly kind: "code" | "type" | "dynamic";
}

interface Module {
  readonly path: string;
  readonly source: string;
  readonly imports: readonly Import[];
}

const ROOT = new URL("..", import.meta.url);

/** A live exec loads these, and whatever they load; see DESIGN for what each import costs. */
const LIVE = ["main.ts", "lib/commands/live.ts", "plans/exec.ts", "lib/drivers/docker/driver.ts"];

/** Beyond those, a Tab loads these, for the tables of flags. */
const TAB = ["complete", "completion", "engines", "apply", "doctor", "ls", "prune"].map((name) =>
  `lib/commands/${name}.ts`
);

/** What breaks a rule, a sentence each. `files` are all modules that there are. */
function violations(graph: readonly Module[], files: readonly string[]): string[] {
  const found: string[] = [];
  const importers = new Map<string, string[]>();
  for (const { path, source, imports } of graph) {
    for (const { to, kind } of imports) {
      const breaks = (rule: string) => found.push(`${path} imports ${to}: ${rule}`);
      if (path.startsWith("plans/") && !to.startsWith("plans/")) {
        const allowed = ["plan", "target", "errors", "size"].map((name) => `lib/${name}.ts`);
        if (!allowed.includes(to) && !(to === "lib/flags.ts" && kind === "type")) {
          breaks("plans/ imports only lib/{plan,target,errors,size}.ts, and the types of lib/flags.ts");
        }
      }
      if (path.startsWith("lib/") && to.startsWith("plans/")) breaks("lib/ never imports plans/");
      const [mine, other] = [driverOf(path), driverOf(to)];
      if (mine && other && mine !== other) breaks("drivers never import each other");
      if (other && !mine && kind !== "dynamic") breaks("a driver is loaded when it is opened");
      if (to.startsWith("npm:")) {
        const name = to.slice("npm:".length).replace(/^@types\//, "");
        // A driver's folder is one module, as far as its engine's client is concerned.
        importers.set(name, [...importers.get(name) ?? [], mine ? `lib/drivers/${mine}` : path]);
      }
    }
    if (path !== "main.ts" && /\bDeno\.(args|exit)\b/.test(source)) {
      found.push(`${path}: only main.ts touches Deno.args and Deno.exit`);
    }
  }
  for (const [name, paths] of importers) {
    const places = [...new Set(paths)];
    if (places.length > 1) found.push(`${places.join(" and ")} import ${name}: one module does`);
  }
  const known = new Set(graph.map(({ path }) => path));
  for (const file of files) if (!known.has(file)) found.push(`${file} is imported by nothing`);
  for (const [what, paths] of Object.entries({ "a live exec": LIVE, "a Tab": [...LIVE, ...TAB] })) {
    for (const path of loadedBy(paths, graph)) {
      if (path.startsWith("npm:")) found.push(`${path} is loaded by ${what}: only when it is needed`);
    }
  }
  return found;
}

function driverOf(path: string): string | undefined {
  return /^lib\/drivers\/([^/.]+)/.exec(path)?.[1];
}

/** All that is loaded at once with some modules. */
function loadedBy(paths: readonly string[], graph: readonly Module[]): Set<string> {
  const loaded = new Set<string>();
  const load = (path: string) => {
    if (loaded.has(path)) return;
    loaded.add(path);
    const module = graph.find((module) => module.path === path);
    for (const { to, kind } of module?.imports ?? []) if (kind === "code") load(to);
  };
  paths.forEach(load);
  return loaded;
}

interface DenoInfo {
  modules: {
    specifier: string;
    dependencies?: { code?: { specifier: string }; type?: { specifier: string }; isDynamic?: boolean }[];
  }[];
}

async function realGraph(): Promise<Module[]> {
  const info: DenoInfo = JSON.parse(
    await run(Deno.execPath(), ["info", "--json", new URL("main.ts", ROOT).href]),
  );
  const relative = (specifier: string) =>
    specifier.startsWith("npm:")
      ? specifier.replace(/^(npm:\/?)(@?[^@]+)@.*$/, "npm:$2")
      : specifier.replace(ROOT.href, "");
  const own = info.modules.filter(({ specifier }) => specifier.startsWith(ROOT.href));
  return await Promise.all(own.map(async ({ specifier, dependencies = [] }) => ({
    path: relative(specifier),
    source: await Deno.readTextFile(new URL(specifier)),
    imports: dependencies.map(({ code, type, isDynamic }) => ({
      to: relative((code ?? type)!.specifier),
      kind: code === undefined ? "type" as const : isDynamic ? "dynamic" as const : "code" as const,
    })),
  })));
}

async function filesBelow(dir: string): Promise<string[]> {
  const files: string[] = [];
  for await (const entry of Deno.readDir(new URL(dir, ROOT))) {
    const path = `${dir}${entry.name}`;
    if (entry.isDirectory) files.push(...await filesBelow(`${path}/`));
    else if (/\.(ts|sh|bash|zsh|fish)$/.test(path)) files.push(path);
  }
  return files;
}

Deno.test("the import rules hold", async () => {
  const files = [...await filesBelow("lib/"), ...await filesBelow("plans/")];
  assertEquals(violations(await realGraph(), files), []);
});

Deno.test("each import rule is noticed when it is broken", async (test) => {
  const graph = await realGraph();
  const broken = (path: string, to: string, kind: Import["kind"] = "code", source = "") =>
    violations([...graph.filter((module) => module.path !== path), {
      path,
      source,
      imports: [...graph.find((module) => module.path === path)?.imports ?? [], { to, kind }],
    }], []);
  const cases: Record<string, string[]> = {
    "plans/exec.ts imports lib/executor.ts: plans/ imports only lib/{plan,target,errors,size}.ts, and the types of lib/flags.ts":
      broken("plans/exec.ts", "lib/executor.ts", "type"),
    "plans/exec.ts imports lib/flags.ts: plans/ imports only lib/{plan,target,errors,size}.ts, and the types of lib/flags.ts":
      broken("plans/exec.ts", "lib/flags.ts"),
    "plans/exec.ts imports npm:yaml: plans/ imports only lib/{plan,target,errors,size}.ts, and the types of lib/flags.ts":
      broken("plans/exec.ts", "npm:yaml", "dynamic"),
    "lib/executor.ts imports plans/exec.ts: lib/ never imports plans/": broken(
      "lib/executor.ts",
      "plans/exec.ts",
      "dynamic",
    ),
    "lib/drivers/other.ts imports lib/drivers/docker/api.ts: drivers never import each other": broken(
      "lib/drivers/other.ts",
      "lib/drivers/docker/api.ts",
      "type",
    ),
    "lib/executor.ts imports lib/drivers/docker/driver.ts: a driver is loaded when it is opened": broken(
      "lib/executor.ts",
      "lib/drivers/docker/driver.ts",
    ),
    "lib/drivers/docker and lib/executor.ts import dockerode: one module does": broken(
      "lib/executor.ts",
      "npm:@types/dockerode",
      "type",
    ),
    "lib/executor.ts: only main.ts touches Deno.args and Deno.exit": broken(
      "lib/executor.ts",
      "lib/errors.ts",
      "code",
      "Deno.exit(1);",
    ),
    "npm:yaml is loaded by a live exec: only when it is needed": broken("lib/errors.ts", "npm:yaml"),
    "npm:yaml is loaded by a Tab: only when it is needed": broken("lib/commands/apply.ts", "npm:yaml"),
    "lib/forgotten.ts is imported by nothing": violations(graph, ["lib/forgotten.ts"]),
  };
  for (const [rule, found] of Object.entries(cases)) {
    await test.step(
      rule,
      () => assertEquals(found.filter((text) => text === rule).length, 1, found.join("\n")),
    );
  }
});
