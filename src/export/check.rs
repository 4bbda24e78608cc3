//! Logits side by side: what was written, read again, against the adapter it was made from.

use std::path::Path;

use serde::Serialize;

use crate::base::Model;
use crate::config::DataOptions;
use crate::data::tokens::StoreRequest;
use crate::data::tokens::TokenStore;
use crate::error::{Error, Result};
use crate::model::Adapter;
use crate::model::{Decoder, Keep};
use crate::ops::{head_loss, Engine, Layout};

/// Rows that are compared, and tokens of each, at most.
const ROWS: usize = 8;
const TOKENS: usize = 64;
/// Positions whose logits exist at once.
const AT_ONCE: u32 = 16;
/// Difference of logits that f32 sums in another order explain, of the largest logit.
pub(super) const ROUNDING: f32 = 2e-5;

/// Token ids to compare logits on.
#[derive(Clone, Debug)]
pub(super) struct ComparedRows {
    /// Ids of each row.
    pub ids: Vec<Vec<u32>>,
    /// Where they come from.
    pub from: String,
}

impl ComparedRows {
    /// The first rows of a data file, cut.
    pub fn read(
        model: &Model,
        data: &Path,
        (options, template): (&DataOptions, Option<&str>),
        max_length: usize,
        cache_dir: &Path,
        threads: usize,
    ) -> Result<ComparedRows> {
        let tokenizer = &*model.tokenizer()?;
        let stop = |_| false;
        let store = TokenStore::open_or_build(&StoreRequest {
            data,
            options,
            template,
            tokenizer,
            max_length,
            cache_dir,
            threads,
            stop: &stop,
        })?;
        let ids = (0..store.len().min(ROWS)).map(|i| store.example(i).ids().take(TOKENS).collect());
        Ok(ComparedRows { ids: ids.collect(), from: data.display().to_string() })
    }

    /// The same ids each time, spread over the vocabulary.
    pub fn fixed(vocab: usize) -> ComparedRows {
        let row = |r: usize| (0..TOKENS / 2).map(|i| ((i * 7919 + r * 104_729 + i * i * 31) % vocab) as u32).collect();
        ComparedRows { ids: (0..ROWS).map(row).collect(), from: "fixed token ids".into() }
    }

    /// Refuses ids that the model has no embedding for; cuts rows to its context.
    pub fn fit(&mut self, model: &Decoder) -> Result<()> {
        let (vocab, context) = (model.config.vocab_size, model.config.max_position_embeddings);
        for row in &mut self.ids {
            row.truncate(context);
            if let Some(id) = row.iter().find(|&&id| id as usize >= vocab) {
                return Err(Error::config("data", format!("{}: token id {id}, but the model has {vocab}", self.from)));
            }
        }
        Ok(())
    }

    pub fn longest(&self) -> usize {
        self.ids.iter().map(Vec::len).max().unwrap_or(0)
    }

    pub fn tokens(&self) -> usize {
        self.ids.iter().map(Vec::len).sum()
    }
}

/// A model with an adapter or without.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    pub model: &'a Decoder,
    pub adapter: Option<&'a Adapter>,
}

/// How far logits lie apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Difference {
    /// Largest difference; infinite where one is no number.
    pub max: f32,
    /// Largest logit in size.
    pub largest: f32,
}

impl Difference {
    fn add(&mut self, want: &[f32], got: &[f32]) {
        for (w, g) in want.iter().zip(got) {
            let d = (w - g).abs();
            self.max = if d.is_nan() { f32::INFINITY } else { self.max.max(d) };
            self.largest = self.largest.max(w.abs());
        }
    }

    /// The bound for a difference of so much of the largest logit.
    pub fn bound(&self, relative: f32) -> f32 {
        relative * self.largest.max(1.0)
    }
}

/// Compares the logits of each of `others` with those of `reference` at every position of the rows.
///
/// # Errors
/// [`Error::NonFinite`] when the reference itself has a logit that is no number.
pub(super) fn differences(
    engine: &Engine,
    reference: Side,
    others: &[Side],
    rows: &ComparedRows,
) -> Result<Vec<Difference>> {
    let mut found = vec![Difference::default(); others.len()];
    for (number, ids) in rows.ids.iter().enumerate() {
        let found = &mut found;
        engine.run(|| {
            let pass = |side: &Side| {
                let layout = Layout::new(vec![0, ids.len() as u32], vec![0]);
                side.model.forward(engine, side.adapter, ids, layout, Keep::Nothing, None)
            };
            let logits = |side: &Side, pass: &mut _, positions: &[u32]| {
                let states = side.model.states(engine, pass, positions.to_vec())?;
                head_loss::logits(engine, side.model.head(), &states)
            };
            let mut first = pass(&reference)?;
            let mut passes = others.iter().map(pass).collect::<Result<Vec<_>>>()?;
            for start in (0..ids.len() as u32).step_by(AT_ONCE as usize) {
                let positions: Vec<u32> = (start..(start + AT_ONCE).min(ids.len() as u32)).collect();
                let want = logits(&reference, &mut first, &positions)?;
                if want.iter().any(|v| !v.is_finite()) {
                    return Err(Error::NonFinite { what: format!("logits of row {} of {}", number + 1, rows.from) });
                }
                for ((side, pass), found) in others.iter().zip(&mut passes).zip(found.iter_mut()) {
                    found.add(&want, &logits(side, pass, &positions)?);
                }
            }
            Ok(())
        })?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_no_agreement() {
        let mut d = Difference::default();
        d.add(&[1.0, -4.0], &[1.5, -4.0]);
        assert_eq!((d.max, d.largest, d.bound(0.5)), (0.5, 4.0, 2.0));
        d.add(&[1.0, 2.0], &[f32::NAN, 2.0]);
        assert_eq!(d.max, f32::INFINITY);
        d.add(&[1.0], &[1.0]);
        assert_eq!(d.max, f32::INFINITY);
    }
}
