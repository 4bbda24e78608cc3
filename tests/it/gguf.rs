//! GGUF bases against the folders they came from and against candle's reading of the same file; damaged files;
//! tokenizers that travelled through a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Content;
use candle_core::Device;
use safetensors::tensor::{Dtype as StDtype, TensorView};
use sftmix::export::{quantize, QuantType, QuantizeConfig};
use sftmix::internal::data::tokens::Ragged;
use sftmix::internal::data::tokens::Tokenizer;
use sftmix::internal::device::Form;
use sftmix::internal::family::DecoderConfig;
use sftmix::internal::gguf::{chat_template, Architecture};
use sftmix::internal::model::Adapter;
use sftmix::internal::model::Decoder;
use sftmix::internal::ops::{head_loss, Engine, EngineOptions, Layout};
use sftmix::internal::rng::{Key, Stream};
use sftmix::internal::train::group::{Group, GroupRun, MicroBatch};
use sftmix::internal::weights::WeightStore;
use sftmix::Keep;
use sftmix::{Control, EvalConfig, LoraConfig, Recipe, TrainConfig, TrainingJob};

use crate::support::{json, options, project, shared};

fn written(model: &Path, kind: &str, dir: &Path) -> PathBuf {
    let out = dir.join(format!("{kind}.gguf"));
    let kind: QuantType = kind.parse().unwrap();
    let done = quantize(&QuantizeConfig { model: model.into(), kind, out: out.clone() }).unwrap();
    assert_eq!(done.bytes, std::fs::metadata(&out).unwrap().len());
    out
}

fn write_folder(dir: &Path, config: &serde_json::Value, tensors: &BTreeMap<String, (Vec<usize>, Vec<f32>)>) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let bytes: Vec<Vec<u8>> = tensors.values().map(|(_, d)| d.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, (shape, _)), b)| (name.clone(), TensorView::new(StDtype::F32, shape.clone(), b).unwrap()));
    std::fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The model of a GGUF file as candle reads and dequantises it, in Hugging Face's order by the reshape that the
/// reference describes, as a folder of f32.
fn dequantised(gguf: &Path, config: &Path, out: &Path) {
    let config = json(&config.join("config.json"));
    let arch = Architecture::of_model_type(config["model_type"].as_str().unwrap()).unwrap();
    let mut file = std::fs::File::open(gguf).unwrap();
    let content = Content::read(&mut file).unwrap();
    let mut tensors = BTreeMap::new();
    for name in content.tensor_infos.keys().filter(|n| *n != "rope_freqs.weight") {
        let t = content.tensor(&mut file, name, &Device::Cpu).unwrap().dequantize(&Device::Cpu).unwrap();
        let shape = t.dims().to_vec();
        let mut data: Vec<f32> = t.flatten_all().unwrap().to_vec1().unwrap();
        let hf = arch.original(name).unwrap();
        let heads = ["q_proj", "k_proj"].iter().zip(["num_attention_heads", "num_key_value_heads"]);
        if let Some((_, heads)) = heads.clone().find(|(p, _)| arch.permuted && hf.contains(**p)) {
            let (h, cols) = (config[heads].as_u64().unwrap() as usize, data.len() / shape[0]);
            let d = shape[0] / h;
            let mut back = vec![0f32; data.len()];
            for (head, a, b) in (0..h).flat_map(|x| (0..2).flat_map(move |a| (0..d / 2).map(move |b| (x, a, b)))) {
                let (hf_row, row) = (head * d + a * d / 2 + b, head * d + 2 * b + a);
                back[hf_row * cols..(hf_row + 1) * cols].copy_from_slice(&data[row * cols..(row + 1) * cols]);
            }
            data = back;
        }
        tensors.insert(hf, (shape, data));
    }
    write_folder(out, &config, &tensors);
}

