#!/bin/sh
# The entry script of an exec session: sh -c 'eval "$CDEBUG_SCRIPT"' cdebug MODE [ARG...]
#
#   session PID LINK STDIN PATH ENV WORKDIR USER COMMAND [ARG...]
#             the sidecar's main process. It stays outside the chroot, so that /proc/<its pid>/root is the
#             toolkit as seen from inside, and it outlives the command to remove the link.
#   inside    its child, behind the chroot: announces its process ID, then becomes the command.
#   hangup    ends the command when its stdin closes: cdebug is gone, or wants the session to end.
#   signal NAME
#   undo PID  removes what a killed session left in the target.
#   quote     prints its arguments, NAME=VALUE each, as export commands.
#
# The text comes in the environment, so that `ps` in the target shows one short line, and every mode runs the
# same text. POSIX sh only: the toolkit may bring ash, dash or bash. Nothing that a user typed is ever part of
# the text; it arrives as arguments and is passed on as arguments.
set -eu

# shellcheck disable=SC2016 # expands in the shell that it is given to
run='eval "$CDEBUG_SCRIPT"'
# In the sidecar's own root:
mark=/.cdebug-session pidfile=/.cdebug-pid hanging_up=/.cdebug-hangup
link=/.cdebug-$CDEBUG_SESSION # in the target's

fail() {
  echo "cdebug: $1" >&2
  exit 125
}

# Looks a program up in a list of directories. `command -v` will not do: some shells answer it with a bare name,
# for programs that they have built in.
find_program() {
  IFS=:
  for dir in $2; do
    if [ -f "$dir/$1" ] && [ -x "$dir/$1" ]; then
      unset IFS
      program=$dir/$1
      return 0
    fi
  done
  unset IFS
  return 1
}

session() {
  pid=$1 linking=$2 stdin=$3
  shift 3
  root=/proc/$pid/root
  [ -d "$root/." ] || fail "Cannot enter the target's root filesystem: the sidecar may not look into process $pid"

  echo "$CDEBUG_SESSION" >"$mark" # before the link is there: it proves that the link's owner lives
  export CDEBUG_ROOTFS="/proc/$$/root"
  if [ "$linking" = link ]; then
    sweep
    if ln -s "$CDEBUG_ROOTFS/" "$root$link" 2>/dev/null; then
      CDEBUG_ROOTFS=$link
      trap 'rm -f "$root$link"' EXIT
    fi
  fi

  code=0
  exec 4>&2 2>/dev/null # a shell tells how its children were killed; here the exit code does
  case $stdin in
    attached)
      trap : INT QUIT # typed keys reach this process too; what they end is the command
      (enter "$@" 2>&4 4>&-) || code=$?
      ;;
    lifeline)
      # In the foreground, because a shell's background commands ignore SIGINT for ever.
      exec 3<&0 </dev/null
      hangup <&3 4>&- &
      (enter "$@" 3<&- 2>&4 4>&-) || code=$?
      # Nobody may survive this process: orphans become the target's children, which it may never reap.
      [ -e "$hanging_up" ] || kill "$!"
      wait "$!" || :
      ;;
    detached)
      # In the background, because a shell that waits for a foreground command does not run its traps, and
      # `docker stop` must not leave the link.
      enter "$@" </dev/null 2>&4 4>&- &
      child=$!
      trap 'kill -TERM "$child" 2>/dev/null' HUP INT TERM
      wait "$child" || code=$?
      while kill -0 "$child" 2>/dev/null; do
        code=0
        wait "$child" || code=$?
      done
      ;;
  esac
  tries=0
  while [ -e "$hanging_up" ] && [ $tries -lt 60 ]; do
    sleep 0.05 2>/dev/null || sleep 1
    tries=$((tries + 1))
  done
  exit "$code"
}

# Removes the links of sessions that were killed. A link's owner lives if the root that it names has the
# owner's mark; a root that may not be read is not judged.
sweep() {
  for old in "$root"/.cdebug-*; do
    home=$(readlink "$old" 2>/dev/null) || continue
    case $home in /proc/[0-9]*/root/) ;; *) continue ;; esac
    if [ -d "${home%/root/}" ]; then
      [ -d "$home." ] || continue
      owner=
      [ ! -f "$home$mark" ] || read -r owner <"$home$mark" || :
      [ "$owner" != "${old##*/.cdebug-}" ] || continue
    fi
    rm -f "$old"
  done
}

# Becomes the chroot. Runs in a subshell, because its PATH is not for the toolkit's programs.
enter() {
  path=$1 inherit=$2
  shift 2

  # An engine may set the terminal's size only after the start; the first prompt must not be drawn before.
  if [ -t 0 ]; then
    tries=0
    while [ $tries -lt 100 ]; do
      size=$(stty size 2>/dev/null) || break
      case $size in '' | '0 0') ;; *) break ;; esac # busybox does not print a size of nothing
      sleep 0.01 2>/dev/null || sleep 1
      tries=$((tries + 1))
    done
  fi

  find_program sh "$PATH" || fail "Cannot start the session: the toolkit has no sh on its PATH"
  shell=$program
  find_program chroot "$PATH" || fail "Cannot start the session: the toolkit has no chroot on its PATH"
  tools=
  IFS=:
  for dir in $PATH; do
    tools=$tools:$CDEBUG_ROOTFS$dir
  done
  unset IFS
  tools=${tools#:}
  if [ "$inherit" != no ]; then
    variables=$(xargs -0 "$shell" -c "$run" cdebug quote "$inherit" <"${root%/root}/environ")
    eval "$variables"
  fi
  PATH=${path:-${CDEBUG_TARGET_PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}}:$tools
  unset CDEBUG_TARGET_PATH
  export PATH
  exec "$program" "$root" "$CDEBUG_ROOTFS$shell" -c "$run" cdebug inside "$tools" "$@"
}

