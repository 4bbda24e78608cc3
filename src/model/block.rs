//! One decoder block, forward and backward:
//!
//! ```text
//! n1 = norm(x); q, k, v = proj(n1); [norm q, k;] [rotate q, k;] o = attention(q, k, v)
//! x2 = x + r·norm(proj(o)); n2 = norm(x2); y = x2 + r·norm(down(act(gate(n2))·up(n2)))
//! ```
//!
//! A family has each norm or has it not, and most have r = 1. `forward` always fills a [`Saved`]; whether it is
//! kept until the backward pass or made again from `x` is the decoder's choice, so both ways run the same code and
//! give the same bits. Norm outputs and `act·up` are made again in the backward pass: they are cheap and as large as
//! what is saved.

use super::context::Context;
use super::projection::Projection;
use crate::error::Result;
use crate::ops::attention::{self, Shape};
use crate::ops::linear::{Kept, Linear, SlotGrad};
use crate::ops::{elementwise, rope, Buf, Param};

/// The weights of a block.
#[derive(Debug)]
pub struct Block {
    /// Before attention.
    pub(crate) input_norm: Option<Param>,
    /// q, k and v.
    pub(crate) qkv: Projection,
    /// RMS norms of q and k, over a head or over all.
    pub(crate) qk_norms: Option<(Param, Param)>,
    pub(crate) o: Linear,
    /// Of what attention adds.
    pub(crate) attention_norm: Option<Param>,
    /// Before the MLP.
    pub(crate) mlp_norm: Option<Param>,
    pub(crate) gate_up: Projection,
    pub(crate) down: Linear,
    /// Of what the MLP adds.
    pub(crate) output_norm: Option<Param>,
    pub(crate) window: Option<usize>,
    /// Which of the model's rotary tables.
    pub(crate) rope: Option<usize>,
}

/// What the backward pass of a block reads.
#[derive(Debug)]
pub struct Saved {
    x: Buf,
    /// q and k before their norms.
    raw: Option<(Buf, Buf)>,
    q: Buf,
    k: Buf,
    v: Buf,
    o: Buf,
    lse: Buf,
    /// What attention adds, before its norm.
    attended: Option<Buf>,
    x2: Buf,
    gate: Buf,
    up: Buf,
    /// What the MLP adds, before its norm.
    output: Option<Buf>,
    /// What each adapted linear left, by linear id.
    t: Vec<(usize, Kept)>,
}

impl Saved {
    /// The block's input, when the rest is to be made again.
    pub(crate) fn into_input(self) -> Buf {
        self.x
    }
}

impl Context<'_> {
    fn attention_shape(&self, block: &Block) -> Shape {
        let c = self.config;
        Shape {
            heads: c.num_heads,
            kv_heads: c.num_kv_heads,
            head_dim: c.head_dim,
            scale: c.attention_scale as f32,
            softcap: c.attention_softcap.map(|c| c as f32),
            window: block.window,
            tile: self.engine.options.attention_tile,
        }
    }

    fn rotate(&self, block: &Block, x: &mut Buf, heads: usize, inverse: bool) -> Result<()> {
        let Some(table) = block.rope else { return Ok(()) };
        rope::rotate(self.engine, x, heads, &self.ropes[table], self.call.layout, inverse)
    }
}

impl Block {
    /// The linears, in the order of the forward pass.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        let (qkv, gate_up) = (self.qkv.linears.iter(), self.gate_up.linears.iter());
        qkv.chain([&self.o]).chain(gate_up).chain([&self.down])
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

    /// `down(act(gate)·up)`.
    fn mlp_output(&self, cx: Context, gate: &Buf, up: &Buf) -> Result<Buf> {
        let e = cx.engine;
        let a = e.passing(|| elementwise::gate_mul(e, cx.config.activation, gate, up))?;
        // The t of the last linear is made again from `a` in the backward pass, as it is after a recompute.
        cx.project(&self.down, &a, &mut Vec::new())
    }

    /// What is left behind what is saved.
    fn forward_last(&self, cx: Context, saved: &Saved) -> Result<Buf> {
        let r = cx.config.residual_scale as f32;
        let mut y = match (&saved.output, &self.output_norm) {
            (Some(raw), Some(w)) => cx.norm(raw, w)?,
            _ => self.mlp_output(cx, &saved.gate, &saved.up)?,
        };
        elementwise::scale(cx.engine, &mut y, r)?;
        elementwise::add(cx.engine, &mut y, &saved.x2)?;
        Ok(y)
    }

    /// The forward pass up to what the backward pass reads.
    pub(crate) fn forward_saved(&self, cx: Context, x: Buf) -> Result<Saved> {
        self.forward_attending(cx, x, |shape, q, k, v| attention::forward(cx.engine, shape, cx.call.layout, q, k, v))
    }

