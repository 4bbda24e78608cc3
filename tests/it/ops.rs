//! Each operation by itself: the portable form against candle's autograd in f64 on a composite of
//! differentiable tensor operations, the fused form against the portable one, and where it is cheap both
//! against finite differences of the definition in f64. Shapes with and without tails of SIMD lanes.

use candle_core::{DType, Device, Shape as TensorShape, Tensor, Var, D};
use sftmix::internal::device::Form;
use sftmix::internal::ops::adapted;
use sftmix::internal::ops::attention;
use sftmix::internal::ops::attention::Shape;
use sftmix::internal::ops::elementwise::Gate;
use sftmix::internal::ops::head_loss;
use sftmix::internal::ops::head_loss::{Head, Mix, Supervised, Unit};
use sftmix::internal::ops::linear;
use sftmix::internal::ops::linear::{Call, Linear, Slot, SlotGrad};
use sftmix::internal::ops::{adamw, elementwise, embedding, rms_norm, rope, rows};
use sftmix::internal::ops::{Buf, Engine, EngineOptions, Layout, Matrix, Param};
use sftmix::internal::rng::{Key, Stream};
use sftmix::internal::weights::Weight;
use sftmix::Result;

use crate::support::{engine, max_diff};

/// What both comparisons allow, of the largest entry.
pub const CLOSE: f64 = 1e-5;

/// `n` standard normals, a function of the seed.
pub fn random(n: usize, seed: u64) -> Vec<f32> {
    let key = Key::new(seed, Stream::Bench, &[]);
    (0..n).map(|i| key.normal2(i as u64).0 as f32).collect()
}

pub fn wide(v: &[f32]) -> Vec<f64> {
    v.iter().map(|&v| v as f64).collect()
}

/// Asserts that `ours` is within `tolerance` of the largest of `want`; gives the difference in its terms.
pub fn close(what: &str, ours: &[f32], want: &[f64], tolerance: f64) -> f64 {
    let largest = want.iter().fold(0f64, |m, v| m.max(v.abs()));
    let d = max_diff(ours, want);
    assert!(d <= tolerance * largest, "{what}: {d:e} of {largest:e}");
    if largest > 0.0 {
        d / largest
    } else {
        0.0
    }
}

pub fn tensor(v: &[f32], shape: impl Into<TensorShape>) -> Tensor {
    Tensor::from_vec(wide(v), shape.into(), &Device::Cpu).unwrap()
}

pub fn var(v: &[f32], shape: impl Into<TensorShape>) -> Var {
    Var::from_tensor(&tensor(v, shape)).unwrap()
}

