#!/bin/sh
# Compiles the sources with what is Apple's alone, against the declarations beside this file: check.sh PACKAGE WORK COMMAND..., where
# the command runs what follows it with Swift in the path. Newer
# interfaces are behind a compiler's version, which this one is taken for; what macOS and iOS have differently, both ways.
set -eu
package=$1 work=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$work/modules" "$work/sources"
"$@" swiftc -emit-module -swift-version 6 -module-name BackgroundTasks "$here/BackgroundTasks.swift" -o "$work/modules/BackgroundTasks.swiftmodule"
echo 'public let here = true' > "$work/sources/Darwin.swift"
"$@" swiftc -emit-module -module-name Darwin "$work/sources/Darwin.swift" -o "$work/modules/Darwin.swiftmodule"
map="-Xcc -fmodule-map-file=$package/SFTMixCore.artefact/module.modulemap"
# shellcheck disable=SC2086
"$@" swiftc -emit-module -swift-version 6 -package-name sftmix -module-name SFTMixFFI "$package/Sources/SFTMixFFI/SFTMixFFI.swift" $map \
    -o "$work/modules/SFTMixFFI.swiftmodule"
rm -f "$work"/sources/*
for system in iOS macOS; do
    for file in "$package"/Sources/SFTMix/*.swift; do
        sed "s/compiler(>=6.2)/compiler(>=6.0)/; s/os(macOS) || targetEnvironment(macCatalyst)/$([ $system = macOS ] && echo true || echo false)/" \
            "$file" > "$work/sources/$(basename "$file")"
    done
    # shellcheck disable=SC2086
    "$@" swiftc -typecheck -swift-version 6 -warnings-as-errors -package-name sftmix -module-name SFTMix "$work"/sources/*.swift -I "$work/modules" $map
done
