//! What a run's settings leave open, settled: how rows are cut, what is kept, what that needs.

use super::choice::{choose, Asked, Choice, Short};
use super::footprint::{Footprint, Parts, Slots};
use crate::base::Model;
use crate::config::{LoraConfig, Recipe, TrainConfig};
use crate::data::tokens::pipeline;
use crate::data::tokens::TokenStore;
use crate::data::tokens::Tokenizer;
use crate::device::Form;
use crate::error::{Error, Result};
use crate::family::shapes::LinearShape;
use crate::family::DecoderConfig;
use crate::lora::initial::{check_initial, in_training};
use crate::lora::peft::load_adapter;
use crate::ops::engine::{FIXED, PER_THREAD};
use crate::steps::cut::{Cut, GroupRows};

/// Bytes an example of a run: its place in the order, its half, its confidence.
pub(crate) const EXAMPLE: usize = 12;

/// The rows that a run is to train on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowFacts {
    pub examples: usize,
    pub longest: usize,
    pub mean: f64,
}

impl RowFacts {
    pub fn of(store: &TokenStore, valid: Option<&TokenStore>) -> RowFacts {
        RowFacts {
            examples: store.len(),
            longest: store.longest().max(valid.map_or(0, TokenStore::longest)),
            mean: store.total_tokens() as f64 / (store.len() as f64).max(1.0),
        }
    }

    /// The least that any rows could be, for a look before they are read.
    pub fn least() -> RowFacts {
        RowFacts { examples: 1, longest: 2, mean: 2.0 }
    }
}

/// A base's weights, as far as a plan asks about them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WeightFacts {
    /// Bytes of all.
    pub bytes: usize,
    /// Bytes of a block's and of the head's.
    pub streamed: (usize, usize),
}

impl WeightFacts {
    /// Of a model whose weights have `bytes` bytes. A GGUF file has blocks and a head of several types: the largest
    /// block counts.
    pub fn of(model: &Model, bytes: usize) -> Result<WeightFacts> {
        let c = model.config()?;
        if model.files().gguf().is_none() {
            return Ok(WeightFacts { bytes, streamed: (weights_a_block(c, bytes), head_bytes(c, bytes)) });
        }
        let store = model.weights()?;
        let mut blocks = vec![0; c.num_layers];
        for l in c.linears() {
            blocks[l.layer] += store.stored_bytes(&format!("{}.weight", l.module));
        }
        let head = if c.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        Ok(WeightFacts { bytes, streamed: (blocks.into_iter().max().unwrap_or(0), store.stored_bytes(head)) })
    }
}

/// What a run's memory follows from, before anything is opened.
#[derive(Clone, Debug)]
pub(crate) struct Needs {
    pub footprint: Footprint,
    pub asked: Asked,
    hidden: usize,
    /// Query features of all blocks.
    queries: usize,
    /// Numbers of all blocks' linears.
    linears: usize,
}

impl Needs {
    /// Of a run on a model of this config and these weights.
    pub fn new(
        config: &TrainConfig,
        c: &DecoderConfig,
        weights: WeightFacts,
        threads: usize,
        rows: RowFacts,
    ) -> Result<Needs> {
        let (slots, lora) = slots(config, c)?;
        let mut footprint = Footprint::new(c, &slots, lora.lora_dropout > 0.0, threads, tile());
        if lora.use_dora {
            footprint = footprint.with_dora(&slots);
        }
        let rope = 4 * rows.longest * c.head_dim;
        let asked = Asked {
            recipe: config.recipe,
            batch_size: config.batch_size,
            longest: rows.longest,
            mean: rows.mean,
            micro_batch: config.micro_batch,
            settled: None,
            recompute: config.recompute,
            memory_limit: config.memory_limit.map(|b| b as usize),
            resident_limit: config.resident_limit.map(|b| b as usize),
            streamed: weights.streamed,
            fixed: FIXED + threads * PER_THREAD + rope + EXAMPLE * rows.examples,
            weights: weights.bytes,
            vocab: c.vocab_size,
        };
        Ok(Needs {
            footprint,
            asked,
            hidden: c.hidden_size,
            queries: c.num_layers * c.num_heads * c.head_dim,
            linears: c.linears().iter().map(|l| l.in_features * l.out_features).sum(),
        })
    }

