//! Goldens by transformers and PEFT in f64 (tests/golden/README.md): logits, losses, every gradient,
//! weights after AdamW steps, in both forms, with and without recompute, in several chunkings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sftmix::internal::data::tokens::Ragged;
use sftmix::internal::device::Form;
use sftmix::internal::family::DecoderConfig;
use sftmix::internal::model::Adapter;
use sftmix::internal::model::Decoder;
use sftmix::internal::ops::{head_loss, Engine, Layout};
use sftmix::internal::recipe::Halves;
use sftmix::internal::train::group::{Group, GroupResult, GroupRun, MicroBatch, PairSpec};
use sftmix::internal::train::optimizer::{AdamW, AdamWConfig};
use sftmix::Keep;

use crate::support::{engine, golden_rows, json, max_diff, project, shared, tensors, within};

type Rows = Vec<(Vec<u32>, Vec<bool>)>;
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

pub fn golden_dir() -> PathBuf {
    match std::env::var_os("SFTMIX_GOLDEN") {
        Some(dir) => dir.into(),
        None => project("tests/golden"),
    }
}

/// Every way the same numbers must come out.
fn variants() -> impl Iterator<Item = (Form, Keep, usize, usize)> {
    [Form::Fused, Form::Portable].into_iter().flat_map(|form| {
        [Keep::ALL, Keep::INPUTS].into_iter().flat_map(move |keep| {
            [1, 3, 128]
                .into_iter()
                .flat_map(move |chunk| [4, 128].into_iter().map(move |tile| (form, keep, chunk, tile)))
        })
    })
}

fn micro(rows: &[(Vec<u32>, Vec<bool>)]) -> MicroBatch {
    MicroBatch::new(&Ragged::from_rows(rows))
}

fn logits(e: &Engine, m: &Decoder, adapter: Option<&Adapter>, rows: &Rows) -> (Vec<f32>, Vec<f32>) {
    let ragged = Ragged::from_rows(rows);
    e.run(|| {
        let layout = Layout::new(ragged.offsets.clone(), vec![0; rows.len()]);
        let mut pass = m.forward(e, adapter, &ragged.ids, layout, Keep::Nothing, None)?;
        let h = m.states(e, &mut pass, (0..ragged.ids.len() as u32).collect())?;
        Ok((h.to_vec()?, head_loss::logits(e, m.head(), &h)?))
    })
    .unwrap()
}

/// The golden's values at real positions.
fn unpadded(g: &Tensors, name: &str, rows: &Rows) -> Vec<f64> {
    let (shape, v) = &g[name];
    let (width, c) = (shape[1], shape[2]);
    let parts = rows.iter().enumerate().map(|(r, (ids, _))| &v[r * width * c..(r * width + ids.len()) * c]);
    parts.flatten().copied().collect()
}

struct Weights {
    compared: usize,
    left_out: usize,
}

/// Adapter weights against `prefix.<PEFT name>`, where the golden gradient exceeds 1e-5.
fn compare_weights(e: &Engine, adapter: &Adapter, g: &Tensors, prefix: &str, what: &str) -> Weights {
    let mut out = Weights { compared: 0, left_out: 0 };
    for s in &adapter.slots {
        for (ab, buf) in [("A", &s.a), ("B", &s.b)] {
            let name = format!("base_model.model.{}.lora_{ab}.weight", s.module);
            let (want, grad) = (&g[&format!("{prefix}.{name}")].1, &g[&format!("grad.{name}")].1);
            for ((ours, want), grad) in buf.to_vec().unwrap().iter().zip(want).zip(grad) {
                if grad.abs() > 1e-5 {
                    let d = (*ours as f64 - want).abs();
                    assert!(d <= within(e, 1e-5), "{what}: {prefix} {name}: {d:e}");
                    out.compared += 1;
                } else {
                    out.left_out += 1;
                }
            }
        }
    }
    out
}

fn compare_gradients(
    e: &Engine,
    adapter: &Adapter,
    grads: &[sftmix::internal::ops::linear::SlotGrad],
    g: &Tensors,
    prefix: &str,
    what: &str,
) -> f64 {
    let mut worst = 0f64;
    for (s, grad) in adapter.slots.iter().zip(grads) {
        for (ab, buf) in [("A", &grad.a), ("B", &grad.b)] {
            let name = format!("{prefix}.base_model.model.{}.lora_{ab}.weight", s.module);
            let want = &g[&name].1;
            let d = max_diff(&buf.to_vec().unwrap(), want);
            let largest = want.iter().fold(0f64, |m, v| m.max(v.abs()));
            assert!(d <= within(e, 1e-5) && d <= 1e-4 * largest.max(1e-3), "{what}: {name}: {d:e} of {largest:e}");
            worst = worst.max(d);
        }
    }
    worst
}

