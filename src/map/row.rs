//! The rows of a page.

use std::path::PathBuf;

use serde::Serialize;

use super::open::DataMap;
use super::query::MapQuery;
use super::texts::{self, MapText};
use crate::data::tokens::file_and_row;
use crate::dynamics::{metrics_of, Half, Metrics};
use crate::error::{Error, Result};

/// The rows of a page, and how many there are in all.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MapPage {
    /// Examples that the filters leave, over all pages.
    pub total: u64,
    /// In the order that was asked for.
    pub rows: Vec<MapRow>,
}

/// One example and what the checkpoints say of it. In JSON a number that is not finite is null.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MapRow {
    /// Its place in the set, from 0.
    pub index: u32,
    /// The data file or folder; `None` where there is no `run.json` beside the log.
    pub file: Option<PathBuf>,
    /// The place of that among the run's data files, from 0.
    pub file_index: u32,
    /// Number of the row in the file, from 1.
    pub row: u64,
    /// The half that it is in.
    pub half: Half,
    /// SFTMix's confidence, as the split has it: minus the mean perplexity or NLL, rounded to f32; -∞ beyond its range.
    pub confidence: f64,
    /// Mean of `exp(nll)`.
    pub mean_perplexity: f64,
    /// Mean NLL, nats per token.
    pub mean_nll: f64,
    /// Mean of `exp(-nll)`: cartography's confidence.
    pub mean_probability: f64,
    /// Population standard deviation of `exp(-nll)`.
    pub variability: f64,
    /// Checkpoints that predict at least half of the tokens.
    pub correctness: u32,
    /// Changes from such a checkpoint to one that does not, or 1000 if there is none.
    pub forgetfulness: u32,
    /// Supervised tokens.
    pub tokens: u32,
    /// What comes before the response, of a conversation before its first trained part; `None` without text and of a
    /// text that is trained whole.
    pub prompt: Option<String>,
    /// What is trained, of a conversation its first trained part.
    pub response: Option<String>,
    /// Why there is no text, where it was asked for.
    pub text_absent: Option<String>,
}

impl MapRow {
    /// [`MapRow::text_absent`] of a row whose text is another than the run's.
    pub const CHANGED: &'static str = texts::CHANGED;
    /// [`MapRow::text_absent`] of a row that the data file has no more.
    pub const GONE: &'static str = texts::GONE;
}

impl DataMap {
    /// A page of the examples, filtered and in order. Takes at most 21 bytes an example while it is made.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names `limit` or `filters`; [`Error::Dynamics`] and [`Error::Io`] name the file of the
    /// log and the row. Texts that cannot be read are no error: [`MapRow::text_absent`] says why.
    pub fn page(&self, query: &MapQuery) -> Result<MapPage> {
        let (total, examples) = self.select(query)?;
        Ok(MapPage { total, rows: self.rows(&examples, query.with_text)? })
    }

    /// These examples, by index and in this order.
    ///
    /// # Errors
    /// As [`DataMap::page`]; there is no such example.
    pub fn rows(&self, examples: &[u32], with_text: bool) -> Result<Vec<MapRow>> {
        examples.iter().try_for_each(|&e| self.check_index(e))?;
        if examples.is_empty() {
            return Ok(Vec::new());
        }
        let cut = self.cut()?;
        let measures = metrics_of(&self.log, self.kind, &self.which, examples)?;
        let row = |(&index, (m, confidence)): (&u32, (Metrics, f32))| {
            let confidence = f64::from(confidence);
            let (file, row) = file_and_row(self.log.example(index).map_or(0, |e| e.0));
            let source = self.config.as_ref().and_then(|c| c.data.0.get(file));
            MapRow {
                index,
                file: source.map(|s| s.path.clone()),
                file_index: file as u32,
                row,
                half: cut.half(confidence, index),
                confidence,
                mean_perplexity: m.mean_perplexity,
                mean_nll: m.mean_nll,
                mean_probability: m.confidence,
                variability: m.variability,
                correctness: m.correctness,
                forgetfulness: m.forgetfulness,
                tokens: m.n_tokens,
                prompt: None,
                response: None,
                text_absent: None,
            }
        };
        let mut rows: Vec<MapRow> = examples.iter().zip(measures).map(row).collect();
        if with_text {
            for (row, text) in rows.iter_mut().zip(self.texts(examples)) {
                match text {
                    MapText::Whole(text) => row.response = Some(text),
                    MapText::Pair(prompt, response) => {
                        (row.prompt, row.response) = (Some(prompt), Some(response));
                    }
                    MapText::Absent(why) => row.text_absent = Some(why),
                }
            }
        }
        Ok(rows)
    }

    pub(super) fn check_index(&self, example: u32) -> Result<()> {
        if u64::from(example) < self.log.len() {
            return Ok(());
        }
        Err(Error::config("index", format!("no example {example}; there are {}, counted from 0", self.log.len())))
    }
}
