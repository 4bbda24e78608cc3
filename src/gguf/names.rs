//! What GGUF calls a model's family and tensors (llama.cpp: `gguf-py/gguf/constants.py`, `tensor_mapping.py`), and
//! in which order it keeps the rows of queries and keys.

/// Hugging Face's name of a part of a block, and GGUF's.
type Names = &'static [(&'static str, &'static str)];

const NORMS: Names = &[("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")];
const NORMS_AROUND: Names = &[
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];
const NORMS_BEHIND: Names =
    &[("post_attention_layernorm", "post_attention_norm"), ("post_feedforward_layernorm", "post_ffw_norm")];
const HEAD_NORMS: Names = &[("self_attn.q_norm", "attn_q_norm"), ("self_attn.k_norm", "attn_k_norm")];
const ATTENTION: Names = &[
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
];
const FUSED_ATTENTION: Names = &[("self_attn.qkv_proj", "attn_qkv"), ("self_attn.o_proj", "attn_output")];
const GATED: Names = &[("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down")];
const FUSED_GATED: Names = &[("mlp.gate_up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down")];
const OUTSIDE: Names = &[("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

/// A family of models as Hugging Face and GGUF know it.
#[derive(Debug, PartialEq, Eq)]
pub struct Architecture {
    /// `model_type` of `config.json`.
    pub model_type: &'static str,
    /// `general.architecture` of a GGUF file, and the prefix of its keys.
    pub name: &'static str,
    /// Rows of queries and keys stand in pairs of a rotation, not in halves: see [`RowOrder`].
    pub permuted: bool,
    /// Norm weights are stored with 1 added, as they are multiplied with; Hugging Face stores them without.
    pub norms_plus_one: bool,
    block: &'static [Names],
}

const fn family(model_type: &'static str, name: &'static str, block: &'static [Names]) -> Architecture {
    Architecture { model_type, name, permuted: false, norms_plus_one: false, block }
}

const fn permuted(model_type: &'static str, name: &'static str, block: &'static [Names]) -> Architecture {
    Architecture { permuted: true, ..family(model_type, name, block) }
}

const fn gemma(model_type: &'static str, name: &'static str, block: &'static [Names]) -> Architecture {
    Architecture { norms_plus_one: true, ..family(model_type, name, block) }
}

/// Where several families share a name in GGUF, the first is what a file of that name is read as.
static ARCHITECTURES: [Architecture; 11] = [
    permuted("llama", "llama", &[NORMS, ATTENTION, GATED]),
    permuted("mistral", "llama", &[NORMS, ATTENTION, GATED]),
    family("qwen2", "qwen2", &[NORMS, ATTENTION, GATED]),
    family("qwen3", "qwen3", &[NORMS, HEAD_NORMS, ATTENTION, GATED]),
    gemma("gemma", "gemma", &[NORMS, ATTENTION, GATED]),
    gemma("gemma2", "gemma2", &[NORMS_AROUND, ATTENTION, GATED]),
    gemma("gemma3_text", "gemma3", &[NORMS_AROUND, HEAD_NORMS, ATTENTION, GATED]),
    family("phi3", "phi3", &[NORMS, FUSED_ATTENTION, FUSED_GATED]),
    permuted("smollm3", "smollm3", &[NORMS, ATTENTION, GATED]),
    family("olmo2", "olmo2", &[NORMS_BEHIND, HEAD_NORMS, ATTENTION, GATED]),
    permuted("granite", "granite", &[NORMS, ATTENTION, GATED]),
];

impl Architecture {
    /// The family of a `config.json`'s `model_type`; `None` where GGUF files of it are not known here.
    pub fn of_model_type(model_type: &str) -> Option<&'static Architecture> {
        ARCHITECTURES.iter().find(|a| a.model_type == model_type)
    }

    /// The family of a GGUF file's `general.architecture`.
    pub fn named(name: &str) -> Option<&'static Architecture> {
        ARCHITECTURES.iter().find(|a| a.name == name)
    }

    /// Every name of `general.architecture` that is known, each once.
    pub fn names() -> Vec<&'static str> {
        let mut names: Vec<&str> = ARCHITECTURES.iter().map(|a| a.name).collect();
        names.dedup();
        names
    }

    /// GGUF's name of a tensor or module in Hugging Face's words: `model.layers.3.self_attn.q_proj.weight` →
    /// `blk.3.attn_q.weight`, `model.layers.3.self_attn.q_proj` → `blk.3.attn_q`. `None` for what this family
    /// does not have.
    pub fn tensor(&self, name: &str) -> Option<String> {
        let (module, kind) = match name.rsplit_once('.') {
            Some((module, kind @ ("weight" | "bias"))) => (module, kind),
            _ => (name, ""),
        };
        let dot = if kind.is_empty() { "" } else { "." };
        if let Some((_, stem)) = OUTSIDE.iter().find(|(hf, _)| *hf == module) {
            return Some(format!("{stem}{dot}{kind}"));
        }
        let (layer, part) = module.strip_prefix("model.layers.")?.split_once('.')?;
        let stem = self.block.iter().copied().flatten().find(|(hf, _)| *hf == part)?.1;
        layer.parse::<usize>().ok().map(|layer| format!("blk.{layer}.{stem}{dot}{kind}"))
    }

    /// Hugging Face's name of a tensor in GGUF's words: the inverse of [`Architecture::tensor`].
    pub fn original(&self, name: &str) -> Option<String> {
        let (stem, kind) = name.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
        if let Some((hf, _)) = OUTSIDE.iter().find(|(_, gguf)| *gguf == stem) {
            return Some(format!("{hf}.{kind}"));
        }
        let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
        let hf = self.block.iter().copied().flatten().find(|(_, gguf)| *gguf == part)?.0;
        layer.parse::<usize>().ok().map(|layer| format!("model.layers.{layer}.{hf}.{kind}"))
    }

    /// How GGUF orders the outputs of a linear, given by its module path or a tensor of it; `None` where the order
    /// is Hugging Face's.
    pub fn row_order(&self, module: &str, heads: usize, kv_heads: usize, head_dim: usize) -> Option<RowOrder> {
        if !self.permuted {
            return None;
        }
        let heads = match module {
            m if m.contains("self_attn.q_proj") => heads,
            m if m.contains("self_attn.k_proj") => kv_heads,
            _ => return None,
        };
        Some(RowOrder { heads, head_dim })
    }
}

