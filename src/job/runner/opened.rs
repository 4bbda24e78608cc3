//! What a run works on, opened: model, rows, what the settings left open, and by which contents all of it is known.

use std::path::Path;

use super::begin::Begun;
use crate::base::open::{hex, Inputs, ModelHash};
use crate::base::Model;
use crate::config::{Dynamics, TrainConfig};
use crate::data::tokens::select::{open_sets, Sets};
use crate::data::tokens::TokenStore;
use crate::device;
use crate::dynamics::imported as imported_by;
use crate::error::{Error, Result};
use crate::job::control::JobControl;
use crate::job::gate::{Gate, Turn};
use crate::lora::peft::load_adapter;
use crate::memory::Charge;
use crate::model::Keep;
use crate::ops::engine::available_threads;
use crate::ops::Workers;
use crate::plan::choice::SCORE_ROWS;
use crate::plan::settle::{limits_are_kept, refuse_early, settle, RowFacts, WeightFacts, EXAMPLE};
use crate::run::{Input, Resolved, RunFile, StandsOn};
use crate::train::batches::Mixing;
use crate::train::score::Together;

/// The inputs of a run, and how it works on them.
pub(super) struct Opened {
    pub inputs: Inputs,
    pub hash: ModelHash,
    pub store: TokenStore,
    pub valid: Option<TokenStore>,
    /// Confidences of another run; they decide the halves.
    pub imported: Option<Vec<f32>>,
    /// Why it runs on the CPU where any device would do.
    pub device_instead: Option<String>,
    pub keep: Keep,
    pub together: Together,
    pub mixing: Mixing,
    pub run_file: RunFile,
    /// The rows' order, halves and confidences in the account.
    _rows: Charge,
}

impl Opened {
    /// Opens the inputs of a run that was begun in this folder. Nothing is written but what can be made again.
    ///
    /// # Errors
    /// When an input cannot be used, has other contents than the run was begun with, or needs more memory than is
    /// granted.
    pub fn new(config: &TrainConfig, model: Option<&Model>, begun: &Begun, control: &JobControl) -> Result<Opened> {
        let before = begun.before.as_ref();
        let given = config;
        // The run's own copy, once it has one, is what it starts from.
        let kept = Some(begun.folder.initial_adapter()).filter(|kept| before.is_some() && kept.exists());
        let config = &TrainConfig { init_adapter: kept.or_else(|| given.init_adapter.clone()), ..given.clone() };
        let cache = config.cache_dir.clone().unwrap_or_else(|| begun.folder.cache());
        let chosen = config.device.open()?;
        let device = device::setting(&chosen.device, chosen.form);
        let model = &model.map_or_else(|| Model::at(&config.model), |m| Ok(m.clone()))?;
        // A run that goes on takes the number it was begun with as its own setting; shared threads are what there is.
        let asked = config.threads.filter(|_| before.is_none() || !model.shares_workers());
        let mut options = model.engine_options(&chosen, asked)?;
        match before.map(|b| &b.resolved) {
            Some(r) if r.device == device => {
                match options.workers.as_ref().map(Workers::threads) {
                    None => options.threads = Some(r.threads),
                    Some(n) if n != r.threads => {
                        log::warn!("{}", elsewhere(format!("{} threads", r.threads), format!("{n} shared ones")));
                    }
                    Some(_) => {}
                }
                options.attention_tile = r.attention_tile;
            }
            Some(r) => log::warn!("{}", elsewhere(r.device, device)),
            None => {}
        }
        limits_are_kept(config, options.form)?;
        refuse_early(config, model, options.threads.unwrap_or_else(available_threads))?;
        let hash = ModelHash::start(model, &cache)?;
        let (mut inputs, tokenizer) = Inputs::open(model, options, cache)?;
        let instructions = inputs.engine.instructions();
        if let Some((was, is)) = before.and_then(|b| b.resolved.instructions.as_ref()).zip(instructions.as_ref()) {
            if was != is {
                log::warn!("{}", elsewhere(was, is));
            }
        }
        // What the run was begun with counts, whatever the file says now.
        let template = before.and_then(|b| b.chat.as_ref()).and_then(|chat| chat.template.as_deref());
        let template = template.filter(|_| config.data_options.chat_template.is_some());
        let open = |data: &Path| {
            inputs.store(&tokenizer, data, &config.data_options, template, config.max_length, &|made| {
                control.gate(Gate::Rows { made }, false) == Turn::Stop
            })
        };
        let Sets { train: store, valid } = open_sets(config, &inputs.cache_dir, open)?;
        let tokenizer_hash = hex(&tokenizer.tokenizer.content_hash());
        drop(tokenizer);
        inputs.room(&std::iter::once(&store).chain(&valid).collect::<Vec<_>>(), config.max_length)?;
        let imported = imported(config, begun, &store)?;
        let stands_on = stands_on(given, begun, (&store, valid.as_ref()), tokenizer_hash, imported.as_deref())?;
        if let Some(run) = before {
            run.stands_on.check(&stands_on, begun.folder.dir())?;
        }

        let rows = RowFacts::of(&store, valid.as_ref());
        let charge = inputs.engine.account().charge(EXAMPLE * rows.examples);
        let settled = before.map(|b| b.resolved.cut);
        let weights = WeightFacts::of(model, inputs.model.weight_bytes())?;
        let threads = inputs.engine.threads();
        let (_, choice) = settle(config, &inputs.model.config, weights, threads, rows, settled)?;
        inputs.engine.options.loss_chunk = Some(choice.cut.loss_chunk);
        if let Some(pinned) = choice.pinned {
            inputs.model.give_up_weights(pinned);
        }
        let attention_tile = inputs.engine.options.attention_tile;
        let resolved = Resolved { device, instructions, threads, cut: choice.cut, attention_tile };
        let run_file = match before.cloned() {
            Some(run) => {
                // The file says where the run goes on and what its inputs are called now; contents are as they were.
                let model = Input { hash: run.stands_on.model.hash.clone(), ..stands_on.model.clone() };
                RunFile { config: given.clone(), stands_on: StandsOn { model, ..stands_on }, ..run }
            }
            None => RunFile {
                sources: store.sources().to_vec(),
                chat: store.chat().cloned(),
                ..RunFile::new(given.clone(), resolved, stands_on, store.counts().clone())
            },
        };
        Ok(Opened {
            inputs,
            hash,
            store,
            valid,
            imported,
            device_instead: chosen.instead,
            keep: choice.keep,
            together: Together { rows: SCORE_ROWS, tokens: choice.score_tokens },
            mixing: Mixing { mu: config.mu, reduction: config.mix_reduction },
            run_file,
            _rows: charge,
        })
    }
}

