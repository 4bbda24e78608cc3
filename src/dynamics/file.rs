//! A checkpoint's file while it is written: when bytes may change, and in which order, so that a
//! crash at any moment leaves what was flushed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::block::{self, Record, BLOCK_BYTES, BLOCK_HEAD, BLOCK_PAYLOAD, BLOCK_RECORDS};
use super::examples::Examples;
use super::fault::fault;
use super::header::CheckpointInfo;
use super::log::Records;
use crate::disk::sync_data;
use crate::error::{Error, Result};

/// The file being written. `block` is the payload of the last block, of which the first `on_disk`
/// bytes are in the file behind a head that covers them.
#[derive(Debug)]
pub(super) struct CheckpointFile {
    pub path: PathBuf,
    file: File,
    pub records: u64,
    block: Vec<u8>,
    on_disk: usize,
}

impl CheckpointFile {
    pub fn create(dir: &Path, info: &CheckpointInfo) -> Result<CheckpointFile> {
        let path = dir.join(info.file_name());
        let make = || {
            let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
            file.write_all(&block::file_head())?;
            file.sync_all()?;
            Ok(file)
        };
        let file = make().map_err(Error::io(&path))?;
        Ok(CheckpointFile { path, file, records: 0, block: Vec::with_capacity(BLOCK_PAYLOAD), on_disk: 0 })
    }

    /// Opens at the last whole record; also how many bytes lay behind it.
    pub fn reopen(dir: &Path, examples: &Arc<Examples>, info: &CheckpointInfo) -> Result<(CheckpointFile, u64)> {
        let path = dir.join(info.file_name());
        let (extent, torn) = {
            let mut records = Records::open(path.clone(), examples.clone(), info)?;
            let found = (records.extent(), records.torn_bytes());
            // A damaged block in the middle must come to light before anything is appended.
            records.try_for_each(|r| r.map(drop))?;
            found
        };
        if extent.bytes == 0 {
            return Ok((CheckpointFile::create(dir, info)?, torn));
        }
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(Error::io(&path))?;
        file.set_len(extent.bytes).and_then(|()| file.sync_all()).map_err(Error::io(&path))?;
        let mut current = CheckpointFile { path, file, records: extent.records, block: Vec::new(), on_disk: 0 };
        current.load(extent.records / BLOCK_RECORDS as u64, (extent.records % BLOCK_RECORDS as u64) as usize)?;
        Ok((current, torn))
    }

    pub fn append(&mut self, record: &Record) -> Result<()> {
        if self.block.len() == BLOCK_PAYLOAD {
            self.flush()?; // failed last time
        }
        self.block.extend_from_slice(&record.encode());
        self.records += 1;
        if self.block.len() == BLOCK_PAYLOAD {
            self.flush()?;
        }
        Ok(())
    }

    pub fn flush(&mut self) -> Result<()> {
        self.store().map_err(Error::io(&self.path))
    }

    /// Records first, synced, then the head that covers them, synced: whatever moment it stops at, the
    /// head on disk is true, and no block follows one that is not whole.
    fn store(&mut self) -> io::Result<()> {
        if self.block.len() > self.on_disk {
            let number = (self.records - 1) / BLOCK_RECORDS as u64;
            let start = block::block_start(number);
            let head = block::block_head(number, &self.block);
            self.file.seek(SeekFrom::Start(start))?;
            if self.on_disk == 0 {
                self.file.write_all(&[&head[..], &self.block].concat())?;
            } else {
                self.file.seek(SeekFrom::Start(start + (BLOCK_HEAD + self.on_disk) as u64))?;
                self.file.write_all(&self.block[self.on_disk..])?;
                sync_data(&self.file, &self.path)?;
                self.file.seek(SeekFrom::Start(start))?;
                self.file.write_all(&head)?;
            }
            sync_data(&self.file, &self.path)?;
            self.on_disk = self.block.len();
        }
        if self.on_disk == BLOCK_PAYLOAD {
            self.block.clear();
            self.on_disk = 0;
        }
        Ok(())
    }

    /// Takes the first `records` records of a block that is on disk into memory.
    fn load(&mut self, number: u64, records: usize) -> Result<()> {
        let mut bytes = vec![0; if records == 0 { 0 } else { BLOCK_HEAD + records * Record::BYTES }];
        let read = |file: &mut File, bytes: &mut [u8]| {
            file.seek(SeekFrom::Start(block::block_start(number)))?;
            file.read_exact(bytes)
        };
        read(&mut self.file, &mut bytes).map_err(Error::io(&self.path))?;
        self.block = Vec::with_capacity(BLOCK_PAYLOAD);
        self.block.extend_from_slice(bytes.get(BLOCK_HEAD..).unwrap_or_default());
        self.on_disk = self.block.len();
        Ok(())
    }

    pub fn truncate(&mut self, records: u64) -> Result<()> {
        if records > self.records {
            let reason = format!("cannot be cut to {records} records, it holds {}", self.records);
            return Err(fault(&self.path, reason));
        }
        let number = records / BLOCK_RECORDS as u64;
        let keep = (records % BLOCK_RECORDS as u64) as usize * Record::BYTES;
        if number != self.records / BLOCK_RECORDS as u64 {
            self.load(number, BLOCK_RECORDS)?;
            // Still whole: should the process die now, this block is the last.
            let len = block::block_start(number) + BLOCK_BYTES as u64;
            self.file.set_len(len).map_err(Error::io(&self.path))?;
        }
        self.records = records;
        self.block.truncate(keep);
        if self.on_disk > keep {
            self.shorten(number, keep).map_err(Error::io(&self.path))?;
            self.on_disk = keep;
        }
        Ok(())
    }

    /// The smaller head first, then the length: the records that stay are covered throughout.
    fn shorten(&mut self, number: u64, keep: usize) -> io::Result<()> {
        let start = block::block_start(number);
        if keep == 0 {
            self.file.set_len(start)?;
        } else {
            self.file.seek(SeekFrom::Start(start))?;
            self.file.write_all(&block::block_head(number, &self.block))?;
            sync_data(&self.file, &self.path)?;
            self.file.set_len(start + (BLOCK_HEAD + keep) as u64)?;
        }
        sync_data(&self.file, &self.path)
    }
}
