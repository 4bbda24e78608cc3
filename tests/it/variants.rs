//! LoRA's variants: DoRA against autograd and PEFT, patterns, layers, rsLoRA, LoRA+ and NEFTune against PEFT and
//! transformers (tests/interop/peft_dora.py), and what must not change a bit.

use std::path::{Path, PathBuf};

use candle_core::D;
use sftmix::internal::data::tokens::Ragged;
use sftmix::internal::device::Form;
use sftmix::internal::model::Adapter;
use sftmix::internal::model::Decoder;
use sftmix::internal::ops::adapted;
use sftmix::internal::ops::elementwise::{neftune, DropoutKey};
use sftmix::internal::ops::linear;
use sftmix::internal::ops::linear::{Call, Dora, Linear, Slot, SlotGrad};
use sftmix::internal::ops::{Engine, Layout};
use sftmix::internal::train::group::{Group, GroupRun, MicroBatch};
use sftmix::internal::train::optimizer::{AdamW, AdamWConfig};
use sftmix::Keep;
use sftmix::{
    Control, Error, Event, Layers, LoraConfig, ModulePattern, Recipe, TargetModules, TrainConfig, TrainingJob,
};

use crate::block::{group, micro, random_rows, total_loss, Tiny};
use crate::dropout::mask;
use crate::golden::golden_dir;
use crate::ops::{
    autograd, close, compare, engines, layout, matrix, numbers, random, tensor, var, vector, wide, CLOSE,
};
use crate::support::{engine, golden_rows, json, max_diff, project, tensors, within};

const STEP: DropoutKey = DropoutKey { seed: 5, step: 9 };
const SCALE: f64 = 0.75;

/// Shape of an adapted linear: tokens of each row, inputs, outputs, rank.
type Case<'a> = (&'a [u32], usize, usize, usize);

