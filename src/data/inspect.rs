//! What training will see of data files: rows token by token, what became of all rows, how long they are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::rows::files::Split;
use super::rows::{CutRow, RowReader};
pub use super::text::chat::ChatFacts;
use super::text::chat::ChatFormat;
use super::text::Template;
use super::tokens::pipeline::{encode, Blocks, Made};
use super::tokens::skipped::Skips;
use super::tokens::{RowCounts, SkippedRows};
use super::tokens::{Tokenizer, TARGET};
use crate::config::DataSources;
use crate::config::{BadRows, DataOptions};
use crate::error::{Error, Result};
use crate::files::ModelFiles;
use crate::ops::engine::available_threads;

/// Rows that are named of each that were cut or left out.
const NAMED: usize = 10;
/// Upper end of the first bucket of lengths; each further one is twice as long.
const SHORTEST: u64 = 16;

/// What to look at.
#[derive(Clone, Debug, PartialEq)]
pub struct InspectConfig {
    /// Hugging Face model folder; its tokenizer is all that is read.
    pub model: PathBuf,
    /// The rows, as for training.
    pub data: DataSources,
    /// The one row to show, by its number from 1; `None` shows the first [`InspectConfig::rows`] of each file.
    pub row: Option<u64>,
    /// Rows of each file to show.
    pub rows: usize,
    /// Longest example in tokens, ≥ 2.
    pub max_length: usize,
    /// Threads that tokenise; `None` takes the machine's cores.
    pub threads: Option<usize>,
    /// How rows become examples.
    pub data_options: DataOptions,
}

impl Default for InspectConfig {
    fn default() -> Self {
        InspectConfig {
            model: PathBuf::new(),
            data: DataSources::default(),
            row: None,
            rows: 3,
            max_length: crate::config::TrainConfig::default().max_length,
            threads: None,
            data_options: DataOptions::default(),
        }
    }
}

/// What was found in one file.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct InspectedFile {
    /// The file, or the folder of texts.
    pub path: PathBuf,
    /// How often an epoch has a row of it.
    pub weight: f64,
    /// Shape of its rows; `None` where it has none.
    pub shape: Option<&'static str>,
    /// How conversations are written; `None` where the rows are none.
    pub chat: Option<ChatFacts>,
    /// What became of its rows.
    pub rows: RowCounts,
    /// The first rows that were cut.
    pub cut: Vec<u64>,
    /// The first rows in which every value is empty.
    pub empty: Vec<u64>,
    /// The first rows without a token to train on.
    pub no_target: Vec<u64>,
    /// The first rows of which the chat template leaves out something, as was allowed.
    pub dropped: Vec<u64>,
    /// Rows that are no examples and are left out, as `bad_rows` allows, by reason.
    pub skipped: Vec<SkippedRows>,
    /// The first rows in which a role has another name than the template's.
    pub mapped_roles: Vec<u64>,
    /// Tokens of its examples, each once.
    pub tokens: u64,
    /// Trained tokens of these.
    pub supervised_tokens: u64,
    /// Tokens of the longest example.
    pub longest: u64,
    /// How many examples are how long.
    pub lengths: Vec<LengthBucket>,
    /// The rows that were to be shown.
    pub shown: Vec<ShownRow>,
}

/// Examples of some lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LengthBucket {
    /// Fewest tokens.
    pub from: u64,
    /// Most tokens.
    pub to: u64,
    /// How many examples.
    pub examples: u64,
}

/// A row, as it is trained on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShownRow {
    /// Its number from 1.
    pub row: u64,
    /// It lost its tail to the limit of length.
    pub cut: bool,
    /// Every value of it is empty.
    pub empty: bool,
    /// Why it is no example and is left out, as `bad_rows` allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// Its pieces: one, unless a text was split; one without a trained token is left out of training.
    pub windows: Vec<Vec<ShownToken>>,
}