/// The order in which some families' queries and keys stand in GGUF: a head's rows `b` and `head_dim/2 + b` rotate
/// together, and lie there side by side. To be applied to the rows of a weight, a bias or a LoRA B, and once only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowOrder {
    /// Heads: of queries, or of keys.
    pub heads: usize,
    /// Rows of a head; even.
    pub head_dim: usize,
}

impl RowOrder {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Where row `row` of Hugging Face's matrix stands in the GGUF file.
    pub fn stored(&self, row: usize) -> usize {
        let (head, at, half) = (row / self.head_dim, row % self.head_dim, self.head_dim / 2);
        head * self.head_dim + 2 * (at % half) + at / half
    }

    /// Which row of Hugging Face's matrix stands at `row` of the GGUF file.
    pub fn original(&self, row: usize) -> usize {
        let (head, at, half) = (row / self.head_dim, row % self.head_dim, self.head_dim / 2);
        head * self.head_dim + at % 2 * half + at / 2
    }

    /// The rows of `data[rows, cols]` from Hugging Face's order into GGUF's.
    ///
    /// # Panics
    /// When `data` is not `rows · cols` long.
    pub fn to_gguf<T: Copy>(&self, data: &[T], cols: usize) -> Vec<T> {
        self.gather(data, cols, |row| self.original(row))
    }

    /// The rows of `data[rows, cols]` from GGUF's order into Hugging Face's.
    ///
    /// # Panics
    /// When `data` is not `rows · cols` long.
    pub fn from_gguf<T: Copy>(&self, data: &[T], cols: usize) -> Vec<T> {
        self.gather(data, cols, |row| self.stored(row))
    }