#[test]
fn a_linear_with_magnitudes_matches_autograd() {
    let engines = engines(128, 128);
    let cases: [Case; 6] = [
        (&[5], 7, 3, 2),
        (&[3, 9], 16, 33, 4),
        (&[130, 1], 40, 130, 8),
        (&[64, 70], 64, 64, 16),
        (&[2], 600, 20, 4),
        (&[1], 12, 9, 4),
    ];
    for (lengths, inp, out, r) in cases {
        for (bias, p, add) in
            [(false, 0.0, false), (true, 0.0, true), (true, 0.3, false), (false, 0.5, true), (false, 0.3, false)]
        {
            let layout = layout(lengths);
            let n = layout.tokens();
            let (x, w, b, g) = (random(n * inp, 1), random(out * inp, 2), random(out, 3), random(n * out, 6));
            let (la, lb, m) = (random(r * inp, 4), random(out * r, 5), random(out, 10));
            let (sx, sa, sb, sm) = (random(n * inp, 7), random(r * inp, 8), random(out * r, 9), random(out, 11));
            let kept = if p > 0.0 { mask(&engines[0], &layout, inp, p, STEP, 77) } else { vec![1.0; n * inp] };

            let (xv, av, bv) = (var(&x, (n, inp)), var(&la, (r, inp)), var(&lb, (out, r)));
            let mv = var(&m, (1, out));
            let wt = tensor(&w, (out, inp));
            let masked = (xv.as_tensor() * tensor(&kept, (n, inp))).unwrap();
            // PEFT's formula, with the norm taken out of the graph.
            let v = (&wt + (tensor(&lb, (out, r)).matmul(&tensor(&la, (r, inp))).unwrap() * SCALE).unwrap()).unwrap();
            let norm = v.sqr().unwrap().sum(D::Minus1).unwrap().sqrt().unwrap().reshape((1, out)).unwrap();
            let f = mv.as_tensor().div(&norm).unwrap();
            let t = masked.matmul(&av.t().unwrap()).unwrap();
            let update = (t.matmul(&bv.t().unwrap()).unwrap() * SCALE).unwrap();
            let through = masked.matmul(&wt.t().unwrap()).unwrap();
            let base = xv.matmul(&wt.t().unwrap()).unwrap();
            let less = (&f - 1.0).unwrap();
            let dora = (through.broadcast_mul(&less).unwrap() + update.broadcast_mul(&f).unwrap()).unwrap();
            let mut y = (base + dora).unwrap();
            if bias {
                y = y.broadcast_add(&tensor(&b, out)).unwrap();
            }
            let plus = |(i, d): (usize, Vec<f64>)| -> Vec<f64> {
                let start = [&sx, &sa, &sb, &sm][i];
                let on = if i == 0 && !add { 0.0 } else { 1.0 };
                d.iter().zip(start).map(|(d, &s)| d + on * s as f64).collect()
            };
            let grads = autograd(&y, &g, &[&xv, &av, &bv, &mv]).into_iter().enumerate().map(plus);
            let mut want: Vec<_> = ["dx", "dA", "dB", "dm"].into_iter().zip(grads).collect();
            want.extend([("y", numbers(&y)), ("t", numbers(&t))]);

            compare(&format!("dora {lengths:?} {inp}x{out} rank {r} bias {bias} dropout {p}"), &engines, &want, |e| {
                let bias = if bias { Some(vector(e, &b)?) } else { None };
                let lin = Linear { id: 0, layer: 0, module: "m".into(), weight: matrix(e, out, inp, &w)?, bias };
                let slot = Slot { dora: Some(Dora::new(e, &m)?), ..crate::ops::slot(e, (r, inp, out), p, &la, &lb)? };
                let call = Call { layout: &layout, dropout: (p > 0.0).then_some(STEP) };
                let (x, g) = (e.parameter(n, inp, &x)?, e.parameter(n, out, &g)?);
                let (y, t) = adapted::forward(e, &lin, Some(&slot), &x, call)?;
                let grad = || -> sftmix::Result<_> {
                    let m = Some(e.parameter(1, out, &sm)?);
                    Ok(SlotGrad { a: e.parameter(r, inp, &sa)?, b: e.parameter(out, r, &sb)?, m })
                };
                let (mut kept, mut made) = (grad()?, grad()?);
                let mut dx = e.parameter(n, inp, &sx)?;
                let saved = linear::Saved { x: &x, t: t.as_ref() };
                adapted::backward(e, &lin, Some((&slot, &mut kept)), saved, &g, call, Some((&mut dx, add)))?;
                // Without what was kept and without dx the gradients are the same.
                let saved = linear::Saved { x: &x, t: None };
                adapted::backward(e, &lin, Some((&slot, &mut made)), saved, &g, call, None)?;
                assert_eq!(kept.a.to_vec()?, made.a.to_vec()?);
                assert_eq!(kept.b.to_vec()?, made.b.to_vec()?);
                let (km, mm) = (kept.m.expect("magnitudes"), made.m.expect("magnitudes"));
                assert_eq!(km.to_vec()?, mm.to_vec()?);
                Ok(vec![dx, kept.a, kept.b, km, y, t.expect("a slot").t])
            });
        }
    }
}

#[test]
fn a_row_of_zeros_gives_zeros_and_no_gradient() {
    let layout = layout(&[4]);
    for e in engines(128, 128) {
        let (x, m, la, lb) = (random(4 * 3, 1), [2.0, 0.5], random(3, 2), [0.0, 1.0]);
        let mut w = random(2 * 3, 3);
        w[..3].fill(0.0);
        let [y, dm] = e
            .run(|| {
                let lin = Linear { id: 0, layer: 0, module: "m".into(), weight: matrix(&e, 2, 3, &w)?, bias: None };
                let slot = Slot { dora: Some(Dora::new(&e, &m)?), ..crate::ops::slot(&e, (1, 3, 2), 0.0, &la, &lb)? };
                let call = Call { layout: &layout, dropout: None };
                let (x, g) = (e.parameter(4, 3, &x)?, e.parameter(4, 2, &[1.0; 8])?);
                let (y, t) = adapted::forward(&e, &lin, Some(&slot), &x, call)?;
                let m = Some(e.parameter(1, 2, &[0.0; 2])?);
                let mut grad = SlotGrad { a: e.zeros(1, 3)?, b: e.zeros(2, 1)?, m };
                let saved = linear::Saved { x: &x, t: t.as_ref() };
                adapted::backward(&e, &lin, Some((&slot, &mut grad)), saved, &g, call, None)?;
                Ok([y.to_vec()?, grad.m.expect("magnitudes").to_vec()?])
            })
            .unwrap();
        assert!(y.chunks(2).all(|y| y[0] == 0.0 && y[1] != 0.0 && y[1].is_finite()), "{y:?}");
        assert!(dm[0] == 0.0 && dm[1] != 0.0 && dm[1].is_finite(), "{dm:?}");
    }
}

