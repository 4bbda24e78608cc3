//! Byte-level BPE: learns merges from text and writes `tokenizer.json` as Hugging Face's library reads it.

use std::collections::HashMap;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::tokenizer::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

pub const BOS: &str = "<s>";
pub const EOS: &str = "</s>";
pub const BOS_ID: u32 = 0;
pub const EOS_ID: u32 = 1;

/// The character that stands for each byte (GPT-2's table).
fn byte_chars() -> Vec<String> {
    let plain = |b: u32| (0x21..=0x7e).contains(&b) || (0xa1..=0xac).contains(&b) || (0xae..=0xff).contains(&b);
    let mut next = 256;
    (0..256u32)
        .map(|b| {
            let c = if plain(b) { b } else { next };
            next += u32::from(!plain(b));
            char::from_u32(c).expect("below the surrogates").to_string()
        })
        .collect()
}

/// Learns a vocabulary of `size` tokens from texts and returns the `tokenizer.json`.
pub fn learn(texts: impl Iterator<Item = String>, size: usize) -> serde_json::Value {
    let split = ByteLevel::new(false, true, true);
    let mut counts: HashMap<String, usize> = HashMap::new();
    for text in texts {
        let mut pieces = PreTokenizedString::from(text);
        split.pre_tokenize(&mut pieces).expect("any text splits");
        for (piece, _, _) in pieces.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            *counts.entry(piece.to_string()).or_default() += 1;
        }
    }
    let mut words: Vec<(Vec<String>, usize)> =
        counts.into_iter().map(|(w, n)| (w.chars().map(String::from).collect(), n)).collect();
    words.sort();

    let mut vocab: Vec<String> = vec![BOS.into(), EOS.into()];
    vocab.extend(byte_chars());
    let mut merges: Vec<[String; 2]> = Vec::new();
    while vocab.len() < size {
        let mut pairs: HashMap<(&str, &str), usize> = HashMap::new();
        for (word, n) in &words {
            for two in word.windows(2) {
                *pairs.entry((&two[0], &two[1])).or_default() += n;
            }
        }
        // Most frequent; among equals the first in order, so that the result depends on the text alone.
        let Some((&(a, b), _)) = pairs.iter().max_by(|x, y| x.1.cmp(y.1).then(y.0.cmp(x.0))) else { break };
        let (a, b) = (a.to_string(), b.to_string());
        let joined = format!("{a}{b}");
        for (word, _) in &mut words {
            let mut i = 0;
            while i + 1 < word.len() {
                if word[i] == a && word[i + 1] == b {
                    word[i] = joined.clone();
                    word.remove(i + 1);
                }
                i += 1;
            }
        }
        // Two ways to one string give one token.
        if !vocab.contains(&joined) {
            vocab.push(joined);
        }
        merges.push([a, b]);
    }
    to_json(&vocab, &merges)
}

fn to_json(vocab: &[String], merges: &[[String; 2]]) -> serde_json::Value {
    let special = |id: u32, text: &str| {
        serde_json::json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let ids: serde_json::Map<String, serde_json::Value> =
        vocab.iter().enumerate().map(|(i, t)| (t.clone(), i.into())).collect();
    serde_json::json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(BOS_ID, BOS), special(EOS_ID, EOS)],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": BOS, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {BOS: {"id": BOS, "ids": [BOS_ID], "tokens": [BOS]}}
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": ids, "merges": merges}
    })
}
