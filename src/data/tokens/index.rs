//! The index file of a token store: a header, then one record of fixed size an example. All
//! numbers are little endian.
//!
//! ```text
//! header  magic 8 · version u32 · record size u32 · examples u64 · tokens u64 · supervised u64
//!         longest u32 · max id u32 · row counts 10 × u64 · bytes of the skipped rows u64 · key 32 · content hash 32
//!         hash of the records and the skipped rows 32 · hash of the header up to here 32
//! record  offset in tokens u64 · tokens u32 · supervised u32 · source row u64 · text hash 16
//! skipped rows  behind the records: a list of [`SkippedRows`](super::SkippedRows) as JSON, nothing where there are none
//! ```

use serde::{Deserialize, Serialize};

use super::pipeline::MadeRow;

/// Part of every key; a change in how rows become tokens raises it.
pub(crate) const VERSION: u32 = 3;
pub(crate) const HEADER_BYTES: usize = 264;
pub(crate) const RECORD_BYTES: usize = 40;
const MAGIC: [u8; 8] = *b"sftmixTS";
const CHECKED_BYTES: usize = HEADER_BYTES - 32;
/// Numbers in the row counts.
const COUNTS: usize = 10;

/// What became of the rows of a file. `rows` = rows with an example + `empty` + `no_target` + `skipped`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RowCounts {
    /// Rows read.
    pub rows: u64,
    /// Examples kept.
    pub kept: u64,
    /// Rows longer than the limit that lost their tail (kept or, without a target, not).
    pub cut: u64,
    /// Rows in which every value is empty; left out.
    pub empty: u64,
    /// Rows without a token to train on; left out.
    pub no_target: u64,
    /// Examples that are one piece of a longer text.
    pub windows: u64,
    /// Rows of which the chat template leaves out something, as was allowed.
    #[serde(default)]
    pub dropped: u64,
    /// Rows other than conversations that bring their own beginning or end token: they have one, not two.
    #[serde(default)]
    pub own_ends: u64,
    /// Conversations in which a role had another name than the template's, as `bot` or `developer`.
    #[serde(default)]
    pub mapped_roles: u64,
    /// Rows that are no examples and were left out, as `bad_rows` allows.
    #[serde(default)]
    pub skipped: u64,
}

impl RowCounts {
    /// Counts a row that gave so many examples.
    pub(crate) fn count(&mut self, row: &MadeRow) {
        let examples = row.examples as u64;
        self.rows += 1;
        self.kept += examples;
        self.cut += u64::from(row.cut);
        self.empty += u64::from(row.empty);
        self.no_target += u64::from(!row.empty && examples == 0);
        self.windows += if row.split { examples } else { 0 };
        self.dropped += u64::from(row.dropped);
        self.own_ends += u64::from(row.own_ends);
        self.mapped_roles += u64::from(row.mapped_roles);
    }

    /// Counts rows that were left out.
    pub(crate) fn skip(&mut self, rows: u64) {
        self.rows += rows;
        self.skipped += rows;
    }

    /// Rows that gave nothing to train on.
    pub(crate) fn without_example(&self) -> u64 {
        self.empty + self.no_target + self.skipped
    }

    /// Adds those of another file.
    pub(crate) fn add(&mut self, other: &RowCounts) {
        for (to, n) in self.all().into_iter().zip(other.clone().all()) {
            *to += *n;
        }
    }

    /// Every count, in the order of the header.
    fn all(&mut self) -> [&mut u64; COUNTS] {
        let RowCounts { rows, kept, cut, empty, no_target, windows, dropped, own_ends, mapped_roles, skipped } = self;
        [rows, kept, cut, empty, no_target, windows, dropped, own_ends, mapped_roles, skipped]
    }
}

impl std::fmt::Display for RowCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let RowCounts { rows, kept, cut, empty, no_target, skipped, .. } = self;
        write!(f, "{rows} rows read, {kept} examples, {cut} rows cut, {empty} empty, {no_target} without a target")?;
        if *skipped > 0 {
            write!(f, ", {skipped} skipped")
        } else {
            Ok(())
        }
    }
}

