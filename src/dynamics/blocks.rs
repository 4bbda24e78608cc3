//! A checkpoint's file read block by block. Not through a map: a run that is taken up cuts its log back to its checkpoint,
//! perhaps while another process looks at it, and what is mapped and cut off ends a process that reads it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::block::{block_payload, block_start, file_head, file_len, Record};
use super::block::{BLOCK_BYTES, BLOCK_RECORDS, FILE_HEAD, VERSION};

/// The file, and the block that was read last.
#[derive(Debug)]
pub(super) struct Blocks {
    file: File,
    /// Its length when it was opened.
    len: u64,
    bytes: Vec<u8>,
}

/// Where the whole records of a file end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub records: u64,
    /// Bytes that hold them; what lies behind was being written when the process died.
    pub bytes: u64,
}

impl Blocks {
    pub fn open(path: &Path) -> io::Result<Blocks> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Blocks { file, len, bytes: Vec::new() })
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    /// The records of a block; `None` when it is cut or damaged.
    pub fn payload(&mut self, block: u64) -> io::Result<Option<&[u8]>> {
        self.read(block_start(block), BLOCK_BYTES)?;
        Ok(block_payload(block, &self.bytes))
    }

    /// Looks at the head and the last block only; blocks before it are checked as they are read.
    pub fn extent(&mut self) -> io::Result<Result<Extent, String>> {
        let head = file_head();
        self.read(0, FILE_HEAD)?;
        if self.bytes[..] != head[..self.bytes.len()] {
            return Ok(Err(format!("not a dynamics file of version {VERSION}")));
        }
        if self.bytes.len() < FILE_HEAD {
            return Ok(Ok(Extent { records: 0, bytes: 0 }));
        }
        let body = self.len.saturating_sub(FILE_HEAD as u64);
        if body == 0 {
            return Ok(Ok(Extent { records: 0, bytes: FILE_HEAD as u64 }));
        }
        let last = (body - 1) / BLOCK_BYTES as u64;
        let before = last * BLOCK_RECORDS as u64;
        Ok(Ok(match self.payload(last)? {
            Some(p) => {
                let records = before + (p.len() / Record::BYTES) as u64;
                Extent { records, bytes: file_len(records) }
            }
            None => Extent { records: before, bytes: block_start(last) },
        }))
    }

    /// So many bytes from there on, fewer where the file ends.
    fn read(&mut self, at: u64, count: usize) -> io::Result<()> {
        self.bytes.clear();
        self.file.seek(SeekFrom::Start(at))?;
        (&mut self.file).take(count as u64).read_to_end(&mut self.bytes).map(drop)
    }
}
