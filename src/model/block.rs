//! One decoder block, forward and backward:
//!
//! ```text
//! n1 = norm(x); q, k, v = proj(n1); [norm q, k heads;] rotate q, k; o = attention(q, k, v)
//! x2 = x + proj(o); n2 = norm(x2); y = x2 + down(silu(gate(n2))·up(n2))
//! ```
//!
//! `forward` always fills a [`Saved`]; whether it is kept until the backward pass or made again from
//! `x` is the decoder's choice, so both ways run the same code and give the same bits. Norm outputs and
//! `silu·up` are made again in the backward pass: they are cheap and as large as what is saved.

use super::config::DecoderConfig;
use crate::error::Result;
use crate::lora::Adapter;
use crate::ops::attention::{self, Shape};
use crate::ops::linear::{self, Call, Linear, SlotGrad};
use crate::ops::{elementwise, rms_norm, rope, Buf, Engine, Param};

/// The weights of a block.
#[derive(Debug)]
pub struct Block {
    pub(crate) input_norm: Param,
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) o: Linear,
    /// RMS norms of each q and k head.
    pub(crate) head_norms: Option<(Param, Param)>,
    pub(crate) post_norm: Param,
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) window: Option<usize>,
}

/// What the backward pass of a block reads.
#[derive(Debug)]
pub struct Saved {
    x: Buf,
    /// q and k before their head norms.
    raw: Option<(Buf, Buf)>,
    q: Buf,
    k: Buf,
    v: Buf,
    o: Buf,
    lse: Buf,
    x2: Buf,
    gate: Buf,
    up: Buf,
    /// `x·Aᵀ` of each adapted linear, by linear id.
    t: Vec<(usize, Buf)>,
}

impl Saved {
    /// The block's input, when the rest is to be made again.
    pub(crate) fn into_input(self) -> Buf {
        self.x
    }
}

/// What a pass over a block needs beside its weights.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub engine: &'a Engine,
    pub config: &'a DecoderConfig,
    pub rope: &'a rope::Table,
    pub adapter: Option<&'a Adapter>,
    pub call: Call<'a>,
}

impl Context<'_> {
    fn project(&self, lin: &Linear, x: &Buf, t: &mut Vec<(usize, Buf)>) -> Result<Buf> {
        let slot = self.adapter.and_then(|a| a.slot(lin));
        let (y, saved) = linear::forward(self.engine, lin, slot, x, self.call)?;
        t.extend(saved.map(|b| (lin.id, b)));
        Ok(y)
    }

    fn project_back(
        &self,
        lin: &Linear,
        x: &Buf,
        t: &[(usize, Buf)],
        g: &Buf,
        grads: &mut [SlotGrad],
        dx: Option<(&mut Buf, bool)>,
    ) -> Result<()> {
        let adapter = self.adapter;
        let slot = adapter.and_then(|a| a.index(lin).map(|i| (&a.slots[i], &mut grads[i])));
        let t = t.iter().find(|(id, _)| *id == lin.id).map(|(_, b)| b);
        linear::backward(self.engine, lin, slot, linear::Saved { x, t }, g, self.call, dx)
    }

    fn adapted(&self, lins: &[&Linear]) -> bool {
        self.adapter.is_some_and(|a| lins.iter().any(|l| a.index(l).is_some()))
    }

    fn attention_shape(&self, block: &Block) -> Shape {
        let c = self.config;
        Shape {
            heads: c.num_heads,
            kv_heads: c.num_kv_heads,
            head_dim: c.head_dim,
            scale: (1.0 / (c.head_dim as f64).sqrt()) as f32,
            window: block.window,
            tile: self.engine.options.attention_tile,
        }
    }
}

