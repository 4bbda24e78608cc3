//! How much memory rows need: what the operations of a group lend from the pool at once, as a function of
//! shapes. The order in which blocks take and give back buffers stands in `model/block.rs`; a test holds this
//! against what the account says.
//!
//! Letters as in `ops`: C hidden, F intermediate, Q and K the widths of queries and keys, V vocabulary, R rank.

use crate::family::DecoderConfig;
use crate::family::QkNorm;
use crate::kernels::cpu::attention;
use crate::kernels::cpu::attention::Shape;
use crate::kernels::cpu::product::scratch_floats;
use crate::model::Adapter;
use crate::model::Keep;
use crate::ops::{dora, Engine};
use crate::steps::cut::GroupRows;

/// What footprints depend on beside the rows.
#[derive(Clone, Debug)]
pub struct Footprint {
    hidden: usize,
    inner: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    head_dim: usize,
    grouped: bool,
    /// q, k and v are the parts of one product, gate and up of another.
    fused: bool,
    /// The gradient of a branch is not that of the sum.
    apart: bool,
    vocab: usize,
    /// Blocks from the lowest adapted one up.
    blocks: usize,
    /// Floats a token that a block saves.
    saved: usize,
    /// Largest rank.
    rank: usize,
    /// Widest output of an adapted linear, times its rank.
    widest: usize,
    dropout: bool,
    /// DoRA's magnitudes; 0 without them.
    magnitudes: usize,
    /// Parameters of the adapter.
    pub parameters: usize,
    threads: usize,
    tile: usize,
}

/// The linears that carry an adapter, as (block, inputs, outputs, rank).
pub type Slots = Vec<(usize, usize, usize, usize)>;

/// Bytes of a group, by what they are for: each in maps of its own, so the most of each adds up, whichever
/// groups need them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Kept between the passes.
    pub kept: usize,
    /// Held beside that while a block or the loss runs.
    pub working: usize,
}

impl Parts {
    /// The most of each.
    pub fn max(self, other: Parts) -> Parts {
        Parts { kept: self.kept.max(other.kept), working: self.working.max(other.working) }
    }

    /// Both.
    pub fn total(&self) -> usize {
        self.kept + self.working
    }
}

impl Footprint {
    /// Of a model of this config whose adapter has these slots.
    pub fn new(c: &DecoderConfig, slots: &Slots, dropout: bool, threads: usize, tile: usize) -> Footprint {
        let (queries, keys) = (c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim);
        let rank = slots.iter().map(|s| s.3).max().unwrap_or(0);
        // The t of all linears but the last, which is made again.
        let t = if c.fused { 3 } else { 6 } * rank;
        let raw = if c.qk_norm == QkNorm::None { 0 } else { queries + keys };
        let branches = if c.norms.after { 2 * c.hidden_size } else { 0 };
        let fixed = 2 * c.hidden_size + raw + 2 * queries + 2 * keys + c.num_heads + 2 * c.intermediate_size + branches;
        Footprint {
            hidden: c.hidden_size,
            inner: c.intermediate_size,
            queries,
            keys,
            heads: c.num_heads,
            head_dim: c.head_dim,
            grouped: c.num_heads != c.num_kv_heads,
            fused: c.fused,
            apart: c.norms.after || c.residual_scale != 1.0,
            vocab: c.vocab_size,
            blocks: c.num_layers - slots.iter().map(|s| s.0).min().unwrap_or(c.num_layers),
            saved: fixed + t,
            rank,
            widest: slots.iter().map(|s| s.2 * s.3).max().unwrap_or(0),
            dropout,
            magnitudes: 0,
            parameters: slots.iter().map(|s| (s.1 + s.2) * s.3).sum(),
            threads,
            tile,
        }
    }

    /// The same with magnitudes on these slots.
    pub fn with_dora(mut self, slots: &Slots) -> Footprint {
        self.magnitudes = slots.iter().map(|s| s.2).sum();
        self.parameters += self.magnitudes;
        // The z of all linears but the last, which is made again.
        let z = |block: usize| {
            let here = || slots.iter().filter(|s| s.0 == block);
            let last = here().any(|s| (s.1, s.2) == (self.inner, self.hidden)) as usize;
            here().map(|s| s.2).sum::<usize>() - last * self.hidden
        };
        self.saved += slots.iter().map(|s| z(s.0)).max().unwrap_or(0);
        self
    }

