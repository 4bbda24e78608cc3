//! Causal attention over ragged rows in tiles of query rows; the scores of a tile are the only part of
//! the square that ever exists. Forward saves the log-sum-exp; backward rebuilds probabilities from it:
//!
//! `D = Σ g·o; p = exp(score − lse); ds = p·(g·vᵀ − D)·scale; dq = ds·k; dk += dsᵀ·q; dv += pᵀ·g`.
//!
//! Tasks are (row, head); each writes its own columns, and the key and value gradients of the heads of
//! a group are summed afterwards in head order, so the bits do not depend on scheduling.

use std::ops::Range;

use rayon::prelude::*;

use super::gemm::{gemm, gemm_raw, Par, View};
use super::simd::{dot, exp, simd_kernel};
use super::{for_rows, Shared};

/// Shape of the attention of one layer.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Query heads H.
    pub heads: usize,
    /// Key and value heads H_kv; divides H.
    pub kv_heads: usize,
    /// Head size D.
    pub head_dim: usize,
    /// Factor of the scores, 1/√D.
    pub scale: f32,
    /// Keys visible to a query, its own position included; `None` = all before it.
    pub window: Option<usize>,
    /// Query rows of a tile.
    pub tile: usize,
}

impl Shape {
    /// First key visible to the query at position `t` of its row.
    #[inline]
    fn first_key(&self, t: usize) -> usize {
        self.window.map_or(0, |w| (t + 1).saturating_sub(w))
    }
}

simd_kernel! {
    /// Scores of one query in place: scaled, softmaxed over `lo..hi`, 0 elsewhere. Returns the
    /// log-sum-exp of the scaled scores.
    pub fn softmax_row(s: &mut [f32], lo: usize, hi: usize, scale: f32) -> f32 {
        s[..lo].fill(0.0);
        s[hi..].fill(0.0);
        let s = &mut s[lo..hi];
        let mut max = [f32::NEG_INFINITY; 16];
        let whole = s.len() / 16 * 16;
        for c in s[..whole].chunks_exact_mut(16) {
            for i in 0..16 {
                c[i] *= scale;
                max[i] = if c[i] > max[i] { c[i] } else { max[i] };
            }
        }
        let mut m = f32::NEG_INFINITY;
        for v in s[whole..].iter_mut() {
            *v *= scale;
            m = if *v > m { *v } else { m };
        }
        for v in max {
            m = if v > m { v } else { m };
        }
        let mut acc = [0f32; 16];
        for c in s[..whole].chunks_exact_mut(16) {
            for i in 0..16 {
                c[i] = exp::<FMA>(c[i] - m);
                acc[i] += c[i];
            }
        }
        let mut sum = super::simd::sum_lanes(acc);
        for v in s[whole..].iter_mut() {
            *v = exp::<FMA>(*v - m);
            sum += *v;
        }
        let inv = 1.0 / sum;
        for v in s.iter_mut() {
            *v *= inv;
        }
        m + libm::log(sum as f64) as f32
    }
}

simd_kernel! {
    /// Raw scores of one query become probabilities: `exp(score·scale − lse)` on `lo..hi`, 0 elsewhere.
    pub fn probabilities_row(s: &mut [f32], lo: usize, hi: usize, scale: f32, lse: f32) {
        s[..lo].fill(0.0);
        s[hi..].fill(0.0);
        for v in s[lo..hi].iter_mut() {
            *v = exp::<FMA>(*v * scale - lse);
        }
    }
}

simd_kernel! {
    /// `ds = p·(dp − delta)·scale`, into `dp`.
    pub fn score_gradient_row(p: &[f32], dp: &mut [f32], delta: f32, scale: f32) {
        for (d, &p) in dp.iter_mut().zip(p) {
            *d = p * (*d - delta) * scale;
        }
    }
}

simd_kernel! {
    /// `D[n] = Σ_d g·o` for each head of each token: `g[N,H·D]`, `o[N,H·D]` → `delta[N,H]`.
    pub fn delta_rows(g: &[f32], o: &[f32], d: usize, delta: &mut [f32]) {
        for ((g, o), out) in g.chunks_exact(d).zip(o.chunks_exact(d)).zip(delta) {
            *out = dot::<FMA>(g, o);
        }
    }
}

