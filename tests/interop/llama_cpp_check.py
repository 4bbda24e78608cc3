#!/usr/bin/env python3
"""GGUF adapters that sftmix wrote, and models merged into GGUF files, in llama.cpp: logits beside ours.
llama_cpp_check.py [MODEL [ADAPTER]] [--base FILE.gguf]
CMAKE_ARGS='-DGGML_NATIVE=ON' pip install llama-cpp-python gguf safetensors numpy

Without --base the base's GGUF file is written here with the `gguf` package, in f32, as llama.cpp's converter lays it out: a
writer that is neither ours nor the adapter's."""
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

import common

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}


def permuted(w, heads):
    """llama.cpp's LlamaModel.permute."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def write_base(model, path):
    c = common.config_of(model)
    name = ARCHITECTURES[c["model_type"]]
    heads, kv = c["num_attention_heads"], c.get("num_key_value_heads") or c["num_attention_heads"]
    head_dim = c.get("head_dim") or c["hidden_size"] // heads
    rope = c.get("rope_parameters") or {}
    if (rope.get("rope_type") or "default") != "default" or c.get("rope_scaling"):
        raise SystemExit("a scaled rotation needs the base's GGUF file: give --base")
    w = gguf.GGUFWriter(path, name)
    w.add_name("base")
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_block_count(c["num_hidden_layers"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_rope_dimension_count(head_dim)
    w.add_rope_freq_base(rope.get("rope_theta") or c.get("rope_theta") or 10000.0)
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_vocab_size(c["vocab_size"])
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    # Ids go in and logits come out: any vocabulary of the right size will do.
    w.add_tokenizer_model("llama")
    w.add_token_list([f"<{i}>".encode() for i in range(c["vocab_size"])])
    w.add_token_scores([0.0] * c["vocab_size"])
    w.add_token_types([gguf.TokenType.CONTROL if i < 3 else gguf.TokenType.NORMAL for i in range(c["vocab_size"])])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    arch = {v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[name]
    names = gguf.get_tensor_name_map(arch, c["num_hidden_layers"])
    for file in sorted(Path(model).glob("model*.safetensors")):
        for key, data in common.tensors_of(file):
            if name == "llama" and "q_proj" in key:
                data = permuted(data, heads)
            elif name == "llama" and "k_proj" in key:
                data = permuted(data, kv)
            w.add_tensor(names.get_name(key, try_suffixes=(".weight", ".bias")), data)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def logits(llama, ids, vocab):
    out = []
    for row in ids:
        llama.reset()
        llama.eval(row)
        found = np.ctypeslib.as_array(llama_cpp.llama_get_logits(llama.ctx), (len(row) * vocab,))
        out.append(found.reshape(len(row), vocab).copy())
    return out


parser = common.arguments(__doc__)
parser.add_argument("--base", help="the base's GGUF file in f32")
args = parser.parse_args()
vocab = common.config_of(args.model)["vocab_size"]
ids = common.ids_of(vocab, tokens=args.tokens)
base = common.our_logits(args.model, ids)
with tempfile.TemporaryDirectory() as folder:
    path = args.base or f"{folder}/base.gguf"
    if not args.base:
        write_base(args.model, path)
    # logits_all: of every position. One batch: sums are not cut elsewhere. The cache in f32, as ours is.
    options = dict(n_ctx=128, n_batch=128, n_ubatch=128, logits_all=True, n_threads=1, n_threads_batch=1, verbose=False,
                   type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32)
    plain = logits(llama_cpp.Llama(path, **options), ids, vocab)
    worst = max(float(np.abs(a - b).max()) for a, b in zip(base, plain))
    print(f"base alone: logits differ by {worst:.2e} at most")
    for name, adapter in common.cases(args.model, args.adapter, folder):
        ours = common.our_logits(args.model, ids, adapter)
        # Its adapters have no place for DoRA's lengths; merged models need none.
        if name != "dora":
            out = f"{folder}/out-{Path(name).name}"
            common.export(args.model, adapter, "gguf", out)
            theirs = logits(llama_cpp.Llama(path, lora_path=f"{out}/gguf/adapter.gguf", **options), ids, vocab)
            common.report(f"llama.cpp {name}", ours, theirs, base, max(1e-4, 3 * worst))
        # A merged file holds a vocabulary, so the model must have one.
        if (Path(args.model) / "tokenizer.json").exists():
            out = f"{folder}/merged-{Path(name).name}.gguf"
            flags = ["--model", args.model, "--adapter", adapter, "--to", "gguf", "--type", "f32", "--out", out]
            common.run("sftmix", "merge", *flags)
            theirs = logits(llama_cpp.Llama(out, **options), ids, vocab)
            common.report(f"llama.cpp {name}, merged", ours, theirs, base, max(2e-4, 3 * worst))
