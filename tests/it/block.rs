//! Whole models: LoRA gradients of tiny random models against candle's autograd in f64 on a decoder
//! written here from differentiable tensor operations; which slots the backward pass reaches; which bits
//! stay the same; what the pool holds.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor, Var};
use sftmix::internal::data::tokens::Ragged;
use sftmix::internal::device::Form;
use sftmix::internal::family::DecoderConfig;
use sftmix::internal::family::QkNorm;
use sftmix::internal::model::Adapter;
use sftmix::internal::model::Decoder;
use sftmix::internal::ops::attention::Shape;
use sftmix::internal::ops::elementwise::DropoutKey;
use sftmix::internal::ops::linear::SlotGrad;
use sftmix::internal::ops::{Engine, EngineOptions, Layout, Phase};
use sftmix::internal::train::group::{Group, GroupResult, GroupRun, MicroBatch, PairSpec};
use sftmix::internal::train::optimizer::{AdamW, AdamWConfig};
use sftmix::Keep;
use sftmix::{LoraConfig, TargetModules};

use crate::golden::golden_dir;
use crate::ops::{
    close, composite_attention, composite_norm, composite_rope, numbers, random, tensor, var, wide, CLOSE,
};
use crate::support::{engine, json};

pub type Rows = Vec<(Vec<u32>, Vec<bool>)>;
type Masks = BTreeMap<String, Tensor>;

/// A random model in a folder.
pub struct Tiny {
    pub dir: tempfile::TempDir,
    config: DecoderConfig,
    weights: BTreeMap<String, Tensor>,
}

