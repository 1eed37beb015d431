/** Files that last as long as a test. */

export interface Temporary extends AsyncDisposable {
  readonly path: string;
}

export async function temporaryDirectory(): Promise<Temporary> {
  const path = await Deno.makeTempDir({ prefix: "cdebug-test-" });
  return { path, [Symbol.asyncDispose]: () => Deno.remove(path, { recursive: true }) };
}

/** A file with a text in it. */
export async function temporaryFile(text: string): Promise<Temporary> {
  const directory = await temporaryDirectory();
  const path = `${directory.path}/file`;
  await Deno.writeTextFile(path, text);
  return { ...directory, path };
}
