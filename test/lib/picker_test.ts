import { assert, assertEquals } from "../assert.ts";
import { fakeTarget } from "../fake_driver.ts";
import {
  type Choice,
  formatCommandLine,
  formatPicture,
  inOrder,
  matching,
  type Part,
  press,
  remarksOf,
} from "../../lib/commands/picker.ts";
import type { Key } from "../../lib/screen.ts";

const pure = { permissions: "none" } as const;
const NOW = new Date("2026-11-23T12:00:00Z");
const CREATED = new Date("2026-11-23T11:55:00Z");

/** A running container of Docker's, made five minutes before NOW; a test changes what it is about. */
function choice(name: string, changes: Partial<Choice> = {}): Choice {
  const { engine = "docker" } = changes;
  const ref = engine === "docker" ? name : `${engine}://${name}`;
  return {
    ref,
    engine,
    id: ref,
    name,
    image: "shop/web:7",
    state: "running",
    createdAt: CREATED,
    remarks: [],
    ...changes,
  };
}

const part = (...choices: Choice[]): Part => ({ engine: "docker", choices });
const names = (choices: readonly Choice[]) => choices.map(({ ref }) => ref);

Deno.test("inOrder() puts what runs first, and keeps the engines' order", pure, () => {
  const parts: Part[] = [
    { engine: "docker", choices: [choice("old", { state: "exited" }), choice("web")] },
    { engine: "podman", choices: [choice("db", { engine: "podman" })] },
  ];
  assertEquals(names(inOrder(parts)), ["web", "podman://db", "old"]);
});

Deno.test("matching() looks into names, engines, refs and images, in capitals or not", pure, () => {
  const choices = [choice("web"), choice("db", { engine: "podman", image: "Postgres:16" })];
  const cases: Record<string, string[]> = {
    "": ["web", "podman://db"],
    "WEB": ["web"],
    "podm": ["podman://db"],
    "podman://d": ["podman://db"],
    "postgres": ["podman://db"],
    "shop/": ["web"],
    " web ": ["web"],
    ".": [],
  };
  for (const [filter, found] of Object.entries(cases)) {
    assertEquals([filter, names(matching(choices, filter))], [filter, found]);
  }
});

Deno.test("press() filters, moves within the matches and no further", pure, () => {
  const choices = ["a1", "a2", "b1", "a3"].map((name) => choice(name));
  const cases: [keys: Key[], filter: string, active: string | undefined][] = [
    [["down"], "", "a2"],
    [["up"], "", "a1"],
    [["end"], "", "a3"],
    [["end", "down"], "", "a3"],
    [["end", "home"], "", "a1"],
    [["page-down"], "", "b1"],
    [["page-down", "page-down", "page-up"], "", "a2"],
    [[{ text: "a" }, "down", "down"], "a", "a3"],
    [["down", { text: "b" }], "b", undefined],
    [[{ text: "a" }, { text: "ü" }, "backspace"], "a", undefined],
    [[{ text: "a" }, { text: "b" }, "clear"], "", undefined],
    [[{ text: "x" }, "down"], "x", undefined],
    [["backspace"], "", undefined],
  ];
  for (const [keys, filter, active] of cases) {
    const state = keys.reduce((state, key) => press(state, key, choices, 2), { filter: "" });
    assertEquals([keys, state], [keys, { filter, ...active !== undefined && { active } }]);
  }
});

/** What is seen, as text. */
function seen(
  parts: readonly Part[],
  size: { rows: number; columns: number },
  state = { filter: "" },
): string[] {
  return formatPicture(parts, state, size, NOW).lines.map(({ text }) => text);
}

Deno.test("formatPicture() shows columns, what is active, and why an engine has nothing", pure, () => {
  const parts: Part[] = [
    part(choice("web", { remarks: ["read-only"] }), choice("old", { state: "exited" })),
    { engine: "podman", choices: [], note: "waiting for an answer" },
  ];
  const picture = formatPicture(parts, { filter: "", active: "old" }, { rows: 24, columns: 80 }, NOW);
  assertEquals(picture.lines, [
    { text: "Target:                                                                      2/2" },
    { text: "  NAME  ENGINE  IMAGE       STATE    AGE            SPECIAL", style: "dim" },
    { text: "  web   docker  shop/web:7  running  5 minutes ago  read-only" },
    { text: "> old   docker  shop/web:7  exited   5 minutes ago", style: "bold" },
    { text: "podman: waiting for an answer", style: "dim" },
    { text: "Type to filter. Enter takes the target, Esc leaves.", style: "dim" },
  ]);
  assertEquals([picture.cursor, picture.page], ["Target: ".length, 20]);
  assertEquals(formatPicture(parts, { filter: "" }, { rows: 24, columns: 80 }, NOW).lines[3]!.style, "dim");
  assertEquals(seen(parts, { rows: 24, columns: 80 }, { filter: "xyz" })[2], "  nothing matches");
});

