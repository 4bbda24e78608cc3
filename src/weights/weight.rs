//! One tensor of a model: elements as they are stored, converted to f32 where they are read.

use std::ops::Range;
use std::sync::Arc;

use super::store::WeightStore;
use crate::error::Result;
pub use crate::formats::dtype::Dtype;
use crate::gguf::RowOrder;
use crate::kernels::cpu::matvec::Source;
use crate::kernels::cpu::product::Cut;
use crate::kernels::cpu::product::Stored;

/// One tensor: a view of a mapped file, or owned numbers.
#[derive(Clone, Debug)]
pub struct Weight {
    name: Arc<str>,
    shape: Arc<[usize]>,
    dtype: Dtype,
    /// The rows stand in another order than they are counted in.
    order: Option<RowOrder>,
    data: Data,
}

/// Where its elements are.
#[derive(Clone)]
pub(crate) enum Data {
    Mapped { store: Arc<WeightStore>, shard: usize, bytes: Range<usize> },
    Owned(Arc<Vec<f32>>),
}

impl std::fmt::Debug for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Data::Mapped { store, shard, bytes } => write!(f, "{}[{bytes:?}]", store.files()[*shard].display()),
            Data::Owned(data) => write!(f, "owned[{}]", data.len()),
        }
    }
}

impl Weight {
    pub(crate) fn new(name: &str, shape: &[usize], dtype: Dtype, data: Data) -> Weight {
        Weight { name: name.into(), shape: shape.into(), dtype, order: None, data }
    }

    /// The same with its rows counted in Hugging Face's order, where they stand in GGUF's.
    pub(crate) fn in_order(mut self, order: Option<RowOrder>) -> Weight {
        self.order = order;
        self
    }

    /// An owned F32 tensor, for tests and benches.
    ///
    /// # Panics
    /// If `data.len()` is not the product of `shape`.
    pub fn from_vec(name: &str, shape: &[usize], data: Vec<f32>) -> Weight {
        assert_eq!(data.len(), shape.iter().product::<usize>(), "{name}: shape {shape:?}");
        Weight {
            name: name.into(),
            shape: shape.into(),
            dtype: Dtype::F32,
            order: None,
            data: Data::Owned(Arc::new(data)),
        }
    }

    /// The tensor's name in the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first dimension; 1 for a scalar.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Elements of a row: the product of the other dimensions, so 1 for a vector.
    pub fn cols(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// All dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How the elements are stored.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The elements as stored: little endian, at any alignment (for an owned tensor, as in memory). Rows of a GGUF
    /// file's queries and keys may stand there in another order than they are counted in: see [`Weight::is_plain`].
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Mapped { store, shard, bytes } => &store.map(*shard)[bytes.clone()],
            // SAFETY: f32 has no padding, and every byte is a u8.
            Data::Owned(data) => unsafe { data.align_to::<u8>().1 },
        }
    }

    /// The map that holds them and where, when it is one.
    pub(crate) fn mapped(&self) -> Option<(&memmap2::Mmap, Range<usize>)> {
        match &self.data {
            Data::Mapped { store, shard, bytes } => Some((store.map(*shard), bytes.clone())),
            Data::Owned(_) => None,
        }
    }

    /// Refuses a mapped tensor whose file was changed since it was opened.
    ///
    /// # Errors
    /// As [`WeightStore::unchanged`].
    pub fn unchanged(&self) -> Result<()> {
        match &self.data {
            Data::Mapped { store, shard, .. } => store.held()[*shard].unchanged(),
            Data::Owned(_) => Ok(()),
        }
    }

    /// Whether [`Weight::bytes`] holds one element after the other, row by row.
    pub fn is_plain(&self) -> bool {
        self.order.is_none() && self.dtype.block() == 1
    }

    /// The elements in place: F32, aligned, in order, on a little-endian machine.
    pub fn as_f32(&self) -> Option<&[f32]> {
        if let Data::Owned(data) = &self.data {
            return Some(data);
        }
        if self.dtype != Dtype::F32 || self.order.is_some() || cfg!(target_endian = "big") {
            return None;
        }
        // SAFETY: every bit pattern is an f32.
        let (head, floats, tail) = unsafe { self.bytes().align_to::<f32>() };
        (head.is_empty() && tail.is_empty()).then_some(floats)
    }

    /// Converts some rows.
    ///
    /// # Panics
    /// If `out.len()` is not `rows.len() * cols()`, or `rows` reaches beyond [`Weight::rows`].
    pub fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) {
        let cols = self.cols();
        assert_eq!(out.len(), rows.len() * cols, "{}: rows {rows:?} of {cols} elements", self.name);
        assert!(rows.is_empty() || rows.end <= self.rows(), "{}: rows {rows:?} of {}", self.name, self.rows());
        if rows.is_empty() {
            return;
        }
        if let Some(data) = self.as_f32() {
            return out.copy_from_slice(&data[rows.start * cols..rows.end * cols]);
        }
        let (bytes, row_bytes) = (self.bytes(), self.dtype.bytes_of(cols));
        match self.order {
            None => self.dtype.decode(&bytes[rows.start * row_bytes..rows.end * row_bytes], out),
            Some(order) => {
                for (row, out) in rows.zip(out.chunks_exact_mut(cols)) {
                    let at = order.stored(row) * row_bytes;
                    self.dtype.decode(&bytes[at..at + row_bytes], out);
                }
            }
        }
    }

    /// Every element, converted.
    pub fn to_vec_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows() * self.cols()];
        self.read_rows(0..self.rows(), &mut out);
        out
    }
}

