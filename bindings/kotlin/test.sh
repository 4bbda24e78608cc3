#!/usr/bin/env bash
# Builds the jar and tests it from a project of its own, away from the checkout, as a user has it. The last line, alone:
# `N passed, N failed`. SFTMIX_PREBUILT names a folder with libsftmix_ffi.so, uniffi-bindgen and sftmix, in place of cargo's.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
. ./maven.sh

./build.sh
if [ -n "${SFTMIX_PREBUILT:-}" ]; then
    program="$SFTMIX_PREBUILT/sftmix"
else
    (cd "$root" && cargo build --release --locked --bin sftmix)
    program="$target/release/sftmix"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r tests/. "$work"
tests="$work/src/test/kotlin"
cp android/src/main/kotlin/org/sftmix/android/SlicePolicy.kt "$tests"

# The Kotlin of a page: a block with a main function is a program, the others are one program together.
blocks() { awk -v whole="$2" '
    /^```kotlin$/ { inside = 1; text = ""; next }
    /^```$/ && inside { inside = 0; if ((text ~ /fun main/) == whole) printf "%s", text; next }
    inside { text = text $0 "\n" }' "$1"; }
# Each is in a package of its own: a project has one main function a package.
packaged() { echo "package $(basename "$1" .kt | tr '[:upper:]' '[:lower:]')" && cat; }
together() {
    blocks "$1" 0 >"$work/blocks"
    grep '^import ' "$work/blocks"
    echo "suspend fun main() {"
    grep -v '^import ' "$work/blocks"
    echo "}"
}
packaged Finetune.kt <"$root/examples/kotlin/Finetune.kt" >"$tests/Finetune.kt"
blocks README.md 1 | packaged ReadmeProgram.kt >"$tests/ReadmeProgram.kt"
together README.md | packaged ReadmeBlocks.kt >"$tests/ReadmeBlocks.kt"
together "$root/docs/api.md" | packaged ApiBlocks.kt >"$tests/ApiBlocks.kt"

told=(-Dsftmix.repository="file://$target/kotlin/repository" -Dsftmix.root="$root" -Dsftmix.program="$program"
    -Dsftmix.sources="$(echo "$target"/kotlin/repository/org/sftmix/sftmix/*/*-sources.jar)")
(cd "$work" && maven "${told[@]}" test-compile) || { echo "0 passed, 1 failed" && exit 1; }
(cd "$work" && maven "${told[@]}" ${SFTMIX_TEST:+"-Dtest=$SFTMIX_TEST"} test 2>&1) || true
{ cat "$work"/target/surefire-reports/TEST-*.xml 2>/dev/null || true; } | awk -v RS='<' '
    /^testsuite / { for (i = 1; i <= NF; i++) if (match($i, /^(tests|failures|errors|skipped)="[0-9]+"/)) {
        split($i, part, "\""); count[substr($i, 1, index($i, "=") - 1)] += part[2] } }
    END { bad = count["failures"] + count["errors"]; if (!count["tests"]) bad++
        print count["tests"] - count["failures"] - count["errors"] - count["skipped"] " passed, " bad " failed"; exit bad > 0 }
'
