#!/usr/bin/env bash
# Runs the kernels' unit tests, the goldens and the blocks on every level of instructions that this x86-64 processor has, below the
# one that all other tests run on.      scripts/levels.sh [THEME...]      default: of tests/it golden:: ops:: block::
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "levels are told apart on x86-64 Linux alone" && exit 0; }
has() { grep -qw "$1" /proc/cpuinfo; }
themes=("$@")
[ $# -gt 0 ] || themes=(golden:: ops:: block::)
levels=()
if has avx2 && has fma; then levels+=(base); fi
if has avx512f; then levels+=(avx2); fi
if has avx512f && has avx512_vnni; then levels+=(avx512); fi
if has amx_bf16; then levels+=(avx512-vnni); fi
for level in "${levels[@]}"; do
    printf '\n== %s\n' "$level"
    SFTMIX_TEST_SIMD=$level cargo test --release --locked --lib --quiet -- kernels:: ops::
    SFTMIX_TEST_SIMD=$level cargo test --release --locked --test it --quiet -- "${themes[@]}"
done
