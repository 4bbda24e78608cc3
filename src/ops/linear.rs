//! A frozen linear with an optional LoRA slot: `y = x·Wᵀ + bias + s·(x̃·Aᵀ)·Bᵀ`, x̃ = dropout(x).
//! Saved: `t = x̃·Aᵀ`. With `g = dy`: `u = s·g·B; dx = g·W + mask(u·A); dA += uᵀ·x̃; dB += s·gᵀ·t`.
//! W has no gradient, ever. With magnitudes (DoRA) see `dora`.

use candle_core::{DType, Tensor};

use super::buf::{Buf, Matrix, Param};
use super::dora::{self, Dora};
use super::elementwise::{dropout, DropoutKey};
use super::engine::{Engine, Phase};
use super::layout::Layout;
use crate::error::Result;
use crate::kernels::cpu::dots::FEW;
use crate::kernels::cpu::elementwise::add_bias;
use crate::kernels::cpu::for_rows;
use crate::kernels::cpu::gemm::View;
use crate::kernels::cpu::matvec::{self, LowRank, Source};
use crate::kernels::cpu::product::{product, Term};
use crate::kernels::cpu::product::{Columns, Plain, Rows};

/// A frozen linear of the model.
#[derive(Debug)]
pub struct Linear {
    /// Its number among the model's linears.
    pub id: usize,
    /// Its block.
    pub layer: usize,
    /// Its module path in the model's files, `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// W `[out, in]`.
    pub weight: Matrix,
    /// Bias `[out]`.
    pub bias: Option<Param>,
}

/// An adapter on a linear.
#[derive(Debug)]
pub struct Slot {
    /// Module path.
    pub module: String,
    /// A number for the path: keys random numbers.
    pub key: u64,
    /// Rank R.
    pub r: usize,
    /// Inputs of the linear.
    pub in_features: usize,
    /// Outputs of the linear.
    pub out_features: usize,
    /// s.
    pub scale: f32,
    /// Dropout on the adapter's input, in training.
    pub dropout: f32,
    /// Factor of the learning rate of B and m.
    pub lr_factor: f32,
    /// A `[R, in]`, f32.
    pub a: Buf,
    /// B `[out, R]`, f32.
    pub b: Buf,
    /// The magnitudes m, and what follows from A and B for them, where there are any.
    pub dora: Option<Dora>,
}

impl Slot {
    /// What is trained, with the factor of its learning rate: A, B, and m where there is one.
    pub(crate) fn parameters_mut(&mut self) -> impl Iterator<Item = (&mut Buf, f32)> {
        let m = self.dora.as_mut().map(|d| (&mut d.magnitude, self.lr_factor));
        [(&mut self.a, 1.0), (&mut self.b, self.lr_factor)].into_iter().chain(m)
    }

    /// A or B has changed.
    pub(crate) fn renew(&mut self) {
        self.dora.iter_mut().for_each(Dora::renew);
    }
}

/// Gradients of a slot, f32; its moments have the same shapes.
#[derive(Debug)]
pub struct SlotGrad {
    /// dA `[R, in]`.
    pub a: Buf,
    /// dB `[out, R]`.
    pub b: Buf,
    /// dm `[1, out]`, where the slot has magnitudes.
    pub m: Option<Buf>,
}

impl SlotGrad {
    /// A's, B's, and m's where there is one.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &Buf> {
        [&self.a, &self.b].into_iter().chain(&self.m)
    }

    /// As [`SlotGrad::parts`].
    pub(crate) fn parts_mut(&mut self) -> impl Iterator<Item = &mut Buf> {
        [&mut self.a, &mut self.b].into_iter().chain(&mut self.m)
    }
}

/// What the forward pass of an adapted linear leaves for its backward pass.
#[derive(Debug)]
pub struct Kept {
    /// `t = x̃·Aᵀ` `[N,R]`.
    pub t: Buf,
    /// With magnitudes, `z = x̃·(W + s·B·A)ᵀ` `[N,out]`.
    pub z: Option<Buf>,
}

/// What a call knows beside its operands.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// Where the tokens stand.
    pub layout: &'a Layout,
    /// Set in training: dropout is on.
    pub dropout: Option<DropoutKey>,
}

impl Call<'_> {
    /// x̃, when dropout changes x.
    pub(super) fn dropped(&self, engine: &Engine, x: &Buf, slot: &Slot) -> Result<Option<Buf>> {
        match self.dropout {
            Some(key) if slot.dropout > 0.0 => {
                let mut d = x.copy(engine);
                dropout(engine, &mut d, slot.in_features, slot.dropout, key, slot.key, self.layout)?;
                Ok(Some(d))
            }
            _ => Ok(None),
        }
    }
}

/// `y[N,out]` and, with a slot, what its backward pass reads.
pub fn forward(engine: &Engine, lin: &Linear, slot: Option<&Slot>, x: &Buf, call: Call) -> Result<(Buf, Option<Kept>)> {
    if let Some((s, d)) = slot.and_then(|s| Some((s, s.dora.as_ref()?))) {
        return dora::forward(engine, lin, (s, d), x, call);
    }
    let (y, t) = plain(engine, lin, slot, x, call, true)?;
    Ok((y, t.map(|t| Kept { t, z: None })))
}

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
fn down(engine: &Engine, slot: &Slot, x: &Buf, few: bool) -> Result<Buf> {
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

/// What the backward pass of a linear reads.
pub struct Saved<'a> {
    /// The input `x[N,in]`.
    pub x: &'a Buf,
    /// What the forward pass left; made again from x where it was not kept.
    pub t: Option<&'a Kept>,
}

/// Adds to the slot's gradients and, when `dx` is given, writes (or with `add` adds) `dx[N,in]`.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    engine: &Engine,
    lin: &Linear,
    slot: Option<(&Slot, &mut SlotGrad)>,
    saved: Saved,
    g: &Buf,
    call: Call,
    dx: Option<(&mut Buf, bool)>,
) -> Result<()> {
    let Some((slot, grad)) = slot else {
        let Some((dx, add)) = dx else { return Ok(()) };
        return engine.timed(Phase::Linear, || input_gradient(engine, lin, None, g, dx, add));
    };
    if let Some(d) = &slot.dora {
        return dora::backward(engine, lin, (slot, d), grad, saved, g, call, dx);
    }
    let dropped = call.dropped(engine, saved.x, slot)?;
    let x = dropped.as_ref().unwrap_or(saved.x);
    let u = engine.timed(Phase::Linear, || {
        let made;
        let t = match saved.t {
            Some(kept) => &kept.t,
            None => {
                made = down(engine, slot, x, false)?;
                &made
            }
        };
        adapter_gradients(engine, slot, grad, x, t, g)
    })?;
    drop(dropped);
    let Some((dx, add)) = dx else { return Ok(()) };
    let masked = call.dropout.filter(|_| slot.dropout > 0.0);
    let through = masked.is_none().then_some((slot, &u));
    engine.timed(Phase::Linear, || input_gradient(engine, lin, through, g, dx, add))?;
    if let Some(key) = masked {
        // The mask falls on u·A alone, so that it needs a place of its own.
        let mut ua = engine.timed(Phase::Linear, || up(engine, slot, &u))?;
        dropout(engine, &mut ua, slot.in_features, slot.dropout, key, slot.key, call.layout)?;
        super::elementwise::add(engine, dx, &ua)?;
    }
    Ok(())
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
fn up(engine: &Engine, slot: &Slot, u: &Buf) -> Result<Buf> {
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
