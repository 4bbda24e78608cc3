//! The products of a frozen linear with an optional LoRA slot: `y = x·Wᵀ + bias + s·(x̃·Aᵀ)·Bᵀ`, x̃ = dropout(x).
//! Saved: `t = x̃·Aᵀ`. With `g = dy`: `u = s·g·B; dx = g·W + mask(u·A); dA += uᵀ·x̃; dB += s·gᵀ·t`.

use candle_core::{DType, Tensor};

use super::buf::Buf;
use super::engine::{Engine, Phase};
use super::layout::Layout;
use super::linear::{Call, Linear, Slot, SlotGrad};
use crate::error::Result;
use crate::kernels::cpu::dots::FEW;
use crate::kernels::cpu::elementwise::add_bias;
use crate::kernels::cpu::for_rows;
use crate::kernels::cpu::gemm::View;
use crate::kernels::cpu::matvec::{self, LowRank, Source};
use crate::kernels::cpu::product::{product, Term};
use crate::kernels::cpu::product::{Columns, Plain, Rows};

/// `y[N,out]` without magnitudes, with its bias when `biased`, and t.
pub(super) fn plain(
    engine: &Engine,
    lin: &Linear,
    slot: Option<&Slot>,
    x: &Buf,
    call: Call,
    biased: bool,
) -> Result<(Buf, Option<Buf>)> {
    let dropped = engine.passing(|| Ok(slot.map(|s| call.dropped(engine, x, s)).transpose()?.flatten()))?;
    engine.timed(Phase::Linear, || {
        let few = generates(x, lin, call.layout);
        let t = slot.map(|s| down(engine, s, dropped.as_ref().unwrap_or(x), few)).transpose()?;
        match x {
            Buf::Host(x) => {
                let (out, inp) = (lin.weight.rows(), lin.weight.cols());
                let n = x.len() / inp;
                let mut y = engine.pool.take(n * out);
                if few {
                    let low = slot.zip(t.as_ref());
                    let low = low.map(|(s, t)| LowRank { b: s.b.host(), r: s.r, t: t.host(), scale: s.scale });
                    lin.weight.multiply_few(engine, x, low, &mut y);
                } else {
                    let w = Columns(lin.weight.stored(engine));
                    let mut terms = vec![Term { a: View::rows(x, inp), k: inp, b: &w, alpha: 1.0 }];
                    let b = slot.map(|s| Columns(Plain::new(s.b.host(), s.r)));
                    if let (Some(s), Some(t), Some(b)) = (slot, &t, &b) {
                        terms.push(Term { a: View::rows(t.host(), s.r), k: s.r, b, alpha: s.scale });
                    }
                    product(&mut y, out, false, (n, out), &terms, |n| engine.pool.scratch(n));
                }
                if let Some(bias) = lin.bias.as_ref().filter(|_| biased) {
                    add_bias(&mut y, bias.host());
                }
                Ok((Buf::Host(y), t))
            }
            Buf::Dev(x) => {
                let mut y = x.matmul(&lin.weight.tensor().t()?)?;
                if let Some(bias) = lin.bias.as_ref().filter(|_| biased) {
                    y = y.broadcast_add(&bias.tensor(y.dtype())?)?;
                }
                if let (Some(s), Some(t)) = (slot, &t) {
                    let update = t.tensor().matmul(&s.b.tensor().t()?)?.affine(s.scale as f64, 0.0)?;
                    y = (y + update.to_dtype(x.dtype())?)?;
                }
                Ok((Buf::Dev(y), t))
            }
        }
    })
}

/// Whether this is a step of generation, bound by the reading of the weights: the tokens are few, and no row of
/// training or scoring, which is to have the same bits in any company.
fn generates(x: &Buf, lin: &Linear, layout: &Layout) -> bool {
    layout.is_part() && x.len() <= FEW * lin.weight.cols()
}

/// `t[N,R] = x̃[N,in]·Aᵀ`.
pub(super) fn down(engine: &Engine, slot: &Slot, x: &Buf, few: bool) -> Result<Buf> {
    match x {
        Buf::Host(x) => {
            let (r, inp) = (slot.r, slot.in_features);
            let n = x.len() / inp;
            let mut t = engine.pool.take(n * r);
            if few {
                matvec::product(Source::Floats(slot.a.host()), None, (n, r, inp), x, None, &mut t);
                return Ok(Buf::Host(t));
            }
            let a = Columns(Plain::new(slot.a.host(), inp));
            let term = Term { a: View::rows(x, inp), k: inp, b: &a, alpha: 1.0 };
            product(&mut t, r, false, (n, r), &[term], |n| engine.pool.scratch(n));
            Ok(Buf::Host(t))
        }
        Buf::Dev(x) => Ok(Buf::Dev(x.to_dtype(DType::F32)?.matmul(&slot.a.tensor().t()?)?)),
    }
}

