#!/usr/bin/env bash
# Builds the Swift package and tests it as a user has it: a package in a fresh folder that depends on it by path, where the
# library's own build is not to be seen; with it the example and the programs of README.md and docs/api.md. The last line, alone:
# `N passed, N failed`.
# SFTMIX_PREBUILT names a folder with libsftmix_ffi.so, sftmix and uniffi-bindgen that are taken in place of cargo's.
set -euo pipefail
cd "$(dirname "$0")"
here=$(pwd)
root=$(cd ../.. && pwd)
target=${CARGO_TARGET_DIR:-$root/target}

./build.sh
program=${SFTMIX_PREBUILT:-$target/release}/sftmix
[ -n "${SFTMIX_PREBUILT:-}" ] || (cd "$root" && cargo build --release --locked --bin sftmix)

work=$(mktemp -d)
log=$work/log
# What the toolchain's root user wrote is root's.
trap 'rm -rf "$work" 2>/dev/null || sudo rm -rf "$work"' EXIT
passed=0 failed=0
ok() { echo "ok   $1"; passed=$((passed + 1)); }
bad() { echo "FAIL $1"; failed=$((failed + 1)); }
check() { local name=$1; shift; if "$@" > "$log" 2>&1; then ok "$name"; else bad "$name"; cat "$log"; fi; }
# Without the folder that the package was built in: what was compiled there would be taken for the user's.
mkdir "$work/SFTMix"
tar -C "$target/swift/SFTMix" --exclude .build -cf - . | tar -C "$work/SFTMix" -xf -
cp -r Tests "$work/consumer"
cp -r "$root/assets/demo" "$work/demo"
cp "$program" "$work/sftmix"

# The blocks of a page are one program.
blocks() {
    mkdir -p "$work/consumer/Sources/$2"
    awk '/^```swift$/ { on = 1; next } /^```$/ { on = 0 } on' "$1" > "$work/consumer/Sources/$2/main.swift"
    [ -s "$work/consumer/Sources/$2/main.swift" ]
}
check "README.md has a program" blocks README.md readme
check "docs/api.md has a program" blocks "$root/docs/api.md" api
cp -r "$root/examples/swift/Sources/finetune" "$work/consumer/Sources/"
check "the example is short" test "$(wc -l < "$root/examples/swift/Sources/finetune/main.swift")" -le 60
check "the settings are those of the sources" "$root/scripts/schema.py"
check "xcframework.sh is a script" bash -n xcframework.sh
check "the privacy manifest is a property list" python3 -c \
    'import plistlib, sys; plistlib.load(open(sys.argv[1], "rb"))["NSPrivacyTracking"] is False or sys.exit(1)' \
    Sources/SFTMix/PrivacyInfo.xcprivacy

inside_check() {
    (cd "$work" && consumer/Apple/check.sh "$work/SFTMix" "$work/apple" "$here/toolchain.sh" run "$work" --)
}
silent() { ! grep "warning:" "$1" | sort -u; }
# The work folder is all that it sees of this machine.
inside() {
    (cd "$work/consumer" && "$here/toolchain.sh" run "$work" -- env "SFTMIX_DEMO=$work/demo" "SFTMIX_PROGRAM=$work/sftmix" \
        "SFTMIX_BIN=$work/consumer/.build/debug" "TMPDIR=$work/tmp" "$@")
}
mkdir "$work/tmp"
check "what is Apple's alone compiles against declarations of it" inside_check
if inside swift build --build-tests --disable-sandbox 2>&1 | tee "$log"; then
    ok "a package that depends on it compiles"
    check "and without a warning" silent "$log"
    status=0
    inside swift test --skip-build --disable-sandbox "$@" 2>&1 | tee "$log" || status=$?
    passed=$((passed + $(grep -cE "^Test Case .* passed \(" "$log" || true)))
    some=$(grep -cE "^Test Case .* failed \(" "$log" || true)
    # A suite that dies has one more that failed.
    [ "$status" = 0 ] || [ "$some" != 0 ] || some=1
    failed=$((failed + some))
else
    bad "a package that depends on it compiles"
fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
