#!/usr/bin/env bash
# Whether sftmix computes on this machine's GPU what it computes on the CPU, and how fast: goldens, the
# trajectory of stories260K, sixty training steps beside the CPU's with a checkpoint that moves both ways, a
# short bench at two shapes. Ends with a table; takes about five minutes, and 3 GB of disk for the weights.
#
#     gpu-check.sh [--device cuda|cuda:N|portable] [--out DIR] [--peft]
#
# Runs from a folder that scripts/gpu-pack.sh made. --device portable is a rehearsal on the CPU: everything
# but the device, with the tiny shape in place of the two. --peft also runs gpu-peft.py on the same weights,
# rows and first adapter (needs torch, transformers and peft).
set -uo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
device=cuda out="${TMPDIR:-/tmp}/sftmix-gpu-check" peft=no
while [ $# -gt 0 ]; do
    case "$1" in
        --device) device="$2"; shift 2 ;;
        --out) out="$2"; shift 2 ;;
        --peft) peft=yes; shift ;;
        *) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
done
mkdir -p "$out"
failed=0
rows=()
row() { rows+=("$(printf '%-34s %s' "$1" "$2")"); printf '%4d s  %-34s %s\n' "$SECONDS" "$1" "$2"; }

# The libraries of an installed toolkit, or those that PyTorch brings.
for lib in libcublas.so.13 libcurand.so.10; do
    ldconfig -p 2>/dev/null | grep -q "$lib" && continue
    found="$(find /usr/local/cuda*/ /usr/lib /opt "$(python3 -c 'import site; print(site.getsitepackages()[0])' 2>/dev/null)" \
        -name "$lib" -print -quit 2>/dev/null)"
    [ -n "$found" ] && export LD_LIBRARY_PATH="$(dirname "$found")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
done

row machine "$(uname -m), $(nproc) CPUs, $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)"
row gpu "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo 'nvidia-smi not found')"
row program "$("$here/sftmix" --version 2>&1), --device $device"

# Tests by theme; the portable form runs on the device.
export SFTMIX_TEST_DEVICE="$device" SFTMIX_ROOT="$here/project"
for theme in golden ops block dropout generate device; do
    log="$out/$theme.log"
    started=$SECONDS
    "$here/tests" "$theme::" --nocapture >"$log" 2>&1
    status=$?
    result="$(sed -n 's/^test result: [a-zA-Z]*\. \([0-9]*\) passed; \([0-9]*\) failed.*/\1 passed, \2 failed/p' "$log" | tail -1)"
    skipped="$(grep -c '^skipped' "$log")"
    row "tests: $theme" "${result:-did not end (status $status)}, $skipped skipped, $((SECONDS - started)) s"
    [ "$status" = 0 ] || { failed=1; grep -E "panicked|assert|error|expected" "$log" | head -5; }
    while read -r line; do row "  ${line%%:*}" "${line#*: }"; done < <(grep -E '^[a-z0-9]+: [0-9]+ variants|^cpu and ' "$log")
done

# A field of a bench's report: numbers and words without commas in them.
field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p" "$2" | head -1; }
digits() { LC_ALL=C printf "%.$1f" "$(field "$2" "$3")" 2>/dev/null || echo '-'; }
megabytes() { case "$1" in '' | null) echo '-' ;; *) echo "$(($1 / 1048576)) MiB" ;; esac }

case "$device" in
    portable | cpu) benches=("tiny --batch-size 4 --seq 128 --packed" "tiny --batch-size 8") ;;
    *) benches=(
        "smollm2-135m --batch-size 8 --seq 512 --packed --micro-batch 8 --recompute off"
        "smollm2-135m --batch-size 8 --micro-batch 8 --recompute off"
        "llama-3.2-1b --batch-size 4 --seq 512 --packed --micro-batch 4 --recompute off"
        "llama-3.2-1b --batch-size 8 --micro-batch 8 --recompute off"
    ) ;;
esac
n=0
for bench in "${benches[@]}"; do
    n=$((n + 1))
    json="$out/bench-$n.json"
    # shellcheck disable=SC2086
    if "$here/sftmix" bench --shape $bench --steps 5 --device "$device" --cache-dir "$out/models" \
        --export "$out/bench-$n" --json >"$json" 2>"$out/bench-$n.log"; then
        row "bench: ${bench%% *}" "${bench#* }"
        row "  tokens/s, step" "$(digits 0 real_tokens_per_second "$json"), $(digits 4 step_seconds_median "$json") s"
        row "  share of the floor, sgemm" "$(digits 3 floor_share "$json"), $(digits 0 sgemm_gflops "$json") GFLOP/s ($(field sgemm_library "$json"))"
        row "  device memory, host memory" "$(megabytes "$(field device_bytes "$json")"), $(megabytes "$(field peak_anonymous_bytes "$json")")"
        row "  losses" "$(sed -n 's/.*"losses":\[\([^]]*\)\].*/\1/p' "$json" | tr ',' '\n' | sed 's/^\(.......\).*/\1/' | paste -sd' ')"
    else
        row "bench: ${bench%% *}" "FAILED: $(tail -1 "$out/bench-$n.log")"
        failed=1
    fi
    if [ "$peft" = yes ]; then
        row "  PEFT, same rows" "$(python3 "$here/gpu-peft.py" "$out/bench-$n" --device "$device" --losses "$json" 2>"$out/peft-$n.log" || tail -1 "$out/peft-$n.log")"
    fi
done

echo
printf '%s\n' "${rows[@]}" | tee "$out/table.txt"
echo
echo "$SECONDS s; logs in $out"
[ "$failed" = 0 ] && echo "all passed" || echo "SOMETHING FAILED"
exit "$failed"
