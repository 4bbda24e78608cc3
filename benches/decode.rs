//! Generation beside candle-transformers' own Llama, on the same random weights, in one process, taking turns:
//! `cargo bench --bench decode [-- SHAPE|FILE.gguf [PROMPT [TOKENS [ROUNDS]]]]`.
//!
//! Both compute in f32; candle widens the bf16 weights when it loads them, sftmix as it reads them. Of a GGUF file
//! both multiply the blocks with activations rounded to eight bits. Prints the
//! prompt's tokens a second, the new tokens a second (medians of the rounds), and the bytes of weights that a
//! token reads against what the threads can read from memory at all.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::quantized::gguf_file;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama, LlamaConfig};
use candle_transformers::models::quantized_llama::ModelWeights;
use sftmix::internal::bench::Shape;
use sftmix::internal::model::Adapter;
use sftmix::internal::model::Decoder;
use sftmix::internal::ops::{head_loss, Engine, EngineOptions};
use sftmix::LoraConfig;

/// Tokens in, the last one's logits out, over what came before.
type Row<'a> = Box<dyn FnMut(&[u32]) -> Result<Vec<f32>> + 'a>;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// candle-transformers' model.
enum Candle {
    Llama(Box<Llama>, Config),
    Blocks(Box<ModelWeights>),
}

impl Candle {
    fn open(model: &Path) -> Result<Candle> {
        if model.is_file() {
            let mut file = std::fs::File::open(model)?;
            let content = gguf_file::Content::read(&mut file)?;
            return Ok(Candle::Blocks(Box::new(ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?)));
        }
        let config: LlamaConfig = serde_json::from_slice(&std::fs::read(model.join("config.json"))?)?;
        let (config, files) = (config.into_config(false), [model.join("model.safetensors")]);
        // SAFETY: nobody changes the file meanwhile.
        let weights = unsafe { VarBuilder::from_mmaped_safetensors(&files, DType::F32, &Device::Cpu)? };
        Ok(Candle::Llama(Box::new(Llama::load(weights, &config)?), config))
    }

    /// Runs tokens of a new row, then of the same.
    fn row(&mut self) -> Result<Row<'_>> {
        let mut at = 0;
        let input = |ids: &[u32]| Tensor::new(ids, &Device::Cpu)?.unsqueeze(0);
        Ok(match self {
            Candle::Llama(model, config) => {
                let mut cache = Cache::new(true, DType::F32, config, &Device::Cpu)?;
                Box::new(move |ids| {
                    let logits = model.forward(&input(ids)?, at, &mut cache)?;
                    at += ids.len();
                    Ok(logits.flatten_all()?.to_vec1::<f32>()?)
                })
            }
            // A row from position 0 on takes the place of the one before.
            Candle::Blocks(model) => Box::new(move |ids| {
                let logits = model.forward(&input(ids)?, at)?;
                at += ids.len();
                Ok(logits.flatten_all()?.to_vec1::<f32>()?)
            }),
        })
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let number = |i: usize, or: usize| arguments.get(i).map_or(Ok(or), |a| a.parse());
    let name = arguments.first().map_or("smollm2-135m", |a| a);
    let (prompt, tokens, rounds) = (number(1, 256)?, number(2, 64)?, number(3, 5)?);
    let dir: PathBuf = match name.ends_with(".gguf") {
        true => name.into(),
        false => Shape::named(name)?.folder(&std::env::temp_dir().join("sftmix-bench"), 0)?,
    };

    let engine = Engine::new(EngineOptions::default())?;
    let exact = Engine::new(EngineOptions { rounded_blocks: false, ..Default::default() })?;
    let model = Decoder::open(&engine, &dir, prompt + tokens)?;
    let adapter = Adapter::fresh(&engine, &model, &LoraConfig::default(), 0)?;
    let ids: Vec<u32> = (0..prompt as u32).map(|i| (i * 7919 + 13) % model.config.vocab_size as u32).collect();

    let mut candle = Candle::open(&dir)?;

