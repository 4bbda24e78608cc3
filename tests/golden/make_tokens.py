#!/usr/bin/env python3
"""Token ids by transformers, of tokenizers with additions: writes tokens.json beside this file, which tests/it/tokens.rs reads.
pip install transformers jinja2;   python make_tokens.py [../shared/tokenizers]   (run by hand; the output is committed)

Each folder is made in a temporary place of the tokenizer.json of a folder under shared/tokenizers, its tokenizer_config.json and what is
added: merge patches (RFC 7386: objects are merged, null takes a key away) by file. The vocabularies are not in the
repository, the additions, the texts and their ids are. `around` is what the tokenizer puts before and behind every text."""
import gzip
import json
import logging
import sys
import tempfile
from pathlib import Path

import transformers
from transformers import AutoTokenizer

HERE = Path(__file__).resolve().parent
SHARED = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parents[2] / "shared" / "tokenizers"
CONFIG, OLDER, MAP = "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"

# folder: (whose tokenizer.json, two tokens of its own that texts name)
FOLDERS = {
    "llama-3.2-1b-instruct": ("llama-3.2-1b-instruct", "<|eot_id|>", "<|begin_of_text|>"),
    "minimind": ("minimind", "<|im_end|>", "<|im_start|>"),
    "mistral-7b-instruct-v0.3": ("mistral-7b-instruct-v0.3", "</s>", "[INST]"),
    "phi-3-mini-4k-instruct": ("phi-3-mini-4k-instruct", "<|end|>", "<|user|>"),
    "qwen2.5-0.5b-instruct": ("qwen2.5-0.5b-instruct", "<|im_end|>", "<tool_call>"),
    "qwen3-0.6b": ("qwen2.5-0.5b-instruct", "<|im_end|>", "<think>"),
    "tiny-bpe-2k": ("tiny-bpe-2k", "the", "of"),
}
TEXTS = [
    "",
    " ",
    "Where is <a>the cat<ab>? <b>\n",
    " <strip-both>  x  <strip-both> y <left> z <right> \n q<left>r<right>s",
    "<word> a<word>b <word>. <word>",
    "Grüße <a>, 你好<ab>世界, привет<b> שלום 👋🏽 e\u0301<a>",
    "NFC: \u00e9<é>e\u0301 <e\u0301>  and <A>",
    "in<b><ab><a><b>in<a>b and <a>b<a> within <new>",
    "a  b\t c\n\n <pad> [PAD] <unk> </s> <s>",
    "def f(x):\n    return x  # 1234 <a>\n",
    "<|begin_of_text|> <|im_start|> system\nBrief.<|im_end|>\n<|user|> [INST]  a [/INST]<|eot_id|> <think> x</think>",
    "<tool_call> {}\n</tool_call> all of  it<|end|>\n",
]


def token(content, **flags):
    plain = dict(lstrip=False, normalized=False, rstrip=False, single_word=False, special=False)
    return dict(plain, content=content, **flags)


def additions(free, base, ids, own, other):
    """name: what is added, by file. `free` is the first id beyond the folder's tokens, `base` the first beyond its tokenizer.json's,
    `ids` are those of its tokens, `own` and `other` two of them, and "in" is a word of every vocabulary."""
    flags = [
        token("<a>"), token("<ab>", special=True), token("<a>b", normalized=True), token("<b>", special=True), token("<a><b>"),
        token("<strip-both>", lstrip=True, rstrip=True), token("<left>", lstrip=True, special=True), token("<right>", rstrip=True),
        token("<word>", single_word=True), token("<é>", normalized=True),
    ]
    by_ids = {str(ids["in"]): token("in", single_word=True), **{str(free + i): t for i, t in enumerate(flags)}}
    older = {"in": ids["in"], **{t["content"]: base + i for i, t in enumerate(flags)}}
    none = {"added_tokens_decoder": None, "additional_special_tokens": None}
    eos = {"eos_token": own}
    return {
        "as it is": {CONFIG: eos},
        "decoder": {CONFIG: {"added_tokens_decoder": by_ids, **eos}},
        "decoder with other flags": {
            CONFIG: {"added_tokens_decoder": {str(ids[other]): token(other, rstrip=True, special=True)}, **eos}},
        "decoder beside the older files": {
            CONFIG: {"added_tokens_decoder": dict(list(by_ids.items())[:4]), **eos},
            OLDER: {"<right>": free + 3, "<word>": free + 4},
            MAP: {"additional_special_tokens": ["<left>"], "sep_token": "<b>"}},
        "older": {CONFIG: {**none, **eos}, OLDER: older},
        "older and special": {
            CONFIG: {**none, **eos}, OLDER: older,
            MAP: {"additional_special_tokens": ["<a>b", "<new>"], "pad_token": token("<pad>", rstrip=True), "sep_token": "<b>"}},
        "only named": {
            CONFIG: {"pad_token": "[PAD]", "additional_special_tokens": ["<ab>", "<a>", other], "bos_token": other, **eos}},
        "extra and of the model": {
            CONFIG: {"extra_special_tokens": ["<b>", "<a>"], "additional_special_tokens": None, "image_token": "<word>", **eos}},
    }


def patched(value, patch):
    if not isinstance(patch, dict):
        return patch
    value = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        if change is None:
            value.pop(key, None)
        else:
            value[key] = patched(value.get(key), change)
    return value


def tokenizer_of(source):
    plain, packed = SHARED / source / "tokenizer.json", SHARED / source / "tokenizer.json.gz"
    return plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())


def own_of(folder, name):
    path = SHARED / folder / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_folder(to, folder, source, files):
    (to / "tokenizer.json").write_bytes(tokenizer_of(source))
    for name in sorted({"config.json", CONFIG, *files}):
        content = patched(own_of(folder, name), files.get(name, {}))
        if content:
            (to / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def encoded(folder):
    """What is put around every text, and the ids of each between that."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    around = tokenizer("")["input_ids"]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    for text, inner in zip(TEXTS, ids):
        assert tokenizer(text)["input_ids"] == around + inner, (folder, text)
    return around, ids


def cases():
    for folder, (source, own, other) in FOLDERS.items():
        tokenizer = json.loads(tokenizer_of(source))
        ids = {**tokenizer["model"]["vocab"], **{t["content"]: t["id"] for t in tokenizer["added_tokens"]}}
        base = max(ids.values()) + 1
        ids.update({t["content"]: int(id) for id, t in own_of(folder, CONFIG).get("added_tokens_decoder", {}).items()})
        for name, files in additions(max(ids.values()) + 1, base, ids, own, other).items():
            yield folder, source, name, files


def main():
    logging.disable(logging.WARNING)
    found = []
    for folder, source, name, files in cases():
        with tempfile.TemporaryDirectory() as made:
            write_folder(Path(made), folder, source, files)
            around, ids = encoded(made)
        found.append(dict(folder=folder, tokenizer=source, name=name, files=files, around=around, ids=ids))
    lines = ",\n".join(json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in found)
    texts = json.dumps(TEXTS, ensure_ascii=False)
    with open(HERE / "tokens.json", "w", encoding="utf-8") as out:
        out.write(f'{{"transformers": "{transformers.__version__}", "texts": {texts}, "cases": [\n{lines}\n]}}\n')
    print(f"{len(found)} cases of {len(TEXTS)} texts")


if __name__ == "__main__":
    main()
