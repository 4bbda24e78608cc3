//! Records, and the blocks of a checkpoint's file.
//!
//! A file is a 16-byte head (magic, version, record size), then blocks: a 16-byte head (record count,
//! 0, checksum) and up to 256 records. Every block but the last is full, so a file's bytes follow
//! from its records alone, however often it was flushed, cut and continued. Block heads sit at
//! multiples of 16 and so never straddle a disk sector: a partial block grows by writing records
//! first and its head after them, and a crash in between leaves the old head, which is still true.

/// The loss of one example under one checkpoint. Sums run over its supervised response tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record {
    /// Index of the example in the set, from 0.
    pub example: u32,
    /// Supervised tokens N, ≥ 1.
    pub n_tokens: u32,
    /// Tokens whose teacher-forced arg-max was right, ≤ N.
    pub n_correct: u32,
    /// Mean probability of the right token, (1/N) Σ p.
    pub mean_prob: f32,
    /// Σ -ln p in nats.
    pub nll_sum: f64,
}

impl Record {
    pub(super) const BYTES: usize = 24;

    /// Mean negative log-likelihood `nll_sum / N` in nats per token.
    pub fn nll(&self) -> f64 {
        self.nll_sum / f64::from(self.n_tokens)
    }

    /// Perplexity of the response, `exp(nll)` (arXiv 2410.05248); infinite above 709 nats per token.
    pub fn perplexity(&self) -> f64 {
        libm::exp(self.nll())
    }

    /// Whether at least half of the tokens were predicted right: cartography's `k` for generation.
    pub fn is_correct(&self) -> bool {
        2 * u64::from(self.n_correct) >= u64::from(self.n_tokens)
    }

    /// Why this record cannot be used, if so.
    pub(super) fn fault(&self) -> Option<String> {
        if self.n_tokens == 0 {
            Some("no supervised token".into())
        } else if self.n_correct > self.n_tokens {
            Some(format!("{} of {} tokens right", self.n_correct, self.n_tokens))
        } else if !self.nll_sum.is_finite() {
            Some(format!("negative log-likelihood is {}", self.nll_sum))
        } else if !self.mean_prob.is_finite() {
            Some(format!("mean probability is {}", self.mean_prob))
        } else {
            None
        }
    }

    pub(super) fn encode(&self) -> [u8; Record::BYTES] {
        let mut b = [0; Record::BYTES];
        b[0..4].copy_from_slice(&self.example.to_le_bytes());
        b[4..8].copy_from_slice(&self.n_tokens.to_le_bytes());
        b[8..12].copy_from_slice(&self.n_correct.to_le_bytes());
        b[12..16].copy_from_slice(&self.mean_prob.to_le_bytes());
        b[16..24].copy_from_slice(&self.nll_sum.to_le_bytes());
        b
    }

    /// Decodes 24 bytes; shorter input reads as zeros, which no caller passes.
    pub(super) fn decode(b: &[u8]) -> Record {
        Record {
            example: u32::from_le_bytes(field(b, 0)),
            n_tokens: u32::from_le_bytes(field(b, 4)),
            n_correct: u32::from_le_bytes(field(b, 8)),
            mean_prob: f32::from_le_bytes(field(b, 12)),
            nll_sum: f64::from_le_bytes(field(b, 16)),
        }
    }
}

/// `N` bytes at `at`; zeros where the input ends early.
pub(super) fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(src) = bytes.get(at..at + N) {
        out.copy_from_slice(src);
    }
    out
}

pub(super) const VERSION: u32 = 1;
pub(super) const FILE_HEAD: usize = 16;
pub(super) const BLOCK_HEAD: usize = 16;
pub(super) const BLOCK_RECORDS: usize = 256;
pub(super) const BLOCK_PAYLOAD: usize = BLOCK_RECORDS * Record::BYTES;
pub(super) const BLOCK_BYTES: usize = BLOCK_HEAD + BLOCK_PAYLOAD;

const MAGIC: [u8; 8] = *b"sftmixdr";

pub(super) fn file_head() -> [u8; FILE_HEAD] {
    let mut b = [0; FILE_HEAD];
    b[0..8].copy_from_slice(&MAGIC);
    b[8..12].copy_from_slice(&VERSION.to_le_bytes());
    b[12..16].copy_from_slice(&(Record::BYTES as u32).to_le_bytes());
    b
}

/// Offset of block `b`.
pub(super) fn block_start(b: u64) -> u64 {
    FILE_HEAD as u64 + b * BLOCK_BYTES as u64
}

/// Length of a file of so many records.
pub(super) fn file_len(records: u64) -> u64 {
    let (full, rest) = (records / BLOCK_RECORDS as u64, records % BLOCK_RECORDS as u64);
    block_start(full) + if rest > 0 { BLOCK_HEAD as u64 + rest * Record::BYTES as u64 } else { 0 }
}

pub(super) fn block_head(block: u64, payload: &[u8]) -> [u8; BLOCK_HEAD] {
    let mut b = [0; BLOCK_HEAD];
    b[0..4].copy_from_slice(&((payload.len() / Record::BYTES) as u32).to_le_bytes());
    b[8..16].copy_from_slice(&checksum(block, payload));
    b
}

/// The number of the block goes in, so that blocks cannot trade places.
fn checksum(block: u64, payload: &[u8]) -> [u8; 8] {
    let mut h = blake3::Hasher::new();
    h.update(&block.to_le_bytes()).update(&(payload.len() as u64).to_le_bytes()).update(payload);
    field(h.finalize().as_bytes(), 0)
}

/// The records of block `block`, which starts at the start of `bytes`; `None` when it is cut or
/// damaged. Bytes after a partial block are not looked at.
pub(super) fn block_payload(block: u64, bytes: &[u8]) -> Option<&[u8]> {
    let head = bytes.get(..BLOCK_HEAD)?;
    let count = u32::from_le_bytes(field(head, 0)) as usize;
    if count == 0 || count > BLOCK_RECORDS || head[4..8] != [0; 4] {
        return None;
    }
    let payload = bytes.get(BLOCK_HEAD..BLOCK_HEAD + count * Record::BYTES)?;
    (checksum(block, payload) == head[8..16]).then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_layout_is_pinned() {
        let r = Record { example: 1, n_tokens: 2, n_correct: 1, mean_prob: 0.5, nll_sum: 1.0 };
        assert_eq!(r.encode(), [1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 63, 0, 0, 0, 0, 0, 0, 240, 63]);
        assert_eq!(Record::decode(&r.encode()), r);
        assert!(r.is_correct() && r.fault().is_none());
        assert_eq!(file_len(0), 16);
        assert_eq!(file_len(256), 16 + 16 + 256 * 24);
        assert_eq!(file_len(257), 16 + 16 + 256 * 24 + 16 + 24);
    }

    #[test]
    fn a_block_out_of_place_or_of_impossible_size_is_refused() {
        let payload = [7u8; 48];
        let mut block = block_head(3, &payload).to_vec();
        block.extend(payload);
        assert_eq!(block_payload(3, &block), Some(&payload[..]));
        assert_eq!(block_payload(4, &block), None);
        block[0] = 0;
        assert_eq!(block_payload(3, &block), None);
        block[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(block_payload(3, &block), None);
    }
}
