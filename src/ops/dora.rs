//! DoRA (Liu et al. 2024, arXiv 2402.09353) as PEFT computes it: a frozen linear whose adapted weight has rows of
//! learnt length. With `V = W + s·B·A`, `f = m/‖V‖` (norms of rows, no gradient through them) and x̃ = dropout(x):
//!
//! ```text
//! y = W·x + (f − 1)·W·x̃ + f·s·B·A·x̃ + bias = W·(x − x̃) + f·z + bias,   z = V·x̃
//! ```
//!
//! Saved: t as for LoRA, and z. With `g = dy`: `dm += Σ g·z/‖V‖`, A and B have the gradients of LoRA under `f·g`,
//! and `dx = f·g·V` without dropout, `g·W + mask((f − 1)·g·W + u·A)` with it.

use std::sync::RwLockReadGuard;

use candle_core::{DType, Tensor};

use super::buf::{Buf, Matrix};
use super::elementwise::{add, dropout};
use super::engine::{Engine, Phase};
use super::linear::{Call, Dora, Inverse, Kept, Linear, Saved, Slot, SlotGrad};
use super::lora::{self, adapter_gradients, input_gradient};
use crate::error::Result;
use crate::kernels::cpu::dora as kernel;
use crate::kernels::cpu::elementwise::add_bias;
use crate::kernels::cpu::for_rows;
use crate::kernels::cpu::gemm::View;
use crate::kernels::cpu::product::{product, Term};
use crate::kernels::cpu::product::{Plain, Rows};

/// Rows of `W + s·B·A` that exist at once.
pub(crate) const ROWS: usize = 64;

impl Dora {
    /// The inverse norms, taken once for each state of A and B.
    fn inverse(&self, engine: &Engine, lin: &Linear, slot: &Slot) -> Result<RwLockReadGuard<'_, Inverse>> {
        // A thread that panicked left `fresh` unset.
        let held = self.inverse.read().unwrap_or_else(|e| e.into_inner());
        if held.fresh {
            return Ok(held);
        }
        drop(held);
        let mut held = self.inverse.write().unwrap_or_else(|e| e.into_inner());
        if !held.fresh {
            row_norms(engine, &lin.weight, Some(slot), &mut held.of_rows)?;
            invert(&mut held.of_rows)?;
            held.fresh = true;
        }
        drop(held);
        Ok(self.inverse.read().unwrap_or_else(|e| e.into_inner()))
    }
}

fn invert(norms: &mut Buf) -> Result<()> {
    match norms {
        Buf::Host(n) => n.iter_mut().for_each(|n| *n = if *n > 0.0 { 1.0 / *n } else { 0.0 }),
        Buf::Dev(n) => {
            let zero = n.zeros_like()?;
            *n = n.gt(&zero)?.where_cond(&n.recip()?, &zero)?;
        }
    }
    Ok(())
}

/// Euclidean norms of the rows of W, or of `W + s·B·A`, to `norms[1, out]`; only [`ROWS`] rows of it exist at once.
pub(crate) fn row_norms(engine: &Engine, weight: &Matrix, update: Option<&Slot>, norms: &mut Buf) -> Result<()> {
    engine.timed(Phase::Linear, || match norms {
        Buf::Host(norms) => {
            let cols = weight.cols();
            let mut v = engine.pool.scratch(ROWS.min(weight.rows()) * cols);
            for (i, norms) in norms.chunks_mut(ROWS).enumerate() {
                let (first, n) = (i * ROWS, norms.len());
                let v = &mut v[..n * cols];
                for_rows(v, cols, |r0, rows| {
                    let from = first + r0;
                    weight.weight().read_rows(from..from + rows.len() / cols, rows)
                });
                if let Some(s) = update {
                    let a = Rows(Plain::new(s.a.host(), cols));
                    let b = View::rows(&s.b.host()[first * s.r..(first + n) * s.r], s.r);
                    let term = Term { a: b, k: s.r, b: &a, alpha: s.scale };
                    product(v, cols, true, (n, cols), &[term], |n| engine.pool.scratch(n));
                }
                kernel::row_norms(v, norms);
            }
            Ok(())
        }
        Buf::Dev(norms) => {
            let parts = (0..weight.rows()).step_by(ROWS * 16).map(|first| {
                let n = (weight.rows() - first).min(ROWS * 16);
                let mut v = weight.tensor().narrow(0, first, n)?.to_dtype(DType::F32)?;
                if let Some(s) = update {
                    let b = s.b.tensor().narrow(0, first, n)?.contiguous()?;
                    v = (v + b.matmul(s.a.tensor())?.affine(s.scale as f64, 0.0)?)?;
                }
                Ok(v.sqr()?.sum(1)?.sqrt()?)
            });
            let parts = parts.collect::<Result<Vec<Tensor>>>()?;
            *norms = Tensor::cat(&parts, 0)?.reshape((1, weight.rows()))?;
            Ok(())
        }
    })
}

/// f `[1, out]`.
fn factors(engine: &Engine, d: &Dora, inverse: &Inverse) -> Result<Buf> {
    match (&d.magnitude, &inverse.of_rows) {
        (Buf::Host(m), Buf::Host(inv)) => {
            let mut f = engine.pool.scratch(m.len());
            f.iter_mut().zip(m.iter().zip(inv.iter())).for_each(|(f, (m, i))| *f = m * i);
            Ok(Buf::Host(f))
        }
        (m, inv) => Ok(Buf::Dev((m.tensor() * inv.tensor())?)),
    }
}

