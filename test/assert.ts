/** Assertions, from node's own. */

import { deepStrictEqual, ok } from "node:assert/strict";

export const assert: (condition: unknown, message?: string) => asserts condition = ok;

export function assertEquals<T>(found: T, wanted: T, message?: string): void {
  deepStrictEqual(found, wanted, message);
}

export function assertIncludes(text: string, part: string): void {
  ok(text.includes(part), `expected ${JSON.stringify(part)} in:\n${text}`);
}

// deno-lint-ignore no-explicit-any -- as in TypeScript's own InstanceType
type Class<E extends Error> = new (...args: any[]) => E;

/** The error that `action` throws, which is of `type` and says `part`. */
export function assertThrows<E extends Error>(action: () => unknown, type: Class<E>, part = ""): E {
  try {
    action();
  } catch (error) {
    return checked(error, type, part);
  }
  throw new Error("expected an error, found none");
}

/** The error that `action` rejects with, which is of `type` and says `part`. */
export async function assertRejects<E extends Error = Error>(
  action: () => Promise<unknown>,
  type?: Class<E>,
  part = "",
): Promise<E> {
  try {
    await action();
  } catch (error) {
    return checked(error, type ?? (Error as unknown as Class<E>), part);
  }
  throw new Error("expected an error, found none");
}

function checked<E extends Error>(error: unknown, type: Class<E>, part: string): E {
  if (!(error instanceof type)) throw error;
  assertIncludes(error.message, part);
  return error;
}
