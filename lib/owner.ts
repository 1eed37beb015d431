/** Which cdebug process a session belongs to, and whether that one still lives. */

/**
 * What identifies this process, in the 63 characters that the narrowest engine allows a label:
 * `PID.START.NAMESPACE.MACHINE`. START is the process's start in clock ticks since the machine's, so that a PID
 * used again is not mistaken; MACHINE is the boot's ID, and NAMESPACE that of the PIDs, because a cdebug in a
 * container counts its own. Source: proc(5), `/proc/pid/stat` field 22, `/proc/pid/ns`, `random/boot_id`.
 *
 * Where there is no /proc, only the PID and the host's name are known.
 */
export function ownIdentity(): string {
  return identityOf(Deno.pid);
}

/** What identifies a process of this machine, as `ownIdentity` does. */
export function identityOf(pid: number): string {
  const { namespace, machine } = here();
  return [pid, startOf(String(pid)) ?? "", namespace, machine].join(".");
}

/** Whether the process of an `ownIdentity` lives; of one that cannot be seen from here nothing is known. */
export async function ownerState(identity: string): Promise<"alive" | "dead" | "elsewhere"> {
  const [pid = "", start, namespace, ...rest] = identity.split(".");
  const own = here();
  if (!/^[1-9]\d*$/.test(pid) || namespace !== own.namespace || rest.join(".") !== own.machine) {
    return "elsewhere";
  }
  if (own.namespace === "") return await answers(Number(pid)) ? "alive" : "dead";
  if (startOf("1") === undefined) return "elsewhere"; // a /proc that hides the processes of others
  return startOf(pid) === start ? "alive" : "dead";
}

function here(): { namespace: string; machine: string } {
  try {
    return {
      namespace: /\d+/.exec(Deno.readLinkSync("/proc/self/ns/pid"))![0],
      machine: Deno.readTextFileSync("/proc/sys/kernel/random/boot_id").trim(),
    };
  } catch {
    return { namespace: "", machine: Deno.hostname() };
  }
}

/** When a process started, in clock ticks since the machine did; undefined if it is not there or a zombie. */
function startOf(pid: string): string | undefined {
  try {
    // The second field is the program's name, which may hold anything.
    const fields = Deno.readTextFileSync(`/proc/${pid}/stat`).replace(/^.*\) /s, "").split(" ");
    return fields[0] === "Z" ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

/** Deno.kill knows no signal 0. */
async function answers(pid: number): Promise<boolean> {
  const { kill } = await import("node:process");
  try {
    return kill(pid, 0);
  } catch (error) {
    return (error as { code?: string }).code === "EPERM";
  }
}
