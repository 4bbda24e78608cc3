//! What the settings leave open, chosen from settings and shapes and the memory that is granted, never from
//! free memory: how many tokens run together, which blocks keep their activations, how many positions the loss
//! takes at a time. None of it changes what is computed.

use super::footprint::Footprint;
use crate::config::{Recipe, Recompute};
use crate::model::Keep;
use crate::steps::cut::{Cut, GroupRows};

/// Bytes that are used where no limit is given, at least: a workstation has as much to spare.
const USUAL: usize = 640 << 20;
/// Tokens beyond which a micro-batch gains nothing.
const MANY: usize = 4096;
/// What a product costs beside its rows, in rows: packing the weights.
const PACKING: f64 = 24.0;
/// Share of a step that a second forward pass through all blocks adds.
const TWICE: f64 = 0.42;
/// Share of a step that is the loss.
const LOSS: f64 = 0.15;
/// Positions that the loss may take at a time.
const CHUNKS: [usize; 11] = [512, 384, 256, 192, 128, 96, 64, 48, 32, 16, 8];
/// Bytes of logits beyond which more positions at a time gain nothing.
const LOGITS: usize = 64 << 20;
/// Bytes of the program itself that are resident.
const PROGRAM: usize = 24 << 20;
/// Tokens of a forward pass that keeps nothing.
const SCORED: [usize; 5] = [2048, 1024, 512, 256, 128];

/// Rows of a forward pass that keeps nothing.
pub(crate) const SCORE_ROWS: usize = 32;

/// What the choice depends on.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// What is computed.
    pub recipe: Recipe,
    /// Rows of an optimizer step.
    pub batch_size: usize,
    /// Longest row that there is, tokens.
    pub longest: usize,
    /// Mean length of a row, tokens.
    pub mean: f64,
    /// Rows whose blocks run together, when given.
    pub micro_batch: Option<usize>,
    /// How a run that goes on was begun: what decides bits stays.
    pub settled: Option<Cut>,
    /// Recompute, when asked for.
    pub recompute: Recompute,
    /// Bytes that the library may hold in all.
    pub memory_limit: Option<usize>,
    /// Bytes that the process may have resident in all.
    pub resident_limit: Option<usize>,
    /// Bytes of a block's weights and of the head's.
    pub streamed: (usize, usize),
    /// Bytes that it holds beside the adapter and the rows in work.
    pub fixed: usize,
    /// Bytes of the base's weights, as they are stored.
    pub weights: usize,
    /// Tokens of the model's vocabulary.
    pub vocab: usize,
}

/// What was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// How rows are cut.
    pub cut: Cut,
    /// What is kept for the backward pass.
    pub keep: Keep,
    /// Tokens that run together in a forward pass that keeps nothing, unless one row has more.
    pub score_tokens: usize,
    /// Blocks from the top whose weights stay in memory, where the others' are given up.
    pub pinned: Option<usize>,
}

/// No choice stays within the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    /// Bytes that the smallest choice needs.
    pub needed: usize,
}

impl Asked {
    /// Bytes that are resident while the head is read, or a block and the next one, beside what is held.
    pub fn mapped(&self) -> usize {
        let (block, head) = self.streamed;
        head.max(2 * block) + PROGRAM
    }

    /// Bytes that the library may hold.
    pub fn granted(&self) -> usize {
        // Larger models are held by larger machines, and gain more by more tokens at a time.
        let usual = self.memory_limit.unwrap_or(USUAL.max(self.weights / 4 * 3));
        self.resident_limit.map_or(usual, |r| usual.min(r.saturating_sub(self.mapped())))
    }

    /// The rows of a group of up to `tokens` tokens that run together.
    fn rows(&self, tokens: usize) -> GroupRows {
        // A pair that is more than may run together runs row by row and is held until its loss.
        let pair = match self.recipe {
            Recipe::Sftmix => 2 * self.longest,
            Recipe::Ntp => 0,
        };
        let held = tokens.max(pair);
        GroupRows { tokens: held, together: tokens.min(held), longest: self.longest, supervised: held }
    }