impl Tiny {
    /// A model of this family with the golden's `config.json` but for `edits`.
    pub fn new(family: &str, edits: &[(&str, usize)]) -> Tiny {
        let mut js = json(&golden_dir().join(family).join("config.json"));
        for (key, v) in edits {
            js[*key] = (*v).into();
        }
        js["max_position_embeddings"] = 1024.into();
        if let Some(kinds) = js["layer_types"].as_array().cloned() {
            js["layer_types"] = vec![kinds[0].clone(); js["num_hidden_layers"].as_u64().unwrap() as usize].into();
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), js.to_string()).unwrap();
        let c = DecoderConfig::from_dir(dir.path()).unwrap();
        let mut weights = BTreeMap::new();
        let mut seed = 1000;
        let mut put = |name: String, rows: usize, cols: usize| {
            seed += 1;
            let v = random(rows * cols, seed);
            let norm = name.contains("norm");
            let v: Vec<f32> = v.iter().map(|v| if norm { 1.0 + 0.2 * v } else { v / (cols as f32).sqrt() }).collect();
            let t = Tensor::from_vec(v, (rows, cols), &Device::Cpu).unwrap();
            weights.insert(name, if rows == 1 { t.flatten_all().unwrap() } else { t });
        };
        let (h, f, d) = (c.hidden_size, c.intermediate_size, c.head_dim);
        put("model.embed_tokens.weight".into(), c.vocab_size, h);
        put("model.norm.weight".into(), 1, h);
        if !c.tie_word_embeddings {
            put("lm_head.weight".into(), c.vocab_size, h);
        }
        for l in 0..c.num_layers {
            let (q, kv) = (c.num_heads * d, c.num_kv_heads * d);
            for (name, out, inp, bias) in [
                ("self_attn.q_proj", q, h, c.qkv_bias),
                ("self_attn.k_proj", kv, h, c.qkv_bias),
                ("self_attn.v_proj", kv, h, c.qkv_bias),
                ("self_attn.o_proj", h, q, c.o_bias),
                ("mlp.gate_proj", f, h, c.mlp_bias),
                ("mlp.up_proj", f, h, c.mlp_bias),
                ("mlp.down_proj", h, f, c.mlp_bias),
            ] {
                put(format!("model.layers.{l}.{name}.weight"), out, inp);
                if bias {
                    put(format!("model.layers.{l}.{name}.bias"), 1, out);
                }
            }
            put(format!("model.layers.{l}.input_layernorm.weight"), 1, h);
            put(format!("model.layers.{l}.post_attention_layernorm.weight"), 1, h);
            if c.qk_norm != QkNorm::None {
                put(format!("model.layers.{l}.self_attn.q_norm.weight"), 1, d);
                put(format!("model.layers.{l}.self_attn.k_norm.weight"), 1, d);
            }
        }
        let file: HashMap<String, Tensor> = weights.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        candle_core::safetensors::save(&file, dir.path().join("model.safetensors")).unwrap();
        Tiny { dir, config: c, weights }
    }

    /// Three blocks of sizes that are no multiples of 16, grouped heads.
    pub fn odd(family: &str) -> Tiny {
        Tiny::new(
            family,
            &[
                ("hidden_size", 20),
                ("intermediate_size", 37),
                ("num_hidden_layers", 3),
                ("num_attention_heads", 4),
                ("num_key_value_heads", 2),
                ("head_dim", 6),
                ("vocab_size", 43),
            ],
        )
    }

    pub fn open(&self, e: &Engine) -> Decoder {
        Decoder::open(e, self.dir.path(), 512).unwrap()
    }

    fn weight(&self, name: &str) -> Tensor {
        self.weights[name].to_dtype(DType::F64).unwrap()
    }

    /// Logits `[N,V]` with the adapter's A and B, from tensor operations that have gradients.
    fn logits(&self, ids: &[u32], layout: &Layout, lora: &Lora, masks: &Masks) -> candle_core::Result<Tensor> {
        let c = &self.config;
        let inv_freq = c.ropes[0].frequencies().short;
        let eps = c.rms_norm_eps;
        let embed = self.weight("model.embed_tokens.weight");
        let mut x = embed.index_select(&Tensor::from_slice(ids, ids.len(), &Device::Cpu)?, 0)?;
        for l in 0..c.num_layers {
            let name = |n: &str| format!("model.layers.{l}.{n}");
            let norm = |x: &Tensor, n: &str| composite_norm(x, &self.weight(&name(&format!("{n}.weight"))), eps);
            let linear = |x: &Tensor, n: &str| -> candle_core::Result<Tensor> {
                let module = name(n);
                let mut y = x.matmul(&self.weight(&format!("{module}.weight")).t()?)?;
                if self.weights.contains_key(&format!("{module}.bias")) {
                    y = y.broadcast_add(&self.weight(&format!("{module}.bias")))?;
                }
                let Some((a, b)) = lora.vars.get(&module) else { return Ok(y) };
                let x = match masks.get(&module) {
                    Some(mask) => (x * mask)?,
                    None => x.clone(),
                };
                y + (x.matmul(&a.t()?)?.matmul(&b.t()?)? * lora.scale)?
            };
            let n1 = norm(&x, "input_layernorm")?;
            let (mut q, mut k) = (linear(&n1, "self_attn.q_proj")?, linear(&n1, "self_attn.k_proj")?);
            let v = linear(&n1, "self_attn.v_proj")?;
            if c.qk_norm != QkNorm::None {
                let heads = |x: &Tensor, n: &str| -> candle_core::Result<Tensor> {
                    let rows = x.reshape((x.elem_count() / c.head_dim, c.head_dim))?;
                    norm(&rows, n)?.reshape(x.shape())
                };
                (q, k) = (heads(&q, "self_attn.q_norm")?, heads(&k, "self_attn.k_norm")?);
            }
            q = composite_rope(&q, c.num_heads, &inv_freq, layout.positions())?;
            k = composite_rope(&k, c.num_kv_heads, &inv_freq, layout.positions())?;
            let s = Shape {
                heads: c.num_heads,
                kv_heads: c.num_kv_heads,
                head_dim: c.head_dim,
                scale: (1.0 / (c.head_dim as f64).sqrt()) as f32,
                softcap: None,
                window: c.layers[l].window,
                tile: 1,
            };
            let (o, _) = composite_attention(s, layout, &q, &k, &v);
            x = (x + linear(&o, "self_attn.o_proj")?)?;
            let n2 = norm(&x, "post_attention_layernorm")?;
            let (gate, up) = (linear(&n2, "mlp.gate_proj")?, linear(&n2, "mlp.up_proj")?);
            let silu = (&gate * (gate.neg()?.exp()? + 1.0)?.recip()?)?;
            x = (x + linear(&(silu * up)?, "mlp.down_proj")?)?;
        }
        let head = if c.tie_word_embeddings { embed } else { self.weight("lm_head.weight") };
        composite_norm(&x, &self.weight("model.norm.weight"), eps)?.matmul(&head.t()?)
    }
}

