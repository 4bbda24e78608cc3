//! The data map: what a run has found out about each example.

use std::sync::Arc;

use crate::border::{twin, Cross, Home};
use crate::error::{Result, SftmixError};

fn invalid(field: &str, reason: String) -> SftmixError {
    sftmix::Error::InvalidConfig { field: field.into(), reason }.into()
}

/// Rows whose measure lies between two bounds.
#[derive(Clone, Debug, uniffi::Record)]
pub struct MapFilter {
    /// A measure: row, confidence, mean_probability, variability, correctness, forgetfulness, mean_perplexity, mean_nll or
    /// tokens.
    pub key: String,
    /// Least value.
    #[uniffi(default = None)]
    pub min: Option<f64>,
    /// Greatest value.
    #[uniffi(default = None)]
    pub max: Option<f64>,
}

/// Which rows, in what order, how many.
#[derive(Clone, Debug, uniffi::Record)]
pub struct MapQuery {
    /// A measure, as in filters; ties go by index.
    #[uniffi(default = "confidence")]
    pub sort_by: String,
    /// Greatest first.
    #[uniffi(default = false)]
    pub descending: bool,
    /// One half alone: confident, unconfident or neither.
    #[uniffi(default = None)]
    pub half: Option<String>,
    /// All must hold.
    #[uniffi(default = [])]
    pub filters: Vec<MapFilter>,
    /// Rows before the page.
    #[uniffi(default = 0)]
    pub offset: u64,
    /// Most rows of the page, 1 to 10 000.
    #[uniffi(default = 100)]
    pub limit: u32,
    /// Whether rows have their texts, for which the data files are read.
    #[uniffi(default = false)]
    pub with_text: bool,
}

fn half(text: &str) -> Result<sftmix::dynamics::Half> {
    use sftmix::dynamics::Half::{Confident, Neither, Unconfident};
    let halves = [Confident, Unconfident, Neither];
    let found = halves.into_iter().find(|h| h.as_str() == text);
    found.ok_or_else(|| invalid("half", format!("expected confident, unconfident or neither, found {text:?}")))
}

impl MapQuery {
    fn core(self) -> Result<sftmix::MapQuery> {
        let filter = |f: MapFilter| -> Result<sftmix::MapFilter> {
            let key = f.key.parse().map_err(|reason| invalid("filters", reason))?;
            Ok(sftmix::MapFilter { key, min: f.min, max: f.max })
        };
        Ok(sftmix::MapQuery {
            sort_by: self.sort_by.parse().map_err(|reason| invalid("sort_by", reason))?,
            descending: self.descending,
            half: self.half.as_deref().map(half).transpose()?,
            filters: self.filters.into_iter().map(filter).collect::<Result<_>>()?,
            offset: self.offset,
            limit: self.limit,
            with_text: self.with_text,
        })
    }
}

impl Cross<String> for sftmix::dynamics::Half {
    fn cross(self) -> String {
        self.as_str().into()
    }
}

impl Cross<String> for sftmix::Confidence {
    fn cross(self) -> String {
        self.as_str().into()
    }
}

impl Cross<String> for sftmix::dynamics::Stage {
    fn cross(self) -> String {
        self.as_str().into()
    }
}

twin! {
    /// An example with its measures.
    MapRow of sftmix::MapRow {
        /// Its place in the set, from 0.
        index: u32,
        /// The data file or folder.
        file: Option<String>,
        /// The place of that among the run's data files, from 0.
        file_index: u32,
        /// Number of the row in the file, from 1.
        row: u64,
        /// confident, unconfident or neither.
        half: String,
        /// SFTMix's confidence: minus the mean perplexity or NLL.
        confidence: f64,
        /// Mean of exp(nll).
        mean_perplexity: f64,
        /// Mean NLL, nats per token.
        mean_nll: f64,
        /// Cartography's confidence, the mean of exp(-nll).
        mean_probability: f64,
        /// Standard deviation of exp(-nll).
        variability: f64,
        /// Checkpoints that predict at least half of the tokens.
        correctness: u32,
        /// Changes from such a checkpoint to one that does not; 1000 if there is none.
        forgetfulness: u32,
        /// Supervised tokens.
        tokens: u32,
        /// What comes before the response, where text was asked for.
        prompt: Option<String>,
        /// What is trained.
        response: Option<String>,
        /// Why there is no text, where it was asked for.
        text_absent: Option<String>,
    }
}

