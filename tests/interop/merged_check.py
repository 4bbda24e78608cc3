#!/usr/bin/env python3
"""Models that sftmix merged, in transformers, for each type of the stored numbers: logits beside ours of the merged model, and
beside ours of base and adapter, which the type's rounding stands between.   merged_check.py [MODEL [ADAPTER]]"""
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import common

# Units of rounding. 32 of them, and 5e-5 at least, of the largest logit are what `sftmix merge` allows.
UNITS = {"float32": ("f32", 2.0**-24), "float16": ("f16", 2.0**-11), "bfloat16": ("bf16", 2.0**-8)}

args = common.arguments(__doc__).parse_args()
ids = common.ids_of(common.config_of(args.model)["vocab_size"])
base = common.our_logits(args.model, ids)
with tempfile.TemporaryDirectory() as folder:
    for name, adapter in common.cases(args.model, args.adapter, folder):
        ours = common.our_logits(args.model, ids, adapter)
        largest = max(abs(row).max() for row in ours)
        for long, (dtype, unit) in UNITS.items():
            out = f"{folder}/merged-{Path(name).name}-{dtype}"
            common.run("sftmix", "merge", "--model", args.model, "--adapter", adapter, "--out", out, "--dtype", dtype)
            model = AutoModelForCausalLM.from_pretrained(out, dtype="auto", attn_implementation="eager")
            types = {str(p.dtype) for p in model.parameters()}
            assert types == {f"torch.{long}"}, types
            # Loaded anew and not converted: Gemma's factor of the embeddings would keep the rounding of the small type.
            model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
            with torch.no_grad():
                theirs = [model(torch.tensor([row])).logits[0].numpy() for row in ids]
            common.report(f"merged {name} {dtype}", common.our_logits(out, ids), theirs, base, 1e-4)
            bound = max(5e-5, 32 * unit) * max(1.0, float(largest))
            common.report(f"merged {name} {dtype}, beside base and adapter", ours, theirs, base, bound, factor=2)
