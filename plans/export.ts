/** `cdebug export`: its flags, the request that they make, and the compiler. */

import { CdebugError } from "../lib/errors.ts";
import type { Flags, Values } from "../lib/flags.ts";
import type { ExportRequest, ExportSession, Plan, RequestSurroundings } from "../lib/plan.ts";
import { parseBytes } from "../lib/size.ts";
import type { Capabilities, Target } from "../lib/target.ts";

export const summary = "Copy the files of a container, a process or an image to a folder or an archive";

export const usage = `cdebug export [FLAGS] [[SCHEME://]TARGET] [-o FOLDER|FILE.tar[.gz|.zst]|-]

Copies all files of a container, running, paused or stopped, of a process, or of an image, from an engine or straight
from a registry (image://NAME where no engine has it). Without -o, to a new folder of the target's name. Nothing has to
be in the target, and nothing is started in it. What is mounted in the target is left out, and said; --volumes adds it.

The result appears under its name when it is whole, and not before. Extraction never writes outside of the folder,
whatever the archive holds. What could not be made as it was (owners without root, devices, attributes) is listed in
RESULT.cdebug-export.json.`;

export const examples = `  cdebug export web                              to the folder ./web
  cdebug export web -o /tmp/web-files            to a folder
  cdebug export web -o web.tar.zst               to an archive; also .tar, .tar.gz
  cdebug export web -o - | tar -t                to stdout
  cdebug export web --path /etc --path /app      only these
  cdebug export --volumes web                    with what is mounted there
  cdebug export image://nginx:1.27               an image of an engine's, or of a registry's
  cdebug export pid://4711 -o files              a process; no engine
  cdebug export --dry-run web                    what would be done`;

export const flags = {
  output: {
    type: "string",
    short: "o",
    value: "PATH",
    help: "A folder; a file, if it ends in .tar, .tar.gz, .tgz or .tar.zst; - is stdout (default ./TARGET)",
  },
  path: {
    type: "string",
    value: "PATH",
    multiple: true,
    help: "Only this, and what is below it; repeatable",
  },
  volumes: { type: "boolean", help: "Also what is mounted in the target" },
  "same-owner": {
    type: "boolean",
    help: "Files belong to whom they belonged to (default for root only; --no-same-owner)",
  },
  force: { type: "boolean", short: "f", help: "Write over what is there, and leave the rest of a folder" },
  "max-size": { type: "string", value: "SIZE", help: "Stop at more contents than that, such as 500M or 20G" },
  manifest: {
    type: "string",
    value: "FILE",
    help:
      "List every entry there, with its type, mode, owner, size and digest; a line of JSON each; - is stdout",
  },
  platform: { type: "string", value: "OS/ARCH", help: "Of an image in a registry (default this machine's)" },
  "registry-config": {
    type: "string",
    value: "FILE",
    help: "Mirrors and certificate authorities of registries, as YAML (see README)",
  },
  runtime: {
    type: "string",
    value: "ADDRESS",
    help: "The engine's socket or URL, or runc's or crun's --root (default its client's)",
  },
} as const satisfies Flags;

/** Flags may stand behind the target. */
export const interspersed = true;

/** Targets may be paused, and images that no engine has. */
export const reads = true;

/** Reads the command line, already split into flags and words. Throws CdebugError where they contradict. */
export function request(
  values: Values<typeof flags>,
  words: readonly string[],
  { cwd, isRoot }: RequestSurroundings,
  command: readonly string[] = [],
): ExportRequest {
  const [target, ...more] = words;
  if (target === undefined) throw refused("no target is named", "cdebug export TARGET -o FOLDER");
  if (more.length + command.length > 0) {
    throw refused(`expected one target, found also "${[...more, ...command][0]}"`, "-o names the folder");
  }
  const [, container, inside] = /^([^/:]+):(\/(?!\/).*)$/.exec(target) ?? [];
  if (container !== undefined) {
    throw refused(`"${target}" is no target`, `cdebug export ${container} --path ${inside}`);
  }
  const size = values["max-size"];
  const absolute = (path: string) => normal(path.startsWith("/") ? path : `${cwd}/${path}`);
  const { output, manifest } = values;
  const isArchive = output !== undefined && formatOf(output) !== "directory";
  if (output !== undefined && !isArchive && OTHER_ARCHIVE.test(output)) {
    throw refused(
      `"${output}" is an archive of a kind that cdebug does not make`,
      "-o FILE.tar.gz, or FILE.tar.zst",
    );
  }
  if (isArchive && values["same-owner"] !== undefined) {
    throw refused("an archive always has the owners", "leave out --same-owner");
  }
  const place = absolute(output ?? nameOf(target));
  if (manifest !== undefined && `${absolute(manifest)}/`.startsWith(`${place}/`)) {
    throw refused("--manifest is in what -o makes", "--manifest FILE, beside it");
  }
  return {
    command: "export",
    target,
    argv: [],
    ...output === undefined ? { directory: cwd } : { output: output === "-" ? "-" : absolute(output) },
    ...values.path && { paths: values.path.map((path) => normal(`/${path}`)) },
    ...values.volumes && { volumes: true },
    sameOwner: values["same-owner"] ?? isRoot,
    ...values.force && { force: true },
    ...size && { maxSizeBytes: parseBytes(size, "export: --max-size") },
    ...manifest && { manifest: manifest === "-" ? "-" : absolute(manifest) },
    ...values.platform && { platform: values.platform },
    ...values["registry-config"] && { registryConfig: absolute(values["registry-config"]) },
    ...values.runtime && { runtime: values.runtime },
  };
}

