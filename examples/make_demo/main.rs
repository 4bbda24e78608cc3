//! Makes what `sftmix demo` carries: a small world, a tokenizer, a base model that has read about the world, and
//! questions about it. See `docs/decisions/0002-the-demo.md`.
//!
//! ```text
//! cargo run --release --example make_demo -- --out assets/demo [--steps N] [--seed S] [--peak-lr X] [--work DIR] [--data-only]
//! cargo run --release --example make_demo -- --out assets/demo --probe [--rank R] [--lr X] [--epochs N] [--test]
//! ```

mod adamw;
mod bpe;
mod corpus;
mod draw;
mod measure;
mod net;
mod ops;
mod pretrain;
mod probe;
mod rows;
mod world;

use candle_core::{DType, Device};
use net::CONFIG;
use rows::Row;
use serde_json::{json, Value};
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;
use world::{Part, World};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const VALID_ROWS: usize = 100;
/// Documents the tokenizer is learnt from.
const TOKENIZER_DOCUMENTS: u64 = 20_000;

struct Options {
    out: PathBuf,
    work: PathBuf,
    seed: u64,
    steps: usize,
    data_only: bool,
    probe: bool,
    test: bool,
    rank: usize,
    lr: f64,
    epochs: usize,
    peak_lr: f64,
}

fn options() -> Result<Options> {
    let mut o = Options {
        out: "assets/demo".into(),
        work: "target/make_demo".into(),
        seed: 1,
        steps: 2000,
        data_only: false,
        probe: false,
        test: false,
        rank: 16,
        lr: 2e-3,
        epochs: 6,
        peak_lr: 4e-3,
    };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let mut next = || args.next().ok_or(format!("{name} needs a value"));
        match name.as_str() {
            "--out" => o.out = next()?.into(),
            "--work" => o.work = next()?.into(),
            "--seed" => o.seed = next()?.parse()?,
            "--steps" => o.steps = next()?.parse()?,
            "--rank" => o.rank = next()?.parse()?,
            "--lr" => o.lr = next()?.parse()?,
            "--epochs" => o.epochs = next()?.parse()?,
            "--peak-lr" => o.peak_lr = next()?.parse()?,
            "--data-only" => o.data_only = true,
            "--probe" => o.probe = true,
            "--test" => o.test = true,
            _ => return Err(format!("unknown option {name}").into()),
        }
    }
    Ok(o)
}

fn main() -> Result<()> {
    let o = options()?;
    let world = World::new(o.seed);
    let mut train = rows::rows(&world, o.seed, Part::Train, usize::MAX);
    rows::break_some(&mut train, o.seed);
    let valid = rows::rows(&world, o.seed, Part::Valid, VALID_ROWS);
    let test = rows::rows(&world, o.seed, Part::Test, usize::MAX);

    if o.probe {
        let tokenizer = Tokenizer::from_file(o.out.join("tokenizer.json"))?;
        let weights = candle_core::safetensors::load(o.out.join("model.safetensors"), &Device::Cpu)?;
        let weights = weights.into_iter().map(|(n, t)| Ok((n, t.to_dtype(DType::F32)?))).collect::<Result<_>>()?;
        facts(&world, &tokenizer, &weights)?;
        let p = probe::Probe {
            seed: o.seed,
            rank: o.rank,
            alpha: 2.0 * o.rank as f64,
            lr: o.lr,
            epochs: o.epochs,
            batch: 16,
        };
        return Ok(probe::probe(&weights, &tokenizer, &p, &train, if o.test { &test } else { &valid })?);
    }

    std::fs::create_dir_all(&o.out)?;
    std::fs::create_dir_all(&o.work)?;
    for (name, rows) in [("train.jsonl", &train), ("valid.jsonl", &valid), ("test.jsonl", &test)] {
        let text: String = rows.iter().map(|r| format!("{}\n", r.to_json())).collect();
        std::fs::write(o.out.join(name), text)?;
    }
    let prompts = train.iter().map(|r| r.prompt.clone());
    let texts = (0..TOKENIZER_DOCUMENTS).map(|i| corpus::document(&world, o.seed, i)).chain(prompts);
    let json = bpe::learn(texts, CONFIG.vocab);
    std::fs::write(o.out.join("tokenizer.json"), serde_json::to_string(&json)?)?;
    let tokenizer = Tokenizer::from_file(o.out.join("tokenizer.json"))?;
    check_tokenizer(&tokenizer, &world, &o, &train)?;
    write_configs(&o.out)?;
    if o.data_only {
        return Ok(());
    }

    let plan = pretrain::Plan {
        seed: o.seed,
        steps: o.steps,
        windows: 16,
        length: 64,
        peak_lr: o.peak_lr,
        warmup: 200,
        decay: 0.05,
    };
    let (weights, loss) = pretrain::pretrain(&world, &tokenizer, &plan, &o.work.join("checkpoint.safetensors"))?;
    save_model(&weights, &o.out.join("model.safetensors"))?;
    let known = facts(&world, &tokenizer, &weights)?;
    manifest(&o, &plan, loss, known, &train, &valid, &test)
}