/// An adapter's parameters and gradients by PEFT's names.
pub fn named(adapter: &Adapter, grads: &[SlotGrad]) -> Vec<(String, Vec<f32>, Vec<f32>)> {
    let mut all = Vec::new();
    for (s, g) in adapter.slots.iter().zip(grads) {
        let name = |end: &str| format!("base_model.model.{}.{end}", s.module);
        all.push((name("lora_A.weight"), s.a.to_vec().unwrap(), g.a.to_vec().unwrap()));
        all.push((name("lora_B.weight"), s.b.to_vec().unwrap(), g.b.to_vec().unwrap()));
        if let (Some(d), Some(m)) = (&s.dora, &g.m) {
            all.push((name("lora_magnitude_vector"), d.magnitude.to_vec().unwrap(), m.to_vec().unwrap()));
        }
    }
    all
}

fn lora_variants() -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> =
        std::fs::read_dir(golden_dir().join("lora_variants")).unwrap().map(|d| d.unwrap().path()).collect();
    dirs.retain(|d| d.join("golden.json").exists());
    dirs.sort();
    assert!(dirs.len() >= 14);
    dirs
}

/// Loss and gradients of the first step and weights after the third; gives the worst differences.
fn check_variant(dir: &Path, form: Form, keep: Keep, apart: bool) -> (f64, f64, usize) {
    let what = format!("{} {form:?} {keep:?} apart {apart}", dir.display());
    let (g, js) = (tensors(&dir.join("golden.safetensors")), json(&dir.join("golden.json")));
    let base = golden_dir().join(js["model"].as_str().unwrap());
    let rows = golden_rows(&tensors(&base.join("golden.safetensors")));
    let e = engine(form, 128, 4);
    let m = Decoder::open(&e, &base, 64).unwrap();
    let mut adapter = Adapter::load(&e, &m, &dir.join("adapter")).unwrap();
    let ratio = js["loraplus_lr_ratio"].as_f64();
    adapter.slots.iter_mut().for_each(|s| s.lr_factor = ratio.unwrap_or(1.0) as f32);
    adapter.neftune_noise_alpha = js["neftune_noise_alpha"].as_f64();
    let draws = adapter.neftune_noise_alpha.is_some() || adapter.config.lora_dropout > 0.0;
    let f = |k: &str| js["adamw"][k].as_f64().unwrap();
    let config =
        AdamWConfig { betas: (f("beta1"), f("beta2")), eps: f("eps"), weight_decay: f("weight_decay"), clip: 0.0 };
    let mut adam = AdamW::new(&e, &adapter, config).unwrap();
    let mut grads = adapter.zero_gradients(&e).unwrap();
    let total: usize = rows.iter().map(|(_, t)| t.iter().filter(|&&t| t).count()).sum();
    let mut ragged = Ragged::from_rows(&rows);
    ragged.examples = (0..rows.len() as u32).collect();
    let micros = match apart {
        false => vec![MicroBatch::new(&ragged)],
        true => (0..rows.len())
            .map(|i| {
                let mut one = Ragged::from_rows(&rows[i..i + 1]);
                one.examples = vec![i as u32];
                MicroBatch::new(&one)
            })
            .collect(),
    };
    let group = Group::plain(micros, 1.0 / total as f64);
    let mut worst = (0f64, 0f64, 0);
    for (step, want) in js["losses_steps"].as_array().unwrap().iter().enumerate() {
        let key = DropoutKey { seed: js["seed"].as_u64().unwrap(), step: step as u64 };
        let dropout = draws.then_some(key);
        let run = GroupRun { engine: &e, model: &m, adapter: Some(&adapter), keep, dropout };
        let r = e.run(|| group.run(&run, Some(&mut grads))).unwrap();
        let loss = r.rows.iter().map(|r| r.nll).sum::<f64>() / total as f64;
        let d = (loss - want.as_f64().unwrap()).abs();
        assert!(d <= within(&e, 5e-6), "{what}: loss before step {}: {d:e}", step + 1);
        if step == 0 {
            let ours = named(&adapter, &grads);
            assert_eq!(ours.len(), g.keys().filter(|k| k.starts_with("grad.")).count(), "{what}");
            for (name, _, grad) in ours {
                let want = &g[&format!("grad.{name}")].1;
                let d = max_diff(&grad, want);
                let largest = want.iter().fold(0f64, |m, v| m.max(v.abs()));
                let most = within(&e, 1e-5) * largest.max(1.0);
                assert!(d <= most && d <= 1e-4 * largest.max(1e-3), "{what}: {name}: {d:e} of {largest:e}");
                worst.0 = worst.0.max(d);
            }
        }
        e.run(|| adam.apply(&e, &mut adapter, &mut grads, f("lr"))).unwrap();
    }
    for (name, ours, _) in named(&adapter, &grads) {
        let (want, grad) = (&g[&format!("step3.{name}")].1, &g[&format!("grad.{name}")].1);
        for ((ours, want), grad) in ours.iter().zip(want).zip(grad) {
            // Adam's step is lr·g/(|g| + ε): next to zero the last bits of g decide it.
            if grad.abs() > 1e-5 {
                let d = (*ours as f64 - want).abs();
                assert!(d <= within(&e, 1e-5) * ratio.unwrap_or(1.0), "{what}: step 3, {name}: {d:e}");
                worst = (worst.0, worst.1.max(d), worst.2 + 1);
            }
        }
    }
    worst
}

