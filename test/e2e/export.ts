/** What the tests of `cdebug export` have in common: a root filesystem with all that one can have, and its truth. */

import { assert } from "../assert.ts";
import { exists, install, run } from "../engines/debian.ts";

import { withManifest } from "../../lib/manifest.ts";
import { TarReader } from "../../lib/tar.ts";

/** Where Debian's root filesystem is kept between tests of one machine: to make it takes half a minute. */
const DEBIAN = "/var/tmp/cdebug-test-debian";

/** Makes a Debian of its smallest variant, with what ordinary roots seldom have. Throws if it cannot be made. */
export async function makeDebian(): Promise<string> {
  await install({ debootstrap: "debootstrap", setfattr: "attr", setcap: "libcap2-bin", tar: "tar" });
  if (!await exists(DEBIAN)) {
    await run("rm", ["-rf", `${DEBIAN}.part`]);
    const [site, codename] = (await run("apt-get", ["indextargets", "--format", "$(SITE) $(CODENAME)"]))
      .split("\n")[0]!.split(" ");
    await run("debootstrap", ["--variant=minbase", codename!, `${DEBIAN}.part`, site!]);
    await run("sh", ["-ec", SPECIALS], { env: { root: `${DEBIAN}.part` } });
    await Deno.rename(`${DEBIAN}.part`, DEBIAN);
  }
  return DEBIAN;
}

const SPECIALS = `
cd "$root"
mkdir special
cd special
echo contents >file
ln file hard-1
ln file hard-2
ln -s file link
ln -s /etc/passwd absolute
ln -s ../../../../outside dangling
setfattr -n user.colour -v red file
printf x >capable
setcap cap_net_raw+ep capable
truncate -s 50000000 sparse
printf middle | dd of=sparse bs=1 seek=20000000 conv=notrunc status=none
mknod null c 1 3
mknod disk b 7 0
mkfifo fifo
printf x >setuid
chmod 4755 setuid
chown 1234:5678 setuid
chmod 4755 setuid
mkdir sticky
chmod 1777 sticky
touch "$(printf 'not-\\377-text')"
name=$(printf 'n%.0s' $(seq 150))
mkdir -p "$name/$name"
echo deep >"$name/$name/$name"
touch -d '2001-02-03 04:05:06.123456789' file
: >empty
`;

/** Every entry of a directory, a line of JSON each, as `--manifest` writes it; read by GNU tar. */
export async function manifestOf(directory: string): Promise<string[]> {
  const child = new Deno.Command("tar", {
    args: [
      ...["--create", "--file=-", "--format=posix", "--pax-option=delete=atime,delete=ctime"],
      ...["--xattrs", "--xattrs-include=*", "--sparse", "--sort=name", "-C", directory, "."],
    ],
    stdout: "piped",
  }).spawn();
  const lines = await manifestOfArchive(child.stdout);
  assert((await child.status).success, `tar of ${directory}`);
  return lines;
}

/** The same of an archive. */
export async function manifestOfArchive(
  archive: AsyncIterable<Uint8Array<ArrayBuffer>>,
): Promise<string[]> {
  const source = withManifest(new TarReader(archive));
  while (await source.next()) while (await source.read());
  return source.lines();
}

/** What one has and the other has not, by path; without the paths that match. */
export function differences(
  found: readonly string[],
  wanted: readonly string[],
  except = /^$a/,
): string[] {
  const pick = (lines: readonly string[]) => lines.filter((line) => !except.test(JSON.parse(line).path));
  const [ours, theirs] = [pick(found), pick(wanted)];
  const [ourSet, theirSet] = [new Set(ours), new Set(theirs)];
  return [
    ...ours.filter((line) => !theirSet.has(line)).map((line) => `+ ${line}`),
    ...theirs.filter((line) => !ourSet.has(line)).map((line) => `- ${line}`),
  ];
}
