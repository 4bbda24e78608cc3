//! What became of the rows of a store, by file and together.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::index::RowCounts;
use super::skipped::SkippedRows;

/// What became of the rows of one data file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SourceCounts {
    /// The file or folder.
    pub path: PathBuf,
    /// How often an epoch has a row of it.
    pub weight: f64,
    /// How its rows became examples.
    pub rows: RowCounts,
    /// Its rows that are no examples and were left out, by reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<SkippedRows>,
    /// Rows that were held out for validation.
    pub held_out: u64,
    /// Rows of this set, a row once for each of its copies.
    pub taken: u64,
    /// Examples of these.
    pub examples: u64,
}

/// What a store's examples are together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub examples: u64,
    pub tokens: u64,
    pub supervised: u64,
    pub longest: u32,
    pub max_id: u32,
    pub counts: RowCounts,
    pub content: [u8; 32],
}
