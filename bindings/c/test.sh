#!/usr/bin/env bash
# Tests the C interface as a user has it: builds and installs it to a fresh prefix, compiles suite and example with the
# flags that pkg-config and CMake give, and runs them plainly, under valgrind and with AddressSanitizer. The last line,
# alone: `N passed, N failed`.
#   test.sh [plain] [valgrind] [asan]     default: all three
# CBINDGEN names cbindgen, SFTMIX the command line to compare with (default: built here).
set -uo pipefail
# A relative one is where the caller stands.
[[ -z ${CARGO_TARGET_DIR:-} || $CARGO_TARGET_DIR == /* ]] || CARGO_TARGET_DIR=$PWD/$CARGO_TARGET_DIR
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
demo=$root/assets/demo
ways=${*:-plain valgrind asan}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
prefix=$scratch/prefix
program=${SFTMIX:-$CARGO_TARGET_DIR/release/sftmix}
# Stripped; docs/decisions/0014-doors.md says what is in it.
limit=$((16 * 1024 * 1024))
passed=0 failed=0

check() {
    local name=$1
    shift
    if "$@" > "$scratch/log" 2>&1; then
        echo "ok   $name"
        passed=$((passed + 1))
    else
        echo "FAIL $name"
        cat "$scratch/log"
        failed=$((failed + 1))
    fi
}

# A suite counts its tests itself; one that dies, or ends with an error of its own, has one more that failed.
suite() {
    local name=$1 status=0 counts
    shift
    echo "== $name"
    rm -rf "$scratch/work" && mkdir "$scratch/work"
    "$@" 2>&1 | tee "$scratch/log" || status=1
    counts=$(sed -nE 's/^([0-9]+) passed, ([0-9]+) failed$/\1 \2/p' "$scratch/log" | tail -n 1)
    counts=${counts:-0 0}
    passed=$((passed + ${counts% *})) failed=$((failed + ${counts#* }))
    if ((status)) && [[ ${counts#* } == 0 ]]; then
        echo "FAIL $name"
        failed=$((failed + 1))
    fi
}

# The C of docs/api.md is one program.
documented() {
    mkdir "$scratch/documented" && (cd "$scratch/documented" && "$program" demo --write demo > /dev/null) &&
        awk '/^```c$/ { on = 1; next } /^```$/ { on = 0 } on' "$root/docs/api.md" > "$scratch/documented/api.c" &&
        gcc "${strict[@]}" "$scratch/documented/api.c" -o "$scratch/documented/api" "${flags[@]}" &&
        (cd "$scratch/documented" && ./api)
}

# Those of the README are parts of one.
parts_documented() {
    {
        printf '#include <sftmix.h>\n#include <stdbool.h>\nstatic void check(sftmix_status s) { (void)s; }\n'
        awk '/^```c$/ { on = 1; printf "void part%d(sftmix_job *job, sftmix_model *model, sftmix_event e, sftmix_train_options options)\n{\n", ++n; next }
            /^```$/ && on { on = 0; print "(void)job; (void)model; (void)e; (void)options;\n}" } on' README.md
    } > "$scratch/readme.c"
    grep -q part2 "$scratch/readme.c" && gcc "${strict[@]}" "${include[@]}" -fsyntax-only "$scratch/readme.c"
}

in_root() { (cd "$root" && "$@"); }

only_its_own() {
    local others
    others=$(nm -D --defined-only "$prefix/lib/libsftmix.so" | awk '{print $3}' | grep -v '^sftmix_')
    [[ -z $others ]] || { echo "exported beside sftmix_*: $others"; return 1; }
}

is_small() {
    local size
    size=$(wc -c < "$prefix/lib/libsftmix.so")
    ((size <= limit)) || { echo "libsftmix.so has $size bytes, more than $limit"; return 1; }
}

# A program asks for the interface that it was compiled with, and the links lead to the library.
named_by_its_interface() {
    readelf -d "$prefix/lib/libsftmix.so" | grep -q 'SONAME.*\[libsftmix.so.0\]' || { readelf -d "$prefix/lib/libsftmix.so"; return 1; }
    readelf -d "$scratch/suite" | grep -q 'NEEDED.*\[libsftmix.so.0\]' || { readelf -d "$scratch/suite"; return 1; }
    [[ $(readlink "$prefix/lib/libsftmix.so") == libsftmix.so.0 && $(readlink "$prefix/lib/libsftmix.so.0") == libsftmix.so.0.* ]]
}

every_structure_has_its_macro() {
    diff <(grep -o 'sftmix_[a-z_]*_init_sized(struct' "$prefix/include/sftmix.h" | sed 's/_sized.*//' | sort) \
        <(sed -n 's/^#define \(sftmix_[a-z_]*_init\)(.*/\1/p' "$prefix/include/sftmix.h" | sort)
}

example() {
    local say
    say=$("$@" "$demo" "$demo" "$scratch/example-$RANDOM") && [[ $say == *"stopped: "*"row "*"Tremwick shows"* ]] || { echo "$say"; return 1; }
}

with_cmake() {
    mkdir "$scratch/cmake" && cat > "$scratch/cmake/CMakeLists.txt" <<CMAKE &&
cmake_minimum_required(VERSION 3.16)
project(user C)
find_package(sftmix 0.1 REQUIRED)
add_executable(shared "$root/examples/c/finetune.c")
target_link_libraries(shared sftmix::sftmix)
add_executable(static "$root/examples/c/finetune.c")
target_link_libraries(static sftmix::static)
CMAKE
        cmake -S "$scratch/cmake" -B "$scratch/cmake/build" -DCMAKE_PREFIX_PATH="$prefix" &&
        cmake --build "$scratch/cmake/build" && example env -u LD_LIBRARY_PATH "$scratch/cmake/build/shared"
}

[[ -n ${SFTMIX:-} ]] || in_root cargo build --release --locked --quiet --bin sftmix || exit 1
check header_is_that_of_the_sources ./build.sh --check
./build.sh install "$prefix" || exit 1
check unit_tests in_root cargo test --release --locked --quiet -p sftmix-c -p sftmix-ffi
check library_is_small is_small
check library_exports_its_own_alone only_its_own

export PKG_CONFIG_PATH=$prefix/lib/pkgconfig LD_LIBRARY_PATH=$prefix/lib
strict=(-std=c11 -O1 -g -Wall -Wextra -Wpedantic -Wstrict-prototypes -Werror)
read -ra flags <<< "$(pkg-config --cflags --libs sftmix)"
read -ra private <<< "$(pkg-config --static --libs-only-l sftmix | sed 's/-lsftmix//')"
read -ra include <<< "$(pkg-config --cflags sftmix)"
static=("${include[@]}" "$prefix/lib/libsftmix.a" "${private[@]}")

check header_is_c gcc "${strict[@]}" -fsyntax-only -x c "$prefix/include/sftmix.h"
check documented_parts_compile parts_documented
check header_is_cpp g++ -Wall -Wextra -Wpedantic -Werror -fsyntax-only -x c++ "$prefix/include/sftmix.h"
check every_structure_has_its_macro every_structure_has_its_macro
check suite_compiles gcc "${strict[@]}" tests/suite.c -o "$scratch/suite" "${flags[@]}" -lpthread -lm
check library_is_named_by_its_interface named_by_its_interface
check example_is_short test "$(wc -l < "$root/examples/c/finetune.c")" -le 60

for way in $ways; do
    case $way in
        plain)
            # glibc keeps a heap for each of many threads, which fill over dozens of cycles; two fill at once.
            suite plain env MALLOC_ARENA_MAX=2 "$scratch/suite" "$demo" "$program" "$scratch/work"
            check example_compiles gcc "${strict[@]}" "$root/examples/c/finetune.c" -o "$scratch/shared" "${flags[@]}"
            check example_runs example "$scratch/shared"
            check documented_program_runs documented
            check static_links gcc "${strict[@]}" "$root/examples/c/finetune.c" -o "$scratch/static" "${static[@]}"
            check static_runs example env -u LD_LIBRARY_PATH "$scratch/static"
            check cmake_finds_it with_cmake
            ;;
        valgrind)
            # It hides AVX-512 from the kernels, which then take AVX2.
            suite valgrind valgrind --quiet --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite \
                --error-exitcode=9 --child-silent-after-fork=yes --fair-sched=yes "$scratch/suite" "$demo" "$program" "$scratch/work" short
            ;;
        asan)
            check suite_compiles_with_asan gcc "${strict[@]}" -fsanitize=address -fno-omit-frame-pointer tests/suite.c \
                -o "$scratch/suite-asan" "${flags[@]}" -lpthread -lm
            suite asan env ASAN_OPTIONS=detect_leaks=1:exitcode=9 "$scratch/suite-asan" "$demo" "$program" "$scratch/work" checked
            ;;
        *) echo "unknown: $way" >&2; exit 2 ;;
    esac
done
echo "$passed passed, $failed failed"
((failed == 0))
