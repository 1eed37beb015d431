#!/bin/sh
# A sidecar made of processes: sh -c 'eval "$CDEBUG_SIDECAR"' NAME MODE [ARG...]
#
#   start PARENT TARGET START ROOT STDERR COMMAND [ARG...]
#             in the target's namespaces and a mount namespace of its own: makes the sidecar's root filesystem and
#             runs the command in it, as process TARGET still is the one that started at tick START. What goes wrong
#             before is told on stderr; then a NUL follows there. This process stays where it was: only its children
#             are in the target's PID namespace, so that the target never sees a process whose root is the machine's.
#   watch SIDECAR START COMMAND [ARG...]
#             outside, with a stdin that cdebug holds: if that ends without a word, cdebug has, and so does the
#             sidecar: the command asks it to, then all of its processes are killed.
#   end SIDECAR START
#             kills all processes of a sidecar.
#
# POSIX sh, with the programs of util-linux. The parts of the root filesystem come in CDEBUG_FSTAB, and in CDEBUG_LINKS
# the symbolic links; the command's environment comes in CDEBUG_ENV as commands that export it.
# shellcheck disable=SC3013 # -ef is POSIX since 2024, and every sh has had it long before
set -eu
umask 022

fail() {
  echo "$1" >&2
  exit 125
}

start() {
  c_parent=$1 c_target=$2 c_start=$3 c_root=$4 c_stderr=$5
  shift 5
  # It has died before the kernel was told that this process dies with it.
  [ "$c_parent" = none ] || [ "$PPID" = "$c_parent" ] || exit 125
  [ "$(start_time "$c_target")" = "$c_start" ] || fail "process $c_target has ended meanwhile"
  make_root
  cd "$c_root"
  # Over the machine's root rather than beside it, so that no `..` leads there.
  mount --no-mtab --move "$c_root" /
  trap : HUP INT QUIT TERM
  printf '\0' >&2

  exec 4>&2 2>/dev/null # a shell tells how its children were killed; here the exit code does
  c_code=0
  case $c_stderr in
    terminal)
      # A job, so that the terminal's foreground is a process group of the target's PID namespace: shells look for it.
      set -m
      (become "$@" 2>&1 4>&-) || c_code=$?
      # Where a job that has been stopped would go on, nobody could ask for it.
      while kill -s 0 %% 2>/dev/null; do
        c_code=0
        fg %% >/dev/null || c_code=$?
      done
      ;;
    stream) (become "$@" 2>&4 4>&-) || c_code=$? ;;
    closed)
      # In the background, because a shell that waits for a foreground command does not run its traps.
      become "$@" 4>&- &
      c_child=$!
      trap 'kill -s TERM "$c_child" 2>/dev/null' HUP INT TERM
      wait "$c_child" || c_code=$?
      while kill -s 0 "$c_child" 2>/dev/null; do
        c_code=0
        wait "$c_child" || c_code=$?
      done
      ;;
  esac
  sweep "/proc/$$/ns/mnt"
  exit "$c_code"
}

# /sys, because every machine has it: a tmpfs over it, in this mount namespace only.
make_root() {
  c_base=/sys
  mount --no-mtab -t tmpfs -o mode=755 cdebug "$c_base"
  if [ "$c_root" != "$c_base" ]; then # an overlay, whose upper directory is in memory
    mkdir "$c_base/lower" "$c_base/upper" "$c_base/work" "$c_root"
    c_base=$c_base/upper
  fi
  # Here and not where it is mounted: below that, links of the toolkit may lead to the machine's files.
  for c_dir in dev etc tmp; do [ -d "$c_base/$c_dir" ] || mkdir "$c_base/$c_dir"; done
  printf '%s' "$CDEBUG_DIRECTORIES" | while IFS= read -r c_dir; do [ -d "$c_base$c_dir" ] || mkdir -p "$c_base$c_dir"; done
  [ -z "$CDEBUG_HOSTS" ] || printf '%s' "$CDEBUG_HOSTS" >"$c_base/etc/hosts"
  [ -z "$CDEBUG_RESOLV_CONF" ] || printf '%s' "$CDEBUG_RESOLV_CONF" >"$c_base/etc/resolv.conf"
  printf '%s' "$CDEBUG_FILES" | while IFS= read -r c_file; do
    [ -d "$c_base${c_file%/*}" ] || mkdir -p "$c_base${c_file%/*}"
    [ -e "$c_base$c_file" ] || : >"$c_base$c_file"
  done
  printf '%s' "$CDEBUG_LINKS" | while read -r c_link c_to; do ln -s "$c_to" "$c_base$c_link"; done
  printf '%s' "$CDEBUG_FSTAB" >/sys/fstab
  mount --no-mtab -a -T /sys/fstab # nor a word in /run/mount, which is the machine's
  rm /sys/fstab
}

# Becomes the command. Its variables may have any value, so that none of them is set before.
become() {
  c_env=$CDEBUG_ENV
  unset CDEBUG_SIDECAR CDEBUG_LABELS CDEBUG_FSTAB CDEBUG_DIRECTORIES CDEBUG_FILES CDEBUG_LINKS CDEBUG_HOSTS CDEBUG_RESOLV_CONF CDEBUG_ENV OLDPWD
  eval "$c_env"
  exec "$@"
}

watch() {
  c_pid=$1 c_start=$2
  shift 2
  ! read -r c_word || [ "$c_word" != over ] || exit 0
  hold_namespace || exit 0
  ! read -r c_word || exit 0
  "$@" </dev/null >/dev/null 2>&1 || :
  poll 150 gone || :
  sweep "/proc/$$/fd/9"
}

end() {
  c_pid=$1 c_start=$2
  ! hold_namespace || sweep "/proc/$$/fd/9"
}

# Opens the sidecar's mount namespace, if it still is that sidecar and has one of its own.
hold_namespace() {
  { command exec 9<"/proc/$c_pid/ns/mnt"; } 2>/dev/null &&
    [ "$(start_time "$c_pid")" = "$c_start" ] &&
    ! [ "/proc/$$/fd/9" -ef "/proc/$$/ns/mnt" ]
}

gone() {
  [ "$(start_time "$c_pid")" != "$c_start" ]
}

# Kills every process of a mount namespace but this one, and those that they start meanwhile.
sweep() {
  c_sweeps=0
  ! [ "$1" -ef /proc/1/ns/mnt ] || return 0 # never the machine's own
  while [ "$c_sweeps" -lt 100 ]; do
    c_sweeps=$((c_sweeps + 1)) c_found=
    for c_dir in /proc/[0-9]*; do
      if [ "$c_dir/ns/mnt" -ef "$1" ] && [ "$c_dir" != "/proc/$$" ]; then
        kill -s KILL "${c_dir#/proc/}" 2>/dev/null && c_found=1
      fi
    done
    [ -n "$c_found" ] || return 0
  done
}

# When a process started, in clock ticks since the machine did; nothing if there is none. Source: proc(5), field 22.
start_time() {
  c_stat=
  while IFS= read -r c_line || [ -n "$c_line" ]; do c_stat=$c_stat$c_line; done 2>/dev/null <"/proc/$1/stat" || return 0
  # shellcheck disable=SC2086 # splits; the name before it may hold anything
  set -- ${c_stat##*) }
  [ "$1" = Z ] || echo "${20}"
}

# Calls `$2 ...` until it succeeds, at most $1 times, a moment apart.
poll() {
  c_tries=$1
  shift
  until "$@"; do
    [ "$c_tries" -gt 0 ] || return 1
    c_tries=$((c_tries - 1))
    sleep 0.02 2>/dev/null || sleep 1
  done
}

"$@"
