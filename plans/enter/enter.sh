#!/bin/sh
# The entry script of an exec session: sh -c 'eval "$CDEBUG_SCRIPT"' cdebug MODE [ARG...]
#
#   session TARGET LINK STDIN TOOLKIT ROOT PATH ENV GIVEN WORKDIR USER COMMAND [ARG...]
#             the sidecar's main process. It stays outside the chroot, so that /proc/<its pid>/root is the
#             toolkit as seen from inside, and it outlives the command to remove the link.
#   inside    its child, behind the chroot, which becomes the command.
#   hangup    ends the command when its stdin closes: cdebug is gone, or wants the session to end.
#   signal NAME
#   undo TARGET                     removes what a killed session left in the target.
#   environ PROCESS quote SKIPPED   prints a process's environment as export commands.
#   environ PROCESS path            prints the value of its PATH.
#
# The text comes in the environment, so that `ps` in the target shows one short line, and every mode runs the
# same text. POSIX sh only: the toolkit may bring ash, dash or bash. Nothing that a user typed is ever part of
# the text; it arrives as arguments and is passed on as arguments. Variables begin with c_, because those that the
# user or the target sets may have any name.
set -eu
umask 022

# shellcheck disable=SC2016 # expands in the shell that it is given to
c_run='eval "$CDEBUG_SCRIPT"'
c_own=/.cdebug # what is the session's own in the sidecar's root: launch, the wrappers, notes between its processes
c_detached=/.cdebug-detached # there too, where the engine can tell that it has been added
c_link=/.cdebug-$CDEBUG_SESSION # in the target's root

main() {
  c_mode=$1
  shift
  case $c_mode in
    session | inside | hangup | undo | environ | quote | path) "$c_mode" "$@" ;;
    signal) send "$1" ;;
  esac
}

fail() {
  complain "$1"
  exit 125
}

# What others have named may not steer a terminal.
complain() {
  c_text=$1
  case $c_text in *[[:cntrl:]]*) c_text=$(printf %s "$1" | tr '\000-\037\177' '?') || c_text='Cannot run' ;; esac
  printf 'cdebug: %s\n' "$c_text" >&2
}
