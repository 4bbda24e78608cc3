//! Causal attention over ragged rows in tiles of query rows; the scores of a tile are the only part of
//! the square that ever exists. Forward saves the log-sum-exp; backward rebuilds probabilities from it:
//!
//! `D = Σ g·o; p = exp(score − lse); ds = p·(g·vᵀ − D)·scale; dq = ds·k; dk += dsᵀ·q; dv += pᵀ·g`.
//!
//! With a softcap c the score is `c·tanh(x/c)` of the scaled product x, and ds has the factor `1 − (score/c)²`.
//!
//! Products are made of the tiles of `product`, panel by panel of keys up to the causal edge. The gradients of
//! keys and values are summed transposed, so that the scores are read as they lie.
//!
//! Tasks are (row, head); each writes its own columns, and the key and value gradients of the heads of
//! a group are summed afterwards in head order, so the bits do not depend on scheduling.

use std::ops::{DerefMut, Range};

use rayon::prelude::*;

use super::product::{Columns, Plain, Rows};
use super::product::{Right, Tiles};
use super::simd::{dot, exp, simd_kernel, softcap};
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
    /// Factor of the scores, usually 1/√D.
    pub scale: f32,
    /// Scaled scores s become c·tanh(s/c).
    pub softcap: Option<f32>,
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
    /// Raw scores of one query on `lo..hi`, scaled and capped.
    pub fn cap_row(s: &mut [f32], lo: usize, hi: usize, scale: f32, cap: f32) {
        for v in s[lo..hi].iter_mut() {
            *v = softcap::<FMA>(*v * scale, cap);
        }
    }
}

simd_kernel! {
    /// Capped scores become probabilities, and `dp` becomes `p·(dp − delta)·(1 − (score/cap)²)·scale`, the slope
    /// of the cap included.
    pub fn capped_gradient_row(s: &mut [f32], dp: &mut [f32], lse: f32, delta: f32, scale: f32, cap: f32) {
        let inv = 1.0 / cap;
        for (s, d) in s.iter_mut().zip(dp) {
            let (p, t) = (exp::<FMA>(*s - lse), *s * inv);
            *d = p * (*d - delta) * scale * (1.0 - t * t);
            *s = p;
        }
    }
}

impl Shape {
    /// Raw scores of a query become probabilities over `lo..hi`; gives their log-sum-exp.
    pub(super) fn softmax(&self, s: &mut [f32], lo: usize, hi: usize) -> f32 {
        match self.softcap {
            None => softmax_row(s, lo, hi, self.scale),
            Some(cap) => {
                cap_row(s, lo, hi, self.scale, cap);
                softmax_row(s, lo, hi, 1.0)
            }
        }
    }

