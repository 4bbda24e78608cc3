//! What a page is asked by.

use serde::{Deserialize, Serialize};

use crate::config::text_enum;
use crate::dynamics::Half;
use crate::error::{Error, Result};

/// Most rows of a page.
const MOST: u32 = 10_000;

text_enum! {
    /// A measure of an example, to sort and filter by; its name is that of a field of [`MapRow`](super::MapRow).
    MapKey {
        /// Data file, and row in it. A filter is on the number of the row in its file, from 1.
        Row = "row",
        /// SFTMix's confidence: minus the mean perplexity or NLL.
        Confidence = "confidence",
        /// Cartography's confidence, the mean of `exp(-nll)`.
        MeanProbability = "mean_probability",
        /// Standard deviation of `exp(-nll)`.
        Variability = "variability",
        /// Checkpoints that predict at least half of the tokens.
        Correctness = "correctness",
        /// Changes from such a checkpoint to one that does not; 1000 if there is none.
        Forgetfulness = "forgetfulness",
        /// Mean perplexity.
        Perplexity = "mean_perplexity",
        /// Mean NLL, nats per token.
        Nll = "mean_nll",
        /// Supervised tokens.
        Tokens = "tokens",
    }
}

/// Keeps the examples whose measure lies between two bounds, which belong to it. NaN lies between none, infinity does
/// where a bound is open or infinite.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapFilter {
    /// The measure.
    pub key: MapKey,
    /// Least value.
    #[serde(default)]
    pub min: Option<f64>,
    /// Greatest value.
    #[serde(default)]
    pub max: Option<f64>,
}

/// A page of a map. The default is the 100 least confident examples without their texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MapQuery {
    /// What rows are in order of; NaN comes last either way, and ties go by the example's index, ascending.
    pub sort_by: MapKey,
    /// Greatest first.
    pub descending: bool,
    /// One half alone.
    pub half: Option<Half>,
    /// All must hold.
    pub filters: Vec<MapFilter>,
    /// Rows before the page.
    pub offset: u64,
    /// Most rows of the page, 1 to 10 000.
    pub limit: u32,
    /// Whether rows have their texts, for which the data files are read.
    pub with_text: bool,
}

impl Default for MapQuery {
    fn default() -> MapQuery {
        MapQuery {
            sort_by: MapKey::Confidence,
            descending: false,
            half: None,
            filters: Vec::new(),
            offset: 0,
            limit: 100,
            with_text: false,
        }
    }
}

impl MapFilter {
    /// Whether a value lies between the bounds.
    pub(super) fn keeps(&self, value: f64) -> bool {
        !value.is_nan() && self.min.is_none_or(|min| value >= min) && self.max.is_none_or(|max| value <= max)
    }
}

impl MapQuery {
    /// # Errors
    /// [`Error::InvalidConfig`] names `limit` or `filters`.
    pub(super) fn validate(&self) -> Result<()> {
        if !(1..=MOST).contains(&self.limit) {
            return Err(Error::config("limit", format!("expected 1 to {MOST}, found {}", self.limit)));
        }
        for f in &self.filters {
            let reason = match (f.min, f.max) {
                (Some(b), _) | (_, Some(b)) if b.is_nan() => format!("{}: a bound is NaN", f.key),
                (Some(min), Some(max)) if min > max => format!("{}: least {min} is above greatest {max}", f.key),
                _ => continue,
            };
            return Err(Error::config("filters", reason));
        }
        Ok(())
    }
}
