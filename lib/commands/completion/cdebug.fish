# Completion of cdebug's command lines in fish: cdebug itself is asked what may follow.

function __cdebug_complete
    set -l words (commandline -opc)
    set -l typed (commandline -ct)
    set -g __cdebug_candidates (cdebug __complete $words[2..-1] "$typed" 2>/dev/null)
    # Where this fails, fish completes file names, as it does by default.
    test "$__cdebug_candidates[1]" != :files
end

complete -c cdebug -e
complete -c cdebug -n __cdebug_complete -f -a '$__cdebug_candidates'