    /// Operations of a group's floor without those of attention within its rows, 1e9.
    pub fn gflop(&self, tokens: f64, supervised: f64) -> f64 {
        let head = (self.hidden * self.asked.vocab) as f64;
        let (linears, adapter) = (self.linears as f64, self.footprint.parameters as f64);
        1e-9 * ((4.0 * linears + 6.0 * adapter) * tokens + 4.0 * head * supervised)
    }

    /// With attention, as if its rows were as long as the longest.
    pub fn step_gflop(&self, rows: GroupRows) -> f64 {
        let squares = rows.tokens as f64 * rows.longest as f64 / 2.0;
        self.gflop(rows.tokens as f64, rows.supervised as f64) + 12e-9 * self.queries as f64 * squares
    }

    /// Bytes of a group of these rows.
    pub fn parts(&self, rows: GroupRows, choice: &Choice) -> Parts {
        let kept = self.footprint.kept_blocks(choice.keep, rows, choice.cut.loss_chunk);
        self.footprint.group(rows, kept, choice.cut.loss_chunk)
    }

    /// Bytes held beside groups.
    pub fn held(&self) -> usize {
        self.asked.fixed + self.footprint.adapter_bytes()
    }

    /// The choice, or what it would need instead.
    pub fn choose(&self) -> Result<Choice, Short> {
        choose(&self.footprint, &self.asked)
    }
}

/// Bytes of an element of the weights, from the bytes of all: embedding, head and linears are nearly all.
fn element(c: &DecoderConfig, weights: usize) -> f64 {
    let linears: usize = c.linears().iter().map(|l| l.in_features * l.out_features).sum();
    let tables = c.vocab_size * c.hidden_size * if c.tie_word_embeddings { 1 } else { 2 };
    weights as f64 / (linears + tables).max(1) as f64
}

fn weights_a_block(c: &DecoderConfig, weights: usize) -> usize {
    let first = c.linears().iter().filter(|l| l.layer == 0).map(|l| l.in_features * l.out_features).sum::<usize>();
    (first as f64 * element(c, weights)) as usize
}

fn head_bytes(c: &DecoderConfig, weights: usize) -> usize {
    ((c.vocab_size * c.hidden_size) as f64 * element(c, weights)) as usize
}

/// Query rows of an attention tile.
fn tile() -> usize {
    crate::ops::EngineOptions::default().attention_tile
}

/// The slots that the run's adapter will have, and its settings.
fn slots(config: &TrainConfig, c: &DecoderConfig) -> Result<(Slots, LoraConfig)> {
    let linears = c.linears();
    if let Some(dir) = &config.init_adapter {
        let file = load_adapter(dir)?;
        if let Some(said) = &config.lora {
            let on = |l: &'_ LinearShape| file.modules.contains_key(&l.module);
            check_initial(said, &file.config, linears.iter().map(|l| (l.module.as_str(), on(l))))?;
        }
        let of = |l: &LinearShape| file.modules.get(&l.module).map(|m| (l.layer, m.in_features, m.out_features, m.r));
        let lora = in_training(config.lora.as_ref(), Some(&file.config));
        return Ok((linears.iter().filter_map(of).collect(), lora));
    }
    let lora = in_training(config.lora.as_ref(), None);
    lora.check_against(linears.iter().map(|l| (l.layer, l.module.as_str(), [l.out_features, l.in_features])))?;
    let adapted = linears.iter().filter(|l| lora.selects(&l.module));
    let slots = adapted.map(|l| (l.layer, l.in_features, l.out_features, lora.rank_of(&l.module))).collect();
    Ok((slots, lora))
}

/// Refuses a run that no way of running it keeps within its limit; says what each change would save.
pub(crate) fn settle(
    config: &TrainConfig,
    c: &DecoderConfig,
    weights: WeightFacts,
    threads: usize,
    rows: RowFacts,
    settled: Option<Cut>,
) -> Result<(Needs, Choice)> {
    let mut needs = Needs::new(config, c, weights, threads, rows)?;
    needs.asked.settled = settled;
    match needs.choose() {
        Ok(choice) => Ok((needs, choice)),
        Err(Short { needed }) => {
            // A run that goes on keeps its settings: there is nothing to change.
            let savings = match settled {
                None => savings(config, c, weights, threads, rows, needed)?,
                Some(_) => Vec::new(),
            };
            let mapped = needs.asked.mapped() as u64;
            let memory = config.memory_limit.unwrap_or(u64::MAX);
            let (limit, needed) = match config.resident_limit {
                Some(resident) if resident.saturating_sub(mapped) < memory => (resident, needed as u64 + mapped),
                _ => (memory, needed as u64),
            };
            Err(Error::MemoryLimit { limit, needed, savings })
        }
    }
}

