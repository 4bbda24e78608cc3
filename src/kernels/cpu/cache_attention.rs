//! Attention of one query over cached keys and values. Tasks are heads; each sums over the keys in
//! their order, so the bits do not depend on the number of threads.

use rayon::prelude::*;

use super::attention::Shape;
use super::simd::{dot, fma, prefetch, simd_kernel, LANES};

/// Keys, and values, that are asked for ahead.
const AHEAD: usize = 6;
/// Multiply-adds of a call below which its heads run on the calling thread.
const GRAIN: usize = 128 * 1024;

simd_kernel! {
    /// Raw scores of `q[D]` against keys that lie `stride` apart.
    pub fn score_keys(q: &[f32], keys: &[f32], stride: usize, scores: &mut [f32]) {
        for (s, k) in scores.iter_mut().zip(keys.chunks(stride)) {
            let k = &k[..q.len()];
            for line in k.chunks(LANES) {
                prefetch(line, AHEAD * stride);
            }
            *s = dot::<FMA>(q, k);
        }
    }
}

simd_kernel! {
    /// `out[D] = Σ p·v` over values that lie `stride` apart.
    pub fn weigh_values(p: &[f32], values: &[f32], stride: usize, out: &mut [f32]) {
        out.fill(0.0);
        for (&p, v) in p.iter().zip(values.chunks(stride)) {
            for line in v[..out.len()].chunks(LANES) {
                prefetch(line, AHEAD * stride);
            }
            for (o, &v) in out.iter_mut().zip(v) {
                *o = fma::<FMA>(p, v, *o);
            }
        }
    }
}

/// `o[1,H·D]` and `lse[1,H]` of `q[1,H·D]` over all of `k[T,H_kv·D]`, `v[T,H_kv·D]`. `scratch(n)` lends a
/// buffer.
pub fn forward<B: std::ops::DerefMut<Target = [f32]>>(
    s: Shape,
    (q, k, v): (&[f32], &[f32], &[f32]),
    o: &mut [f32],
    lse: &mut [f32],
    scratch: impl Fn(usize) -> B + Sync,
) {
    let (d, kw) = (s.head_dim, s.kv_heads * s.head_dim);
    let (group, keys) = (s.heads / s.kv_heads, k.len() / kw);
    let head = |(h, (o, lse)): (usize, (&mut [f32], &mut f32))| {
        let at = h / group * d;
        let mut p = scratch(keys);
        score_keys(&q[h * d..(h + 1) * d], &k[at..], kw, &mut p);
        *lse = s.softmax(&mut p, 0, keys);
        weigh_values(&p, &v[at..], kw, o);
    };
    if 2 * keys * q.len() < GRAIN || rayon::current_num_threads() == 1 {
        o.chunks_exact_mut(d).zip(lse).enumerate().for_each(head);
    } else {
        o.par_chunks_exact_mut(d).zip(lse).enumerate().for_each(head);
    }
}
