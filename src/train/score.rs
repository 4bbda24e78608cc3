//! A forward pass over a set: what evaluation and the sweeps of the dynamics share. A row's figures do
//! not depend on the rows beside it, so a pass may be stopped and taken up at any row.

use serde::Serialize;

use super::group::{Calibration, Group, GroupResult, GroupRun, MicroBatch};
use crate::data::tokens::Ragged;
use crate::data::tokens::TokenStore;
use crate::error::{Error, Result};
use crate::model::Adapter;
use crate::model::{Decoder, Keep};
use crate::ops::Engine;

/// How many rows run together in a forward pass. Decides speed and memory, not figures.
#[derive(Clone, Copy, Debug)]
pub struct Together {
    /// Most rows.
    pub rows: usize,
    /// Most tokens, unless one row has more.
    pub tokens: usize,
}

impl Together {
    /// Up to so many rows of 2,048 tokens in all.
    pub fn rows(rows: usize) -> Together {
        Together { rows, tokens: 2048 }
    }
}

/// Scores the examples `from..` of a store in order and hands each batch's results on; `false` from `each`
/// ends the pass.
///
/// # Errors
/// What an operation or `each` reports; [`Error::NonFinite`] names the row.
pub fn score(
    engine: &Engine,
    model: &Decoder,
    adapter: Option<&Adapter>,
    store: &TokenStore,
    from: u32,
    together: Together,
    mut each: impl FnMut(&GroupResult) -> Result<bool>,
) -> Result<()> {
    let run = GroupRun { engine, model, adapter, keep: Keep::Nothing, dropout: None };
    let mut next = from;
    while (next as usize) < store.len() {
        let (first, mut tokens) = (next, 0);
        while (next as usize) < store.len() && ((next - first) as usize) < together.rows.max(1) {
            tokens += store.example(next as usize).tokens.len();
            if tokens > together.tokens && next > first {
                break;
            }
            next += 1;
        }
        let batch: Vec<u32> = (first..next).collect();
        let group = Group::plain(vec![MicroBatch::new(&Ragged::from_store(store, &batch))], 0.0);
        let result = engine.run(|| group.run(&run, None))?;
        if let Some(bad) = result.rows.iter().find(|r| !r.nll.is_finite()) {
            let (file, row) = store.origin(bad.example as usize);
            return Err(Error::NonFinite { what: format!("loss of {} row {row}", file.display()) });
        }
        if !each(&result)? {
            break;
        }
    }
    Ok(())
}

/// Figures of a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Evaluation {
    /// Examples.
    pub examples: u64,
    /// Supervised tokens.
    pub supervised_tokens: u64,
    /// Mean −log p of a supervised token, nats.
    pub nll: f64,
    /// exp(nll).
    pub perplexity: f64,
    /// Share of supervised tokens that are the arg-max.
    pub token_accuracy: f64,
    /// Share of examples whose supervised tokens all are: greedy decoding gives just these answers, end
    /// token included.
    pub exact_match: f64,
    /// Expected calibration error of the arg-max tokens, 15 bins.
    pub ece: f64,
}

/// An evaluation under way.
#[derive(Debug, Default)]
pub struct Evaluating {
    examples: u64,
    tokens: u64,
    nll: f64,
    correct: u64,
    exact: u64,
    calibration: Calibration,
}

impl Evaluating {
    /// Goes on with the set; `halt`, asked behind each batch, holds it up. Whether it is at its end.
    ///
    /// # Errors
    /// As [`score`], and what `halt` reports.
    pub fn go_on(
        &mut self,
        engine: &Engine,
        model: &Decoder,
        adapter: Option<&Adapter>,
        store: &TokenStore,
        together: Together,
        mut halt: impl FnMut() -> Result<bool>,
    ) -> Result<bool> {
        let from = self.examples as u32;
        score(engine, model, adapter, store, from, together, |result| {
            for r in &result.rows {
                self.examples += 1;
                self.tokens += r.tokens as u64;
                self.nll += r.nll;
                self.correct += r.correct as u64;
                self.exact += (r.correct == r.tokens) as u64;
            }
            self.calibration.merge(&result.calibration);
            Ok(!halt()?)
        })?;
        Ok(self.examples as usize == store.len())
    }

    /// The figures of what was evaluated.
    pub fn figures(&self) -> Evaluation {
        let tokens = (self.tokens as f64).max(1.0);
        let nll = self.nll / tokens;
        Evaluation {
            examples: self.examples,
            supervised_tokens: self.tokens,
            nll,
            perplexity: libm::exp(nll),
            token_accuracy: self.correct as f64 / tokens,
            exact_match: self.exact as f64 / (self.examples as f64).max(1.0),
            ece: self.calibration.error(),
        }
    }
}

/// Evaluates a set; `stop` is asked between batches.
///
/// # Errors
/// As [`score`]; [`Error::Stopped`] when `stop` says so.
pub fn evaluate(
    engine: &Engine,
    model: &Decoder,
    adapter: Option<&Adapter>,
    store: &TokenStore,
    together: Together,
    stop: &dyn Fn() -> bool,
) -> Result<Evaluation> {
    let mut e = Evaluating::default();
    e.go_on(engine, model, adapter, store, together, || match stop() {
        true => Err(Error::Stopped { checkpoint: None }),
        false => Ok(false),
    })?;
    Ok(e.figures())
}