fn check_family(dir: &Path, form: Form, keep: Keep, chunk: usize, tile: usize) -> (f64, f64, Weights) {
    let what = format!("{} {form:?} {keep:?} chunk {chunk} tile {tile}", dir.display());
    let (g, js) = (tensors(&dir.join("golden.safetensors")), json(&dir.join("golden.json")));
    let rows = golden_rows(&g);
    let e = engine(form, chunk, tile);
    let m = Decoder::open(&e, dir, 64).unwrap();
    let (hidden, base) = logits(&e, &m, None, &rows);
    let d = max_diff(&hidden, &unpadded(&g, "base.hidden", &rows))
        .max(max_diff(&base, &unpadded(&g, "base.logits", &rows)));
    assert!(d <= within(&e, 2e-5), "{what}: base logits {d:e}");
    let mut adapter = Adapter::load(&e, &m, &dir.join("adapter")).unwrap();
    let lora = max_diff(&logits(&e, &m, Some(&adapter), &rows).1, &unpadded(&g, "lora.logits", &rows));
    assert!(lora <= within(&e, 2e-5), "{what}: lora logits {lora:e}");

    let opt = &js["adamw"];
    let f = |k: &str| opt[k].as_f64().unwrap();
    let config =
        AdamWConfig { betas: (f("beta1"), f("beta2")), eps: f("eps"), weight_decay: f("weight_decay"), clip: 0.0 };
    let mut adam = AdamW::new(&e, &adapter, config).unwrap();
    let mut grads = adapter.zero_gradients(&e).unwrap();
    let total: usize = rows.iter().map(|(_, t)| t.iter().filter(|&&t| t).count()).sum();
    let (mut worst, mut weights) = (0.0, Weights { compared: 0, left_out: 0 });
    for (step, want) in js["losses_steps"].as_array().unwrap().iter().enumerate() {
        // Rows together, then each in a group of its own: the weights of the loss are the step's.
        let groups = if step == 1 {
            rows.iter().map(|r| Group::plain(vec![micro(std::slice::from_ref(r))], 1.0 / total as f64)).collect()
        } else {
            vec![Group::plain(vec![micro(&rows)], 1.0 / total as f64)]
        };
        let run = GroupRun { engine: &e, model: &m, adapter: Some(&adapter), keep, dropout: None };
        let mut loss = 0.0;
        for group in &groups {
            let r = e.run(|| group.run(&run, Some(&mut grads))).unwrap();
            loss += r.rows.iter().map(|r| r.nll).sum::<f64>() / total as f64;
        }
        let d = (loss - want.as_f64().unwrap()).abs();
        assert!(d <= within(&e, 5e-6), "{what}: loss before step {}: {d:e}", step + 1);
        if step == 0 {
            worst = compare_gradients(&e, &adapter, &grads, &g, "grad", &what);
        }
        e.run(|| adam.apply(&e, &mut adapter, &mut grads, f("lr"))).unwrap();
        if step == 0 || step == 2 {
            weights = compare_weights(&e, &adapter, &g, &format!("step{}", step + 1), &what);
        }
    }
    (lora, worst, weights)
}

#[test]
fn golden() {
    let dir = golden_dir();
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&dir).unwrap().map(|d| d.unwrap().path()).collect();
    folders.retain(|d| d.join("config.json").exists() && d.join("golden.safetensors").exists());
    folders.sort();
    assert!(!folders.is_empty(), "no goldens in {}", dir.display());
    let mut families = BTreeSet::new();
    for dir in folders {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        families.insert(json(&dir.join("config.json"))["model_type"].as_str().unwrap().to_string());
        let (mut logits, mut grad, mut out, mut n) = (0f64, 0f64, Weights { compared: 0, left_out: 0 }, 0);
        for (form, keep, chunk, tile) in variants() {
            let (l, g, w) = check_family(&dir, form, keep, chunk, tile);
            (logits, grad, out, n) = (logits.max(l), grad.max(g), w, n + 1);
        }
        println!(
            "{name}: {n} variants, logits within {logits:.1e}, gradients within {grad:.1e}, {} weights compared, {} left out (gradient next to zero)",
            out.compared, out.left_out
        );
    }
    // A family without a golden is a family that nobody has checked.
    let supported: BTreeSet<String> = DecoderConfig::families().map(String::from).collect();
    assert!(std::env::var_os("SFTMIX_GOLDEN").is_some() || families == supported, "{families:?} {supported:?}");
}

