#!/usr/bin/env python3
"""Trains with sftmix and with transformers and PEFT by turns, on the CPU: the same weights, rows, first adapter
and optimizer, in f32, each in a process of its own. Prints a Markdown table.

    compare.py [--rounds 5] [--threads 2] [--works 135m-packed,135m-alpaca,1b-alpaca] [--checkpointing] [--short]

Run it with the Python that has torch, transformers and peft (README.md). Results of every round are kept in
RESULTS/peft.json, the table in RESULTS/peft.md; exports in target/peers. Ends with status 1 when losses of the two
are more than 1e-4 apart.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from measure import BINARY, MIB, ROOT, save, sftmix_bench, stamp, table

PEFT = ROOT / "scripts" / "gpu-peft.py"
# The first step is not in the speed, but its loss counts: ten losses.
STEPS = 9
APART = 1e-4
WORKS = {
    "135m-packed": ("SmolLM2-135M, 1 × 512 packed", "smollm2-135m", ["--packed", "--batch-size", 1]),
    "135m-alpaca": ("SmolLM2-135M, Alpaca-like, batch 8", "smollm2-135m", ["--batch-size", 8]),
    "1b-alpaca": ("Llama 3.2 1B, Alpaca-like, batch 1", "llama-3.2-1b", ["--batch-size", 1]),
    "tiny": ("tiny, Alpaca-like, batch 4", "tiny", ["--batch-size", 4]),
}


def ours(args, work, export=None):
    _, shape, arguments = WORKS[work]
    export = ["--export", export] if export else []
    common = ["--shape", shape, "--seq", 512, "--steps", args.steps, "--threads", args.threads]
    return sftmix_bench(args.binary, [*common, *arguments, *export])


def status_bytes(pid, key):
    """A field of /proc/PID/status; 0 where the system does not tell or the process has ended."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(key)), 0)


def theirs(args, export):
    command = [sys.executable, PEFT, export, "--device", "cpu", "--threads", str(args.threads), "--json"]
    command += ["--checkpointing"] if args.checkpointing else []
    threads = {"OMP_NUM_THREADS": str(args.threads), "MKL_NUM_THREADS": str(args.threads)}
    offline = {"HF_HUB_OFFLINE": "1"}
    anonymous = resident = 0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.time()
        process = subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, **threads, **offline})
        # Sampled as sftmix samples itself; the peak of resident memory the system keeps.
        while process.poll() is None:
            anonymous = max(anonymous, status_bytes(process.pid, "RssAnon:"))
            resident = max(resident, status_bytes(process.pid, "VmHWM:"))
            time.sleep(0.02)
        out.seek(0)
        err.seek(0)
        if process.returncode != 0:
            raise SystemExit(f"PEFT failed with status {process.returncode}:\n{err.read()[-2000:]}")
        report = json.loads(out.read().splitlines()[-1])
    report["start_to_first_step"] = report.pop("first_step_ended") - started
    report["peak_anonymous_bytes"], report["peak_rss_bytes"] = anonymous, resident
    return report


def apart(round):
    return max(abs(a - b) for a, b in list(zip(round["sftmix"]["losses"], round["peft"]["losses"]))[:10])


def line(work, rounds):
    """Medians over the rounds; of the ratio also the range, because a shared machine's speed changes."""
    def middle(of):
        return statistics.median(of(r) for r in rounds)

    def mib(trainer, key):
        return f"{middle(lambda r: r[trainer][key] or 0) / MIB:,.0f}"

    ratios = [r["sftmix"]["real_tokens_per_second"] / r["peft"]["real_tokens_per_second"] for r in rounds]
    row = [WORKS[work][0]]
    row += [f"{middle(lambda r: r[t]['real_tokens_per_second']):.1f}" for t in ("sftmix", "peft")]
    row += [f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"]
    row += [mib(t, key) for key in ("peak_anonymous_bytes", "peak_rss_bytes") for t in ("sftmix", "peft")]
    row += [f"{middle(lambda r: r[t]['start_to_first_step']):.1f}" for t in ("sftmix", "peft")]
    return [*row, f"{max(apart(r) for r in rounds):.1e}"]


def text(args, results):
    head = ["work", "real tok/s: sftmix", "PEFT", "ratio", "peak anonymous MiB: sftmix", "PEFT"]
    head += ["peak resident MiB: sftmix", "PEFT", "s, start to end of first step: sftmix", "PEFT", "losses apart"]
    done = {work: r["rounds"] for work, r in results.items() if r["rounds"]}
    made = next(iter(results.values()))
    last = next(iter(done.values()))[-1]
    peft = "gradient checkpointing, " if args.checkpointing else ""
    return table(head, [line(work, rounds) for work, rounds in done.items()]) + (
        f"\n{made['machine']}; {made['date']}, commit {made['commit']}; {last['peft']['versions']}; {peft}"
        f"{args.threads} threads each; rounds by turns: "
        + ", ".join(str(len(rounds)) for rounds in done.values())
        + f"; {args.steps} steps behind the first one.\n"
        "Medians, in brackets the range. f32, LoRA r 16 on all linears, no dropout. PEFT pads to the longest row of "
        "a batch. Resident memory holds the mapped weights, which the system can drop.\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of both (default 2)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"that are timed, after one that is not (default {STEPS})")
    parser.add_argument("--works", default="135m-packed,135m-alpaca,1b-alpaca", help="any of " + ", ".join(WORKS))
    parser.add_argument("--checkpointing", action="store_true", help="PEFT with gradient checkpointing")
    parser.add_argument("--short", action="store_true", help="one round of the tiny shape, results in target/")
    parser.add_argument("--binary", type=pathlib.Path, default=BINARY)
    parser.add_argument("--results", type=pathlib.Path, default=ROOT / "docs" / "performance")
    args = parser.parse_args()
    if args.short:
        args.rounds, args.works, args.results = 1, "tiny", ROOT / "target" / "performance-short"
    works = args.works.split(",")
    if unknown := [w for w in works if w not in WORKS]:
        parser.error(f"unknown work {unknown[0]}: expected any of {', '.join(WORKS)}")

    name = "peft-checkpointing" if args.checkpointing else "peft"
    results, far = {}, []
    for work in works:
        results[work] = {**stamp(), "threads": args.threads, "steps": args.steps, "rounds": []}
        export = ROOT / "target" / "peers" / work
        # Not in the figures: it writes what PEFT reads, and both begin with the weights in the page cache.
        ours(args, work, export)
        for number in range(args.rounds):
            round = {"sftmix": ours(args, work), "peft": theirs(args, export)}
            ours_now = round["sftmix"]
            ours_now["start_to_first_step"] = ours_now["seconds_to_first_step"] + ours_now["first_step_seconds"]
            results[work]["rounds"].append(round)
            save(args.results / f"{name}.json", results)
            speeds = [round[t]["real_tokens_per_second"] for t in ("sftmix", "peft")]
            print(
                f"{work}, round {number + 1}: {speeds[0]:.1f} and {speeds[1]:.1f} tok/s, losses within "
                f"{apart(round):.1e}", file=sys.stderr, flush=True,
            )
            if not apart(round) <= APART:
                far.append(work)
    (args.results / f"{name}.md").write_text(text(args, results))
    print(text(args, results), end="")
    if far:
        raise SystemExit(f"losses are more than {APART} apart: {', '.join(sorted(set(far)))}")


if __name__ == "__main__":
    main()
