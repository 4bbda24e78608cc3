//! Taking the dynamics of another run, as of a smaller model that scored the set once: only the order
//! inside one model matters (arXiv 2410.05248 reports Gemma-2B for Llama-3.1-8B). Rows are joined by
//! the hash of their text, so neither their order nor the tokenizer needs to be the same.

use super::fault::fault;
use super::log::DynamicsLog;
use super::metrics::{confidences, split_checkpoints};
use crate::config::{Confidence, Dynamics, Recipe, TrainConfig};
use crate::data::tokens::{row_name, TokenStore};
use crate::error::Result;

/// How a join went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportReport {
    /// Our examples that the log knows.
    pub matched: u64,
    /// Our examples that it does not; they belong to neither half.
    pub missing: u64,
    /// Of the matched, those that came oftener here than in the log and took its last occurrence.
    pub repeated: u64,
    /// Source rows of the first missing examples, ten at most.
    pub missing_rows: Vec<u64>,
}

/// Confidence of each of our examples (source row and text hash, in order of our set) from another
/// run's log, over its [`split_checkpoints`]; NaN where the log does not know the row. Equal texts
/// join in order of occurrence. 4 bytes for each example of ours and of the log, and 4⅛ more of the
/// log's unless ours come in its order.
///
/// # Errors
/// More than 1 % of our examples are missing (ours), or as [`confidences`].
pub fn import_confidences(
    foreign: &DynamicsLog,
    ours: impl Iterator<Item = (u64, [u8; 16])>,
    kind: Confidence,
) -> Result<(Vec<f32>, ImportReport)> {
    let known = confidences(foreign, kind, &split_checkpoints(foreign)?)?;
    let mut index = None;
    let mut joined = Vec::with_capacity(ours.size_hint().0);
    let mut report = ImportReport::default();
    for (n, (row, hash)) in ours.enumerate() {
        let in_order = || u32::try_from(n).ok().filter(|&n| foreign.example(n).is_some_and(|(_, h)| h == hash));
        let found = match (&index, in_order()) {
            // So far both have the same texts, so this is the same occurrence of its own.
            (None, Some(n)) => Some((n, true)),
            _ => index.get_or_insert_with(|| Index::new(foreign, n)).take(&hash),
        };
        match found {
            Some((at, first)) => {
                report.matched += 1;
                report.repeated += u64::from(!first);
                joined.push(known[at as usize]);
            }
            None => {
                report.missing += 1;
                if report.missing_rows.len() < 10 {
                    report.missing_rows.push(row);
                }
                joined.push(f32::NAN);
            }
        }
    }

    let all = report.matched + report.missing;
    if report.missing * 100 > all {
        let rows: Vec<String> = report.missing_rows.iter().map(|&row| row_name(row)).collect();
        let reason = format!(
            "{} of {all} rows are not in it (at most 1 % may be), the first are {}",
            report.missing,
            rows.join(", ")
        );
        return Err(fault(foreign.dir(), reason));
    }
    if report.missing > 0 {
        ::log::warn!("{}: {} of {all} rows are not in it", foreign.dir().display(), report.missing);
    }
    Ok((joined, report))
}

/// The confidence of each example of a run whose dynamics are another's, and of how many there is none; `None` where
/// they are its own.
///
/// # Errors
/// When there are none at the path, and as [`import_confidences`].
pub(crate) fn imported(config: &TrainConfig, store: &TokenStore) -> Result<Option<(Vec<f32>, u64)>> {
    let path = match (config.recipe, &config.dynamics) {
        (Recipe::Sftmix, Dynamics::Path(path)) => path,
        (Recipe::Sftmix, Dynamics::Sweep | Dynamics::Online | Dynamics::Single) | (Recipe::Ntp, _) => return Ok(None),
    };
    let inner = path.join("dynamics");
    let log = DynamicsLog::open(if inner.exists() { &inner } else { path })?;
    let ours = (0..store.len()).map(|i| {
        let e = store.example(i);
        (e.source_row, e.text_hash)
    });
    let (confidence, report) = import_confidences(&log, ours, config.confidence)?;
    ::log::info!("{report:?}");
    Ok(Some((confidence, report.missing)))
}

/// The examples of a log by the hash of their text. The hashes stay in the log's map.
struct Index<'a> {
    log: &'a DynamicsLog,
    /// In order of hash, equal ones in order of the log.
    sorted: Vec<u32>,
    /// A bit for each of `sorted`; of equal hashes, the first are taken first.
    taken: Vec<u64>,
}

