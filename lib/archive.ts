/** Tar archives. */

import { Buffer } from "node:buffer";
import { pack as openPack } from "tar-stream";
import type { Sidecar } from "./plan.ts";

/** An archive that holds a spec's files, in memory; they belong to root. */
export async function pack(files: NonNullable<Sidecar["files"]>): Promise<Uint8Array<ArrayBuffer>> {
  const archive = openPack();
  for (const { path, base64, mode } of files) {
    archive.entry({ name: path.replace(/^\/+/, ""), mode }, Buffer.from(base64, "base64"));
  }
  archive.finalize();
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  for await (const chunk of archive) chunks.push(new Uint8Array(chunk));
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}