#[test]
fn variants_follow_peft() {
    for dir in lora_variants() {
        let (mut grad, mut weight, mut compared) = (0f64, 0f64, 0);
        for form in [Form::Fused, Form::Portable] {
            for (keep, apart) in [(Keep::ALL, false), (Keep::INPUTS, false), (Keep::INPUTS, true)] {
                let (g, w, n) = check_variant(&dir, form, keep, apart);
                (grad, weight, compared) = (grad.max(g), weight.max(w), n);
            }
        }
        let name = dir.file_name().unwrap().to_string_lossy();
        println!("{name}: gradients within {grad:.1e}, {compared} weights after three steps within {weight:.1e}");
    }
}

/// PEFT's `loraplus_weight_decay` is for A and for B, each by its own rate: what `weight_decay` is here. Without gradients
/// a step is decay alone.
#[test]
fn loraplus_decays_b_by_its_own_rate() {
    let e = engine(Form::Fused, 128, 1);
    let m = Decoder::open(&e, &golden_dir().join("llama"), 64).unwrap();
    for (name, ratio) in [("loraplus", 4.0), ("dora", 4.0), ("loraplus", 1.0)] {
        let mut adapter =
            Adapter::load(&e, &m, &golden_dir().join("lora_variants").join(name).join("adapter")).unwrap();
        adapter.slots.iter_mut().for_each(|s| s.lr_factor = ratio as f32);
        let mut grads = adapter.zero_gradients(&e).unwrap();
        let before = named(&adapter, &grads);
        let config = AdamWConfig { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.1, clip: 0.0 };
        let mut adam = AdamW::new(&e, &adapter, config).unwrap();
        e.run(|| adam.apply(&e, &mut adapter, &mut grads, 0.01)).unwrap();
        for ((name, before, _), (_, after, _)) in before.iter().zip(named(&adapter, &grads)) {
            let rate = if name.contains("lora_A") { 0.01 } else { 0.01 * ratio };
            let kept = (1.0 - rate * 0.1) as f32;
            assert!(before.iter().any(|v| *v != 0.0), "{name}");
            assert!(before.iter().zip(&after).all(|(b, a)| b * kept == *a), "{name}");
        }
    }
}

