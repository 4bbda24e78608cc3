//! Pre-training from random weights, with a checkpoint that a later run continues from.

use crate::adamw::{cosine, AdamW};
use crate::bpe::{BOS_ID, EOS_ID};
use crate::corpus::document;
use crate::net::{logits, random, Weights, CONFIG};
use crate::ops::cross_entropy;
use candle_core::{Device, Result, Tensor, Var};
use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;
use tokenizers::Tokenizer;

use crate::world::World;

pub struct Plan {
    pub seed: u64,
    pub steps: usize,
    pub windows: usize,
    pub length: usize,
    pub peak_lr: f64,
    pub warmup: usize,
    pub decay: f64,
}

/// Documents of the text packed to `length` + 1 tokens: a function of (seed, index), so a run can stop anywhere.
fn window(world: &World, tokenizer: &Tokenizer, plan: &Plan, index: u64) -> Vec<u32> {
    let mut ids = Vec::new();
    for k in 0.. {
        let text = document(world, plan.seed, index * 64 + k);
        let encoding = tokenizer.encode_fast(text, false).expect("any text has tokens");
        ids.push(BOS_ID);
        ids.extend(encoding.get_ids());
        ids.push(EOS_ID);
        if ids.len() > plan.length {
            break;
        }
    }
    ids.truncate(plan.length + 1);
    ids
}

/// The weights as plain tensors.
pub fn weights_of(adam: &AdamW) -> Weights {
    adam.vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect()
}

/// Trains to `plan.steps`, from the checkpoint if there is one. Returns the weights and the mean loss of the last
/// hundred steps.
pub fn pretrain(world: &World, tokenizer: &Tokenizer, plan: &Plan, checkpoint: &Path) -> Result<(Weights, f64)> {
    let mut adam = AdamW::new(Vec::new(), plan.decay);
    let mut at = 0;
    if checkpoint.exists() {
        let saved = candle_core::safetensors::load(checkpoint, &Device::Cpu)?;
        at = saved["step"].to_scalar::<u32>()? as usize;
        let named: std::collections::BTreeMap<_, _> = saved.iter().filter(|(n, _)| n.starts_with("model.")).collect();
        let vars = named.iter().map(|(n, t)| Ok((n.to_string(), Var::from_tensor(t)?))).collect::<Result<_>>()?;
        adam = AdamW::new(vars, plan.decay);
        for (i, (name, _)) in adam.vars.iter().enumerate() {
            adam.first[i] = saved[&format!("first.{name}")].to_vec1()?;
            adam.second[i] = saved[&format!("second.{name}")].to_vec1()?;
        }
        eprintln!("continuing from step {at}");
    } else {
        let start = random(&CONFIG, plan.seed)?;
        adam.vars = start.iter().map(|(n, t)| Ok((n.clone(), Var::from_tensor(t)?))).collect::<Result<_>>()?;
        adam = AdamW::new(adam.vars, plan.decay);
    }
    let w = weights_of(&adam);
    let parameters: usize = w.values().map(|t| t.elem_count()).sum();
    eprintln!("{parameters} parameters, {} steps of {} tokens", plan.steps, plan.windows * plan.length);

    let (started, first) = (Instant::now(), at);
    let mut recent = std::collections::VecDeque::new();
    while at < plan.steps {
        let (mut ids, mut targets) = (Vec::new(), Vec::new());
        for k in 0..plan.windows {
            let text = window(world, tokenizer, plan, (at * plan.windows + k) as u64);
            ids.extend(&text[..plan.length]);
            targets.extend(&text[1..]);
        }
        let loss = cross_entropy(&logits(&CONFIG, &w, None, &ids, plan.length)?, targets)?;
        let grads = loss.backward()?;
        at += 1;
        let norm = adam.step(&grads, at, cosine(at, plan.warmup, plan.steps, plan.peak_lr))?;
        recent.push_back(f64::from(loss.to_scalar::<f32>()?));
        if recent.len() > 100 {
            recent.pop_front();
        }
        if at % 100 == 0 || at == plan.steps {
            let mean = recent.iter().sum::<f64>() / recent.len() as f64;
            let speed = ((at - first) * plan.windows * plan.length) as f64 / started.elapsed().as_secs_f64();
            eprintln!("step {at} loss {mean:.4} norm {norm:.2} tokens/s {speed:.0}");
        }
        if at % 250 == 0 || at == plan.steps {
            save(&adam, at, checkpoint)?;
        }
    }
    Ok((w, recent.iter().sum::<f64>() / recent.len().max(1) as f64))
}

fn save(adam: &AdamW, step: usize, path: &Path) -> Result<()> {
    let mut all: HashMap<String, Tensor> = HashMap::new();
    all.insert("step".into(), Tensor::new(step as u32, &Device::Cpu)?);
    for (i, (name, var)) in adam.vars.iter().enumerate() {
        all.insert(name.clone(), var.as_tensor().clone());
        all.insert(format!("first.{name}"), Tensor::new(adam.first[i].as_slice(), &Device::Cpu)?);
        all.insert(format!("second.{name}"), Tensor::new(adam.second[i].as_slice(), &Device::Cpu)?);
    }
    let partial = path.with_extension("partial");
    candle_core::safetensors::save(&all, &partial)?;
    std::fs::rename(partial, path)?;
    Ok(())
}
