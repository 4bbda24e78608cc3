//! Element-wise kernels: gated SiLU, residual, scaling, dropout, sums of squares.

use rayon::prelude::*;

use super::simd::{dot, exp, simd_kernel};
use super::{for_rows, GRAIN};
use crate::rng::Key;

simd_kernel! {
    /// `h = silu(gate)·up`, `silu(x) = x/(1 + e^-x)`.
    pub fn silu_mul_part(gate: &[f32], up: &[f32], h: &mut [f32]) {
        for ((h, &g), &u) in h.iter_mut().zip(gate).zip(up) {
            *h = g / (1.0 + exp::<FMA>(-g)) * u;
        }
    }
}

simd_kernel! {
    /// In: `dh`. Out: `dgate` in place of `gate`, `dup` in place of `up`.
    /// With σ = 1/(1 + e^-gate): `dgate = dh·up·σ·(1 + gate·(1 − σ))`, `dup = dh·gate·σ`.
    pub fn silu_mul_backward_part(gate: &mut [f32], up: &mut [f32], dh: &[f32]) {
        for ((g, u), &d) in gate.iter_mut().zip(up.iter_mut()).zip(dh) {
            let s = 1.0 / (1.0 + exp::<FMA>(-*g));
            let (gv, uv) = (*g, *u);
            *g = d * uv * s * (1.0 + gv * (1.0 - s));
            *u = d * gv * s;
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

/// `h = silu(gate)·up`.
pub fn silu_mul(gate: &[f32], up: &[f32], h: &mut [f32]) {
    for_rows(h, 1, |i, h| silu_mul_part(&gate[i..i + h.len()], &up[i..i + h.len()], h));
}

/// `gate`, `up` become their gradients.
pub fn silu_mul_backward(gate: &mut [f32], up: &mut [f32], dh: &[f32]) {
    gate.par_chunks_mut(GRAIN)
        .zip(up.par_chunks_mut(GRAIN))
        .zip(dh.par_chunks(GRAIN))
        .for_each(|((g, u), d)| silu_mul_backward_part(g, u, d));
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

impl Key {
    /// Whether feature `j` of `width` at `position` stays under dropout `p`.
    #[inline]
    pub fn keeps(self, position: u32, width: usize, j: usize, p: f32) -> bool {
        let u = (self.bits((position as usize * width + j) as u64) >> 40) as f32 * (1.0 / (1u64 << 24) as f32);
        u >= p
    }
}
