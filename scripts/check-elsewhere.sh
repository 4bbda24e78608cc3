#!/usr/bin/env bash
# Checks, on any machine, the code that is built on others: types and lints of everything, tests included, as
# `cargo clippy` sees them.
#
#     scripts/check-elsewhere.sh [cuda|metal|windows|arm ...]      default: all
#
# cuda: the feature, on this machine, with a stand-in for nvcc that gives candle's build scripts empty kernels.
# metal: the feature, for Apple's processors. windows, arm: the default features for those targets.
# The last line says what was left out because rustup has no library for it here; for Arm, `scripts/arm64.sh lint` takes
# Debian's. Nothing is compiled to machine code, linked or run: for CUDA see scripts/cuda-toolkit.sh and scripts/gpu-check.sh,
# for Arm scripts/arm64.sh, for the rest .github/workflows/ci.yml.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}/elsewhere"

cuda() {
    local home="$CARGO_TARGET_DIR/stand-in"
    mkdir -p "$home/bin" "$home/include" "$home/lib64"
    cat >"$home/bin/nvcc" <<'END'
#!/bin/sh
# Answers what build scripts ask of nvcc: its version, and the file that -o names.
previous=
for argument in "$@"; do
    # Build scripts read the fourth line.
    [ "$argument" = --version ] && printf '\n\n\nCuda compilation tools, release 13.0, V13.0.0\n' && exit 0
    [ "$previous" = -o ] && : >"$argument"
    [ "$previous" = --output-directory ] && output="$argument"
    previous="$argument"
done
case "$previous" in
*.cu) [ -n "${output:-}" ] && : >"$output/$(basename "${previous%.cu}").ptx" ;;
esac
exit 0
END
    chmod +x "$home/bin/nvcc"
    PATH="$home/bin:$PATH" CUDA_HOME="$home" CUDA_PATH="$home" CUDA_COMPUTE_CAP=80 \
        cargo clippy --locked --features cuda --all-targets -- -D warnings
}

# C compilers for those targets are seldom here. The crate ring has its C and assembly built by whatever these name, and
# nothing is linked.
stand_in_cc() {
    local bin="$CARGO_TARGET_DIR/stand-in/cc"
    mkdir -p "$bin"
    cat >"$bin/cc" <<'END'
#!/bin/sh
# Makes the file that -o, -Fo, -OUT: or an archiver's first name says, empty.
previous=
for argument in "$@"; do
    case "$argument" in
    -Fo?*) : >"${argument#-Fo}" ;;
    -[oO][uU][tT]:?*) : >"${argument#????:}" ;;
    *.a | *.lib) : >"$argument" ;;
    esac
    [ "$previous" = -o ] && : >"$argument"
    previous="$argument"
done
exit 0
END
    chmod +x "$bin/cc"
    local under="${1//-/_}"
    export "CC_$under=$bin/cc" "AR_$under=$bin/cc" SDKROOT="$CARGO_TARGET_DIR/stand-in"
}

# Not the code's fault: a machine may have Rust from elsewhere. Debian has Rust's library for Arm, of another release.
without_rustup() {
    local instead=
    [ "$1" != aarch64-unknown-linux-gnu ] || instead='; scripts/arm64.sh lint takes Debian'"'"'s'
    echo "NOT CHECKED: Rust's library for $1 cannot be had here$instead"
    left_out+=("$1")
}

target() {
    local i
    for i in 1 2 3; do
        rustup target add "$1" && break
        [ "$i" = 3 ] && { without_rustup "$1"; return; }
        sleep $((i * 10))
    done
    stand_in_cc "$1"
    cargo clippy --locked --target "$1" "${@:2}" --all-targets -- -D warnings
}

left_out=()
[ $# -gt 0 ] || set -- cuda metal windows arm
for what in "$@"; do
    printf '== %s (%s s)\n' "$what" "$SECONDS"
    case "$what" in
        cuda) cuda ;;
        metal) target aarch64-apple-darwin --features metal ;;
        windows) target x86_64-pc-windows-msvc ;;
        arm) target aarch64-unknown-linux-gnu ;;
        *) echo "expected cuda, metal, windows or arm, found $what" >&2; exit 2 ;;
    esac
done
[ ${#left_out[@]} = 0 ] || echo "left out, for want of Rust's library: ${left_out[*]}"
