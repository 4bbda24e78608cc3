//! Dropout on the adapter's input: one mask forward and backward, a function of seed, step, row, position
//! and module alone, right on average.

use sftmix::internal::device::Form;
use sftmix::internal::ops::adapted;
use sftmix::internal::ops::elementwise::{dropout, DropoutKey};
use sftmix::internal::ops::linear;
use sftmix::internal::ops::linear::{Call, Linear, SlotGrad};
use sftmix::internal::ops::{Engine, Layout};
use sftmix::Keep;

use crate::block::{adapter, group, micro, random_rows, total_loss, train, Tiny};
use crate::ops::{autograd, close, compare, engines, layout, matrix, numbers, random, slot, tensor, var, wide, CLOSE};
use crate::support::engine;

const STEP: DropoutKey = DropoutKey { seed: 5, step: 9 };

pub fn mask(e: &Engine, layout: &Layout, width: usize, p: f32, key: DropoutKey, module: u64) -> Vec<f32> {
    e.run(|| {
        let mut ones = e.parameter(layout.tokens(), width, &vec![1.0; layout.tokens() * width])?;
        dropout(e, &mut ones, width, p, key, module, layout)?;
        ones.to_vec()
    })
    .unwrap()
}

#[test]
fn a_masked_linear_matches_autograd() {
    let engines = engines(128, 128);
    for (lengths, inp, out, r, p) in
        [(&[3, 9][..], 7, 5, 2, 0.3), (&[64, 70], 64, 48, 8, 0.5), (&[130, 1], 33, 20, 3, 0.05), (&[1], 12, 9, 4, 0.3)]
    {
        let layout = layout(lengths);
        let n = layout.tokens();
        let (x, w, g) = (random(n * inp, 1), random(out * inp, 2), random(n * out, 3));
        let (la, lb) = (random(r * inp, 4), random(out * r, 5));
        let kept = mask(&engines[0], &layout, inp, p, STEP, 77);
        assert_eq!(kept, mask(&engines[1], &layout, inp, p, STEP, 77), "both forms have one mask");
        let (xv, av, bv) = (var(&x, (n, inp)), var(&la, (r, inp)), var(&lb, (out, r)));
        let masked = (xv.as_tensor() * tensor(&kept, (n, inp))).unwrap();
        let t = masked.matmul(&av.t().unwrap()).unwrap();
        let y = xv.matmul(&tensor(&w, (out, inp)).t().unwrap()).unwrap();
        let y = (y + (t.matmul(&bv.t().unwrap()).unwrap() * 0.75).unwrap()).unwrap();
        let mut want = vec![("y", numbers(&y)), ("t", numbers(&t))];
        want.extend(["dx", "dA", "dB"].into_iter().zip(autograd(&y, &g, &[&xv, &av, &bv])));
        compare(&format!("dropout {p} {lengths:?} {inp}x{out} rank {r}"), &engines, &want, |e| {
            let lin = Linear { id: 0, layer: 0, module: "m".into(), weight: matrix(e, out, inp, &w)?, bias: None };
            let slot = slot(e, (r, inp, out), p, &la, &lb)?;
            let call = Call { layout: &layout, dropout: Some(STEP) };
            let (x, g) = (e.parameter(n, inp, &x)?, e.parameter(n, out, &g)?);
            let (y, t) = adapted::forward(e, &lin, Some(&slot), &x, call)?;
            let mut grad = SlotGrad { a: e.zeros(r, inp)?, b: e.zeros(out, r)?, m: None };
            let mut dx = e.zeros(n, inp)?;
            let saved = linear::Saved { x: &x, t: t.as_ref() };
            adapted::backward(e, &lin, Some((&slot, &mut grad)), saved, &g, call, Some((&mut dx, false)))?;
            Ok(vec![y, t.expect("a slot").t, dx, grad.a, grad.b])
        });
    }
}