    let mut figures: [Vec<(f64, f64)>; 3] = Default::default();
    let mut logits: [Vec<f32>; 3] = Default::default();
    for _ in 0..=rounds {
        let second = if dir.is_file() { (&exact, None) } else { (&engine, Some(&adapter)) };
        for (i, (engine, adapter)) in [(&engine, None), second].into_iter().enumerate() {
            let mut cache = model.cache(engine, prompt + tokens)?;
            let mut step = |ids: &[u32]| {
                engine.run(|| {
                    let state = model.extend(engine, adapter, &mut cache, ids)?;
                    head_loss::logits(engine, model.head(), &state)
                })
            };
            figures[i].push(timed(&ids, tokens, &mut logits[i], |ids| Ok(step(ids)?))?);
        }
        figures[2].push(timed(&ids, tokens, &mut logits[2], candle.row()?)?);
    }
    let largest = logits[2].iter().fold(0f32, |m, v| m.max(v.abs()));
    let apart = logits[0].iter().zip(&logits[2]).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    println!("{}: {prompt} tokens of prompt, {tokens} new, {rounds} rounds, {} threads", name, engine.threads());
    println!("last logits within {apart:.1e} of candle's, the largest of which is {largest:.2}");
    let bytes = model.weight_bytes() as f64 * 1e-9;
    let rate = stream(engine.threads());
    let median = |i: usize, f: fn(&(f64, f64)) -> f64| {
        // The first round warms up.
        let mut v: Vec<f64> = figures[i][1..].iter().map(f).collect();
        v.sort_by(f64::total_cmp);
        v[v.len() / 2]
    };
    let second = if dir.is_file() { "sftmix, blocks read exactly" } else { "sftmix, adapter of rank 16" };
    for (i, name) in ["sftmix", second, "candle"].iter().enumerate() {
        let (p, t) = (median(i, |f| f.0), median(i, |f| f.1));
        println!(
            "{name:<28} prompt {:>8.1} tokens/s ({:>5.2} of candle)   new {:>7.2} tokens/s ({:>5.2} of candle)",
            p,
            p / median(2, |f| f.0),
            t,
            t / median(2, |f| f.1),
        );
        if i < 2 {
            println!("{:<28} {:.2} GB of weights a token: {:.1} GB/s of {rate:.1} GB/s read", "", bytes, bytes * t);
        }
    }
    Ok(())
}

/// Tokens a second of the prompt's pass and of new tokens; `last` becomes the last logits.
fn timed(
    ids: &[u32],
    tokens: usize,
    last: &mut Vec<f32>,
    mut step: impl FnMut(&[u32]) -> Result<Vec<f32>>,
) -> Result<(f64, f64)> {
    let start = Instant::now();
    let mut logits = step(ids)?;
    let prompt = start.elapsed().as_secs_f64();
    let start = Instant::now();
    for i in 0..tokens as u32 {
        // The same tokens for all, whatever they would draw.
        logits = step(&[(i * 31 + 7) % logits.len() as u32])?;
    }
    *last = logits;
    Ok((ids.len() as f64 / prompt, tokens as f64 / start.elapsed().as_secs_f64()))
}

/// GB/s that so many threads read from memory together: the best of a few passes over 1 GiB.
fn stream(threads: usize) -> f64 {
    let data = vec![1u64; 1 << 27];
    let pass = |_| {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in data.chunks(data.len().div_ceil(threads)) {
                scope.spawn(move || {
                    // Four places at once, so that the reading is what takes time and not the waiting for it.
                    let (mut sums, quarter) = ([[0u64; 8]; 4], part.len() / 32 * 8);
                    for at in (0..quarter).step_by(8) {
                        for (q, sums) in sums.iter_mut().enumerate() {
                            let from = q * quarter + at;
                            sums.iter_mut().zip(&part[from..from + 8]).for_each(|(s, v)| *s = s.wrapping_add(*v));
                        }
                    }
                    black_box(sums);
                });
            }
        });
        size_of_val(&data[..]) as f64 * 1e-9 / start.elapsed().as_secs_f64()
    };
    (0..5).map(pass).fold(0.0, f64::max)
}