    /// Raw scores become probabilities over `lo..hi`, `dp` the gradient of the raw scores.
    fn score_gradient(&self, p: &mut [f32], dp: &mut [f32], (lo, hi): (usize, usize), lse: f32, delta: f32) {
        match self.softcap {
            None => {
                probabilities_row(p, lo, hi, self.scale, lse);
                score_gradient_row(&p[lo..hi], &mut dp[lo..hi], delta, self.scale);
            }
            Some(cap) => {
                cap_row(p, lo, hi, self.scale, cap);
                capped_gradient_row(&mut p[lo..hi], &mut dp[lo..hi], lse, delta, self.scale, cap);
                p[..lo].fill(0.0);
                p[hi..].fill(0.0);
            }
        }
        dp[..lo].fill(0.0);
        dp[hi..].fill(0.0);
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
fn check(s: Shape, offsets: &[u32], first: usize, (q, k, v): (&[f32], &[f32], &[f32]), o: usize) {
    let n = offsets.last().map_or(0, |&n| n as usize);
    assert!(s.kv_heads > 0 && s.heads.is_multiple_of(s.kv_heads), "attention: heads share key heads evenly");
    assert!(s.tile > 0 && s.window != Some(0), "attention: tile and window are at least 1");
    assert!(offsets.first() == Some(&0) && offsets.is_sorted(), "attention: rows follow one another");
    assert!(first == 0 || first <= n && offsets.len() == 2, "attention: the last queries of one row");
    let (q_len, kv_len) = ((n - first) * s.heads * s.head_dim, n * s.kv_heads * s.head_dim);
    assert_eq!([q.len(), o, k.len(), v.len()], [q_len, q_len, kv_len, kv_len], "attention: operands of other lengths");
}

/// The keys or values of one head of a row, brought into the order that tiles read.
struct Panels<B> {
    tiles: Tiles,
    /// First element of the first panel, floats from one panel to the next, floats from row to row.
    at: (*const f32, usize, usize),
    _packed: Option<B>,
}

impl<B: DerefMut<Target = [f32]>> Panels<B> {
    /// `x[n,d]`, `rs` floats from row to row, transposed: panels of keys.
    fn transposed(x: &[f32], rs: usize, (n, d): (usize, usize), scratch: &impl Fn(usize) -> B) -> Panels<B> {
        let tiles = Tiles::new(usize::MAX);
        let w = tiles.width();
        let mut packed = scratch(n.next_multiple_of(w) * d + turning(d));
        let (panels, row) = packed.split_at_mut(n.next_multiple_of(w) * d);
        let columns = Columns(Plain::new(x, rs));
        for (j, panel) in (0..n).step_by(w).zip(panels.chunks_exact_mut(w * d)) {
            columns.pack(0..d, j..(j + w).min(n), w, panel, row);
        }
        Panels { tiles, at: (packed.as_ptr(), w * d, w), _packed: Some(packed) }
    }

    /// `x[n,d]` as it is: panels of features, in place where they fill them.
    fn rows(x: &[f32], rs: usize, (n, d): (usize, usize), scratch: &impl Fn(usize) -> B) -> Panels<B> {
        let tiles = Tiles::new(d);
        let w = tiles.width();
        assert!(n == 0 || (n - 1) * rs + d <= x.len(), "attention: operands of other lengths");
        if d.is_multiple_of(w) {
            return Panels { tiles, at: (x.as_ptr(), w, rs), _packed: None };
        }
        let mut packed = scratch(n * d.next_multiple_of(w));
        let rows = Rows(Plain::new(x, rs));
        for (j, panel) in (0..d).step_by(w).zip(packed.chunks_exact_mut(n * w)) {
            rows.pack(0..n, j..(j + w).min(d), w, panel, &mut []);
        }
        Panels { tiles, at: (packed.as_ptr(), n * w, w), _packed: Some(packed) }
    }

    /// Panel `i` from row `first` on.
    fn panel(&self, i: usize, first: usize) -> (*const f32, usize) {
        let (start, step, rs) = self.at;
        (start.wrapping_add(i * step + first * rs), rs)
    }
}

/// Floats that turning rows of `d` floats takes beside.
fn turning(d: usize) -> usize {
    8 * d.next_multiple_of(8)
}

/// A tile of query rows of one head and the keys that they see.
#[derive(Clone, Copy)]
struct Block {
    /// Query rows t0..t1 of the row.
    t0: usize,
    t1: usize,
    /// First key of the first panel that any of them sees.
    k0: usize,
    /// Floats from row to row of the scores.
    stride: usize,
}

/// Floats from row to row of a matrix of `n` columns in whole panels: not a power of two, or rows would fall on
/// one another in the first cache.
fn strided(n: usize, width: usize) -> usize {
    n.next_multiple_of(width) + 16
}

impl Shape {
    /// Query rows of a tile in a row of `n` tokens: their scores stay in the second cache.
    fn rows(&self, n: usize) -> usize {
        self.tile.min((1 << 16) / n.max(1)).max(24.min(self.tile))
    }

    fn blocks(self, n: usize, width: usize) -> impl Iterator<Item = Block> {
        self.blocks_from(0, n, width)
    }

    /// The tiles of the queries `first..n`.
    fn blocks_from(self, first: usize, n: usize, width: usize) -> impl Iterator<Item = Block> {
        let rows = self.rows(n);
        (first..n).step_by(rows).map(move |t0| {
            let t1 = (t0 + rows).min(n);
            let k0 = self.first_key(t0) / width * width;
            Block { t0, t1, k0, stride: strided(t1 - k0, width) }
        })
    }

    /// Floats of a block's scores at most.
    fn scores(&self, n: usize, width: usize) -> usize {
        self.rows(n).min(n) * strided(n, width)
    }
}

/// The most floats that a task of the backward pass takes for a row of `n` tokens and heads of `d`.
pub fn scratch_floats(s: Shape, n: usize) -> usize {
    let (w, d) = (Tiles::new(usize::MAX).width(), s.head_dim);
    let (padded, turned) = (strided(n, w), s.rows(n).min(n).next_multiple_of(8) * d);
    let wide = d.next_multiple_of(Tiles::new(d).width());
    let rows = if wide == d { 0 } else { n * wide };
    2 * s.scores(n, w) + 4 * padded * d + rows + 2 * turned + 3 * turning(s.rows(n).max(d))
}

/// `out[rows of b, keys] = x·yᵀ` for the block's queries: only panels up to the causal edge.
///
/// # Safety
/// `x` leads to the block's rows; `out` has room for its scores.
unsafe fn scores<B: DerefMut<Target = [f32]>>(
    b: Block,
    d: usize,
    x: (*const f32, usize),
    y: &Panels<B>,
    out: *mut f32,
) {
    let w = y.tiles.width();
    for j in (0..b.t1 - b.k0).step_by(w) {
        // Rows whose last key lies before the panel have nothing in it.
        let skip = (b.k0 + j).saturating_sub(b.t0).min(b.t1 - b.t0);
        let (x, out) = ((x.0.add(skip * x.1), x.1), out.add(skip * b.stride + j));
        y.tiles.panel((b.t1 - b.t0 - skip, d, w), x, y.panel((b.k0 + j) / w, 0), (out, b.stride), false, 1.0);
    }
}

/// `out[rows of b, D] = p[rows, keys]·y`.
///
/// # Safety
/// `p` holds the block's scores, zero where a query sees no key; `out` leads to the block's rows, which are this
/// task's alone.
unsafe fn weighted<B: DerefMut<Target = [f32]>>(b: Block, d: usize, p: &[f32], y: &Panels<B>, out: (*mut f32, usize)) {
    let w = y.tiles.width();
    // A few rows at a time, so that each run of rows ends at its own causal edge.
    let few = 24;
    for r in (0..b.t1 - b.t0).step_by(few) {
        let rows = few.min(b.t1 - b.t0 - r);
        let keys = b.t0 + r + rows - b.k0;
        for (i, j) in (0..d).step_by(w).enumerate() {
            let left = (p[r * b.stride..].as_ptr(), b.stride);
            let to = (out.0.add(r * out.1 + j), out.1);
            y.tiles.panel((rows, keys, w.min(d - j)), left, y.panel(i, b.k0), to, false, 1.0);
        }
    }
}

/// `out[D, n] += xᵀ[D, rows]·p[rows, keys]` for the block's queries; `out` has `padded` floats from row to row.
///
/// # Safety
/// `x` is `[rows, D]` as [`turn`] leaves it; `p` holds the block's scores.
unsafe fn spread(b: Block, d: usize, x: &[f32], p: &[f32], out: &mut [f32], padded: usize) {
    let tiles = Tiles::new(usize::MAX);
    let (w, rows) = (tiles.width(), b.t1 - b.t0);
    for j in (0..b.t1 - b.k0).step_by(w) {
        let skip = (b.k0 + j).saturating_sub(b.t0).min(rows);
        let left = (x[skip..].as_ptr(), rows.next_multiple_of(8));
        let right = (p[skip * b.stride + j..].as_ptr(), b.stride);
        let to = (out[b.k0 + j..].as_mut_ptr(), padded);
        tiles.panel((d, rows - skip, w), left, right, to, true, 1.0);
    }
}

/// `x[rows, d]`, `rs` floats from row to row, transposed: d rows, as far apart as rows rounded up to 8.
fn turn(x: &[f32], rs: usize, (rows, d): (usize, usize), out: &mut [f32], spare: &mut [f32]) {
    Columns(Plain::new(x, rs)).pack(0..d, 0..rows, rows.next_multiple_of(8), out, spare);
}

/// `o[N,H·D]` and `lse[N,H]` of `q[N,H·D]`, `k[N,H_kv·D]`, `v[N,H_kv·D]`; `offsets` are the cumulated row
/// lengths. `scratch(n)` lends a buffer.
pub fn forward<B: DerefMut<Target = [f32]>>(
    s: Shape,
    offsets: &[u32],
    (q, k, v): (&[f32], &[f32], &[f32]),
    o: &mut [f32],
    lse: &mut [f32],
    scratch: impl Fn(usize) -> B + Sync,
) {
    forward_from(s, offsets, 0, (q, k, v), o, lse, scratch)
}

/// As [`forward`] for the one row `offsets` = [0, n], of which `q`, `o` and `lse` hold the tokens `first..n` alone.
pub fn forward_last<B: DerefMut<Target = [f32]>>(
    s: Shape,
    first: usize,
    (q, k, v): (&[f32], &[f32], &[f32]),
    o: &mut [f32],
    lse: &mut [f32],
    scratch: impl Fn(usize) -> B + Sync,
) {
    let n = k.len() / (s.kv_heads * s.head_dim);
    forward_from(s, &[0, n as u32], first, (q, k, v), o, lse, scratch)
}

fn forward_from<B: DerefMut<Target = [f32]>>(
    s: Shape,
    offsets: &[u32],
    first: usize,
    (q, k, v): (&[f32], &[f32], &[f32]),
    o: &mut [f32],
    lse: &mut [f32],
    scratch: impl Fn(usize) -> B + Sync,
) {
    let (d, qw, kw) = (s.head_dim, s.heads * s.head_dim, s.kv_heads * s.head_dim);
    let group = s.heads / s.kv_heads;
    check(s, offsets, first, (q, k, v), o.len());
    assert_eq!(lse.len() * d, q.len(), "attention: one lse a head and token");
    let (o_out, lse_out) = (Shared(o.as_mut_ptr()), Shared(lse.as_mut_ptr()));
    tasks(offsets, s.heads).into_par_iter().with_max_len(1).for_each(|(row, h)| {
        let n = row.len();
        let (q0, k0) = (row.start * qw + h * d, row.start * kw + h / group * d);
        if n == 0 {
            return;
        }
        let keys = Panels::transposed(&k[k0..], kw, (n, d), &scratch);
        let values = Panels::rows(&v[k0..], kw, (n, d), &scratch);
        let width = keys.tiles.width();
        let mut held = scratch(s.scores(n, width));
        for b in s.blocks_from(first, n, width) {
            let p = &mut held[..(b.t1 - b.t0) * b.stride];
            // SAFETY: the block's queries lie within q; its scores within p.
            unsafe { scores(b, d, (q[q0 + (b.t0 - first) * qw..].as_ptr(), qw), &keys, p.as_mut_ptr()) };
            for (r, p) in p.chunks_exact_mut(b.stride).enumerate() {
                let t = b.t0 + r;
                let l = s.softmax(p, s.first_key(t) - b.k0, t + 1 - b.k0);
                // SAFETY: one element, of this row and head.
                unsafe { lse_out.slice((row.start + t - first) * s.heads + h, 1)[0] = l };
            }
            // SAFETY: the columns of head h in this row's tokens are this task's alone.
            unsafe { weighted(b, d, p, &values, (o_out.at(q0 + (b.t0 - first) * qw).0, qw)) };
        }
    });
}

/// Gradients of q, k, v from `g[N,H·D]`. `dq[N,H·D]`, `dk`, `dv` `[N,H_kv·D]` are overwritten.
#[allow(clippy::too_many_arguments)]
pub fn backward<B: DerefMut<Target = [f32]>>(
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
    check(s, offsets, 0, (q, k, v), o.len());
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
        let n = row.len();
        let (q0, k0) = (row.start * qw + h * d, row.start * kw + h / group * d);
        if n == 0 {
            return;
        }
        let keys = Panels::transposed(&k[k0..], kw, (n, d), &scratch);
        let values = Panels::transposed(&v[k0..], kw, (n, d), &scratch);
        let key_rows = Panels::rows(&k[k0..], kw, (n, d), &scratch);
        let width = keys.tiles.width();
        let padded = strided(n, width);
        let (size, turned) = (s.scores(n, width), s.rows(n).min(n).next_multiple_of(8) * d);
        let spare = turning(s.rows(n).max(d));
        let mut held = scratch(2 * size + 2 * padded * d + 2 * turned + spare);
        let (p, rest) = held.split_at_mut(size);
        let (dp, rest) = rest.split_at_mut(size);
        let (dk_t, rest) = rest.split_at_mut(padded * d);
        let (dv_t, rest) = rest.split_at_mut(padded * d);
        let (q_t, rest) = rest.split_at_mut(turned);
        let (g_t, spare) = rest.split_at_mut(turned);
        dk_t.fill(0.0);
        dv_t.fill(0.0);
        for b in s.blocks(n, width) {
            let rows = b.t1 - b.t0;
            let (p, dp) = (&mut p[..rows * b.stride], &mut dp[..rows * b.stride]);
            let from = q0 + b.t0 * qw;
            // SAFETY: the block's queries and gradients lie within q and g; its scores within p and dp.
            unsafe {
                scores(b, d, (q[from..].as_ptr(), qw), &keys, p.as_mut_ptr());
                scores(b, d, (g[from..].as_ptr(), qw), &values, dp.as_mut_ptr());
            }
            for (r, (p, dp)) in p.chunks_exact_mut(b.stride).zip(dp.chunks_exact_mut(b.stride)).enumerate() {
                let t = b.t0 + r;
                let at = (row.start + t) * s.heads + h;
                s.score_gradient(p, dp, (s.first_key(t) - b.k0, t + 1 - b.k0), lse[at], delta[at]);
            }
            turn(&q[from..], qw, (rows, d), q_t, spare);
            turn(&g[from..], qw, (rows, d), g_t, spare);
            // SAFETY: the columns of head h in this row's tokens are this task's alone.
            unsafe {
                weighted(b, d, dp, &key_rows, (dq_out.at(from).0, qw));
                spread(b, d, q_t, dp, dk_t, padded);
                spread(b, d, g_t, p, dv_t, padded);
            }
        }
        // q_t is free by now: the gradients turn back through it, some tokens at a time.
        let (at_once, wide) = (s.rows(n).min(n), d.next_multiple_of(8));
        let through = &mut q_t[..];
        for (out, columns) in [(dk_out, &*dk_t), (dv_out, &*dv_t)] {
            let column = if group == 1 { h / group * d } else { h * d };
            let fits = (through.len() / wide).min(at_once).max(1);
            for t0 in (0..n).step_by(fits) {
                let tokens = t0..(t0 + fits).min(n);
                Columns(Plain::new(columns, padded)).pack(tokens.clone(), 0..d, wide, through, spare);
                for (t, from) in tokens.zip(through.chunks_exact(wide)) {
                    // SAFETY: as above.
                    let row = unsafe { out.slice((row.start + t) * kv_stride + column, d) };
                    row.copy_from_slice(&from[..d]);
                }
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
