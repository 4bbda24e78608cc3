#!/usr/bin/env python3
"""PEFT folders that sftmix wrote, in PEFT: logits beside ours.   peft_check.py [MODEL [ADAPTER]]"""
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import common

args = common.arguments(__doc__).parse_args()
ids = common.ids_of(common.config_of(args.model)["vocab_size"], tokens=args.tokens)
base = common.our_logits(args.model, ids)
with tempfile.TemporaryDirectory() as folder:
    for name, adapter in common.cases(args.model, args.adapter, folder):
        out = f"{folder}/out-{Path(name).name}"
        common.export(args.model, adapter, "peft", out)
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager")
        model = PeftModel.from_pretrained(model, f"{out}/peft").eval()
        with torch.no_grad():
            theirs = [model(torch.tensor([row])).logits[0].float().numpy() for row in ids]
        ours = common.our_logits(args.model, ids, adapter)
        common.report(f"peft {name}", ours, theirs, base, 1e-4)