/// A token of a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShownToken {
    /// Its id.
    pub id: u32,
    /// What it stands for in the text, or its name in the vocabulary.
    pub text: String,
    /// Whether it is trained.
    pub trained: bool,
}

/// Reads the files as training would, without keeping anything; memory is that of a few blocks of rows.
///
/// # Errors
/// [`Error::InvalidConfig`] names a setting, as a row that the file does not have; otherwise as training would
/// say of the data and the tokenizer.
pub fn inspect(config: &InspectConfig) -> Result<Vec<InspectedFile>> {
    inspect_on(&ModelFiles::open(&config.model)?, config)
}

/// As [`inspect`], by the tokenizer of a model that is open; the one that `config` names is not looked at.
///
/// # Errors
/// As [`inspect`].
#[doc(hidden)]
pub fn inspect_on(model: &ModelFiles, config: &InspectConfig) -> Result<Vec<InspectedFile>> {
    config.data.validate()?;
    config.data_options.validate()?;
    if config.max_length < 2 {
        return Err(Error::config("max_length", format!("expected ≥ 2, found {}", config.max_length)));
    }
    if config.threads.is_some_and(|n| !(1..=1024).contains(&n)) {
        return Err(Error::config("threads", format!("expected 1 to 1024, found {}", config.threads.unwrap_or(0))));
    }
    if config.row.is_some() && config.data.0.len() > 1 {
        return Err(Error::config("row", "there are several data files: name the one whose row is meant"));
    }
    let tokenizer = Tokenizer::of(model)?;
    let file = |source: &crate::config::DataSource| {
        let path = Split::Train.resolve(&source.path)?;
        Look { config, tokenizer: &tokenizer, path: &path }.file(source.weight)
    };
    config.data.0.iter().map(file).collect()
}

/// One file that is looked at.
struct Look<'a> {
    config: &'a InspectConfig,
    tokenizer: &'a Tokenizer,
    path: &'a Path,
}

