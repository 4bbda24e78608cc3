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

retry() { for i in 1 2 3 4 5; do "$@" && return 0; echo "attempt $i failed: $*" >&2; sleep $((i * 10)); done; return 1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

installed() {
    local version
    version=$(swift --version 2>/dev/null | sed -nE 's/.*Swift version ([0-9]+).*/\1/p' | head -n 1)
    [ "${version:-0}" -ge 6 ]
}

# The mirror and the proxy that this machine's own package sources name.
mirror() {
    { sed -nE 's/^URIs:[[:space:]]*([^[:space:]]+).*/\1/p' /etc/apt/sources.list.d/*.sources
      sed -nE 's/^deb[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+).*/\2/p' /etc/apt/sources.list /etc/apt/sources.list.d/*.list
    } 2>/dev/null | awk '/\/debian\/?$/ && !found { print; found = 1 }' || true
}

fetch() {
    local apt=$1 from proxy=''
    from=$(mirror)
    [ -n "$from" ] || { echo "no Debian mirror in /etc/apt: install Swift 6 by hand" >&2; return 1; }
    eval "$(apt-config shell proxy Acquire::http::Proxy)"
    mkdir -p "$apt"/etc/apt/{apt.conf.d,preferences.d,trusted.gpg.d} "$apt"/var/lib/{apt/lists/partial,dpkg} \
        "$apt/var/cache/apt/archives/partial"
    : > "$apt/var/lib/dpkg/status"
    {
        printf '%s\n' "Dir \"$apt\";" "Dir::State::status \"$apt/var/lib/dpkg/status\";" \
            'APT::Install-Recommends "false";' 'APT::Sandbox::User "root";' 'Acquire::Retries "3";' 'Acquire::Languages "none";'
        [ -z "$proxy" ] || printf 'Acquire::http::Proxy "%s";\n' "$proxy"
    } > "$apt/apt.conf"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $from trixie main" > "$apt/etc/apt/sources.list"
    export APT_CONFIG=$apt/apt.conf
    retry apt-get -qq update
    # libc6-dev is only recommended by swiftlang, and nothing links without it.
    retry apt-get -qq install -y --download-only swiftlang libc6-dev libstdc++-14-dev bash coreutils dash base-files
    unset APT_CONFIG
}

# Debuggers, editors' servers, the other LLVM tools and the static library: 830 MB that no build here reads.
unused=('*/lldb*' '*/liblldb*' '*/clangd*' '*/sourcekit-lsp*' '*/docc*' '*/swift-format*' '*/llvm-[a-z]*' '*/libsourcekitd*'
    '*/swift_static*' '*/python3*' '*/share/doc/*' '*/share/man/*' '*/share/locale/*')

unpack() {
    local apt=$1 to=$2 package folder
    mkdir -p "$to"/usr/{bin,sbin,lib,lib64}
    # Since Debian 12 these are one folder; a package that was unpacked first must not make two of them.
    for folder in bin sbin lib lib64; do ln -sfn "usr/$folder" "$to/$folder"; done
    for package in "$apt"/var/cache/apt/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" |
            tar -x -C "$to" --keep-directory-symlink --no-same-owner "${unused[@]/#/--exclude=}"
    done
    mkdir -p "$to"/{proc,dev,tmp,root} && chmod 1777 "$to/tmp"
}

prepare() {
    if installed || [ -e "$root/.whole" ]; then return; fi
    # What a run that was killed has left goes; the mark is made last.
    as_root rm -rf "$root" && mkdir -p "$cache"
    fetch "$cache/apt" >&2
    unpack "$cache/apt" "$root"
    rm -rf "$cache/apt"
    touch "$root/.whole"
}

# In a mount namespace of its own, so that nothing stays mounted however the command ends.
inside() {
    local folders=() folder
    while [ "$1" != -- ]; do folders+=("$1"); shift; done
    shift
    for folder in "${folders[@]}" /proc /dev; do
        mkdir -p "$root$folder"
        mount --rbind "$folder" "$root$folder"
    done
    # shellcheck disable=SC2016
    exec chroot "$root" /usr/bin/env HOME=/root PATH=/usr/libexec/swift/bin:/usr/bin:/bin \
        /bin/sh -c 'cd "$1" && shift && exec "$@"' sh "$PWD" "$@"
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
        as_root env "SFTMIX_SWIFT_CACHE=$cache" unshare --mount --propagation private bash "$0" inside "$@"
        ;;
    inside)
        shift
        inside "$@"
        ;;
    *) echo "usage: $0 prepare | run FOLDER... -- COMMAND..." >&2; exit 2 ;;
esac