/// A and B of each slot as variables.
struct Lora {
    scale: f64,
    vars: BTreeMap<String, (Var, Var)>,
}

impl Lora {
    fn of(adapter: &Adapter) -> Lora {
        let vars = adapter.slots.iter().map(|s| {
            let (a, b) = (s.a.to_vec().unwrap(), s.b.to_vec().unwrap());
            (s.module.clone(), (var(&a, (s.r, s.in_features)), var(&b, (s.out_features, s.r))))
        });
        Lora { scale: adapter.slots[0].scale as f64, vars: vars.collect() }
    }
}

/// Random rows of these lengths; from the third token on they are supervised, with gaps.
pub fn random_rows(lengths: &[usize], vocab: usize) -> Rows {
    let key = sftmix::internal::rng::Key::new(3, sftmix::internal::rng::Stream::Bench, &[lengths.len() as u64]);
    let row = |(i, &n): (usize, &usize)| {
        let ids = (0..n).map(|t| key.below((i * 1000 + t) as u64, vocab as u64) as u32).collect();
        (ids, (0..n).map(|t| t >= 2 && t % 7 != 4 || t + 1 == n).collect())
    };
    lengths.iter().enumerate().map(row).collect()
}

pub fn micro(rows: &[(Vec<u32>, Vec<bool>)]) -> MicroBatch {
    MicroBatch::new(&Ragged::from_rows(rows))
}

fn supervised(row: &(Vec<u32>, Vec<bool>)) -> Vec<(usize, u32)> {
    (1..row.0.len()).filter(|&t| row.1[t]).map(|t| (t - 1, row.0[t])).collect()
}

/// The rows as one micro-batch; the first and the second are mixed.
pub fn group(rows: &Rows) -> Group {
    let counts: Vec<usize> = rows.iter().map(|r| supervised(r).len()).collect();
    let norm = 1.0 / counts[0].min(counts[1]).max(1) as f64;
    Group {
        micros: vec![micro(rows)],
        pairs: vec![PairSpec { confident: 0, unconfident: 1, lambda: 0.3, norm }],
        a: 1.0 / counts.iter().sum::<usize>() as f64,
        mu: 0.2,
    }
}

/// The group's loss from the logits of its rows.
fn composite_loss(rows: &Rows, group: &Group, layout: &Layout, logits: &Tensor) -> candle_core::Result<Tensor> {
    let nll = |x: &Tensor, target: u32| -> candle_core::Result<Tensor> {
        candle_nn::ops::log_softmax(x, 1)?.narrow(1, target as usize, 1)?.neg()
    };
    let at = |row: usize, t: usize| logits.narrow(0, layout.offsets()[row] as usize + t, 1);
    let mut total = Tensor::zeros((1, 1), DType::F64, &Device::Cpu)?;
    for (i, row) in rows.iter().enumerate() {
        for (t, target) in supervised(row) {
            total = (total + (nll(&at(i, t)?, target)? * group.a)?)?;
        }
    }
    for p in &group.pairs {
        let (c, u) = (supervised(&rows[p.confident]), supervised(&rows[p.unconfident]));
        for (&(tc, yc), &(tu, yu)) in c.iter().zip(&u) {
            // The group hands λ and μ·norm on in f32.
            let (l, b) = (p.lambda as f32 as f64, (group.mu * p.norm) as f32 as f64);
            let x = ((at(p.confident, tc)? * l)? + (at(p.unconfident, tu)? * (1.0 - l))?)?;
            let loss = ((nll(&x, yc)? * l)? + (nll(&x, yu)? * (1.0 - l))?)?;
            total = (total + (loss * b)?)?;
        }
    }
    Ok(total)
}