/** The plan of an export. Pure: the same request on the same target gives the same plan. */
export function compile(request: ExportRequest, found: Target, _capabilities: Capabilities): Plan {
  const { mounts = [], inMemory = [], networks: _networks, ...facts } = found;
  const image = found.state === "image";
  const paths = request.paths?.filter((path, at, all) =>
    all.every((other, number) =>
      other === path ? number >= at : !`${path}/`.startsWith(other.replace(/\/?$/, "/"))
    )
  );
  const output = request.output ??
    `${(request.directory ?? "").replace(/\/$/, "")}/${nameOf(request.target)}`;
  const format = formatOf(output);
  const { platform } = request;
  if (platform !== undefined && found.engine !== "registry" && !isFor(platform, found.platform)) {
    throw refused(
      `"${found.name}" is ${
        found.platform === undefined ? "not an image of a registry's" : `for ${found.platform}`
      }`,
      image ? `registry-image://${found.name}  asks the registry` : "leave out --platform",
    );
  }
  if (request.volumes && image) {
    throw refused(`"${found.name}" is an image: nothing is mounted in it`, "leave out --volumes");
  }
  // A path that is asked for comes with all that is mounted there.
  const inside = paths ? [] : mounts;
  const memory = paths || inMemory.length === 0 ? {} : { inMemory: [...inMemory] };
  const session: ExportSession = {
    kind: "export",
    source: image ? "layers" : "archive",
    reason: image
      ? (found.engine === "registry"
        ? "no engine has the image: its layers come from its registry, and are put together here"
        : "the engine gives the image's layers, which are put together here; no container is made of it")
      : "the target's files are read from outside; the target itself notices nothing",
    output,
    format,
    ...paths && { paths },
    ...inside.length > 0 && (request.volumes ? { volumes: [...inside] } : { leftOut: [...inside] }),
    ...memory,
    sameOwner: request.sameOwner ?? false,
    force: request.force ?? false,
    ...request.maxSizeBytes !== undefined && { maxSizeBytes: request.maxSizeBytes },
    ...request.manifest !== undefined && { manifest: request.manifest },
  };
  return {
    version: 1,
    request,
    target: { ...facts, ...inside.length > 0 && { mounts: [...inside] }, ...memory },
    sidecars: [],
    session,
    leaves: output === "-" ? [] : [`${format === "directory" ? "the folder" : "the file"} ${output}`],
  };
}

/** Variants aside, which engines do not tell. */
function isFor(platform: string, found: string | undefined): boolean {
  return found === platform.split("/").slice(0, 2).join("/");
}

/** Of archives that cdebug does not make: nobody wants a folder of such a name. */
const OTHER_ARCHIVE = /\.(tar(\.\w+)?|t[bx]z2?|tzst|zip|7z|cpio|rar)$/i;

function formatOf(output: string): ExportSession["format"] {
  if (output === "-" || output.endsWith(".tar")) return "tar";
  if (/\.(tar\.gz|tgz)$/.test(output)) return "tar.gz";
  return output.endsWith(".tar.zst") ? "tar.zst" : "directory";
}

/** What the folder is called where nobody says: `image://shop/web:1.2` → `web-1.2`. */
function nameOf(target: string): string {
  const name = target.replace(/^[a-z0-9+.-]+:\/\//i, "").replace(/^.*\//, "").replace(/[:@]/g, "-");
  if (/^[\w][\w.-]*$/.test(name)) return name;
  throw refused(`"${target}" gives no name for a folder`, "-o FOLDER");
}

/** Without ".", ".." and empty parts. */
function normal(path: string): string {
  const parts: string[] = [];
  for (const part of path.split("/")) {
    if (part === "..") parts.pop();
    else if (part !== "" && part !== ".") parts.push(part);
  }
  return `/${parts.join("/")}`;
}

function refused(text: string, hint: string): CdebugError {
  return new CdebugError(`Cannot export: ${text}`, { hint });
}
