#!/usr/bin/env bash
# Says of every library in AARs, jars, APKs or folders whether Android devices with pages of 16 kB load it: each LOAD segment
# must be aligned to 16384 or more. 32-bit libraries are left out, since those devices run none.
#   check-pages.sh FILE_OR_FOLDER...     fails where a library is not aligned, or there is none
#   check-pages.sh --self-test           makes one library of each kind and looks at both; needs gcc
set -euo pipefail

aligned() { # library
    local class alignments
    class=$(readelf -h "$1" 2>/dev/null | awk '$1 == "Class:" { print $2 }')
    [ -n "$class" ] || { echo "no library: $1" && return 1; }
    [ "$class" = ELF64 ] || { echo "32 bit, left out: $1" && return 0; }
    alignments=$(readelf -lW "$1" | awk '$1 == "LOAD" { print $NF }')
    [ -n "$alignments" ] || { echo "no LOAD segment: $1" && return 1; }
    for a in $alignments; do
        [ $((a)) -ge 16384 ] || { echo "aligned to $a: $1" && return 1; }
    done
    echo "16 kB: $1"
}

check() { # file or folder
    local folder=$1 unpacked='' found=0 bad=0 library
    if [ -f "$1" ] && [[ "$1" != *.so ]]; then
        unpacked=$(mktemp -d) folder=$unpacked
        unzip -q "$1" -d "$unpacked"
    fi
    while IFS= read -r -d '' library; do
        found=1
        aligned "$library" || bad=1
    done < <(find "$folder" -name '*.so' -print0)
    [ -z "$unpacked" ] || rm -rf "$unpacked"
    [ "$found" = 1 ] || { echo "no library in $1" && return 1; }
    return "$bad"
}

self_test() {
    local work
    work=$(mktemp -d)
    mkdir "$work"/{good,bad}
    echo 'int f(void) { return 1; }' >"$work/f.c"
    gcc -shared -fPIC -Wl,-z,max-page-size=16384 -o "$work/good/libf.so" "$work/f.c"
    gcc -shared -fPIC -Wl,-z,max-page-size=4096 -o "$work/bad/libf.so" "$work/f.c"
    local failed=0
    check "$work/good" || failed=1
    ! check "$work/bad" || failed=1
    ! check "$work/f.c" 2>/dev/null || failed=1
    rm -rf "$work"
    [ "$failed" = 0 ] && echo "self-test: good" || { echo "self-test: failed" && return 1; }
}

[ $# -gt 0 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2 && exit 2; }
[ "$1" != --self-test ] || { self_test && exit 0 || exit 1; }
status=0
for given in "$@"; do check "$given" || status=1; done
exit "$status"
