/**
 * Clients of an echo server, for the tests of forwards: `ENDPOINT at-once|in-turn COUNT`. Prints how many got the
 * answer to their own question, and the seconds that it took. `ENDPOINT bulk COUNT`: one that sends so many MiB while it
 * reads, and how many came back.
 */

const [endpoint, manner, count] = Deno.args as [string, string, string];
const [, hostname, port] = /^(.*):(\d+)$/.exec(endpoint)!;
const total = Number(count);
let arrived = 0;
const all = Promise.withResolvers<void>();

/** Asks a question of its own. With `wait`, only when all others have connected. */
async function ask(number: number, wait: boolean): Promise<boolean> {
  const conn = await Deno.connect({ hostname: hostname!, port: Number(port) });
  try {
    if (++arrived === total) all.resolve();
    if (wait) await all.promise;
    const question = `question ${number} of ${total}\n`;
    await conn.write(new TextEncoder().encode(question));
    await conn.closeWrite();
    let answer = "";
    const buffer = new Uint8Array(256);
    for (let got; (got = await conn.read(buffer)) !== null;) {
      answer += new TextDecoder().decode(buffer.subarray(0, got));
    }
    return answer === question;
  } finally {
    conn.close();
  }
}

/** Returns how many of the MiB came back, all of which are sent meanwhile. */
async function exchange(mebibytes: number): Promise<number> {
  const conn = await Deno.connect({ hostname: hostname!, port: Number(port) });
  const writing = (async () => {
    const chunk = new Uint8Array(2 ** 20);
    for (let sent = 0; sent < mebibytes; sent++) {
      for (let at = 0; at < chunk.length;) at += await conn.write(chunk.subarray(at));
    }
    await conn.closeWrite();
  })();
  let received = 0;
  const buffer = new Uint8Array(65536);
  for (let count; (count = await conn.read(buffer)) !== null;) received += count;
  await writing;
  conn.close();
  return received / 2 ** 20;
}

let answered = 0;
const start = performance.now();
if (manner === "bulk") answered = await exchange(total);
else if (manner === "at-once") {
  const answers = await Promise.all(
    Array.from({ length: total }, (_, number) => ask(number, true).catch(() => false)),
  );
  answered = answers.filter(Boolean).length;
} else {
  for (let number = 0; number < total; number++) {
    if (await ask(number, false).catch(() => false)) answered++;
  }
}
const seconds = (performance.now() - start) / 1000;
await Deno.stdout.write(new TextEncoder().encode(JSON.stringify({ answered, seconds })));
