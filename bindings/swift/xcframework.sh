#!/usr/bin/env bash
# On a Mac: makes the Swift package in target/swift/SFTMix with an XCFramework of static libraries for macOS (arm64, x86_64), iOS
# and its simulator (arm64, x86_64), and prints the checksum that a release's Package.swift names. Needs Xcode and rustup.
#   xcframework.sh [--no-x86]      leaves the libraries of Intel Macs out
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
mkdir -p "$target/swift"
target=$(cd "$target" && pwd)
package=$target/swift/SFTMix
export CARGO_TARGET_DIR=$target
# Those of Package.swift: objects of the C and C++ in it are built for them as well.
export MACOSX_DEPLOYMENT_TARGET=13.0 IPHONEOS_DEPLOYMENT_TARGET=16.0

[ "$(uname -s)" = Darwin ] || { echo "an XCFramework is made on a Mac; on Linux build.sh makes what stands for it" >&2; exit 2; }
macos=(aarch64-apple-darwin x86_64-apple-darwin)
simulator=(aarch64-apple-ios-sim x86_64-apple-ios)
if [ "${1:-}" = --no-x86 ]; then
    macos=(aarch64-apple-darwin) simulator=(aarch64-apple-ios-sim)
fi

cd "$root"
rustup target add "${macos[@]}" "${simulator[@]}" aarch64-apple-ios
for triple in "${macos[@]}" "${simulator[@]}" aarch64-apple-ios; do
    cargo build --release --locked -p sftmix-ffi --target "$triple"
done
CARGO_PROFILE_DEV_DEBUG=0 cargo build --locked -p sftmix-bindgen

work=$target/swift/xcframework
rm -rf "$work" "$package"
mkdir -p "$work"/{headers,macos,simulator,ios,generated} "$package/Sources/SFTMixFFI"
# What the generator reads is in the dynamic library of any of them.
"$target/debug/uniffi-bindgen" generate --no-format --language swift --out-dir "$work/generated" \
    "$target/${macos[0]}/release/libsftmix_ffi.dylib"
cp "$work/generated/SFTMixCore.h" "$work/headers/"
# Xcode looks for a map of this name beside the headers.
cat > "$work/headers/module.modulemap" <<'MAP'
module SFTMixCore {
    header "SFTMixCore.h"
    export *
}
MAP

# The libraries of one platform in one file, without the symbols of debuggers.
together() {
    local out=$1 files=() triple
    shift
    for triple in "$@"; do files+=("$target/$triple/release/libsftmix_ffi.a"); done
    lipo -create "${files[@]}" -output "$out"
    strip -S "$out"
}
together "$work/macos/libsftmix_ffi.a" "${macos[@]}"
together "$work/simulator/libsftmix_ffi.a" "${simulator[@]}"
together "$work/ios/libsftmix_ffi.a" aarch64-apple-ios

cp -r bindings/swift/{Package.swift,README.md} "$package/"
cp -r bindings/swift/Sources/SFTMix "$package/Sources/"
cp "$work/generated/SFTMixFFI.swift" "$package/Sources/SFTMixFFI/"
xcodebuild -create-xcframework \
    -library "$work/macos/libsftmix_ffi.a" -headers "$work/headers" \
    -library "$work/simulator/libsftmix_ffi.a" -headers "$work/headers" \
    -library "$work/ios/libsftmix_ffi.a" -headers "$work/headers" \
    -output "$package/SFTMixCore.xcframework"
rm -rf "$work"

swift build --package-path "$package" --configuration release
(cd "$package" && zip -qry "$target/swift/SFTMixCore.xcframework.zip" SFTMixCore.xcframework)
swift package --package-path "$package" compute-checksum "$target/swift/SFTMixCore.xcframework.zip"
du -sh "$package/SFTMixCore.xcframework" "$target/swift/SFTMixCore.xcframework.zip"
