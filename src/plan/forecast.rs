//! What a run will need: its steps replayed by the lengths of their rows.

use super::choice::Choice;
use super::choice::SCORE_ROWS;
use super::footprint::Parts;
use super::settle::Needs;
use crate::config::{Recipe, TrainConfig};
use crate::data::tokens::TokenStore;
use crate::recipe::Halves;
use crate::recipe::PlannedStage;
use crate::steps::cut::{group_shapes, GroupRows};
use crate::steps::stage::StageRun;

/// Steps that are replayed of each stage: more hardly find a larger group.
const REPLAYED: u64 = 20_000;

/// What a run will need.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Forecast {
    /// Most bytes of the groups.
    pub most: Parts,
    /// Operations of all steps' floors and of the sweeps, 1e9.
    pub gflop: f64,
    /// Mean share of the blocks that keep their activations.
    pub blocks_kept: f64,
}

/// Replays a run. Which rows are confident is not known before the reference run: the halves are taken by the
/// rows' order instead, whose groups are as large.
pub(crate) fn forecast(
    config: &TrainConfig,
    needs: &Needs,
    choice: &Choice,
    stages: &[PlannedStage],
    store: &TokenStore,
) -> Forecast {
    let (footprint, chunk) = (&needs.footprint, choice.cut.loss_chunk);
    let mut f = Forecast::default();
    let (mut kept_blocks, mut groups) = (0usize, 0usize);
    let order: Vec<f32> = match config.recipe {
        Recipe::Sftmix => (0..store.len()).map(|i| (i % 2) as f32).collect(),
        Recipe::Ntp => Vec::new(),
    };
    let halves = Halves::split(&order).ok();
    for stage in StageRun::from_plan(stages) {
        let replayed = stage.steps.min(REPLAYED);
        let mut rows = crate::steps::stage::EpochRows::default();
        let mut gflop = 0.0;
        for step in 0..replayed {
            let taken = rows.step(&stage, config, store.len() as u32, step, halves.as_ref());
            for rows in group_shapes(store, &taken, choice.cut) {
                let blocks = footprint.kept_blocks(choice.keep, rows, chunk);
                f.most = f.most.max(footprint.group(rows, blocks, chunk));
                kept_blocks += blocks;
                groups += 1;
                gflop += needs.step_gflop(rows);
            }
        }
        f.gflop += gflop * stage.steps as f64 / replayed.max(1) as f64;
    }
    let sweeps = stages.iter().filter(|s| matches!(s, PlannedStage::Sweep { .. })).count();
    if sweeps > 0 || config.has_valid() {
        let tokens = choice.score_tokens.max(needs.asked.longest).min(SCORE_ROWS * needs.asked.longest);
        let rows = GroupRows { tokens, together: tokens, longest: needs.asked.longest, supervised: tokens };
        f.most = f.most.max(footprint.scoring(rows, chunk));
    }
    // A forward pass is 0.48 of a step's floor.
    f.gflop += 0.48 * sweeps as f64 * needs.gflop(store.total_tokens() as f64, store.supervised_tokens() as f64);
    f.blocks_kept = kept_blocks as f64 / (groups.max(1) * footprint.blocks().max(1)) as f64;
    f
}