#[test]
fn the_backward_pass_uses_the_forward_pass_mask() {
    // The output is linear in each of x, A and B, so that differences over a wide step are exact.
    let (inp, out, r) = (9, 6, 3);
    let layout = layout(&[4, 5]);
    let n = layout.tokens();
    let (x, w, g) = (random(n * inp, 1), random(out * inp, 2), random(n * out, 3));
    let (la, lb) = (random(r * inp, 4), random(out * r, 5));
    for e in engines(128, 128) {
        let lin = || -> sftmix::Result<Linear> {
            Ok(Linear { id: 0, layer: 0, module: "m".into(), weight: matrix(&e, out, inp, &w)?, bias: None })
        };
        let call = Call { layout: &layout, dropout: Some(STEP) };
        let loss = |x: &[f32], a: &[f32], b: &[f32]| -> f64 {
            let y = e.run(|| {
                let slot = slot(&e, (r, inp, out), 0.3, a, b)?;
                adapted::forward(&e, &lin()?, Some(&slot), &e.parameter(n, inp, x)?, call)?.0.to_vec()
            });
            y.unwrap().iter().zip(&g).map(|(y, g)| *y as f64 * *g as f64).sum()
        };
        let differences = |v: &[f32], f: &dyn Fn(&[f32]) -> f64| -> Vec<f64> {
            let by = |i: usize, d: f32| {
                let mut at = v.to_vec();
                at[i] += d;
                f(&at)
            };
            (0..v.len()).map(|i| (by(i, 1.0) - by(i, -1.0)) / 2.0).collect()
        };
        let [dx, da, db] = e
            .run(|| {
                let slot = slot(&e, (r, inp, out), 0.3, &la, &lb)?;
                let mut grad = SlotGrad { a: e.zeros(r, inp)?, b: e.zeros(out, r)?, m: None };
                let mut dx = e.zeros(n, inp)?;
                // No t: the mask is made again for A's side, too.
                let saved = linear::Saved { x: &e.parameter(n, inp, &x)?, t: None };
                let g = e.parameter(n, out, &g)?;
                adapted::backward(&e, &lin()?, Some((&slot, &mut grad)), saved, &g, call, Some((&mut dx, false)))?;
                Ok([dx.to_vec()?, grad.a.to_vec()?, grad.b.to_vec()?])
            })
            .unwrap();
        close("dx", &dx, &differences(&x, &|x| loss(x, &la, &lb)), 1e-5);
        close("dA", &da, &differences(&la, &|a| loss(&x, a, &lb)), 1e-5);
        close("dB", &db, &differences(&lb, &|b| loss(&x, &la, b)), 1e-5);
    }
}

#[test]
fn the_mean_over_a_thousand_masks_is_the_output_without_dropout() {
    let (inp, out, r) = (24, 6, 3);
    let layout = layout(&[2, 3]);
    let n = layout.tokens();
    let (x, w) = (random(n * inp, 1), random(out * inp, 2));
    let (la, lb) = (random(r * inp, 4), random(out * r, 5));
    let e = engine(Form::Fused, 128, 128);
    for p in [0.05, 0.3, 0.6] {
        let run = |dropout: Option<DropoutKey>| -> Vec<f64> {
            let y = e.run(|| {
                let lin = Linear { id: 0, layer: 0, module: "m".into(), weight: matrix(&e, out, inp, &w)?, bias: None };
                let slot = slot(&e, (r, inp, out), p, &la, &lb)?;
                let call = Call { layout: &layout, dropout };
                adapted::forward(&e, &lin, Some(&slot), &e.parameter(n, inp, &x)?, call)?.0.to_vec()
            });
            wide(&y.unwrap())
        };
        let want = run(None);
        let masks = 1000;
        let (mut sum, mut squares) = (vec![0f64; want.len()], vec![0f64; want.len()]);
        for step in 0..masks {
            for (i, y) in run(Some(DropoutKey { seed: 5, step })).into_iter().enumerate() {
                sum[i] += y - want[i];
                squares[i] += (y - want[i]) * (y - want[i]);
            }
        }
        for (i, (s, q)) in sum.iter().zip(&squares).enumerate() {
            let (mean, k) = (s / masks as f64, masks as f64);
            let error = ((q / k - mean * mean) / (k - 1.0)).sqrt();
            assert!(error > 0.0 && mean.abs() <= 4.0 * error, "dropout {p}, output {i}: {mean:e} ± {error:e}");
        }
    }
}

