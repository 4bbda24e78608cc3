//! Which type each tensor gets: one type alone, or the mixes that llama.cpp names, in which the tensors that suffer
//! most have more bits (llama.cpp: `src/llama-quant.cpp`, `llama_tensor_get_type`).

use std::fmt;
use std::str::FromStr;

use crate::formats::dtype::Dtype;
use crate::kernels::cpu::blocks::Block;

/// A type that a model can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum QuantType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3KM,
    Q4KM,
    Q5KM,
    Q6K,
}

use QuantType::*;

/// Each with its name, the type of most of its tensors, and llama.cpp's number of it (`general.file_type`).
const ALL: [(QuantType, &str, Dtype, u32); 13] = [
    (F32, "f32", Dtype::F32, 0),
    (F16, "f16", Dtype::F16, 1),
    (BF16, "bf16", Dtype::BF16, 32),
    (Q4_0, "q4_0", Dtype::Blocks(Block::Q4_0), 2),
    (Q4_1, "q4_1", Dtype::Blocks(Block::Q4_1), 3),
    (Q5_0, "q5_0", Dtype::Blocks(Block::Q5_0), 8),
    (Q5_1, "q5_1", Dtype::Blocks(Block::Q5_1), 9),
    (Q8_0, "q8_0", Dtype::Blocks(Block::Q8_0), 7),
    (Q2K, "q2_k", Dtype::Blocks(Block::Q2K), 10),
    (Q3KM, "q3_k_m", Dtype::Blocks(Block::Q3K), 12),
    (Q4KM, "q4_k_m", Dtype::Blocks(Block::Q4K), 15),
    (Q5KM, "q5_k_m", Dtype::Blocks(Block::Q5K), 17),
    (Q6K, "q6_k", Dtype::Blocks(Block::Q6K), 18),
];

impl QuantType {
    /// The names that can be given.
    pub const NAMES: &'static [&'static str] =
        &["f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k"];

    fn entry(self) -> &'static (QuantType, &'static str, Dtype, u32) {
        ALL.iter().find(|e| e.0 == self).unwrap_or(&ALL[0])
    }

    /// llama.cpp's number of it.
    pub(crate) fn file_type(self) -> u32 {
        self.entry().3
    }

    /// The type of most of its tensors.
    pub(crate) fn usual(self) -> Dtype {
        self.entry().2
    }
}

impl fmt::Display for QuantType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.entry().1)
    }
}

impl FromStr for QuantType {
    type Err = String;

    fn from_str(text: &str) -> Result<QuantType, String> {
        let found = ALL.iter().find(|e| e.1.eq_ignore_ascii_case(text)).map(|e| e.0);
        found.ok_or_else(|| format!("expected one of {}, found {text:?}", QuantType::NAMES.join(", ")))
    }
}

/// What a tensor's type depends on beside its name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelFacts {
    pub layers: usize,
    /// Query heads to a head of keys and values.
    pub grouped: usize,
    /// The embedding is the head.
    pub tied: bool,
}

/// The type of a tensor, by its name in GGUF and its shape.
pub(crate) fn tensor_type(kind: QuantType, name: &str, shape: &[usize], model: ModelFacts) -> Dtype {
    if shape.len() < 2 {
        return Dtype::F32;
    }
    let usual = kind.usual();
    if usual.block() == 1 {
        return usual;
    }
    let cols = shape[shape.len() - 1];
    let mut wanted = wished(kind, name, model);
    let head = name == "output.weight" || (model.tied && name == "token_embd.weight");
    if head {
        // As llama.cpp: where the usual blocks do not fit, the safe type at once.
        let fits = cols.is_multiple_of(usual.block());
        let most = if kind == Q8_0 || !fits { Block::Q8_0 } else { Block::Q6K };
        wanted = Dtype::Blocks(most);
    }
    if !cols.is_multiple_of(wanted.block()) {
        wanted = Dtype::Blocks(match wanted {
            Dtype::Blocks(Block::Q5K) => Block::Q5_1,
            Dtype::Blocks(Block::Q6K) => Block::Q8_0,
            // llama.cpp has IQ4_NL for the smaller two.
            Dtype::Blocks(Block::Q2K | Block::Q3K | Block::Q4K) => Block::Q5_0,
            Dtype::Blocks(other) => other,
            plain => return plain,
        });
    }
    if cols.is_multiple_of(wanted.block()) {
        wanted
    } else {
        Dtype::F16
    }
}