#[test]
fn folders_of_peft_are_written_again_byte_for_byte() {
    for dir in lora_variants() {
        let js = json(&dir.join("golden.json"));
        let e = engine(Form::Fused, 128, 4);
        let m = Decoder::open(&e, &golden_dir().join(js["model"].as_str().unwrap()), 64).unwrap();
        let adapter = Adapter::load(&e, &m, &dir.join("adapter")).unwrap();
        let again = tempfile::tempdir().unwrap();
        adapter.save(again.path(), js["model"].as_str().unwrap()).unwrap();
        let read = |d: &Path| std::fs::read(d.join("adapter_model.safetensors")).unwrap();
        assert!(read(again.path()) == read(&dir.join("adapter")), "{}", dir.display());
        let config = |d: &Path| {
            let mut js = json(&d.join("adapter_config.json"));
            // A set in PEFT: in any order.
            js["target_modules"].as_array_mut().unwrap().sort_by_key(|v| v.to_string());
            js
        };
        assert_eq!(config(again.path()), config(&dir.join("adapter")), "{}", dir.display());
    }
}

#[test]
fn a_fresh_adapter_has_the_lengths_of_the_rows_and_changes_nothing() {
    for name in ["dora", "dora_bias"] {
        let dir = golden_dir().join("lora_variants").join(name);
        let (g, js) = (tensors(&dir.join("golden.safetensors")), json(&dir.join("golden.json")));
        let base = golden_dir().join(js["model"].as_str().unwrap());
        let rows = golden_rows(&tensors(&base.join("golden.safetensors")));
        for form in [Form::Fused, Form::Portable] {
            let e = engine(form, 128, 4);
            let m = Decoder::open(&e, &base, 64).unwrap();
            let lora = LoraConfig { r: 4, use_dora: true, ..Default::default() };
            let adapter = Adapter::fresh(&e, &m, &lora, 1).unwrap();
            for s in &adapter.slots {
                let magnitude = s.dora.as_ref().unwrap().magnitude.to_vec().unwrap();
                close(&s.module, &magnitude, &g[&format!("norm.{}", s.module)].1, 1e-6);
            }
            let score = |adapter: Option<&Adapter>| {
                let run = GroupRun { engine: &e, model: &m, adapter, keep: Keep::Nothing, dropout: None };
                let r = e.run(|| Group::plain(vec![micro(&rows)], 1.0).run(&run, None)).unwrap();
                r.rows.iter().map(|r| r.nll).sum::<f64>()
            };
            let (with, without) = (score(Some(&adapter)), score(None));
            assert!((with / without - 1.0).abs() < within(&e, 1e-6), "{form:?}: {with} {without}");
        }
    }
}

/// An adapter with random A, B and m on every linear but those of the first block, with noise.
fn noisy(e: &Engine, m: &Decoder, dropout: f64) -> Adapter {
    let lora = LoraConfig {
        r: 3,
        lora_alpha: 4.5,
        lora_dropout: dropout,
        use_dora: true,
        layers_to_transform: Some(Layers::new([1, 2])),
        rank_pattern: ModulePattern::parse("q_proj=5").unwrap(),
        ..Default::default()
    };
    let mut adapter = Adapter::fresh(e, m, &lora, 1).unwrap();
    for i in 0..adapter.slots.len() {
        let s = &adapter.slots[i];
        let (module, key) = (s.module.clone(), s.key);
        let b: Vec<f32> = random(s.out_features * s.r, key ^ 1).iter().map(|v| 0.3 * v).collect();
        let lengths = s.dora.as_ref().unwrap().magnitude.to_vec().unwrap();
        let magnitude: Vec<f32> =
            random(lengths.len(), key ^ 2).iter().zip(lengths).map(|(v, l)| l + 0.2 * v).collect();
        let a = s.a.to_vec().unwrap();
        adapter.set(&module, &a, &b).unwrap();
        adapter.set_magnitude(&module, &magnitude).unwrap();
    }
    adapter.neftune_noise_alpha = Some(5.0);
    adapter
}

