//! How text is cut before byte-level BPE, by llama.cpp's names: each as the components of a `tokenizer.json`, so that
//! a name is read as them, and they are written as a name.

use serde_json::{json, Value};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A way of cutting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// GPT-2's, which byte-level components have built in.
    Gpt2,
    /// Each digit apart, then GPT-2's.
    Digits,
    /// One expression.
    By(&'static str),
    /// What llama.cpp does where no name is given.
    Default,
}

/// A pre-tokenizer that has a name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pre {
    /// llama.cpp's names for it; the first is written.
    names: &'static [&'static str],
    cut: Cut,
    /// Texts become NFC first. No field says so: it is what the models of this name do at Hugging Face.
    nfc: bool,
    /// A piece that is in the vocabulary is one token, whatever the merges make of it.
    pub ignore_merges: bool,
    /// Whether texts begin with BOS where no field says.
    pub add_bos: bool,
}

const fn pre(names: &'static [&'static str], cut: Cut) -> Pre {
    Pre { names, cut, nfc: false, ignore_merges: false, add_bos: false }
}

static ALL: [Pre; 8] = [
    Pre {
        ignore_merges: true,
        add_bos: true,
        ..pre(&["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"], Cut::By(LLAMA3))
    },
    Pre { nfc: true, ..pre(&["qwen2", "deepseek-r1-qwen"], Cut::By(QWEN2)) },
    pre(&["dbrx", "smaug-bpe", "olmo2"], Cut::By(LLAMA3)),
    pre(&["stablelm2"], Cut::By(QWEN2)),
    pre(&["smollm", "starcoder", "refact", "command-r"], Cut::Digits),
    pre(&["gpt-2", "gpt2", "olmo", "phi-2", "exaone4"], Cut::Gpt2),
    Pre { ignore_merges: true, add_bos: true, ..pre(&["tekken"], Cut::By(TEKKEN)) },
    pre(&["default"], Cut::Default),
];

impl Pre {
    /// The pre-tokenizer of this name.
    pub fn named(name: &str) -> Option<&'static Pre> {
        ALL.iter().find(|p| p.names.contains(&name))
    }

    /// Every name that is known.
    pub fn names() -> String {
        ALL.iter().flat_map(|p| p.names).copied().collect::<Vec<_>>().join(", ")
    }

    /// The name that is written.
    pub fn name(&self) -> &'static str {
        self.names[0]
    }

    /// The one that does what these components of a `tokenizer.json` do.
    pub fn of(normalizer: &Value, pre_tokenizer: &Value, ignore_merges: bool) -> Option<&'static Pre> {
        let cut = plain(pre_tokenizer);
        let fits = |p: &&Pre| *normalizer == p.normalizer() && cut == plain(&p.pre_tokenizer());
        let same = ALL.iter().filter(fits);
        // The merges of a vocabulary that was trained with them reach every piece, so that ignoring them is a matter
        // of speed; the name that says the same is preferred.
        let mut ranked: Vec<&Pre> = same.collect();
        ranked.sort_by_key(|p| p.ignore_merges != ignore_merges);
        ranked.first().copied().filter(|p| p.ignore_merges == ignore_merges)
    }

    /// `normalizer` of a `tokenizer.json`.
    pub fn normalizer(&self) -> Value {
        match self.nfc {
            true => json!({ "type": "NFC" }),
            false => Value::Null,
        }
    }

    /// `pre_tokenizer` of a `tokenizer.json`.
    pub fn pre_tokenizer(&self) -> Value {
        let bytes = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": use_regex });
        let split = |regex: &str| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
        let sequence = |parts: Vec<Value>| json!({ "type": "Sequence", "pretokenizers": parts });
        match self.cut {
            Cut::Gpt2 => bytes(true),
            Cut::Digits => sequence(vec![json!({ "type": "Digits", "individual_digits": true }), bytes(true)]),
            Cut::By(regex) => sequence(vec![split(regex), bytes(false)]),
            Cut::Default => {
                let parts = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"];
                sequence(parts.iter().map(|regex| split(regex)).chain([bytes(false)]).collect())
            }
        }
    }
}

/// The components without what changes no token, and with one way of writing what can be written in two.
fn plain(component: &Value) -> Vec<Value> {
    let parts = match component.get("pretokenizers").and_then(Value::as_array) {
        Some(parts) => parts.iter().flat_map(plain).collect(),
        None => vec![component.clone()],
    };
    let mut out: Vec<Value> = Vec::new();
    for mut part in parts {
        if let Some(map) = part.as_object_mut() {
            map.remove("trim_offsets");
        }
        // GPT-2's expression before bytes without one is bytes with it.
        let bytes = part.get("type") == Some(&json!("ByteLevel")) && part.get("use_regex") == Some(&json!(false));
        let gpt2 = |p: &Value| p.get("pattern").and_then(|p| p.get("Regex")) == Some(&json!(GPT2));
        if bytes && out.last().is_some_and(gpt2) {
            out.pop();
            part["use_regex"] = true.into();
        }
        out.push(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_written_under_a_name_that_reads_as_it() {
        for p in &ALL {
            let found = Pre::of(&p.normalizer(), &p.pre_tokenizer(), p.ignore_merges).unwrap();
            assert_eq!((found.cut, found.ignore_merges, found.nfc), (p.cut, p.ignore_merges, p.nfc), "{p:?}");
            let named = Pre::named(found.name()).unwrap();
            assert_eq!(named.name(), found.name());
            let read: Result<tokenizers::PreTokenizerWrapper, _> = serde_json::from_value(p.pre_tokenizer());
            assert!(read.is_ok(), "{p:?}: {read:?}");
        }
        assert!(Pre::named("glm4").is_none() && Pre::names().contains("stablelm2"));
        let trimmed =
            json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
        assert_eq!(Pre::of(&Value::Null, &trimmed, false).map(Pre::name), Some("gpt-2"));
        let spaced = json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true });
        assert!(Pre::of(&Value::Null, &spaced, false).is_none());
    }
}
