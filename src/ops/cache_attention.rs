//! Attention of the newest tokens over the keys and values of all tokens so far, their own included: what
//! [`super::attention`] gives for the last queries of a row.

use candle_core::{DType, D};

use super::attention::{cap, Shape};
use super::buf::Buf;
use super::engine::{Engine, Phase};
use super::moved::Transfer;
use crate::error::Result;
use crate::kernels::cpu::{attention, cache_attention as kernel};

/// Most queries that are taken one by one: for more, it is worth to bring the keys into the order that tiles read.
const FEW: usize = 8;

/// Copies the rows `x[N,cols]` into `cache[capacity,cols]` from row `at` on.
pub fn write(engine: &Engine, cache: &mut Buf, x: &Buf, cols: usize, at: usize) -> Result<()> {
    engine.timed(Phase::Attention, || match cache {
        Buf::Host(cache) => {
            let x = x.host();
            cache[at * cols..at * cols + x.len()].copy_from_slice(x);
            Ok(())
        }
        Buf::Dev(cache) => Ok(cache.slice_set(&x.tensor().contiguous()?, 0, at)?),
    })
}

/// Copies the first `rows` rows of one cache to another.
pub fn copy(engine: &Engine, to: &mut Buf, from: &Buf, cols: usize, rows: usize) -> Result<()> {
    engine.timed(Phase::Elementwise, || match to {
        Buf::Host(to) => {
            to[..rows * cols].copy_from_slice(&from.host()[..rows * cols]);
            Ok(())
        }
        Buf::Dev(to) if rows > 0 => Ok(to.slice_set(&from.tensor().narrow(0, 0, rows)?.contiguous()?, 0, 0)?),
        Buf::Dev(_) => Ok(()),
    })
}

/// `o[M,H·D]` and `lse[M,H]` of the last M tokens' `q[M,H·D]` over the first `tokens` rows of `k` and `v`
/// `[capacity,H_kv·D]`, their own included, or those of them that the window shows.
pub fn forward(engine: &Engine, s: Shape, q: &Buf, k: &Buf, v: &Buf, tokens: usize) -> Result<(Buf, Buf)> {
    let m = q.len() / (s.heads * s.head_dim);
    // What no query sees is left out.
    let first = s.window.map_or(0, |w| (tokens - m + 1).saturating_sub(w));
    let n = tokens - first;
    engine.timed(Phase::Attention, || match q {
        Buf::Host(q) => {
            let (qw, kw) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
            let mut o = engine.pool.take(q.len());
            let mut lse = engine.pool.take(m * s.heads);
            let (k, v) = (&k.host()[first * kw..tokens * kw], &v.host()[first * kw..tokens * kw]);
            let scratch = |n| engine.pool.scratch(n);
            if m > FEW {
                attention::forward_last(s, n - m, (q, k, v), &mut o, &mut lse, scratch);
                return Ok((Buf::Host(o), Buf::Host(lse)));
            }
            for i in 0..m {
                let end = n - m + i + 1;
                let visible = s.window.map_or(0, |w| end.saturating_sub(w)) * kw..end * kw;
                let operands = (&q[i * qw..(i + 1) * qw], &k[visible.clone()], &v[visible]);
                let lse = &mut lse[i * s.heads..(i + 1) * s.heads];
                kernel::forward(s, operands, &mut o[i * qw..(i + 1) * qw], lse, scratch);
            }
            Ok((Buf::Host(o), Buf::Host(lse)))
        }
        Buf::Dev(q) => {
            let (h, hkv, d) = (s.heads, s.kv_heads, s.head_dim);
            // `[H_kv, n, D]`; queries `[H_kv, H/H_kv·M, D]` share their group's keys without a copy.
            let part = |x: &Buf| -> Result<_> {
                let x = x.tensor().narrow(0, first, n)?.to_dtype(DType::F32)?;
                Ok(x.reshape((n, hkv, d))?.transpose(0, 1)?.contiguous()?)
            };
            let queries = q.to_dtype(DType::F32)?.reshape((m, h, d))?.transpose(0, 1)?.contiguous()?;
            let queries = queries.reshape((hkv, h / hkv * m, d))?;
            let scores = queries.matmul(&part(k)?.transpose(1, 2)?)?.affine(s.scale as f64, 0.0)?;
            let (mut scores, _) = cap(scores, s.softcap)?;
            if m > 1 {
                let mask = engine.upload(Transfer::Rows, &mask(s, m, n), (1, m, n))?;
                scores = scores.reshape((h, m, n))?.broadcast_add(&mask)?.reshape((hkv, h / hkv * m, n))?;
            }
            let max = scores.max_keepdim(D::Minus1)?;
            let p = scores.broadcast_sub(&max)?.exp()?;
            let sum = p.sum_keepdim(D::Minus1)?;
            let o = p.broadcast_div(&sum)?.matmul(&part(v)?)?.reshape((h, m, d))?;
            let lse = (max + sum.log()?)?.reshape((h, m))?.t()?.contiguous()?;
            let o = o.transpose(0, 1)?.contiguous()?.reshape((m, h * d))?;
            Ok((Buf::Dev(o.to_dtype(q.dtype())?), Buf::Dev(lse)))
        }
    })
}

