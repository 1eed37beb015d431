/** The entry script of an exec session, whole: what plans/enter/ holds in parts, one for each concern. */

import enter from "./enter/enter.sh" with { type: "text" };
import launch from "./enter/launch.sh" with { type: "text" };
import session from "./enter/session.sh" with { type: "text" };
import toolkit from "./enter/toolkit.sh" with { type: "text" };
import user from "./enter/user.sh" with { type: "text" };

/** POSIX sh, to be called as the head of enter.sh tells. */
export const script = [enter, session, toolkit, user, launch, 'main "$@"\n'].join("\n");
