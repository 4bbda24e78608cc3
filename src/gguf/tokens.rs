//! What a GGUF file says of its tokens: their kinds, and which of them end an answer.

use super::file::GgufFile;
use crate::error::Result;

/// Kinds of tokens, by ggml's numbers.
pub(crate) const NORMAL: i32 = 1;
pub(crate) const UNKNOWN: i32 = 2;
pub(crate) const CONTROL: i32 = 3;
pub(crate) const USER_DEFINED: i32 = 4;
pub(crate) const UNUSED: i32 = 5;
pub(crate) const BYTE: i32 = 6;

/// Control tokens that end an answer, whether or not a field names them: llama.cpp's list.
const ENDS: [&str; 9] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<EOT>",
    "<end_of_utterance>",
];

/// Whether readers take a control token of this text for an end of an answer, whatever the fields say.
pub(crate) fn ends_an_answer(text: &str) -> bool {
    ENDS.contains(&text)
}

/// Ids that end a generation: those that fields name, the end of sequence first, then control tokens known for it.
pub(crate) fn end_tokens(file: &GgufFile) -> Result<Vec<u64>> {
    let mut ids = Vec::new();
    for name in ["eos", "eot", "eom"] {
        ids.extend(file.size(&format!("tokenizer.ggml.{name}_token_id"))?);
    }
    let kinds = file.integers("tokenizer.ggml.token_type")?.unwrap_or_default();
    for (id, token) in file.texts("tokenizer.ggml.tokens")?.unwrap_or_default().iter().enumerate() {
        if kinds.get(id) == Some(&CONTROL) && ends_an_answer(token) {
            ids.push(id as u64);
        }
    }
    let mut seen = std::collections::HashSet::new();
    ids.retain(|id| seen.insert(*id));
    Ok(ids)
}
