//! Causal attention inside each row, in tiles of query rows, with an optional sliding window and grouped
//! heads. Saved: output and log-sum-exp. Formulas beside the kernel, `kernels/cpu/attention.rs`.

use candle_core::{DType, Tensor, D};

use super::buf::Buf;
use super::engine::{Engine, Phase};
use super::layout::{Layout, Tile, TileKey};
use crate::error::Result;
use crate::kernels::cpu::attention as kernel;
pub use kernel::Shape;

/// `o[N,H·D]` and `lse[N,H]` of `q[N,H·D]`, `k[N,H_kv·D]`, `v[N,H_kv·D]` (rotated).
pub fn forward(engine: &Engine, s: Shape, layout: &Layout, q: &Buf, k: &Buf, v: &Buf) -> Result<(Buf, Buf)> {
    engine.timed(Phase::Attention, || match q {
        Buf::Host(q) => {
            let mut o = engine.pool.take(q.len());
            let mut lse = engine.pool.take(layout.tokens() * s.heads);
            let operands = (&q[..], k.host(), v.host());
            kernel::forward(s, &layout.offsets, operands, &mut o, &mut lse, |n| engine.pool.scratch(n));
            Ok((Buf::Host(o), Buf::Host(lse)))
        }
        Buf::Dev(q) => {
            let (mut outs, mut lses) = (Vec::new(), Vec::new());
            for tile in layout.device_tiles(engine, s.tile_key())?.iter() {
                let t = Operands { s, tile };
                let (qt, kt, vt) = (t.queries(q)?, t.keys(k.tensor())?, t.keys(v.tensor())?);
                let (scores, _) = t.scores(&qt, &kt)?;
                let max = scores.max_keepdim(D::Minus1)?;
                let p = scores.broadcast_sub(&max)?.exp()?;
                let sum = p.sum_keepdim(D::Minus1)?;
                let o = p.broadcast_div(&sum)?.matmul(&vt)?;
                outs.push(t.heads_last(&o)?.to_dtype(q.dtype())?);
                lses.push(t.per_head(&(max + sum.log()?)?)?);
            }
            Ok((Buf::Dev(Tensor::cat(&outs, 0)?), Buf::Dev(Tensor::cat(&lses, 0)?)))
        }
    })
}

/// What the backward pass reads.
pub struct Saved<'a> {
    /// Rotated queries.
    pub q: &'a Buf,
    /// Rotated keys.
    pub k: &'a Buf,
    /// Values.
    pub v: &'a Buf,
    /// Output.
    pub o: &'a Buf,
    /// Log-sum-exp.
    pub lse: &'a Buf,
}

/// `(dq, dk, dv)` from `g[N,H·D]`.
pub fn backward(engine: &Engine, s: Shape, layout: &Layout, saved: Saved, g: &Buf) -> Result<(Buf, Buf, Buf)> {
    engine.timed(Phase::Attention, || match g {
        Buf::Host(g) => {
            let (q, k, v) = (saved.q.host(), saved.k.host(), saved.v.host());
            let (mut dq, mut dk, mut dv) =
                (engine.pool.take(q.len()), engine.pool.take(k.len()), engine.pool.take(v.len()));
            let out = (&mut dq[..], &mut dk[..], &mut dv[..]);
            let scratch = |n| engine.pool.scratch(n);
            kernel::backward(s, &layout.offsets, (q, k, v), (saved.o.host(), saved.lse.host()), g, out, scratch);
            Ok((Buf::Host(dq), Buf::Host(dk), Buf::Host(dv)))
        }
        Buf::Dev(g) => {
            let (q, k, v) = (saved.q.tensor(), saved.k.tensor(), saved.v.tensor());
            let n = layout.tokens();
            let zeros = || Tensor::zeros((n, s.kv_heads * s.head_dim), DType::F32, q.device());
            let (mut dqs, mut dk, mut dv) = (Vec::new(), zeros()?, zeros()?);
            for tile in layout.device_tiles(engine, s.tile_key())?.iter() {
                let t = Operands { s, tile };
                let (qt, kt, vt) = (t.queries(q)?, t.keys(k)?, t.keys(v)?);
                let gt = t.queries(g)?;
                let ot = t.queries(saved.o.tensor())?;
                let lse = t.heads_first(saved.lse.tensor())?;
                let (scores, slope) = t.scores(&qt, &kt)?;
                let p = scores.broadcast_sub(&lse)?.exp()?;
                let delta = (&gt * &ot)?.sum_keepdim(D::Minus1)?;
                let dp = gt.matmul(&vt.transpose(1, 2)?)?;
                let ds = (&p * dp.broadcast_sub(&delta)?)?.affine(s.scale as f64, 0.0)?;
                let ds = slope.map_or(Ok(ds.clone()), |slope| ds * slope)?;
                dqs.push(t.heads_last(&ds.matmul(&kt)?)?.to_dtype(q.dtype())?);
                dk = dk.index_add(&tile.keys, &t.keys_last(&ds.transpose(1, 2)?.matmul(&qt)?)?, 0)?;
                dv = dv.index_add(&tile.keys, &t.keys_last(&p.transpose(1, 2)?.matmul(&gt)?)?, 0)?;
            }
            let like = |x: Tensor| x.to_dtype(q.dtype());
            Ok((Buf::Dev(Tensor::cat(&dqs, 0)?), Buf::Dev(like(dk)?), Buf::Dev(like(dv)?)))
        }
    })
}

