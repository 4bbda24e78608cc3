//! Attention of the newest token over the keys and values of all tokens so far, its own included: what
//! [`super::attention`] gives for the last query of a row.

use candle_core::{DType, D};

use super::attention::{cap, Shape};
use super::{Buf, Engine, Phase};
use crate::error::Result;
use crate::kernels::cpu::cache_attention as kernel;

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

/// `o[1,H·D]` and `lse[1,H]` of `q[1,H·D]` over the first `tokens` rows of `k` and `v`
/// `[capacity,H_kv·D]`, or the last of those that the window shows.
pub fn forward(engine: &Engine, s: Shape, q: &Buf, k: &Buf, v: &Buf, tokens: usize) -> Result<(Buf, Buf)> {
    let first = s.window.map_or(0, |w| tokens.saturating_sub(w));
    let n = tokens - first;
    engine.timed(Phase::Attention, || match q {
        Buf::Host(q) => {
            let kw = s.kv_heads * s.head_dim;
            let mut o = engine.pool.take(q.len());
            let mut lse = engine.pool.take(s.heads);
            let visible = first * kw..tokens * kw;
            let operands = (&q[..], &k.host()[visible.clone()], &v.host()[visible]);
            kernel::forward(s, operands, &mut o, &mut lse, |n| engine.pool.scratch(n));
            Ok((Buf::Host(o), Buf::Host(lse)))
        }
        Buf::Dev(q) => {
            let (h, hkv, d) = (s.heads, s.kv_heads, s.head_dim);
            // `[H_kv, n, D]`; queries `[H_kv, H/H_kv, D]` share their group's keys without a copy.
            let part = |x: &Buf| -> Result<_> {
                let x = x.tensor().narrow(0, first, n)?.to_dtype(DType::F32)?;
                Ok(x.reshape((n, hkv, d))?.transpose(0, 1)?.contiguous()?)
            };
            let queries = q.to_dtype(DType::F32)?.reshape((hkv, h / hkv, d))?;
            let scores = queries.matmul(&part(k)?.transpose(1, 2)?)?.affine(s.scale as f64, 0.0)?;
            let (scores, _) = cap(scores, s.softcap)?;
            let max = scores.max_keepdim(D::Minus1)?;
            let p = scores.broadcast_sub(&max)?.exp()?;
            let sum = p.sum_keepdim(D::Minus1)?;
            let o = p.broadcast_div(&sum)?.matmul(&part(v)?)?;
            let lse = (max + sum.log()?)?.reshape((1, h))?;
            Ok((Buf::Dev(o.reshape((1, h * d))?.to_dtype(q.dtype())?), Buf::Dev(lse)))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{attention, EngineOptions, Form, Layout};
    use crate::rng::{Key, Stream};

    #[test]
    fn is_the_last_query_of_a_row() {
        let draws = Key::new(3, Stream::Bench, &[]);
        let fill = |n: usize, at: u64| -> Vec<f32> {
            (0..n as u64).map(|i| 4.0 * draws.uniform(at + i) as f32 - 2.0).collect()
        };
        for form in [Form::Fused, Form::Portable] {
            let e = crate::ops::Engine::new(EngineOptions { form, threads: Some(2), ..Default::default() }).unwrap();
            for (heads, kv_heads, head_dim, tokens) in [(4, 2, 6, 1), (3, 1, 40, 23), (6, 6, 16, 9), (9, 3, 64, 700)] {
                for (window, softcap) in [(None, None), (Some(1), None), (Some(5), Some(2.0)), (Some(2000), None)] {
                    let s = Shape { heads, kv_heads, head_dim, scale: 0.3, softcap, window, tile: 8 };
                    let (qw, kw) = (heads * head_dim, kv_heads * head_dim);
                    let (q, k, v) = (fill(tokens * qw, 0), fill(tokens * kw, 1 << 32), fill(tokens * kw, 2 << 32));
                    let buf = |x: &[f32], cols| e.parameter(x.len() / cols, cols, x).unwrap();
                    let layout = Layout::new(vec![0, tokens as u32], vec![0]);
                    let want = attention::forward(&e, s, &layout, &buf(&q, qw), &buf(&k, kw), &buf(&v, kw)).unwrap();
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
                            forward(&e, s, &buf(&q[(tokens - 1) * qw..], qw), &caches[0], &caches[1], tokens)
                        })
                        .unwrap();
                    for (ours, want, width) in [(ours.0, want.0, qw), (ours.1, want.1, heads)] {
                        let (ours, want) = (ours.to_vec().unwrap(), want.to_vec().unwrap());
                        assert_eq!(ours.len(), width);
                        for (a, b) in ours.iter().zip(&want[(tokens - 1) * width..]) {
                            assert!((a - b).abs() < 1e-5, "{form:?} {s:?} {tokens}: {a} {b}");
                        }
                    }
                }
            }
        }
    }
}