/// The loss and the gradient of each slot's A and B by autograd.
fn autograd(tiny: &Tiny, adapter: &Adapter, rows: &Rows, masks: &Masks) -> (f64, Vec<Vec<f64>>) {
    let lora = Lora::of(adapter);
    let ragged = Ragged::from_rows(rows);
    let layout = Layout::new(ragged.offsets.clone(), vec![0; rows.len()]);
    let logits = tiny.logits(&ragged.ids, &layout, &lora, masks).unwrap();
    let loss = composite_loss(rows, &group(rows), &layout, &logits).unwrap();
    let store = loss.backward().unwrap();
    let slots = adapter.slots.iter().flat_map(|s| {
        let (a, b) = &lora.vars[&s.module];
        [numbers(store.get(a).unwrap()), numbers(store.get(b).unwrap())]
    });
    (numbers(&loss)[0], slots.collect())
}

/// An adapter of rank 3 with random A and B on these modules (all when empty), the same numbers for the
/// same module.
pub fn adapter(e: &Engine, m: &Decoder, names: &[&str], dropout: f64) -> Adapter {
    let target_modules = match names {
        [] => TargetModules::AllLinear,
        names => TargetModules::Names(names.iter().map(|n| n.to_string()).collect()),
    };
    let config = LoraConfig { r: 3, lora_alpha: 4.5, lora_dropout: dropout, target_modules, ..Default::default() };
    let mut adapter = Adapter::fresh(e, m, &config, 1).unwrap();
    for i in 0..adapter.slots.len() {
        let s = &adapter.slots[i];
        let a =
            random(s.r * s.in_features, s.key).iter().map(|v| v / (s.in_features as f32).sqrt()).collect::<Vec<_>>();
        let b = random(s.out_features * s.r, s.key ^ 1).iter().map(|v| 0.3 * v).collect::<Vec<_>>();
        adapter.set(&s.module.clone(), &a, &b).unwrap();
    }
    adapter
}

fn flat(grads: &[SlotGrad]) -> Vec<Vec<f32>> {
    grads.iter().flat_map(|g| [g.a.to_vec().unwrap(), g.b.to_vec().unwrap()]).collect()
}

/// A training pass: what it gave and the gradient of each slot's A and B.
pub fn train(
    e: &Engine,
    m: &Decoder,
    adapter: &Adapter,
    group: &Group,
    keep: Keep,
    dropout: Option<DropoutKey>,
) -> (GroupResult, Vec<Vec<f32>>) {
    let mut grads = adapter.zero_gradients(e).unwrap();
    let run = GroupRun { engine: e, model: m, adapter: Some(adapter), keep, dropout };
    let r = e.run(|| group.run(&run, Some(&mut grads))).unwrap();
    (r, flat(&grads))
}

pub fn total_loss(group: &Group, r: &GroupResult) -> f64 {
    r.rows.iter().map(|r| r.nll).sum::<f64>() * group.a + group.mu * r.mixup
}

/// The masks of a step on the rows, made by [`sftmix::internal::ops::elementwise::dropout`] on ones.
fn masks(e: &Engine, adapter: &Adapter, rows: &Rows, key: DropoutKey) -> Masks {
    let ragged = Ragged::from_rows(rows);
    let names = ragged.examples.iter().map(|&e| e as u64).collect();
    let layout = Layout::new(ragged.offsets.clone(), names);
    let mask = |s: &sftmix::internal::ops::linear::Slot| {
        let mut ones = e.parameter(layout.tokens(), s.in_features, &vec![1.0; layout.tokens() * s.in_features])?;
        sftmix::internal::ops::elementwise::dropout(e, &mut ones, s.in_features, s.dropout, key, s.key, &layout)?;
        Ok((s.module.clone(), tensor(&ones.to_vec()?, (layout.tokens(), s.in_features))))
    };
    e.run(|| adapter.slots.iter().map(mask).collect()).unwrap()
}

const FAMILIES: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];
const STEP: DropoutKey = DropoutKey { seed: 11, step: 3 };

