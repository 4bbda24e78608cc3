//! What a run will take, before it is begun: memory by part, tokens, time, and whether it stays within the
//! limit.

pub mod choice;
pub mod footprint;
pub mod forecast;
pub mod settle;

use std::path::Path;

use serde::Serialize;

use self::forecast::{forecast, Forecast};
use self::settle::{building, settle, RowFacts, WeightFacts};
use crate::base::Model;
use crate::config::TrainConfig;
use crate::data::tokens::select::{open_sets, Sets};
use crate::data::tokens::StoreRequest;
use crate::data::tokens::TokenStore;
use crate::dynamics::imported;
use crate::error::{Error, Result};
use crate::ops::{Engine, EngineOptions};
use crate::rate::reference_rate;
use crate::recipe::StagePlan;

/// Share of the machine's f32 rate that steps reach, in f32 and with matrix units (docs/performance.md).
const REACHED: [f64; 2] = [0.75, 1.1];

/// Bytes by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PlannedMemory {
    /// Threads, tables, the rows' order, halves and confidences.
    pub fixed: u64,
    /// The adapter, its gradients and its two moments.
    pub adapter: u64,
    /// Activations kept between the passes.
    pub activations: u64,
    /// Held beside that while a block or the loss runs.
    pub working: u64,
}

/// What a run will take.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RunPlan {
    /// Whether it stays within the limit; without one it does.
    pub fits: bool,
    /// Bytes that were granted.
    pub memory_limit: Option<u64>,
    /// Most bytes at once; where the run does not fit, the least that would be needed.
    pub predicted_peak_bytes: u64,
    /// By part, where it fits.
    pub memory: Option<PlannedMemory>,
    /// Where it does not: changes that would need less, and the bytes that each saves.
    pub savings: Vec<(String, u64)>,
    /// Examples.
    pub examples: u64,
    /// Tokens of an epoch.
    pub tokens: u64,
    /// Supervised ones of these.
    pub supervised_tokens: u64,
    /// Tokens of the longest row.
    pub longest: u64,
    /// Optimizer steps of all stages.
    pub steps: u64,
    /// Most rows that run together.
    pub micro_batch: Option<u64>,
    /// Tokens that they have together at most, unless one row has more; absent is no limit.
    pub micro_tokens: Option<u64>,
    /// Mean share of the blocks that keep their activations.
    pub blocks_kept: Option<f64>,
    /// Positions whose logits exist at once.
    pub loss_chunk: Option<u64>,
    /// Operations that no exact implementation avoids, 1e9.
    pub gflop: Option<f64>,
    /// f32 products of this machine, 1e9 operations a second.
    pub sgemm_gflops: Option<f64>,
    /// About how long the run will take.
    pub seconds: Option<f64>,
}

/// Plans a run. Rows are read and tokenised, and kept for the run, as it would do; the model's weights are not
/// opened.
///
/// # Errors
/// When a setting is out of range, or model or data cannot be used. That a run does not fit is no error.
pub fn plan(config: &TrainConfig) -> Result<RunPlan> {
    plan_on(&Model::at(&config.model)?, config)
}

/// As [`plan`], on a model that is open; the one that `config` names is not looked at.
///
/// # Errors
/// As [`plan`].
pub fn plan_on(model: &Model, config: &TrainConfig) -> Result<RunPlan> {
    let config = &TrainConfig { model: model.path().to_path_buf(), ..config.clone() }.with_data_files()?;
    config.validate()?;
    config.dynamics.check_there()?;
    let c = model.config()?;
    let threads = model.threads(config.threads)?;
    let cache_dir = config.cache_dir.clone().unwrap_or_else(|| config.out.join("cache"));
    let tokenizer = model.tokenizer()?;
    let open = |data: &Path| {
        TokenStore::open_or_build(&StoreRequest {
            data,
            options: &config.data_options,
            template: None,
            tokenizer: &tokenizer,
            max_length: config.max_length,
            cache_dir: &cache_dir,
            threads,
            stop: &|_| false,
        })
    };
    let Sets { train: store, valid } = open_sets(config, &cache_dir, open)?;
    drop(tokenizer);
    let rows = RowFacts::of(&store, valid.as_ref());
    let imported = imported(config, &store)?;
    let stages = StagePlan::new(config, store.len() as u64, imported.map_or(0, |(_, unmatched)| unmatched))?;
    let mut out = RunPlan {
        fits: true,
        memory_limit: config.memory_limit,
        predicted_peak_bytes: 0,
        memory: None,
        savings: Vec::new(),
        examples: store.len() as u64,
        tokens: store.total_tokens(),
        supervised_tokens: store.supervised_tokens(),
        longest: rows.longest as u64,
        steps: stages.steps(),
        micro_batch: None,
        micro_tokens: None,
        blocks_kept: None,
        loss_chunk: None,
        gflop: None,
        sgemm_gflops: None,
        seconds: None,
    };
    // A run is refused by it before it reads a row.
    let building = building(model, threads) as u64;
    if config.memory_limit.is_some_and(|limit| limit < building) {
        (out.fits, out.predicted_peak_bytes) = (false, building);
        return Ok(out);
    }
    let (needs, choice) = match settle(config, c, WeightFacts::of(model, model.weight_bytes()?)?, threads, rows, None) {
        Ok(settled) => settled,
        Err(Error::MemoryLimit { needed, savings, .. }) => {
            (out.fits, out.predicted_peak_bytes, out.savings) = (false, needed, savings);
            return Ok(out);
        }
        Err(e) => return Err(e),
    };
    let Forecast { most, gflop, blocks_kept } = forecast(config, &needs, &choice, &stages.stages, &store);
    out.predicted_peak_bytes = (needs.held() + most.total()) as u64;
    out.memory = Some(PlannedMemory {
        fixed: needs.asked.fixed as u64,
        adapter: needs.footprint.adapter_bytes() as u64,
        activations: most.kept as u64,
        working: most.working as u64,
    });
    out.micro_batch = Some(choice.cut.micro_batch as u64);
    out.micro_tokens = choice.cut.micro_tokens.map(|t| t as u64);
    out.blocks_kept = Some(blocks_kept);
    out.loss_chunk = Some(choice.cut.loss_chunk as u64);
    out.gflop = Some(gflop);
    let engine = Engine::new(EngineOptions { threads: Some(threads), ..Default::default() })?;
    let block: Vec<(usize, usize)> =
        c.linears().iter().filter(|l| l.layer == 0).map(|l| (l.out_features, l.in_features)).collect();
    let rate = reference_rate(&engine, block)?;
    out.sgemm_gflops = Some(rate);
    // Blocks that keep nothing run forward twice.
    let reached = REACHED[engine.matrix_units() as usize] * rate;
    out.seconds = Some(gflop / reached * (1.0 + 0.42 * (1.0 - blocks_kept)));
    Ok(out)
}
