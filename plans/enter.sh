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
#   quote SKIPPED [NAME=VALUE...]   prints them as export commands.
#   path [NAME=VALUE...]            prints the value of PATH.
#
# The text comes in the environment, so that `ps` in the target shows one short line, and every mode runs the
# same text. POSIX sh only: the toolkit may bring ash, dash or bash. Nothing that a user typed is ever part of
# the text; it arrives as arguments and is passed on as arguments. Variables begin with c_, because those that the
# user or the target sets may have any name.
set -eu

# shellcheck disable=SC2016 # expands in the shell that it is given to
c_run='eval "$CDEBUG_SCRIPT"'
# In the sidecar's own root:
c_mark=/.cdebug-session c_pidfile=/.cdebug-pid c_hanging_up=/.cdebug-hangup
c_link=/.cdebug-$CDEBUG_SESSION # in the target's

fail() {
  echo "cdebug: $1" >&2
  exit 125
}

# Looks a program up in a list of directories. `command -v` will not do: some shells answer it with a bare name,
# for programs that they have built in.
find_program() {
  IFS=:
  for c_dir in $2; do
    if [ -f "$c_dir/$1" ] && [ -x "$c_dir/$1" ]; then
      unset IFS
      c_program=$c_dir/$1
      return 0
    fi
  done
  unset IFS
  return 1
}

session() {
  c_pid=$1 c_linking=$2 c_stdin=$3
  shift 3
  c_root=/proc/$c_pid/root
  [ -d "$c_root/." ] || fail "Cannot enter the target's root filesystem: the sidecar may not look into process $c_pid"

  echo "$CDEBUG_SESSION" >"$c_mark" # before the link is there: it proves that the link's owner lives
  export CDEBUG_ROOTFS="/proc/$$/root"
  if [ "$c_linking" = link ]; then
    sweep
    if ln -s "$CDEBUG_ROOTFS/" "$c_root$c_link" 2>/dev/null; then
      CDEBUG_ROOTFS=$c_link
      trap 'rm -f "$c_root$c_link"' EXIT
    fi
  fi

  c_code=0
  exec 4>&2 2>/dev/null # a shell tells how its children were killed; here the exit code does
  case $c_stdin in
    attached)
      trap : INT QUIT # typed keys reach this process too; what they end is the command
      (enter "$@" 2>&4 4>&-) || c_code=$?
      ;;
    lifeline)
      # In the foreground, because a shell's background commands ignore SIGINT for ever.
      exec 3<&0 </dev/null
      hangup <&3 4>&- &
      (enter "$@" 3<&- 2>&4 4>&-) || c_code=$?
      # Nobody may survive this process: orphans become the target's children, which it may never reap.
      [ -e "$c_hanging_up" ] || kill "$!"
      wait "$!" || :
      ;;
    detached)
      # In the background, because a shell that waits for a foreground command does not run its traps, and
      # `docker stop` must not leave the link.
      enter "$@" </dev/null 2>&4 4>&- &
      c_child=$!
      trap 'kill -TERM "$c_child" 2>/dev/null' HUP INT TERM
      wait "$c_child" || c_code=$?
      while kill -0 "$c_child" 2>/dev/null; do
        c_code=0
        wait "$c_child" || c_code=$?
      done
      ;;
  esac
  c_tries=0
  while [ -e "$c_hanging_up" ] && [ $c_tries -lt 60 ]; do
    sleep 0.05 2>/dev/null || sleep 1
    c_tries=$((c_tries + 1))
  done
  exit "$c_code"
}

# Removes the links of sessions that were killed. A link's owner lives if the root that it names has the
# owner's mark; a root that may not be read is not judged.
sweep() {
  for c_old in "$c_root"/.cdebug-*; do
    c_home=$(readlink "$c_old" 2>/dev/null) || continue
    case $c_home in /proc/[0-9]*/root/) ;; *) continue ;; esac
    if [ -d "${c_home%/root/}" ]; then
      [ -d "$c_home." ] || continue
      c_owner=$(head -c 8 "$c_home$c_mark" 2>/dev/null) || : # it may end meanwhile
      [ "$c_owner" != "${c_old##*/.cdebug-}" ] || continue
    fi
    rm -f "$c_old"
  done
}

# Becomes the chroot. Runs in a subshell, because its PATH is not for the toolkit's programs.
enter() {
  c_path=$1 c_inherit=$2
  shift 2

  # An engine may set the terminal's size only after the start; the first prompt must not be drawn before.
  if [ -t 0 ]; then
    c_tries=0
    while [ $c_tries -lt 100 ]; do
      c_size=$(stty size 2>/dev/null) || break
      case $c_size in '' | '0 0') ;; *) break ;; esac # busybox does not print a size of nothing
      sleep 0.01 2>/dev/null || sleep 1
      c_tries=$((c_tries + 1))
    done
  fi

  find_program sh "$PATH" || fail "Cannot start the session: the toolkit has no sh on its PATH"
  c_shell=$c_program
  find_program chroot "$PATH" || fail "Cannot start the session: the toolkit has no chroot on its PATH"
  # Two names of the toolkit: the link is the user's, who may look at it; what runs before the command is found
  # where nobody in the target can put anything else.
  c_toolkit=/proc/$$/root
  c_tools='' c_own_tools=''
  IFS=:
  for c_dir in $PATH; do
    c_tools=$c_tools:$CDEBUG_ROOTFS$c_dir c_own_tools=$c_own_tools:$c_toolkit$c_dir
  done
  unset IFS
  c_variables=
  if [ "$c_inherit" != no ]; then
    c_environ=${c_root%/root}/environ
    if ! c_variables=$(xargs -0 "$c_shell" -c "$c_run" cdebug quote "$c_inherit" <"$c_environ") ||
      ! c_target_path=$(xargs -0 "$c_shell" -c "$c_run" cdebug path <"$c_environ"); then
      fail "Cannot take over the environment of the target's main process"
    fi
    c_path=${c_path:-$c_target_path}
  fi
  PATH=${c_path:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}$c_tools
  export PATH
  exec "$c_program" "$c_root" "$c_toolkit$c_shell" -c "$c_run" cdebug inside "$c_toolkit" "${c_own_tools#:}" "$c_variables" "$@"
}

