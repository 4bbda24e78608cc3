#!/usr/bin/env python3
"""Golden values of LoRA's variants from transformers + peft.   python peft_dora.py [OUT_DIR] [NAME…]
Run by hand; the output is committed under tests/golden/lora_variants/. Bases and rows are those of tests/golden/<model>;
everything is computed in f64 as in tests/golden/make_goldens.py, the adapter folders are PEFT's own, in f32.
Dropout masks and NEFTune's noise are drawn as src/rng.rs draws them, so that both sides see the same ones."""
import contextlib, json, os, shutil, sys
import numpy as np, torch, transformers, peft
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "..", "golden")
OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.join(GOLDEN, "lora_variants")
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SEED, P, ALPHA = 5, 0.3, 5.0
# In the order of the alphabet: PEFT sorts them when it saves, and then the first that matches counts.
RANKS = {"layers.1.mlp.down_proj": 2, "mlp.down_proj": 6, "q_proj": 8}
ALPHAS = {"layers.0.mlp.up_proj": 16, "v_proj": 3}

# name: (model, LoraConfig's arguments, LoRA+ ratio, NEFTune)
VARIANTS = {
    "dora": ("llama", dict(use_dora=True), None, False),
    "dora_bias": ("qwen2", dict(use_dora=True), 4.0, False),
    "dora_patterns": ("llama", dict(use_dora=True, use_rslora=True, rank_pattern=RANKS, alpha_pattern=ALPHAS), None, False),
    "dora_dropout": ("llama", dict(use_dora=True, lora_dropout=P), None, False),
    "dora_dropout_bias": ("qwen2", dict(use_dora=True, lora_dropout=P, target_modules=["q_proj", "v_proj", "down_proj"]), None, False),
    "patterns": ("llama", dict(rank_pattern=RANKS, alpha_pattern=ALPHAS), None, False),
    "layers": ("llama", dict(target_modules=["q_proj", "down_proj"], layers_to_transform=[1]), None, False),
    "rslora": ("llama", dict(use_rslora=True, lora_alpha=4), None, False),
    "loraplus": ("llama", {}, 4.0, False),
    "neftune": ("llama", dict(target_modules=["v_proj", "up_proj"]), None, True),
    # Where the noise lies beside the factor of the embeddings: the hook is on the embedding module.
    **{f"neftune_{m}": (m, dict(target_modules=["v_proj", "up_proj"]), None, True) for m in ["gemma", "gemma2", "gemma3_text", "granite"]},
}

MASK64, GOLD = (1 << 64) - 1, 0x9E3779B97F4A7C15


def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


def key(seed, stream, parts):
    k = mix((seed + GOLD) & MASK64) ^ mix((stream * GOLD) & MASK64)
    for p in parts:
        k = mix(((k * 3 + GOLD) & MASK64) ^ mix((p + GOLD) & MASK64))
    return k


def shares(k, n):
    """Numbers in [0, 1) of 24 bits."""
    return np.array([(mix((k + (i + 1) * GOLD) & MASK64) >> 40) * 2.0 ** -24 for i in range(n)], dtype=np.float32)


def fnv1a(text):
    h = 0xCBF29CE484222325
    for b in text.encode():
        h = ((h ^ b) * 0x100000001B3) & MASK64
    return h


def per_token(lengths, width, longest, of_row):
    out = np.zeros((len(lengths), longest, width), dtype=np.float32)
    for r, n in enumerate(lengths):
        out[r, :n] = of_row(r, n).reshape(n, width)
    return torch.from_numpy(out).double()


class Mask(torch.nn.Module):
    """Dropout whose masks are those of the engine at a step."""

    def __init__(self, module, width, lengths, longest):
        super().__init__()
        self.module, self.width, self.lengths, self.longest, self.step = fnv1a(module), width, lengths, longest, 0

    def forward(self, x):
        keep = np.float32(1) / (np.float32(1) - np.float32(P))
        row = lambda r, n: np.where(shares(key(SEED, 5, [self.step, r, self.module]), n * self.width) >= np.float32(P), keep, np.float32(0))
        return x * per_token(self.lengths, self.width, self.longest, row)


@contextlib.contextmanager
def f64():
    keep = torch.float32, torch.float, torch.Tensor.float
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = keep


def named(pm):   # PEFT file names
    short = lambda n: n.replace(".default", "").replace("lora_magnitude_vector.weight", "lora_magnitude_vector")
    return {short(n): p for n, p in pm.named_parameters() if p.requires_grad}