fn wished(kind: QuantType, name: &str, model: ModelFacts) -> Dtype {
    let usual = kind.usual();
    let n = model.layers;
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let Some((layer, part)) = layer else { return usual };
    let layer: usize = layer.parse().unwrap_or(0);
    let more = layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
    let block = match (part.strip_suffix(".weight").unwrap_or(part), kind) {
        ("attn_v", Q2K) if model.grouped >= 4 => Block::Q4K,
        ("attn_v" | "ffn_down" | "attn_output", Q2K) => Block::Q3K,
        ("attn_v", Q3KM) if layer < 2 => Block::Q5K,
        ("ffn_down", Q3KM) if layer < n / 16 => Block::Q5K,
        ("attn_v" | "ffn_down" | "attn_output" | "attn_qkv", Q3KM) => Block::Q4K,
        ("attn_v" | "ffn_down", Q4KM | Q5KM) if more => Block::Q6K,
        ("attn_qkv", Q4KM) => Block::Q5K,
        ("attn_qkv", Q5KM) => Block::Q6K,
        _ => return usual,
    };
    Dtype::Blocks(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: QuantType, name: &str, cols: usize) -> &'static str {
        let model = ModelFacts { layers: 16, grouped: 4, tied: true };
        tensor_type(kind, name, &[64, cols], model).ggml_name()
    }

    #[test]
    fn mixes_are_those_of_llama_cpp() {
        for (layer, want) in [(0, "Q6_K"), (1, "Q6_K"), (2, "Q4_K"), (4, "Q6_K"), (5, "Q4_K"), (14, "Q6_K")] {
            assert_eq!(of(Q4KM, &format!("blk.{layer}.attn_v.weight"), 2048), want, "{layer}");
            assert_eq!(of(Q4KM, &format!("blk.{layer}.ffn_down.weight"), 2048), want, "{layer}");
        }
        assert_eq!(of(Q4KM, "blk.0.attn_q.weight", 2048), "Q4_K");
        assert_eq!(of(Q4KM, "token_embd.weight", 2048), "Q6_K");
        assert_eq!(of(Q4_0, "token_embd.weight", 2048), "Q6_K");
        assert_eq!(of(Q8_0, "token_embd.weight", 2048), "Q8_0");
        assert_eq!(of(Q2K, "blk.3.attn_v.weight", 2048), "Q4_K");
        assert_eq!(of(Q3KM, "blk.1.attn_v.weight", 2048), "Q5_K");
        assert_eq!(of(Q3KM, "blk.2.attn_output.weight", 2048), "Q4_K");
        assert_eq!(of(F16, "token_embd.weight", 2048), "F16");
        let vector =
            tensor_type(Q4KM, "blk.0.attn_norm.weight", &[2048], ModelFacts { layers: 16, grouped: 4, tied: true });
        assert_eq!(vector, Dtype::F32);
        let untied = ModelFacts { layers: 16, grouped: 4, tied: false };
        assert_eq!(tensor_type(Q4KM, "token_embd.weight", &[8, 256], untied).ggml_name(), "Q4_K");
    }

    #[test]
    fn widths_that_are_no_whole_blocks_get_others() {
        assert_eq!(of(Q4KM, "blk.2.attn_q.weight", 576), "Q5_0");
        assert_eq!(of(Q4KM, "blk.0.attn_v.weight", 576), "Q8_0");
        assert_eq!(of(Q5KM, "blk.2.attn_q.weight", 576), "Q5_1");
        assert_eq!(of(Q4KM, "token_embd.weight", 576), "Q8_0");
        assert_eq!(of(Q4_0, "token_embd.weight", 576), "Q8_0");
        assert_eq!(of(Q4_0, "blk.0.ffn_down.weight", 172), "F16");
        assert_eq!(of(Q6K, "blk.0.ffn_down.weight", 172), "F16");
    }

    #[test]
    fn names_are_read_and_written() {
        for name in QuantType::NAMES {
            assert_eq!(name.parse::<QuantType>().unwrap().to_string(), *name);
        }
        assert_eq!("Q4_K_M".parse(), Ok(Q4KM));
        assert!("iq4_xs".parse::<QuantType>().unwrap_err().contains("q4_k_m"));
    }
}
