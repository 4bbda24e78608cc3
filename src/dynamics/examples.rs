//! `examples.bin`: where each example came from and the hash of its text, by which another run's log
//! is joined. Head: magic, version, record size, count, checksum; then 24 bytes an example.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::block::{field, VERSION};
use super::fault::fault;
use super::header::Header;
use crate::data::tokens::row_name;
use crate::disk::{write_with, writing};
use crate::error::{Error, Result};

/// Name of the file in the log's folder.
const FILE: &str = "examples.bin";
const MAGIC: [u8; 8] = *b"sftmixex";
const HEAD: usize = 40;
const BYTES: usize = 24;

/// The mapped table.
#[derive(Debug)]
pub(super) struct Examples {
    map: Mmap,
    count: u64,
}

impl Examples {
    /// Writes the table; the iterator is read once and nothing is kept.
    pub fn write(dir: &Path, examples: impl ExactSizeIterator<Item = (u64, [u8; 16])>) -> Result<u64> {
        let path = dir.join(FILE);
        let promised = examples.len() as u64;
        if promised > u64::from(u32::MAX) {
            return Err(fault(&path, format!("at most {} examples, found {promised}", u32::MAX)));
        }
        let mut count = 0u64;
        let write = |file: &mut File| {
            let mut out = BufWriter::new(file);
            out.write_all(&[0; HEAD])?;
            let mut hash = blake3::Hasher::new();
            for (row, text) in examples {
                let mut b = [0; BYTES];
                b[0..8].copy_from_slice(&row.to_le_bytes());
                b[8..24].copy_from_slice(&text);
                hash.update(&b);
                out.write_all(&b)?;
                count += 1;
            }
            out.seek(SeekFrom::Start(0))?;
            out.write_all(&head(count, &hash.finalize()))?;
            out.flush()
        };
        let bytes = Some(HEAD as u64 + promised * BYTES as u64);
        write_with(&path, |file, draft| write(file).map_err(writing(draft, bytes)))?;
        if count != promised {
            return Err(fault(&path, format!("expected {promised} examples, found {count}")));
        }
        Ok(count)
    }

    /// The header of a log and its table, which must agree on the number of examples.
    ///
    /// # Errors
    /// A file is absent or damaged, or the two disagree.
    pub fn with_header(dir: &Path) -> Result<(Header, Arc<Examples>)> {
        let header = Header::read(dir)?;
        let examples = Examples::open(dir)?;
        if examples.len() != header.examples {
            let reason = format!("header announces {} examples, the table holds {}", header.examples, examples.len());
            return Err(fault(dir, reason));
        }
        Ok((header, Arc::new(examples)))
    }

    /// Maps the table and checks it whole.
    pub fn open(dir: &Path) -> Result<Examples> {
        let path = dir.join(FILE);
        let file = File::open(&path).map_err(Error::io(&path))?;
        // SAFETY: read only. The table is written once, whole, and replaced by name: nobody shortens it. Bytes are copied
        // out field by field, never borrowed as other types.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(&path))?;
        let count = u64::from_le_bytes(field(&map, 16));
        let body = map.get(HEAD..).unwrap_or_default();
        let expected = head(count, &blake3::hash(body));
        if map.len() < HEAD || map[..16] != expected[..16] {
            return Err(fault(&path, format!("not an example table of version {VERSION}")));
        }
        if Some(body.len() as u64) != count.checked_mul(BYTES as u64) || count > u64::from(u32::MAX) {
            return Err(fault(&path, format!("{count} examples announced, {} bytes found", body.len())));
        }
        if map[..HEAD] != expected {
            return Err(fault(&path, "the checksum does not fit"));
        }
        Ok(Examples { map, count })
    }

    pub fn len(&self) -> u64 {
        self.count
    }

    /// Source row and text hash.
    pub fn get(&self, example: u32) -> Option<(u64, [u8; 16])> {
        if u64::from(example) >= self.count {
            return None;
        }
        let at = HEAD + example as usize * BYTES;
        let b = self.map.get(at..at + BYTES)?;
        Some((u64::from_le_bytes(field(b, 0)), field(b, 8)))
    }

    /// An example as errors name it.
    pub fn name(&self, example: u32) -> String {
        match self.get(example) {
            Some((row, _)) => format!("{} (example {example})", row_name(row)),
            None => format!("example {example} of {}", self.count),
        }
    }
}

fn head(count: u64, hash: &blake3::Hash) -> [u8; HEAD] {
    let mut b = [0; HEAD];
    b[0..8].copy_from_slice(&MAGIC);
    b[8..12].copy_from_slice(&VERSION.to_le_bytes());
    b[12..16].copy_from_slice(&(BYTES as u32).to_le_bytes());
    b[16..24].copy_from_slice(&count.to_le_bytes());
    b[24..40].copy_from_slice(&hash.as_bytes()[..16]);
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_damaged_byte_and_length_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let rows = [(3u64, [1u8; 16]), (9, [2; 16])];
        assert_eq!(Examples::write(dir.path(), rows.into_iter()).unwrap(), 2);
        let t = Examples::open(dir.path()).unwrap();
        assert_eq!((t.len(), t.get(1), t.get(2)), (2, Some((9, [2; 16])), None));
        assert_eq!(t.name(0), "row 3 (example 0)");
        drop(t);
        let path = dir.path().join(FILE);
        let good = std::fs::read(&path).unwrap();
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(Examples::open(dir.path()).is_err(), "byte {i}");
            std::fs::write(&path, &good[..i]).unwrap();
            assert!(Examples::open(dir.path()).is_err(), "length {i}");
        }
    }
}