/// What single changes of the settings would save. All but the number of threads change what is computed.
fn savings(
    config: &TrainConfig,
    c: &DecoderConfig,
    weights: WeightFacts,
    threads: usize,
    rows: RowFacts,
    needed: usize,
) -> Result<Vec<(String, u64)>> {
    let mut out = Vec::new();
    let mut with = |what: String, changed: TrainConfig, threads: usize, rows: RowFacts| -> Result<()> {
        // A limit that nothing fits gives the least that is needed.
        let changed = TrainConfig { memory_limit: Some(1), resident_limit: None, ..changed };
        if let Err(Short { needed: less }) = Needs::new(&changed, c, weights, threads, rows)?.choose() {
            if less < needed {
                out.push((what, (needed - less) as u64));
            }
        }
        Ok(())
    };
    if rows.longest > 16 {
        let half = rows.longest / 2;
        let shorter = RowFacts { longest: half, mean: rows.mean.min(half as f64), ..rows };
        with(format!("max_length {half} instead of {}", rows.longest), config.clone(), threads, shorter)?;
    }
    let lora = slots(config, c)?.1;
    let adapter = |lora: LoraConfig| TrainConfig { lora: Some(lora), ..config.clone() };
    if lora.r > 1 && config.init_adapter.is_none() {
        let r = lora.r / 2;
        let what = format!("lora_r {r} instead of {}", lora.r);
        with(what, adapter(LoraConfig { r, ..lora.clone() }), threads, rows)?;
    }
    match config.recipe {
        Recipe::Sftmix => {
            with("recipe ntp".into(), TrainConfig { recipe: Recipe::Ntp, ..config.clone() }, threads, rows)?;
        }
        Recipe::Ntp => {}
    }
    if config.micro_batch.is_some_and(|n| n > 1) {
        with("no micro_batch".into(), TrainConfig { micro_batch: None, ..config.clone() }, threads, rows)?;
    }
    if config.recompute == crate::config::Recompute::Off {
        let changed = TrainConfig { recompute: crate::config::Recompute::Auto, ..config.clone() };
        with("recompute auto".into(), changed, threads, rows)?;
    }
    if lora.lora_dropout > 0.0 {
        let without = LoraConfig { lora_dropout: 0.0, ..lora.clone() };
        with("lora_dropout 0".into(), adapter(without), threads, rows)?;
    }
    if lora.use_dora && config.init_adapter.is_none() {
        with("use_dora false".into(), adapter(LoraConfig { use_dora: false, ..lora.clone() }), threads, rows)?;
    }
    if threads > 1 {
        with("one thread".into(), config.clone(), 1, rows)?;
    }
    Ok(out)
}

/// Refuses limits where nobody would keep them: candle's tensors stand in no account of ours.
pub(crate) fn limits_are_kept(config: &TrainConfig, form: Form) -> Result<()> {
    let reason = "kept on the CPU only (--device cpu)";
    match (form, config.memory_limit, config.resident_limit) {
        (Form::Portable, Some(_), _) => Err(Error::config("memory_limit", reason)),
        (Form::Portable, _, Some(_)) => Err(Error::config("resident_limit", reason)),
        _ => Ok(()),
    }
}

/// Bytes that are held while rows become tokens.
pub(crate) fn building(model: &Model, threads: usize) -> usize {
    FIXED + threads * PER_THREAD + Tokenizer::expected_bytes(model.files()) + pipeline::held_bytes(threads)
}

/// Looks at the limit before anything is opened or read.
pub(crate) fn refuse_early(config: &TrainConfig, model: &Model, threads: usize) -> Result<()> {
    // Rows become tokens first.
    let building = building(model, threads);
    if let Some(limit) = config.memory_limit.filter(|&limit| limit < building as u64) {
        return Err(Error::MemoryLimit { limit, needed: building as u64, savings: Vec::new() });
    }
    if (config.memory_limit.is_none() && config.resident_limit.is_none()) || config.init_adapter.is_some() {
        return Ok(());
    }
    let weights = WeightFacts::of(model, model.weight_bytes()?)?;
    settle(config, model.config()?, weights, threads, RowFacts::least(), None)?;
    Ok(())
}
