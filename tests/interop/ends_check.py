#!/usr/bin/env python3
"""Where a merged model stops, in transformers and llama.cpp: a model is trained here on conversations whose template ends a turn with a
token that no file of the base names as an end, and merged into a folder and a GGUF file.   ends_check.py [MODEL]

By its own generation_config.json the merged model must stop there, with the answer that it learnt; by the base's end token alone it must
run on, or the check would show nothing. In llama.cpp, where it is installed (pip install llama-cpp-python), the token must be among those
that end a generation, and come at the same place. The token itself is one of the vocabulary that only tokenizer_config.json makes a token."""
import json
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import common

END, LONGEST = "!", 40
TEMPLATE = ("{% for m in messages %}{{ m.role }}\n{{ m.content }}" + END + "{% endfor %}"
            "{% if add_generation_prompt %}assistant\n{% endif %}")
QUESTIONS = {"Who has a ball?": "Tom has a ball.", "Where is the cat?": "In the park.", "Is it big?": "Yes, it is."}


def base_with_template(model, to):
    """The model's folder with the template, and its end as a special token."""
    shutil.copytree(model, to, ignore=shutil.ignore_patterns("golden*"))
    id = json.loads((to / "tokenizer.json").read_text())["model"]["vocab"][END]
    config = json.loads((to / "tokenizer_config.json").read_text())
    flags = dict(lstrip=False, rstrip=False, normalized=False, single_word=False, special=True)
    config.setdefault("added_tokens_decoder", {})[str(id)] = dict(flags, content=END)
    (to / "tokenizer_config.json").write_text(json.dumps(config))
    (to / "chat_template.jinja").write_text(TEMPLATE)
    return id


def ends_of(value):
    return [] if value is None else value if isinstance(value, list) else [value]


def asked(tokenizer, question):
    """The ids of a question, up to where its answer begins."""
    chat = [{"role": "user", "content": question}]
    # The template names no beginning token, which training puts nowhere either.
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def answered(model, tokenizer, question, **ends):
    """The ids that a greedy generation adds."""
    ids = torch.tensor([asked(tokenizer, question)])
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=LONGEST, do_sample=False, **ends)
    return out[0, ids.shape[1]:].tolist()


def answered_by_llama_cpp(llama_cpp, file, tokenizer, question):
    """The same in llama.cpp, which knows its ends by the file's fields."""
    llama = llama_cpp.Llama(str(file), n_ctx=256, logits_all=True, verbose=False)
    vocabulary = llama_cpp.llama_model_get_vocab(llama.model)
    ids, out = asked(tokenizer, question), []
    while len(out) < LONGEST:
        llama.eval(ids)
        ids = [int(llama.scores[llama.n_tokens - 1].argmax())]
        out += ids
        if llama_cpp.llama_vocab_is_eog(vocabulary, ids[0]):
            break
    return out


args = common.arguments(__doc__).parse_args()
with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    base, out = folder / "base", folder / "merged"
    end = base_with_template(args.model, base)
    own = ends_of(common.config_of(base)["eos_token_id"])
    assert end not in own, f"{END} ends the base already"
    rows = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in QUESTIONS.items()]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 16))
    common.run("sftmix", "train", "--model", base, "--data", folder / "rows.jsonl", "--out", folder / "run", "--recipe", "ntp",
               "--epochs", 20, "--batch-size", 8, "--lr", "2e-3", "--lora-r", 16, "--cache-dir", folder / "cache")
    common.run("sftmix", "merge", folder / "run", "--out", out, "--cache-dir", folder / "cache")

    generation = GenerationConfig.from_pretrained(out)
    assert end in ends_of(generation.eos_token_id), f"generation_config.json has the ends {generation.eos_token_id}, not {end}"
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.convert_tokens_to_ids(END) == end
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    answers = {}
    for question, answer in QUESTIONS.items():
        ids = answers[question] = answered(model, tokenizer, question)
        text = tokenizer.decode(ids[:-1]).strip()
        print(f"{question} {text!r}, {len(ids)} tokens, the last {tokenizer.convert_ids_to_tokens(ids[-1])}")
        assert ids[-1] == end and end not in ids[:-1], f"{question}: it does not stop at {END}: {ids}"
        assert text == answer, f"{question}: {text!r} is not what was learnt, {answer!r}"
        on = answered(model, tokenizer, question, eos_token_id=own)
        assert len(on) > len(ids) and on[:len(ids)] == ids, f"{question}: it stops without the trained end too: {on}"
    print(f"a merged model stops at the trained end of turn, {END}, by its own generation_config.json")

    try:
        import llama_cpp
    except ImportError:
        raise SystemExit("llama-cpp-python is not installed: where llama.cpp stops was not tried")
    file = folder / "merged.gguf"
    common.run("sftmix", "merge", folder / "run", "--to", "gguf", "--type", "f32", "--out", file, "--cache-dir", folder / "cache")
    for question, ids in answers.items():
        theirs = answered_by_llama_cpp(llama_cpp, file, tokenizer, question)
        assert theirs == ids, f"{question}: llama.cpp gives {theirs}, transformers {ids}"
print("and in llama.cpp by what the GGUF file says")
