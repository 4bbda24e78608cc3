# Sourced by build.sh and test.sh. Maven asks the network for nothing that it has; what it lacks is tried again where a
# download failed, and only there. -U: one that failed counts as lacking at once, not a day later.
maven() {
    local log i
    log=$(mktemp)
    for i in 1 2 3 4 5; do
        if mvn -q -B -U "$@" 2>&1 | sed 's/\x1b\[[0-9;]*m//g' >"$log"; then
            cat "$log" && rm -f "$log"
            return 0
        fi
        grep -qE 'Could not transfer (artifact|metadata)' "$log" || break
        echo "attempt $i failed: mvn $*" >&2
        sleep $((i * 5))
    done
    cat "$log" >&2
    rm -f "$log"
    return 1
}

# Where Maven keeps what it has taken from repositories.
local_repository() {
    local told
    told=$(sed -n 's:.*<localRepository>\(.*\)</localRepository>.*:\1:p' "$HOME/.m2/settings.xml" 2>/dev/null | head -n 1)
    echo "${told:-$HOME/.m2/repository}"
}
