#!/usr/bin/env bash
# Builds the CUDA program and its tests, and lays out beside them what scripts/gpu-check.sh needs, so that a
# machine with a GPU needs no compiler, no network and no checkout.
#
#     scripts/cuda-toolkit.sh && . target/cuda-home/env.sh
#     scripts/gpu-pack.sh [FOLDER [FEATURES]]     default: target/gpu-pack cuda; FEATURES "" packs for the CPU
#
# Leaves the folder and, to be carried, FOLDER.tar.gz. On the other machine:
#
#     tar xzf gpu-pack.tar.gz && gpu-pack/gpu-check.sh
set -euo pipefail
cd "$(dirname "$0")/.."
PACK="${1:-target/gpu-pack}"
FEATURES="${2-cuda}"
LIMIT_MB=60

cargo build --release --locked --features "$FEATURES" --bin sftmix
tests="$(cargo test --release --locked --features "$FEATURES" --test it --no-run --message-format=json |
    python3 -c '
import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if m.get("reason") == "compiler-artifact" and m.get("executable") and m["target"]["name"] == "it":
        print(m["executable"])' | tail -1)"

rm -rf "$PACK"
mkdir -p "$PACK/project/tests" "$PACK/project/assets" "$PACK/shared/models"
cp -a "$(dirname "$(dirname "$tests")")/sftmix" "$PACK/sftmix"
cp -a "$tests" "$PACK/tests"
# Line tables are for crashes; they are two thirds of the size.
strip "$PACK/sftmix" "$PACK/tests"
cp -a tests/golden "$PACK/project/tests/"
cp -a assets/demo "$PACK/project/assets/"
if [ -d ../shared/models/stories260K ]; then
    cp -aL ../shared/models/stories260K "$PACK/shared/models/"
else
    echo "../shared/models/stories260K is absent: its tests will be skipped" >&2
fi
cp -a scripts/gpu-check.sh scripts/gpu-peft.py "$PACK/"

tar -C "$(dirname "$PACK")" -czf "$PACK.tar.gz" "$(basename "$PACK")"
size="$(du -sm "$PACK.tar.gz" | cut -f1)"
echo "$PACK: $(du -sm "$PACK" | cut -f1) MB; $PACK.tar.gz: $size MB"
[ "$size" -le "$LIMIT_MB" ] || { echo "more than $LIMIT_MB MB to carry" >&2; exit 1; }
