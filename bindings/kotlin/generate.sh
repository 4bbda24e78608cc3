#!/usr/bin/env bash
# Generates the Kotlin that calls the library, with the names that the hand-written layer takes it by:
#   bindings/kotlin/generate.sh BINDGEN LIBRARY CONFIG FOLDER
set -euo pipefail
bindgen=$(realpath "$1") library=$(realpath "$2") config=$(realpath "$3")
rm -rf "$4" && mkdir -p "$4" && out=$(cd "$4" && pwd)
cd "$(dirname "$0")/../.."
"$bindgen" generate --no-format --language kotlin --config "$config" --out-dir "$out" "$library"
file="$out/org/sftmix/sftmix.kt"

# UniFFI 0.32 leaves what constructors return under the old name when it renames an object.
for names in TrainingJob:CoreJob Model:CoreModel Generator:CoreGenerator DataMap:CoreMap; do
    old=${names%:*} new=${names#*:}
    sed -i -E "s/\bFfiConverterType$old\b/FfiConverterType$new/; s/( fun \`\w+\`\(.*\)): $old \{\$/\1: $new {/" "$file"
done
# An error's message is what the library says, not a list of its fields.
sed -i -E '/override val message/{n;s/get\(\) = "detail=.*"/get() = detail/}' "$file"
if grep -qF 'get() = "detail=' "$file"; then
    echo "messages of errors were not found in $file" >&2 && exit 1
fi
