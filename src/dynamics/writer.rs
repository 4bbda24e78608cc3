//! Writing a log. What was flushed survives the death of the process, and a resumed run cuts the log
//! back to the exact record of its own checkpoint, so that it ends in the same bytes as a run that
//! was never stopped.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::block::Record;
use super::examples::Examples;
use super::fault::fault;
use super::file::CheckpointFile;
use super::header::{self, CheckpointInfo, Header, Kind};
use super::log::{DynamicsLog, Records};
use crate::disk::sync_dir;
use crate::error::{Error, Result};

/// Where a writer stands; a training checkpoint keeps it and [`DynamicsWriter::rewind`] returns to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Checkpoints that are complete.
    pub complete: usize,
    /// Records of the one after them.
    pub records: u64,
}

impl Position {
    /// Whether a writer could return to it in this log. Only whole records count; nothing is changed.
    ///
    /// # Errors
    /// The file of the checkpoint at the position is absent or damaged.
    pub(crate) fn is_in(self, log: &DynamicsLog) -> Result<bool> {
        let all = log.checkpoints();
        match all.get(self.complete) {
            None => Ok(self.complete == all.len() && self.records == 0),
            Some(info) if info.complete => Ok(info.records >= self.records),
            Some(_) => Ok(self.records == 0 || log.records(self.complete)?.count_in_file() >= self.records),
        }
    }
}

/// Appends to a log. One writer at a time.
#[derive(Debug)]
pub struct DynamicsWriter {
    dir: PathBuf,
    header: Header,
    examples: Arc<Examples>,
    current: Option<CheckpointFile>,
    torn: u64,
}

impl DynamicsWriter {
    /// Starts a log in a folder that holds none. `examples`: source row and text hash of each, in the
    /// order of the set.
    ///
    /// # Errors
    /// The folder holds a log, or cannot be written.
    pub fn create(
        dir: impl AsRef<Path>,
        mut header: Header,
        examples: impl ExactSizeIterator<Item = (u64, [u8; 16])>,
    ) -> Result<DynamicsWriter> {
        let dir = dir.as_ref().to_path_buf();
        if dir.join(header::FILE).exists() {
            return Err(fault(&dir, "a log is here already"));
        }
        fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
        // Its own name must last too before a checkpoint refers to it.
        if let Some(above) = dir.parent() {
            sync_dir(above);
        }
        header.examples = Examples::write(&dir, examples)?;
        header.checkpoints.clear();
        // Last, so that a folder with a header is a whole log.
        header.write(&dir)?;
        let examples = Arc::new(Examples::open(&dir)?);
        Ok(DynamicsWriter { dir, header, examples, current: None, torn: 0 })
    }

    /// Opens a log to go on with it, at the last whole record of its incomplete checkpoint, if there
    /// is one. A write that a crash cut short is removed, see [`DynamicsWriter::torn_bytes`].
    ///
    /// # Errors
    /// A file is absent, or damaged elsewhere than at its end.
    pub fn open(dir: impl AsRef<Path>) -> Result<DynamicsWriter> {
        let dir = dir.as_ref().to_path_buf();
        let (header, examples) = Examples::with_header(&dir)?;
        let mut writer = DynamicsWriter { dir, header, examples, current: None, torn: 0 };
        if let Some(info) = writer.header.checkpoints.last().filter(|c| !c.complete) {
            let (current, torn) = CheckpointFile::reopen(&writer.dir, &writer.examples, info)?;
            if torn > 0 {
                ::log::warn!("{}: {torn} bytes of an unfinished write removed", current.path.display());
            }
            (writer.current, writer.torn) = (Some(current), torn);
        }
        Ok(writer)
    }

    /// What the log was made from and its checkpoints.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The checkpoint being written.
    pub fn current(&self) -> Option<&CheckpointInfo> {
        self.current.as_ref().and(self.header.checkpoints.last())
    }

    /// Bytes of an unfinished write that [`DynamicsWriter::open`] removed.
    pub fn torn_bytes(&self) -> u64 {
        self.torn
    }

    /// Records of the checkpoint being written, flushed or not; 0 without one.
    pub fn records(&self) -> u64 {
        self.current.as_ref().map_or(0, |c| c.records)
    }

    /// Where the writer stands.
    pub fn position(&self) -> Position {
        let complete = self.header.checkpoints.len() - usize::from(self.current.is_some());
        Position { complete, records: self.records() }
    }