/// `[m, n]`: 0 where one of the last m of n tokens sees a key, −inf elsewhere.
fn mask(s: Shape, m: usize, n: usize) -> Vec<f32> {
    let mut mask = vec![f32::NEG_INFINITY; m * n];
    for (i, row) in mask.chunks_exact_mut(n).enumerate() {
        let end = n - m + i + 1;
        row[s.window.map_or(0, |w| end.saturating_sub(w))..end].fill(0.0);
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Form;
    use crate::ops::attention;
    use crate::ops::engine::EngineOptions;
    use crate::ops::layout::Layout;
    use crate::rng::{Key, Stream};

    #[test]
    fn is_the_last_queries_of_a_row() {
        let draws = Key::new(3, Stream::Bench, &[]);
        let fill = |n: usize, at: u64| -> Vec<f32> {
            (0..n as u64).map(|i| 4.0 * draws.uniform(at + i) as f32 - 2.0).collect()
        };
        for form in [Form::Fused, Form::Portable] {
            let e = crate::ops::engine::Engine::new(EngineOptions { form, threads: Some(2), ..Default::default() })
                .unwrap();
            for (heads, kv_heads, head_dim, tokens) in [(4, 2, 6, 1), (3, 1, 40, 23), (6, 6, 16, 9), (9, 3, 64, 700)] {
                for (window, softcap) in [(None, None), (Some(1), None), (Some(5), Some(2.0)), (Some(2000), None)] {
                    let s = Shape { heads, kv_heads, head_dim, scale: 0.3, softcap, window, tile: 8 };
                    let (qw, kw) = (heads * head_dim, kv_heads * head_dim);
                    let (q, k, v) = (fill(tokens * qw, 0), fill(tokens * kw, 1 << 32), fill(tokens * kw, 2 << 32));
                    let buf = |x: &[f32], cols| e.parameter(x.len() / cols, cols, x).unwrap();
                    let layout = Layout::new(vec![0, tokens as u32], vec![0]);
                    let want = attention::forward(&e, s, &layout, &buf(&q, qw), &buf(&k, kw), &buf(&v, kw)).unwrap();
                    for queries in [1, 2, 9, 40, tokens].into_iter().filter(|&m| m <= tokens) {
                        let first = tokens - queries;
                        let ours = e
                            .run(|| {
                                let mut caches = [e.zeros(tokens + 3, kw)?, e.zeros(tokens + 3, kw)?];
                                for (cache, x) in caches.iter_mut().zip([&k, &v]) {
                                    let split = tokens / 2 * kw;
                                    for (part, at) in [(&x[..split], 0), (&x[split..], tokens / 2)] {
                                        if !part.is_empty() {
                                            write(&e, cache, &buf(part, kw), kw, at)?;
                                        }
                                    }
                                }
                                forward(&e, s, &buf(&q[first * qw..], qw), &caches[0], &caches[1], tokens)
                            })
                            .unwrap();
                        for (ours, want, width) in [(ours.0, &want.0, qw), (ours.1, &want.1, heads)] {
                            let (ours, want) = (ours.to_vec().unwrap(), want.to_vec().unwrap());
                            assert_eq!(ours.len(), queries * width);
                            for (a, b) in ours.iter().zip(&want[first * width..]) {
                                assert!((a - b).abs() < 1e-5, "{form:?} {s:?} {queries} of {tokens}: {a} {b}");
                            }
                        }
                    }
                }
            }
        }
    }
}