/// `c·tanh(x/c)` and its slope `1 − tanh²`; x itself without a cap.
pub(super) fn cap(x: Tensor, softcap: Option<f32>) -> Result<(Tensor, Option<Tensor>)> {
    let Some(c) = softcap else { return Ok((x, None)) };
    let t = x.affine(1.0 / c as f64, 0.0)?.tanh()?;
    let slope = t.sqr()?.affine(-1.0, 1.0)?;
    Ok((t.affine(c as f64, 0.0)?, Some(slope)))
}

impl Shape {
    fn tile_key(&self) -> TileKey {
        (self.tile, self.window)
    }
}

/// Takes a tile's operands out of matrices and puts its results back. Operands are `[H_kv, G·T, D]` and
/// `[H_kv, K, D]`, G = H/H_kv: the heads of a group share their keys without a copy.
struct Operands<'a> {
    s: Shape,
    tile: &'a Tile,
}

impl Operands<'_> {
    fn rows(&self) -> usize {
        self.tile.q1 - self.tile.q0
    }

    /// `[N, H·D]` → `[H_kv, G·T, D]` in f32.
    fn queries(&self, x: &Tensor) -> Result<Tensor> {
        let (h, hkv, d, t) = (self.s.heads, self.s.kv_heads, self.s.head_dim, self.rows());
        let x = x.narrow(0, self.tile.q0, t)?.to_dtype(DType::F32)?.reshape((t, h, d))?;
        Ok(x.transpose(0, 1)?.contiguous()?.reshape((hkv, h / hkv * t, d))?)
    }

    /// `[N, H_kv·D]` → `[H_kv, K, D]` in f32.
    fn keys(&self, x: &Tensor) -> Result<Tensor> {
        let n = self.tile.q1 - self.tile.k0;
        let x = x.narrow(0, self.tile.k0, n)?.to_dtype(DType::F32)?.reshape((n, self.s.kv_heads, self.s.head_dim))?;
        Ok(x.transpose(0, 1)?.contiguous()?)
    }

    /// Scaled, capped, masked scores `[H_kv, G·T, K]`, and the slope of the cap where there is one.
    fn scores(&self, q: &Tensor, k: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let (scores, slope) = cap(q.matmul(&k.transpose(1, 2)?)?.affine(self.s.scale as f64, 0.0)?, self.s.softcap)?;
        let (hkv, rows, keys) = scores.dims3()?;
        let heads = scores.reshape((hkv, rows / self.rows(), self.rows(), keys))?;
        Ok((heads.broadcast_add(&self.tile.mask)?.reshape((hkv, rows, keys))?, slope))
    }

    /// `[H_kv, G·T, D]` → `[T, H·D]`.
    fn heads_last(&self, x: &Tensor) -> Result<Tensor> {
        let (h, d, t) = (self.s.heads, self.s.head_dim, self.rows());
        Ok(x.reshape((h, t, d))?.transpose(0, 1)?.contiguous()?.reshape((t, h * d))?)
    }

    /// `[H_kv, K, D]` → `[K, H_kv·D]`.
    fn keys_last(&self, x: &Tensor) -> Result<Tensor> {
        let n = self.tile.q1 - self.tile.k0;
        Ok(x.transpose(0, 1)?.contiguous()?.reshape((n, self.s.kv_heads * self.s.head_dim))?)
    }

    /// `[H_kv, G·T, 1]` → `[T, H]`.
    fn per_head(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.reshape((self.s.heads, self.rows()))?.t()?.contiguous()?)
    }

    /// The tile's part of `[N, H]` → `[H_kv, G·T, 1]`.
    fn heads_first(&self, x: &Tensor) -> Result<Tensor> {
        let (h, hkv, t) = (self.s.heads, self.s.kv_heads, self.rows());
        Ok(x.narrow(0, self.tile.q0, t)?.t()?.contiguous()?.reshape((hkv, h / hkv * t, 1))?)
    }
}