/// A page of rows.
#[derive(Clone, Debug, PartialEq, uniffi::Record)]
pub struct MapPage {
    /// Examples that the filters leave, over all pages.
    pub total: u64,
    /// In the order that was asked for.
    pub rows: Vec<MapRow>,
}

twin! {
    /// Mean and quartiles.
    MapDistribution of sftmix::MapDistribution {
        /// Arithmetic mean.
        mean: f64,
        /// Least.
        min: f64,
        /// Lower quartile.
        q25: f64,
        /// Median.
        median: f64,
        /// Upper quartile.
        q75: f64,
        /// Greatest.
        max: f64,
    }
}
twin! {
    /// Means over one half.
    HalfSummary of sftmix::dynamics::HalfSummary {
        /// Examples.
        rows: u64,
        /// Supervised tokens an example.
        mean_tokens: f64,
        /// Mean of the mean perplexity.
        mean_perplexity: f64,
        /// Mean of the mean NLL, nats per token.
        mean_nll: f64,
        /// Mean of cartography's confidence.
        mean_probability: f64,
        /// Mean of its variability.
        mean_variability: f64,
        /// Examples that no checkpoint predicts for at least half of the tokens.
        never_correct: u64,
    }
}
twin! {
    /// The map as a whole.
    MapSummary of sftmix::MapSummary {
        /// Examples.
        examples: u64,
        /// Ids of the checkpoints that measures are over.
        checkpoints: Vec<String>,
        /// What confidence is minus the mean of: perplexity or nll.
        confidence: String,
        /// Of the mean perplexities.
        perplexity: MapDistribution,
        /// Of the mean NLLs.
        nll: MapDistribution,
        /// Rank correlation of confidence by perplexity and by NLL.
        spearman: f64,
        /// The confident half.
        confident: HalfSummary,
        /// The unconfident half.
        unconfident: HalfSummary,
        /// What belongs to neither.
        neither: HalfSummary,
    }
}
twin! {
    /// An example under one checkpoint.
    MapPoint of sftmix::MapPoint {
        /// Id of the checkpoint.
        checkpoint: String,
        /// reference, target or single.
        stage: String,
        /// Optimizer steps done in the stage.
        step: u64,
        /// Epochs done in the stage.
        epoch: f64,
        /// Mean NLL, nats per token.
        nll: f64,
        /// Mean probability of the tokens.
        mean_prob: f64,
        /// Tokens predicted right.
        n_correct: u32,
        /// Supervised tokens.
        n_tokens: u32,
    }
}

/// What each checkpoint of a run's reference training thinks of each example. The log is never in memory: rows come in pages.
#[derive(Debug, uniffi::Object)]
pub struct DataMap {
    core: sftmix::DataMap,
    home: Home,
}

#[uniffi::export]
impl DataMap {
    /// Opens the dynamics of a run folder, also of one that goes on, or a dynamics folder.
    #[uniffi::constructor]
    pub fn open(run: String) -> Result<Arc<DataMap>> {
        Ok(Arc::new(DataMap { core: sftmix::DataMap::open(run)?, home: Home::here() }))
    }

    /// Distributions, the halves, and how far the two kinds of confidence agree.
    pub fn summary(&self) -> Result<MapSummary> {
        self.home.check()?;
        Ok(self.core.summary()?.into())
    }

    /// A page of the examples, filtered and in order.
    pub fn page(&self, query: MapQuery) -> Result<MapPage> {
        self.home.check()?;
        let page = self.core.page(&query.core()?)?;
        Ok(MapPage { total: page.total, rows: page.rows.into_iter().map(Into::into).collect() })
    }

    /// One example, by its index, under each checkpoint.
    pub fn history(&self, index: u32) -> Result<Vec<MapPoint>> {
        self.home.check()?;
        Ok(self.core.history(index)?.into_iter().map(Into::into).collect())
    }
}