inside() {
  echo $$ >"$1$c_pidfile"
  c_tools=$2 c_variables=$3 c_workdir=$4 c_user=$5
  shift 5
  CDPATH='' cd -- "$c_workdir" >/dev/null 2>&1 || fail "Cannot change to \"$c_workdir\": the target has no such directory; choose one with -w"
  # What the toolkit's image says of HOME is seldom true here.
  case ${HOME:-/} in / | /root) HOME= ;; esac

  c_name=${c_user:-0} c_group=
  case $c_name in *:*) c_group=${c_name#*:} c_name=${c_name%%:*} ;; esac
  if look_up passwd "$c_name"; then
    c_uid=$c_id c_gid=${c_rest%%:*}
    c_rest=${c_rest#*:*:}
    HOME=${HOME:-${c_rest%%:*}}
  else
    case $c_name in *[!0-9]* | '') fail "Cannot run as \"$c_name\": the target's /etc/passwd has no such user" ;; esac
    c_uid=$c_name c_gid=0
  fi
  if [ -n "$c_group" ]; then
    if look_up group "$c_group"; then
      c_gid=$c_id
    else
      case $c_group in *[!0-9]*) fail "Cannot run as group \"$c_group\": the target's /etc/group has no such group" ;; esac
      c_gid=$c_group
    fi
  fi
  [ -d "$HOME" ] || HOME=/
  export HOME
  unset CDEBUG_SCRIPT
  check "$1"
  if [ -z "$c_user" ]; then
    eval "$c_variables" # last of all: it may set any variable, those of this script too
    exec "$@"
  fi

  # The toolkit's own programs: what the target has under these names must not run as root. Both take numbers
  # that the target's /etc/passwd does not know.
  if find_program nsenter "$c_tools"; then
    set -- "$c_program" -S "$c_uid" -G "$c_gid" "$@"
  elif find_program chroot "$c_tools" && "$c_program" --userspec=0:0 / "$c_program" --help >/dev/null 2>&1; then
    set -- "$c_program" --userspec="$c_uid:$c_gid" --groups= --skip-chdir / "$@"
  else
    fail "Cannot run as uid $c_uid: the toolkit has neither nsenter nor a chroot that takes --userspec"
  fi
  eval "$c_variables"
  exec "$@"
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
  case $2 in *[!0-9]*) c_by=name ;; *) c_by=id ;; esac # digits are a number, even where somebody is called so
  while IFS=: read -r c_entry _ c_id c_rest || [ -n "$c_entry" ]; do
    case $c_by in
      name) [ "$c_entry" != "$2" ] || return 0 ;;
      id) [ "$c_id" != "$2" ] || return 0 ;;
    esac
  done <"/etc/$1"
  return 1
}

hangup() {
  while read -r c_word; do
    [ "$c_word" != detach ] || exit 0
  done
  : >"$c_hanging_up" # as long as it is there, the session waits for this process
  send HUP
  c_tries=0
  while kill -0 "$c_command" 2>/dev/null && [ $c_tries -lt 20 ]; do
    sleep 0.1 2>/dev/null || sleep 1
    c_tries=$((c_tries + 1))
  done
  kill -s KILL "$c_command" 2>/dev/null || :
  rm -f "$c_hanging_up"
}

# Sends the command a signal, once it is there to get it.
send() {
  c_tries=0
  while [ ! -s "$c_pidfile" ] && [ $c_tries -lt 100 ]; do
    sleep 0.02 2>/dev/null || sleep 1
    c_tries=$((c_tries + 1))
  done
  read -r c_command <"$c_pidfile"
  kill -s "$1" "$c_command" 2>/dev/null || :
}

undo() {
  c_root=/proc/$1/root
  [ ! -d /.cdebug-target ] || c_root=/.cdebug-target # the root of a target that has stopped
  rm -f "$c_root$c_link"
}

quote() {
  c_skipped=:$1: # set by the user, who wins
  shift
  for c_variable; do
    c_name=${c_variable%%=*}
    case $c_name in '' | [0-9]* | *[!A-Za-z0-9_]* | CDEBUG_* | PATH) continue ;; esac
    case $c_skipped in *:"$c_name":*) continue ;; esac
    # The underscore keeps newlines at the value's end, which a substitution drops.
    c_value=$(printf '%s_' "${c_variable#*=}" | sed "s/'/'\\\\''/g")
    printf "export %s='%s'\n" "$c_name" "${c_value%_}"
  done
}

# The PATH among its arguments, NAME=VALUE each.
path() {
  for c_variable; do
    case $c_variable in PATH=*) printf '%s\n' "${c_variable#*=}" ;; esac
  done
}

c_mode=$1
shift
case $c_mode in
  session | inside | hangup | undo | quote | path) "$c_mode" "$@" ;;
  signal) send "$1" ;;
esac