/// A matrix's rows on loan, to be converted as they are needed.
#[derive(Clone, Copy)]
pub(crate) struct StoredRows<'a> {
    bytes: &'a [u8],
    floats: Option<&'a [f32]>,
    dtype: Dtype,
    order: Option<RowOrder>,
    row_bytes: usize,
    cols: usize,
    units: bool,
}

impl Weight {
    /// The rows as the products read them; `units` lets them use the processor's matrix units.
    pub(crate) fn stored(&self, units: bool) -> StoredRows<'_> {
        let (dtype, order, cols) = (self.dtype, self.order, self.cols());
        let row_bytes = dtype.bytes_of(cols);
        StoredRows { bytes: self.bytes(), floats: self.as_f32(), dtype, order, row_bytes, cols, units }
    }

    /// The rows as products with a few vectors read them, in the order in which they stand; `rounded` lets blocks
    /// be multiplied with rounded vectors.
    pub(crate) fn source(&self, rounded: bool) -> Source<'_> {
        match (self.as_f32(), self.dtype) {
            (Some(floats), _) => Source::Floats(floats),
            (None, Dtype::F32) => Source::F32(self.bytes()),
            (None, Dtype::F16) => Source::F16(self.bytes()),
            (None, Dtype::BF16) => Source::Bf16(self.bytes()),
            (None, Dtype::Blocks(block)) => Source::Blocks { block, bytes: self.bytes(), rounded },
        }
    }

    /// The order in which the rows stand, where it is another than they are counted in.
    pub(crate) fn order(&self) -> Option<RowOrder> {
        self.order
    }
}

impl Stored for StoredRows<'_> {
    fn read(&self, row: usize, columns: Range<usize>, out: &mut [f32]) {
        if let Some(all) = self.floats {
            return out.copy_from_slice(&all[row * self.cols + columns.start..row * self.cols + columns.end]);
        }
        let at = self.order.map_or(row, |o| o.stored(row)) * self.row_bytes;
        self.dtype.read(&self.bytes[at..at + self.row_bytes], columns, out);
    }

    fn in_place(&self) -> Option<(&[f32], usize)> {
        self.floats.map(|all| (all, self.cols))
    }

    fn bf16(&self) -> Option<(&[u8], usize)> {
        (self.dtype == Dtype::BF16 && self.order.is_none()).then_some((self.bytes, self.cols))
    }

    fn bytes(&self, row: usize, columns: Range<usize>) -> &[u8] {
        // For bf16 it was measured to gain nothing: a step at the 1B shape took a few percent longer.
        if !matches!(self.dtype, Dtype::Blocks(_)) {
            return &[];
        }
        let at = self.order.map_or(row, |o| o.stored(row)) * self.row_bytes;
        let within = self.dtype.bytes_around(columns);
        &self.bytes[at + within.start..at + within.end]
    }

    fn cut(&self) -> Option<Cut> {
        match self.dtype {
            _ if !self.units => None,
            // f32 is left to its tiles.
            Dtype::F32 => None,
            // Rows in another order are read one by one, and then cut.
            Dtype::BF16 if self.order.is_some() => Some(Cut::HALVES),
            Dtype::BF16 => Some(Cut::BF16),
            Dtype::F16 => Some(Cut::HALVES),
            Dtype::Blocks(_) => Some(Cut::BLOCKS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owns_numbers() {
        let values = [-1.875f32, 0.5, 0.0, 1.0, 3e-9, 7.25];
        let weight = Weight::from_vec("w", &[2, 3], values.to_vec());
        assert_eq!((weight.rows(), weight.cols(), weight.as_f32()), (2, 3, Some(&values[..])));
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_ne_bytes()).collect();
        assert_eq!(weight.bytes(), bytes);
        assert_eq!(weight.clone().to_vec_f32(), values);
    }
}
