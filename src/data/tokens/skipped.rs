//! Rows that are no examples and were left out, as `bad_rows` allows: counted by reason.

use serde::{Deserialize, Serialize};

use crate::data::text::columns::invalid;
use crate::error::Result;

/// Rows that are named of each reason.
const NAMED: usize = 20;
/// Reasons that are kept apart; texts of strangers stand in some.
const REASONS: usize = 50;
/// Characters of a reason: some quote what a row says.
const LONGEST: usize = 300;
/// Largest share of a file's rows that may be skipped.
const LARGEST_SHARE: f64 = 0.05;

/// Rows that were left out for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SkippedRows {
    /// What is wrong with them: places, numbers and quoted texts are written as `…`.
    pub reason: String,
    /// How many.
    pub rows: u64,
    /// The numbers of the first.
    pub first: Vec<u64>,
}

/// The rows of one file that are left out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Skips {
    pub reasons: Vec<SkippedRows>,
    /// The first row, with all that was said of it.
    first: Option<(u64, String)>,
}

impl Skips {
    /// Those that were counted before.
    pub fn of(reasons: Vec<SkippedRows>) -> Skips {
        let first = reasons.iter().filter_map(|r| Some((*r.first.first()?, r.reason.clone()))).min();
        Skips { reasons, first }
    }

    /// Counts a row; rows come in their order.
    pub fn add(&mut self, row: u64, why: &str) {
        let shortened = why.chars().take(LONGEST).collect::<String>();
        let why = if shortened.len() < why.len() { shortened + "…" } else { shortened };
        let kind = kind_of(&why);
        self.first.get_or_insert((row, why));
        let at = self.reasons.iter().position(|r| r.reason == kind).unwrap_or_else(|| {
            let reason = if self.reasons.len() < REASONS { kind } else { "something else".to_string() };
            let known = self.reasons.iter().position(|r| r.reason == reason);
            known.unwrap_or_else(|| {
                self.reasons.push(SkippedRows { reason, rows: 0, first: Vec::new() });
                self.reasons.len() - 1
            })
        });
        let skipped = &mut self.reasons[at];
        skipped.rows += 1;
        if skipped.first.len() < NAMED {
            skipped.first.push(row);
        }
    }

    /// How many rows.
    pub fn rows(&self) -> u64 {
        self.reasons.iter().map(|r| r.rows).sum()
    }

    /// Checks that they are few among the `rows` of the file.
    ///
    /// # Errors
    /// [`Error::DataInvalid`](crate::error::Error::DataInvalid) names the first of them.
    pub fn check(&self, data: &std::path::Path, rows: u64) -> Result<()> {
        let skipped = self.rows();
        match &self.first {
            Some((row, why)) if skipped as f64 > LARGEST_SHARE * rows as f64 => {
                let share = 100.0 * skipped as f64 / rows as f64;
                let most = 100.0 * LARGEST_SHARE;
                let reason = format!(
                    "{why}; {skipped} of {rows} rows are bad ({share:.1} %), and bad_rows skip allows {most} %"
                );
                Err(invalid(data, *row, reason))
            }
            _ => Ok(()),
        }
    }
}

/// A reason without what differs from row to row: quoted texts, numbers, and the parser's place.
fn kind_of(why: &str) -> String {
    let mut out = String::new();
    let mut rest = why.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' => {
                let mut escaped = false;
                for c in rest.by_ref() {
                    if c == '"' && !escaped {
                        break;
                    }
                    escaped = c == '\\' && !escaped;
                }
                out.push_str("\"…\"");
            }
            c if c.is_ascii_digit() => {
                while rest.next_if(char::is_ascii_digit).is_some() {}
                out.push('…');
            }
            c => out.push(c),
        }
    }
    let place = [" (column …)", " (line …, column … of the element)"].into_iter().find_map(|p| out.strip_suffix(p));
    place.map(str::to_string).unwrap_or(out)
}

#[cfg(test)]
#[path = "skipped_tests.rs"]
mod tests;
