#!/bin/sh
# The script of a forwarder: sh -c 'eval "$CDEBUG_SCRIPT"' cdebug MODE [ARG...]
#
#   serve RELAY [LISTENER OPTIONS FROM TO]...
#             the sidecar's main process: a `RELAY OPTIONS FROM TO` for each, of which RELAY is socat or its like,
#             `ready` on stdout when all of them listen. Ends with its stdin, which cdebug holds, and all of them with it.
#   hold RELAY [LISTENER OPTIONS FROM TO]...
#             the same without a stdin, until SIGTERM.
#   join OPTIONS ADDRESS
#             a process for one connection, which is its stdin and stdout: blocks, each behind its length in two bytes,
#             as launch of ../enter/launch.c carries them.
#   datagrams ADDRESS
#             the same for datagrams, of which each is a block.
#   packets MODE ARG...
#             the other way round: its stdin and stdout are a socket of UDP, MODE's the stream.
#   announce NUMBER
#             a process for one connection that the target's side has made to forward NUMBER, which is its stdin and
#             stdout: tells of it on the sidecar's stdout, then waits until somebody joins it.
#   connection OPTIONS PATH
#             as join, to one that was announced.
#   dial PATH
#             joins its stdin and stdout, a socket, to a UNIX socket.
#
# LISTENER is what shows that it listens: `tcp ADDRESS PORT`, `udp ADDRESS PORT`, `unix PATH`, or `-`, nothing to wait for.
# POSIX sh, and socat; nothing that a user typed is ever part of the text.
set -eu
umask 022
c_own=/.cdebug

main() {
  c_mode=$1
  shift
  "$c_mode" "$@"
}

fail() {
  echo "cdebug: $1" >&2
  exit 125
}

serve() {
  exec 3<&0 </dev/null
  begin "$@"
  # In the background: the shell must be there to be told by a signal.
  { while read -r _; do :; done; kill "$$"; } <&3 &
  [ -n "$c_all" ] || wait "$!" || :
  wait_for_all
}

hold() {
  begin "$@"
  wait_for_all
}

begin() {
  c_relay=$1
  shift
  [ "$c_relay" != socat ] || find_program socat "$PATH" ||
    fail "Cannot forward: the forwarder's image has no socat"
  ! command -v launch >/dev/null || bring_program
  CDEBUG_STDOUT=/proc/$$/fd/1
  export CDEBUG_STDOUT
  c_all=''
  trap stop HUP INT TERM
  while [ "$#" -gt 0 ]; do
    # A name is not compared with addresses.
    # shellcheck disable=SC2086 # splits
    is_named $1 || ! listens $1 || fail "Cannot listen on $1: the port is in use there"
    # shellcheck disable=SC2086 # splits
    $c_relay $2 "$3" "$4" </dev/null &
    c_all="$c_all $!"
    # shellcheck disable=SC2086 # splits
    poll 250 up "$!" $1 || fail "Cannot listen on $1"
    shift 4
  done
  echo ready
}

# Whether a process listens, or has ended, which it says itself.
up() {
  c_pid=$1
  shift
  c_state=Z
  read -r _ _ c_state _ 2>/dev/null <"/proc/$c_pid/stat" || :
  [ "$c_state" != Z ] || stop 125
  [ "$1" = - ] || listens "$@"
}

is_named() {
  case $2 in
    *:* | /*) return 1 ;;
    *[!0-9.]*) return 0 ;;
  esac
  return 1
}

# Source: proc(5), /proc/net/tcp: the local address and port in hexadecimal digits, the address's bytes in the order of
# a machine that puts the lowest first; state 0A listens, 07 is an unconnected socket of UDP.
listens() {
  case $1 in
    unix) [ -S "$2" ] && return 0 || return 1 ;;
    tcp | udp) ;;
    *) return 1 ;;
  esac
  case $1 in tcp) c_wanted=0A ;; udp) c_wanted=07 ;; esac
  c_port=$(printf %04X "$3") c_table=/proc/net/$1 c_address=
  case $2 in
    *:*) c_table=${c_table}6 ;;
    *) c_address=$(reversed "$2") ;;
  esac
  [ -r "$c_table" ] || return 1
  while read -r _ c_local _ c_state _; do
    case $c_local in
      "$c_address:$c_port") ;;
      *:"$c_port") [ -z "$c_address" ] || continue ;;
      *) continue ;;
    esac
    [ "$c_state" != "$c_wanted" ] || return 0
  done <"$c_table"
  return 1
}

# 127.0.0.1 → 0100007F; nothing for a name.
reversed() {
  case $1 in *[!0-9.]*) return 0 ;; esac
  IFS=.
  # shellcheck disable=SC2086 # splits
  set -- $1
  unset IFS
  printf %02X%02X%02X%02X "$4" "$3" "$2" "$1"
}

wait_for_all() {
  for c_pid in $c_all; do wait "$c_pid" || :; done
}

stop() {
  # shellcheck disable=SC2086 # splits
  kill $c_all 2>/dev/null || :
  for c_pid in $c_all; do wait "$c_pid" 2>/dev/null || :; done
  exit "${1:-0}"
}

join() {
  find_program socat "$PATH"
  # shellcheck disable=SC2086 # splits
  exec "$c_own/launch" halves "$c_program" $1 FD:0,shut-down "$2"
}

datagrams() {
  find_program socat "$PATH"
  exec "$c_own/launch" datagrams "$c_program" - "$1"
}

packets() {
  find_program sh "$PATH"
  # shellcheck disable=SC2016 # expands in the shell that it is given to
  exec "$c_own/launch" stream "$c_program" -c 'eval "$CDEBUG_SCRIPT"' cdebug "$@"
}

announce() {
  c_path=$c_own/$1-$$
  echo "connection $1 $c_path" >"$CDEBUG_STDOUT"
  # Its stdin is its stdout, a socket, of which only a half may be closed.
  exec socat -b 65536 -t 86400 FD:0,shut-down "UNIX-LISTEN:$c_path,accept-timeout=30"
}

# The socket is just being made: it may not be there yet, or there and not listened on.
connection() {
  join "$1" "UNIX-CONNECT:$2,retry=200,interval=0.05"
}

dial() {
  exec socat -b 65536 -t 86400 FD:0,shut-down "UNIX-CONNECT:$1"
}

bring_program() {
  launch >"$c_own/launch"
  chmod 755 "$c_own/launch"
}