/// The (row, head) tasks of a ragged batch; long rows first, so that the last task is a short one. They are
/// handed out one at a time: rayon would cut the list in a few runs, and the first would hold all the work.
fn tasks(offsets: &[u32], heads: usize) -> Vec<(Range<usize>, usize)> {
    let mut rows: Vec<Range<usize>> = offsets.windows(2).map(|w| w[0] as usize..w[1] as usize).collect();
    rows.sort_by_key(|r| (std::cmp::Reverse(r.len()), r.start));
    rows.into_iter().flat_map(|r| (0..heads).map(move |h| (r.clone(), h))).collect()
}

/// What the raw pointers below rely on.
fn check(s: Shape, offsets: &[u32], (q, k, v): (&[f32], &[f32], &[f32]), o: usize) {
    let n = offsets.last().map_or(0, |&n| n as usize);
    assert!(s.kv_heads > 0 && s.heads.is_multiple_of(s.kv_heads), "attention: heads share key heads evenly");
    assert!(s.tile > 0 && s.window != Some(0), "attention: tile and window are at least 1");
    assert!(offsets.first() == Some(&0) && offsets.is_sorted(), "attention: rows follow one another");
    let (q_len, kv_len) = (n * s.heads * s.head_dim, n * s.kv_heads * s.head_dim);
    assert_eq!([q.len(), o, k.len(), v.len()], [q_len, q_len, kv_len, kv_len], "attention: operands of other lengths");
}

/// `o[N,H·D]` and `lse[N,H]` of `q[N,H·D]`, `k[N,H_kv·D]`, `v[N,H_kv·D]`; `offsets` are the cumulated row
/// lengths. `scratch(n)` lends a buffer.
pub fn forward<B: std::ops::DerefMut<Target = [f32]>>(
    s: Shape,
    offsets: &[u32],
    (q, k, v): (&[f32], &[f32], &[f32]),
    o: &mut [f32],
    lse: &mut [f32],
    scratch: impl Fn(usize) -> B + Sync,
) {
    let (d, qw, kw) = (s.head_dim, s.heads * s.head_dim, s.kv_heads * s.head_dim);
    let group = s.heads / s.kv_heads;
    check(s, offsets, (q, k, v), o.len());
    assert_eq!(lse.len() * d, q.len(), "attention: one lse a head and token");
    let (o_out, lse_out) = (Shared(o.as_mut_ptr()), Shared(lse.as_mut_ptr()));
    tasks(offsets, s.heads).into_par_iter().with_max_len(1).for_each(|(row, h)| {
        let (qo, ko) = (h * d, h / group * d);
        let mut scores = scratch(s.tile.min(row.len()) * row.len());
        for t0 in (0..row.len()).step_by(s.tile) {
            let t1 = (t0 + s.tile).min(row.len());
            let lo = s.first_key(t0);
            let (rows, keys) = (t1 - t0, t1 - lo);
            let scores = &mut scores[..rows * keys];
            let qv = View { data: &q[(row.start + t0) * qw + qo..], rs: qw, cs: 1 };
            let kt = View { data: &k[(row.start + lo) * kw + ko..], rs: 1, cs: kw };
            gemm(scores, keys, false, (rows, keys, d), 1.0, qv, kt, Par::Here);
            for (r, p) in scores.chunks_exact_mut(keys).enumerate() {
                let t = t0 + r;
                let l = softmax_row(p, s.first_key(t) - lo, t + 1 - lo, s.scale);
                // SAFETY: one element, of this row and head.
                unsafe { lse_out.slice((row.start + t) * s.heads + h, 1)[0] = l };
            }
            let vv = View { data: &v[(row.start + lo) * kw + ko..], rs: kw, cs: 1 };
            let out = o_out.at((row.start + t0) * qw + qo);
            // SAFETY: the columns of head h in this row's tokens are this task's alone.
            unsafe { gemm_raw(out, qw, false, (rows, d, keys), 1.0, View::rows(scores, keys), vv, Par::Here) };
        }
    });
}

