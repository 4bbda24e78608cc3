//! A set of examples that is a list over the stores of files: several files with weights, or a share of the rows.
//!
//! Files are tokenised each once, whatever is taken of them. The list is 4 bytes an example in a file of its own,
//! mapped like the stores. Which rows are held out, and which are sampled, follows from a random number each row
//! has by (seed, file, row), whatever it holds: those with the smallest are taken. All examples of a row go
//! together, so no text is on both sides.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::counts::{SourceCounts, Totals};
use super::index::{Record, RowCounts};
use super::part::Part;
use super::selection::Selection;
use super::store::TokenStore;
use crate::config::TrainConfig;
use crate::disk::Draft;
use crate::error::{Error, Result};
use crate::rng::{Key, Stream};

/// The examples of a run.
#[derive(Debug)]
pub(crate) struct Sets {
    pub train: TokenStore,
    pub valid: Option<TokenStore>,
}

/// Opens what a run trains on and what it holds out; `open` opens the store of one file.
///
/// # Errors
/// As `open`; [`Error::InvalidConfig`] when a weight or the share of held-out rows leaves a side without a row.
pub(crate) fn open_sets(
    config: &TrainConfig,
    cache_dir: &Path,
    open: impl Fn(&Path) -> Result<TokenStore>,
) -> Result<Sets> {
    let (train, held_out) = match (config.data.only(), config.valid_split) {
        (Some(path), None) => (open(path)?, None),
        (_, share) => {
            let stores = config.data.0.iter().map(|s| open(&s.path)).collect::<Result<Vec<_>>>()?;
            let weights: Vec<f64> = config.data.0.iter().map(|s| s.weight).collect();
            choose(stores, &weights, share, config.seed, cache_dir)?
        }
    };
    let valid = match &config.valid {
        Some(path) => {
            let valid = open(path)?;
            valid.warn_of_skipped();
            Some(valid)
        }
        None => held_out,
    };
    Ok(Sets { train, valid })
}

/// Takes a share of the rows out, and of what remains each store's weight.
fn choose(
    stores: Vec<TokenStore>,
    weights: &[f64],
    share: Option<f64>,
    seed: u64,
    cache_dir: &Path,
) -> Result<(TokenStore, Option<TokenStore>)> {
    let parts: Vec<Arc<Part>> = stores.into_iter().flat_map(|s| s.parts).collect();
    let number = |stream: Stream, file: usize, row: u64| Key::new(seed, stream, &[file as u64]).bits(row);
    let last_held = match share {
        Some(share) => Some(last_held_out(&parts, share, |file, row| number(Stream::HeldOut, file, row))?),
        None => None,
    };
    let held = |file: usize, row: u64| last_held.is_some_and(|last| number(Stream::HeldOut, file, row) <= last);
    let first = first_of(&parts)?;
    let mut train = Writer::new(cache_dir, &parts, first.clone())?;
    let mut valid = share.map(|_| Writer::new(cache_dir, &parts, first.clone())).transpose()?;
    for (file, (part, &weight)) in parts.iter().zip(weights).enumerate() {
        let all = part.rows().count() as u64;
        let n = part.rows().filter(|(row, _)| !held(file, *row)).count() as u64;
        let wanted = (weight * n as f64).round() as u64;
        if n > 0 && wanted == 0 {
            let reason = format!("weight {weight} of the {n} rows of {} is not one row", part.source.display());
            return Err(Error::config("data", reason));
        }
        let (whole, more) = (wanted / n.max(1), wanted % n.max(1));
        let last_sampled = (more > 0).then(|| {
            let rows = || part.rows().map(|r| r.0).filter(|&row| !held(file, row));
            smallest(more, || rows().map(|row| number(Stream::RowSample, file, row)))
        });
        train.source(part, weight, all - n, wanted);
        if let Some(valid) = &mut valid {
            valid.source(part, 1.0, 0, all - n);
        }
        for (row, examples) in part.rows() {
            let (to, copies) = match &mut valid {
                Some(valid) if held(file, row) => (valid, 1),
                _ => {
                    let sampled = last_sampled.is_some_and(|last| number(Stream::RowSample, file, row) <= last);
                    (&mut train, whole + u64::from(sampled))
                }
            };
            for _ in 0..copies {
                examples.clone().try_for_each(|e| to.add(first[file] + e, &part.record(e)))?;
            }
        }
    }
    Ok((train.finish()?, valid.map(Writer::finish).transpose()?))
}