/// Adds `dA += uᵀ·x̃` and `dB += s·gᵀ·t`; gives `u[N,R] = s·g·B`.
pub(super) fn adapter_gradients(
    engine: &Engine,
    slot: &Slot,
    grad: &mut SlotGrad,
    x: &Buf,
    t: &Buf,
    g: &Buf,
) -> Result<Buf> {
    match g {
        Buf::Host(g) => {
            let (out, inp, r) = (slot.out_features, slot.in_features, slot.r);
            let n = g.len() / out;
            let scratch = |n| engine.pool.scratch(n);
            let mut u = engine.pool.take(n * r);
            let b = Rows(Plain::new(slot.b.host(), r));
            let gb = Term { a: View::rows(g, out), k: out, b: &b, alpha: slot.scale };
            product(&mut u, r, false, (n, r), &[gb], scratch);
            // dBᵀ: few rows, so that g is read once, where it stands.
            let mut db = engine.pool.scratch(r * out);
            let rows = Rows(Plain::new(g, out));
            let tg = Term { a: View::transposed(t.host(), r), k: n, b: &rows, alpha: slot.scale };
            product(&mut db, out, false, (r, out), &[tg], scratch);
            for_rows(grad.b.host_mut(), r, |row, db_rows| {
                for (i, db_row) in db_rows.chunks_exact_mut(r).enumerate() {
                    db_row.iter_mut().enumerate().for_each(|(j, v)| *v += db[j * out + row + i]);
                }
            });
            let rows = Rows(Plain::new(x.host(), inp));
            let ux = Term { a: View::transposed(&u, r), k: n, b: &rows, alpha: 1.0 };
            product(grad.a.host_mut(), inp, true, (r, inp), &[ux], scratch);
            Ok(Buf::Host(u))
        }
        Buf::Dev(g) => {
            let g = g.to_dtype(DType::F32)?;
            let u = g.matmul(slot.b.tensor())?.affine(slot.scale as f64, 0.0)?;
            add_to(&mut grad.b, g.t()?.matmul(t.tensor())?.affine(slot.scale as f64, 0.0)?)?;
            add_to(&mut grad.a, u.t()?.matmul(&x.tensor().to_dtype(DType::F32)?)?)?;
            Ok(Buf::Dev(u))
        }
    }
}

/// `u[N,R]·A` `[N,in]`.
pub(super) fn up(engine: &Engine, slot: &Slot, u: &Buf) -> Result<Buf> {
    let (r, inp) = (slot.r, slot.in_features);
    match u {
        Buf::Host(u) => {
            let n = u.len() / r;
            let mut ua = engine.pool.take(n * inp);
            let a = Rows(Plain::new(slot.a.host(), inp));
            let term = Term { a: View::rows(u, r), k: r, b: &a, alpha: 1.0 };
            product(&mut ua, inp, false, (n, inp), &[term], |n| engine.pool.scratch(n));
            Ok(Buf::Host(ua))
        }
        Buf::Dev(u) => Ok(Buf::Dev(u.matmul(slot.a.tensor())?.to_dtype(engine.options.dtype)?)),
    }
}

/// `dx[N,in] (+)= g[N,out]·W`, and `u[N,R]·A` with a slot.
pub(super) fn input_gradient(
    engine: &Engine,
    lin: &Linear,
    slot: Option<(&Slot, &Buf)>,
    g: &Buf,
    dx: &mut Buf,
    add: bool,
) -> Result<()> {
    match dx {
        Buf::Host(dx) => {
            let (out, inp) = (lin.weight.rows(), lin.weight.cols());
            let g = g.host();
            let w = Rows(lin.weight.stored(engine));
            let mut terms = vec![Term { a: View::rows(g, out), k: out, b: &w, alpha: 1.0 }];
            let a = slot.map(|(s, _)| Rows(Plain::new(s.a.host(), inp)));
            if let (Some((s, u)), Some(a)) = (slot, &a) {
                terms.push(Term { a: View::rows(u.host(), s.r), k: s.r, b: a, alpha: 1.0 });
            }
            product(dx, inp, add, (g.len() / out, inp), &terms, |n| engine.pool.scratch(n));
        }
        Buf::Dev(dx) => {
            let mut v = g.tensor().matmul(lin.weight.tensor())?;
            if let Some((s, u)) = slot {
                v = (v + up(engine, s, u)?.tensor())?;
            }
            *dx = if add { (&*dx + v)? } else { v };
        }
    }
    Ok(())
}

fn add_to(dst: &mut Buf, v: Tensor) -> Result<()> {
    if let Buf::Dev(dst) = dst {
        *dst = (&*dst + v)?;
    }
    Ok(())
}