    fn gather<T: Copy>(&self, data: &[T], cols: usize, from: impl Fn(usize) -> usize) -> Vec<T> {
        assert_eq!(data.len(), self.rows() * cols, "{self:?}: {cols} columns");
        (0..self.rows()).flat_map(|row| &data[from(row) * cols..(from(row) + 1) * cols]).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        let of = |model_type| Architecture::of_model_type(model_type).unwrap();
        for (model_type, hf, gguf) in [
            ("llama", "model.layers.3.self_attn.q_proj.weight", "blk.3.attn_q.weight"),
            ("qwen2", "model.layers.11.self_attn.k_proj.bias", "blk.11.attn_k.bias"),
            ("llama", "model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"),
            ("gemma2", "model.layers.0.post_attention_layernorm.weight", "blk.0.post_attention_norm.weight"),
            ("gemma2", "model.layers.0.pre_feedforward_layernorm.weight", "blk.0.ffn_norm.weight"),
            ("olmo2", "model.layers.0.post_feedforward_layernorm.weight", "blk.0.post_ffw_norm.weight"),
            ("gemma3_text", "model.layers.7.self_attn.q_norm.weight", "blk.7.attn_q_norm.weight"),
            ("phi3", "model.layers.2.self_attn.qkv_proj.weight", "blk.2.attn_qkv.weight"),
            ("phi3", "model.layers.2.mlp.gate_up_proj.weight", "blk.2.ffn_up.weight"),
            ("mistral", "model.embed_tokens.weight", "token_embd.weight"),
            ("mistral", "model.norm.weight", "output_norm.weight"),
            ("granite", "lm_head.weight", "output.weight"),
        ] {
            assert_eq!(of(model_type).tensor(hf).as_deref(), Some(gguf));
            assert_eq!(of(model_type).original(gguf).as_deref(), Some(hf));
        }
        assert_eq!(of("llama").tensor("model.layers.3.self_attn.o_proj").as_deref(), Some("blk.3.attn_output"));
        assert_eq!(of("llama").tensor("model.layers.3.self_attn.qkv_proj.weight"), None);
        assert_eq!(of("olmo2").tensor("model.layers.0.input_layernorm.weight"), None);
        assert_eq!(of("llama").original("blk.x.attn_q.weight"), None);
        assert_eq!(of("llama").original("blk.0.ffn_gate_inp.weight"), None);
        assert_eq!(Architecture::named("gemma3").map(|a| a.model_type), Some("gemma3_text"));
        assert_eq!(Architecture::named("llama").map(|a| a.model_type), Some("llama"));
        assert!(Architecture::named("mamba").is_none() && Architecture::of_model_type("gpt2").is_none());
        assert!(!Architecture::names().contains(&"gemma3_text") && Architecture::names().len() == 10);
    }

    /// The reshape that llama.cpp's converter writes: `[H, 2, D/2] → [H, D/2, 2]`.
    #[test]
    fn the_row_order_is_that_of_the_converter() {
        let order = RowOrder { heads: 2, head_dim: 6 };
        let rows: Vec<usize> = (0..12).collect();
        let stored = order.to_gguf(&rows, 1);
        assert_eq!(stored, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
        assert_eq!(order.from_gguf(&stored, 1), rows);
        let wide: Vec<usize> = (0..24).collect();
        assert_eq!(order.to_gguf(&wide, 2)[2..4], [6, 7]);
        assert!(rows.iter().all(|&r| order.original(order.stored(r)) == r && stored[order.stored(r)] == r));
    }

    #[test]
    fn only_queries_and_keys_of_some_families_are_permuted() {
        let of = |model_type: &str, module: &str| {
            Architecture::of_model_type(model_type).unwrap().row_order(module, 8, 2, 64).map(|o| o.heads)
        };
        for model_type in ["llama", "mistral", "smollm3", "granite"] {
            assert_eq!(of(model_type, "model.layers.0.self_attn.q_proj"), Some(8));
            assert_eq!(of(model_type, "model.layers.0.self_attn.k_proj.bias"), Some(2));
            assert_eq!(of(model_type, "model.layers.0.self_attn.v_proj"), None);
        }
        for model_type in ["qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2"] {
            assert_eq!(of(model_type, "model.layers.0.self_attn.q_proj"), None);
        }
    }
}