/// A model of random weights whose widths hold every block, with stories260K's tokenizer.
fn random(dir: &Path, model_type: &str) -> Option<PathBuf> {
    let tokenizer = shared("models/stories260K")?;
    let (hidden, inner, layers, heads, kv, head_dim, vocab) = (256, 512, 2, 4, 2, 64, 512);
    let config = serde_json::json!({
        "model_type": model_type, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": head_dim, "vocab_size": vocab,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false,
        "bos_token_id": 1, "eos_token_id": 2,
        "rope_scaling": if model_type == "llama" {
            serde_json::json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64})
        } else { serde_json::Value::Null },
    });
    let mut tensors = BTreeMap::new();
    let mut add = |name: String, shape: Vec<usize>| {
        let key = Key::new(5, Stream::Bench, &[tensors.len() as u64]);
        let n: usize = shape.iter().product();
        let plus = if name.contains("norm") { 1.0 } else { 0.0 };
        let data = (0..n as u64).map(|i| (key.uniform(i) as f32 - 0.5) * 0.2 + plus).collect();
        tensors.insert(name, (shape, data));
    };
    for l in 0..layers {
        let p = format!("model.layers.{l}");
        for (name, out, inp) in [
            ("self_attn.q_proj", heads * head_dim, hidden),
            ("self_attn.k_proj", kv * head_dim, hidden),
            ("self_attn.v_proj", kv * head_dim, hidden),
            ("self_attn.o_proj", hidden, heads * head_dim),
            ("mlp.gate_proj", inner, hidden),
            ("mlp.up_proj", inner, hidden),
            ("mlp.down_proj", hidden, inner),
        ] {
            add(format!("{p}.{name}.weight"), vec![out, inp]);
            if model_type == "qwen2" && name.starts_with("self_attn") && !name.contains("o_proj") {
                add(format!("{p}.{name}.bias"), vec![out]);
            }
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            add(format!("{p}.{name}.weight"), vec![hidden]);
        }
        if model_type == "qwen3" {
            add(format!("{p}.self_attn.q_norm.weight"), vec![head_dim]);
            add(format!("{p}.self_attn.k_norm.weight"), vec![head_dim]);
        }
    }
    add("model.norm.weight".into(), vec![hidden]);
    add("model.embed_tokens.weight".into(), vec![vocab, hidden]);
    add("lm_head.weight".into(), vec![vocab, hidden]);
    let out = dir.join(model_type);
    write_folder(&out, &config, &tensors);
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(tokenizer.join(file), out.join(file)).unwrap();
    }
    Some(out)
}

fn rows(vocab: u32) -> Vec<(Vec<u32>, Vec<bool>)> {
    let row = |n: u32, from: u32| ((0..n).map(|i| (i * 37 + from) % vocab).collect(), (0..n).map(|i| i > 2).collect());
    vec![row(23, 1), row(40, 7), row(9, 100)]
}

/// Logits of every token, and the gradients of an adapter on all linears, B filled.
fn numbers(e: &Engine, model: &Path) -> (Vec<f32>, Vec<f32>) {
    let m = Decoder::open(e, model, 64).unwrap();
    let config = LoraConfig { r: 4, ..Default::default() };
    let mut adapter = Adapter::fresh(e, &m, &config, 3).unwrap();
    for i in 0..adapter.slots.len() {
        let module = adapter.slots[i].module.clone();
        let a = adapter.slots[i].a.to_vec().unwrap();
        let key = Key::new(9, Stream::Bench, &[i as u64]);
        let n = adapter.slots[i].b.to_vec().unwrap().len();
        let b: Vec<f32> = (0..n as u64).map(|j| (key.uniform(j) as f32 - 0.5) * 0.1).collect();
        adapter.set(&module, &a, &b).unwrap();
    }
    let rows = rows(m.config.vocab_size as u32);
    let ragged = Ragged::from_rows(&rows);
    let logits = e.run(|| {
        let layout = Layout::new(ragged.offsets.clone(), vec![0; rows.len()]);
        let mut pass = m.forward(e, Some(&adapter), &ragged.ids, layout, Keep::Nothing, None)?;
        let h = m.states(e, &mut pass, (0..ragged.ids.len() as u32).collect())?;
        head_loss::logits(e, m.head(), &h)
    });
    let mut grads = adapter.zero_gradients(e).unwrap();
    let group = Group::plain(vec![MicroBatch::new(&ragged)], 1.0 / 60.0);
    let run = GroupRun { engine: e, model: &m, adapter: Some(&adapter), keep: Keep::ALL, dropout: None };
    e.run(|| group.run(&run, Some(&mut grads))).unwrap();
    let grads = grads.iter().flat_map(|g| [g.a.to_vec().unwrap(), g.b.to_vec().unwrap()].concat()).collect();
    (logits.unwrap(), grads)
}

