/** The docker client's own settings, read where and as the docker client reads them. */

import { CdebugError, reason } from "./errors.ts";

/**
 * The parts of `config.json` that matter here.
 * Source: docker/cli, cli/config/configfile/file.go, and the "docker" command's reference.
 */
export interface DockerConfig {
  readonly currentContext?: string;
  readonly auths?: Readonly<Record<string, { readonly auth?: string; readonly identitytoken?: string }>>;
  readonly credsStore?: string;
  readonly credHelpers?: Readonly<Record<string, string>>;
}

/** `DOCKER_CONFIG`, else `~/.docker`. */
export function dockerConfigDir(): string {
  return Deno.env.get("DOCKER_CONFIG") || `${Deno.env.get("HOME") ?? ""}/.docker`;
}

/** Empty where there is no file; throws CdebugError where there is one that cannot be read. */
export async function readDockerConfig(): Promise<DockerConfig> {
  return await readJson<DockerConfig>(`${dockerConfigDir()}/config.json`) ?? {};
}

/** The JSON object in a file of the docker client's; undefined where there is no file. */
export async function readJson<T extends object>(path: string): Promise<T | undefined> {
  try {
    const value: unknown = JSON.parse(await Deno.readTextFile(path));
    if (typeof value !== "object" || value === null) throw new Error("it is not a JSON object");
    return value as T;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw new CdebugError(`Cannot read "${path}": ${reason(error)}`, { cause: error });
  }
}
