# How the toolkit's programs get to where the target's root is /. Sets
#   c_holder, c_toolkit      a process whose root is the toolkit's, and that root as it is seen from inside
#   c_inner_shell, c_tools   the toolkit's shell and the end of PATH, as seen from inside
# and exports CDEBUG_ROOTFS.
#
#   static   the programs need nothing but themselves: PATH names their directories
#   dynamic  each gets a wrapper, which launch knows how to run; absolute links need them too
#   nix      they need /nix, and get it by a link where the target has none; else wrappers

bring_toolkit() {
  [ "$c_uid" = 0 ] || hold
  c_toolkit=/proc/$c_holder/root c_tools=
  CDEBUG_ROOTFS=$c_toolkit
  export CDEBUG_ROOTFS
  if [ "$c_slash" = toolkit ]; then
    CDEBUG_ROOTFS=$c_root c_inner_shell=$c_shell
    return 0
  fi
  if [ "$c_linking" != no-link ]; then
    sweep
    ! ln -sn "$(link_text)" "$c_root$c_link" 2>/dev/null || CDEBUG_ROOTFS=$c_link
  fi
  [ "$c_kind" != auto ] || find_kind
  if [ "$c_kind" = static ] || { [ "$c_kind" = nix ] && link_nix; }; then
    c_inner_shell=$c_toolkit$c_shell
    IFS=:
    for c_dir in $PATH; do c_tools=$c_tools:$CDEBUG_ROOTFS$c_dir; done
    unset IFS
  else
    wrap
    c_inner_shell=$c_toolkit$c_own/bin/sh c_tools=:$CDEBUG_ROOTFS$c_own/bin
    # What draws on a terminal looks for its description at paths that are the target's here.
    if [ -z "${TERMINFO_DIRS+set}" ]; then
      export TERMINFO_DIRS=":$CDEBUG_ROOTFS/etc/terminfo:$CDEBUG_ROOTFS/lib/terminfo:$CDEBUG_ROOTFS/usr/share/terminfo"
    fi
  fi
}

# The kernel lets nobody look into this process who may do less than it. A session of another user gets a process
# of that user's, with the same root.
hold() {
  "$c_own/launch" "$c_ids" / "$c_own/launch" hold </dev/null >/dev/null &
  c_holder=$!
  poll 100 holding || fail "Cannot run as uid $c_uid: launch does not start"
}

# Only then may its user look into it: a process that has changed its user is closed until it runs a program.
holding() {
  c_command=
  IFS= read -r c_command 2>/dev/null <"/proc/$c_holder/cmdline" || :
  [ "$c_command" != "$c_own/launchhold" ] || return 0
  read -r _ _ c_state _ 2>/dev/null <"/proc/$c_holder/stat" || c_state=Z
  [ "$c_state" != Z ] || exit 125 # it has ended, and said why
  return 1
}

find_kind() {
  c_kind=static
  if [ -d /nix/store ]; then
    c_kind=nix
    return 0
  fi
  for c_file in /lib/ld-* /lib64/ld-* /lib/*/ld-*; do
    [ ! -f "$c_file" ] || c_kind=dynamic
  done
  [ ! -h "$c_shell" ] || case $(readlink "$c_shell") in /*) c_kind=dynamic ;; esac
}

wrap() {
  mkdir "$c_own/bin"
  libraries >"$c_own/libraries"
  c_first="#!$c_toolkit$c_own/launch"
  IFS=:
  for c_dir in $PATH; do
    for c_file in "$c_dir"/*; do
      c_wrapper=$c_own/bin/${c_file##*/}
      if [ -x "$c_file" ] && [ -f "$c_file" ] && [ ! -e "$c_wrapper" ]; then
        printf '%s\n%s\n' "$c_first" "$c_file" >"$c_wrapper"
      fi
    done
  done
  unset IFS
  chmod -R 755 "$c_own/bin"
}

# The directories where the toolkit's loaders would look: ld.so(8), and musl's dynlink.c for its defaults.
libraries() {
  c_list=
  for c_file in /etc/ld.so.conf /etc/ld.so.conf.d/*.conf /etc/ld-musl-*.path; do
    [ -f "$c_file" ] || continue
    while IFS=: read -r c_dir c_more || [ -n "$c_dir" ]; do
      for c_dir in $c_dir $c_more; do
        case $c_dir in /*) c_list=$c_list:$c_toolkit$c_dir ;; esac
      done
    done <"$c_file"
  done
  for c_dir in /lib/*-linux-gnu /usr/lib/*-linux-gnu /lib64 /usr/lib64 /lib /usr/local/lib /usr/lib /nix/store/*/lib; do
    [ ! -d "$c_dir" ] || c_list=$c_list:$c_toolkit$c_dir
  done
  printf %s "${c_list#:}"
}

# A /nix that the target has is never touched.
link_nix() {
  [ "$CDEBUG_ROOTFS" = "$c_link" ] && [ ! -e "$c_root/nix" ] && [ ! -h "$c_root/nix" ] &&
    ln -sn "$c_link/nix" "$c_root/nix" 2>/dev/null
}

# Removes a session's link from the target's root, and the /nix that leads through it.
remove_link() {
  if [ -h "$c_root/nix" ] && [ "$(readlink "$c_root/nix")" = "$1/nix" ]; then rm -f "$c_root/nix"; fi
  rm -f "$c_root$1"
}

# Where a session's link leads. In a root that several targets have, it goes by way of a directory that is called as
# the namespace whose PID it names: in another one that number is somebody else's.
link_text() {
  if [ "$c_linking" = shared-link ]; then
    mkdir -p "$c_own/$(namespace)"
    echo "$c_toolkit$c_own/$(namespace)/../../"
  else
    echo "$c_toolkit/"
  fi
}

# The inode number of this process's PID namespace.
namespace() {
  c_namespace=$(readlink /proc/self/ns/pid)
  c_namespace=${c_namespace#*[}
  echo "${c_namespace%]}"
}

# Removes the links of sessions that were killed. A link's owner lives if the root that it names has the
# owner's mark; a root that may not be read is not judged, nor in a shared one what another namespace may hold.
sweep() {
  for c_old in "$c_root"/.cdebug-*; do
    c_home=$(readlink "$c_old" 2>/dev/null) || continue
    case $c_home in
      /proc/[0-9]*/root/) [ "$c_linking" = link ] || continue ;;
      /proc/[0-9]*/root"$c_own"/[0-9]*/../../)
        c_home=${c_home%%"$c_own"*}/
        [ "$c_linking" = link ] || case $(readlink "$c_old") in *"$c_own/$(namespace)/"*) ;; *) continue ;; esac
        ;;
      *) continue ;;
    esac
    if [ -d "${c_home%/root/}" ]; then
      [ -d "$c_home." ] || continue
      [ ! -e "$c_home$c_own/${c_old##*/.cdebug-}" ] || continue
    fi
    remove_link "/${c_old##*/}"
  done
}