fn engine(form: Form, units: bool) -> Engine {
    Engine::new(EngineOptions { matrix_units: units, ..options(form) }).unwrap()
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let most = a.iter().fold(0f32, |m, x| m.max(x.abs()));
    assert!(most > 1e-3, "nothing to compare: {most}");
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}

#[test]
fn gguf_numbers_are_those_of_the_folder() {
    let Some(model) = shared("models/stories260K") else { return };
    let dir = tempfile::tempdir().unwrap();
    let bits = |x: &[f32]| x.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    // Matrix units sum in another order than the f32 products of the folder: see the next test.
    for e in [engine(Form::Fused, false), engine(Form::Portable, false)] {
        let want = numbers(&e, &model);
        let got = numbers(&e, &written(&model, "f32", dir.path()));
        assert!(bits(&got.0) == bits(&want.0) && bits(&got.1) == bits(&want.1), "f32");
        for kind in ["f16", "bf16", "q8_0", "q4_0"] {
            let gguf = written(&model, kind, dir.path());
            let plain = dir.path().join(format!("{kind}-plain"));
            dequantised(&gguf, &model, &plain);
            let (got, want) = (numbers(&e, &gguf), numbers(&e, &plain));
            assert!(bits(&got.0) == bits(&want.0) && bits(&got.1) == bits(&want.1), "{kind}");
        }
    }
}

#[test]
fn every_mix_trains_on_the_numbers_that_candle_reads() {
    let dir = tempfile::tempdir().unwrap();
    for model_type in ["llama", "qwen2", "qwen3"] {
        let Some(model) = random(dir.path(), model_type) else { return };
        let e = engine(Form::Fused, true);
        let want = numbers(&e, &model);
        let got = numbers(&e, &written(&model, "f32", dir.path()));
        assert!(got == want, "{model_type}: f32");
        for kind in QuantType::NAMES.iter().filter(|k| **k != "f32") {
            if model_type != "llama" && !["q4_k_m", "q6_k"].contains(kind) {
                continue;
            }
            let gguf = written(&model, kind, dir.path());
            let plain = dir.path().join("plain");
            dequantised(&gguf, &model, &plain);
            for (form, units) in [(Form::Fused, true), (Form::Fused, false), (Form::Portable, false)] {
                let e = engine(form, units);
                let (got, want) = (numbers(&e, &gguf), numbers(&e, &plain));
                let (logits, grads) = (worst(&got.0, &want.0), worst(&got.1, &want.1));
                println!("{model_type} {kind} {form:?} units {units}: logits {logits:e}, gradients {grads:e}");
                // Matrix units round the operands of blocks to 16 bits (decision 0005).
                let allowed = if units && !["f16", "bf16"].contains(kind) { 1e-4 } else { 2e-5 };
                assert!(logits <= allowed && grads <= 2e-5, "{model_type} {kind} {form:?} units {units}");
                assert!(units || got == want, "{model_type} {kind} {form:?}: other bits");
            }
        }
    }
}