/// The largest number of a held-out row.
fn last_held_out(parts: &[Arc<Part>], share: f64, number: impl Fn(usize, u64) -> u64) -> Result<u64> {
    let rows = || parts.iter().enumerate().flat_map(|(file, part)| part.rows().map(move |(row, _)| (file, row)));
    let n = rows().count() as u64;
    let k = (share * n as f64).round() as u64;
    if k == 0 || k >= n {
        let reason = format!("{share} of {n} rows is {k}: at least one must be held out and one trained on");
        return Err(Error::config("valid_split", reason));
    }
    Ok(smallest(k, || rows().map(|(file, row)| number(file, row))))
}

/// The `k`-th smallest of these numbers, from 1, in the memory of 256 counts: byte by byte from the top.
fn smallest<I: Iterator<Item = u64>>(k: u64, numbers: impl Fn() -> I) -> u64 {
    let (mut found, mut left) = (0u64, k);
    for shift in (0..64).step_by(8).rev() {
        let mut counts = [0u64; 256];
        let above = |n: u64| if shift == 56 { 0 } else { n >> (shift + 8) };
        numbers().filter(|&n| above(n) == above(found)).for_each(|n| counts[(n >> shift) as usize & 255] += 1);
        let mut byte = 0;
        while byte < 255 && counts[byte] < left {
            left -= counts[byte];
            byte += 1;
        }
        found |= (byte as u64) << shift;
    }
    found
}

fn first_of(parts: &[Arc<Part>]) -> Result<Arc<[u32]>> {
    let mut next = 0u32;
    let of = |part: &Arc<Part>| {
        let first = next;
        next = next.checked_add(part.len()).ok_or_else(too_many)?;
        Ok(first)
    };
    parts.iter().map(of).collect()
}

fn too_many() -> Error {
    Error::config("data", "more than 2^32 - 1 examples")
}

/// A list while it is written.
struct Writer {
    parts: Vec<Arc<Part>>,
    first: Arc<[u32]>,
    file: Draft,
    out: BufWriter<File>,
    hasher: blake3::Hasher,
    sources: Vec<SourceCounts>,
    totals: Totals,
}

impl Writer {
    fn new(cache_dir: &Path, parts: &[Arc<Part>], first: Arc<[u32]>) -> Result<Writer> {
        let (file, out) = Draft::create(&cache_dir.join("selection"))?;
        let out = BufWriter::with_capacity(1 << 16, out);
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&part.header.content);
        }
        let (sources, totals) = (Vec::new(), Totals::default());
        Ok(Writer { parts: parts.to_vec(), first, file, out, hasher, sources, totals })
    }

    /// The examples that follow are of this part.
    fn source(&mut self, part: &Part, weight: f64, held_out: u64, taken: u64) {
        let (h, t) = (&part.header, &mut self.totals);
        t.max_id = t.max_id.max(h.max_id);
        // Examples are counted as they are taken.
        t.counts.add(&RowCounts { kept: 0, ..h.counts.clone() });
        let (path, rows, skipped) = (part.source.clone(), h.counts.clone(), part.skipped.clone());
        self.sources.push(SourceCounts { path, weight, rows, skipped, held_out, taken, examples: 0 });
    }

    fn add(&mut self, example: u32, record: &Record) -> Result<()> {
        let t = &mut self.totals;
        if t.examples == u64::from(u32::MAX) {
            return Err(too_many());
        }
        t.examples += 1;
        t.counts.kept += 1;
        t.tokens += u64::from(record.tokens);
        t.supervised += u64::from(record.supervised);
        t.longest = t.longest.max(record.tokens);
        if let Some(source) = self.sources.last_mut() {
            source.examples += 1;
        }
        let bytes = example.to_le_bytes();
        self.hasher.update(&bytes);
        self.out.write_all(&bytes).map_err(Error::io(self.file.target()))
    }

    fn finish(self) -> Result<TokenStore> {
        let Writer { parts, first, file, out, hasher, sources, mut totals } = self;
        totals.content = *hasher.finalize().as_bytes();
        drop(out.into_inner().map_err(|e| Error::io(file.target())(e.into_error()))?);
        let written = File::open(file.path()).map_err(Error::io(file.target()))?;
        // SAFETY: nobody else knows the file, and it is not written to any more.
        let map = unsafe { Mmap::map(&written) }.map_err(Error::io(file.target()))?;
        let selection = Selection { map, first, _file: (!cfg!(unix)).then_some(file) };
        Ok(TokenStore { parts, selection: Some(selection), sources, totals })
    }
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
