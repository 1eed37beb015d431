/** The entry script of an exec session, whole: what plans/enter/ holds in parts, one for each concern. */

import posix from "./posix.sh" with { type: "text" };
import enter from "./enter/enter.sh" with { type: "text" };
import session from "./enter/session.sh" with { type: "text" };
import toolkit from "./enter/toolkit.sh" with { type: "text" };
import user from "./enter/user.sh" with { type: "text" };
import launch from "./enter/launch.json" with { type: "json" };

/** The program launch of plans/enter/launch.c, in Base64, for each architecture by its OCI name. */
export const LAUNCH: Readonly<Record<string, string>> = { amd64: launch.x86_64, arm64: launch.aarch64 };

/** POSIX sh, to be called as the head of enter.sh tells. */
export const script = [enter, posix, session, toolkit, user, launchFunction(), 'main "$@"\n'].join("\n");

/** The function `launch` of those scripts that bring the program, as POSIX sh. */
export function launchFunction(): string {
  return `# Prints the program launch, of launch.c, for the toolkit's architecture.
# shellcheck disable=SC2016,SC2183 # it is machine code
launch() {
  case $(uname -m) in
    x86_64) printf '${printfText(launch.x86_64)}' ;;
    aarch64) printf '${printfText(launch.aarch64)}' ;;
    *) fail "Cannot start the session: cdebug has no launch for the architecture $(uname -m)" ;;
  esac
}
`;
}

/** Bytes in Base64 as a format of printf(1) between single quotes. */
function printfText(base64: string): string {
  const pieces: string[] = [];
  let digit = false;
  for (const char of [...atob(base64)].reverse()) {
    const plain = /[ -~]/.test(char) && !"\\%'".includes(char);
    // Three digits only where the next character would be taken for one of them.
    pieces.push(plain ? char : `\\${char.charCodeAt(0).toString(8).padStart(digit ? 3 : 1, "0")}`);
    digit = plain && char >= "0" && char <= "7";
  }
  return pieces.reverse().join("");
}
