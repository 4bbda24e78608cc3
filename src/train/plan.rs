//! What the settings leave open, chosen from settings and shapes, never from free memory.

use crate::config::{Recipe, Recompute};
use crate::model::{Decoder, Keep};

/// Bytes of activations that may be kept between the passes, at least.
const KEEP: usize = 512 << 20;
/// Tokens from which on the products of a micro-batch lose little to reading and converting the weights.
const ENOUGH: usize = 512;
/// Tokens beyond which a micro-batch gains nothing.
const MANY: usize = 4096;

/// The settings that the choice depends on.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// What is computed.
    pub recipe: Recipe,
    /// Rows of an optimizer step.
    pub batch_size: usize,
    /// Longest row that there is, tokens.
    pub longest: usize,
    /// Rows whose blocks run together, when given.
    pub micro_batch: Option<usize>,
    /// Keep activations or run blocks twice.
    pub recompute: Recompute,
}

/// What was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Most rows whose blocks run together.
    pub micro_batch: usize,
    /// Tokens that they have together at most, unless one row has more.
    pub micro_tokens: usize,
    /// What is kept for the backward pass.
    pub keep: Keep,
}

/// How steps are cut into micro-batches, and what these keep.
pub fn choose(model: &Decoder, asked: Asked) -> Choice {
    // Larger models are held by larger machines, and gain more by more tokens at a time.
    let budget = KEEP.max(model.weight_bytes() / 2);
    let keep = match asked.recompute {
        Recompute::On => Keep::INPUTS,
        Recompute::Off => Keep::ALL,
        Recompute::Auto => Keep::Within(budget),
    };
    if let Some(rows) = asked.micro_batch {
        return Choice { micro_batch: rows, micro_tokens: usize::MAX, keep };
    }
    // As many tokens as can keep everything, if those are enough; a pair's rows are held together.
    let whole = budget / model.kept_bytes(1, usize::MAX).max(1);
    let micro_tokens = match keep {
        Keep::Within(_) if whole >= ENOUGH => whole.min(MANY),
        _ => MANY,
    };
    let rows = asked.batch_size.max(1);
    let alone = asked.recipe == Recipe::Sftmix && 2 * asked.longest > micro_tokens && rows == 2;
    Choice { micro_batch: if alone { 1 } else { rows }, micro_tokens, keep }
}