    fn forward_attending(
        &self,
        cx: Context,
        x: Buf,
        attend: impl FnOnce(Shape, &Buf, &Buf, &Buf) -> Result<(Buf, Buf)>,
    ) -> Result<Saved> {
        let (e, c) = (cx.engine, cx.config);
        let mut t = Vec::new();
        let normed = |x: &Buf, w: &Option<Param>| w.as_ref().map(|w| e.passing(|| cx.norm(x, w))).transpose();
        let n1 = normed(&x, &self.input_norm)?;
        let [mut q, mut k, v] = self.qkv.forward(cx, n1.as_ref().unwrap_or(&x), &mut t)?;
        drop(n1);
        let raw = match &self.qk_norms {
            Some((qn, kn)) => {
                let normed = (cx.norm(&q, qn)?, cx.norm(&k, kn)?);
                Some((std::mem::replace(&mut q, normed.0), std::mem::replace(&mut k, normed.1)))
            }
            None => None,
        };
        cx.rotate(self, &mut q, c.num_heads, false)?;
        cx.rotate(self, &mut k, c.num_kv_heads, false)?;
        let (o, lse) = attend(cx.attention_shape(self), &q, &k, &v)?;
        let branch = cx.project(&self.o, &o, &mut t)?;
        let (x2, attended) = cx.join(&x, branch, self.attention_norm.as_ref())?;
        let n2 = normed(&x2, &self.mlp_norm)?;
        let [gate, up] = self.gate_up.forward(cx, n2.as_ref().unwrap_or(&x2), &mut t)?;
        drop(n2);
        let output = self.output_norm.as_ref().map(|_| self.mlp_output(cx, &gate, &up)).transpose()?;
        Ok(Saved { x, raw, q, k, v, o, lse, attended, x2, gate, up, output, t })
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
        let Saved { x, raw, q, k, v, o, lse, attended, x2, mut gate, mut up, output, t } = saved;
        let into_qkv = through || cx.adapted(self.qkv.linears.iter());
        let into_x2 = into_qkv || cx.adapted([&self.o].into_iter());
        let into_mlp = into_x2 || cx.adapted(self.gate_up.linears.iter());
        let n = cx.call.layout.tokens();
        let mut g = g;

        let branch = cx.join_back(&g, output.as_ref(), self.output_norm.as_ref())?;
        drop(output);
        let a = elementwise::gate_mul(e, c.activation, &gate, &up)?;
        let mut da = into_mlp.then(|| e.take(n, c.intermediate_size)).transpose()?;
        let g_mlp = branch.as_ref().unwrap_or(&g);
        cx.project_back(&self.down, &a, &t, g_mlp, grads, da.as_mut().map(|d| (d, false)))?;
        drop((a, branch));
        let Some(da) = da else { return Ok(None) };
        elementwise::gate_mul_backward(e, c.activation, &mut gate, &mut up, &da)?;
        drop(da);
        self.through_norm(cx, &self.gate_up, &self.mlp_norm, &x2, &t, [gate, up], grads, into_x2.then_some(&mut g))?;
        if !into_x2 {
            return Ok(None);
        }
        drop(x2);

        let branch = cx.join_back(&g, attended.as_ref(), self.attention_norm.as_ref())?;
        drop(attended);
        let mut d_o = into_qkv.then(|| e.take(n, c.num_heads * c.head_dim)).transpose()?;
        let g_attention = branch.as_ref().unwrap_or(&g);
        cx.project_back(&self.o, &o, &t, g_attention, grads, d_o.as_mut().map(|d| (d, false)))?;
        drop(branch);
        let Some(d_o) = d_o else { return Ok(None) };
        let read = attention::Saved { q: &q, k: &k, v: &v, o: &o, lse: &lse };
        let (mut dq, mut dk, dv) = attention::backward(e, cx.attention_shape(self), cx.call.layout, read, &d_o)?;
        drop((q, k, v, o, lse, d_o));
        cx.rotate(self, &mut dq, c.num_heads, true)?;
        cx.rotate(self, &mut dk, c.num_kv_heads, true)?;
        if let (Some((qn, kn)), Some((q_raw, k_raw))) = (&self.qk_norms, raw) {
            for (norm, raw, d) in [(qn, q_raw, &mut dq), (kn, k_raw, &mut dk)] {
                let normed = std::mem::replace(d, raw.copy(e));
                cx.norm_back(&raw, norm, &normed, d, false)?;
            }
        }
        self.through_norm(cx, &self.qkv, &self.input_norm, &x, &t, [dq, dk, dv], grads, through.then_some(&mut g))?;
        Ok(through.then_some(g))
    }

    /// The backward pass of a projection and of the norm before it: adds to the slots' gradients and, when it is
    /// given, to the gradient `dx` of the norm's input `x`.
    #[allow(clippy::too_many_arguments)]
    fn through_norm<const P: usize>(
        &self,
        cx: Context,
        projection: &Projection,
        norm: &Option<Param>,
        x: &Buf,
        t: &[(usize, Kept)],
        g: [Buf; P],
        grads: &mut [SlotGrad],
        dx: Option<&mut Buf>,
    ) -> Result<()> {
        let Some(w) = norm else { return projection.backward(cx, x, t, g, grads, dx.map(|dx| (dx, true))) };
        let n1 = cx.norm(x, w)?;
        let Some(dx) = dx else { return projection.backward(cx, &n1, t, g, grads, None) };
        let mut dn = cx.engine.take(cx.call.layout.tokens(), cx.config.hidden_size)?;
        projection.backward(cx, &n1, t, g, grads, Some((&mut dn, false)))?;
        drop(n1);
        cx.norm_back(x, w, &dn, dx, true)
    }
}
