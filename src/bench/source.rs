//! Where a bench's rows come from.

use super::config::BenchConfig;
use super::own::OwnRows;
use super::rows::{Row, RowShape};
use crate::base::Model;
use crate::error::Result;
use crate::plan::settle::RowFacts;

/// Rows of random tokens, or of a file.
pub(super) enum Rows {
    Drawn(RowShape),
    Own(Box<OwnRows>),
}

impl Rows {
    /// The rows that a bench of this model runs.
    pub fn open(config: &BenchConfig, model: &Model) -> Result<Rows> {
        Ok(match &config.data {
            Some(data) => Rows::Own(Box::new(OwnRows::open(config, model, data)?)),
            None => {
                let vocab = model.config()?.vocab_size;
                Rows::Drawn(RowShape { seed: config.seed, packed: config.packed, seq: config.seq, vocab })
            }
        })
    }

    /// The rows of step `step`.
    pub fn batch(&self, step: u64, batch_size: usize) -> Vec<Row> {
        match self {
            Rows::Drawn(shape) => shape.batch(step, batch_size),
            Rows::Own(own) => own.batch(step, batch_size),
        }
    }

    /// Their lengths.
    pub fn facts(&self) -> RowFacts {
        match self {
            Rows::Drawn(shape) => RowFacts { examples: 0, longest: shape.seq, mean: shape.mean() },
            Rows::Own(own) => own.facts(),
        }
    }
}
