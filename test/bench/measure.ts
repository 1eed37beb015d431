/** Two ways of doing the same, measured in turns. */

/** Seconds of each of the two, medians of all pairs. */
export interface Medians {
  readonly ours: number;
  readonly bare: number;
}

/** Measures by turns, each first as often as the other; three first pairs only warm the caches. Both give seconds. */
export async function compare(
  pairs: number,
  ours: () => Promise<number>,
  bare: () => Promise<number>,
): Promise<Medians> {
  const [mine, theirs]: [number[], number[]] = [[], []];
  for (let pair = -3; pair < pairs; pair++) {
    const times = new Map<() => Promise<number>, number>();
    for (const one of pair % 2 === 0 ? [ours, bare] : [bare, ours]) times.set(one, await one());
    if (pair < 0) continue;
    mine.push(times.get(ours)!);
    theirs.push(times.get(bare)!);
  }
  return { ours: median(mine), bare: median(theirs) };
}

/** Seconds that a command takes. Throws with its stderr if it fails. */
export async function seconds(
  [program, ...args]: readonly string[],
  env: Record<string, string> = {},
): Promise<number> {
  const start = performance.now();
  const { success, stderr } = await new Deno.Command(program!, { args, env, stdin: "null" }).output();
  if (!success) throw new Error(`${program} ${args.join(" ")} failed: ${new TextDecoder().decode(stderr)}`);
  return (performance.now() - start) / 1000;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return (sorted[Math.ceil(middle) - 1]! + sorted[Math.floor(middle)]!) / 2;
}

export function ms(seconds: number): string {
  return `${(seconds * 1000).toFixed(seconds < 0.01 ? 2 : 0)} ms`;
}

export function print(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
}
