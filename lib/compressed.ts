/** Compressed archives. */

import { createReadStream } from "node:fs";
import { pipeline, type Readable, type Transform } from "node:stream";
import * as zlib from "node:zlib";

/** The runtime has both, and its types do not yet. */
const { createZstdCompress, createZstdDecompress } = zlib as unknown as {
  createZstdCompress: () => Transform;
  createZstdDecompress: () => Transform;
};

const CHUNK = 256 * 1024;

/**
 * The contents of a file, which is compressed by gzip or zstd, or not at all, as its first bytes tell.
 * Source: RFC 1952, RFC 8878.
 */
export async function* openArchive(path: string): AsyncIterable<Uint8Array<ArrayBuffer>> {
  const head = new Uint8Array(4);
  {
    using file = await Deno.open(path);
    file.readSync(head);
  }
  const [a, b, c, d] = head;
  const file = createReadStream(path, { highWaterMark: CHUNK });
  let stream: Readable = file;
  if (a === 0x1f && b === 0x8b) {
    stream = pipeline(file, zlib.createGunzip({ chunkSize: CHUNK }), () => {});
  } else if (a === 0x28 && b === 0xb5 && c === 0x2f && d === 0xfd) {
    stream = pipeline(file, createZstdDecompress(), () => {});
  }
  yield* stream as AsyncIterable<Uint8Array<ArrayBuffer>>;
}

/** Compresses; what it is given is in use only until the next piece is asked for. */
export function compress(
  source: AsyncIterable<Uint8Array<ArrayBuffer>>,
  method: "gzip" | "zstd",
): AsyncIterable<Uint8Array<ArrayBuffer>> {
  const through = method === "gzip" ? zlib.createGzip() : createZstdCompress();
  const feeding = (async () => {
    try {
      for await (const chunk of source) {
        if (!through.write(chunk.slice())) await new Promise((resolve) => through.once("drain", resolve));
      }
      through.end();
    } catch (error) {
      through.destroy(error as Error);
    }
  })();
  return (async function* () {
    yield* through as AsyncIterable<Uint8Array<ArrayBuffer>>;
    await feeding;
  })();
}
