# Completion of cdebug's command lines in bash 4.3 or later: cdebug itself is asked what may follow.

_cdebug() {
  local line=${COMP_LINE:0:COMP_POINT} words=() word gap last candidate
  # Bash parts words at ":" and "=" too, as in podman://web; to cdebug only blanks do.
  for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
    gap=${line%%[![:blank:]]*}
    if [[ -n $gap || ${#words[@]} -eq 0 ]]; then words+=(""); fi
    line=${line:${#gap}}
    words[-1]+=${line:0:${#word}}
    line=${line:${#word}}
  done
  # What bash replaces is what stands behind the last of them.
  last=${words[-1]##*["$COMP_WORDBREAKS"]}
  COMPREPLY=()
  while IFS=$'\t' read -r candidate _; do
    if [[ $candidate == :files ]]; then
      compopt -o default
    else
      COMPREPLY+=("${candidate:${#words[-1]}-${#last}}")
    fi
  done < <(cdebug __complete "${words[@]:1}" 2>/dev/null)
}

complete -F _cdebug cdebug