#[test]
fn lora_gradients_match_autograd() {
    for family in FAMILIES {
        let tiny = Tiny::odd(family);
        let rows = random_rows(&[19, 8, 40, 2], tiny.config.vocab_size);
        for p in [0.0, 0.3] {
            let key = (p > 0.0).then_some(STEP);
            let (mut worst, mut first) = (0f64, None);
            for form in [Form::Portable, Form::Fused] {
                let e = engine(form, 5, 16);
                let m = tiny.open(&e);
                let a = adapter(&e, &m, &[], p);
                let masks = key.map_or(Masks::new(), |k| masks(&e, &a, &rows, k));
                let (loss, want) = autograd(&tiny, &a, &rows, &masks);
                let group = group(&rows);
                for keep in [Keep::ALL, Keep::INPUTS] {
                    let (r, ours) = train(&e, &m, &a, &group, keep, key);
                    let d = (total_loss(&group, &r) / loss - 1.0).abs();
                    assert!(d < 1e-6, "{family} {form:?} dropout {p}: loss {d:e}");
                    for ((ours, want), i) in ours.iter().zip(&want).zip(0..) {
                        let what =
                            format!("{family} {form:?} {keep:?} dropout {p}: {} {}", a.slots[i / 2].module, i % 2);
                        worst = worst.max(close(&what, ours, want, CLOSE));
                    }
                    let other = first.get_or_insert_with(|| ours.clone());
                    for (ours, other) in ours.iter().zip(other) {
                        close(&format!("{family} dropout {p}: the forms"), ours, &wide(other), 2.0 * CLOSE);
                    }
                }
            }
            println!("{family}, dropout {p}: gradients within {worst:.1e} of autograd");
        }
    }
}

/// Module names that adapt only a part, and whether the backward pass has to go through attention.
const PARTS: [(&[&str], bool); 12] = [
    (&["down_proj"], true),
    (&["o_proj"], true),
    (&["q_proj"], true),
    (&["v_proj", "up_proj"], true),
    (&["gate_proj"], true),
    (&["layers.2.self_attn.k_proj"], true),
    (&["layers.2.self_attn.o_proj"], false),
    (&["layers.2.mlp.gate_proj"], false),
    (&["layers.2.mlp.up_proj"], false),
    (&["layers.2.mlp.down_proj"], false),
    (&["layers.1.mlp.down_proj", "layers.2.self_attn.q_proj"], true),
    (&["layers.1.self_attn.q_proj"], true),
];

#[test]
fn a_partial_adapter_has_the_gradients_of_a_full_one_whose_other_slots_do_nothing() {
    let tiny = Tiny::odd("qwen3");
    let rows = random_rows(&[12, 9, 21], tiny.config.vocab_size);
    let group = group(&rows);
    for form in [Form::Fused, Form::Portable] {
        let e = engine(form, 128, 8);
        let m = tiny.open(&e);
        for (names, _) in PARTS {
            for (keep, p) in [(Keep::ALL, 0.0), (Keep::INPUTS, 0.25)] {
                let what = format!("{form:?} {keep:?} {names:?}");
                let key = (p > 0.0).then_some(STEP);
                let part = adapter(&e, &m, names, p);
                let mut full = adapter(&e, &m, &[], p);
                for i in 0..full.slots.len() {
                    let s = &full.slots[i];
                    if !part.slots.iter().any(|o| o.module == s.module) {
                        let (module, a) = (s.module.clone(), s.a.to_vec().unwrap());
                        let zeros = vec![0.0; s.out_features * s.r];
                        full.set(&module, &a, &zeros).unwrap();
                    }
                }
                let (_, want) = train(&e, &m, &full, &group, keep, key);
                let (_, ours) = train(&e, &m, &part, &group, keep, key);
                let masks = key.map_or(Masks::new(), |k| masks(&e, &part, &rows, k));
                let (_, by_autograd) = autograd(&tiny, &part, &rows, &masks);
                for (i, s) in part.slots.iter().enumerate() {
                    let j = full.slots.iter().position(|o| o.module == s.module).unwrap();
                    for k in 0..2 {
                        assert!(ours[2 * i + k].iter().any(|&v| v != 0.0), "{what}: no gradient of {}", s.module);
                        close(&what, &ours[2 * i + k], &wide(&want[2 * j + k]), 1e-6);
                        close(&what, &ours[2 * i + k], &by_autograd[2 * i + k], CLOSE);
                    }
                }
            }
        }
    }
}

