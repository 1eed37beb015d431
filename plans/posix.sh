# What POSIX sh has not, for the scripts of this folder.

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
