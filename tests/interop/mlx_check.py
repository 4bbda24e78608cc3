#!/usr/bin/env python3
"""MLX folders that sftmix wrote, in mlx-lm on its CPU back end: logits beside ours.   mlx_check.py [MODEL [ADAPTER]]
pip install 'mlx[cpu]' mlx-lm safetensors numpy"""
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model

import common

args = common.arguments(__doc__).parse_args()
ids = common.ids_of(common.config_of(args.model)["vocab_size"], tokens=args.tokens)
base = common.our_logits(args.model, ids)


def load():
    model = load_model(Path(args.model))[0]
    model.set_dtype(mx.float32)
    return model


def logits(model):
    model.eval()
    return [np.array(model(mx.array([row]))[0].astype(mx.float32)) for row in ids]


worst = max(float(np.abs(a - b).max()) for a, b in zip(base, logits(load())))
print(f"base alone: logits differ by {worst:.2e} at most")
if worst > 1e-4:
    raise SystemExit("mlx-lm computes another base: this says nothing about the adapter")
with tempfile.TemporaryDirectory() as folder:
    for name, adapter in common.cases(args.model, args.adapter, folder):
        out = f"{folder}/out-{Path(name).name}"
        common.export(args.model, adapter, "mlx", out)
        theirs = logits(load_adapters(load(), f"{out}/mlx"))
        ours = common.our_logits(args.model, ids, adapter)
        common.report(f"mlx {name}", ours, theirs, base, 1e-4)
