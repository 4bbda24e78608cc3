//! Rows of a file of one's own, read as training reads them.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::config::BenchConfig;
use super::rows::Row;
use crate::base::facts::default_cache;
use crate::base::open::Inputs;
use crate::base::Model;
use crate::data::rows::files::Split;
use crate::data::tokens::{epoch_order, TokenStore, TARGET};
use crate::dynamics::Stage;
use crate::error::Result;
use crate::ops::EngineOptions;
use crate::plan::settle::RowFacts;

/// The examples of a file.
pub(super) struct OwnRows {
    data: PathBuf,
    store: TokenStore,
    seed: u64,
}

/// What the timed steps took of a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BenchRows {
    /// The file.
    pub data: PathBuf,
    /// Its examples.
    pub examples: u64,
    /// Its rows that were longer than the longest, and lost their tail.
    pub rows_cut: u64,
    /// Rows that the timed steps ran; where they are more than the file has, some ran again.
    pub rows: u64,
    /// Tokens of these rows.
    pub tokens: u64,
    /// Those of them that are trained.
    pub supervised_tokens: u64,
}

impl OwnRows {
    /// Reads the rows of a file, or of the training split of a folder, with the model's tokenizer: into the token store
    /// that training would use, or from it.
    ///
    /// # Errors
    /// As in training: when the tokenizer, the rows or the chat template cannot be used.
    pub fn open(config: &BenchConfig, model: &Model, data: &Path) -> Result<OwnRows> {
        config.data_options.validate()?;
        // An engine of its own: what reading holds is no step's memory.
        let options = EngineOptions { threads: config.threads, ..Default::default() };
        let cache = config.cache_dir.clone().unwrap_or_else(default_cache);
        let (inputs, tokenizer) = Inputs::open(model, options, cache)?;
        let data = Split::Train.resolve(data)?;
        let store = inputs.store(&tokenizer, &data, &config.data_options, None, config.seq, &|_| false)?;
        Ok(OwnRows { data, store, seed: config.seed })
    }

    /// Lengths, as the choice of micro-batches asks for them. What training holds for each example a bench does not.
    pub fn facts(&self) -> RowFacts {
        RowFacts { examples: 0, ..RowFacts::of(&self.store, None) }
    }

    /// The rows of step `step`, in the order in which plain training takes them; behind the last begins another epoch.
    pub fn batch(&self, step: u64, batch_size: usize) -> Vec<Row> {
        let examples = self.store.len() as u64;
        let first = step * batch_size as u64;
        let (mut epoch, mut order) = (None, Vec::new());
        let rows = (first..first + batch_size as u64).map(|number| {
            let (of, at) = (number / examples, number % examples);
            if epoch != Some(of) {
                (epoch, order) = (Some(of), epoch_order(examples as u32, self.seed, Stage::Target as u64, of));
            }
            let tokens = self.store.example(order[at as usize] as usize).tokens;
            let row: Row = tokens.iter().map(|t| (t & !TARGET, t & TARGET != 0)).unzip();
            row
        });
        rows.collect()
    }

    /// What is told of so many rows with so many tokens.
    pub fn taken(&self, rows: u64, tokens: u64, supervised_tokens: u64) -> BenchRows {
        BenchRows {
            data: self.data.clone(),
            examples: self.store.len() as u64,
            rows_cut: self.store.counts().cut,
            rows,
            tokens,
            supervised_tokens,
        }
    }
}