#[test]
fn the_backward_pass_skips_what_no_slot_needs() {
    let tiny = Tiny::odd("llama");
    let rows = random_rows(&[12, 9], tiny.config.vocab_size);
    let ragged = Ragged::from_rows(&rows);
    let n = ragged.ids.len();
    for form in [Form::Fused, Form::Portable] {
        let e = engine(form, 128, 8);
        let m = tiny.open(&e);
        for (names, through_attention) in PARTS {
            let a = adapter(&e, &m, names, 0.0);
            let mut grads = a.zero_gradients(&e).unwrap();
            let spent = e
                .run(|| {
                    let layout = Layout::new(ragged.offsets.clone(), vec![0, 1]);
                    let mut pass = m.forward(&e, Some(&a), &ragged.ids, layout, Keep::ALL, None)?;
                    m.states(&e, &mut pass, (0..n as u32).collect())?;
                    let dh = e.parameter(n, 20, &random(n * 20, 5))?;
                    let before = e.phase_seconds();
                    // Blocks below the lowest adapted one kept nothing: going on to them would be an error.
                    m.backward(&e, &a, pass, &dh, 0, &mut grads)?;
                    Ok(e.phase_seconds()[Phase::Attention as usize] - before[Phase::Attention as usize])
                })
                .unwrap();
            assert_eq!(spent > 0.0, through_attention, "{form:?} {names:?}: {spent} s in attention");
        }
    }
}

#[test]
fn recomputing_gives_the_same_bits_as_keeping() {
    for (family, p) in [("llama", 0.0), ("qwen3", 0.3), ("mistral", 0.0), ("qwen2", 0.3)] {
        let tiny = Tiny::odd(family);
        let rows = random_rows(&[19, 8, 40, 150], tiny.config.vocab_size);
        let group = group(&rows);
        let key = (p > 0.0).then_some(STEP);
        for form in [Form::Fused, Form::Portable] {
            let e = engine(form, 16, 32);
            let m = tiny.open(&e);
            for names in [&[][..], &["q_proj"], &["down_proj"]] {
                let a = adapter(&e, &m, names, p);
                let kept = train(&e, &m, &a, &group, Keep::ALL, key);
                let again = train(&e, &m, &a, &group, Keep::INPUTS, key);
                assert_eq!(kept.0.rows, again.0.rows);
                assert!(kept.1 == again.1, "{family} {form:?} dropout {p} {names:?}");
                let twice = train(&e, &m, &a, &group, Keep::ALL, key);
                assert!(kept.1 == twice.1, "{family} {form:?} dropout {p} {names:?}: the second time");
            }
        }
    }
}

/// A model large enough that two threads share its work.
fn wider() -> Tiny {
    let sizes = [("hidden_size", 576), ("intermediate_size", 1100), ("num_hidden_layers", 1)];
    let heads = [("num_attention_heads", 9), ("num_key_value_heads", 3), ("head_dim", 64), ("vocab_size", 300)];
    Tiny::new("llama", &[&sizes[..], &heads].concat())
}

#[test]
fn one_thread_and_two_give_close_gradients() {
    let tiny = wider();
    let rows = random_rows(&[70, 33, 1, 150], tiny.config.vocab_size);
    let group = group(&rows);
    let run = |threads| {
        let e = Engine::new(EngineOptions { threads: Some(threads), ..Default::default() }).unwrap();
        let m = tiny.open(&e);
        train(&e, &m, &adapter(&e, &m, &[], 0.1), &group, Keep::ALL, Some(STEP))
    };
    let (one, two, again) = (run(1), run(2), run(2));
    assert!(two.1 == again.1 && two.0.rows == again.0.rows, "two threads give other bits the second time");
    let d = (total_loss(&group, &one.0) / total_loss(&group, &two.0) - 1.0).abs();
    assert!(d < 1e-6, "loss {d:e}");
    for (a, b) in one.1.iter().zip(&two.1) {
        close("one thread against two", a, &wide(b), 1e-6);
    }
}