fn flat(grads: &[SlotGrad]) -> Vec<Vec<f32>> {
    let of = |g: &SlotGrad| [&g.a, &g.b].into_iter().chain(&g.m).map(|b| b.to_vec().unwrap()).collect::<Vec<_>>();
    grads.iter().flat_map(of).collect()
}

#[test]
fn kept_or_made_again_together_or_apart() {
    let tiny = Tiny::odd("qwen3");
    let rows = random_rows(&[19, 8, 40, 5], 43);
    let together = group(&rows);
    for form in [Form::Fused, Form::Portable] {
        for p in [0.0, 0.3] {
            let e = engine(form, 128, 16);
            let m = tiny.open(&e);
            let a = noisy(&e, &m, p);
            let train = |group: &Group, keep: Keep, dropout: Option<DropoutKey>| {
                let mut grads = a.zero_gradients(&e).unwrap();
                let run = GroupRun { engine: &e, model: &m, adapter: Some(&a), keep, dropout };
                let r = e.run(|| group.run(&run, Some(&mut grads))).unwrap();
                (total_loss(group, &r), flat(&grads))
            };
            let kept = train(&together, Keep::ALL, Some(STEP));
            assert_eq!(kept, train(&together, Keep::INPUTS, Some(STEP)), "{form:?} {p}: the same bits");
            assert_eq!(kept, train(&together, Keep::Top(1), Some(STEP)), "{form:?} {p}: the same bits");
            let micros = (0..rows.len()).map(|i| {
                let mut ragged = Ragged::from_rows(std::slice::from_ref(&rows[i]));
                ragged.examples[0] = i as u32;
                MicroBatch::new(&ragged)
            });
            let mut apart = together.clone();
            apart.micros = micros.collect();
            let ours = train(&apart, Keep::INPUTS, Some(STEP));
            assert!((ours.0 / kept.0 - 1.0).abs() < 1e-6, "{form:?} {p}: {} {}", ours.0, kept.0);
            for (ours, want) in ours.1.iter().zip(&kept.1) {
                close(&format!("{form:?} {p}: rows apart"), ours, &wide(want), CLOSE);
            }
            // Noise is another at the next step, and none where nothing is trained.
            assert!(train(&together, Keep::ALL, Some(DropoutKey { step: 10, ..STEP })).0 != kept.0);
            let quiet = train(&together, Keep::ALL, None).0;
            let mut still = noisy(&e, &m, p);
            still.neftune_noise_alpha = None;
            let run = GroupRun { engine: &e, model: &m, adapter: Some(&still), keep: Keep::Nothing, dropout: None };
            let r = e.run(|| together.run(&run, None)).unwrap();
            assert_eq!(quiet, total_loss(&together, &r), "{form:?} {p}");
        }
    }
}

#[test]
fn the_pool_settles_with_magnitudes() {
    let tiny = Tiny::odd("llama");
    let rows = random_rows(&[19, 8, 40, 150], 43);
    let group = group(&rows);
    for (keep, p) in [(Keep::ALL, 0.0), (Keep::INPUTS, 0.3)] {
        let options = sftmix::internal::ops::EngineOptions {
            threads: Some(1),
            attention_tile: 32,
            loss_chunk: Some(16),
            ..Default::default()
        };
        let e = Engine::new(options).unwrap();
        let m = tiny.open(&e);
        let mut a = noisy(&e, &m, p);
        let config = AdamWConfig { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, clip: 1.0 };
        let mut adam = AdamW::new(&e, &a, config).unwrap();
        let mut grads = a.zero_gradients(&e).unwrap();
        let held: Vec<usize> = (0..5)
            .map(|step| {
                let dropout = Some(DropoutKey { seed: 1, step });
                let run = GroupRun { engine: &e, model: &m, adapter: Some(&a), keep, dropout };
                e.run(|| group.run(&run, Some(&mut grads))).unwrap();
                e.run(|| adam.apply(&e, &mut a, &mut grads, 1e-3)).unwrap();
                e.pool().held_bytes()
            })
            .collect();
        assert!(held.iter().all(|h| *h == held[0]), "{keep:?} dropout {p}: {held:?}");
    }
}