/// What is said of a run that goes on where sums are rounded in another way.
fn elsewhere(was: impl std::fmt::Display, is: impl std::fmt::Display) -> String {
    format!("the run was begun on {was} and goes on on {is}: the same numbers but for rounding, not the same bits")
}

/// The confidences that the run keeps, or those of the earlier run that the settings name: where that is named anew, or
/// what is kept is damaged.
fn imported(config: &TrainConfig, begun: &Begun, store: &TokenStore) -> Result<Option<Vec<f32>>> {
    if let (Some(before), Some(kept)) = (&begun.before, begun.folder.confidence()?) {
        let hash = before.stands_on.dynamics.as_ref().and_then(|input| input.hash.as_ref());
        let whole = hash.is_none_or(|hash| *hash == confidence_hash(&kept));
        if !whole {
            log::warn!("{}: its confidences are damaged; they are imported again", begun.folder.dir().display());
        }
        if whole && before.config.dynamics == config.dynamics {
            return Ok(Some(kept));
        }
    }
    Ok(imported_by(config, store)?.map(|(confidence, _)| confidence))
}

/// The inputs by their contents; the model's hash is still being taken.
fn stands_on(
    config: &TrainConfig,
    begun: &Begun,
    (store, valid): (&TokenStore, Option<&TokenStore>),
    tokenizer: String,
    imported: Option<&[f32]>,
) -> Result<StandsOn> {
    let chosen = config.data_options.chat_template.as_deref();
    let was = begun.before.as_ref().and_then(|b| b.config.data_options.chat_template.as_deref());
    let chat_template = match (chosen, store.chat().and_then(|chat| chat.hash.clone())) {
        // Named anew: what lies there must say the same.
        (Some(path), Some(_)) if was.is_some_and(|was| was != path) => {
            let text = std::fs::read(path).map_err(Error::io(path))?;
            Some(Input::of(Some(path), crate::disk::hash_of(&text)))
        }
        (Some(path), Some(hash)) => Some(Input::of(Some(path), hash)),
        _ => None,
    };
    let init_adapter = match &config.init_adapter {
        Some(dir) => {
            // The run's own copy is what it trains from; the original, while it is there, says whether it is still meant.
            let kept = begun.folder.initial_adapter();
            let anew = begun.before.as_ref().is_none_or(|b| b.config.init_adapter.as_ref() != Some(dir));
            let from = if anew || dir.exists() { dir } else { &kept };
            Some(Input::of(Some(dir), hex(&load_adapter(from)?.content_hash())))
        }
        None => None,
    };
    Ok(StandsOn {
        model: Input { path: Some(config.model.clone()), hash: None },
        tokenizer: Input::of(None, tokenizer),
        data: Input::of(config.data.only(), hex(&store.hash())),
        valid: valid.map(|v| Input::of(config.valid.as_deref(), hex(&v.hash()))),
        init_adapter,
        chat_template,
        dynamics: match &config.dynamics {
            Dynamics::Path(path) => imported.map(|c| Input::of(Some(path), confidence_hash(c))),
            _ => None,
        },
    })
}

/// What imported confidences are known by: the numbers themselves.
fn confidence_hash(confidence: &[f32]) -> String {
    let mut hasher = blake3::Hasher::new();
    confidence.iter().for_each(|c| {
        hasher.update(&c.to_le_bytes());
    });
    hasher.finalize().to_hex().to_string()
}
