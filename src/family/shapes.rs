//! Shapes that follow from a config alone, before any weight is opened.

use super::DecoderConfig;

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
    /// It has a bias.
    pub bias: bool,
}

impl DecoderConfig {
    /// The linears of all blocks, in the order of [`Decoder::linears`](crate::model::Decoder::linears).
    pub fn linears(&self) -> Vec<LinearShape> {
        (0..self.num_layers)
            .flat_map(|l| [self.qkv(l), vec![self.o(l)], self.gate_up(l), vec![self.down(l)]])
            .flatten()
            .collect()
    }

    /// Widths of q, k and v.
    pub(crate) fn qkv_widths(&self) -> Vec<usize> {
        let (q, kv) = self.head_widths();
        vec![q, kv, kv]
    }

    /// The linears that give q, k and v: one for each, or one for all.
    pub(crate) fn qkv(&self, layer: usize) -> Vec<LinearShape> {
        let names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
        self.parts(layer, "self_attn.qkv_proj", &names, &self.qkv_widths(), self.qkv_bias)
    }

    /// The linears that give gate and up: one for each, or one for both.
    pub(crate) fn gate_up(&self, layer: usize) -> Vec<LinearShape> {
        let widths = [self.intermediate_size; 2];
        self.parts(layer, "mlp.gate_up_proj", &["mlp.gate_proj", "mlp.up_proj"], &widths, self.mlp_bias)
    }

    pub(crate) fn o(&self, layer: usize) -> LinearShape {
        linear(layer, "self_attn.o_proj", (self.hidden_size, self.head_widths().0), self.o_bias)
    }

    pub(crate) fn down(&self, layer: usize) -> LinearShape {
        linear(layer, "mlp.down_proj", (self.hidden_size, self.intermediate_size), self.mlp_bias)
    }

    fn parts(&self, layer: usize, whole: &str, names: &[&str], widths: &[usize], bias: bool) -> Vec<LinearShape> {
        if self.fused {
            return vec![linear(layer, whole, (widths.iter().sum(), self.hidden_size), bias)];
        }
        let part = |(name, &out): (&&str, &usize)| linear(layer, name, (out, self.hidden_size), bias);
        names.iter().zip(widths).map(part).collect()
    }
}

fn linear(layer: usize, name: &str, (out_features, in_features): (usize, usize), bias: bool) -> LinearShape {
    LinearShape { layer, module: format!("model.layers.{layer}.{name}"), out_features, in_features, bias }
}
