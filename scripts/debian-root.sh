# Sourced, not run: a newer Debian's packages on a machine that has an older one. They are unpacked into a folder, run by
# chroot, and leave the machine's own packages alone. Needs root, or sudo: for chroot, and for the mounts.
# shellcheck shell=bash

retry() { for i in 1 2 3 4 5; do "$@" && return 0; echo "attempt $i failed: $*" >&2; sleep $((i * 10)); done; return 1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# The mirror that this machine's own package sources name.
mirror() {
    { sed -nE 's/^URIs:[[:space:]]*([^[:space:]]+).*/\1/p' /etc/apt/sources.list.d/*.sources
      sed -nE 's/^deb[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+).*/\2/p' /etc/apt/sources.list /etc/apt/sources.list.d/*.list
    } 2>/dev/null | awk '/\/debian\/?$/ && !found { print; found = 1 }' || true
}

# fetch_packages APT SUITE ARCHITECTURES PACKAGE...: packages and all they depend on, downloaded into the folder APT by an apt
# of its own. The first of the architectures is this machine's.
fetch_packages() {
    local apt=$1 suite=$2 architectures=$3 from proxy='' architecture
    shift 3
    from=$(mirror)
    [ -n "$from" ] || { echo "no Debian mirror in /etc/apt: nothing to fetch $suite's packages from" >&2; return 1; }
    eval "$(apt-config shell proxy Acquire::http::Proxy)"
    mkdir -p "$apt"/etc/apt/{apt.conf.d,preferences.d,trusted.gpg.d} "$apt"/var/lib/{apt/lists/partial,dpkg} \
        "$apt/var/cache/apt/archives/partial"
    : > "$apt/var/lib/dpkg/status"
    {
        printf '%s\n' "Dir \"$apt\";" "Dir::State::status \"$apt/var/lib/dpkg/status\";" \
            'APT::Install-Recommends "false";' 'APT::Sandbox::User "root";' 'Acquire::Retries "3";' 'Acquire::Languages "none";'
        for architecture in $architectures; do printf 'APT::Architectures:: "%s";\n' "$architecture"; done
        # A mirror may be days behind; the packages are signed all the same.
        [ "$suite" != sid ] || echo 'Acquire::Check-Valid-Until "false";'
        [ -z "$proxy" ] || printf 'Acquire::http::Proxy "%s";\n' "$proxy"
    } > "$apt/apt.conf"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $from $suite main" > "$apt/etc/apt/sources.list"
    export APT_CONFIG=$apt/apt.conf
    retry apt-get -qq update
    retry apt-get -qq install -y --download-only "$@"
    unset APT_CONFIG
}

# unpack_packages APT TO UNUSED...: what was downloaded, but for the files that the patterns name. No maintainer script runs.
unpack_packages() {
    local apt=$1 to=$2 package folder
    shift 2
    mkdir -p "$to"/usr/{bin,sbin,lib,lib64}
    # Since Debian 12 these are one folder; a package that was unpacked first must not make two of them.
    for folder in bin sbin lib lib64; do ln -sfn "usr/$folder" "$to/$folder"; done
    for package in "$apt"/var/cache/apt/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" |
            tar -x -C "$to" --keep-directory-symlink --no-same-owner "${@/#/--exclude=}"
    done
    mkdir -p "$to"/{proc,dev,tmp,root} && chmod 1777 "$to/tmp"
}

# in_root ROOT FOLDER... -- COMMAND...: takes the place of this process, which must be in a mount namespace of its own
# (unshare --mount --propagation private), so that nothing stays mounted however the command ends. The command sees the
# folders by their own paths.
in_root() {
    local root=$1 folders=() folder
    shift
    while [ "$1" != -- ]; do folders+=("$1"); shift; done
    shift
    for folder in "${folders[@]}" /proc /dev; do
        mkdir -p "$root$folder"
        mount --rbind "$folder" "$root$folder"
    done
    # shellcheck disable=SC2016
    exec chroot "$root" /usr/bin/env HOME=/root \
        /bin/sh -c 'cd "$1" && shift && exec "$@"' sh "$PWD" "$@"
}