/// Dynamic scaling is none up to the length that the model was made for; longer rows have frequencies of their own, which
/// the decoder refuses before it runs any.
#[test]
fn dynamic_rotation_ends_where_its_frequencies_change() {
    let (from, dir) = (golden_dir().join("llama"), tempfile::tempdir().unwrap());
    std::fs::copy(from.join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    let mut config = json(&from.join("config.json"));
    config["max_position_embeddings"] = 14.into();
    config["rope_parameters"] = serde_json::Value::Null;
    config["rope_scaling"] = serde_json::json!({ "type": "dynamic", "factor": 4.0 });
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let rows = golden_rows(&tensors(&from.join("golden.safetensors")));
    let refused = |e: &sftmix::Error| matches!(e, sftmix::Error::InvalidConfig { field, .. } if field == "max_length");
    for form in [Form::Fused, Form::Portable] {
        let e = engine(form, 128, 128);
        let mut m = Decoder::open(&e, dir.path(), 14).unwrap();
        let plain = Decoder::open(&e, &from, 14).unwrap();
        assert!(logits(&e, &m, None, &rows) == logits(&e, &plain, None, &rows), "{form:?}: other logits");
        assert!(m.grow(&e, 15).as_ref().is_err_and(refused), "{form:?}: rows of 15 tokens");
        assert!(Decoder::open(&e, dir.path(), 15).as_ref().is_err_and(refused), "{form:?}: opened for 15 tokens");
    }
}

/// The model of golden/sftmix with the weights of a stand-in checkpoint.
fn checkpoint(e: &Engine, m: &Decoder, dir: &Path, g: &Tensors, c: usize) -> Adapter {
    let mut a = Adapter::load(e, m, &dir.join("llama/adapter")).unwrap();
    for i in 0..a.slots.len() {
        let module = a.slots[i].module.clone();
        let get = |ab: &str| -> Vec<f32> {
            let name = format!("ckpt{c}.base_model.model.{module}.lora_{ab}.weight");
            g[&name].1.iter().map(|&v| v as f32).collect()
        };
        a.set(&module, &get("A"), &get("B")).unwrap();
    }
    a
}

fn sftmix_setup(form: Form, chunk: usize) -> (PathBuf, Tensors, serde_json::Value, Engine, Decoder) {
    let dir = golden_dir();
    let g = tensors(&dir.join("sftmix/golden.safetensors"));
    let js = json(&dir.join("sftmix/golden.json"));
    let e = engine(form, chunk, 4);
    let m = Decoder::open(&e, &dir.join("llama"), 64).unwrap();
    (dir, g, js, e, m)
}

fn floats(v: &serde_json::Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn indices(v: &serde_json::Value) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

#[test]
fn golden_sftmix_perplexities_and_split() {
    let (dir, g, js, e, m) = sftmix_setup(Form::Fused, 3);
    let rows = golden_rows(&g);
    let mut mean = vec![0.0; rows.len()];
    for (c, want) in js["perplexity"].as_array().unwrap().iter().enumerate() {
        let adapter = checkpoint(&e, &m, &dir, &g, c);
        let run = GroupRun { engine: &e, model: &m, adapter: Some(&adapter), keep: Keep::Nothing, dropout: None };
        let r = e.run(|| Group::plain(vec![micro(&rows)], 1.0).run(&run, None)).unwrap();
        for (i, (row, want)) in r.rows.iter().zip(floats(want)).enumerate() {
            let nll = row.nll / row.tokens as f64;
            assert!((nll - libm::log(want)).abs() <= 5e-6, "checkpoint {c} example {i}: {nll}");
            mean[i] += libm::exp(nll) / 3.0;
        }
    }
    for (ours, want) in mean.iter().zip(floats(&js["mean_perplexity"])) {
        assert!((ours / want - 1.0).abs() <= 1e-5);
    }
    let confidence: Vec<f32> = mean.iter().map(|m| -*m as f32).collect();
    let halves = Halves::split(&confidence).unwrap();
    assert_eq!(halves.confident(), indices(&js["confident"]));
    assert_eq!(halves.unconfident(), indices(&js["unconfident"]));
    assert!(halves.neither().is_empty());
    let odd = &js["odd_split"];
    let halves = Halves::split(&confidence[..7]).unwrap();
    assert_eq!(halves.confident(), indices(&odd["confident"]));
    assert_eq!(halves.unconfident(), indices(&odd["unconfident"]));
    assert_eq!(halves.neither(), indices(&odd["neither"]));
}

/// The golden mini-batch with these λ, as one micro-batch or with each row in its own.
fn mixed_group(rows: &Rows, pairs: &[(usize, usize)], lambda: &[f64], reduction: &str, apart: bool) -> Group {
    let count = |r: usize| rows[r].1.iter().filter(|&&t| t).count();
    let m: Vec<usize> = pairs.iter().map(|&(c, u)| count(c).min(count(u))).collect();
    let total: usize = m.iter().sum();
    let specs = pairs.iter().zip(lambda).zip(&m).map(|((&(confident, unconfident), &lambda), &m)| PairSpec {
        confident,
        unconfident,
        lambda,
        norm: if reduction == "token" { 1.0 / total as f64 } else { 1.0 / (pairs.len() * m) as f64 },
    });
    let a = 1.0 / (0..rows.len()).map(count).sum::<usize>() as f64;
    let micros = if apart { rows.iter().map(|r| micro(std::slice::from_ref(r))).collect() } else { vec![micro(rows)] };
    Group { micros, pairs: specs.collect(), a, mu: 0.2 }
}

fn losses(group: &Group, r: &GroupResult) -> (f64, f64) {
    (r.rows.iter().map(|r| r.nll).sum::<f64>() * group.a, r.mixup)
}

#[test]
fn golden_sftmix_losses_and_gradients() {
    for form in [Form::Fused, Form::Portable] {
        for (keep, chunk, apart) in
            [(Keep::ALL, 1, false), (Keep::INPUTS, 3, false), (Keep::ALL, 128, true), (Keep::INPUTS, 128, true)]
        {
            let (dir, g, js, e, m) = sftmix_setup(form, chunk);
            let adapter = checkpoint(&e, &m, &dir, &g, 0);
            let all = golden_rows(&g);
            let rows: Rows = indices(&js["batch"]).iter().map(|&i| all[i as usize].clone()).collect();
            let pairs: Vec<(usize, usize)> = js["pairs"]
                .as_array()
                .unwrap()
                .iter()
                .map(|p| (p[0].as_u64().unwrap() as usize, p[1].as_u64().unwrap() as usize))
                .collect();
            for (k, case) in js["cases"].as_array().unwrap().iter().enumerate() {
                let what = format!("case {k} {form:?} {keep:?} chunk {chunk} apart {apart}");
                let group =
                    mixed_group(&rows, &pairs, &floats(&case["lambda_"]), case["reduction"].as_str().unwrap(), apart);
                let run = GroupRun { engine: &e, model: &m, adapter: Some(&adapter), keep, dropout: None };
                let mut grads = adapter.zero_gradients(&e).unwrap();
                let r = e.run(|| group.run(&run, Some(&mut grads))).unwrap();
                let (ntp, mix) = losses(&group, &r);
                for (ours, name) in [(ntp, "ntp"), (mix, "mixup"), (ntp + 0.2 * mix, "loss")] {
                    let d = (ours - case[name].as_f64().unwrap()).abs();
                    assert!(d <= 5e-6, "{what}: {name} {d:e}");
                }
                assert_eq!(
                    r.pair_tokens,
                    indices(&case["pair_counts"]).iter().map(|&n| n as usize).collect::<Vec<_>>()
                );
                compare_gradients(&e, &adapter, &grads, &g, &format!("case{k}.grad"), &what);
            }
        }
    }
}

#[test]
fn mixing_a_row_with_itself_or_with_share_one_is_the_plain_loss() {
    let (dir, g, _, e, m) = sftmix_setup(Form::Fused, 128);
    let adapter = checkpoint(&e, &m, &dir, &g, 0);
    let all = golden_rows(&g);
    let run = GroupRun { engine: &e, model: &m, adapter: Some(&adapter), keep: Keep::ALL, dropout: None };
    let rows = vec![all[0].clone(), all[0].clone()];
    for lambda in [0.0, 0.4, 1.0] {
        let group = mixed_group(&rows, &[(0, 1)], &[lambda], "token", false);
        let r = e.run(|| group.run(&run, None)).unwrap();
        let (ntp, mix) = losses(&group, &r);
        assert!((ntp - mix).abs() <= 1e-6, "λ {lambda}: {ntp} {mix}");
    }
    // λ ∈ {0, 1}: the loss of that member over the first m tokens; with equal lengths, of the whole row.
    let rows = vec![all[0].clone(), all[3].clone()];
    let count = |r: &(Vec<u32>, Vec<bool>)| r.1.iter().filter(|&&t| t).count();
    let shortest = count(&rows[0]).min(count(&rows[1]));
    for (lambda, member) in [(1.0, 0), (0.0, 1)] {
        let group = mixed_group(&rows, &[(0, 1)], &[lambda], "token", false);
        let mix = e.run(|| group.run(&run, None)).unwrap().mixup;
        let (ids, trained) = &rows[member];
        let mut left = shortest;
        let keep = |&t: &bool| {
            let kept = t && left > 0;
            left -= kept as usize;
            kept
        };
        let kept: Vec<bool> = trained.iter().map(keep).collect();
        let plain = Group::plain(vec![micro(&[(ids.clone(), kept)])], 1.0 / shortest as f64);
        let want = e.run(|| plain.run(&run, None)).unwrap().rows[0].nll / shortest as f64;
        assert!((mix - want).abs() <= 1e-6, "λ {lambda}: {mix} {want}");
    }
}

#[test]
fn any_split_into_micro_batches_gives_the_same_gradients() {
    let (dir, g, _, e, m) = sftmix_setup(Form::Fused, 128);
    let adapter = checkpoint(&e, &m, &dir, &g, 0);
    let rows = golden_rows(&g);
    let pairs = [(0, 4), (1, 5), (2, 6), (3, 7)];
    let lambda = [0.2, 0.9, 0.5, 0.7];
    let whole = mixed_group(&rows, &pairs, &lambda, "token", false);
    let apart = mixed_group(&rows, &pairs, &lambda, "token", true);
    // Each pair a group of its own, its two rows one after the other, with the weights of the whole step.
    let single: Vec<Group> = pairs
        .iter()
        .zip(&whole.pairs)
        .map(|(&(c, u), p)| Group {
            micros: vec![micro(&rows[c..c + 1]), micro(&rows[u..u + 1])],
            pairs: vec![PairSpec { confident: 0, unconfident: 1, ..*p }],
            ..whole
        })
        .collect();
    let gradients = |groups: &[Group]| -> Vec<Vec<f32>> {
        let mut grads = adapter.zero_gradients(&e).unwrap();
        let run = GroupRun { engine: &e, model: &m, adapter: Some(&adapter), keep: Keep::ALL, dropout: None };
        for group in groups {
            e.run(|| group.run(&run, Some(&mut grads))).unwrap();
        }
        grads.iter().flat_map(|g| [g.a.to_vec().unwrap(), g.b.to_vec().unwrap()]).collect()
    };
    let want = gradients(std::slice::from_ref(&whole));
    for (name, groups) in [("rows apart", vec![apart]), ("pairs apart", single)] {
        for (ours, want) in gradients(&groups).iter().zip(&want) {
            let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
            let d = norm(&mut ours.iter().zip(want).map(|(a, b)| *a as f64 - *b as f64));
            let size = norm(&mut want.iter().map(|v| *v as f64));
            assert!(d <= 1e-6 * size, "{name}: {d:e} of {size:e}");
        }
    }
}

#[test]
fn stories260k_logits_and_nll() {
    let Some(dir) = shared("models/stories260K") else { return };
    let js = json(&dir.join("golden.json"));
    let ids = indices(&js["ids"]);
    for form in [Form::Fused, Form::Portable] {
        let e = engine(form, 128, 128);
        let m = Decoder::open(&e, &dir, 512).unwrap();
        let rows = vec![(ids.clone(), vec![true; ids.len()])];
        let (_, all) = logits(&e, &m, None, &rows);
        let v = m.config.vocab_size;
        let last = &all[(ids.len() - 1) * v..];
        let d = max_diff(last, &floats(&js["last_logits"]));
        assert!(d <= within(&e, 2e-5), "{form:?}: last logits {d:e}");
        let run = GroupRun { engine: &e, model: &m, adapter: None, keep: Keep::Nothing, dropout: None };
        let r = e.run(|| Group::plain(vec![micro(&rows)], 1.0).run(&run, None)).unwrap();
        let mean = r.rows[0].nll / r.rows[0].tokens as f64;
        assert!((mean - js["mean_nll"].as_f64().unwrap()).abs() <= within(&e, 5e-6), "{form:?}: {mean}");
    }
}

#[test]
fn stories260k_trajectory() {
    let Some(dir) = shared("models/stories260K") else { return };
    let js = json(&dir.join("golden_lora/trajectory.json"));
    let init = tensors(&dir.join("golden_lora/adapter_init.safetensors"));
    let step2 = tensors(&dir.join("golden_lora/grads_step2.safetensors"));
    let rows: Rows = js["batch"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| {
            let ids = indices(&b["ids"]);
            let prompt = b["prompt_len"].as_u64().unwrap() as usize;
            let trained = (0..ids.len()).map(|i| i >= prompt).collect();
            (ids, trained)
        })
        .collect();
    let total = js["loss_tokens"].as_f64().unwrap();
    for (form, keep, per_group) in
        [(Form::Fused, Keep::ALL, 4), (Form::Fused, Keep::INPUTS, 1), (Form::Portable, Keep::ALL, 2)]
    {
        let e = engine(form, 128, 128);
        let m = Decoder::open(&e, &dir, 64).unwrap();
        let mut adapter = Adapter::load(&e, &m, &dir.join("golden_lora")).unwrap();
        for i in 0..adapter.slots.len() {
            let module = adapter.slots[i].module.clone();
            let get = |ab: &str| -> Vec<f32> {
                init[&format!("base_model.model.{module}.lora_{ab}.weight")].1.iter().map(|&v| v as f32).collect()
            };
            adapter.set(&module, &get("A"), &get("B")).unwrap();
        }
        let config = AdamWConfig { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, clip: 0.0 };
        let mut adam = AdamW::new(&e, &adapter, config).unwrap();
        let mut grads = adapter.zero_gradients(&e).unwrap();
        let loss_of = |adapter: &Adapter, grads: Option<&mut Vec<sftmix::internal::ops::linear::SlotGrad>>| -> f64 {
            let run = GroupRun { engine: &e, model: &m, adapter: Some(adapter), keep, dropout: None };
            let mut grads = grads;
            let mut sum = 0.0;
            for part in rows.chunks(per_group) {
                let group = Group::plain(vec![micro(part)], 1.0 / total);
                let r = e.run(|| group.run(&run, grads.as_mut().map(|g| &mut g[..]))).unwrap();
                sum += r.rows.iter().map(|r| r.nll).sum::<f64>();
            }
            sum / total
        };
        for (i, step) in js["steps"].as_array().unwrap().iter().enumerate() {
            let loss = loss_of(&adapter, Some(&mut grads));
            let d = (loss - step["loss"].as_f64().unwrap()).abs();
            assert!(d <= within(&e, 1e-5), "{form:?} {keep:?}: loss of step {}: {d:e}", i + 1);
            if i == 1 {
                for (s, g) in adapter.slots.iter().zip(&grads) {
                    for (ab, buf) in [("A", &g.a), ("B", &g.b)] {
                        let want = &step2[&format!("base_model.model.{}.lora_{ab}.weight", s.module)].1;
                        let d = max_diff(&buf.to_vec().unwrap(), want);
                        assert!(d <= within(&e, 1e-5), "{form:?}: gradient of {} {ab}: {d:e}", s.module);
                    }
                }
            }
            let norm = e.run(|| adam.apply(&e, &mut adapter, &mut grads, 0.005)).unwrap();
            assert!((norm / step["grad_norm"].as_f64().unwrap() - 1.0).abs() < 1e-4, "gradient norm {norm}");
        }
        let d = (loss_of(&adapter, None) - js["final_loss"].as_f64().unwrap()).abs();
        assert!(d <= within(&e, 1e-5), "{form:?}: final loss {d:e}");
    }
}
