#!/usr/bin/env bash
# Builds the AAR into target/android/repository and checks the pages of every library in it and in JNA's. It needs what is
# not on a bare Debian: an Android SDK (ANDROID_HOME) and NDK (ANDROID_NDK_HOME), Gradle, cargo-ndk, and Rust's targets
# aarch64-linux-android and x86_64-linux-android.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../../.. && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
made="$target/android"
: "${ANDROID_HOME:?names no Android SDK}" "${ANDROID_NDK_HOME:?names no NDK}"

rm -rf "$made" && mkdir -p "$made/jniLibs"
# 64 bit alone: a model that is worth training does not fit beside an app in a 32-bit process.
(cd "$root" && RUSTFLAGS="${RUSTFLAGS:-} -C link-arg=-Wl,-z,max-page-size=16384" \
    cargo ndk --platform 26 -t arm64-v8a -t x86_64 -o "$made/jniLibs" build --release --locked -p sftmix-ffi)
(cd "$root" && CARGO_PROFILE_DEV_DEBUG=0 cargo build --locked -p sftmix-bindgen)
# Before the libraries are stripped: what the generator reads is in their symbols.
../generate.sh "$target/debug/uniffi-bindgen" "$made/jniLibs/arm64-v8a/libsftmix_ffi.so" uniffi.toml "$made/generated"
for library in "$made"/jniLibs/*/*.so; do
    "$ANDROID_NDK_HOME"/toolchains/llvm/prebuilt/*/bin/llvm-strip --strip-unneeded "$library"
done

gradle --no-daemon -Psftmix.made="$made" assembleRelease publishReleasePublicationToBuiltRepository
find "$made/repository" -name '*.aar' -exec ./check-pages.sh {} +
# JNA's libraries go into the app beside ours.
find "${GRADLE_USER_HOME:-$HOME/.gradle}/caches" -name 'jna-*.aar' -exec ./check-pages.sh {} +
find "$made/repository" -name '*.aar' -exec ls -l {} +
