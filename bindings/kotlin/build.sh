#!/usr/bin/env bash
# Builds the jar, with the native library inside, and a jar of sources into a Maven repository, target/kotlin/repository, and
# prints their sizes: bindings/kotlin/build.sh [NATIVES]
#   NATIVES  a folder with libraries that were built elsewhere, by JNA's names of platforms: linux-aarch64/libsftmix_ffi.so,
#            darwin-aarch64/libsftmix_ffi.dylib, win32-x86-64/sftmix_ffi.dll
# SFTMIX_PREBUILT names a folder from which libsftmix_ffi.so and uniffi-bindgen are taken, in place of cargo's.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
natives=${1:+$(cd "$1" && pwd)}
made="$target/kotlin"
. ./maven.sh

if [ -n "${SFTMIX_PREBUILT:-}" ]; then
    library="$SFTMIX_PREBUILT/libsftmix_ffi.so" bindgen="$SFTMIX_PREBUILT/uniffi-bindgen"
else
    (cd "$root" && cargo build --release --locked -p sftmix-ffi && CARGO_PROFILE_DEV_DEBUG=0 cargo build --locked -p sftmix-bindgen)
    library="$target/release/libsftmix_ffi.so" bindgen="$target/debug/uniffi-bindgen"
fi

rm -rf "$made/natives"
./generate.sh "$bindgen" "$library" uniffi.toml "$made/generated"

# Where JNA looks for it in a jar.
platform=linux-$(uname -m | sed 's/x86_64/x86-64/')
mkdir -p "$made/natives/$platform"
strip --strip-unneeded -o "$made/natives/$platform/libsftmix_ffi.so" "$library"
if [ -n "$natives" ]; then
    for name in linux-x86-64/libsftmix_ffi.so linux-aarch64/libsftmix_ffi.so darwin-aarch64/libsftmix_ffi.dylib \
        darwin-x86-64/libsftmix_ffi.dylib win32-x86-64/sftmix_ffi.dll; do
        [ ! -f "$natives/$name" ] || install -D -m 644 "$natives/$name" "$made/natives/$name"
    done
fi

rm -rf "$made/build" "$made/repository"
maven deploy -Dsftmix.made="$made" -DaltDeploymentRepository="local::default::file://$made/repository"
# Maven keeps what it has taken from a repository: the next project to ask gets this jar, not one of an earlier build.
rm -rf "$(local_repository)/org/sftmix/sftmix"
find "$made/repository" -name '*.jar' -exec ls -l {} + | awk '{ n = split($9, p, "/"); printf "%8.2f MB  %s\n", $5 / 1e6, p[n] }'
