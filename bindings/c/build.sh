#!/usr/bin/env bash
# Builds the C library, writes its header, and installs both. Needs Rust; cbindgen 0.29.4 is installed under tools of the
# target folder (CARGO_TARGET_DIR) unless CBINDGEN names one or it is in PATH.
#   build.sh                      build, and install under c of the target folder
#   build.sh --check              build; fails where the header in the repository is not that of the sources
#   build.sh install PREFIX       build, and install header, libraries, sftmix.pc and sftmix-config.cmake under PREFIX
set -euo pipefail
# A relative one is where the caller stands.
[[ -z ${CARGO_TARGET_DIR:-} || $CARGO_TARGET_DIR == /* ]] || CARGO_TARGET_DIR=$PWD/$CARGO_TARGET_DIR
cd "$(dirname "$0")"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
root=$(cd ../.. && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
export CARGO_TARGET_DIR=$target
built=$target/release
interface=$(sed -n 's/^const INTERFACE: u32 = \([0-9]*\);/\1/p' build.rs)
system=$(uname -s)
# As it is built; as it is installed; its soname, under which programs ask for it.
case $system in
    Darwin) shared=libsftmix.dylib whole=libsftmix.$version.dylib soname=libsftmix.$interface.dylib ;;
    *) shared=libsftmix.so whole=libsftmix.so.$version soname=libsftmix.so.$interface ;;
esac

header() {
    "$cbindgen" --quiet --config cbindgen.toml --output "$1" .
}

build() {
    for cbindgen in ${CBINDGEN:-cbindgen} "$target/tools/bin/cbindgen"; do
        [[ $("$cbindgen" --version 2> /dev/null) != 'cbindgen 0.29.4' ]] || break
    done
    [[ $("$cbindgen" --version 2> /dev/null) == 'cbindgen 0.29.4' ]] ||
        cargo install cbindgen --version 0.29.4 --locked --quiet --debug --root "$target/tools"
    (cd "$root" && cargo build --release --locked -p sftmix-c ${FEATURES:+--features "$FEATURES"})
    if [[ ${1:-} == --check ]]; then
        new=$(mktemp)
        trap 'rm -f "$new"' EXIT
        header "$new"
        diff -u include/sftmix.h "$new" || { echo "include/sftmix.h is not that of the sources: run bindings/c/build.sh" >&2; exit 1; }
    else
        header include/sftmix.h
    fi
}

install_to() {
    mkdir -p "$1"
    prefix=$(cd "$1" && pwd)
    mkdir -p "$prefix"/{include,lib/pkgconfig,lib/cmake/sftmix}
    cp include/sftmix.h "$prefix/include/"
    for library in "$whole" libsftmix.a; do
        from=$built/$library
        [[ $library == "$whole" ]] && from=$built/$shared
        # In the place of an older one, which a process may have mapped.
        cp "$from" "$prefix/lib/$library.new"
        if [[ $system == Darwin ]]; then
            strip -S -x "$prefix/lib/$library.new"
        elif [[ $library == *.a ]]; then
            strip --strip-debug "$prefix/lib/$library.new"
        else
            strip --strip-unneeded "$prefix/lib/$library.new"
        fi
        mv -f "$prefix/lib/$library.new" "$prefix/lib/$library"
    done
    ln -sf "$whole" "$prefix/lib/$soname"
    ln -sf "$soname" "$prefix/lib/$shared"
    private="-lpthread -ldl -lm"
    [[ $system == Darwin ]] && private="-framework CoreFoundation -liconv -lm"
    cat > "$prefix/lib/pkgconfig/sftmix.pc" <<PC
prefix=\${pcfiledir}/../..
includedir=\${prefix}/include
libdir=\${prefix}/lib

Name: sftmix
Description: Fine-tuning of language models with SFTMix over LoRA
Version: $version
Cflags: -I\${includedir}
Libs: -L\${libdir} -lsftmix
Libs.private: $private
PC
    cmake_soname=$soname
    [[ $system == Darwin ]] && cmake_soname=@rpath/$soname
    cat > "$prefix/lib/cmake/sftmix/sftmix-config.cmake" <<CMAKE
# sftmix::sftmix is the shared library, sftmix::static the static one.
get_filename_component(_sftmix_prefix "\${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT TARGET sftmix::sftmix)
  add_library(sftmix::sftmix SHARED IMPORTED)
  set_target_properties(sftmix::sftmix PROPERTIES IMPORTED_LOCATION "\${_sftmix_prefix}/lib/$whole"
    IMPORTED_SONAME "$cmake_soname" INTERFACE_INCLUDE_DIRECTORIES "\${_sftmix_prefix}/include")
  add_library(sftmix::static STATIC IMPORTED)
  set_target_properties(sftmix::static PROPERTIES IMPORTED_LOCATION "\${_sftmix_prefix}/lib/libsftmix.a"
    INTERFACE_INCLUDE_DIRECTORIES "\${_sftmix_prefix}/include" INTERFACE_LINK_LIBRARIES "${private// /;}")
endif()
unset(_sftmix_prefix)
CMAKE
    sed -i.bak 's/"-framework;CoreFoundation/"-framework CoreFoundation/' "$prefix/lib/cmake/sftmix/sftmix-config.cmake"
    rm -f "$prefix/lib/cmake/sftmix/sftmix-config.cmake.bak"
    cat > "$prefix/lib/cmake/sftmix/sftmix-config-version.cmake" <<CMAKE
set(PACKAGE_VERSION "$version")
if(PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE FALSE)
else()
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
  if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
  endif()
endif()
CMAKE
    for library in "$whole" libsftmix.a; do
        printf '%s: %s bytes\n' "$prefix/lib/$library" "$(wc -c < "$prefix/lib/$library" | tr -d ' ')"
    done
}

case ${1:-} in
    '')
        build
        install_to "$target/c"
        ;;
    --check) build --check ;;
    install)
        [[ $# == 2 ]] || { echo "usage: build.sh install PREFIX" >&2; exit 2; }
        build
        install_to "$2"
        ;;
    *) echo "usage: build.sh [--check | install PREFIX]" >&2; exit 2 ;;
esac
