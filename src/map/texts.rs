//! The texts of rows, read again from the run's data files.

use std::collections::BTreeMap;

use super::open::DataMap;
use super::row::MapRow;
use crate::config::TrainConfig;
use crate::data::text::chat::ChatFormat;
use crate::data::text::Rendered;
use crate::data::tokens::{file_and_row, read_rows, Tokenizer};
use crate::error::Result;

/// Text of an example.
#[derive(Debug, PartialEq)]
pub(super) enum MapText {
    /// Trained whole.
    Whole(String),
    /// Prompt and response; of a conversation, what comes before its first trained part and that part.
    Pair(String, String),
    /// Why there is none.
    Absent(String),
}

impl MapRow {
    /// [`MapRow::text_absent`] of a row whose text is another than the run's.
    pub const CHANGED: &'static str = "the row changed since the run";
    /// [`MapRow::text_absent`] of a row that the data file has no more.
    pub const GONE: &'static str = "the data file has no such row";
}

impl DataMap {
    /// Text of some examples, one a place.
    pub(super) fn texts(&self, examples: &[u32]) -> Vec<MapText> {
        match self.rendered(examples) {
            Ok(texts) => texts,
            Err(reason) => examples.iter().map(|_| MapText::Absent(reason.clone())).collect(),
        }
    }

    fn rendered(&self, examples: &[u32]) -> Result<Vec<MapText>, String> {
        let Some(config) = &self.config else { return Err("there is no run.json beside the log".into()) };
        let of: Vec<(u64, [u8; 16])> = examples.iter().filter_map(|&e| self.log.example(e)).collect();
        let rows: Vec<u64> = of.iter().map(|e| e.0).collect();
        let read = |format: &ChatFormat| read_files(config, format, &rows);
        // Only conversations need the tokenizer: its end token, or its template. Without either they fail.
        let found = read(&ChatFormat::default())
            .or_else(|e| match Tokenizer::load(&config.model) {
                Ok(tokenizer) => read(&ChatFormat::of(&tokenizer, &config.data_options, None)?),
                Err(_) => Err(e),
            })
            .map_err(|e| e.to_string())?;
        let text = |(row, name): &(u64, [u8; 16])| match found.get(row) {
            None => MapText::Absent(MapRow::GONE.into()),
            // A piece of a split text has a name of its own, so only whole rows can be compared.
            Some(text) if !text.whole && text.hash(0) != *name => MapText::Absent(MapRow::CHANGED.into()),
            Some(text) => parts(text),
        };
        Ok(of.iter().map(text).collect())
    }
}

pub(super) fn parts(text: &Rendered) -> MapText {
    let span = text.spans.first().cloned().unwrap_or(0..text.text.len());
    let before = text.text.get(..span.start).unwrap_or_default().to_string();
    let within = text.text.get(span).unwrap_or_default().to_string();
    if text.whole {
        MapText::Whole(within)
    } else {
        MapText::Pair(before, within)
    }
}

/// Text of some rows of a run's data files.
fn read_files(config: &TrainConfig, format: &ChatFormat, rows: &[u64]) -> Result<BTreeMap<u64, Rendered>> {
    let mut found = BTreeMap::new();
    for (file, source) in config.data.0.iter().enumerate() {
        let own: Vec<(u64, u64)> = rows
            .iter()
            .map(|&row| (row, file_and_row(row)))
            .filter(|r| r.1 .0 == file)
            .map(|r| (r.1 .1, r.0))
            .collect();
        if own.is_empty() {
            continue;
        }
        let numbers: Vec<u64> = own.iter().map(|r| r.0).collect();
        let mut texts = read_rows(&source.path, &config.data_options, format, &numbers)?;
        found.extend(own.iter().filter_map(|(row, name)| Some((*name, texts.remove(row)?))));
    }
    Ok(found)
}
