#!/usr/bin/env python3
"""Assistant masks by transformers, of every training template under shared/tokenizers: writes masks.json beside this file, which
tests/it/tokens.rs reads.   pip install transformers jinja2;   python make_masks.py [../shared/tokenizers]   (run by hand)

The folders' own golden_masks.json have the models' vocabularies; no vocabulary of Gemma is at hand. Here each template gets
another's vocabulary, and its special tokens by tokenizer_config.json, as make_tokens.py adds them."""
import json
import logging
import tempfile
from pathlib import Path

import transformers
from transformers import AutoTokenizer

from make_tokens import CONFIG, HERE, SHARED, write_folder

# (template, whose vocabulary, bos, eos, further special tokens)
CHATML = ("<s>", "<|im_end|>", ["<|im_start|>"])
GEMMA = ("<bos>", "<eos>", ["<start_of_turn>", "<end_of_turn>"])
SETS = [
    ("gemma_training", "tiny-bpe-2k", *GEMMA),
    ("gemma_training", "mistral-7b-instruct-v0.3", *GEMMA),
    ("llama3_training", "tiny-bpe-2k", "<|begin_of_text|>", "<|eot_id|>", ["<|start_header_id|>", "<|end_header_id|>"]),
    ("phi3_training", "tiny-bpe-2k", "<s>", "<|endoftext|>", ["<|user|>", "<|assistant|>", "<|end|>", "<|system|>"]),
    ("qwen2_5_training", "tiny-bpe-2k", *CHATML),
    ("qwen3_training", "tiny-bpe-2k", *CHATML),
]


def user(text):
    return dict(role="user", content=text)


def answer(text):
    return dict(role="assistant", content=text)


CHATS = {
    "two turns": [user("Who keeps the keys?"), answer("Finch keeps them."), user("Since when?"), answer("Since May.")],
    "empty answer": [user("Say nothing."), answer(""), user("And now?"), answer("Now I speak.")],
    "blanks about it": [user("Go on."), answer("  a time there was\n"), user("And?"), answer("\n\nfirst\n\nsecond\n\n")],
    "letters": [user("Grüße! 你好 👋🏽"), answer("Schön 😀 — e\u0301 很好! \u200bend")],
    "special tokens in it": [user("What is <end_of_turn>?"), answer("<|im_start|> and <end_of_turn> are tokens, <|end|> too.")],
    "a user last": [user("Hi"), answer("Hello."), user("Are you there?")],
}


def main():
    logging.disable(logging.WARNING)
    sets = []
    for template, vocabulary, bos, eos, more in SETS:
        config = {"bos_token": bos, "eos_token": eos, "additional_special_tokens": more, "added_tokens_decoder": None}
        files = {CONFIG: {**config, "chat_template": None}}
        with tempfile.TemporaryDirectory() as made:
            write_folder(Path(made), vocabulary, vocabulary, files)
            tokenizer = AutoTokenizer.from_pretrained(made)
        tokenizer.chat_template = (SHARED / "chat_templates" / f"{template}.jinja").read_text(encoding="utf-8")
        chats = []
        for name, messages in CHATS.items():
            text = tokenizer.apply_chat_template(messages, tokenize=False)
            done = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
            ids, mask = list(done["input_ids"]), list(done["assistant_masks"])
            assert len(ids) == len(mask) and any(mask), (template, name)
            chats.append(dict(name=name, messages=messages, text=text, ids=ids, mask="".join(map(str, mask))))
        sets.append(dict(template=template, tokenizer=vocabulary, files=files, chats=chats))
    lines = ",\n".join(json.dumps(one, ensure_ascii=False, separators=(",", ":")) for one in sets)
    with open(HERE / "masks.json", "w", encoding="utf-8") as out:
        out.write(f'{{"transformers": "{transformers.__version__}", "sets": [\n{lines}\n]}}\n')
    print(f"{len(sets)} sets of {len(CHATS)} conversations")


if __name__ == "__main__":
    main()