/// Gradients of q, k, v from `g[N,H·D]`. `dq[N,H·D]`, `dk`, `dv` `[N,H_kv·D]` are overwritten.
#[allow(clippy::too_many_arguments)]
pub fn backward<B: std::ops::DerefMut<Target = [f32]>>(
    s: Shape,
    offsets: &[u32],
    (q, k, v): (&[f32], &[f32], &[f32]),
    (o, lse): (&[f32], &[f32]),
    g: &[f32],
    (dq, dk, dv): (&mut [f32], &mut [f32], &mut [f32]),
    scratch: impl Fn(usize) -> B + Sync,
) {
    let (d, qw, kw) = (s.head_dim, s.heads * s.head_dim, s.kv_heads * s.head_dim);
    let group = s.heads / s.kv_heads;
    let n = q.len() / qw;
    check(s, offsets, (q, k, v), o.len());
    let lengths = [g.len(), dq.len(), dk.len(), dv.len(), lse.len() * d];
    assert_eq!(lengths, [q.len(), q.len(), k.len(), v.len(), q.len()], "attention: gradients have other lengths");
    let mut delta = scratch(n * s.heads);
    for_rows(&mut delta, s.heads, |r0, out| {
        let part = r0 * qw..r0 * qw + out.len() * d;
        delta_rows(&g[part.clone()], &o[part], d, out)
    });
    // With grouped heads each head has its own place for dk and dv until they are summed.
    let (mut dk_heads, mut dv_heads) = (None, None);
    let (dk_out, dv_out, kv_stride) = if group == 1 {
        (Shared(dk.as_mut_ptr()), Shared(dv.as_mut_ptr()), kw)
    } else {
        let a = dk_heads.insert(scratch(n * qw));
        let b = dv_heads.insert(scratch(n * qw));
        (Shared(a.as_mut_ptr()), Shared(b.as_mut_ptr()), qw)
    };
    let dq_out = Shared(dq.as_mut_ptr());
    let delta: &[f32] = &delta;
    tasks(offsets, s.heads).into_par_iter().with_max_len(1).for_each(|(row, h)| {
        let (qo, ko) = (h * d, h / group * d);
        let square = s.tile.min(row.len()) * row.len();
        let (mut p, mut dp) = (scratch(square), scratch(square));
        for t in row.clone() {
            // SAFETY: the columns of head h in this row's tokens are this task's alone, here and below.
            unsafe {
                dk_out.slice(t * kv_stride + qo, d).fill(0.0);
                dv_out.slice(t * kv_stride + qo, d).fill(0.0);
            }
        }
        for t0 in (0..row.len()).step_by(s.tile) {
            let t1 = (t0 + s.tile).min(row.len());
            let lo = s.first_key(t0);
            let (rows, keys) = (t1 - t0, t1 - lo);
            let (p, dp) = (&mut p[..rows * keys], &mut dp[..rows * keys]);
            let (q0, k0) = ((row.start + t0) * qw + qo, (row.start + lo) * kw + ko);
            let qv = View { data: &q[q0..], rs: qw, cs: 1 };
            let gv = View { data: &g[q0..], rs: qw, cs: 1 };
            gemm(p, keys, false, (rows, keys, d), 1.0, qv, View { data: &k[k0..], rs: 1, cs: kw }, Par::Here);
            gemm(dp, keys, false, (rows, keys, d), 1.0, gv, View { data: &v[k0..], rs: 1, cs: kw }, Par::Here);
            for (r, (p, dp)) in p.chunks_exact_mut(keys).zip(dp.chunks_exact_mut(keys)).enumerate() {
                let t = t0 + r;
                let at = (row.start + t) * s.heads + h;
                probabilities_row(p, s.first_key(t) - lo, t + 1 - lo, s.scale, lse[at]);
                score_gradient_row(p, dp, delta[at], s.scale);
            }
            let (dst_q, dst_kv) = (q0, (row.start + lo) * kv_stride + qo);
            let (pt, ds, dst) = (View::transposed(p, keys), View::rows(dp, keys), View::transposed(dp, keys));
            // SAFETY: as above; keys lo..t1 are tokens of this row.
            unsafe {
                let kv = View { data: &k[k0..], rs: kw, cs: 1 };
                gemm_raw(dq_out.at(dst_q), qw, false, (rows, d, keys), 1.0, ds, kv, Par::Here);
                gemm_raw(dk_out.at(dst_kv), kv_stride, true, (keys, d, rows), 1.0, dst, qv, Par::Here);
                gemm_raw(dv_out.at(dst_kv), kv_stride, true, (keys, d, rows), 1.0, pt, gv, Par::Here);
            }
        }
    });
    for (out, heads) in [(dk, dk_heads), (dv, dv_heads)] {
        let Some(heads) = heads else { continue };
        let heads: &[f32] = &heads;
        for_rows(out, kw, |r0, rows| {
            for (r, row) in rows.chunks_exact_mut(kw).enumerate() {
                let from = &heads[(r0 + r) * qw..(r0 + r + 1) * qw];
                for (j, v) in row.iter_mut().enumerate() {
                    let (head, i) = (j / d, j % d);
                    *v = (0..group).map(|m| from[(head * group + m) * d + i]).sum();
                }
            }
        });
    }
}