impl Block {
    /// The linears, in the order of the forward pass.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down].into_iter()
    }

    /// `y[N,C]` of `x[N,C]`, and what the backward pass reads.
    pub(crate) fn forward(&self, cx: Context, x: Buf) -> Result<(Buf, Saved)> {
        let saved = self.forward_saved(cx, x)?;
        Ok((self.forward_last(cx, &saved)?, saved))
    }

    /// `y[N,C]` of `x[N,C]` with the attention given: rotated q, k and v → output and log-sum-exp.
    pub(crate) fn forward_with(
        &self,
        cx: Context,
        x: Buf,
        attend: impl FnOnce(Shape, &Buf, &Buf, &Buf) -> Result<(Buf, Buf)>,
    ) -> Result<Buf> {
        let saved = self.forward_attending(cx, x, attend)?;
        self.forward_last(cx, &saved)
    }

    /// The last linear.
    fn forward_last(&self, cx: Context, saved: &Saved) -> Result<Buf> {
        let a = cx.engine.passing(|| elementwise::silu_mul(cx.engine, &saved.gate, &saved.up))?;
        // The t of the last linear is made again from `a` in the backward pass, as it is after a recompute.
        let mut y = cx.project(&self.down, &a, &mut Vec::new())?;
        elementwise::add(cx.engine, &mut y, &saved.x2)?;
        Ok(y)
    }

    /// The forward pass up to what the backward pass reads: all but the last linear.
    pub(crate) fn forward_saved(&self, cx: Context, x: Buf) -> Result<Saved> {
        self.forward_attending(cx, x, |shape, q, k, v| attention::forward(cx.engine, shape, cx.call.layout, q, k, v))
    }

    fn forward_attending(
        &self,
        cx: Context,
        x: Buf,
        attend: impl FnOnce(Shape, &Buf, &Buf, &Buf) -> Result<(Buf, Buf)>,
    ) -> Result<Saved> {
        let (e, c, layout) = (cx.engine, cx.config, cx.call.layout);
        let mut t = Vec::new();
        let n1 = e.passing(|| rms_norm::forward(e, &x, &self.input_norm, c.rms_norm_eps))?;
        let mut q = cx.project(&self.q, &n1, &mut t)?;
        let mut k = cx.project(&self.k, &n1, &mut t)?;
        let v = cx.project(&self.v, &n1, &mut t)?;
        drop(n1);
        let raw = match &self.head_norms {
            Some((qn, kn)) => {
                let normed =
                    (rms_norm::forward(e, &q, qn, c.rms_norm_eps)?, rms_norm::forward(e, &k, kn, c.rms_norm_eps)?);
                Some((std::mem::replace(&mut q, normed.0), std::mem::replace(&mut k, normed.1)))
            }
            None => None,
        };
        rope::rotate(e, &mut q, c.num_heads, cx.rope, layout, false)?;
        rope::rotate(e, &mut k, c.num_kv_heads, cx.rope, layout, false)?;
        let (o, lse) = attend(cx.attention_shape(self), &q, &k, &v)?;
        let mut x2 = cx.project(&self.o, &o, &mut t)?;
        elementwise::add(e, &mut x2, &x)?;
        let n2 = e.passing(|| rms_norm::forward(e, &x2, &self.post_norm, c.rms_norm_eps))?;
        let gate = cx.project(&self.gate, &n2, &mut t)?;
        let up = cx.project(&self.up, &n2, &mut t)?;
        Ok(Saved { x, raw, q, k, v, o, lse, x2, gate, up, t })
    }

    /// Adds to the gradients of the block's slots; with `through`, gives `dx[N,C]` from `g = dy`.
    /// No product is computed that neither a slot of this block nor `dx` needs.
    pub(crate) fn backward(
        &self,
        cx: Context,
        saved: Saved,
        g: Buf,
        grads: &mut [SlotGrad],
        through: bool,
    ) -> Result<Option<Buf>> {
        let (e, c) = (cx.engine, cx.config);
        let Saved { x, raw, q, k, v, o, lse, x2, mut gate, mut up, t } = saved;
        let into_qkv = through || cx.adapted(&[&self.q, &self.k, &self.v]);
        let into_x2 = into_qkv || cx.adapted(&[&self.o]);
        let into_mlp = into_x2 || cx.adapted(&[&self.gate, &self.up]);
        let n = cx.call.layout.tokens();
        let mut g = g;

        let a = elementwise::silu_mul(e, &gate, &up)?;
        let mut da = into_mlp.then(|| e.take(n, c.intermediate_size)).transpose()?;
        cx.project_back(&self.down, &a, &t, &g, grads, da.as_mut().map(|d| (d, false)))?;
        drop(a);
        let Some(da) = da else { return Ok(None) };
        elementwise::silu_mul_backward(e, &mut gate, &mut up, &da)?;
        drop(da);
        let n2 = rms_norm::forward(e, &x2, &self.post_norm, c.rms_norm_eps)?;
        let mut dn2 = into_x2.then(|| e.take(n, c.hidden_size)).transpose()?;
        cx.project_back(&self.gate, &n2, &t, &gate, grads, dn2.as_mut().map(|d| (d, false)))?;
        cx.project_back(&self.up, &n2, &t, &up, grads, dn2.as_mut().map(|d| (d, true)))?;
        drop((n2, gate, up));
        let Some(dn2) = dn2 else { return Ok(None) };
        rms_norm::backward(e, &x2, &self.post_norm, c.rms_norm_eps, &dn2, &mut g, true)?;
        drop((dn2, x2));

        let mut d_o = into_qkv.then(|| e.take(n, c.num_heads * c.head_dim)).transpose()?;
        cx.project_back(&self.o, &o, &t, &g, grads, d_o.as_mut().map(|d| (d, false)))?;
        let Some(d_o) = d_o else { return Ok(None) };
        let read = attention::Saved { q: &q, k: &k, v: &v, o: &o, lse: &lse };
        let (mut dq, mut dk, dv) = attention::backward(e, cx.attention_shape(self), cx.call.layout, read, &d_o)?;
        drop((q, k, v, o, lse, d_o));
        rope::rotate(e, &mut dq, c.num_heads, cx.rope, cx.call.layout, true)?;
        rope::rotate(e, &mut dk, c.num_kv_heads, cx.rope, cx.call.layout, true)?;
        if let (Some((qn, kn)), Some((q_raw, k_raw))) = (&self.head_norms, raw) {
            for (norm, raw, d) in [(qn, q_raw, &mut dq), (kn, k_raw, &mut dk)] {
                let normed = std::mem::replace(d, raw.copy(e));
                rms_norm::backward(e, &raw, norm, c.rms_norm_eps, &normed, d, false)?;
            }
        }
        let n1 = rms_norm::forward(e, &x, &self.input_norm, c.rms_norm_eps)?;
        let mut dn1 = through.then(|| e.take(n, c.hidden_size)).transpose()?;
        cx.project_back(&self.q, &n1, &t, &dq, grads, dn1.as_mut().map(|d| (d, false)))?;
        cx.project_back(&self.k, &n1, &t, &dk, grads, dn1.as_mut().map(|d| (d, true)))?;
        cx.project_back(&self.v, &n1, &t, &dv, grads, dn1.as_mut().map(|d| (d, true)))?;
        let Some(dn1) = dn1 else { return Ok(None) };
        rms_norm::backward(e, &x, &self.input_norm, c.rms_norm_eps, &dn1, &mut g, true)?;
        Ok(Some(g))
    }
}
