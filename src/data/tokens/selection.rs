//! A list of examples over the stores of several files: 4 bytes each, mapped.

use std::sync::Arc;

use memmap2::Mmap;

use crate::disk::Draft;

/// Which example stands where.
#[derive(Debug)]
pub(crate) struct Selection {
    /// Examples, numbered through all parts.
    pub(crate) map: Mmap,
    /// Number of each part's first example.
    pub(crate) first: Arc<[u32]>,
    /// Where a mapped file cannot be removed, it goes when the map has gone.
    pub(crate) _file: Option<Draft>,
}

impl Selection {
    /// The part of the `i`-th example, and its number there; `i` is in range.
    pub fn place(&self, i: usize) -> (usize, u32) {
        let b = &self.map[4 * i..4 * i + 4];
        let example = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let part = self.first.partition_point(|&f| f <= example) - 1;
        (part, example - self.first[part])
    }
}
