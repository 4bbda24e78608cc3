//! What tests share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sftmix::internal::device::Form;
use sftmix::internal::ops::{Engine, EngineOptions, Simd};
use sftmix::DeviceSetting;

/// Tensors of a safetensors file as f64, with their shapes (integers too).
pub fn tensors(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f64>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut out = BTreeMap::new();
    for (name, t) in file.tensors() {
        let d = t.data();
        let values: Vec<f64> = match t.dtype() {
            safetensors::Dtype::F64 => d.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
            safetensors::Dtype::F32 => {
                d.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()) as f64).collect()
            }
            safetensors::Dtype::I64 => {
                d.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect()
            }
            other => panic!("{name}: {other:?}"),
        };
        out.insert(name, (t.shape().to_vec(), values));
    }
    out
}

/// A file as JSON.
pub fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A file of the project. The tests may run where they were not built: scripts/gpu-check.sh says where.
pub fn project(path: &str) -> PathBuf {
    let root = std::env::var_os("SFTMIX_ROOT").map_or(env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    root.join(path)
}

/// A path beside the checkout, when it is there.
pub fn shared(path: &str) -> Option<PathBuf> {
    let full = project("../shared").join(path);
    if full.exists() {
        return Some(full);
    }
    // CI, which has them, sets this: there a skipped test would hide an acceptance figure.
    assert!(std::env::var_os("SFTMIX_REQUIRE_SHARED").is_none(), "../shared/{path} is absent");
    println!("skipped: ../shared/{path} is absent");
    None
}

/// What the portable form runs on: the CPU, or what SFTMIX_TEST_DEVICE names.
pub fn portable() -> DeviceSetting {
    std::env::var("SFTMIX_TEST_DEVICE").map_or(DeviceSetting::Portable, |d| d.parse().unwrap())
}

/// Options of an engine of this form, on two threads; of ours on the level of `SFTMIX_TEST_SIMD` (scripts/levels.sh).
pub fn options(form: Form) -> EngineOptions {
    let device = if form == Form::Fused { DeviceSetting::Cpu } else { portable() };
    let asked = std::env::var("SFTMIX_TEST_SIMD").ok().filter(|_| form == Form::Fused);
    let simd = asked.map_or(Simd::Auto, |name| name.parse().unwrap());
    EngineOptions { threads: Some(2), simd, ..EngineOptions::on(&device.open().unwrap()) }
}

/// An engine of this form, on two threads.
pub fn engine(form: Form, loss_chunk: usize, attention_tile: usize) -> Engine {
    Engine::new(EngineOptions { loss_chunk: Some(loss_chunk), attention_tile, ..options(form) }).unwrap()
}

/// How far figures may be from an oracle's: `cpu` on the CPU; a GPU sums in other orders.
pub fn within(e: &Engine, cpu: f64) -> f64 {
    match e.setting() {
        DeviceSetting::Cuda(_) | DeviceSetting::Metal => cpu.max(1e-4),
        _ => cpu,
    }
}

/// Largest absolute difference.
pub fn max_diff(ours: &[f32], want: &[f64]) -> f64 {
    assert_eq!(ours.len(), want.len());
    ours.iter().zip(want).map(|(a, b)| (*a as f64 - b).abs()).fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}

/// Rows of a padded golden batch: (ids, trained).
pub fn golden_rows(g: &BTreeMap<String, (Vec<usize>, Vec<f64>)>) -> Vec<(Vec<u32>, Vec<bool>)> {
    let (shape, ids) = &g["input_ids"];
    let (mask, labels) = (&g["attention_mask"].1, &g["labels"].1);
    let width = shape[1];
    (0..shape[0])
        .map(|r| {
            let at = r * width..(r + 1) * width;
            let real: Vec<usize> = at.filter(|&i| mask[i] == 1.0).collect();
            (real.iter().map(|&i| ids[i] as u32).collect(), real.iter().map(|&i| labels[i] != -100.0).collect())
        })
        .collect()
}

/// A tokenizer for the golden models' vocabulary of 64: one letter a token, and `more` from 63 on.
pub fn letters(more: &[&str]) -> serde_json::Value {
    let special = |id: usize, text: &str| {
        serde_json::json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let mut vocab = serde_json::json!({"<pad>": 0, "<s>": 1, "</s>": 2});
    for (i, c) in ('a'..='z').enumerate() {
        vocab[c.to_string()] = (3 + i).into();
    }
    more.iter().enumerate().for_each(|(i, m)| vocab[*m] = (63 + i).into());
    let bytes =
        serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true});
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": bytes,
        "post_processor": null, "decoder": bytes,
        "added_tokens": [special(0, "<pad>"), special(1, "<s>"), special(2, "</s>")],
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    })
}
