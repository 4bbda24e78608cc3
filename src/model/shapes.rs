//! Shapes that follow from a config alone, before any weight is opened.

use super::config::DecoderConfig;

/// A linear that can carry an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearShape {
    /// Its block.
    pub layer: usize,
    /// Its module path.
    pub module: String,
    /// Outputs.
    pub out_features: usize,
    /// Inputs.
    pub in_features: usize,
}

impl DecoderConfig {
    /// The linears of all blocks, in the order of [`Decoder::linears`](super::Decoder::linears).
    pub fn linears(&self) -> Vec<LinearShape> {
        let (h, f) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim);
        let block = [
            ("self_attn.q_proj", q, h),
            ("self_attn.k_proj", kv, h),
            ("self_attn.v_proj", kv, h),
            ("self_attn.o_proj", h, q),
            ("mlp.gate_proj", f, h),
            ("mlp.up_proj", f, h),
            ("mlp.down_proj", h, f),
        ];
        let of = |layer: usize| {
            block.map(|(name, out_features, in_features)| LinearShape {
                layer,
                module: format!("model.layers.{layer}.{name}"),
                out_features,
                in_features,
            })
        };
        (0..self.num_layers).flat_map(of).collect()
    }
}
