#!/usr/bin/env bash
# Tests the C interface as a user has it: builds and installs it to a fresh prefix, compiles suite and example with the
# flags that pkg-config and CMake give, and runs them plainly, under valgrind and with AddressSanitizer.
#   test.sh [plain] [valgrind] [asan]     default: all three, of what is there
# CBINDGEN names cbindgen, SFTMIX the command line to compare with (default: built here).
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
demo=$root/assets/demo
ways=${*:-plain valgrind asan}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
prefix=$scratch/prefix
program=${SFTMIX:-$root/target/release/sftmix}
[[ -n ${SFTMIX:-} ]] || (cd "$root" && cargo build --release --locked --bin sftmix)

./build.sh --check
./build.sh install "$prefix"
cargo test --release --locked -p sftmix-c

size=$(wc -c < "$prefix/lib/libsftmix.so")
limit=$((12 * 1024 * 1024))
((size <= limit)) || { echo "libsftmix.so has $size bytes, more than $limit" >&2; exit 1; }
symbols=$(nm -D --defined-only "$prefix/lib/libsftmix.so" | awk '{print $3}' | grep -v '^sftmix_' || true)
[[ -z $symbols ]] || { echo "exported beside sftmix_*: $symbols" >&2; exit 1; }

export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
strict=(-std=c11 -O1 -g -Wall -Wextra -Wpedantic -Wstrict-prototypes -Werror)
read -ra flags <<< "$(pkg-config --cflags --libs sftmix)"
read -ra static <<< "$(pkg-config --cflags sftmix) $prefix/lib/libsftmix.a $(pkg-config --static --libs-only-l sftmix | sed 's/-lsftmix//')"
export LD_LIBRARY_PATH=$prefix/lib

gcc -std=c11 -Wall -Wextra -Wpedantic -Wstrict-prototypes -Werror -fsyntax-only -x c "$prefix/include/sftmix.h"
g++ -Wall -Wextra -Wpedantic -Werror -fsyntax-only -x c++ "$prefix/include/sftmix.h"
gcc "${strict[@]}" tests/suite.c -o "$scratch/suite" "${flags[@]}" -lpthread -lm
gcc "${strict[@]}" "$root/examples/c/finetune.c" -o "$scratch/finetune" "${flags[@]}"
gcc "${strict[@]}" "$root/examples/c/finetune.c" -o "$scratch/finetune-static" "${static[@]}"

fresh() {
    rm -rf "$scratch/work"
    mkdir "$scratch/work"
}

for way in $ways; do
    echo "== $way"
    fresh
    case $way in
        plain)
            "$scratch/suite" "$demo" "$program" "$scratch/work"
            "$scratch/finetune" "$demo" "$scratch/work/example"
            env -u LD_LIBRARY_PATH "$scratch/finetune-static" "$demo" "$scratch/work/example-static" > "$scratch/static.txt"
            tail -1 "$scratch/static.txt"
            if command -v cmake > /dev/null; then
                mkdir "$scratch/cmake"
                cat > "$scratch/cmake/CMakeLists.txt" <<CMAKE
cmake_minimum_required(VERSION 3.16)
project(user C)
find_package(sftmix 0.1 REQUIRED)
add_executable(shared "$root/examples/c/finetune.c")
target_link_libraries(shared sftmix::sftmix)
add_executable(static "$root/examples/c/finetune.c")
target_link_libraries(static sftmix::static)
CMAKE
                cmake -S "$scratch/cmake" -B "$scratch/cmake/build" -DCMAKE_PREFIX_PATH="$prefix" > "$scratch/cmake.log"
                cmake --build "$scratch/cmake/build" >> "$scratch/cmake.log"
                "$scratch/cmake/build/shared" "$demo" "$scratch/work/example-cmake" | tail -1
            fi
            ;;
        valgrind)
            # It hides AVX-512 from the kernels, which then take AVX2.
            valgrind --quiet --leak-check=full --errors-for-leak-kinds=definite --error-exitcode=9 --fair-sched=yes \
                "$scratch/suite" "$demo" "$program" "$scratch/work" short
            ;;
        asan)
            gcc "${strict[@]}" -fsanitize=address -fno-omit-frame-pointer tests/suite.c -o "$scratch/suite-asan" "${flags[@]}" -lpthread -lm
            ASAN_OPTIONS=detect_leaks=1:abort_on_error=0:exitcode=9 "$scratch/suite-asan" "$demo" "$program" "$scratch/work" short
            ;;
        *) echo "unknown: $way" >&2; exit 2 ;;
    esac
done
echo "C: all passed"