Deno.test("formatPicture() fits every terminal, and shows what is active", pure, () => {
  const long = "a-name-that-is-longer-than-any-terminal-of-the-test-and-then-some";
  const parts: Part[] = [
    part(
      ...Array.from({ length: 60 }, (_, i) =>
        choice(`${i === 7 ? long : "web"}-${i}`, {
          image: `${long}:${i}`,
          remarks: ["read-only", "user 1000"],
        })),
    ),
    {
      engine: "podman",
      choices: [],
      note: "Cannot reach Podman at unix:///a/long/path: permission denied\x1b[2J",
    },
  ];
  for (const columns of [10, 20, 40, 80, 100, 200, 400]) {
    for (const rows of [1, 2, 3, 10, 50, 100]) {
      for (const active of ["web-0", "web-30", "web-59"]) {
        const state = { filter: "-", active };
        const { lines, cursor, page } = formatPicture(parts, state, { rows, columns }, NOW);
        for (const { text } of lines) {
          assert([...text].length <= columns, `${columns}: ${text}`);
          assert(!text.includes("\x1b"), text);
        }
        assert(cursor < columns || columns < "Target: ".length + 3, `${cursor}`);
        if (rows < 10) continue;
        assert(lines.length <= rows, `${rows}: ${lines.length}`);
        assertEquals(lines.filter(({ text }) => text.startsWith("> ")).length, 1);
        assertEquals(lines.slice(2, 2 + page).some(({ text }) => text.startsWith("> ")), true);
      }
    }
  }
  const narrow = seen(parts, { rows: 10, columns: 40 });
  assertEquals(narrow.at(-1), "podman: …/path: permission denied\\x1b[2J");
});

Deno.test("formatPicture() does not give all room to one long name", pure, () => {
  const long = choice("0123456789".repeat(6), { engine: "podman", image: "localhost/shop/web:7" });
  assertEquals(seen([part(choice("web"), long)], { rows: 4, columns: 79 }).slice(1), [
    "  NAME                     ENGINE  IMAGE                 STATE    AGE",
    "> web                      docker  shop/web:7            running  5 minutes ago",
    "  0123456789012345678901…  podman  localhost/shop/web:7  running  5 minutes ago",
  ]);
});

Deno.test("formatPicture() leaves room for targets where many engines do not answer", pure, () => {
  const parts = [
    part(choice("web")),
    ...Array.from({ length: 6 }, (): Part => ({ engine: "podman", choices: [], note: "no" })),
  ];
  const lines = seen(parts, { rows: 9, columns: 80 });
  assertEquals(lines.slice(3), ["podman: no", "podman: no", "podman: no", "3 more engines have no answer"]);
});

Deno.test("remarksOf() says what is special", pure, () => {
  assertEquals(remarksOf(fakeTarget()), []);
  assertEquals(remarksOf(fakeTarget({ user: "0:0" })), []);
  const namespaces = { ...fakeTarget().namespaces, network: "none", pid: "host" } as const;
  assertEquals(
    remarksOf(fakeTarget({ readOnlyRoot: true, privileged: true, user: "nobody:nogroup", namespaces })),
    ["read-only", "privileged", "user nobody:nogroup", "network none", "pid host"],
  );
});

Deno.test("formatCommandLine() quotes what a shell would read otherwise", async () => {
  const words = ["cdebug", "a b", "it's", "$x", '"', "", "*", "A=b", "podman://web", "a\nb", "~", "!", "\\"];
  assertEquals(
    formatCommandLine(words.slice(0, 9)),
    `cdebug 'a b' 'it'\\''s' '$x' '"' '' '*' A=b podman://web`,
  );
  const line = formatCommandLine(["printf", "[%s]", ...words]);
  const { stdout } = await new Deno.Command("sh", { args: ["-c", line] }).output();
  assertEquals(new TextDecoder().decode(stdout), words.map((word) => `[${word}]`).join(""));
});