    /// Tokens that may run together, largest first.
    fn sizes(&self) -> Vec<usize> {
        let all = self.batch_size.max(1) * self.longest;
        let of = |rows: usize| rows.clamp(1, self.batch_size.max(1)) * self.longest;
        if let Some(s) = self.settled {
            return vec![of(s.micro_batch).min(s.micro_tokens().max(self.longest))];
        }
        if let Some(rows) = self.micro_batch {
            return vec![of(rows)];
        }
        let mut sizes = Vec::new();
        let mut n = all.min(MANY.max(self.longest));
        while n > self.longest {
            sizes.push(n);
            n -= (n / 16).max(1);
        }
        sizes.push(self.longest);
        sizes
    }

    /// Relative time of a step.
    fn cost(&self, f: &Footprint, tokens: usize, keep: Keep, chunk: usize) -> f64 {
        let step = (self.batch_size as f64 * self.mean).max(1.0);
        let usual = step / (step / tokens as f64).ceil();
        let rows = GroupRows { tokens: usual as usize, together: usual as usize, ..self.rows(tokens) };
        let kept = f.kept_blocks(keep, rows, chunk) as f64 / f.blocks().max(1) as f64;
        let positions = (chunk as f64).min(usual);
        // Of equals the smaller.
        (1.0 + PACKING / usual) * (1.0 + TWICE * (1.0 - kept)) + LOSS * PACKING / positions + 1e-7 * tokens as f64
    }
}

/// Chooses; where no limit is given, the smallest choice is taken rather than none.
///
/// # Errors
/// [`Short`] when nothing stays within the limit.
pub fn choose(f: &Footprint, asked: &Asked) -> Result<Choice, Short> {
    let held = asked.fixed + f.adapter_bytes();
    let limited = asked.memory_limit.is_some() || asked.resident_limit.is_some();
    // Which thread takes its scratch first decides which gap it fills: a little is left for that.
    let room = asked.granted().saturating_sub(held) / 64 * 63;
    let keep = |tokens: usize, chunk: usize| match asked.recompute {
        Recompute::On => Keep::INPUTS,
        Recompute::Off => Keep::ALL,
        Recompute::Auto => Keep::Within(room.saturating_sub(f.group(asked.rows(tokens), 0, chunk).working)),
    };
    let least = |tokens: usize, chunk: usize| {
        let kept = if asked.recompute == Recompute::Off { f.blocks() } else { 0 };
        f.group(asked.rows(tokens), kept, chunk).total()
    };
    let most = (LOGITS / (4 * asked.vocab.max(1))).clamp(32, 512);
    let chunks = match asked.settled {
        Some(s) => vec![s.loss_chunk],
        None => CHUNKS.iter().map(|c| *c.min(&most)).collect(),
    };
    let mut best: Option<(f64, usize, usize)> = None;
    let mut smallest = (usize::MAX, asked.longest, CHUNKS[CHUNKS.len() - 1]);
    for tokens in asked.sizes() {
        for &chunk in &chunks {
            let bytes = least(tokens, chunk);
            smallest = smallest.min((bytes, tokens, chunk));
            if bytes > room {
                continue;
            }
            let cost = asked.cost(f, tokens, keep(tokens, chunk), chunk);
            if best.is_none_or(|b| cost < b.0) {
                best = Some((cost, tokens, chunk));
            }
        }
    }
    let (tokens, loss_chunk) = match best {
        Some((_, tokens, chunk)) => (tokens, chunk),
        None if limited => return Err(Short { needed: held + smallest.0 / 63 * 64 + 64 }),
        None => (smallest.1, smallest.2),
    };
    let (rows, keep) = (asked.rows(tokens), keep(tokens, loss_chunk));
    let trains = f.group(rows, f.kept_blocks(keep, rows, loss_chunk), loss_chunk);
    let most = held + trains.total();
    let left = asked.resident_limit.map(|r| r.saturating_sub(asked.mapped() + most));
    let pinned = left.map(|bytes| bytes / asked.streamed.0.max(1));
    let score_rows = |n: usize| GroupRows { tokens: n, together: n, longest: asked.longest, supervised: n };
    let fits = |n: &usize| trains.max(f.scoring(score_rows((*n).max(asked.longest)), loss_chunk)).total() <= room;
    let made = Cut {
        micro_batch: asked.micro_batch.unwrap_or(asked.batch_size).clamp(1, asked.batch_size.max(1)),
        micro_tokens: if asked.micro_batch.is_some() { None } else { Some(tokens) },
        loss_chunk,
    };
    Ok(Choice {
        cut: asked.settled.unwrap_or(made),
        keep,
        pinned,
        score_tokens: SCORED.into_iter().find(fits).unwrap_or(asked.longest),
    })
}