    /// Begins a checkpoint.
    ///
    /// # Errors
    /// Another one is not finished, or this one is in the log.
    pub fn begin(&mut self, info: CheckpointInfo) -> Result<()> {
        if let Some(open) = self.current() {
            return Err(fault(&self.dir, format!("{} cannot begin, {} is not finished", info.id, open.id)));
        }
        if self.header.checkpoints.iter().any(|c| c.id == info.id) {
            return Err(fault(&self.dir, format!("{} is in the log already", info.id)));
        }
        if !info.epoch.is_finite() {
            return Err(fault(&self.dir, format!("{}: epoch is {}", info.id, info.epoch)));
        }
        let info = CheckpointInfo::new(info.stage, info.kind, info.step, info.epoch, info.adapter_hash);
        let current = CheckpointFile::create(&self.dir, &info)?;
        self.header.checkpoints.push(info);
        self.header.write(&self.dir)?;
        self.current = Some(current);
        Ok(())
    }

    /// Appends a record; it may stay in memory until [`DynamicsWriter::flush`] (at most 256 do).
    ///
    /// # Errors
    /// No checkpoint is begun; the record has no token, a non-finite number or an unknown example:
    /// the error names the row.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        let current = self.current.as_mut().ok_or_else(|| fault(&self.dir, "no checkpoint is begun"))?;
        let name = || self.examples.name(record.example);
        if u64::from(record.example) >= self.examples.len() {
            return Err(fault(&current.path, format!("no {}", name())));
        }
        if let Some(reason) = record.fault() {
            return Err(fault(&current.path, format!("{}: {reason}", name())));
        }
        if current.records >= self.examples.len() {
            return Err(fault(&current.path, format!("{}: every example has its record already", name())));
        }
        current.append(record)
    }

    /// Brings every record to the disk. Syncs, so meant for training checkpoints rather than steps.
    ///
    /// # Errors
    /// The disk refused.
    pub fn flush(&mut self) -> Result<()> {
        self.current.as_mut().map_or(Ok(()), CheckpointFile::flush)
    }

    /// Cuts the checkpoint being written back to its first `records` records.
    ///
    /// # Errors
    /// There are fewer, or no checkpoint is begun.
    pub fn truncate(&mut self, records: u64) -> Result<()> {
        let dir = &self.dir;
        self.current.as_mut().ok_or_else(|| fault(dir, "no checkpoint is begun"))?.truncate(records)
    }

    /// Returns to an earlier position: later checkpoints are dropped and the one of the position is
    /// opened again and cut. With 0 records it is dropped too, to be begun anew.
    ///
    /// # Errors
    /// The log does not reach that far.
    pub fn rewind(&mut self, to: Position) -> Result<()> {
        let here = self.position();
        if (to.complete, to.records) > (here.complete, here.records) {
            let reason = format!("expected {to:?} at least, found {here:?}: the log is older than the checkpoint");
            return Err(fault(&self.dir, reason));
        }
        if let Some(info) = self.header.checkpoints.get(to.complete).filter(|c| c.complete && c.records < to.records) {
            let reason = format!("{} holds {} records, expected {} at least", info.id, info.records, to.records);
            return Err(fault(&self.dir, reason));
        }
        self.flush()?;
        self.current = None;
        let keep = to.complete + usize::from(to.records > 0);
        let dropped = self.header.checkpoints.split_off(keep.min(self.header.checkpoints.len()));
        if let Some(info) = self.header.checkpoints.get_mut(to.complete) {
            (info.complete, info.records) = (false, 0);
        }
        // The header first: a file without an entry is overwritten later, an entry without a file is not.
        self.header.write(&self.dir)?;
        for info in dropped {
            let path = self.dir.join(info.file_name());
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io(&path)(e)),
                _ => {}
            }
        }
        if let Some(info) = self.header.checkpoints.get(to.complete) {
            let mut current = CheckpointFile::reopen(&self.dir, &self.examples, info)?.0;
            current.truncate(to.records)?;
            self.current = Some(current);
        }
        Ok(())
    }

    /// Marks the checkpoint complete, after checking that no example came twice and, in a sweep, that
    /// none is absent.
    ///
    /// # Errors
    /// A duplicate or a gap, naming the row; the checkpoint stays open.
    pub fn finish(&mut self) -> Result<()> {
        self.flush()?;
        let (Some(current), Some(info)) = (&self.current, self.header.checkpoints.last()) else {
            return Err(fault(&self.dir, "no checkpoint is begun"));
        };
        Records::open(current.path.clone(), self.examples.clone(), info)?.visit(info.kind == Kind::Sweep, |_| ())?;
        let records = current.records;
        let mut header = self.header.clone();
        if let Some(info) = header.checkpoints.last_mut() {
            (info.complete, info.records) = (true, records);
        }
        header.write(&self.dir)?;
        (self.header, self.current) = (header, None);
        Ok(())
    }
}