#[test]
fn noise_is_bounded_by_the_rows_length_and_the_rows_own() {
    let (lengths, width, alpha) = ([7u32, 130, 1, 333], 70, 5.0);
    let noise = |e: &Engine, layout: &Layout, key: DropoutKey| -> Vec<f32> {
        e.run(|| {
            let mut x = e.parameter(layout.tokens(), width, &vec![0.0; layout.tokens() * width])?;
            neftune(e, &mut x, width, alpha, key, layout)?;
            x.to_vec()
        })
        .unwrap()
    };
    let [fused, portable] = engines(128, 128);
    let all = noise(&fused, &layout(&lengths), STEP);
    assert_eq!(all, noise(&portable, &layout(&lengths), STEP), "both forms have one noise");
    let mut at = 0;
    for (i, &n) in lengths.iter().enumerate() {
        let part = &all[at * width..(at + n as usize) * width];
        let alone = noise(&fused, &Layout::new(vec![0, n], vec![i as u64]), STEP);
        assert!(alone == part, "row {i} alone");
        let size = alpha / (n as f64 * width as f64).sqrt();
        let largest = part.iter().fold(0f64, |m, v| m.max(v.abs() as f64));
        assert!(largest <= size * (1.0 + 1e-6) && largest > 0.9 * size, "row {i}: {largest} of {size}");
        let (count, mean) = (part.len() as f64, part.iter().map(|&v| v as f64).sum::<f64>() / part.len() as f64);
        assert!(mean.abs() < 4.0 * size / (3.0 * count).sqrt(), "row {i}: mean {mean:e}");
        let square = part.iter().map(|&v| (v as f64).powi(2)).sum::<f64>() / count;
        assert!((square / (size * size / 3.0) - 1.0).abs() < 5.0 / count.sqrt(), "row {i}: {square:e}");
        at += n as usize;
    }
    assert!(all != noise(&fused, &layout(&lengths), DropoutKey { step: 10, ..STEP }));
    assert!(all != noise(&fused, &layout(&lengths), DropoutKey { seed: 6, ..STEP }));
}

fn every_setting() -> LoraConfig {
    LoraConfig {
        r: 4,
        lora_alpha: 32.0,
        lora_dropout: 0.1,
        use_rslora: true,
        use_dora: true,
        target_modules: TargetModules::parse("q_proj,v_proj,down_proj"),
        layers_to_transform: Some(Layers::new([0, 1])),
        rank_pattern: ModulePattern::parse("layers.1.self_attn.q_proj=2,q_proj=8").unwrap(),
        alpha_pattern: ModulePattern::parse("v_proj=3").unwrap(),
    }
}

fn everything(out: &Path) -> TrainConfig {
    let assets = project("assets/demo");
    TrainConfig {
        model: assets.clone(),
        data: assets.join("train.jsonl").into(),
        out: out.to_path_buf(),
        recipe: Recipe::Ntp,
        max_length: 64,
        batch_size: 16,
        max_steps: Some(24),
        save_every: 1000,
        lora: Some(every_setting()),
        loraplus_lr_ratio: Some(4.0),
        neftune_noise_alpha: Some(5.0),
        lr: 1e-3,
        threads: Some(2),
        ..Default::default()
    }
}

