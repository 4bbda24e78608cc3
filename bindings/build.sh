#!/usr/bin/env bash
# Makes the packages of every language, or of those that are named, and prints their sizes: bindings/build.sh [c|python|swift|kotlin|all]
set -euo pipefail
cd "$(dirname "$0")"
languages=${*:-all}
[ "$languages" != all ] || languages="c python swift kotlin"
for language in $languages; do
    printf '\n== %s\n' "$language"
    "$language"/build.sh
done
