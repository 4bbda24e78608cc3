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
ids = common.ids_of(common.config_of(args.model)["vocab_size"])
base = common.our_logits(args.model, ids)
with tempfile.TemporaryDirectory() as folder:
    for name, adapter in common.cases(args.model, args.adapter, folder):
        out = f"{folder}/out-{Path(name).name}"
        common.export(args.model, adapter, "mlx", out)
        model = load_model(Path(args.model))[0]
        model.set_dtype(mx.float32)
        model = load_adapters(model, f"{out}/mlx")
        model.eval()
        theirs = [np.array(model(mx.array([row]))[0].astype(mx.float32)) for row in ids]
        ours = common.our_logits(args.model, ids, adapter)
        common.report(f"mlx {name}", ours, theirs, base, 1e-4)