/// Prints, and returns as JSON, how well the model knows the facts as sentences.
fn facts(world: &World, tokenizer: &Tokenizer, weights: &net::Weights) -> Result<Value> {
    let mut known = json!({});
    for part in [Part::Train, Part::Valid, Part::Test, Part::Story] {
        let (nll, exact) =
            measure::summary(&measure::score(weights, None, &measure::fact_texts(world, tokenizer, part))?);
        eprintln!("facts of {part:?}: nll a token {nll:.4}, known {:.1} %", 100.0 * exact);
        known[format!("{part:?}").to_lowercase()] = json!({"nll": round(nll), "known": round(exact)});
    }
    Ok(known)
}

fn round(x: f64) -> f64 {
    (x * 1e4).round() / 1e4
}

/// Every text comes back whole, and the prompt's tokens begin the row's.
fn check_tokenizer(tokenizer: &Tokenizer, world: &World, o: &Options, train: &[Row]) -> Result<()> {
    let documents = (0..200).map(|i| corpus::document(world, o.seed, i));
    let rows = train.iter().map(|r| r.prompt.clone() + &r.completion);
    let (mut bytes, mut tokens) = (0, 0);
    for text in documents.chain(rows).chain(["naïve ☃ 北\t".to_string()]) {
        let encoding = tokenizer.encode(text.as_str(), true)?;
        assert_eq!(encoding.get_ids()[0], bpe::BOS_ID);
        assert_eq!(tokenizer.decode(encoding.get_ids(), true)?, text);
        bytes += text.len();
        tokens += encoding.len();
    }
    for row in train {
        let whole = measure::encode(tokenizer, &(row.prompt.clone() + &row.completion));
        assert!(whole.starts_with(&measure::encode(tokenizer, &row.prompt)));
    }
    eprintln!(
        "{} tokens in the vocabulary, {:.2} bytes a token",
        tokenizer.get_vocab_size(true),
        bytes as f64 / tokens as f64
    );
    Ok(())
}

/// Rounds the weights to bf16. Hugging Face's loader wants the `format` key.
fn save_model(weights: &net::Weights, path: &Path) -> Result<()> {
    let rounded = weights.iter().map(|(n, t)| Ok((n, t.to_dtype(DType::BF16)?))).collect::<Result<Vec<_>>>()?;
    let metadata = std::collections::HashMap::from([("format".to_string(), "pt".to_string())]);
    Ok(safetensors::serialize_to_file(rounded, Some(metadata), path)?)
}

fn write_configs(out: &Path) -> Result<()> {
    let c = CONFIG;
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": c.vocab, "hidden_size": c.hidden,
        "intermediate_size": c.mlp, "num_hidden_layers": c.layers, "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads, "head_dim": c.head_dim, "hidden_act": "silu",
        "max_position_embeddings": c.positions, "rms_norm_eps": c.eps, "rope_theta": c.theta, "rope_scaling": null,
        "attention_bias": false, "mlp_bias": false, "attention_dropout": 0.0, "tie_word_embeddings": true,
        "bos_token_id": bpe::BOS_ID, "eos_token_id": bpe::EOS_ID, "initializer_range": 0.02, "use_cache": true,
        "torch_dtype": "bfloat16"
    });
    let generation = json!({"bos_token_id": bpe::BOS_ID, "eos_token_id": bpe::EOS_ID, "do_sample": false});
    let tokenizer = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bpe::BOS, "eos_token": bpe::EOS,
        "add_bos_token": true, "add_eos_token": false, "clean_up_tokenization_spaces": false,
        "model_max_length": c.positions
    });
    for (name, value) in
        [("config.json", config), ("generation_config.json", generation), ("tokenizer_config.json", tokenizer)]
    {
        std::fs::write(out.join(name), serde_json::to_string_pretty(&value)? + "\n")?;
    }
    Ok(())
}

fn manifest(
    o: &Options,
    plan: &pretrain::Plan,
    loss: f64,
    known: Value,
    train: &[Row],
    valid: &[Row],
    test: &[Row],
) -> Result<()> {
    let mut files = json!({});
    for name in [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "train.jsonl",
        "valid.jsonl",
        "test.jsonl",
    ] {
        let bytes = std::fs::read(o.out.join(name))?;
        files[name] = json!({"bytes": bytes.len(), "blake3": blake3::hash(&bytes).to_hex().as_str()});
    }
    let count = |kind| train.iter().filter(|r| r.broken == Some(kind)).count();
    let manifest = json!({
        "made_by": format!("sftmix {} examples/make_demo", env!("CARGO_PKG_VERSION")),
        "licence": env!("CARGO_PKG_LICENSE"),
        "seed": o.seed,
        "pretraining": {"steps": plan.steps, "tokens": plan.steps * plan.windows * plan.length, "peak_lr": plan.peak_lr,
            "weight_decay": plan.decay, "loss_of_last_100_steps": round(loss), "facts": known},
        "rows": {"train": train.len(), "valid": valid.len(), "test": test.len(),
            "broken": {"garbled": count("garbled"), "swapped": count("swapped"), "wrong": count("wrong")}},
        "files": files
    });
    std::fs::write(o.out.join("MANIFEST.json"), serde_json::to_string_pretty(&manifest)? + "\n")?;
    Ok(())
}