    /// Of an adapter in use.
    pub fn of(engine: &Engine, c: &DecoderConfig, adapter: &Adapter) -> Footprint {
        let slots = adapter.slots.iter().zip(adapter.layers()).map(|(s, &l)| (l, s.in_features, s.out_features, s.r));
        let slots: Slots = slots.collect();
        let dropout = adapter.slots.iter().any(|s| s.dropout > 0.0);
        let f = Footprint::new(c, &slots, dropout, engine.threads(), engine.options.attention_tile);
        match adapter.slots.iter().any(|s| s.dora.is_some()) {
            true => f.with_dora(&slots),
            false => f,
        }
    }

    /// Blocks that can keep their activations.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Bytes of weights, gradients and two moments, and of an inverse norm beside each magnitude.
    pub fn adapter_bytes(&self) -> usize {
        16 * self.parameters + 4 * self.magnitudes
    }

    /// Bytes of a group when the top `kept` blocks keep everything and the loss runs over `chunk` positions at
    /// a time.
    pub fn group(&self, rows: GroupRows, kept: usize, chunk: usize) -> Parts {
        let GroupRows { tokens: t, together: n, longest, supervised: s } = rows;
        let (c, f) = (self.hidden, self.inner);
        // The top block is never run twice.
        let whole = kept.clamp(self.blocks.min(1), self.blocks);
        // Every pass keeps its output until its backward pass.
        let last = if self.magnitudes > 0 { n * c } else { 0 };
        let mut kept = t * (whole * self.saved + (self.blocks - whole + 1) * c) + last;
        if self.fused {
            // A fused product stands whole until it is split.
            kept += n * (2 * f).max(self.queries + 2 * self.keys);
        }
        let scores = self.attention(longest);
        let product = self.product(n);
        let masked = if self.dropout { n * f } else { 0 };
        // With magnitudes: what dropout took away times W; a part of the adapted weight; the scaled gradient.
        let (apart, rows, under) = match (self.magnitudes, self.dropout) {
            (0, _) => (0, 0, 0),
            (_, dropout) => (if dropout { n * f } else { 0 }, dora::ROWS * f.max(c), n * c),
        };
        let forward = n * f.max(c) + masked + apart + rows.max(product);
        let parts = if self.fused { 2 * self.keys } else { 0 };
        let branch = if self.apart || self.fused { c } else { 0 };
        let backward = s * c + n * (c + branch + 2 * f + 2 * self.rank) + masked + under + self.widest + product;
        let spread = if self.grouped { 2 * self.queries } else { 0 };
        let attention = s * c + n * (c + 2 * self.queries + 2 * self.keys + parts + self.heads + spread) + scores;
        let k = chunk.min(s);
        let loss = 3 * s * c + k * (c + self.vocab) + self.head_product(k);
        let working = [forward, n * c + scores, backward, attention, loss].into_iter().max().unwrap_or(0);
        Parts { kept: 4 * kept, working: 4 * working }
    }

    /// Bytes of a forward pass that keeps nothing.
    pub fn scoring(&self, rows: GroupRows, chunk: usize) -> Parts {
        let GroupRows { together: n, longest, supervised: s, .. } = rows;
        let (c, f) = (self.hidden, self.inner);
        let k = chunk.min(s);
        let loss = 2 * s * c + k * (c + self.vocab) + self.head_product(k);
        let (rows, last) = if self.magnitudes > 0 { (dora::ROWS * f.max(c), c) } else { (0, 0) };
        let forward = n * f.max(c) + rows.max(self.product(n));
        let working = forward.max(n * c + self.attention(longest)).max(loss);
        Parts { kept: 4 * n * (self.saved + c + last), working: 4 * working }
    }

    /// How many blocks from the top can keep their activations.
    pub fn kept_blocks(&self, keep: Keep, rows: GroupRows, chunk: usize) -> usize {
        match keep {
            Keep::Nothing => 0,
            Keep::Top(k) => k.min(self.blocks),
            Keep::Within(bytes) => {
                (0..=self.blocks).rev().find(|&k| self.group(rows, k, chunk).kept <= bytes).unwrap_or(0)
            }
        }
    }

    /// Scratch of attention over rows of up to `n` tokens on every thread.
    fn attention(&self, n: usize) -> usize {
        let (heads, head_dim) = (self.heads, self.head_dim);
        let shape =
            Shape { heads, kv_heads: heads, head_dim, scale: 1.0, softcap: None, window: None, tile: self.tile };
        self.threads * attention::scratch_floats(shape, n)
    }

    /// Scratch of a block's products with `m` rows on every thread.
    fn product(&self, m: usize) -> usize {
        self.threads * scratch_floats(m, self.hidden.max(self.inner).max(self.queries))
    }

    /// The same of the head's, for the loss.
    fn head_product(&self, m: usize) -> usize {
        self.threads * scratch_floats(m, self.hidden.max(self.vocab))
    }
}