#[test]
fn a_run_with_every_variant_resumes_to_the_same_bytes_and_starts_another() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = |run: &Path| {
        let read = |name: &str| std::fs::read(run.join("adapter").join(name)).unwrap();
        (read("adapter_model.safetensors"), read("adapter_config.json"))
    };
    let whole = dir.path().join("whole");
    let run = |config: TrainConfig| TrainingJob::new(config).unwrap().run(|_| Control::Continue).unwrap();
    let first = run(everything(&whole));
    for (name, recompute, stop_at) in [("early", sftmix::Recompute::On, 3), ("late", sftmix::Recompute::Off, 17)] {
        let out = dir.path().join(name);
        let job = TrainingJob::new(TrainConfig { recompute, ..everything(&out) }).unwrap();
        let ended = job.run(|e| match e {
            Event::Step(s) if s.global_step == stop_at => Control::Stop,
            _ => Control::Continue,
        });
        assert!(matches!(ended, Err(Error::Stopped { checkpoint: Some(_) })), "{ended:?}");
        let job = TrainingJob::resume(&out, &serde_json::Map::new()).unwrap();
        job.run(|_| Control::Continue).unwrap();
        assert!(adapter(&out) == adapter(&whole), "{name}");
    }
    // Each setting has its effect.
    let other = |name: &str, config: TrainConfig| {
        let out = dir.path().join(name);
        run(TrainConfig { out: out.clone(), ..config });
        assert!(adapter(&out).0 != adapter(&whole).0, "{name}");
    };
    let said = |lora: LoraConfig| Some(lora);
    other("lora", TrainConfig { lora: said(LoraConfig { use_dora: false, ..every_setting() }), ..everything(&whole) });
    other("quiet", TrainConfig { neftune_noise_alpha: None, ..everything(&whole) });
    other("one rate", TrainConfig { loraplus_lr_ratio: None, ..everything(&whole) });
    // The adapter is another run's beginning, and brings what it is.
    let next = TrainConfig {
        init_adapter: Some(first.adapter.clone()),
        max_steps: Some(2),
        lora: None,
        ..everything(&dir.path().join("next"))
    };
    let report = run(next.clone());
    let made = json(&report.adapter.join("adapter_config.json"));
    assert!(made["use_dora"].as_bool().unwrap() && made["lora_dropout"] == 0.1);
    // What is recorded is what was trained, not the defaults.
    for recorded in
        [&json(&report.run.join("run.json"))["config"], &json(&report.adapter.join("sftmix.json"))["recipe"]]
    {
        let read = |name: &str| recorded[name].clone();
        assert_eq!((read("lora_r"), read("use_rslora"), read("lora_dropout")), (4.into(), true.into(), 0.1.into()));
        assert_eq!(read("rank_pattern").to_string(), r#"{"layers.1.self_attn.q_proj":2,"q_proj":8}"#);
        assert_eq!(read("layers_to_transform").to_string(), "[0,1]");
    }
    let refused = |config: TrainConfig, word: &str| {
        let config = TrainConfig { out: dir.path().join("refused"), ..config };
        let e = TrainingJob::new(config).unwrap().run(|_| Control::Continue).unwrap_err().to_string();
        assert!(e.contains(word), "{e}");
    };
    // Also a value that is the default, and before anything is trained or planned.
    let default = TrainConfig { lora: said(LoraConfig { r: 16, ..every_setting() }), ..next.clone() };
    let differs = "lora_r: 16 is given, but the initial adapter has 4";
    assert!(sftmix::plan(&default).unwrap_err().to_string().contains(differs));
    refused(default, differs);
    let others = LoraConfig { target_modules: TargetModules::parse("v_proj"), ..every_setting() };
    let text = "target_modules: [\"v_proj\"] is given, but the initial adapter has [\"down_proj\",";
    refused(TrainConfig { lora: said(others), ..next.clone() }, text);
    let pattern = ModulePattern::parse("q_proj=3").unwrap();
    let others = LoraConfig { rank_pattern: pattern, ..every_setting() };
    refused(TrainConfig { lora: said(others), ..next.clone() }, "rank_pattern: {\"q_proj\":3} is given, but");
    // Dropout is the run's own.
    let other = LoraConfig { lora_dropout: 0.0, ..every_setting() };
    let report = run(TrainConfig { lora: said(other), out: dir.path().join("no dropout"), ..next });
    assert_eq!(json(&report.adapter.join("adapter_config.json"))["lora_dropout"], 0.0);
    let limited = TrainConfig { memory_limit: Some(1 << 30), ..everything(&whole) };
    let other = LoraConfig { target_modules: TargetModules::parse("v_proj"), ..every_setting() };
    refused(TrainConfig { lora: said(other), ..limited }, "\"layers.1.self_attn.q_proj\"");
}
