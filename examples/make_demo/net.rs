//! A Llama over candle's autograd, with optional LoRA on every linear. Tensor names are Hugging Face's.

use crate::draw::Draw;
use crate::ops::{causal_softmax, gate, rms_norm, rope};
use candle_core::{DType, Device, Result, Tensor, Var};
use std::collections::BTreeMap;

/// The shape of the model.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub vocab: usize,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub mlp: usize,
    pub positions: usize,
    pub theta: f64,
    pub eps: f64,
}

pub const CONFIG: Config = Config {
    vocab: 1024,
    hidden: 128,
    layers: 4,
    heads: 4,
    kv_heads: 2,
    head_dim: 32,
    mlp: 352,
    positions: 256,
    theta: 10000.0,
    eps: 1e-5,
};

impl Config {
    /// The linears of a block: name, outputs, inputs.
    fn linears(&self) -> [(&'static str, usize, usize); 7] {
        let (c, q, kv) = (self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim);
        [
            ("self_attn.q_proj", q, c),
            ("self_attn.k_proj", kv, c),
            ("self_attn.v_proj", kv, c),
            ("self_attn.o_proj", c, q),
            ("mlp.gate_proj", self.mlp, c),
            ("mlp.up_proj", self.mlp, c),
            ("mlp.down_proj", c, self.mlp),
        ]
    }
}

/// Weights by name.
pub type Weights = BTreeMap<String, Tensor>;

/// Random weights: normal, deviation 0.02 for the embedding and 1/√inputs for linears, less into the residual stream.
pub fn random(c: &Config, seed: u64) -> Result<Weights> {
    let mut w = Weights::new();
    let mut normal = |name: String, shape: (usize, usize), deviation: f64| -> Result<()> {
        let key = sftmix::internal::rng::Key::new(
            seed,
            sftmix::internal::rng::Stream::Bench,
            &[sftmix::internal::rng::fnv1a(&name)],
        );
        let v: Vec<f32> = (0..(shape.0 * shape.1) as u64).map(|i| (key.normal2(i).0 * deviation) as f32).collect();
        w.insert(name, Tensor::from_vec(v, shape, &Device::Cpu)?);
        Ok(())
    };
    normal("model.embed_tokens.weight".into(), (c.vocab, c.hidden), 0.02)?;
    for layer in 0..c.layers {
        for (name, out, inp) in c.linears() {
            let residual = name.ends_with("o_proj") || name.ends_with("down_proj");
            let scale = if residual { 1.0 / (2.0 * c.layers as f64).sqrt() } else { 1.0 };
            normal(format!("model.layers.{layer}.{name}.weight"), (out, inp), scale / (inp as f64).sqrt())?;
        }
    }
    let ones = Tensor::ones(c.hidden, DType::F32, &Device::Cpu)?;
    for layer in 0..c.layers {
        w.insert(format!("model.layers.{layer}.input_layernorm.weight"), ones.clone());
        w.insert(format!("model.layers.{layer}.post_attention_layernorm.weight"), ones.copy()?);
    }
    w.insert("model.norm.weight".into(), ones.copy()?);
    Ok(w)
}

/// Low-rank updates of the linears, y += s·(xAᵀ)Bᵀ.
pub struct Lora {
    pub pairs: BTreeMap<String, (Var, Var)>,
    pub scale: f64,
}

impl Lora {
    /// A uniform in ±1/√inputs, B zero, on every linear.
    pub fn new(c: &Config, r: usize, scale: f64, seed: u64) -> Result<Lora> {
        let mut pairs = BTreeMap::new();
        for layer in 0..c.layers {
            for (name, out, inp) in c.linears() {
                let name = format!("model.layers.{layer}.{name}.weight");
                let d = &mut Draw::new(seed, &name, 0);
                let bound = 1.0 / (inp as f32).sqrt();
                let a = (0..r * inp).map(|_| (d.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0) * bound).collect();
                let a = Var::from_vec(a, (r, inp), &Device::Cpu)?;
                pairs.insert(name, (a, Var::zeros((out, r), DType::F32, &Device::Cpu)?));
            }
        }
        Ok(Lora { pairs, scale })
    }
}

fn linear(x: &Tensor, w: &Weights, name: &str, lora: Option<&Lora>) -> Result<Tensor> {
    let y = x.matmul(&w[name].t()?)?;
    let Some(lora) = lora else { return Ok(y) };
    let (a, b) = &lora.pairs[name];
    y + (x.matmul(&a.t()?)?.matmul(&b.t()?)? * lora.scale)?
}

/// Logits [B·T, V] of windows of tokens, each of length T.
pub fn logits(c: &Config, w: &Weights, lora: Option<&Lora>, ids: &[u32], t: usize) -> Result<Tensor> {
    let b = ids.len() / t;
    let embed = &w["model.embed_tokens.weight"];
    let mut x = embed.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
    let groups = c.heads / c.kv_heads;
    for layer in 0..c.layers {
        let at = |name: &str| format!("model.layers.{layer}.{name}.weight");
        let n = rms_norm(&x, &w[&at("input_layernorm")], c.eps)?;
        let heads = |name: &str, h: usize| -> Result<Tensor> {
            linear(&n, w, &at(name), lora)?.reshape((b, t, h, c.head_dim))?.transpose(1, 2)?.contiguous()
        };
        let q = rope(&heads("self_attn.q_proj", c.heads)?, c.theta)?;
        let k = rope(&heads("self_attn.k_proj", c.kv_heads)?, c.theta)?;
        let v = heads("self_attn.v_proj", c.kv_heads)?;
        // The heads that share keys are stacked along the rows, so nothing is repeated.
        let q = q.reshape((b, c.kv_heads, groups * t, c.head_dim))?;
        let p = causal_softmax(&q.matmul(&k.t()?)?, 1.0 / (c.head_dim as f32).sqrt())?;
        let o = p.matmul(&v)?.reshape((b, c.heads, t, c.head_dim))?.transpose(1, 2)?;
        let o = o.contiguous()?.reshape((b * t, c.heads * c.head_dim))?;
        x = (x + linear(&o, w, &at("self_attn.o_proj"), lora)?)?;
        let n = rms_norm(&x, &w[&at("post_attention_layernorm")], c.eps)?;
        let m = gate(&linear(&n, w, &at("mlp.gate_proj"), lora)?, &linear(&n, w, &at("mlp.up_proj"), lora)?)?;
        x = (x + linear(&m, w, &at("mlp.down_proj"), lora)?)?;
    }
    rms_norm(&x, &w["model.norm.weight"], c.eps)?.matmul(&embed.t()?)
}
