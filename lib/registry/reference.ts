/** The names of images in registries. Source: distribution/reference, reference.go and normalize.go. */

import { CdebugError } from "../errors.ts";
import { DOCKER_HUB, registryOf } from "./credentials.ts";

/** An image's name, in its parts. */
export interface Reference {
  /** `docker.io`, `ghcr.io`, `127.0.0.1:5000`. */
  readonly registry: string;
  /** `library/busybox`. */
  readonly repository: string;
  readonly tag?: string;
  /** `sha256:` and 64 hexadecimal digits. */
  readonly digest?: string;
}

const HOST = /^(\[[\da-f:]+\]|[a-z\d]([a-z\d.-]*[a-z\d])?)(:\d+)?$/i;
const REPOSITORY = /^[a-z\d]+((\.|_|__|-+)[a-z\d]+)*(\/[a-z\d]+((\.|_|__|-+)[a-z\d]+)*)*$/;
export const DIGEST = /^sha256:[\da-f]{64}$/;

/**
 * Reads an image's name: without a registry it is Docker Hub's. Throws CdebugError for what is no such name.
 */
export function parseReference(image: string): Reference {
  const [, name = "", tag, digest] = /^(.+?)(?::(\w[\w.-]{0,127}))?(?:@(.*))?$/.exec(image) ?? [];
  const host = registryOf(name);
  const isHub = host === DOCKER_HUB;
  const path = isHub ? name.replace(/^(index\.)?docker\.io\//, "") : name.slice(host.length + 1);
  const repository = isHub && !path.includes("/") ? `library/${path}` : path;
  const refuse = (why: string, hint: string) =>
    new CdebugError(`Cannot find image "${image}": ${why}`, { hint });
  if (!REPOSITORY.test(repository) || !(isHub || HOST.test(host))) {
    throw refuse("that is not an image's name", "as in nginx, nginx:1.27 or ghcr.io/owner/name:tag");
  }
  if (digest !== undefined && !DIGEST.test(digest)) {
    throw refuse(`"${digest}" is not a digest`, `as in ${name}@sha256:, then 64 hexadecimal digits`);
  }
  return {
    registry: isHub ? "docker.io" : host,
    repository,
    ...digest !== undefined ? { digest } : { tag: tag ?? "latest" },
  };
}

/** The whole name, as `parseReference` reads it. */
export function formatReference({ registry, repository, tag, digest }: Reference): string {
  return `${registry}/${repository}${digest === undefined ? `:${tag}` : `@${digest}`}`;
}
