//! RMS norm: `y = x·inv·w`, `inv = 1/√(mean x² + ε)`; backward
//! `dx = inv·(g·w) − x·inv³/C·Σ(g·w·x)`. The weight is frozen.

use super::for_rows;
use super::simd::{dot, fma, simd_kernel, sum_lanes, LANES};

simd_kernel! {
    /// `y[N,C]` of `x[N,C]` with `w[C]`.
    pub fn forward_rows(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) {
        let c = w.len();
        for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
            let inv = 1.0 / (dot::<FMA>(x, x) / c as f32 + eps).sqrt();
            for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
                *y = x * inv * w;
            }
        }
    }
}

simd_kernel! {
    /// `dx[N,C]`: overwritten, or added to when `add`.
    pub fn backward_rows(x: &[f32], w: &[f32], eps: f32, g: &[f32], dx: &mut [f32], add: bool) {
        let c = w.len();
        for ((x, g), dx) in x.chunks_exact(c).zip(g.chunks_exact(c)).zip(dx.chunks_exact_mut(c)) {
            let inv = 1.0 / (dot::<FMA>(x, x) / c as f32 + eps).sqrt();
            let mut acc = [0f32; LANES];
            let mut tail = 0f32;
            let whole = c / LANES * LANES;
            for i in (0..whole).step_by(LANES) {
                for j in 0..LANES {
                    acc[j] = fma::<FMA>(g[i + j] * w[i + j], x[i + j], acc[j]);
                }
            }
            for i in whole..c {
                tail += g[i] * w[i] * x[i];
            }
            let k = (sum_lanes(acc) + tail) * inv * inv * inv / c as f32;
            for i in 0..c {
                let v = inv * (g[i] * w[i]) - x[i] * k;
                dx[i] = if add { dx[i] + v } else { v };
            }
        }
    }
}

/// `y[N,C] = rms_norm(x[N,C])`, in parallel over rows.
pub fn forward(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) {
    let c = w.len();
    for_rows(y, c, |r0, y| forward_rows(&x[r0 * c..r0 * c + y.len()], w, eps, y));
}

/// `dx[N,C] (+)=` the gradient of the input, in parallel over rows.
pub fn backward(x: &[f32], w: &[f32], eps: f32, g: &[f32], dx: &mut [f32], add: bool) {
    let c = w.len();
    for_rows(dx, c, |r0, dx| {
        let part = r0 * c..r0 * c + dx.len();
        backward_rows(&x[part.clone()], w, eps, &g[part], dx, add)
    });
}
