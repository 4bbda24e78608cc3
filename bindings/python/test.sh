#!/usr/bin/env bash
# Builds the wheel and tests it in fresh environments, away from the source tree: by the oldest (3.10) and the newest Python
# that are at hand, pyenv's too, and by $PYTHON where it is set. The last line, alone: `N passed, N failed`.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$(pwd)
target=${CARGO_TARGET_DIR:-$root/target}
retry() { for i in 1 2 3 4 5; do "$@" && return 0; echo "attempt $i failed: $*" >&2; sleep $((i * 5)); done; return 1; }

bindings/python/build.sh
cargo build --release --locked --bin sftmix
passed=0 failed=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r bindings/python/tests "$work/tests"
seen=
hand=$(ls "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[0-9]*/bin/python3 2>/dev/null | sort -V || true)
version_of() { "$1" -c 'import sys; v = sys.version_info; print(*v[:2], sep=".") if v >= (3, 10) else exit(1)' 2>/dev/null; }
found=$(for python in python3 python3.{10..14} $hand; do
    if version=$(version_of "$python"); then echo "$version $python"; fi
done | sort -V)
for python in ${PYTHON:-} "$(sed -n '1s/.* //p' <<<"$found")" "$(sed -n '$s/.* //p' <<<"$found")"; do
    version=$(version_of "$python") || continue
    case " $seen " in *" $version "*) continue ;; esac
    # The memory of the library is the same under each.
    [ -z "$seen" ] && all=() || all=(-k "not two_hundred_cycles")
    seen="$seen $version"
    "$python" -m venv "$work/venv-$version"
    retry "$work/venv-$version/bin/pip" install --quiet pytest
    "$work/venv-$version/bin/pip" install --quiet --no-index "$target"/dist/sftmix-*.whl
    echo "python $version"
    (cd "$work" && SFTMIX_ROOT=$root SFTMIX_PROGRAM=$target/release/sftmix "venv-$version/bin/python" -m pytest -q \
        -p no:cacheprovider --junitxml="$work/$version.xml" ${all[@]+"${all[@]}"} tests) || true
    counts=$("$python" - "$work/$version.xml" <<'P'
import sys, xml.etree.ElementTree as E
try:
    s = E.parse(sys.argv[1]).getroot().find("testsuite").attrib
    bad = int(s["failures"]) + int(s["errors"])
    print(int(s["tests"]) - bad - int(s["skipped"]), bad)
except Exception:
    print(0, 1)
P
)
    passed=$((passed + ${counts% *})) failed=$((failed + ${counts#* }))
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