def adapt(model, kw):
    pm = peft.get_peft_model(model, peft.LoraConfig(**{**dict(r=4, lora_alpha=8, target_modules=ALL, task_type="CAUSAL_LM"), **kw}))
    g = torch.Generator().manual_seed(41)
    half = lambda x: x.to(torch.float16)
    with torch.no_grad():
        for n, p in sorted(named(pm).items()):
            noise = torch.randn(p.shape, generator=g, dtype=torch.float64)
            if "magnitude" in n:     # not the lengths that the rows have: those would hide the factor
                p.copy_(half(p.double() * (1 + 0.2 * noise)).to(p.dtype))
            else:
                p.copy_(half(0.2 * noise).to(p.dtype))
    return pm


def load(name):
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_pretrained(os.path.join(GOLDEN, name), dtype=torch.float32, attn_implementation="eager")


def variant(name, model, kw, ratio, neftune):
    d = os.path.join(OUT, name)
    shutil.rmtree(d, ignore_errors=True)
    os.makedirs(d)
    rows = load_file(os.path.join(GOLDEN, model, "golden.safetensors"))
    ids, mask, lab = rows["input_ids"], rows["attention_mask"], rows["labels"]
    lengths, longest = mask.sum(1).tolist(), ids.shape[1]
    run = lambda m: m(input_ids=ids, attention_mask=mask, labels=lab, use_cache=False).loss
    adam = dict(lr=1e-2, betas=(0.9, 0.999), eps=1e-8)
    js = dict(model=model, lora=kw, loraplus_lr_ratio=ratio, neftune_noise_alpha=ALPHA if neftune else None, seed=SEED,
              adamw=dict(lr=1e-2, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01), losses_steps=[],
              versions=dict(torch=torch.__version__, transformers=transformers.__version__, peft=peft.__version__))
    g = {}
    base = load(model)
    with f64():
        base = base.double()
        norms = {f"norm.{n.removesuffix('.weight')}": p.norm(dim=1) for n, p in base.named_parameters() if n.endswith("_proj.weight")}
        pm = adapt(base, kw).eval()
        g.update({"init." + n: p.detach().clone() for n, p in named(pm).items()})
        if kw.get("use_dora"):
            g.update({n: v.detach() for n, v in norms.items()})
        masks = []
        if "lora_dropout" in kw:
            for n, m in pm.named_modules():
                if isinstance(m, peft.tuners.lora.Linear):
                    m.lora_dropout["default"] = Mask(n.removeprefix("base_model.model."), m.in_features, lengths, longest)
                    masks.append(m.lora_dropout["default"])
                    m.training = True
        step = 0
        if neftune:
            width = base.config.hidden_size
            size = lambda n: np.float32(ALPHA / np.sqrt(float(n * width)))
            row = lambda r, n: (np.float32(2) * shares(key(SEED, 8, [step, r]), n * width) - np.float32(1)) * size(n)
            base.get_input_embeddings().register_forward_hook(lambda m, i, o: o + per_token(lengths, width, longest, row))
        if ratio:
            opt = create_loraplus_optimizer(pm, torch.optim.AdamW, loraplus_lr_ratio=ratio, loraplus_weight_decay=0.01, **adam)
        else:
            opt = torch.optim.AdamW([p for p in pm.parameters() if p.requires_grad], weight_decay=0.01, **adam)
        for step in range(3):
            for m in masks:
                m.step = step
            loss = run(pm)
            js["losses_steps"].append(loss.item())
            opt.zero_grad()
            loss.backward()
            if step == 0:
                g.update({"grad." + n: p.grad.clone() for n, p in named(pm).items()})
            opt.step()
        g.update({"step3." + n: p.detach().clone() for n, p in named(pm).items()})
    # PEFT's own files for the adapter that the steps begin with.
    p32 = adapt(load(model), kw)
    init = {n: p.detach().clone() for n, p in named(p32).items()}
    assert all((p.double() - g["init." + n]).abs().max() < 1e-3 for n, p in init.items())
    with torch.no_grad():     # rounding of the norms may differ by a bit of f16 between f32 and f64
        for n, p in named(p32).items():
            p.copy_(g["init." + n].to(p.dtype))
    p32.peft_config["default"].base_model_name_or_path = model
    p32.save_pretrained(d + "/adapter", save_embedding_layers=False)
    if os.path.exists(d + "/adapter/README.md"):
        os.remove(d + "/adapter/README.md")
    again = peft.PeftModel.from_pretrained(load(model), d + "/adapter").eval()
    with torch.no_grad():
        assert abs(float(run(again)) - float(run(p32.eval()))) < 1e-6
    g = {n: t.to(torch.float32).contiguous() for n, t in g.items() if not n.startswith("init.")}
    save_file(g, d + "/golden.safetensors")
    json.dump(js, open(d + "/golden.json", "w"), indent=1)
    size = sum(os.path.getsize(os.path.join(r, f)) for r, _, fs in os.walk(d) for f in fs)
    print(f"{name:18s} {size / 1024:6.0f} KiB  {js['losses_steps']}")


for name, how in VARIANTS.items():
    if not sys.argv[2:] or name in sys.argv[2:]:
        variant(name, *how)