impl Look<'_> {
    fn file(&self, weight: f64) -> Result<InspectedFile> {
        let mut out = InspectedFile {
            path: self.path.to_path_buf(),
            weight,
            shape: None,
            chat: None,
            rows: RowCounts::default(),
            cut: Vec::new(),
            empty: Vec::new(),
            no_target: Vec::new(),
            dropped: Vec::new(),
            skipped: Vec::new(),
            mapped_roles: Vec::new(),
            tokens: 0,
            supervised_tokens: 0,
            longest: 0,
            lengths: Vec::new(),
            shown: Vec::new(),
        };
        let options = &self.config.data_options;
        let format = ChatFormat::of(self.tokenizer, options, None)?;
        let Some(template) = Template::of_rows(options, &format, self.path)? else {
            return match self.config.row {
                Some(row) => {
                    Err(Error::config("row", format!("{} has no row {row}: it is empty", self.path.display())))
                }
                None => Ok(out),
            };
        };
        out.chat = template.chat_facts();
        out.shape = Some(template.shape().name());
        out.shown = self.shown(&template)?;
        let blocks = Blocks {
            data: self.path,
            tokenizer: self.tokenizer,
            max_length: self.config.max_length,
            template: &template,
            bad_rows: options.bad_rows,
            skip: 0,
        };
        let threads = self.config.threads.unwrap_or_else(available_threads);
        let (mut lengths, mut skips) = ([0u64; 65], Skips::default());
        blocks.run(threads, Duration::from_secs(1), &|_| false, |made| {
            made.bad.iter().for_each(|(row, why)| skips.add(*row, why));
            count(&mut out, &mut lengths, made);
            Ok(())
        })?;
        out.skipped = skips.reasons;
        out.lengths = buckets(&lengths);
        Ok(out)
    }

    /// The rows to show, read one after the other.
    fn shown(&self, template: &Template) -> Result<Vec<ShownRow>> {
        let mut reader = RowReader::open(self.path)?;
        let (mut shown, mut bytes, mut last) = (Vec::new(), Vec::new(), 0);
        loop {
            bytes.clear();
            let done = self.config.row.is_none() && shown.len() == self.config.rows;
            let next = if done { None } else { reader.next_cut(&mut bytes)? };
            let Some(CutRow { row, fault }) = next else { break };
            if self.config.row.is_none_or(|wanted| wanted == row) {
                let seen = fault.map_or_else(|| self.row(template, &reader, row, &bytes), Err);
                shown.push(match seen {
                    Err(Error::DataInvalid { reason, .. }) if self.config.data_options.bad_rows == BadRows::Skip => {
                        ShownRow { row, cut: false, empty: false, skipped: Some(reason), windows: Vec::new() }
                    }
                    seen => seen?,
                });
            }
            if self.config.row.is_some_and(|wanted| wanted <= row) {
                last = row;
                break;
            }
            last = row;
        }
        match self.config.row {
            Some(wanted) if shown.is_empty() => {
                let what = match wanted {
                    0 => "rows are counted from 1".to_string(),
                    _ if wanted < last => "that line is blank".to_string(),
                    _ => format!("its last is {last}"),
                };
                Err(Error::config("row", format!("{} has no row {wanted}: {what}", self.path.display())))
            }
            _ => Ok(shown),
        }
    }

    fn row(&self, template: &Template, reader: &RowReader, row: u64, bytes: &[u8]) -> Result<ShownRow> {
        let parser = reader.parser();
        let rendered = template.render(parser.file(row), row, &parser.parse(row, bytes)?)?;
        let encoded = encode(self.tokenizer, &rendered, self.config.max_length, parser.file(row), row)?;
        let mut pieces = self.tokenizer.pieces(&rendered)?.into_iter();
        let mut shown = |&token: &u32| {
            let id = token & !TARGET;
            // Behind the text comes the end token, which has a name and no text.
            let text = pieces.next().filter(|(piece, _)| *piece == id).map(|(_, text)| text);
            ShownToken { id, text: text.unwrap_or_else(|| self.tokenizer.name_of(id)), trained: token & TARGET != 0 }
        };
        let windows = encoded.windows.iter().map(|w| w.iter().map(&mut shown).collect()).collect();
        Ok(ShownRow { row, cut: encoded.cut, empty: rendered.text.is_empty(), skipped: None, windows })
    }
}

/// Counts a block. `lengths` has the examples by how often their length can be halved.
fn count(out: &mut InspectedFile, lengths: &mut [u64; 65], made: &Made) {
    let note = |list: &mut Vec<u64>, row: u64| {
        if list.len() < NAMED {
            list.push(row);
        }
    };
    out.rows.skip(made.bad.len() as u64);
    for row in &made.rows {
        out.rows.count(row);
        if row.cut {
            note(&mut out.cut, row.row);
        }
        if row.mapped_roles {
            note(&mut out.mapped_roles, row.row);
        }
        if row.dropped {
            note(&mut out.dropped, row.row);
        }
        if row.empty {
            note(&mut out.empty, row.row);
        } else if row.examples == 0 {
            note(&mut out.no_target, row.row);
        }
    }
    for example in &made.examples {
        let n = example.tokens as u64;
        out.tokens += n;
        out.supervised_tokens += u64::from(example.supervised);
        out.longest = out.longest.max(n);
        lengths[n.div_ceil(SHORTEST).next_power_of_two().trailing_zeros() as usize] += 1;
    }
}

fn buckets(lengths: &[u64; 65]) -> Vec<LengthBucket> {
    let used = lengths.iter().rposition(|&n| n > 0).map_or(0, |last| last + 1);
    let bucket = |(i, &examples): (usize, &u64)| {
        let from = if i == 0 { 1 } else { (SHORTEST << (i - 1)) + 1 };
        LengthBucket { from, to: SHORTEST << i, examples }
    };
    lengths[..used].iter().enumerate().map(bucket).collect()
}

#[cfg(test)]
#[path = "inspect_tests.rs"]
mod tests;