inside() {
  echo $$ >"$CDEBUG_ROOTFS$pidfile"
  tools=$1 workdir=$2 user=$3
  shift 3
  cd "$workdir" 2>/dev/null || fail "Cannot change to \"$workdir\": the target has no such directory; choose one with -w"
  # What the toolkit's image says of HOME is seldom true here.
  case ${HOME:-/} in / | /root) HOME= ;; esac

  name=${user:-0} group=
  case $name in *:*) group=${name#*:} name=${name%%:*} ;; esac
  if look_up passwd "$name"; then
    uid=$id gid=${rest%%:*}
    rest=${rest#*:*:}
    HOME=${HOME:-${rest%%:*}}
  else
    case $name in *[!0-9]* | '') fail "Cannot run as \"$name\": the target's /etc/passwd has no such user" ;; esac
    uid=$name gid=0
  fi
  if [ -n "$group" ]; then
    if look_up group "$group"; then
      gid=$id
    else
      case $group in *[!0-9]*) fail "Cannot run as group \"$group\": the target's /etc/group has no such group" ;; esac
      gid=$group
    fi
  fi
  [ -d "$HOME" ] || HOME=/
  export HOME
  unset CDEBUG_SCRIPT
  check "$1"
  [ -n "$user" ] || exec "$@"

  # The toolkit's own programs: what the target has under these names must not run as root. Both take numbers
  # that the target's /etc/passwd does not know.
  if find_program nsenter "$tools"; then
    exec "$program" -S "$uid" -G "$gid" "$@"
  elif find_program chroot "$tools" && "$program" --userspec=0:0 / "$program" --help >/dev/null 2>&1; then
    exec "$program" --userspec="$uid:$gid" --groups= --skip-chdir / "$@"
  fi
  fail "Cannot run as uid $uid: the toolkit has neither nsenter nor a chroot that takes --userspec"
}

# Says why a command cannot run before a shell says it in its own, differing words.
check() {
  case $1 in
    */*)
      [ -e "$1" ] || refuse 127 "$1" "the target has no such file"
      [ ! -d "$1" ] || refuse 126 "$1" "it is a directory"
      [ -x "$1" ] || refuse 126 "$1" "it is not executable"
      ;;
    *) find_program "$1" "$PATH" || refuse 127 "$1" "neither the target nor the toolkit has it on PATH" ;;
  esac
}

refuse() {
  echo "cdebug: Cannot run \"$2\": $3" >&2
  exit "$1"
}

# Finds a name or number in the target's /etc/passwd or /etc/group: sets id and rest.
look_up() {
  [ -f "/etc/$1" ] || return 1
  while IFS=: read -r entry _ id rest; do
    if [ "$entry" = "$2" ] || [ "$id" = "$2" ]; then
      return 0
    fi
  done <"/etc/$1"
  return 1
}

hangup() {
  while read -r word; do
    [ "$word" != detach ] || exit 0
  done
  : >"$hanging_up" # as long as it is there, the session waits for this process
  send HUP
  tries=0
  while kill -0 "$command" 2>/dev/null && [ $tries -lt 20 ]; do
    sleep 0.1 2>/dev/null || sleep 1
    tries=$((tries + 1))
  done
  kill -s KILL "$command" 2>/dev/null || :
  rm -f "$hanging_up"
}

# Sends the command a signal, once it is there to get it.
send() {
  tries=0
  while [ ! -s "$pidfile" ] && [ $tries -lt 100 ]; do
    sleep 0.02 2>/dev/null || sleep 1
    tries=$((tries + 1))
  done
  read -r command <"$pidfile"
  kill -s "$1" "$command" 2>/dev/null || :
}

undo() {
  root=/proc/$1/root
  [ ! -d /.cdebug-target ] || root=/.cdebug-target # the root of a target that has stopped
  rm -f "$root$link"
}

quote() {
  skipped=:$1: # set by the user, who wins
  shift
  for variable; do
    name=${variable%%=*}
    case $name in '' | [0-9]* | *[!A-Za-z0-9_]* | CDEBUG_*) continue ;; esac
    case $skipped in *:"$name":*) continue ;; esac
    [ "$name" != PATH ] || name=CDEBUG_TARGET_PATH
    # The underscore keeps newlines at the value's end, which a substitution drops.
    value=$(printf '%s_' "${variable#*=}" | sed "s/'/'\\\\''/g")
    printf "export %s='%s'\n" "$name" "${value%_}"
  done
}

mode=$1
shift
case $mode in
  session | inside | hangup | undo | quote) "$mode" "$@" ;;
  signal) send "$1" ;;
esac
