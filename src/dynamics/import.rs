//! Taking the dynamics of another run, as of a smaller model that scored the set once: only the order
//! inside one model matters (arXiv 2410.05248 reports Gemma-2B for Llama-3.1-8B). Rows are joined by
//! the hash of their text, so neither their order nor the tokenizer needs to be the same.

use super::fault;
use super::log::DynamicsLog;
use super::metrics::{confidences, split_checkpoints};
use crate::config::Confidence;
use crate::error::Result;

/// How a join went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
/// join in order of occurrence. 32 bytes an example of the log while it joins.
///
/// # Errors
/// More than 1 % of our examples are missing (ours), or as [`confidences`].
pub fn import_confidences(
    foreign: &DynamicsLog,
    ours: impl Iterator<Item = (u64, [u8; 16])>,
    kind: Confidence,
) -> Result<(Vec<f32>, ImportReport)> {
    let known = confidences(foreign, kind, &split_checkpoints(foreign)?)?;
    let mut index: Vec<([u8; 16], u32)> = foreign.examples().enumerate().map(|(i, (_, h))| (h, i as u32)).collect();
    index.sort_unstable();
    // For the first entry of each hash: how many of its occurrences are taken.
    let mut taken = vec![0u32; index.len()];

    let mut joined = Vec::with_capacity(ours.size_hint().0);
    let mut report = ImportReport::default();
    for (row, hash) in ours {
        let first = index.partition_point(|(h, _)| *h < hash);
        if index.get(first).is_none_or(|(h, _)| *h != hash) {
            report.missing += 1;
            if report.missing_rows.len() < 10 {
                report.missing_rows.push(row);
            }
            joined.push(f32::NAN);
            continue;
        }
        let mut at = first + taken[first] as usize;
        if index.get(at).is_some_and(|(h, _)| *h == hash) {
            taken[first] += 1;
        } else {
            at -= 1;
            report.repeated += 1;
        }
        joined.push(known[index[at].1 as usize]);
        report.matched += 1;
    }

    let all = report.matched + report.missing;
    if report.missing * 100 > all {
        let rows: Vec<String> = report.missing_rows.iter().map(u64::to_string).collect();
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
        assert!(e.contains("3 of 200 rows are not in it") && e.contains("8, 10, 12"), "{e}");
    }
}
