#!/usr/bin/env bash
# Makes the Swift package in target/swift/SFTMix: hand-written and generated sources and, on Linux, the library with its header
# and module map where elsewhere the XCFramework is (xcframework.sh). Compiles it and prints sizes.
# SFTMIX_PREBUILT names a folder with libsftmix_ffi.so and uniffi-bindgen that are taken in place of cargo's.
set -euo pipefail
cd "$(dirname "$0")"
here=$(pwd)
root=$(cd ../.. && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
mkdir -p "$target/swift"
target=$(cd "$target" && pwd)
package=$target/swift/SFTMix

[ "$(uname -s)" = Linux ] || { echo "on $(uname -s) use xcframework.sh" >&2; exit 2; }
if [ -n "${SFTMIX_PREBUILT:-}" ]; then
    library=$SFTMIX_PREBUILT/libsftmix_ffi.so generator=$SFTMIX_PREBUILT/uniffi-bindgen
else
    export CARGO_TARGET_DIR=$target
    (cd "$root" && CARGO_PROFILE_DEV_DEBUG=0 cargo build --locked -p sftmix-bindgen && cargo build --release --locked -p sftmix-ffi)
    library=$target/release/libsftmix_ffi.so generator=$target/debug/uniffi-bindgen
fi
./toolchain.sh prepare >/dev/null

# Put together anew beside the package, which gets what differs: what was compiled and is as it was stays.
generated=$target/swift/generated fresh=$target/swift/fresh
rm -rf "$generated" "$fresh"
mkdir -p "$fresh"/{Sources/SFTMixFFI,SFTMixCore.artefact/{lib,include}}
(cd "$root" && "$generator" generate --no-format --language swift --out-dir "$generated" "$library")
cp -r Package.swift README.md "$fresh/"
cp -r Sources/SFTMix "$fresh/Sources/"
cp "$generated/SFTMixFFI.swift" "$fresh/Sources/SFTMixFFI/"
artefact=$fresh/SFTMixCore.artefact
cp "$generated/SFTMixCore.h" "$artefact/include/"
# The generated map uses modules of Apple's alone.
cat > "$artefact/module.modulemap" <<'MAP'
module SFTMixCore [system] {
    header "include/SFTMixCore.h"
    link "sftmix_ffi"
    export *
}
MAP
# What the generator has read is in the symbols.
strip --strip-unneeded -o "$artefact/lib/libsftmix_ffi.so" "$library"

(cd "$fresh" && find . -type f) | while read -r file; do
    mkdir -p "$package/$(dirname "$file")"
    cmp -s "$fresh/$file" "$package/$file" || cp "$fresh/$file" "$package/$file"
done
(cd "$package" && find . -path ./.build -prune -o -type f -print) | while read -r file; do
    [ -e "$fresh/$file" ] || rm "$package/$file"
done
rm -rf "$generated" "$fresh"

cd "$target"
"$here/toolchain.sh" run "$target" -- swift build --package-path "$package" --configuration release --disable-sandbox
size() { printf '%8.2f MB  %s\n' "$(du -sb "$1" | awk '{ print $1 / 1e6 }')" "${1#"$target/"}"; }
artefact=$package/SFTMixCore.artefact
size "$artefact/lib/libsftmix_ffi.so"
size "$artefact/include/SFTMixCore.h"
for module in "$package"/Sources/*; do size "$module"; done
