//! Where an example stands in its data files, as one number.

/// Bits of [`Example::source_row`](super::store::Example::source_row) below the number of its file.
pub(crate) const ROW_BITS: u32 = 40;

/// The data file, from 0, and the row in it, from 1, of an [`Example::source_row`](super::store::Example::source_row).
pub fn file_and_row(source_row: u64) -> (usize, u64) {
    ((source_row >> ROW_BITS) as usize, source_row & ((1 << ROW_BITS) - 1))
}

/// An [`Example::source_row`](super::store::Example::source_row) in words: `row 12`, or `row 12 of file 2` where it is not of the first file.
pub fn row_name(source_row: u64) -> String {
    match file_and_row(source_row) {
        (0, row) => format!("row {row}"),
        (file, row) => format!("row {row} of file {}", file + 1),
    }
}
