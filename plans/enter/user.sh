# Who the session is, and what it starts with.

# Sets c_uid, and c_ids as launch takes them, from c_user: USER[:GROUP], "" for root, "=" for the target's own.
identify() {
  c_uid=0 c_ids=-
  case $c_user in
    '') return 0 ;;
    =)
      while read -r c_key c_id c_rest; do
        case $c_key in
          Uid:) c_uid=$c_id ;;
          Gid:) c_ids=$c_uid:$c_id ;;
          Groups:) for c_id in $c_id $c_rest; do c_ids=$c_ids,$c_id; done ;;
        esac
      done <"/proc/$c_pid/status"
      return 0
      ;;
  esac
  c_base=$c_root
  [ "$c_slash" != toolkit ] || c_base=
  c_name=$c_user c_group=
  case $c_name in *:*) c_group=${c_name#*:} c_name=${c_name%%:*} ;; esac
  if look_up passwd "${c_name:-0}"; then
    c_uid=$c_id c_gid=${c_rest%%:*} c_name=$c_entry
  else
    case $c_name in *[!0-9]* | '') fail "Cannot run as \"$c_name\": the target's /etc/passwd has no such user" ;; esac
    c_uid=$c_name c_gid=0
  fi
  case $c_uid$c_gid in *[!0-9]* | '') fail "Cannot run as \"$c_name\": the target's /etc/passwd gives it no number" ;; esac
  if [ -n "$c_group" ]; then
    if look_up group "$c_group"; then
      c_gid=$c_id
    else
      case $c_group in *[!0-9]*) fail "Cannot run as group \"$c_group\": the target's /etc/group has no such group" ;; esac
      c_gid=$c_group
    fi
    c_ids=$c_uid:$c_gid
  elif [ "$c_uid" != 0 ]; then
    c_ids=$c_uid:$c_gid$(other_groups)
  fi
}

# Finds a name or number in the target's /etc/passwd or /etc/group: sets c_entry, c_id and c_rest.
look_up() {
  find_file "/etc/$1" || return 1
  case $2 in *[!0-9]*) c_by=name ;; *) c_by=id ;; esac # digits are a number, even where somebody is called so
  while IFS=: read -r c_entry _ c_id c_rest || [ -n "$c_entry" ]; do
    case $c_by in
      name) [ "$c_entry" != "$2" ] || return 0 ;;
      id) [ "$c_id" != "$2" ] || return 0 ;;
    esac
  done <"$c_file"
  return 1
}

# The groups that name the user as a member, each after a comma.
other_groups() {
  find_file /etc/group || return 0
  while IFS=: read -r _ _ c_id c_members || [ -n "$c_id" ]; do
    case ,$c_members, in *,"$c_name",*) printf ,%s "$c_id" ;; esac
  done <"$c_file"
}

# Sets c_file to where a file of the target's is, whose links are the target's too.
find_file() {
  c_file=$c_base$1
  [ ! -h "$c_file" ] || case $(readlink "$c_file") in /*) c_file=$c_base$(readlink "$c_file") ;; esac
  # One that Podman has made may be closed to everybody in a user namespace.
  [ -f "$c_file" ] && (: <"$c_file") 2>&- # the target need not have a /dev/null
}

inside() {
  c_variables=$1 c_given=$2 c_workdir=$3 c_uid=$4 c_base=''
  shift 4
  CDPATH='' cd -- "$c_workdir" >&- 2>&- || fail "Cannot change to \"$c_workdir\": the target has no such directory; choose one with -w"
  case $c_given in *:HOME:*) ;; *) find_home ;; esac
  HISTFILE=${HISTFILE-} # what was typed here is not for the target to keep
  export HOME HISTFILE
  unset CDEBUG_SCRIPT
  check "$1"
  eval "$c_variables" # last of all: it may set any variable, those of this script too
  exec "$@"
}

# What the toolkit's image says of HOME is seldom true here.
find_home() {
  case ${HOME:-/} in
    / | /root)
      HOME=/
      ! look_up passwd "$c_uid" || { c_rest=${c_rest#*:*:} && HOME=${c_rest%%:*}; }
      ;;
  esac
  [ -d "$HOME" ] || HOME=/
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
  complain "Cannot run \"$2\": $3"
  exit "$1"
}

# The environment of the target's main process, which opens it to nobody but its own user and SYS_PTRACE.
target_environ() {
  c_reader=-
  [ "$c_user" != = ] || c_reader=$c_ids
  "$c_own/launch" "$c_reader" / "$c_shell" -c "$c_run" cdebug environ "$c_pid" "$@"
}

environ() {
  c_environ=/proc/$1/environ
  shift
  find_program sh "$PATH"
  xargs -0 "$c_program" -c "$c_run" cdebug "$@" <"$c_environ"
}

quote() {
  c_skipped=$1 # set by the user, who wins
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
