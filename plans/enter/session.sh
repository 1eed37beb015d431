# The life of a session: what runs in the sidecar, outside the chroot.

session() {
  c_pid=$1 c_linking=$2 c_stdin=$3 c_kind=$4 c_slash=$5 c_path=$6 c_inherit=$7 c_given=$8 c_workdir=$9
  shift 9
  c_user=$1
  shift
  find_process
  c_root=/proc/$c_pid/root

  [ -d "$c_own" ] || mkdir "$c_own" # not every engine has it in memory
  : >"$c_own/$CDEBUG_SESSION" # before the link is there: it proves that the link's owner lives
  launch >"$c_own/launch"
  chmod 755 "$c_own/launch"
  find_program sh "$PATH" || fail "Cannot start the session: the toolkit has no sh on its PATH"
  c_shell=$c_program
  [ "$c_user" = = ] || [ -d "$c_root/." ] ||
    fail "Cannot enter the target's root filesystem: the sidecar may not look into process $c_pid"
  [ "$c_slash" = toolkit ] || [ ! -d "$c_root/." ] || [ -d "$c_root/proc/$$" ] ||
    fail "Cannot bring the toolkit: the target's root filesystem has no /proc of its processes; --root toolkit does without"
  c_holder=$$ CDEBUG_ROOTFS=
  trap leave EXIT
  trap 'exit 129' HUP # a shell that a signal ends does not run its EXIT trap
  trap 'exit 130' INT
  trap 'exit 143' TERM
  identify
  bring_toolkit
  trap - HUP INT TERM

  c_code=0
  exec 4>&2 2>/dev/null # a shell tells how its children were killed; here the exit code does
  case $c_stdin in
    attached)
      trap : HUP INT QUIT # what the terminal sends reaches this process too; what it ends is the command
      (enter "$@" 2>&4 4>&-) || c_code=$?
      ;;
    lifeline)
      # In the foreground, because a shell's background commands ignore SIGINT for ever.
      exec 3<&0 </dev/null
      hangup <&3 4>&- &
      (enter "$@" 3<&- 2>&4 4>&-) || c_code=$?
      # Nobody may survive this process: orphans become the target's children, which it may never reap.
      [ -e "$c_own/hangup" ] || kill "$!"
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
  poll 150 [ ! -e "$c_own/hangup" ] || :
  exit "$c_code"
}

# A container that shares another's PID namespace has no number there that its engine knows: its main process is
# the oldest of its cgroup.
find_process() {
  case $c_pid in [0-9]*) return 0 ;; esac
  c_container=${c_pid#container:} c_pid='' c_oldest=''
  for c_dir in /proc/[0-9]*; do
    while read -r c_line; do
      case $c_line in *"$c_container"*) ;; *) continue ;; esac
      c_stat='' # the name in it may hold a line feed
      while IFS= read -r c_line || [ -n "$c_line" ]; do c_stat=$c_stat$c_line; done 2>/dev/null <"$c_dir/stat" || break
      c_start=$(start_time "${c_stat##*) }")
      if [ -z "$c_pid" ] || [ "$c_start" -lt "$c_oldest" ]; then
        c_pid=${c_dir#/proc/} c_oldest=$c_start
      fi
      break
    done 2>/dev/null <"$c_dir/cgroup" || :
  done
  [ -n "$c_pid" ] || fail "Cannot find the target's main process: no process that the sidecar sees is of container $c_container"
}

# The start time among the fields of /proc/PID/stat that follow the name: proc(5).
start_time() {
  # shellcheck disable=SC2086 # splits
  set -- $1
  shift 19
  echo "$1"
}

# Becomes the command. Runs in a subshell, because its PATH is not for the toolkit's programs.
enter() {
  # An engine may set the terminal's size only after the start; the first prompt must not be drawn before.
  [ ! -t 0 ] || poll 50 sized || :

  c_variables=
  if [ "$c_inherit" = target ]; then
    if ! c_variables=$(target_environ quote "$c_given") || ! c_target_path=$(target_environ path); then
      fail "Cannot take over the environment of the target's main process"
    fi
    c_path=${c_path:-$c_target_path}
  fi
  if [ "$c_slash" = toolkit ]; then
    c_path=$PATH c_slash=/
  else
    c_path=${c_path:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}$c_tools c_slash=$c_root
  fi
  # Who is $$ in a subshell is its parent.
  read -r c_self _ </proc/self/stat
  echo "$c_self" >"$c_own/pid"
  PATH=$c_path
  export PATH
  exec "$c_own/launch" "$c_ids" "$c_slash" "$c_inner_shell" -c "$c_run" cdebug inside "$c_variables" \
    "$c_given" "$c_workdir" "$c_uid" "$@"
}

# Whether the terminal has a size, or no tool tells; busybox does not print a size of nothing.
sized() {
  c_size=$(stty size 2>/dev/null) || return 0
  case $c_size in '' | '0 0') return 1 ;; esac
}

hangup() {
  while read -r c_word; do
    if [ "$c_word" = detach ]; then
      : >"$c_detached"
      exit 0
    fi
  done
  : >"$c_own/hangup" # as long as it is there, the session waits for this process
  send HUP
  poll 100 gone "$c_command" || kill -s KILL "$c_command" 2>/dev/null || :
  rm -f "$c_own/hangup"
}

gone() {
  ! kill -0 "$1" 2>/dev/null
}

# Sends the command a signal, once it is there to get it.
send() {
  poll 100 [ -s "$c_own/pid" ] || return 0
  read -r c_command <"$c_own/pid"
  kill -s "$1" "$c_command" 2>/dev/null || :
}

leave() {
  if [ "$c_holder" != $$ ]; then
    # shellcheck disable=SC2015 # a process that may not be ended is not waited for
    kill "$c_holder" 2>/dev/null && wait "$c_holder" 2>/dev/null || :
  fi
  [ "$CDEBUG_ROOTFS" != "$c_link" ] || remove_link "$c_link"
}

undo() {
  c_pid=$1
  c_root=/.cdebug-target # the root of a target that has stopped
  if [ ! -d "$c_root" ]; then
    find_process
    c_root=/proc/$c_pid/root
  fi
  remove_link "$c_link"
}
