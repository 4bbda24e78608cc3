//! One tensor of a model: elements as they are stored, converted to f32 where they are read.

use std::ops::Range;
use std::sync::Arc;

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use super::weights::WeightStore;
use crate::kernels::cpu::product::Stored;
use crate::kernels::cpu::simd::simd_kernel;

/// Element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    BF16,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
        }
    }

    /// The same type in candle.
    pub(crate) fn candle(self) -> candle_core::DType {
        match self {
            Dtype::F32 => candle_core::DType::F32,
            Dtype::F16 => candle_core::DType::F16,
            Dtype::BF16 => candle_core::DType::BF16,
        }
    }

    pub(crate) fn from_safetensors(dtype: safetensors::Dtype) -> Option<Dtype> {
        match dtype {
            safetensors::Dtype::F32 => Some(Dtype::F32),
            safetensors::Dtype::F16 => Some(Dtype::F16),
            safetensors::Dtype::BF16 => Some(Dtype::BF16),
            _ => None,
        }
    }

    /// Converts little-endian elements; `bytes` holds exactly `out.len()` of them.
    pub(crate) fn decode(self, bytes: &[u8], out: &mut [f32]) {
        debug_assert_eq!(bytes.len(), out.len() * self.size());
        match self {
            Dtype::F32 => {
                for (o, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
            Dtype::BF16 => decode_bf16(bytes, out),
            Dtype::F16 => {
                // SAFETY: every bit pattern is a u16.
                let (head, bits, tail) = unsafe { bytes.align_to::<u16>() };
                if cfg!(target_endian = "little") && head.is_empty() && tail.is_empty() {
                    let halves: &[f16] = bits.reinterpret_cast();
                    halves.convert_to_f32_slice(out);
                } else {
                    for (o, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                        *o = f16::from_le_bytes([b[0], b[1]]).to_f32();
                    }
                }
            }
        }
    }
}

simd_kernel! {
    /// The upper halves of singles.
    pub fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
        for (o, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
            *o = f32::from_bits((u16::from_le_bytes([b[0], b[1]]) as u32) << 16);
        }
    }
}

/// One tensor: a view of a mapped file, or owned numbers.
#[derive(Clone, Debug)]
pub struct Weight {
    name: Arc<str>,
    shape: Arc<[usize]>,
    dtype: Dtype,
    data: Data,
}

/// Where its elements are.
#[derive(Clone)]
pub(super) enum Data {
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
    pub(super) fn new(name: &str, shape: &[usize], dtype: Dtype, data: Data) -> Weight {
        Weight { name: name.into(), shape: shape.into(), dtype, data }
    }

    /// An owned F32 tensor, for tests and benches.
    ///
    /// # Panics
    /// If `data.len()` is not the product of `shape`.
    pub fn from_vec(name: &str, shape: &[usize], data: Vec<f32>) -> Weight {
        assert_eq!(data.len(), shape.iter().product::<usize>(), "{name}: shape {shape:?}");
        Weight { name: name.into(), shape: shape.into(), dtype: Dtype::F32, data: Data::Owned(Arc::new(data)) }
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

    /// The elements as stored: little endian, at any alignment (for an owned tensor, as in memory).
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Mapped { store, shard, bytes } => &store.map(*shard)[bytes.clone()],
            // SAFETY: f32 has no padding, and every byte is a u8.
            Data::Owned(data) => unsafe { data.align_to::<u8>().1 },
        }
    }

    /// The map that holds them and where, when it is one.
    pub(super) fn mapped(&self) -> Option<(&memmap2::Mmap, Range<usize>)> {
        match &self.data {
            Data::Mapped { store, shard, bytes } => Some((store.map(*shard), bytes.clone())),
            Data::Owned(_) => None,
        }
    }

    /// The elements in place: F32, aligned, on a little-endian machine.
    pub fn as_f32(&self) -> Option<&[f32]> {
        if let Data::Owned(data) = &self.data {
            return Some(data);
        }
        if self.dtype != Dtype::F32 || cfg!(target_endian = "big") {
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
        let elements = rows.start * cols..rows.end * cols;
        match self.as_f32() {
            Some(data) => out.copy_from_slice(&data[elements]),
            None => {
                let size = self.dtype.size();
                self.dtype.decode(&self.bytes()[elements.start * size..elements.end * size], out);
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
    cols: usize,
    units: bool,
}

impl Weight {
    /// The rows as the products read them; `units` lets them use the processor's matrix units.
    pub(crate) fn stored(&self, units: bool) -> StoredRows<'_> {
        StoredRows { bytes: self.bytes(), floats: self.as_f32(), dtype: self.dtype, cols: self.cols(), units }
    }
}

impl Stored for StoredRows<'_> {
    fn read(&self, row: usize, columns: Range<usize>, out: &mut [f32]) {
        let elements = row * self.cols + columns.start..row * self.cols + columns.end;
        match self.floats {
            Some(all) => out.copy_from_slice(&all[elements]),
            None => {
                let size = self.dtype.size();
                self.dtype.decode(&self.bytes[elements.start * size..elements.end * size], out);
            }
        }
    }

    fn in_place(&self) -> Option<(&[f32], usize)> {
        self.floats.map(|all| (all, self.cols))
    }

    fn bf16(&self) -> Option<(&[u8], usize)> {
        (self.dtype == Dtype::BF16).then_some((self.bytes, self.cols))
    }

    fn units(&self) -> bool {
        self.units
    }
}
