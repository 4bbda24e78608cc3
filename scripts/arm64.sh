#!/usr/bin/env bash
# Builds the tests for 64-bit Arm on an x86-64 Debian and runs them there under qemu, where the kernels are those of phones
# (NEON). Compilers, Rust and qemu are Debian sid's, unpacked into a cache folder and run by chroot.
#
#     scripts/arm64.sh [THEME...]      default: golden:: ops:: block::
#     scripts/arm64.sh prepare         fetches and unpacks, unless that was done
#     scripts/arm64.sh lint            types and lints of everything, tests included
#
# Runs the library's unit tests, all of them, and those of tests/it whose names contain a theme (`none`: no theme's). Prints
# what passed by the library's modules and by theme, and at the end `N passed, N failed`. SFTMIX_ARM64_CACHE names the cache
# folder (2.4 GB). Needs root, or sudo, for chroot and its mounts, and Rust's cargo, which fetches the crates.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD
# shellcheck source=scripts/debian-root.sh
. scripts/debian-root.sh
cache=${SFTMIX_ARM64_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sftmix/arm64}
# Counts up when what is unpacked changes.
edition=1
root=$cache/sid-$edition
packages=(rustc cargo rust-clippy libstd-rust-dev:arm64 gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev:arm64
    libc6-dev gcc g++ qemu-user bash coreutils dash base-files ca-certificates)

prepare() {
    [ ! -e "$root/.whole" ] || return 0
    # What a run that was killed has left goes; the mark is made last.
    as_root rm -rf "$root" && mkdir -p "$cache"
    fetch_packages "$cache/apt" sid "amd64 arm64" "${packages[@]}"
    unpack_packages "$cache/apt" "$root" '*/share/doc/*' '*/share/man/*' '*/share/locale/*'
    rm -rf "$cache/apt"
    # A maintainer script would have made it.
    ln -sfn gcc "$root/usr/bin/cc"
    touch "$root/.whole"
}

# The crates of Cargo.lock; inside there is no network.
crates() {
    local lock
    lock=$(sha256sum < Cargo.lock)
    [ "$(cat "$cache/lock" 2>/dev/null)" != "$lock" ] || return 0
    rm -f "$cache/lock"
    mkdir -p "$root/root/.cargo"
    retry cargo vendor --locked --quiet --respect-source-config --versioned-dirs "$cache/crates" > /dev/null
    printf '%s\n' '[source.crates-io]' 'replace-with = "crates"' '[source.crates]' "directory = \"$cache/crates\"" \
        > "$root/root/.cargo/config.toml"
    echo "$lock" > "$cache/lock"
}

inside() {
    local folders=("$here" "$cache/crates")
    [ ! -d ../shared ] || folders+=("$(cd ../shared && pwd)")
    in_root "$root" "${folders[@]}" -- "$@"
}

# Cargo with the root's compilers; what it builds is run by qemu. Linked statically, a test's program also runs on a board
# or a phone by itself.
arm_cargo() {
    as_root env "SFTMIX_ARM64_CACHE=$cache" unshare --mount --propagation private bash "$here/scripts/arm64.sh" --inside \
        env PATH=/usr/bin:/bin "CARGO_TARGET_DIR=$here/target/arm64" CARGO_TERM_COLOR=never CARGO_PROFILE_RELEASE_DEBUG=0 \
        CARGO_BUILD_TARGET=aarch64-unknown-linux-gnu CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64 \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc \
        RUSTFLAGS="-C target-feature=+crt-static" ${SFTMIX_REQUIRE_SHARED:+SFTMIX_REQUIRE_SHARED=1} cargo "$@"
}

# What root built is the caller's again.
as_mine() { [ "$(id -u)" = 0 ] || as_root chown -R "$(id -u):$(id -g)" target/arm64; }

# tests NAME ARGUMENT...: one program's tests, their lines kept in a file for the counts; fails if it was not run to its end.
tests() {
    local out="$here/target/arm64/$1.txt"
    shift
    arm_cargo test --offline --locked --release --no-default-features --features generate "$@" > "$out" || true
    # What failed is shown whole.
    ! grep -q '^test result: FAILED' "$out" || sed -n '/^failures:/,$p' "$out"
    grep -q '^test result: ' "$out" || { tail -n 20 "$out"; return 1; }
}

counts() {
    awk '
        /^test .* \.\.\. / {
            name = $2
            sub(/::.*/, "", name)
            if (FILENAME ~ /it.txt$/) name = "tests/it " name
            if (!(name in seen)) { seen[name] = 1; order[++n] = name }
            if ($0 ~ /\.\.\. ok$/) { passed[name]++; all++ }
            else if ($0 ~ /\.\.\. FAILED$/) { failed[name]++; bad++ }
            else left[name]++
        }
        /^skipped: / { skipped++ }
        END {
            for (i = 1; i <= n; i++) {
                name = order[i]
                printf "%-24s %4d passed, %d failed", name, passed[name], failed[name]
                if (left[name]) printf ", %d ignored", left[name]
                print ""
            }
            if (skipped) printf "%d of them skipped for want of files\n", skipped
            printf "%d passed, %d failed\n", all, bad
            exit !all || bad
        }' "$@"
}

if [ "${1:-}" = --inside ]; then
    shift
    inside "$@"
fi

[ "$(uname -sm)" = "Linux x86_64" ] || { echo "for x86-64 Linux; on Arm run cargo test" >&2; exit 2; }
mkdir -p target/arm64
case ${1:-} in
    prepare)
        prepare
        crates
        exit
        ;;
    lint)
        prepare
        crates
        arm_cargo clippy --offline --locked --all-targets -- -D warnings
        as_mine
        exit
        ;;
esac
[ $# -gt 0 ] || set -- golden:: ops:: block::
# Where the weights and rows beside the checkout are, no test may skip for want of them.
[ ! -d ../shared ] || export SFTMIX_REQUIRE_SHARED=1
step() { printf '== %s (%s s)\n' "$1" "$SECONDS"; }

step "compilers, Rust and qemu"
prepare
crates
step "unit tests"
tests lib --lib -- --show-output
files=(target/arm64/lib.txt)
if [ "$1" != none ]; then
    step "tests/it: $*"
    tests it --test it -- --show-output "$@"
    files+=(target/arm64/it.txt)
fi
as_mine
step "passed under qemu, NEON"
counts "${files[@]}"
