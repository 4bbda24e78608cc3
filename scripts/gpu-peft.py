#!/usr/bin/env python3
"""Runs the steps of `sftmix bench --export DIR` with transformers and PEFT: the same weights, rows, first
adapter and optimizer, in f32. Prints one line: tokens per second, step, memory and, beside sftmix's losses,
the largest difference.

    gpu-peft.py DIR [--device cuda|cpu] [--losses BENCH.json] [--tf32]

Needs torch, transformers, peft and safetensors. Rows are padded to the longest of the step, as PEFT users do.
benches/peers/compare.py runs it on the CPU by turns with sftmix, with --threads and --json.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("dir", type=pathlib.Path)
parser.add_argument("--device", default="cuda")
parser.add_argument("--losses", type=pathlib.Path)
parser.add_argument("--tf32", action="store_true", help="let PyTorch round products to 10 bits: faster, not f32")
parser.add_argument("--threads", type=int, help="CPU threads")
parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing: less memory, slower")
parser.add_argument("--json", action="store_true", help="print one JSON object")
args = parser.parse_args()

import torch
import peft
import transformers

device = torch.device("cpu" if args.device in ("cpu", "portable") else args.device)
torch.backends.cuda.matmul.allow_tf32 = args.tf32
if args.threads:
    torch.set_num_threads(args.threads)
about = json.loads((args.dir / "bench.json").read_text())
steps = {}
for line in (args.dir / "rows.jsonl").read_text().splitlines():
    row = json.loads(line)
    steps.setdefault(row["step"], []).append(row)

opened = time.perf_counter()
model = transformers.AutoModelForCausalLM.from_pretrained(about["model"], dtype=torch.float32)
model.config.use_cache = False
if args.checkpointing:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
model = peft.PeftModel.from_pretrained(model.to(device), str(args.dir / "adapter"), is_trainable=True)
model.train()
trained = [p for p in model.parameters() if p.requires_grad]
adamw = torch.optim.AdamW(
    trained, lr=about["lr"], betas=tuple(about["betas"]), eps=about["eps"], weight_decay=about["weight_decay"]
)


def padded(rows, key, fill):
    width = max(len(r["input_ids"]) for r in rows)
    return torch.tensor([r[key] + [fill] * (width - len(r[key])) for r in rows], device=device)


def wait():
    if device.type == "cuda":
        torch.cuda.synchronize()


losses, seconds, tokens = [], [], []
for number in sorted(steps):
    rows = steps[number]
    for r in rows:
        r["mask"] = [1] * len(r["input_ids"])
    wait()
    started = time.perf_counter()
    out = model(input_ids=padded(rows, "input_ids", 0), attention_mask=padded(rows, "mask", 0), labels=padded(rows, "labels", -100))
    out.loss.backward()
    if about["clip"] > 0:
        torch.nn.utils.clip_grad_norm_(trained, about["clip"])
    adamw.step()
    adamw.zero_grad(set_to_none=True)
    losses.append(out.loss.item())
    wait()
    seconds.append(time.perf_counter() - started)
    tokens.append(sum(len(r["input_ids"]) for r in rows))
    if number == 0:
        first = time.perf_counter() - opened
        first_ended = time.time()

# As sftmix does, the first step is not in the figures.
rate = sum(tokens[1:]) / sum(seconds[1:])
if args.json:
    print(json.dumps({
        "real_tokens_per_second": rate,
        "step_seconds_median": statistics.median(seconds[1:]),
        # Seconds since 1970: who started this process knows how long that took.
        "first_step_ended": first_ended,
        "losses": losses,
        "threads": torch.get_num_threads(),
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}, PEFT {peft.__version__}",
    }))
    sys.exit()
parts = [f"{rate:.1f} tokens/s", f"{statistics.median(seconds[1:]):.4f} s a step", f"{first:.1f} s to the first"]
if device.type == "cuda":
    parts.append(f"{torch.cuda.max_memory_reserved() / 2**20:.0f} MiB")
if args.losses:
    ours = json.loads(args.losses.read_text())
    apart = max(abs(a - b) for a, b in zip(ours["losses"], losses))
    parts.append(f"losses within {apart:.1e}")
    parts.append(f"sftmix at {ours['real_tokens_per_second'] / rate:.2f}x its speed")
print(", ".join(parts))
