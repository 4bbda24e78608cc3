//! Element-wise kernels: gate, residual, scaling, dropout, sums of squares.

use rayon::prelude::*;

use super::simd::{dot, exp, fma, simd_kernel, softcap as softcap_of};
use super::{for_rows, GRAIN};
use crate::rng::Key;

/// The function of a gate, `x·σ(w(x))`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// SiLU: w = x.
    Silu,
    /// GELU's approximation `x/2·(1 + tanh u)`: w = 2u, u = √(2/π)·(x + 0.044715·x³).
    GeluTanh,
}

/// 2·√(2/π).
const GELU: f32 = 1.595_769;
const CUBIC: f32 = 0.044_715;

/// w and its slope.
#[inline(always)]
fn inner<const FMA: bool>(gelu: bool, x: f32) -> (f32, f32) {
    if gelu {
        let s = CUBIC * x * x;
        (GELU * fma::<FMA>(s, x, x), GELU * fma::<FMA>(3.0, s, 1.0))
    } else {
        (x, 1.0)
    }
}

simd_kernel! {
    /// `h = act(gate)·up`.
    pub fn gate_mul_part(gelu: bool, gate: &[f32], up: &[f32], h: &mut [f32]) {
        // One loop for each function: a choice inside would be made for every element.
        if gelu {
            for ((h, &g), &u) in h.iter_mut().zip(gate).zip(up) {
                *h = g / (1.0 + exp::<FMA>(-inner::<FMA>(true, g).0)) * u;
            }
        } else {
            for ((h, &g), &u) in h.iter_mut().zip(gate).zip(up) {
                *h = g / (1.0 + exp::<FMA>(-g)) * u;
            }
        }
    }
}

simd_kernel! {
    /// In: `dh`. Out: `dgate` in place of `gate`, `dup` in place of `up`.
    /// With σ = 1/(1 + e^−w): `dgate = dh·up·σ·(1 + gate·w'·(1 − σ))`, `dup = dh·gate·σ`.
    pub fn gate_mul_backward_part(gelu: bool, gate: &mut [f32], up: &mut [f32], dh: &[f32]) {
        if gelu {
            for ((g, u), &d) in gate.iter_mut().zip(up.iter_mut()).zip(dh) {
                let (gv, uv) = (*g, *u);
                let (w, slope) = inner::<FMA>(true, gv);
                let s = 1.0 / (1.0 + exp::<FMA>(-w));
                *g = d * uv * s * (1.0 + gv * slope * (1.0 - s));
                *u = d * gv * s;
            }
        } else {
            for ((g, u), &d) in gate.iter_mut().zip(up.iter_mut()).zip(dh) {
                let s = 1.0 / (1.0 + exp::<FMA>(-*g));
                let (gv, uv) = (*g, *u);
                *g = d * uv * s * (1.0 + gv * (1.0 - s));
                *u = d * gv * s;
            }
        }
    }
}

simd_kernel! {
    /// `y *= factor`.
    pub fn scale_part(y: &mut [f32], factor: f32) {
        for y in y.iter_mut() {
            *y *= factor;
        }
    }
}

simd_kernel! {
    /// `y += x`.
    pub fn add_part(y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

simd_kernel! {
    /// Σ x², lanes in f32 over 4,096 elements at a time, those sums in f64.
    pub fn sum_squares(x: &[f32]) -> f64 {
        // A loop, not an iterator's closure: that would be compiled apart, without the instruction set.
        let mut total = 0f64;
        for c in x.chunks(4096) {
            total += dot::<FMA>(c, c) as f64;
        }
        total
    }
}

/// `h = act(gate)·up`.
pub fn gate_mul(act: Gate, gate: &[f32], up: &[f32], h: &mut [f32]) {
    let gelu = act == Gate::GeluTanh;
    for_rows(h, 1, |i, h| gate_mul_part(gelu, &gate[i..i + h.len()], &up[i..i + h.len()], h));
}

/// `gate`, `up` become their gradients.
pub fn gate_mul_backward(act: Gate, gate: &mut [f32], up: &mut [f32], dh: &[f32]) {
    let gelu = act == Gate::GeluTanh;
    gate.par_chunks_mut(GRAIN)
        .zip(up.par_chunks_mut(GRAIN))
        .zip(dh.par_chunks(GRAIN))
        .for_each(|((g, u), d)| gate_mul_backward_part(gelu, g, u, d));
}

/// `y *= factor`.
pub fn scale(y: &mut [f32], factor: f32) {
    for_rows(y, 1, |_, y| scale_part(y, factor));
}

simd_kernel! {
    /// `x = c·tanh(x/c)`.
    pub fn softcap_part(x: &mut [f32], c: f32) {
        for x in x.iter_mut() {
            *x = softcap_of::<FMA>(*x, c);
        }
    }
}

/// `x = c·tanh(x/c)`.
pub fn softcap(x: &mut [f32], c: f32) {
    for_rows(x, 1, |_, x| softcap_part(x, c));
}

/// `y += x`.
pub fn add(y: &mut [f32], x: &[f32]) {
    for_rows(y, 1, |i, y| add_part(y, &x[i..i + y.len()]));
}

/// `y[N,C] += bias[C]`.
pub fn add_bias(y: &mut [f32], bias: &[f32]) {
    for_rows(y, bias.len(), |_, y| y.chunks_exact_mut(bias.len()).for_each(|row| add_part(row, bias)));
}

/// Dropout of `x[N,C]`: `y = x·mask/(1 − p)`. The mask of a token is a function of its row's key and its
/// position, so it can be made again in the backward pass and does not depend on the micro-batch.
/// `token(i)` gives key and position of token i. `y` may start as a copy of `x`.
pub fn dropout(y: &mut [f32], width: usize, p: f32, token: impl Fn(usize) -> (Key, u32) + Sync) {
    let keep = 1.0 / (1.0 - p);
    for_rows(y, width, |r0, rows| {
        for (r, row) in rows.chunks_exact_mut(width).enumerate() {
            let (key, position) = token(r0 + r);
            for (j, v) in row.iter_mut().enumerate() {
                *v = if key.keeps(position, width, j, p) { *v * keep } else { 0.0 };
            }
        }
    });
}

/// `x[N,C] += u`, u uniform in ±size of the token: `token(i)` gives key, position and size of token i.
pub fn noise(x: &mut [f32], width: usize, token: impl Fn(usize) -> (Key, u32, f32) + Sync) {
    for_rows(x, width, |r0, rows| {
        for (r, row) in rows.chunks_exact_mut(width).enumerate() {
            let (key, position, size) = token(r0 + r);
            for (j, v) in row.iter_mut().enumerate() {
                *v += (2.0 * key.share(position, width, j) - 1.0) * size;
            }
        }
    });
}

impl Key {
    /// A number of feature `j` of `width` at `position`, uniform in [0, 1), 24 bits.
    #[inline]
    fn share(self, position: u32, width: usize, j: usize) -> f32 {
        (self.bits((position as usize * width + j) as u64) >> 40) as f32 * (1.0 / (1u64 << 24) as f32)
    }

    /// Whether feature `j` of `width` at `position` stays under dropout `p`.
    #[inline]
    pub fn keeps(self, position: u32, width: usize, j: usize, p: f32) -> bool {
        self.share(position, width, j) >= p
    }
}