#[test]
fn a_rows_score_does_not_depend_on_its_company() {
    let e = engine(Form::Fused, 128, 128);
    let golden = Decoder::open(&e, &golden_dir().join("llama"), 64 + 8).unwrap();
    let lengths: Vec<usize> = (2..=70).collect();
    let wider = wider();
    let wide = wider.open(&e);
    for (m, vocab, lengths, lora) in [
        (&golden, 64, &lengths[..], false),
        (&golden, 64, &lengths, true),
        // Inner dimensions that the product cuts, and few of its rows.
        (&wide, 300, &[2, 3, 5, 17, 63, 64, 65, 66, 100], true),
    ] {
        let a = lora.then(|| adapter(&e, m, &[], 0.0));
        let rows = random_rows(lengths, vocab);
        let score = |micros: Vec<MicroBatch>| {
            let run = GroupRun { engine: &e, model: m, adapter: a.as_ref(), keep: Keep::Nothing, dropout: None };
            let rows = e.run(|| Group::plain(micros, 1.0).run(&run, None)).unwrap().rows;
            rows.iter().map(|r| (r.tokens, r.correct, r.nll.to_bits(), r.prob.to_bits())).collect::<Vec<_>>()
        };
        let all = score(vec![micro(&rows)]);
        let split = score(rows.chunks(5).map(micro).collect());
        for (i, row) in rows.iter().enumerate() {
            let alone = score(vec![micro(std::slice::from_ref(row))]);
            assert_eq!(alone[0], all[i], "row of {} tokens, alone and among all, adapter {lora}", row.0.len());
            assert_eq!(alone[0], split[i], "row of {} tokens, alone and among five, adapter {lora}", row.0.len());
        }
    }
}

#[test]
fn a_micro_batch_with_nothing_to_predict_changes_nothing() {
    let tiny = Tiny::odd("llama");
    let rows = random_rows(&[19, 8], tiny.config.vocab_size);
    let idle: Rows = vec![(vec![5], vec![true]), (vec![1, 2, 3], vec![false; 3])];
    for form in [Form::Fused, Form::Portable] {
        let e = engine(form, 16, 32);
        let m = tiny.open(&e);
        let a = adapter(&e, &m, &[], 0.0);
        let plain = group(&rows);
        let mut with = plain.clone();
        with.micros.push(micro(&idle));
        let (want, ours) = (train(&e, &m, &a, &plain, Keep::ALL, None), train(&e, &m, &a, &with, Keep::INPUTS, None));
        assert!(ours.1 == want.1, "{form:?}");
        assert_eq!(ours.0.rows[..2], want.0.rows);
        assert!(ours.0.rows[2..].iter().all(|r| r.tokens == 0 && r.nll == 0.0));
        let alone = train(&e, &m, &a, &Group::plain(vec![micro(&idle)], 1.0), Keep::ALL, None);
        assert!(alone.1.iter().flatten().all(|&v| v == 0.0), "{form:?}");
    }
}

#[test]
fn the_pool_settles_after_the_first_steps() {
    let tiny = Tiny::odd("qwen3");
    for (lengths, keep, p) in [
        (&[19, 8, 40, 150][..], Keep::ALL, 0.0),
        (&[19, 8, 40, 150], Keep::INPUTS, 0.3),
        (&[300, 2, 2, 64, 65, 66], Keep::INPUTS, 0.0),
        (&[33, 30, 31, 35, 200, 201], Keep::ALL, 0.1),
        (&[400, 20, 390], Keep::ALL, 0.1),
        (&[9, 9], Keep::ALL, 0.3),
    ] {
        let rows = random_rows(lengths, tiny.config.vocab_size);
        // One thread: with more, how much scratch is lent at once is a matter of timing.
        let options =
            EngineOptions { threads: Some(1), attention_tile: 32, loss_chunk: Some(16), ..Default::default() };
        let e = Engine::new(options).unwrap();
        let m = tiny.open(&e);
        let mut a = adapter(&e, &m, &[], p);
        let config = AdamWConfig { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, clip: 1.0 };
        let mut adam = AdamW::new(&e, &a, config).unwrap();
        let mut grads = a.zero_gradients(&e).unwrap();
        let group = group(&rows);
        let mut held = Vec::new();
        for step in 0..8 {
            let dropout = (p > 0.0).then_some(DropoutKey { seed: 1, step });
            let run = GroupRun { engine: &e, model: &m, adapter: Some(&a), keep, dropout };
            e.run(|| group.run(&run, Some(&mut grads))).unwrap();
            e.run(|| adam.apply(&e, &mut a, &mut grads, 1e-3)).unwrap();
            held.push(e.pool().held_bytes());
        }
        // The pool begins a step as it began the one before, but for the moments and gradients that are there.
        assert!(held[1..].iter().all(|h| *h == held[1]), "{lengths:?} {keep:?} dropout {p}: {held:?}");
        assert_eq!(held[1], held[0]);
    }
}