/// `f·x` over columns, in the type of x.
fn scaled(engine: &Engine, x: &Buf, f: &Buf) -> Result<Buf> {
    match x {
        Buf::Host(x) => {
            let mut y = engine.pool.take(x.len());
            kernel::scale_columns(&mut y, x, f.host());
            Ok(Buf::Host(y))
        }
        Buf::Dev(x) => Ok(Buf::Dev(x.to_dtype(DType::F32)?.broadcast_mul(f.tensor())?.to_dtype(x.dtype())?)),
    }
}

/// `y −= x`.
fn subtract(y: &mut Buf, x: &Buf) -> Result<()> {
    match y {
        Buf::Host(y) => kernel::subtract(y, x.host()),
        Buf::Dev(y) => *y = (&*y - x.tensor())?,
    }
    Ok(())
}

/// As [`adapted::forward`](super::adapted::forward).
pub(super) fn forward(
    engine: &Engine,
    lin: &Linear,
    (slot, d): (&Slot, &Dora),
    x: &Buf,
    call: Call,
) -> Result<(Buf, Option<Kept>)> {
    let plain = Call { dropout: None, ..call };
    let inverse = d.inverse(engine, lin, slot)?;
    let dropped = engine.passing(|| call.dropped(engine, x, slot))?;
    let (z, t) = lora::plain(engine, lin, Some(slot), dropped.as_ref().unwrap_or(x), plain, false)?;
    let rest = match dropped {
        Some(mut fed) => {
            // x − x̃, with its sign turned.
            subtract(&mut fed, x)?;
            Some(engine.passing(|| lora::plain(engine, lin, None, &fed, plain, false))?.0)
        }
        None => None,
    };
    engine.timed(Phase::Linear, || {
        let f = factors(engine, d, &inverse)?;
        let mut y = scaled(engine, &z, &f)?;
        if let Some(rest) = &rest {
            subtract(&mut y, rest)?;
        }
        match (&mut y, &lin.bias) {
            (Buf::Host(y), Some(bias)) => add_bias(y, bias.host()),
            (Buf::Dev(y), Some(bias)) => *y = y.broadcast_add(&bias.tensor(y.dtype())?)?,
            (_, None) => {}
        }
        Ok((y, t.map(|t| Kept { t, z: Some(z) })))
    })
}

/// As [`adapted::backward`](super::adapted::backward).
#[allow(clippy::too_many_arguments)]
pub(super) fn backward(
    engine: &Engine,
    lin: &Linear,
    (slot, d): (&Slot, &Dora),
    grad: &mut SlotGrad,
    saved: Saved,
    g: &Buf,
    call: Call,
    dx: Option<(&mut Buf, bool)>,
) -> Result<()> {
    let inverse = d.inverse(engine, lin, slot)?;
    let dropped = call.dropped(engine, saved.x, slot)?;
    let x = dropped.as_ref().unwrap_or(saved.x);
    let (mut made_t, mut made_z) = (None, None);
    if saved.t.is_none() {
        let plain = Call { dropout: None, ..call };
        let (z, t) = lora::plain(engine, lin, Some(slot), x, plain, false)?;
        (made_t, made_z) = (t, Some(z));
    }
    let kept_z = saved.t.and_then(|k| k.z.as_ref());
    let (Some(t), Some(z)) = (saved.t.map(|k| &k.t).or(made_t.as_ref()), kept_z.or(made_z.as_ref())) else {
        return Err(crate::error::Error::Misuse("DoRA was given what a plain adapter saved".into()));
    };
    engine.timed(Phase::Linear, || {
        match (&mut grad.m, g, z) {
            (Some(Buf::Host(dm)), Buf::Host(g), Buf::Host(z)) => {
                kernel::magnitude_gradient(dm, g, z, inverse.of_rows.host())
            }
            (Some(Buf::Dev(dm)), Buf::Dev(g), Buf::Dev(z)) => {
                let sums = (g.to_dtype(DType::F32)? * z.to_dtype(DType::F32)?)?.sum_keepdim(0)?;
                *dm = (&*dm + sums.mul(inverse.of_rows.tensor())?)?;
            }
            _ => return Err(crate::error::Error::Misuse("DoRA was given the gradients of a plain adapter".into())),
        }
        Ok(())
    })?;
    // As large as g, and no longer needed.
    drop(made_z);
    let (mut under, u) = engine.timed(Phase::Linear, || {
        let under = scaled(engine, g, &factors(engine, d, &inverse)?)?;
        let u = adapter_gradients(engine, slot, grad, x, t, &under)?;
        Ok((under, u))
    })?;
    drop(dropped);
    let Some((dx, to)) = dx else { return Ok(()) };
    let Some(key) = call.dropout.filter(|_| slot.dropout > 0.0) else {
        return engine.timed(Phase::Linear, || input_gradient(engine, lin, Some((slot, &u)), &under, dx, to));
    };
    // What passes the mask needs a place of its own.
    let mut through = engine.take(call.layout.tokens(), slot.in_features)?;
    engine.timed(Phase::Linear, || {
        subtract(&mut under, g)?;
        input_gradient(engine, lin, Some((slot, &u)), &under, &mut through, false)
    })?;
    drop(under);
    dropout(engine, &mut through, slot.in_features, slot.dropout, key, slot.key, call.layout)?;
    engine.timed(Phase::Linear, || input_gradient(engine, lin, None, g, dx, to))?;
    add(engine, dx, &through)
}
