//! Reading a log: nothing is held per record.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::block::{file_len, Record, BLOCK_RECORDS};
use super::blocks::{Blocks, Extent};
use super::examples::Examples;
use super::fault::fault;
use super::header::{CheckpointInfo, Header, Kind};
use crate::error::{Error, Result};

/// A log opened for reading.
#[derive(Debug)]
pub struct DynamicsLog {
    dir: PathBuf,
    header: Header,
    examples: Arc<Examples>,
}

impl DynamicsLog {
    /// Opens the folder and checks the header and the table of examples. Records are checked as they
    /// are read.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`] and [`crate::error::Error::Dynamics`] name the file.
    pub fn open(dir: impl AsRef<Path>) -> Result<DynamicsLog> {
        let dir = dir.as_ref().to_path_buf();
        let (header, examples) = Examples::with_header(&dir)?;
        Ok(DynamicsLog { dir, header, examples })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the log was made from.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its checkpoints, in the order they were begun.
    pub fn checkpoints(&self) -> &[CheckpointInfo] {
        &self.header.checkpoints
    }

    /// Number of examples.
    pub fn len(&self) -> u64 {
        self.header.examples
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Source row and text hash of an example; `None` past the last.
    pub fn example(&self, index: u32) -> Option<(u64, [u8; 16])> {
        self.examples.get(index)
    }

    /// Source row and text hash of every example, in order.
    pub fn examples(&self) -> impl Iterator<Item = (u64, [u8; 16])> + '_ {
        (0..self.len() as u32).filter_map(|i| self.example(i))
    }

    /// The records of a checkpoint, by its place in [`DynamicsLog::checkpoints`], in the order they
    /// were written. An incomplete one gives what is whole; [`Records::torn_bytes`] says what is not.
    ///
    /// # Errors
    /// The file is absent or damaged; a damaged block in the middle comes as an item.
    pub fn records(&self, checkpoint: usize) -> Result<Records> {
        let info = self.info(checkpoint)?;
        let records = Records::open(self.dir.join(info.file_name()), self.examples.clone(), info)?;
        if records.torn > 0 {
            ::log::warn!("{}: {} bytes of an unfinished write left out", records.path.display(), records.torn);
        }
        Ok(records)
    }

    /// Calls `each` on every record of a complete checkpoint and checks that no example comes twice
    /// and, in a sweep, that none is absent. One bit of memory an example.
    ///
    /// # Errors
    /// As [`DynamicsLog::records`]; an incomplete checkpoint; a duplicate or a gap, naming the row.
    pub fn visit(&self, checkpoint: usize, each: impl FnMut(&Record)) -> Result<()> {
        let info = self.info(checkpoint)?;
        if !info.complete {
            return Err(fault(self.dir.join(info.file_name()), "the checkpoint is incomplete"));
        }
        self.records(checkpoint)?.visit(info.kind == Kind::Sweep, each)
    }

    /// As [`DynamicsLog::visit`], for its checks alone.
    ///
    /// # Errors
    /// Likewise.
    pub fn validate(&self, checkpoint: usize) -> Result<()> {
        self.visit(checkpoint, |_| ())
    }

    fn info(&self, checkpoint: usize) -> Result<&CheckpointInfo> {
        let n = self.header.checkpoints.len();
        self.header
            .checkpoints
            .get(checkpoint)
            .ok_or_else(|| fault(&self.dir, format!("no checkpoint {checkpoint}; there are {n}")))
    }

    pub(super) fn name(&self, example: u32) -> String {
        self.examples.name(example)
    }
}

/// The records of one checkpoint, in the order they were written. Ends after the first error.
#[derive(Debug)]
pub struct Records {
    path: PathBuf,
    blocks: Blocks,
    /// The payload of the block that is being read.
    payload: Vec<u8>,
    examples: Arc<Examples>,
    extent: Extent,
    torn: u64,
    next: u64,
}

impl Records {
    pub(super) fn open(path: PathBuf, examples: Arc<Examples>, info: &CheckpointInfo) -> Result<Records> {
        let mut blocks = Blocks::open(&path).map_err(Error::io(&path))?;
        let extent = blocks.extent().map_err(Error::io(&path))?.map_err(|reason| fault(&path, reason))?;
        let torn = blocks.len().saturating_sub(extent.bytes);
        if info.complete && (torn > 0 || extent.records != info.records) {
            let reason = format!(
                "expected {} records in {} bytes, found {} in {} bytes",
                info.records,
                file_len(info.records),
                extent.records,
                blocks.len()
            );
            return Err(fault(path, reason));
        }
        Ok(Records { path, blocks, payload: Vec::new(), examples, extent, torn, next: 0 })
    }

    /// Number of whole records in the file.
    pub fn count_in_file(&self) -> u64 {
        self.extent.records
    }

    /// Bytes behind the last whole record: a write that a crash cut short.
    pub fn torn_bytes(&self) -> u64 {
        self.torn
    }

    pub(super) fn extent(&self) -> Extent {
        self.extent
    }

    pub(super) fn visit(self, all: bool, mut each: impl FnMut(&Record)) -> Result<()> {
        let (path, examples) = (self.path.clone(), self.examples.clone());
        let mut seen = vec![0u64; examples.len().div_ceil(64) as usize];
        let mut count = 0;
        for record in self {
            let record = record?;
            let (word, bit) = (record.example as usize / 64, 1 << (record.example % 64));
            if seen[word] & bit != 0 {
                return Err(fault(&path, format!("{} is there twice", examples.name(record.example))));
            }
            seen[word] |= bit;
            count += 1;
            each(&record);
        }
        if all && count < examples.len() {
            let absent = examples.len() - count;
            let first = (0..examples.len() as u32).find(|&i| seen[i as usize / 64] & (1 << (i % 64)) == 0);
            let name = first.map(|i| examples.name(i)).unwrap_or_default();
            return Err(fault(&path, format!("{name} has no record; {absent} in all have none")));
        }
        Ok(())
    }

    fn read(&mut self, index: u64) -> Result<Record> {
        let (block, within) = (index / BLOCK_RECORDS as u64, (index % BLOCK_RECORDS as u64) as usize);
        if within == 0 {
            let payload = self.blocks.payload(block).map_err(Error::io(&self.path))?;
            self.payload.clear();
            self.payload.extend_from_slice(payload.unwrap_or_default());
            let expected = (self.extent.records - index).min(BLOCK_RECORDS as u64) as usize;
            let found = payload.map(|p| p.len() / Record::BYTES);
            if found != Some(expected) {
                let reason = match found {
                    Some(n) => format!("block {block}: expected {expected} records, found {n}"),
                    None => format!("block {block} is damaged, {} records in", index),
                };
                return Err(fault(&self.path, reason));
            }
        }
        let at = within * Record::BYTES;
        let record = Record::decode(&self.payload[at..at + Record::BYTES]);
        match record.fault() {
            _ if u64::from(record.example) >= self.examples.len() => {
                Err(fault(&self.path, format!("no {}", self.examples.name(record.example))))
            }
            Some(reason) => Err(fault(&self.path, format!("{}: {reason}", self.examples.name(record.example)))),
            None => Ok(record),
        }
    }
}

impl Iterator for Records {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        if self.next >= self.extent.records {
            return None;
        }
        let record = self.read(self.next);
        self.next = if record.is_ok() { self.next + 1 } else { u64::MAX };
        Some(record)
    }
}