/// The weights of a golden with another config, and four words.
fn folder_of(from: &Path, mut config: serde_json::Value, model: &Path) {
    std::fs::create_dir_all(model).unwrap();
    std::fs::copy(from.join("model.safetensors"), model.join("model.safetensors")).unwrap();
    config["eos_token_id"] = 1.into();
    std::fs::write(model.join("config.json"), config.to_string()).unwrap();
    let bytes = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
        "use_regex": true});
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "pre_tokenizer": bytes, "decoder": bytes,
        "model": {"type": "BPE", "vocab": {"a": 0, "</s>": 1, "b": 2, "ab": 3}, "merges": ["a b"]},
    });
    std::fs::write(model.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// Every family whose golden is there goes through a file of f32 and back.
#[test]
fn families_travel() {
    let Some(goldens) = shared("golden") else { return };
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(goldens).unwrap() {
        let from = entry.unwrap().path();
        if !from.join("config.json").exists() {
            continue;
        }
        let config = json(&from.join("config.json"));
        let family = config["model_type"].as_str().unwrap().to_string();
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        folder_of(&from, config, &model);
        if DecoderConfig::from_dir(&model).is_err() {
            println!("unsupported: {family}");
            continue;
        }
        let done =
            quantize(&QuantizeConfig { model: model.clone(), kind: QuantType::F32, out: dir.path().join("f32.gguf") });
        if let Err(e) = done {
            // What llama.cpp has no words for is refused, never written as something else.
            assert!(e.to_string().contains("GGUF"), "{family}: {e}");
            println!("{family}: {e}");
            continue;
        }
        let e = engine(Form::Fused, false);
        let (want, got) = (numbers(&e, &model), numbers(&e, &dir.path().join("f32.gguf")));
        // Gemma's norms lose a bit to the 1 that is added.
        let (logits, grads) = (worst(&got.0, &want.0), worst(&got.1, &want.1));
        assert!(got == want || family.starts_with("gemma") && logits <= 2e-5 && grads <= 2e-5, "{family}: {logits:e}");
        seen.push(family);
    }
    println!("{seen:?}");
    assert!(["llama", "mistral", "qwen2", "qwen3"].iter().all(|f| seen.iter().any(|s| s == f)), "{seen:?}");
}

/// YaRN goes through a file as far as llama.cpp has words for it; the rest, and dynamic scaling, is refused by name.
#[test]
fn yarn_travels_as_llama_cpp_has_it() {
    let from = project("tests/golden/qwen2_yarn");
    let e = engine(Form::Fused, false);
    let mut failed = Vec::new();
    let yarn = |more: &str| format!("{{\"rope_type\": \"yarn\", \"factor\": 4.0{more}}}");
    let original = ", \"original_max_position_embeddings\": 16";
    for (scaling, expected) in [
        (yarn(original), Ok(0.0)),
        (yarn(""), Ok(0.0)),
        // A single stands in the file for the factor.
        (yarn(&format!("{original}, \"attention_factor\": 1.0")), Ok(1e-5)),
        (yarn(&format!("{original}, \"mscale\": 1.0, \"mscale_all_dim\": 0.707")), Ok(1e-5)),
        (
            yarn(&format!("{original}, \"truncate\": false")),
            Err("rotary scaling \"yarn\" with truncate false is not written to GGUF: llama.cpp rounds the ends of the ramp"),
        ),
        (
            yarn(&format!("{original}, \"beta_fast\": 16")),
            Err("rotary scaling \"yarn\" with beta_fast 16 and beta_slow 1 is not written to GGUF: llama.cpp takes 32 and 1"),
        ),
        (
            "{\"type\": \"dynamic\", \"factor\": 4.0}".into(),
            Err("rotary scaling \"dynamic\" is not written to GGUF: llama.cpp has no such scaling"),
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (model, out) = (dir.path().join("model"), dir.path().join("f32.gguf"));
        let mut config = json(&from.join("config.json"));
        config["rope_parameters"] = serde_json::Value::Null;
        config["rope_scaling"] = serde_json::from_str(&scaling).unwrap();
        folder_of(&from, config, &model);
        match (quantize(&QuantizeConfig { model: model.clone(), kind: QuantType::F32, out: out.clone() }), expected) {
            (Ok(_), Ok(allowed)) => {
                let (want, got) = (numbers(&e, &model), numbers(&e, &out));
                let (logits, grads) = (worst(&got.0, &want.0), worst(&got.1, &want.1));
                if logits > allowed || grads > allowed {
                    failed.push(format!("{scaling}: logits {logits:e}, gradients {grads:e}"));
                }
            }
            (Err(error), Err(end)) if error.to_string().ends_with(end) && !out.exists() => {}
            (found, expected) => failed.push(format!("{scaling}: {found:?}, not {expected:?}")),
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// The config that a GGUF file's fields give is the one it was written from.
#[test]
fn configs_travel() {
    let dir = tempfile::tempdir().unwrap();
    let Some(stories) = shared("models/stories260K") else { return };
    let models = ["llama", "qwen2", "qwen3"].map(|m| random(dir.path(), m).unwrap());
    for model in models.iter().chain([&stories]) {
        let gguf = written(model, "f16", dir.path());
        assert_eq!(DecoderConfig::from_dir(&gguf).unwrap(), DecoderConfig::from_dir(model).unwrap());
    }
}

fn train(model: &Path, out: &Path) -> TrainConfig {
    let assets = project("assets/demo");
    TrainConfig {
        model: model.into(),
        data: assets.join("train.jsonl").into(),
        out: out.into(),
        recipe: Recipe::Ntp,
        max_length: 64,
        batch_size: 16,
        lora: Some(LoraConfig { r: 4, ..Default::default() }),
        lr: 1e-3,
        epochs: 1,
        max_steps: Some(6),
        threads: Some(2),
        ..Default::default()
    }
}

/// Training, evaluation and the plan take a file as they take a folder, and the same adapter comes out.
#[test]
fn a_run_on_a_file_is_the_run_on_its_folder() {
    let Some(model) = shared("models/stories260K") else { return };
    let dir = tempfile::tempdir().unwrap();
    let gguf = written(&model, "f32", dir.path());
    let mut adapters = Vec::new();
    for (name, model) in [("folder", &model), ("file", &gguf)] {
        let config = train(model, &dir.path().join(name));
        let planned = sftmix::plan(&config).unwrap().predicted_peak_bytes as f64;
        let report = TrainingJob::new(config.clone()).unwrap().run(|_| Control::Continue).unwrap();
        let held = report.peak_anonymous_bytes as f64;
        println!("{name}: planned {planned}, held {held}");
        assert!((held / planned - 1.0).abs() < 0.1, "{name}: planned {planned}, held {held}");
        let eval = EvalConfig {
            model: model.clone(),
            adapter: Some(report.adapter.clone()),
            data: project("assets/demo/valid.jsonl"),
            max_length: 64,
            threads: Some(2),
            cache_dir: Some(dir.path().join("cache")),
            ..Default::default()
        };
        let nll = sftmix::evaluate(&eval).unwrap().nll;
        adapters.push((std::fs::read(report.adapter.join("adapter_model.safetensors")).unwrap(), nll.to_bits()));
    }
    assert!(adapters[0] == adapters[1], "the adapters differ");
}

/// The program writes a file, and generates from it what it generates from the folder.
#[cfg(all(feature = "cli", feature = "generate"))]
#[test]
fn the_program_writes_and_reads_files() {
    let Some(model) = shared("models/stories260K") else { return };
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let done = std::process::Command::new(env!("CARGO_BIN_EXE_sftmix")).args(args).output().unwrap();
        (done.status.code(), String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    let (model, gguf) = (model.to_str().unwrap(), dir.path().join("q8.gguf"));
    let gguf = gguf.to_str().unwrap();
    let (code, out, err) = run(&["quantize", "--model", model, "--type", "q8_0", "--out", gguf, "--json"]);
    assert_eq!(code, Some(0), "{err}");
    let told: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told["bytes"], std::fs::metadata(gguf).unwrap().len());
    // Widths of 172 are no whole blocks of 32.
    assert_eq!(told["tensors"], serde_json::json!({"F16": 5, "F32": 11, "Q8_0": 31}));
    let text = |model: &str| {
        let (code, out, err) =
            run(&["generate", "--model", model, "--prompt", "Once upon a time", "--max-new-tokens", "24"]);
        assert_eq!(code, Some(0), "{err}");
        out
    };
    let f32 = dir.path().join("f32.gguf");
    run(&["quantize", "--model", model, "--type", "f32", "--out", f32.to_str().unwrap()]);
    assert_eq!(text(f32.to_str().unwrap()), text(model));
    assert!(text(gguf).starts_with(", there was a"), "{}", text(gguf));
    let (code, _, err) = run(&["quantize", "--model", model, "--type", "iq4_xs", "--out", gguf]);
    assert!(code == Some(2) && err.contains("q4_k_m"), "{err}");
    let (code, _, err) = run(&["generate", "--model", &format!("{model}/config.json"), "--prompt", "x"]);
    assert!(code == Some(1) && err.contains("expected a GGUF file"), "{err}");
}

fn fails(path: &Path, words: &str) {
    let all = [WeightStore::open(path).map(drop), DecoderConfig::from_dir(path).map(drop)];
    for result in all.into_iter().chain([Tokenizer::load(path).map(drop)]) {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(words), "{error:?} lacks {words:?}");
    }
}

#[test]
fn damaged_files_are_named() {
    let Some(model) = shared("models/stories260K") else { return };
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(written(&model, "q8_0", dir.path())).unwrap();
    let path = dir.path().join("bad.gguf");
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
    };
    with(&|b| b[..4].copy_from_slice(b"PK\x03\x04"));
    fails(&path, r#"bad.gguf: header: expected a GGUF file, which begins with "GGUF", found "PK\\x03\\x04""#);
    with(&|b| b[4] = 1);
    fails(&path, "bad.gguf: header: GGUF version 1 is not supported (expected 2 or 3)");
    with(&|b| b[4..8].copy_from_slice(&3u32.to_be_bytes()));
    fails(&path, "bad.gguf: header: the file is big-endian, which is not supported");
    with(&|b| b[8..16].copy_from_slice(&u64::MAX.to_le_bytes()));
    let most = whole.len() / 32;
    fails(
        &path,
        &format!("18446744073709551615 tensors, but a file of {} bytes has room for {most} at most", whole.len()),
    );
    with(&|b| b[16..24].copy_from_slice(&(1u64 << 40).to_le_bytes()));
    fails(&path, "header: 1099511627776 fields, but a file of");
    // The length of the first field's name, then of its text.
    with(&|b| b[24..32].copy_from_slice(&(1u64 << 60).to_le_bytes()));
    fails(&path, "field 0: 1152921504606846976 bytes at 32, but ");
    with(&|b| b[24 + 8 + 20 + 4..][..8].copy_from_slice(&u64::MAX.to_le_bytes()));
    fails(&path, "general.architecture: 18446744073709551615 bytes at 64, but ");
    // Wherever it is cut, it is an error, and never a panic.
    for cut in (0..whole.len()).step_by(whole.len() / 97).chain([3, 23, 24, 100, whole.len() - 1]) {
        with(&|b| b.truncate(cut));
        let error = WeightStore::open(&path).unwrap_err().to_string();
        assert!(error.contains("truncated"), "{cut}: {error}");
    }
    // Bytes changed at random may still be a file, but not a panic.
    let key = Key::new(1, Stream::Bench, &[]);
    for i in 0..300u64 {
        with(&|b| {
            let header = 12_000.min(b.len());
            b[(key.bits(3 * i) % header as u64) as usize] = key.bits(3 * i + 1) as u8;
        });
        let _ = (WeightStore::open(&path).is_ok(), DecoderConfig::from_dir(&path).is_ok());
    }
    // A type of blocks that is not known: the type's number stands behind name, dimensions and shape.
    let name = b"blk.0.ffn_up.weight";
    let at = whole.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 4 + 16;
    with(&|b| b[at..at + 4].copy_from_slice(&23u32.to_le_bytes()));
    let store = WeightStore::open(&path).unwrap();
    let error = store.get("model.layers.0.mlp.up_proj.weight", &[172, 64]).unwrap_err().to_string();
    assert!(
        error.ends_with(
            "bad.gguf: model.layers.0.mlp.up_proj.weight: the type IQ4_XS cannot be read \
             (expected F32, F16, BF16, Q4_0 to Q8_1 or Q2_K to Q8_K)"
        ),
        "{error}"
    );
    with(&|b| b[at + 4..at + 12].copy_from_slice(&(1u64 << 50).to_le_bytes()));
    fails(&path, "blk.0.ffn_up.weight: ");
    let error = quantize(&QuantizeConfig { model: path.clone(), kind: QuantType::F16, out: dir.path().join("x") });
    assert!(error.unwrap_err().to_string().contains("expected a Hugging Face model folder"));
}

/// Ids of the tokenizer in the file against those of `tokenizer.json`, over llama.cpp's own texts and more.
#[test]
fn tokenizers_travel() {
    let dir = tempfile::tempdir().unwrap();
    let Some(all) = shared("tokenizers") else { return };
    let names =
        ["qwen2.5-0.5b-instruct", "llama-3.2-1b-instruct", "phi-3-mini-4k-instruct", "mistral-7b-instruct-v0.3"];
    for name in names {
        let from = all.join(name);
        let model = dir.path().join(name);
        std::fs::create_dir_all(&model).unwrap();
        if from.join("tokenizer.json").exists() {
            std::fs::copy(from.join("tokenizer.json"), model.join("tokenizer.json")).unwrap();
        } else {
            let unpacked = std::process::Command::new("gzip").arg("-dc").arg(from.join("tokenizer.json.gz")).output();
            let Ok(unpacked) = unpacked else {
                println!("skipped {name}: no gzip");
                continue;
            };
            std::fs::write(model.join("tokenizer.json"), unpacked.stdout).unwrap();
        }
        std::fs::copy(from.join("tokenizer_config.json"), model.join("tokenizer_config.json")).unwrap();
        let its = json(&from.join("config.json"));
        let rows = its["vocab_size"].as_u64().unwrap() as usize;
        let (hidden, inner) = (8, 8);
        let mut tensors = BTreeMap::new();
        let mut add = |name: &str, shape: Vec<usize>| {
            let n = shape.iter().product();
            tensors.insert(name.to_string(), (shape, vec![0.5f32; n]));
        };
        for (part, shape) in [
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.k_proj", vec![hidden, hidden]),
            ("self_attn.v_proj", vec![hidden, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("mlp.gate_proj", vec![inner, hidden]),
            ("mlp.up_proj", vec![inner, hidden]),
            ("mlp.down_proj", vec![hidden, inner]),
        ] {
            add(&format!("model.layers.0.{part}.weight"), shape);
        }
        add("model.norm.weight", vec![hidden]);
        add("model.embed_tokens.weight", vec![rows, hidden]);
        let config = serde_json::json!({
            "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": 1,
            "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": hidden, "vocab_size": rows,
            "max_position_embeddings": 128, "tie_word_embeddings": true,
            "bos_token_id": its["bos_token_id"], "eos_token_id": its["eos_token_id"],
        });
        write_folder(&model, &config, &tensors);
        let gguf = written(&model, "f16", dir.path());
        let (want, got) = (Tokenizer::load(&model).unwrap(), Tokenizer::load(&gguf).unwrap());
        assert_eq!((got.eos(), got.bos(), got.eos_text()), (want.eos(), want.bos(), want.eos_text()), "{name}");
        assert!(want.eos_ids().iter().all(|id| got.eos_ids().contains(id)), "{name}: {:?}", got.eos_ids());
        let mut texts: Vec<String> = Vec::new();
        for (file, key) in
            [("golden_encodings.json", "text"), ("golden_masks.json", "text"), ("golden_chat.json", "text")]
        {
            if let Ok(bytes) = std::fs::read(from.join(file)) {
                collect(&serde_json::from_slice(&bytes).unwrap(), key, &mut texts);
            }
        }
        let rows = std::fs::read_to_string(project("assets/demo/train.jsonl")).unwrap();
        texts.extend(rows.lines().take(50).map(str::to_string));
        texts.push("a </s> b <s> c<|end|>\n d<|eot_id|> <|im_end|>\n".into());
        let mut same = 0;
        for text in &texts {
            let (want, got) = (want.encode(text).unwrap(), got.encode(text).unwrap());
            if want == got {
                same += 1;
            } else {
                println!("{name}: {text:?}\n  {want:?}\n  {got:?}");
            }
        }
        println!("{name}: {same} of {} texts", texts.len());
        let of = |t: &Tokenizer, s: &str| t.decode(&t.encode(s).unwrap(), true).unwrap();
        assert_eq!(of(&got, "Ein  Bär: 12 µ\n"), of(&want, "Ein  Bär: 12 µ\n"), "{name}");
        assert_eq!(same, texts.len(), "{name}");
        let names = json(&from.join("tokenizer_config.json"));
        let template = chat_template(&gguf).unwrap();
        assert_eq!(template.template.as_deref(), names["chat_template"].as_str(), "{name}");
        assert!(template.eos_token.is_some(), "{name}: {template:?}");
    }
}

/// Every text under `key`, however deep.
fn collect(value: &serde_json::Value, key: &str, out: &mut Vec<String>) {
    match value {
        serde_json::Value::Array(all) => all.iter().for_each(|v| collect(v, key, out)),
        serde_json::Value::Object(map) => {
            for (k, v) in map {
                match v.as_str() {
                    Some(text) if k == key => out.push(text.to_string()),
                    _ => collect(v, key, out),
                }
            }
        }
        _ => {}
    }
}

/// Losses on held-out rows after the same training on a base as it is and as it is quantised. With SFTMIX_LONG set, both
/// epochs of all rows, for docs/performance.md; else a few steps.
#[test]
fn losses_on_quantised_bases_side_by_side() {
    let Some(rows) = shared("data/wikisql-mlx") else { return };
    let Some(stories) = shared("models/stories260K") else { return };
    let dir = tempfile::tempdir().unwrap();
    let long = std::env::var_os("SFTMIX_LONG").is_some();
    let wide = random(dir.path(), "llama").unwrap();
    // How far the loss may be from that on the folder: quantising moves the base, training makes up for most of it.
    for (name, model, kinds) in [
        ("stories260K", &stories, &[("f16", 2e-3), ("q8_0", 2e-2), ("q4_0", 0.3)][..]),
        ("random, 256 wide", &wide, &[("q6_k", 2e-2), ("q4_k_m", 5e-2)]),
    ] {
        let loss = |model: &Path, label: &str| {
            let config = TrainConfig {
                model: model.into(),
                data: rows.join("train.jsonl").into(),
                valid: Some(rows.join("valid.jsonl")),
                out: dir.path().join(format!("{name} {label}")),
                recipe: Recipe::Ntp,
                max_length: 512,
                lr: 1e-3,
                epochs: 2,
                max_steps: (!long).then_some(12),
                threads: Some(2),
                cache_dir: Some(dir.path().join("cache")),
                ..Default::default()
            };
            let eval = |adapter: Option<PathBuf>| {
                let config = EvalConfig {
                    model: model.into(),
                    adapter,
                    data: rows.join("valid.jsonl"),
                    max_length: 512,
                    threads: Some(2),
                    cache_dir: Some(dir.path().join("cache")),
                    ..Default::default()
                };
                sftmix::evaluate(&config).unwrap().nll
            };
            let before = eval(None);
            let report = TrainingJob::new(config).unwrap().run(|_| Control::Continue).unwrap();
            let after = eval(Some(report.adapter));
            println!("{name}, {label}: {before:.4} before, {after:.4} after");
            assert!(after < before - 0.1, "{name}, {label}: {before} to {after}");
            after
        };
        let want = loss(model, "folder");
        for (kind, apart) in kinds {
            let found = loss(&written(model, kind, dir.path()), kind);
            assert!((found - want).abs() <= *apart, "{name}, {kind}: {found}, on the folder {want}");
        }
    }
}
