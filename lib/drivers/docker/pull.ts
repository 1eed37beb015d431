/**
 * Pulls an image with dockerode: its reading of the daemon's progress stream is worth the 0.1 s that loading it
 * takes, because a pull takes longer than that.
 */

// @ts-types="@types/dockerode"
import Dockerode from "dockerode";
import type { Progress } from "../../driver.ts";
import { CdebugError, reason } from "../../errors.ts";
import { credentialsFor } from "../../registry/credentials.ts";
import type { Api } from "./api.ts";

interface PullEvent {
  readonly status?: string;
  readonly id?: string;
  readonly progress?: string;
}

/** Pulls `image`, with the login that the docker client has for its registry. Throws CdebugError if it cannot. */
export async function pullImage(
  { endpoint: { engine, tls }, address }: Api,
  image: string,
  platform: string | undefined,
  signal: AbortSignal,
  report: (progress: Progress) => void,
): Promise<void> {
  const login = await credentialsFor(image);
  signal.throwIfAborted();
  const docker = new Dockerode(
    address.transport === "unix" ? { socketPath: address.path } : {
      host: address.hostname,
      port: address.port,
      protocol: tls ? "https" : "http",
      ...tls?.ca && { ca: tls.ca },
      ...tls?.cert && { cert: tls.cert },
      ...tls?.key && { key: tls.key },
    },
  );
  report({ kind: "pulling", image });
  try {
    const stream = await docker.pull(tagged(image), {
      ...login && { authconfig: login },
      ...platform && { platform },
      abortSignal: signal,
    });
    await new Promise<void>((resolve, reject) => {
      docker.modem.followProgress(
        stream,
        (error) => error ? reject(error) : resolve(),
        ({ status = "", id = "", progress = "" }: PullEvent) =>
          report({ kind: "pull-progress", layer: id, status: progress ? `${status} ${progress}` : status }),
      );
    });
  } catch (error) {
    signal.throwIfAborted();
    const why = /Error response from daemon: (.*)|: ([^:]+: .*)/.exec(reason(error))?.[1] ?? reason(error);
    throw new CdebugError(`Cannot pull "${image}": ${why}`, {
      hint: login
        ? `${engine} pull ${image}; the login came from the docker client's config file`
        : `${engine} pull ${image}, after ${engine} login if the registry wants one; or name another image`,
      cause: error,
    });
  } finally {
    report({ kind: "pulled", image });
  }
}

/** The Docker API pulls every tag of a repository that is named without one. */
function tagged(image: string): string {
  const name = image.slice(image.lastIndexOf("/") + 1);
  return /[:@]/.test(name) ? image : `${image}:latest`;
}
