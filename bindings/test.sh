#!/usr/bin/env bash
# Tests what is shipped in every language, or in those that are named: bindings/test.sh [c|python|swift|kotlin|all]. Installs what it
# needs on a fresh Debian 12. The last line, alone: `N passed, N failed`.
set -euo pipefail
cd "$(dirname "$0")/.."
languages=${*:-all}
[ "$languages" != all ] || languages="c python swift kotlin"
retry() { for i in 1 2 3 4 5; do "$@" && return 0; echo "attempt $i failed: $*" >&2; sleep $((i * 10)); done; return 1; }

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
# Debian's packages, where one of the programs is not there.
need() {
    local programs=$1 packages=$2 program
    for program in $programs; do
        command -v "$program" >/dev/null && continue
        retry as_root apt-get update -qq
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive retry as_root apt-get install -y -qq --no-install-recommends $packages >/dev/null
        return
    done
}

passed=0 failed=0
for language in $languages; do
    case $language in
        c) need "gcc g++ valgrind pkg-config cmake make" "gcc g++ valgrind pkg-config cmake make libc6-dbg" ;;
        python) need "python3 strip" "python3 python3-venv python3-pip binutils"
            python3 -c 'import venv, ensurepip' 2>/dev/null || need "python3-venv-is-absent" "python3-venv" ;;
        kotlin) need "javac mvn strip gcc" "openjdk-17-jdk-headless maven binutils gcc libc6-dev" ;;
        # The compiler itself comes with bindings/swift/toolchain.sh.
        swift) need "strip unshare chroot dpkg-deb python3" "binutils util-linux coreutils dpkg python3" ;;
        *) echo "no such language: $language; there are c, python, swift, kotlin, all" >&2 && exit 2 ;;
    esac
    log=$(mktemp)
    printf '\n== %s\n' "$language"
    bindings/"$language"/test.sh 2>&1 | tee "$log" || true
    counts=$(tail -n 1 "$log" | sed -nE 's/^([0-9]+) passed, ([0-9]+) failed$/\1 \2/p')
    rm -f "$log"
    counts=${counts:-0 1}
    passed=$((passed + ${counts% *})) failed=$((failed + ${counts#* }))
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
