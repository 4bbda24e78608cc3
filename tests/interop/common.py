"""What the checks share: ours is asked for logits by the example `logits`, and adapters are made with numbers in them.

Every check takes a model folder and, where it has one, an adapter; without one it makes adapters itself: plain, with
rsLoRA, with ranks and alphas that differ by module, and with DoRA. They print the largest difference and fail above their bound."""
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
ROWS, TOKENS = 20, 48


def run(program, *args):
    """Runs `sftmix` or an example that was built before: cargo build --release --bins --examples."""
    path = TARGET / ("examples/logits" if program == "logits" else program)
    done = subprocess.run([path, *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{path.name} {' '.join(map(str, args))}\n{done.stdout}{done.stderr}")
    return done.stdout


def ids_of(vocab, rows=ROWS, tokens=TOKENS):
    """Rows of ids, the same each time."""
    random = np.random.default_rng(7)
    return [[1, *map(int, random.integers(3, vocab, tokens - 1))] for _ in range(rows)]


def our_logits(model, ids, adapter=None):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "ids.json").write_text(json.dumps(ids))
        out = Path(folder) / "logits.safetensors"
        run("logits", model, Path(folder) / "ids.json", out, *([adapter] if adapter else []))
        found = load_file(out)
    return [found[str(i)] for i in range(len(ids))]


def config_of(model):
    return json.loads((Path(model) / "config.json").read_text())


def linears_of(model):
    """Module path -> (out, in) of every linear of the blocks, from the weight files."""
    shapes = {}
    for file in sorted(Path(model).glob("model*.safetensors")):
        for name, t in load_file_shapes(file).items():
            if name.startswith("model.layers.") and name.endswith(".weight") and len(t) == 2:
                shapes[name.removesuffix(".weight")] = tuple(t)
    return shapes


def load_file_shapes(file):
    with open(file, "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
    return {name: t["shape"] for name, t in header.items() if name != "__metadata__"}


def tensors_of(file):
    """Name and numbers in f32 of each tensor of a safetensors file; numpy has no bf16."""
    raw = Path(file).read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    for name, t in json.loads(raw[8:start]).items():
        if name == "__metadata__":
            continue
        data = raw[start + t["data_offsets"][0]:start + t["data_offsets"][1]]
        if t["dtype"] == "BF16":
            data = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            data = np.frombuffer(data, {"F32": np.float32, "F16": np.float16}[t["dtype"]])
        yield name, data.astype(np.float32).reshape(t["shape"])


def make_adapter(model, folder, kind, size=0.02):
    """A PEFT folder, not by our writer. kind: plain, rslora, mixed (ranks and alphas by module, first block left out),
    dora (lengths of rows that are not the base's)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(KINDS.index(kind))
    tensors, ranks, alphas = {}, {}, {}
    weights = {} if kind != "dora" else {n: w for f in sorted(Path(model).glob("model*.safetensors")) for n, w in tensors_of(f)}
    for number, (module, (out, inp)) in enumerate(sorted(linears_of(model).items())):
        if kind == "mixed" and module.startswith("model.layers.0."):
            continue
        rank = [4, 2, 7][number % 3] if kind == "mixed" else 4
        if kind == "mixed":
            ranks[module], alphas[module] = rank, [8, 3, 10, 16][number % 4]
        tensors[f"base_model.model.{module}.lora_A.weight"] = random.normal(0, 1 / math.sqrt(inp), (rank, inp))
        tensors[f"base_model.model.{module}.lora_B.weight"] = random.normal(0, size, (out, rank))
        if kind == "dora":
            lengths = np.linalg.norm(weights[f"{module}.weight"], axis=1)
            tensors[f"base_model.model.{module}.lora_magnitude_vector"] = lengths * random.uniform(0.9, 1.1, out)
    save_file({k: v.astype(np.float32) for k, v in tensors.items()}, folder / "adapter_model.safetensors", {"format": "pt"})
    names = sorted({m.rsplit(".", 1)[1] for m in linears_of(model)})
    config = dict(peft_type="LORA", task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=0.0, target_modules=names,
                  bias="none", base_model_name_or_path=str(model), use_rslora=kind != "plain", use_dora=kind == "dora",
                  fan_in_fan_out=False, inference_mode=True, init_lora_weights=True, modules_to_save=None,
                  rank_pattern=ranks, alpha_pattern=alphas,
                  layers_to_transform=None)
    if kind == "mixed":
        config["layers_to_transform"] = list(range(1, config_of(model)["num_hidden_layers"]))
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    return folder


KINDS = ["plain", "rslora", "mixed", "dora"]


def cases(model, adapter, folder):
    """(name, PEFT folder): the one that is given, or one of each kind."""
    if adapter:
        return [(str(adapter), Path(adapter))]
    return [(kind, make_adapter(model, Path(folder) / kind, kind)) for kind in KINDS]


def export(model, adapter, to, out):
    return run("sftmix", "export", "--model", model, "--adapter", adapter, "--to", to, "--out", out)


def report(name, ours, theirs, base, bound, factor=10):
    """Prints how far logits lie apart, beside what the adapter changes; ends the program above the bound, or where
    the adapter does not change `factor` times as much."""
    worst = max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs))
    effect = max(float(np.abs(a - b).max()) for a, b in zip(ours, base))
    largest = max(float(np.abs(a).max()) for a in ours)
    print(f"{name}: logits differ by {worst:.2e} at most over {len(ours)} rows "
          f"(allowed {bound:.0e}; largest logit {largest:.1f}, the adapter moves them by up to {effect:.2f})")
    if not worst <= bound:
        sys.exit(f"{name}: beyond {bound:.0e}")
    if effect < factor * bound:
        sys.exit(f"{name}: the adapter changes too little for this to be a check")


def arguments(about):
    import argparse
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("model", nargs="?", default=SHARED / "models/stories260K", help="Hugging Face model folder")
    parser.add_argument("adapter", nargs="?", help="PEFT adapter folder [default: four that are made here]")
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"tokens of a row [default: {TOKENS}]")
    return parser
