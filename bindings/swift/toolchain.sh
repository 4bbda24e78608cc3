#!/usr/bin/env bash
# A Swift 6 toolchain on Debian 12, which has none: the packages of Debian trixie, unpacked into a cache folder and run by
# chroot. Where `swift` 6 is installed, that is taken and nothing is fetched.
#   toolchain.sh prepare                      fetches and unpacks, unless that was done; prints the folder
#   toolchain.sh run FOLDER... -- COMMAND...  runs a command with Swift in the path; it sees these folders, by their own paths
# SFTMIX_SWIFT_CACHE names the cache folder. Needs root, or sudo: for chroot, and for the mounts, which end with the command.
set -euo pipefail
cache=${SFTMIX_SWIFT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sftmix/swift}
# Counts up when what is unpacked changes.
edition=1
root=$cache/trixie-$edition

# shellcheck source=../../scripts/debian-root.sh
. "$(dirname "$0")/../../scripts/debian-root.sh"

installed() {
    local version
    version=$(swift --version 2>/dev/null | sed -nE 's/.*Swift version ([0-9]+).*/\1/p' | head -n 1)
    [ "${version:-0}" -ge 6 ]
}

# Debuggers, editors' servers, the other LLVM tools and the static library: 830 MB that no build here reads.
unused=('*/lldb*' '*/liblldb*' '*/clangd*' '*/sourcekit-lsp*' '*/docc*' '*/swift-format*' '*/llvm-[a-z]*' '*/libsourcekitd*'
    '*/swift_static*' '*/python3*' '*/share/doc/*' '*/share/man/*' '*/share/locale/*')

prepare() {
    if installed || [ -e "$root/.whole" ]; then return; fi
    # What a run that was killed has left goes; the mark is made last.
    as_root rm -rf "$root" && mkdir -p "$cache"
    # libc6-dev is only recommended by swiftlang, and nothing links without it.
    fetch_packages "$cache/apt" trixie "$(dpkg --print-architecture)" \
        swiftlang libc6-dev libstdc++-14-dev bash coreutils dash base-files >&2
    unpack_packages "$cache/apt" "$root" "${unused[@]}"
    rm -rf "$cache/apt"
    touch "$root/.whole"
}

case ${1:-} in
    prepare)
        prepare
        if installed; then command -v swift; else echo "$root"; fi
        ;;
    run)
        shift
        if installed; then
            while [ "$1" != -- ]; do shift; done
            shift
            exec "$@"
        fi
        [ -e "$root/.whole" ] || { echo "run $0 prepare first" >&2; exit 1; }
        # In a mount namespace of its own, so that nothing stays mounted however the command ends.
        as_root env "SFTMIX_SWIFT_CACHE=$cache" unshare --mount --propagation private bash "$0" inside "$@"
        ;;
    inside)
        shift
        folders=()
        while [ "$1" != -- ]; do folders+=("$1"); shift; done
        shift
        in_root "$root" "${folders[@]}" -- env PATH=/usr/libexec/swift/bin:/usr/bin:/bin "$@"
        ;;
    *) echo "usage: $0 prepare | run FOLDER... -- COMMAND..." >&2; exit 2 ;;
esac
