//! What the settings leave open, chosen from settings and shapes, never from free memory.

use crate::config::{Recipe, Recompute};
use crate::model::Decoder;

/// Bytes of kept activations above which `recompute auto` runs blocks twice.
const KEEP_LIMIT: usize = 512 << 20;

/// The settings that the choice depends on.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// What is computed.
    pub recipe: Recipe,
    /// Rows of an optimizer step.
    pub batch_size: usize,
    /// Longest row that is allowed, tokens.
    pub max_length: usize,
    /// Longest row that there is, tokens.
    pub longest: usize,
    /// Rows whose blocks run together, when given.
    pub micro_batch: Option<usize>,
    /// Keep activations or run blocks twice.
    pub recompute: Recompute,
}

/// Rows whose blocks run together, and whether blocks run forward twice.
pub fn choose(model: &Decoder, asked: Asked) -> (usize, bool) {
    // About 4,096 tokens of the longest rows: enough to amortise the reading of the weights.
    let micro_batch =
        asked.micro_batch.unwrap_or_else(|| (4096 / asked.max_length.max(1)).clamp(1, asked.batch_size.max(1)));
    // A pair that runs row by row holds both rows until their loss.
    let held = if micro_batch == 1 && asked.recipe == Recipe::Sftmix { 2 } else { micro_batch };
    let recompute = match asked.recompute {
        Recompute::On => true,
        Recompute::Off => false,
        Recompute::Auto => model.kept_bytes(held * asked.longest) > KEEP_LIMIT,
    };
    (micro_batch, recompute)
}