#[test]
fn a_rows_mask_does_not_depend_on_its_company() {
    let e = engine(Form::Fused, 128, 128);
    // Long enough to be cut over threads.
    let (lengths, width) = ([7, 130, 1, 333, 20], 70);
    let all = mask(&e, &layout(&lengths), width, 0.3, STEP, 1);
    let mut at = 0;
    for (i, &n) in lengths.iter().enumerate() {
        let alone = mask(&e, &Layout::new(vec![0, n], vec![i as u64]), width, 0.3, STEP, 1);
        let part = &all[at * width..(at + n as usize) * width];
        assert!(alone == part, "row {i}");
        // A longer row with the same name begins with the same mask.
        let longer = mask(&e, &Layout::new(vec![0, n + 5], vec![i as u64]), width, 0.3, STEP, 1);
        assert!(&longer[..part.len()] == part, "row {i}, longer");
        at += n as usize;
    }
}

#[test]
fn masks_differ_by_step_seed_row_position_and_module() {
    let e = engine(Form::Fused, 128, 128);
    let (one, n, width, p) = (layout(&[64]), 64, 64, 0.3f32);
    let first = mask(&e, &one, width, p, STEP, 1);
    let others = [
        mask(&e, &one, width, p, DropoutKey { step: 10, ..STEP }, 1),
        mask(&e, &one, width, p, DropoutKey { seed: 6, ..STEP }, 1),
        mask(&e, &one, width, p, STEP, 2),
        mask(&e, &Layout::new(vec![0, 64], vec![1]), width, p, STEP, 1),
        [&first[width..], &first[..width]].concat(),
    ];
    let kept = |v: &[f32]| v.iter().filter(|&&v| v != 0.0).count() as f64 / v.len() as f64;
    let keep = 1.0 - p as f64;
    let sigma = (keep * (1.0 - keep) / (n * width) as f64).sqrt();
    assert!(first.iter().all(|&v| v == 0.0 || v == 1.0 / (1.0 - p)));
    for other in others {
        assert!((kept(&other) - keep).abs() < 4.0 * sigma, "share kept {}", kept(&other));
        let both = first.iter().zip(&other).filter(|(a, b)| **a != 0.0 && **b != 0.0).count();
        let share = both as f64 / first.len() as f64;
        let expected = keep * keep;
        assert!((share - expected).abs() < 4.0 * (expected * (1.0 - expected) / (n * width) as f64).sqrt(), "{share}");
    }
}

#[test]
fn splitting_a_step_into_micro_batches_keeps_the_masks() {
    let tiny = Tiny::odd("llama");
    let rows = random_rows(&[19, 8, 40, 5], 43);
    let mut examples = rows.clone();
    let together = group(&rows);
    for form in [Form::Fused, Form::Portable] {
        let e = engine(form, 128, 16);
        let m = tiny.open(&e);
        let a = adapter(&e, &m, &[], 0.3);
        let want = train(&e, &m, &a, &together, Keep::ALL, Some(STEP));
        // Each in a micro-batch of its own, under the number it has in the step.
        let micros = (0..rows.len()).map(|i| {
            let mut ragged = sftmix::internal::data::tokens::Ragged::from_rows(std::slice::from_ref(&examples[i]));
            ragged.examples[0] = i as u32;
            sftmix::internal::train::group::MicroBatch::new(&ragged)
        });
        let mut apart = together.clone();
        apart.micros = micros.collect();
        let ours = train(&e, &m, &a, &apart, Keep::INPUTS, Some(STEP));
        let d = (total_loss(&apart, &ours.0) / total_loss(&together, &want.0) - 1.0).abs();
        assert!(d < 1e-6, "{form:?}: loss {d:e}");
        for (ours, want) in ours.1.iter().zip(&want.1) {
            close(&format!("{form:?}: rows apart"), ours, &wide(want), CLOSE);
        }
        // Another step's masks are others, and so are its gradients.
        let next = train(&e, &m, &a, &together, Keep::ALL, Some(DropoutKey { step: 10, ..STEP }));
        assert!(next.1 != want.1);
    }
    // Scoring has no dropout whatever the adapter says.
    examples.truncate(1);
    let e = engine(Form::Fused, 128, 16);
    let m = tiny.open(&e);
    let score = |p| {
        let a = adapter(&e, &m, &[], p);
        let run = sftmix::internal::train::group::GroupRun {
            engine: &e,
            model: &m,
            adapter: Some(&a),
            keep: Keep::Nothing,
            dropout: None,
        };
        let group = sftmix::internal::train::group::Group::plain(vec![micro(&examples)], 1.0);
        e.run(|| group.run(&run, None)).unwrap().rows[0].nll
    };
    assert_eq!(score(0.0), score(0.9));
}
