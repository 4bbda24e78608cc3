#!/usr/bin/env bash
# Lays out what `cargo build --features cuda` needs on a machine without a CUDA toolkit, a driver or a GPU:
# NVIDIA's compiler and headers from PyPI's wheels, and link libraries that stand in for the driver and
# cuBLAS (scripts/cuda-shims.py: the program finds the real ones when it runs, and starts without them).
#
#     scripts/cuda-toolkit.sh [DIR]      default: target/cuda-home
#     . DIR/env.sh
#     cargo build --release --features cuda
#
# Needs Linux on x86-64, gcc and g++, python3 with pip, and cargo. Run again, it goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."

# nvcc 13.0 writes code for drivers from 580 on. The architecture is the oldest that computes in bf16; what
# is compiled for it runs on every later one.
ARCH=80
PACKAGES=(
    nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.88
    nvidia-cuda-cccl==13.0.85 nvidia-curand==10.4.0.35 nvidia-cuda-nvrtc==13.0.88
)

HOME_DIR="$(mkdir -p "${1:-target/cuda-home}" && cd "${1:-target/cuda-home}" && pwd)"
PARTS="$HOME_DIR/.parts"

retry() {
    local i
    for i in 1 2 3 4 5; do
        "$@" && return 0
        echo "attempt $i failed: $*" >&2
        sleep $((i * 5))
    done
    return 1
}

say() { printf '%4d s  %s\n' "$SECONDS" "$1"; }

if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "the wheels and the link libraries are for Linux on x86-64; this is $(uname -sm)" >&2
    exit 1
fi
for tool in gcc g++ python3 cargo; do
    command -v "$tool" >/dev/null || { echo "$tool is missing" >&2; exit 1; }
done

stamp="$PARTS/unpacked-$(printf '%s ' "${PACKAGES[@]}" | cksum | cut -d' ' -f1)"
if [ ! -e "$stamp" ]; then
    say "downloading ${#PACKAGES[@]} wheels"
    mkdir -p "$PARTS/wheels"
    retry python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        -d "$PARTS/wheels" "${PACKAGES[@]}"
    say "unpacking"
    rm -rf "$PARTS/unpacked"
    for wheel in "$PARTS"/wheels/*.whl; do
        python3 -m zipfile -e "$wheel" "$PARTS/unpacked"
    done
    cp -a "$PARTS/unpacked/nvidia/cu13/." "$HOME_DIR/"
    # zipfile drops the mode bits.
    chmod +x "$HOME_DIR"/bin/* "$HOME_DIR"/nvvm/bin/*
    ln -sfn lib "$HOME_DIR/lib64"
    rm -rf "$PARTS/unpacked" "$PARTS/wheels"
    touch "$stamp"
fi

say "link libraries"
# cudarc's sources name the functions that must be there; cargo knows where they are.
retry cargo fetch --quiet --locked
CUDARC="$(cargo metadata --locked --format-version 1 --features cuda | python3 -c '
import json, os, sys
paths = [p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "cudarc"]
print(os.path.dirname(paths[0]))')"
python3 scripts/cuda-shims.py "$CUDARC" "$HOME_DIR/lib" "$HOME_DIR/lib/shims"

cat >"$HOME_DIR/env.sh" <<END
# Made by scripts/cuda-toolkit.sh; to be read by a shell: . env.sh
export CUDA_HOME="$HOME_DIR" CUDA_PATH="$HOME_DIR" CUDA_COMPUTE_CAP=$ARCH
export PATH="$HOME_DIR/bin:\$PATH"
# The linker takes the stand-ins from here; nothing of this is needed to run the program.
export LIBRARY_PATH="$HOME_DIR/lib/shims\${LIBRARY_PATH:+:\$LIBRARY_PATH}"
END

say "trying the compiler"
# shellcheck disable=SC1091
. "$HOME_DIR/env.sh"
echo '__global__ void twice(float *x) { x[threadIdx.x] *= 2.0f; }' >"$PARTS/twice.cu"
nvcc -ptx "-arch=compute_$ARCH" -o "$PARTS/twice.ptx" "$PARTS/twice.cu"
grep -q '^.visible .entry' "$PARTS/twice.ptx"

say "done: $(nvcc --version | sed -n 's/.*release \([0-9.]*\).*/nvcc \1/p'), $(du -sm "$HOME_DIR" | cut -f1) MB in $HOME_DIR"
echo
echo "    . $HOME_DIR/env.sh"
echo "    cargo build --release --features cuda"
