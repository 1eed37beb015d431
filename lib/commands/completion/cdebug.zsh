#compdef cdebug
# Completion of cdebug's command lines in zsh: cdebug itself is asked what may follow.

_cdebug() {
  local line value summary
  local -a lines candidates
  lines=(${(f)"$(cdebug __complete "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)"})
  if [[ $lines[1] == :files ]]; then
    if [[ $PREFIX == --*=* ]]; then compset -P '*='; fi
    _files
    return
  fi
  for line in $lines; do
    value=${line%%$'\t'*} summary=${line#*$'\t'}
    # _describe takes them apart at the first ":" without a backslash.
    candidates+=("${value//:/\\:}${summary:+:$summary}")
  done
  _describe -t candidates cdebug candidates
}

# As a file in fpath this is the body of the function; else it is sourced.
if [[ $funcstack[1] == _cdebug ]]; then
  _cdebug "$@"
else
  compdef _cdebug cdebug
fi
