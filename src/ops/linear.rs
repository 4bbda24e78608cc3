//! A frozen linear with an optional LoRA slot: `y = x·Wᵀ + bias + s·(x̃·Aᵀ)·Bᵀ`, x̃ = dropout(x).
//! Saved: `t = x̃·Aᵀ`. With `g = dy`: `u = s·g·B; dx = g·W + mask(u·A); dA += uᵀ·x̃; dB += s·gᵀ·t`.
//! W has no gradient, ever.

use candle_core::{DType, Tensor};

use super::elementwise::{dropout, DropoutKey};
use super::{Buf, Engine, Layout, Matrix, Param, Phase};
use crate::error::Result;
use crate::kernels::cpu::elementwise::add_bias;
use crate::kernels::cpu::gemm::{gemm, Par, View};

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
    /// Factor of the learning rate.
    pub lr_factor: f32,
    /// A `[R, in]`, f32.
    pub a: Buf,
    /// B `[out, R]`, f32.
    pub b: Buf,
}

/// Gradients of a slot, f32.
#[derive(Debug)]
pub struct SlotGrad {
    /// dA `[R, in]`.
    pub a: Buf,
    /// dB `[out, R]`.
    pub b: Buf,
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
    fn dropped(&self, engine: &Engine, x: &Buf, slot: &Slot) -> Result<Option<Buf>> {
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

/// `y[N,out]` and, with a slot, `t[N,R]`.
pub fn forward(engine: &Engine, lin: &Linear, slot: Option<&Slot>, x: &Buf, call: Call) -> Result<(Buf, Option<Buf>)> {
    let dropped = slot.map(|s| call.dropped(engine, x, s)).transpose()?.flatten();
    let whole = x;
    engine.timed(Phase::Linear, || match x {
        Buf::Host(x) => {
            let (out, inp) = (lin.weight.rows(), lin.weight.cols());
            let n = x.len() / inp;
            let mut y = engine.pool.take(n * out);
            lin.weight.with_rows(engine, 0..out, |w| {
                gemm(&mut y, out, false, (n, out, inp), 1.0, View::rows(x, inp), View::transposed(w, inp), par(n))
            });
            if let Some(bias) = &lin.bias {
                add_bias(&mut y, bias.host());
            }
            let Some(s) = slot else { return Ok((Buf::Host(y), None)) };
            let t = down(engine, s, dropped.as_ref().unwrap_or(whole))?;
            let bt = View::transposed(s.b.host(), s.r);
            gemm(&mut y, out, true, (n, out, s.r), s.scale, View::rows(t.host(), s.r), bt, par(n));
            Ok((Buf::Host(y), Some(t)))
        }
        Buf::Dev(x) => {
            let mut y = x.matmul(&lin.weight.tensor().t()?)?;
            if let Some(bias) = &lin.bias {
                y = y.broadcast_add(&bias.tensor(y.dtype())?)?;
            }
            let Some(s) = slot else { return Ok((Buf::Dev(y), None)) };
            let t = down(engine, s, dropped.as_ref().unwrap_or(whole))?;
            let update = t.tensor().matmul(&s.b.tensor().t()?)?.affine(s.scale as f64, 0.0)?;
            Ok((Buf::Dev((y + update.to_dtype(x.dtype())?)?), Some(t)))
        }
    })
}

/// Rows of training and scoring have at least two tokens, so one token is a step of generation.
fn par(tokens: usize) -> Par {
    if tokens == 1 {
        Par::Decode
    } else {
        Par::Pool
    }
}

/// `t[N,R] = x̃[N,in]·Aᵀ`.
fn down(engine: &Engine, slot: &Slot, x: &Buf) -> Result<Buf> {
    match x {
        Buf::Host(x) => {
            let (r, inp) = (slot.r, slot.in_features);
            let n = x.len() / inp;
            let mut t = engine.pool.take(n * r);
            gemm(&mut t, r, false, (n, r, inp), 1.0, View::rows(x, inp), View::transposed(slot.a.host(), inp), par(n));
            Ok(Buf::Host(t))
        }
        Buf::Dev(x) => Ok(Buf::Dev(x.to_dtype(DType::F32)?.matmul(&slot.a.tensor().t()?)?)),
    }
}

/// What the backward pass of a linear reads.
pub struct Saved<'a> {
    /// The input `x[N,in]`.
    pub x: &'a Buf,
    /// `t[N,R]` of the forward pass; made again from x where it was not kept.
    pub t: Option<&'a Buf>,
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
    let mut dx = dx;
    if let Some((dx, add)) = &mut dx {
        engine.timed(Phase::Linear, || input_gradient(engine, lin, g, dx, *add))?;
    }
    let Some((slot, grad)) = slot else { return Ok(()) };
    let dropped = call.dropped(engine, saved.x, slot)?;
    let x = dropped.as_ref().unwrap_or(saved.x);
    let made;
    let t = match saved.t {
        Some(t) => t,
        None => {
            made = engine.timed(Phase::Linear, || down(engine, slot, x))?;
            &made
        }
    };
    let through = dx.is_some();
    let ua = engine.timed(Phase::Linear, || match g {
        Buf::Host(g) => {
            let (out, inp, r) = (slot.out_features, slot.in_features, slot.r);
            let n = g.len() / out;
            let mut u = engine.pool.take(n * r);
            let (gv, bv) = (View::rows(g, out), View::rows(slot.b.host(), r));
            gemm(&mut u, r, false, (n, r, out), slot.scale, gv, bv, Par::Pool);
            let gt = View::transposed(g, out);
            gemm(grad.b.host_mut(), r, true, (out, r, n), slot.scale, gt, View::rows(t.host(), r), Par::Pool);
            let ut = View::transposed(&u, r);
            gemm(grad.a.host_mut(), inp, true, (r, inp, n), 1.0, ut, View::rows(x.host(), inp), Par::Pool);
            let av = View::rows(slot.a.host(), inp);
            // Without a mask u·A goes straight into dx; with one it needs a place of its own first.
            match (&mut dx, &dropped) {
                (Some((dx, _)), None) => {
                    gemm(dx.host_mut(), inp, true, (n, inp, r), 1.0, View::rows(&u, r), av, Par::Pool);
                    Ok(None)
                }
                (Some(_), Some(_)) => {
                    let mut ua = engine.pool.take(n * inp);
                    gemm(&mut ua, inp, false, (n, inp, r), 1.0, View::rows(&u, r), av, Par::Pool);
                    Ok(Some(Buf::Host(ua)))
                }
                (None, _) => Ok(None),
            }
        }
        Buf::Dev(g) => {
            let g = g.to_dtype(DType::F32)?;
            let u = g.matmul(slot.b.tensor())?.affine(slot.scale as f64, 0.0)?;
            add_to(&mut grad.b, g.t()?.matmul(t.tensor())?.affine(slot.scale as f64, 0.0)?)?;
            add_to(&mut grad.a, u.t()?.matmul(&x.tensor().to_dtype(DType::F32)?)?)?;
            Ok(through.then(|| u.matmul(slot.a.tensor())).transpose()?.map(Buf::Dev))
        }
    })?;
    if let (Some((dx, _)), Some(mut ua)) = (dx, ua) {
        if let (Some(key), true) = (call.dropout, dropped.is_some()) {
            dropout(engine, &mut ua, slot.in_features, slot.dropout, key, slot.key, call.layout)?;
        }
        let ua = match ua {
            Buf::Dev(t) => Buf::Dev(t.to_dtype(engine.options.dtype)?),
            host => host,
        };
        super::elementwise::add(engine, dx, &ua)?;
    }
    Ok(())
}

/// `dx[N,in] (+)= g[N,out]·W`.
fn input_gradient(engine: &Engine, lin: &Linear, g: &Buf, dx: &mut Buf, add: bool) -> Result<()> {
    match dx {
        Buf::Host(dx) => {
            let (out, inp) = (lin.weight.rows(), lin.weight.cols());
            let g = g.host();
            lin.weight.with_rows(engine, 0..out, |w| {
                let shape = (g.len() / out, inp, out);
                gemm(dx, inp, add, shape, 1.0, View::rows(g, out), View::rows(w, inp), Par::Pool)
            });
        }
        Buf::Dev(dx) => {
            let v = g.tensor().matmul(lin.weight.tensor())?;
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
