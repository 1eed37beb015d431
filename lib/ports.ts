/** Who listens on a port of this machine, as far as it can be known. Source: proc(5), /proc/net/tcp. */

/** What `ss` would show: the name and the PID of the process; undefined where it cannot be told. */
export async function holderOf(port: number, protocol: "tcp" | "udp"): Promise<string | undefined> {
  const inodes = new Set<string>();
  for (const table of [protocol, `${protocol}6`]) {
    const text = await Deno.readTextFile(`/proc/net/${table}`).catch(() => "");
    for (const line of text.split("\n").slice(1)) {
      const [, local = "", , state, , , , , , inode] = line.trim().split(/\s+/);
      const listens = protocol === "tcp" ? state === "0A" : state === "07";
      if (listens && parseInt(local.split(":")[1] ?? "", 16) === port) inodes.add(`socket:[${inode}]`);
    }
  }
  if (inodes.size === 0) return undefined;
  const processes = await Array.fromAsync(Deno.readDir("/proc"), ({ name }) => name).catch(() => []);
  for (const pid of processes.filter((name) => /^\d+$/.test(name))) {
    try {
      for await (const { name } of Deno.readDir(`/proc/${pid}/fd`)) {
        if (!inodes.has(await Deno.readLink(`/proc/${pid}/fd/${name}`))) continue;
        if (Number(pid) === Deno.pid) return "another forward of this command";
        const command = (await Deno.readTextFile(`/proc/${pid}/comm`)).trim();
        return `${command} (PID ${pid})`;
      }
    } catch {
      // It has ended, or is another user's.
    }
  }
  return undefined;
}