pub fn numbers(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Gradients of `Σ g·y`.
pub fn autograd(y: &Tensor, g: &[f32], vars: &[&Var]) -> Vec<Vec<f64>> {
    let store = (y * tensor(g, y.shape().clone())).unwrap().sum_all().unwrap().backward().unwrap();
    vars.iter().map(|v| numbers(store.get(v).unwrap())).collect()
}

/// Runs both forms: portable within [`CLOSE`] of `want`, fused of portable.
pub fn compare(
    what: &str,
    engines: &[Engine; 2],
    want: &[(&str, Vec<f64>)],
    run: impl Fn(&Engine) -> Result<Vec<Buf>> + Sync,
) {
    let [fused, portable] = engines.each_ref().map(|e| {
        let out = e.run(|| run(e)).unwrap_or_else(|err| panic!("{what}: {err}"));
        out.iter().map(|b| b.to_vec().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(portable.len(), want.len());
    for ((f, p), (name, w)) in fused.iter().zip(&portable).zip(want) {
        close(&format!("{what}: {name}, portable against autograd"), p, w, CLOSE);
        close(&format!("{what}: {name}, fused against portable"), f, &wide(p), CLOSE);
    }
}

/// The fused and the portable form.
pub fn engines(loss_chunk: usize, tile: usize) -> [Engine; 2] {
    [engine(Form::Fused, loss_chunk, tile), engine(Form::Portable, loss_chunk, tile)]
}

/// Rows of these lengths end to end, named 0, 1, ….
pub fn layout(lengths: &[u32]) -> Layout {
    let mut offsets = vec![0];
    for l in lengths {
        offsets.push(offsets[offsets.len() - 1] + l);
    }
    Layout::new(offsets, (0..lengths.len() as u64).collect())
}

pub fn matrix(e: &Engine, rows: usize, cols: usize, v: &[f32]) -> Result<Matrix> {
    Matrix::new(e, Weight::from_vec("w", &[rows, cols], v.to_vec()))
}

pub fn vector(e: &Engine, v: &[f32]) -> Result<Param> {
    Param::new(e, &Weight::from_vec("b", &[v.len()], v.to_vec()))
}

type Candle = candle_core::Result<Tensor>;

/// The norm over the last dimension.
pub fn composite_norm(x: &Tensor, w: &Tensor, eps: f64) -> Candle {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean + eps)?.sqrt()?)?.broadcast_mul(w)
}

/// `x[N, heads·D]` rotated by its tokens' angles.
pub fn composite_rope(x: &Tensor, heads: usize, inv_freq: &[f32], positions: &[u32]) -> Candle {
    let (n, half) = (positions.len(), inv_freq.len());
    let angles = positions.iter().flat_map(|&p| inv_freq.iter().map(move |&f| p as f64 * f as f64));
    let angles = Tensor::from_vec(angles.collect::<Vec<f64>>(), (n, 1, half), &Device::Cpu)?;
    let (cos, sin) = (angles.cos()?, angles.sin()?);
    let x = x.reshape((n, heads, 2 * half))?;
    let (lo, hi) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let a = (lo.broadcast_mul(&cos)? - hi.broadcast_mul(&sin)?)?;
    let b = (hi.broadcast_mul(&cos)? + lo.broadcast_mul(&sin)?)?;
    Tensor::cat(&[a, b], 2)?.reshape((n, heads * 2 * half))
}

/// Output `[N, H·D]` and log-sum-exp `[N, H]`, from the whole square of each row and head.
pub fn composite_attention(s: Shape, layout: &Layout, q: &Tensor, k: &Tensor, v: &Tensor) -> (Tensor, Tensor) {
    let head = |x: &Tensor, row: &[u32], h: usize| {
        x.narrow(0, row[0] as usize, (row[1] - row[0]) as usize)?.narrow(1, h * s.head_dim, s.head_dim)?.contiguous()
    };
    let one = |row: &[u32], h: usize| -> candle_core::Result<(Tensor, Tensor)> {
        let group = s.heads / s.kv_heads;
        let (q, k, v) = (head(q, row, h)?, head(k, row, h / group)?, head(v, row, h / group)?);
        let n = row[1] - row[0];
        let seen = |t: u32, j: u32| j <= t && s.window.is_none_or(|w| ((t - j) as usize) < w);
        let mask = (0..n).flat_map(|t| (0..n).map(move |j| if seen(t, j) { 0.0 } else { -1e30 }));
        let mask = Tensor::from_vec(mask.collect::<Vec<f64>>(), (n as usize, n as usize), &Device::Cpu)?;
        let scores = (composite_cap(&(q.matmul(&k.t()?)? * s.scale as f64)?, s.softcap)? + mask)?;
        let o = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
        Ok((o, scores.log_sum_exp(D::Minus1)?.unsqueeze(1)?))
    };
    let rows = layout.offsets().windows(2).map(|row| {
        let (o, lse): (Vec<_>, Vec<_>) = (0..s.heads).map(|h| one(row, h).unwrap()).unzip();
        (Tensor::cat(&o, 1).unwrap(), Tensor::cat(&lse, 1).unwrap())
    });
    let (o, lse): (Vec<_>, Vec<_>) = rows.unzip();
    (Tensor::cat(&o, 0).unwrap(), Tensor::cat(&lse, 0).unwrap())
}

/// The gate's function; GELU's from its own formula, not from the sigmoid's.
pub fn composite_gate(x: &Tensor, act: Gate) -> candle_core::Result<Tensor> {
    match act {
        Gate::Silu => x * (x.neg()?.exp()? + 1.0)?.recip()?,
        Gate::GeluTanh => {
            let cube = ((x * x.sqr()?)? * 0.044715)?;
            let u = ((x + cube)? * (2.0 / std::f64::consts::PI).sqrt())?;
            (x * 0.5)?.mul(&(u.tanh()? + 1.0)?)
        }
    }
}

/// `c·tanh(x/c)`.
pub fn composite_cap(x: &Tensor, softcap: Option<f32>) -> candle_core::Result<Tensor> {
    softcap.map_or(Ok(x.clone()), |c| (x / c as f64)?.tanh()? * c as f64)
}

/// `(f(x + step) − f(x − step)) / 2·step` for each element of `x`.
fn differences(x: &[f64], step: f64, f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut at = x.to_vec();
    let one = |i: usize| {
        at[i] = x[i] + step;
        let up = f(&at);
        at[i] = x[i] - step;
        let down = f(&at);
        at[i] = x[i];
        (up - down) / (2.0 * step)
    };
    (0..x.len()).map(one).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn rms_norm_matches_autograd() {
    let engines = engines(128, 128);
    // (tokens, heads, width): heads are normed one by one with the same weight.
    for (n, heads, c) in
        [(1, 1, 2), (3, 1, 5), (7, 1, 16), (171, 1, 48), (9, 3, 6), (171, 4, 16), (5, 2, 33), (2, 1, 600)]
    {
        let (x, w, g) = (random(n * heads * c, 1), random(c, 2), random(n * heads * c, 3));
        let start = random(x.len(), 4);
        for (eps, add) in [(1e-5, false), (1e-6, true)] {
            let xv = var(&x, (n * heads, c));
            let y = composite_norm(&xv, &tensor(&w, c), eps).unwrap();
            let mut dx = autograd(&y, &g, &[&xv]).remove(0);
            if add {
                dx.iter_mut().zip(&start).for_each(|(d, &s)| *d += s as f64);
            }
            let want = [("y", numbers(&y)), ("dx", dx)];
            compare(&format!("rms norm {n}x{heads}x{c} ε {eps:e}"), &engines, &want, |e| {
                let (x, w) = (e.parameter(n, heads * c, &x)?, vector(e, &w)?);
                let y = rms_norm::forward(e, &x, &w, eps)?;
                let mut dx = e.parameter(n, heads * c, &start)?;
                rms_norm::backward(e, &x, &w, eps, &e.parameter(n, heads * c, &g)?, &mut dx, add)?;
                Ok(vec![y, dx])
            });
        }
    }
}

#[test]
fn rms_norm_matches_finite_differences() {
    let (n, c, eps) = (3, 21, 1e-5);
    let (x, w, g) = (random(n * c, 1), random(c, 2), random(n * c, 3));
    let (w64, g64) = (wide(&w), wide(&g));
    let loss = |x: &[f64]| -> f64 {
        let rows = x.chunks(c).zip(g64.chunks(c)).map(|(x, g)| {
            let inv = 1.0 / (dot(x, x) / c as f64 + eps).sqrt();
            (0..c).map(|i| g[i] * x[i] * inv * w64[i]).sum::<f64>()
        });
        rows.sum()
    };
    let want = [("dx", differences(&wide(&x), 1e-5, loss))];
    compare("rms norm", &engines(128, 128), &want, |e| {
        let (x, w, g) = (e.parameter(n, c, &x)?, vector(e, &w)?, e.parameter(n, c, &g)?);
        let mut dx = e.zeros(n, c)?;
        rms_norm::backward(e, &x, &w, eps, &g, &mut dx, false)?;
        Ok(vec![dx])
    });
}

#[test]
fn rope_matches_autograd() {
    let engines = engines(128, 128);
    for (lengths, heads, half) in
        [(&[1, 7, 130, 33][..], 3, 4), (&[5], 1, 1), (&[64, 2], 9, 32), (&[3, 3], 2, 5), (&[200], 16, 32)]
    {
        let layout = layout(lengths);
        let (n, d) = (layout.tokens(), 2 * half);
        let inv_freq: Vec<f32> = (0..half).map(|i| libm::pow(10_000.0, -(i as f64) / half as f64) as f32).collect();
        let (x, g) = (random(n * heads * d, 1), random(n * heads * d, 2));
        let xv = var(&x, (n, heads * d));
        let y = composite_rope(&xv, heads, &inv_freq, layout.positions()).unwrap();
        let dx = autograd(&y, &g, &[&xv]).remove(0);
        let want = [("y", numbers(&y)), ("dx", dx), ("there and back", wide(&x))];
        compare(&format!("rope {lengths:?} {heads}x{d}"), &engines, &want, |e| {
            let table = rope::Table::new(e, &inv_freq, 256)?;
            let rotated = |v: &[f32], inverse| -> Result<Buf> {
                let mut b = e.parameter(n, heads * d, v)?;
                rope::rotate(e, &mut b, heads, &table, &layout, inverse)?;
                Ok(b)
            };
            let y = rotated(&x, false)?;
            let back = rotated(&y.to_vec()?, true)?;
            Ok(vec![y, rotated(&g, true)?, back])
        });
    }
}

/// A slot with these numbers.
pub fn slot(e: &Engine, (r, inp, out): (usize, usize, usize), dropout: f32, a: &[f32], b: &[f32]) -> Result<Slot> {
    Ok(Slot {
        module: "m".into(),
        key: 77,
        r,
        in_features: inp,
        out_features: out,
        scale: 0.75,
        dropout,
        lr_factor: 1.0,
        a: e.parameter(r, inp, a)?,
        b: e.parameter(out, r, b)?,
        dora: None,
    })
}

#[test]
fn linear_matches_autograd() {
    let engines = engines(128, 128);
    for (n, inp, out, r) in [
        (5, 7, 3, 2),
        (1, 16, 32, 4),
        (1, 9, 5, 1),
        (33, 40, 24, 8),
        (130, 17, 65, 3),
        (64, 64, 64, 16),
        (2, 600, 20, 4),
        (90, 530, 70, 16),
        (40, 20, 30, 40),
    ] {
        for (bias, lora, add) in
            [(false, false, false), (true, false, true), (false, true, false), (true, true, true), (true, true, false)]
        {
            let (x, w, b) = (random(n * inp, 1), random(out * inp, 2), random(out, 3));
            let (la, lb, g) = (random(r * inp, 4), random(out * r, 5), random(n * out, 6));
            let (sx, sa, sb) = (random(n * inp, 7), random(r * inp, 8), random(out * r, 9));
            let (xv, av, bv) = (var(&x, (n, inp)), var(&la, (r, inp)), var(&lb, (out, r)));
            let mut y = xv.matmul(&tensor(&w, (out, inp)).t().unwrap()).unwrap();
            if bias {
                y = y.broadcast_add(&tensor(&b, out)).unwrap();
            }
            let t = xv.matmul(&av.t().unwrap()).unwrap();
            if lora {
                y = (y + (t.matmul(&bv.t().unwrap()).unwrap() * 0.75).unwrap()).unwrap();
            }
            let vars = if lora { vec![&xv, &av, &bv] } else { vec![&xv] };
            // Gradients are added to what is there already.
            let plus = |(i, d): (usize, Vec<f64>)| -> Vec<f64> {
                let start = [&sx, &sa, &sb][i];
                let on = if i == 0 && !add { 0.0 } else { 1.0 };
                d.iter().zip(start).map(|(d, &s)| d + on * s as f64).collect()
            };
            let grads = autograd(&y, &g, &vars).into_iter().enumerate().map(plus);
            let mut want: Vec<_> = ["dx", "dA", "dB"].into_iter().zip(grads).collect();
            want.push(("y", numbers(&y)));
            if lora {
                want.push(("t", numbers(&t)));
            }
            let layout = layout(&[n as u32]);
            compare(&format!("linear {n}x{inp}x{out} rank {r} bias {bias} lora {lora}"), &engines, &want, |e| {
                let bias = if bias { Some(vector(e, &b)?) } else { None };
                let lin = Linear { id: 0, layer: 0, module: "m".into(), weight: matrix(e, out, inp, &w)?, bias };
                let s = if lora { Some(slot(e, (r, inp, out), 0.0, &la, &lb)?) } else { None };
                let call = Call { layout: &layout, dropout: None };
                let (x, g) = (e.parameter(n, inp, &x)?, e.parameter(n, out, &g)?);
                let (y, t) = adapted::forward(e, &lin, s.as_ref(), &x, call)?;
                let grad = || -> Result<_> {
                    Ok(SlotGrad { a: e.parameter(r, inp, &sa)?, b: e.parameter(out, r, &sb)?, m: None })
                };
                let (mut kept, mut made) = (grad()?, grad()?);
                let mut dx = e.parameter(n, inp, &sx)?;
                let saved = linear::Saved { x: &x, t: t.as_ref() };
                let of = s.as_ref().map(|s| (s, &mut kept));
                adapted::backward(e, &lin, of, saved, &g, call, Some((&mut dx, add)))?;
                // Without t and without dx the slot's gradients are the same.
                let of = s.as_ref().map(|s| (s, &mut made));
                adapted::backward(e, &lin, of, linear::Saved { x: &x, t: None }, &g, call, None)?;
                assert_eq!(kept.a.to_vec()?, made.a.to_vec()?);
                assert_eq!(kept.b.to_vec()?, made.b.to_vec()?);
                let mut all = vec![dx];
                if lora {
                    all.extend([kept.a, kept.b]);
                }
                all.push(y);
                all.extend(t.map(|kept| kept.t));
                Ok(all)
            });
        }
    }
}

#[test]
fn elementwise_operations_match_autograd() {
    let engines = engines(128, 128);
    for n in [1, 15, 16, 1000, 40_001] {
        let (mut gate, up, g) = (random(n, 1), random(n, 2), random(n, 3));
        if n > 10 {
            // Where e^-gate overflows f32.
            gate[2..7].copy_from_slice(&[90.0, -90.0, 300.0, -300.0, 0.0]);
        }
        let (gv, uv) = (var(&gate, (1, n)), var(&up, (1, n)));
        let sum: Vec<f64> = gate.iter().zip(&up).map(|(&a, &b)| a as f64 + b as f64).collect();
        for act in [Gate::Silu, Gate::GeluTanh] {
            let h = (composite_gate(&gv, act).unwrap() * uv.as_tensor()).unwrap();
            let mut grads = autograd(&h, &g, &[&gv, &uv]);
            let (dgate, scaled) = (grads.remove(0), sum.iter().map(|v| v * 0.25).collect());
            let want = [("h", numbers(&h)), ("dup", grads.remove(0)), ("dgate", dgate), ("(gate + up)/4", scaled)];
            compare(&format!("{act:?}·up {n}"), &engines, &want, |e| {
                let (mut a, mut b) = (e.parameter(1, n, &gate)?, e.parameter(1, n, &up)?);
                let h = elementwise::gate_mul(e, act, &a, &b)?;
                let mut sum = e.parameter(1, n, &gate)?;
                elementwise::add(e, &mut sum, &b)?;
                elementwise::scale(e, &mut sum, 0.25)?;
                elementwise::gate_mul_backward(e, act, &mut a, &mut b, &e.parameter(1, n, &g)?)?;
                Ok(vec![h, b, a, sum])
            });
        }
    }
}

#[test]
fn rows_are_looked_up_gathered_and_scattered() {
    let (n, c, at) = (9, 7, [8u32, 0, 3]);
    let x = random(n * c, 1);
    let row = |i: u32| wide(&x[i as usize * c..(i as usize + 1) * c]);
    let gathered: Vec<f64> = at.iter().flat_map(|&i| row(i)).collect();
    let mut scattered = vec![0.0; 10 * c];
    for (i, &to) in [4u32, 1].iter().enumerate() {
        scattered[to as usize * c..(to as usize + 1) * c].copy_from_slice(&gathered[(i + 1) * c..(i + 2) * c]);
    }
    let stacked: Vec<f64> = gathered.iter().chain(&wide(&x)).chain(&gathered).copied().collect();
    let embedded: Vec<f64> = [2u32, 2, 0].iter().flat_map(|&i| row(i)).collect();
    let want = [("gather", gathered), ("scatter", scattered), ("stack", stacked), ("embedding", embedded)];
    compare("rows", &engines(128, 128), &want, |e| {
        let b = e.parameter(n, c, &x)?;
        let y = rows::gather(e, &b, c, &at)?;
        let s = rows::scatter(e, 10, c, &y, 1, &[4, 1])?;
        let parts = vec![rows::gather(e, &b, c, &at)?, e.parameter(n, c, &x)?, rows::gather(e, &b, c, &at)?];
        let stack = rows::stack(e, parts, c)?;
        Ok(vec![y, s, stack, embedding::forward(e, &matrix(e, n, c, &x)?, &[2, 2, 0])?])
    });
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize, window: Option<usize>, tile: usize) -> Shape {
    Shape { heads, kv_heads, head_dim, scale: (1.0 / (head_dim as f64).sqrt()) as f32, softcap: None, window, tile }
}

fn run_attention(e: &Engine, s: Shape, layout: &Layout, [q, k, v, g]: [&[f32]; 4]) -> Result<Vec<Buf>> {
    let (n, qw, kw) = (layout.tokens(), s.heads * s.head_dim, s.kv_heads * s.head_dim);
    let (q, k, v) = (e.parameter(n, qw, q)?, e.parameter(n, kw, k)?, e.parameter(n, kw, v)?);
    let (o, lse) = attention::forward(e, s, layout, &q, &k, &v)?;
    let saved = attention::Saved { q: &q, k: &k, v: &v, o: &o, lse: &lse };
    let (dq, dk, dv) = attention::backward(e, s, layout, saved, &e.parameter(n, qw, g)?)?;
    Ok(vec![o, lse, dq, dk, dv])
}

#[test]
fn attention_matches_autograd() {
    let engines = engines(128, 128);
    for (lengths, heads, kv_heads, d) in [
        (&[1, 7, 130, 33][..], 4, 2, 10),
        (&[1, 7, 130, 33], 3, 3, 16),
        (&[64, 129], 2, 1, 32),
        (&[2, 1, 1, 17], 6, 2, 5),
    ] {
        let layout = layout(lengths);
        let n = layout.tokens();
        let (qw, kw) = (heads * d, kv_heads * d);
        let (q, k, v, g) = (random(n * qw, 1), random(n * kw, 2), random(n * kw, 3), random(n * qw, 4));
        for (window, softcap) in [
            (None, None),
            (None, Some(0.7)),
            (Some(1), None),
            (Some(3), None),
            (Some(3), Some(2.0)),
            (Some(100), None),
            (Some(100_000), None),
        ] {
            let s = Shape { softcap, ..shape(heads, kv_heads, d, window, 1) };
            let (qv, kv, vv) = (var(&q, (n, qw)), var(&k, (n, kw)), var(&v, (n, kw)));
            let (o, lse) = composite_attention(s, &layout, &qv, &kv, &vv);
            let mut want = vec![("o", numbers(&o)), ("lse", numbers(&lse))];
            want.extend(["dq", "dk", "dv"].into_iter().zip(autograd(&o, &g, &[&qv, &kv, &vv])));
            if window == Some(1) {
                // One key: nothing to choose, and no gradient but rounding's.
                want.retain(|(name, _)| !matches!(*name, "dq" | "dk"));
            }
            for tile in [1, 4, 50, 128] {
                let what = format!(
                    "attention {lengths:?} {heads}/{kv_heads}x{d} window {window:?} cap {softcap:?} tile {tile}"
                );
                compare(&what, &engines, &want, |e| {
                    let mut all = run_attention(e, Shape { tile, ..s }, &layout, [&q, &k, &v, &g])?;
                    if window == Some(1) {
                        for zero in all.drain(2..4) {
                            assert!(zero.to_vec()?.iter().all(|v| v.abs() < 1e-5), "{what}");
                        }
                    }
                    Ok(all)
                });
            }
        }
    }
}

#[test]
fn attention_matches_finite_differences() {
    let (lengths, heads, kv_heads, d) = ([1, 7, 5], 4, 2, 3);
    let layout = layout(&lengths);
    let (n, qw, kw) = (layout.tokens(), heads * d, kv_heads * d);
    let (q, k, v, g) = (random(n * qw, 1), random(n * kw, 2), random(n * kw, 3), random(n * qw, 4));
    for window in [None, Some(3)] {
        let s = shape(heads, kv_heads, d, window, 4);
        let g64 = wide(&g);
        let loss = |q: &[f64], k: &[f64], v: &[f64]| -> f64 {
            let mut total = 0.0;
            for row in layout.offsets().windows(2) {
                for (t, h) in (row[0] as usize..row[1] as usize).flat_map(|t| (0..heads).map(move |h| (t, h))) {
                    let first = window.map_or(0, |w| (t + 1).saturating_sub(w)).max(row[0] as usize);
                    let kv = |j: usize| j * kw + h / (heads / kv_heads) * d..j * kw + (h / (heads / kv_heads) + 1) * d;
                    let at = t * qw + h * d..t * qw + (h + 1) * d;
                    let weights: Vec<f64> =
                        (first..=t).map(|j| libm::exp(s.scale as f64 * dot(&q[at.clone()], &k[kv(j)]))).collect();
                    let sum: f64 = weights.iter().sum();
                    total += weights
                        .iter()
                        .zip(first..)
                        .map(|(w, j)| w / sum * dot(&g64[at.clone()], &v[kv(j)]))
                        .sum::<f64>();
                }
            }
            total
        };
        let (q64, k64, v64) = (wide(&q), wide(&k), wide(&v));
        let want = [
            ("dq", differences(&q64, 1e-5, |q| loss(q, &k64, &v64))),
            ("dk", differences(&k64, 1e-5, |k| loss(&q64, k, &v64))),
            ("dv", differences(&v64, 1e-5, |v| loss(&q64, &k64, v))),
        ];
        compare(&format!("attention window {window:?}"), &engines(128, 4), &want, |e| {
            Ok(run_attention(e, s, &layout, [&q, &k, &v, &g])?.split_off(2))
        });
    }
}

/// Units over `states` states in a shuffled order, three states left out; every third unit is single.
fn units(states: usize, vocab: usize) -> Vec<Unit> {
    let key = Key::new(9, Stream::Bench, &[states as u64]);
    let mut order: Vec<u32> = (0..states as u32).collect();
    key.shuffle(&mut order);
    let mut order = order.into_iter().skip(3).enumerate().map(|(i, state)| Supervised {
        state,
        target: key.below(1000 + i as u64, vocab as u64) as u32,
        a: 0.1 + 0.01 * i as f32,
    });
    let mut out = Vec::new();
    while let Some(p) = order.next() {
        let i = out.len();
        match if i % 3 == 2 { None } else { order.next() } {
            Some(q) => {
                // The ends of λ, and a pair with one target, too.
                let lambda = [0.3, 1.0, 0.0, 0.5, 0.91][i % 5];
                let q = if i % 4 == 1 { Supervised { target: p.target, ..q } } else { q };
                out.push(Unit::Mixed(p, q, Mix { lambda, b: 0.2 + 0.03 * i as f32 }));
            }
            None => out.push(Unit::Single(p)),
        }
    }
    out
}

#[test]
fn head_loss_matches_autograd() {
    // The last has a head of several panels, the one before it a vocabulary of several parts of 4,096.
    for (vocab, c, states, scale, softcap) in [
        (37, 5, 9, 1.0, None),
        (64, 16, 40, 1.0, None),
        (64, 16, 40, 0.125, Some(0.5)),
        (3, 1, 4, 1.0, None),
        (9001, 8, 12, 1.0, None),
        (9001, 8, 12, 2.0, Some(1.5)),
        (150, 16_400, 8, 0.5, None),
    ] {
        let (h, w) = (random(states * c, 1), random(vocab * c, 2));
        let w: Vec<f32> = w.iter().map(|v| v / (c as f32).sqrt()).collect();
        let us = units(states, vocab);
        let hv = var(&h, (states, c));
        let raw = (hv.matmul(&tensor(&w, (vocab, c)).t().unwrap()).unwrap() * scale as f64).unwrap();
        let all = composite_cap(&raw, softcap).unwrap();
        let log_all = candle_nn::ops::log_softmax(&all, 1).unwrap();
        let pick = |log: &Tensor, row: u32, target: u32| {
            log.narrow(0, row as usize, 1).unwrap().narrow(1, target as usize, 1).unwrap().neg().unwrap()
        };
        let (mut total, mut stats) = (Tensor::zeros((1, 1), DType::F64, &Device::Cpu).unwrap(), Vec::new());
        let mut add = |t: &Tensor, weight: f32| total = (&total + (t * weight as f64).unwrap()).unwrap();
        let value = |t: &Tensor| numbers(t)[0];
        for u in &us {
            let (own, mix) = match *u {
                Unit::Single(p) => (vec![p], None),
                Unit::Mixed(p, q, mix) => (vec![p, q], Some(mix)),
            };
            let mixed = mix.map(|m| {
                let l = m.lambda as f64;
                let row = |p: &Supervised| raw.narrow(0, p.state as usize, 1).unwrap();
                let x = ((row(&own[0]) * l).unwrap() + (row(&own[1]) * (1.0 - l)).unwrap()).unwrap();
                let x = composite_cap(&x, softcap).unwrap();
                let x = candle_nn::ops::log_softmax(&x, 1).unwrap();
                let parts = (pick(&x, 0, own[0].target) * l, pick(&x, 0, own[1].target) * (1.0 - l));
                let loss = (parts.0.unwrap() + parts.1.unwrap()).unwrap();
                add(&loss, m.b);
                value(&loss)
            });
            for (i, p) in own.iter().enumerate() {
                let nll = pick(&log_all, p.state, p.target);
                add(&nll, p.a);
                let log_p = numbers(&log_all.narrow(0, p.state as usize, 1).unwrap());
                let entropy: f64 = log_p.iter().map(|l| -l * libm::exp(*l)).sum();
                let best = (0..vocab).fold(0, |b, j| if log_p[j] > log_p[b] { j } else { b });
                let mix = if i == 0 { mixed.unwrap_or(0.0) } else { 0.0 };
                stats.push((value(&nll), entropy, best == p.target as usize, mix));
            }
        }
        let dh = numbers(total.backward().unwrap().get(&hv).unwrap());
        let want = [("dh", dh), ("logits", numbers(&all))];
        for chunk in [1, 3, 128] {
            let what = format!("head loss {states} states, {vocab}x{c}, cap {softcap:?}, chunk {chunk}");
            compare(&what, &engines(chunk, 128), &want, |e| {
                let (head, h) =
                    (Head { weight: matrix(e, vocab, c, &w)?, scale, softcap }, e.parameter(states, c, &h)?);
                let (with, dh) = head_loss::forward_backward(e, &head, &h, &us, true)?;
                let (without, none) = head_loss::forward_backward(e, &head, &h, &us, false)?;
                assert!(none.is_none());
                assert_eq!((with.len(), without.len()), (stats.len(), stats.len()));
                for (i, ((a, b), &(nll, entropy, correct, mix))) in with.iter().zip(&without).zip(&stats).enumerate() {
                    let near =
                        |x: f64, y: f64| assert!((x - y).abs() <= 1e-5 * y.abs().max(1.0), "{what} {i}: {x} {y}");
                    near(a.nll, nll);
                    near(a.entropy as f64, entropy);
                    near(a.mix_nll, mix);
                    near(a.prob as f64, libm::exp(-nll));
                    assert_eq!(a.correct, correct, "{what} {i}");
                    assert_eq!((a.nll, a.mix_nll, a.correct), (b.nll, b.mix_nll, b.correct), "{what} {i}");
                }
                let logits = head_loss::logits(e, &head, &h)?;
                Ok(vec![dh.expect("a gradient"), e.parameter(states, vocab, &logits)?])
            });
        }
    }
}

#[test]
fn head_loss_survives_large_logits() {
    for e in engines(128, 128) {
        let h = [3e3f32, -1e3, 1.0, 2.0];
        let us = [
            Unit::Mixed(
                Supervised { state: 0, target: 0, a: 1.0 },
                Supervised { state: 1, target: 1, a: 1.0 },
                Mix { lambda: 0.5, b: 1.0 },
            ),
            Unit::Single(Supervised { state: 2, target: 2, a: 1.0 }),
        ];
        let (stats, dh) = e
            .run(|| {
                let head = Head::plain(matrix(&e, 3, 1, &[1.0, -1.0, 0.5])?);
                head_loss::forward_backward(&e, &head, &e.parameter(4, 1, &h)?, &us, true)
            })
            .unwrap();
        let dh = dh.unwrap().to_vec().unwrap();
        assert!(stats.iter().all(|s| s.nll.is_finite() && s.mix_nll.is_finite() && s.entropy.is_finite()));
        assert!(dh.iter().all(|v| v.is_finite()), "{dh:?}");
        assert!(stats[0].nll.abs() < 1e-6 && stats[0].correct && stats[1].correct && !stats[2].correct);
        // The mix is 1000·w: target 0 for sure, so its loss is half of what stands between 0 and 1.
        assert!((stats[0].mix_nll - 1000.0).abs() < 1e-2, "{}", stats[0].mix_nll);
        assert_eq!(dh[3], 0.0, "a state that nothing reads");
    }
}

#[test]
fn adamw_matches_the_definition() {
    let engines = engines(128, 128);
    // The longest is cut into parts of 65,536.
    for n in [1, 17, 65_536 + 9] {
        let (p, gradients) = (random(n, 1), [random(n, 2), random(n, 3), random(n, 4)]);
        let (b1, b2, eps, lr) = (0.9f64, 0.9999f64, 1e-8f32, 0.01f64);
        let steps: Vec<adamw::Step> = (1..=3)
            .map(|t| adamw::Step {
                decay: 1.0 - 0.1 * lr as f32,
                beta1: b1 as f32,
                beta2: b2 as f32,
                rest: ((1.0 - b1) as f32, (1.0 - b2) as f32),
                step_size: (lr / (1.0 - libm::pow(b1, t as f64))) as f32,
                inv_sqrt_bias2: (1.0 / (1.0 - libm::pow(b2, t as f64)).sqrt()) as f32,
                eps,
                grad_scale: if t == 2 { 0.25 } else { 1.0 },
            })
            .collect();
        let (mut want_p, mut want_m, mut want_v) = (wide(&p), vec![0f64; n], vec![0f64; n]);
        for (i, (s, g)) in steps.iter().zip(&gradients).enumerate() {
            let t = (i + 1) as f64;
            for j in 0..n {
                let g = g[j] as f64 * s.grad_scale as f64;
                want_m[j] = b1 * want_m[j] + (1.0 - b1) * g;
                want_v[j] = b2 * want_v[j] + (1.0 - b2) * g * g;
                let (m, v) = (want_m[j] / (1.0 - libm::pow(b1, t)), want_v[j] / (1.0 - libm::pow(b2, t)));
                want_p[j] = want_p[j] * (1.0 - 0.1 * lr) - lr * m / (v.sqrt() + eps as f64);
            }
        }
        let want = [("p", want_p), ("m", want_m), ("v", want_v)];
        compare(&format!("adamw {n}"), &engines, &want, |e| {
            let (mut p, mut m, mut v) = (e.parameter(1, n, &p)?, e.zeros(1, n)?, e.zeros(1, n)?);
            for (s, g) in steps.iter().zip(&gradients) {
                let g = e.parameter(1, n, g)?;
                let sum = adamw::sum_squares(e, &[&g])?[0];
                let want: f64 = dot(&wide(&g.to_vec()?), &wide(&g.to_vec()?));
                assert!((sum / want - 1.0).abs() < 1e-5, "Σ g²: {sum} {want}");
                adamw::update(e, &mut p, &mut m, &mut v, &g, *s)?;
            }
            Ok(vec![p, m, v])
        });
    }
}

#[test]
fn one_thread_and_two_give_close_numbers_and_each_its_own_bits_again() {
    let threads = |n| Engine::new(EngineOptions { threads: Some(n), ..Default::default() }).unwrap();
    let layout = layout(&[300, 1, 77, 130]);
    let (n, inp, out, r) = (layout.tokens(), 192, 320, 8);
    let (x, w, g) = (random(n * inp, 1), random(out * inp, 2), random(n * out, 3));
    let (la, lb) = (random(r * inp, 4), random(out * r, 5));
    let s = shape(6, 3, 32, None, 64);
    let (k, v) = (random(n * 96, 6), random(n * 96, 7));
    let us = units(n, 500);
    let wh = random(500 * inp, 8);
    let run = |e: &Engine| -> Vec<Vec<f32>> {
        let all = e.run(|| {
            let lin = Linear { id: 0, layer: 0, module: "m".into(), weight: matrix(e, out, inp, &w)?, bias: None };
            let slot = slot(e, (r, inp, out), 0.0, &la, &lb)?;
            let call = Call { layout: &layout, dropout: None };
            let (x, g) = (e.parameter(n, inp, &x)?, e.parameter(n, out, &g)?);
            let (y, t) = adapted::forward(e, &lin, Some(&slot), &x, call)?;
            let mut grad = SlotGrad { a: e.zeros(r, inp)?, b: e.zeros(out, r)?, m: None };
            let mut dx = e.zeros(n, inp)?;
            let saved = linear::Saved { x: &x, t: t.as_ref() };
            adapted::backward(e, &lin, Some((&slot, &mut grad)), saved, &g, call, Some((&mut dx, false)))?;
            let mut all = run_attention(e, s, &layout, [&x.to_vec()?, &k, &v, &dx.to_vec()?])?;
            let dh = head_loss::forward_backward(e, &Head::plain(matrix(e, 500, inp, &wh)?), &x, &us, true)?.1;
            all.extend([y, dx, grad.a, grad.b]);
            all.extend(dh);
            Ok(all)
        });
        all.unwrap().iter().map(|b| b.to_vec().unwrap()).collect()
    };
    let one = run(&threads(1));
    let two = threads(2);
    let first = run(&two);
    assert!(first == run(&two) && first == run(&threads(2)), "two threads give other bits the second time");
    assert!(one == run(&threads(1)), "one thread gives other bits the second time");
    for (i, (a, b)) in first.iter().zip(&one).enumerate() {
        close(&format!("two threads against one, output {i}"), a, &wide(b), 1e-6);
    }
}