/// Header of the index file, without its own hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub examples: u64,
    pub tokens: u64,
    pub supervised: u64,
    pub longest: u32,
    pub max_id: u32,
    pub counts: RowCounts,
    /// Bytes behind the records.
    pub skipped_bytes: u64,
    pub key: [u8; 32],
    pub content: [u8; 32],
    pub records: [u8; 32],
}

impl Header {
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(RECORD_BYTES as u32).to_le_bytes());
        for n in [self.examples, self.tokens, self.supervised] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(&self.longest.to_le_bytes());
        out.extend_from_slice(&self.max_id.to_le_bytes());
        for n in self.counts.clone().all() {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(&self.skipped_bytes.to_le_bytes());
        for hash in [&self.key, &self.content, &self.records] {
            out.extend_from_slice(hash);
        }
        let own = blake3::hash(&out);
        out.extend_from_slice(own.as_bytes());
        let mut bytes = [0; HEADER_BYTES];
        bytes.copy_from_slice(&out);
        bytes
    }

    /// Reads a header, or says what is wrong with it.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Header, &'static str> {
        if bytes[..8] != MAGIC {
            return Err("it is no index of a token store");
        }
        if bytes[CHECKED_BYTES..] != *blake3::hash(&bytes[..CHECKED_BYTES]).as_bytes() {
            return Err("the header does not match its hash");
        }
        if u32_at(bytes, 8) != VERSION || u32_at(bytes, 12) as usize != RECORD_BYTES {
            return Err("it is of another version");
        }
        let mut counts = RowCounts::default();
        for (i, n) in counts.all().into_iter().enumerate() {
            *n = u64_at(bytes, 48 + 8 * i);
        }
        Ok(Header {
            examples: u64_at(bytes, 16),
            tokens: u64_at(bytes, 24),
            supervised: u64_at(bytes, 32),
            longest: u32_at(bytes, 40),
            max_id: u32_at(bytes, 44),
            counts,
            skipped_bytes: u64_at(bytes, 128),
            key: array_at(bytes, 136),
            content: array_at(bytes, 168),
            records: array_at(bytes, 200),
        })
    }
}

/// One example's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub offset: u64,
    pub tokens: u32,
    pub supervised: u32,
    pub source_row: u64,
    pub text_hash: [u8; 16],
}

impl Record {
    pub fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        out[..8].copy_from_slice(&self.offset.to_le_bytes());
        out[8..12].copy_from_slice(&self.tokens.to_le_bytes());
        out[12..16].copy_from_slice(&self.supervised.to_le_bytes());
        out[16..24].copy_from_slice(&self.source_row.to_le_bytes());
        out[24..].copy_from_slice(&self.text_hash);
        out
    }

    /// `bytes` holds at least [`RECORD_BYTES`].
    pub fn parse(bytes: &[u8]) -> Record {
        Record {
            offset: u64_at(bytes, 0),
            tokens: u32_at(bytes, 8),
            supervised: u32_at(bytes, 12),
            source_row: u64_at(bytes, 16),
            text_hash: array_at(bytes, 24),
        }
    }
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_record_survive() {
        let header = Header {
            examples: 3,
            tokens: 1 << 40,
            supervised: 5,
            longest: 6,
            max_id: 7,
            counts: RowCounts {
                rows: 1,
                kept: 2,
                cut: 3,
                empty: 4,
                no_target: 5,
                windows: 6,
                dropped: 7,
                own_ends: 8,
                mapped_roles: 9,
                skipped: 10,
            },
            skipped_bytes: 11,
            key: [1; 32],
            content: [2; 32],
            records: [3; 32],
        };
        let bytes = header.to_bytes();
        assert_eq!(Header::parse(&bytes), Ok(header));
        for at in [0, 9, 50, 100, 200] {
            let mut bad = bytes;
            bad[at] ^= 1;
            assert!(Header::parse(&bad).is_err(), "byte {at}");
        }
        let record = Record { offset: 1 << 33, tokens: 2, supervised: 1, source_row: 1 << 40, text_hash: [9; 16] };
        assert_eq!(Record::parse(&record.to_bytes()), record);
    }
}