impl Index<'_> {
    /// The first `n` of the log are taken.
    fn new(log: &DynamicsLog, n: usize) -> Index<'_> {
        let mut sorted: Vec<u32> = (0..log.len() as u32).collect();
        sorted.sort_unstable_by_key(|&i| (log.example(i).map(|(_, h)| h), i));
        let mut index = Index { log, taken: vec![0; sorted.len().div_ceil(64)], sorted };
        for at in 0..index.sorted.len() {
            if (index.sorted[at] as usize) < n {
                index.set_taken(at);
            }
        }
        index
    }

    fn hash(&self, at: usize) -> Option<[u8; 16]> {
        self.sorted.get(at).and_then(|&i| self.log.example(i)).map(|(_, h)| h)
    }

    fn is_taken(&self, at: usize) -> bool {
        self.taken[at / 64] & (1 << (at % 64)) != 0
    }

    fn set_taken(&mut self, at: usize) {
        self.taken[at / 64] |= 1 << (at % 64);
    }

    /// The next occurrence of a text, or its last, and whether that was not taken before.
    fn take(&mut self, hash: &[u8; 16]) -> Option<(u32, bool)> {
        let end = self.sorted.len();
        let start = partition_point(0, end, |at| self.hash(at).is_some_and(|h| h < *hash));
        if self.hash(start) != Some(*hash) {
            return None;
        }
        let next = match self.is_taken(start) {
            true => partition_point(start, end, |at| self.hash(at) == Some(*hash) && self.is_taken(at)),
            false => start,
        };
        if self.hash(next) != Some(*hash) {
            return Some((self.sorted[next - 1], false));
        }
        self.set_taken(next);
        Some((self.sorted[next], true))
    }
}

/// The first place from `low` to `high` for which `holds` does not, given that it does for all before and for none
/// after. The standard library's looks at elements, not at places.
fn partition_point(mut low: usize, mut high: usize, holds: impl Fn(usize) -> bool) -> usize {
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::super::tests::{log_of, nll};
    use super::*;

    fn hash(i: u8) -> [u8; 16] {
        [i; 16]
    }

    #[test]
    fn rows_join_by_text_and_duplicates_in_order() {
        let dir = tempfile::tempdir().unwrap();
        // Foreign examples: texts 5, 2, 5, 1 with NLL 1, 2, 3, 4.
        let texts = [(0u64, hash(5)), (1, hash(2)), (2, hash(5)), (3, hash(1))];
        let log = log_of(dir.path(), &texts, &[&nll(&[1.0, 2.0, 3.0, 4.0])]);
        let ours = [1, 5, 2, 5, 5].map(|i| (u64::from(i), hash(i)));
        let (conf, report) = import_confidences(&log, ours.into_iter(), Confidence::Nll).unwrap();
        assert_eq!(conf, [-4.0, -1.0, -2.0, -3.0, -3.0]);
        assert_eq!(report, ImportReport { matched: 5, repeated: 1, ..Default::default() });
    }

    #[test]
    fn one_percent_may_be_missing_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let texts: Vec<(u64, [u8; 16])> = (0..200u64).map(|i| (i + 1, hash(i as u8))).collect();
        let log = log_of(dir.path(), &texts, &[&nll(&[1.0; 200])]);
        let mut ours = texts.clone();
        (ours[7].1, ours[9].1) = ([7, 8].repeat(8).try_into().unwrap(), [9, 8].repeat(8).try_into().unwrap());
        let (conf, report) = import_confidences(&log, ours.iter().copied(), Confidence::Perplexity).unwrap();
        assert!(conf[7].is_nan() && conf[9].is_nan() && conf[8] < -2.7);
        assert_eq!((report.matched, report.missing, report.missing_rows), (198, 2, vec![8, 10]));
        ours[11].1 = [11, 8].repeat(8).try_into().unwrap();
        let e = import_confidences(&log, ours.into_iter(), Confidence::Nll).unwrap_err().to_string();
        assert!(e.contains("3 of 200 rows are not in it") && e.contains("row 8, row 10, row 12"), "{e}");
    }

    #[test]
    fn any_order_joins_as_a_search_from_the_front_does() {
        let dir = tempfile::tempdir().unwrap();
        let texts: Vec<(u64, [u8; 16])> = (0..90u64).map(|i| (i, hash((i * i % 23) as u8))).collect();
        let log = log_of(dir.path(), &texts, &[&nll(&(0..90).map(|i| i as f64 / 8.0).collect::<Vec<_>>())]);
        // In the log's order for a while, then from behind; at last more than the log has.
        for same in [0, 1, 40, 90] {
            let ours: Vec<_> = texts[..same].iter().chain(texts[same..].iter().rev()).chain(&texts).copied().collect();
            let mut left: Vec<Option<[u8; 16]>> = texts.iter().map(|t| Some(t.1)).collect();
            let expected: Vec<f32> = ours
                .iter()
                .map(|(_, h)| {
                    let next = left.iter().position(|l| *l == Some(*h));
                    let at = next.unwrap_or_else(|| texts.iter().rposition(|t| t.1 == *h).unwrap());
                    left[at] = None;
                    -(at as f32) / 8.0
                })
                .collect();
            let (conf, report) = import_confidences(&log, ours.into_iter(), Confidence::Nll).unwrap();
            assert_eq!((conf, report.matched, report.repeated), (expected, 180, 90), "{same}");
        }
    }
}
