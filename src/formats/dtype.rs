//! How the elements of a stored tensor are written, how they become f32, and how f32 become them.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};

use crate::error::Result;
use crate::kernels::cpu::blocks;
use crate::kernels::cpu::blocks::Block;
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
    /// ggml's blocks.
    Blocks(Block),
}

/// ggml's number of each type that can be read, and its name there.
const GGML: [(u32, Dtype, &str); 15] = [
    (0, Dtype::F32, "F32"),
    (1, Dtype::F16, "F16"),
    (2, Dtype::Blocks(Block::Q4_0), "Q4_0"),
    (3, Dtype::Blocks(Block::Q4_1), "Q4_1"),
    (6, Dtype::Blocks(Block::Q5_0), "Q5_0"),
    (7, Dtype::Blocks(Block::Q5_1), "Q5_1"),
    (8, Dtype::Blocks(Block::Q8_0), "Q8_0"),
    (9, Dtype::Blocks(Block::Q8_1), "Q8_1"),
    (10, Dtype::Blocks(Block::Q2K), "Q2_K"),
    (11, Dtype::Blocks(Block::Q3K), "Q3_K"),
    (12, Dtype::Blocks(Block::Q4K), "Q4_K"),
    (13, Dtype::Blocks(Block::Q5K), "Q5_K"),
    (14, Dtype::Blocks(Block::Q6K), "Q6_K"),
    (15, Dtype::Blocks(Block::Q8K), "Q8_K"),
    (30, Dtype::BF16, "BF16"),
];

impl Dtype {
    /// Elements that are stored together: 1, or those of a block.
    pub fn block(self) -> usize {
        match self {
            Dtype::Blocks(b) => b.numbers(),
            _ => 1,
        }
    }

    /// Bytes of [`Dtype::block`] elements.
    pub fn block_bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            Dtype::Blocks(b) => b.bytes(),
        }
    }

    /// Bytes of `elements` elements, which fill whole blocks.
    pub fn bytes_of(self, elements: usize) -> usize {
        elements / self.block() * self.block_bytes()
    }

    /// The bytes of a row in which these elements lie: whole blocks.
    pub(crate) fn bytes_around(self, columns: Range<usize>) -> Range<usize> {
        let (numbers, bytes) = (self.block(), self.block_bytes());
        columns.start / numbers * bytes..columns.end.div_ceil(numbers) * bytes
    }

    /// ggml's name of it.
    pub fn ggml_name(self) -> &'static str {
        GGML.iter().find(|(_, d, _)| *d == self).map_or("", |(.., name)| name)
    }

    /// ggml's number of it.
    pub(crate) fn ggml(self) -> u32 {
        GGML.iter().find(|(_, d, _)| *d == self).map_or(0, |(n, ..)| *n)
    }

    /// The type of ggml's number, where it can be read.
    pub(crate) fn from_ggml(number: u32) -> Option<Dtype> {
        GGML.iter().find(|(n, ..)| *n == number).map(|(_, d, _)| *d)
    }

    /// The same type in candle's tensors, which know no blocks.
    pub(crate) fn candle(self) -> Option<candle_core::DType> {
        match self {
            Dtype::F32 => Some(candle_core::DType::F32),
            Dtype::F16 => Some(candle_core::DType::F16),
            Dtype::BF16 => Some(candle_core::DType::BF16),
            Dtype::Blocks(_) => None,
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

    /// Converts elements `columns` of a row, whose bytes are given from its first element on.
    pub(crate) fn read(self, row: &[u8], columns: Range<usize>, out: &mut [f32]) {
        match self {
            Dtype::Blocks(block) => blocks::read(block, row, columns, out),
            _ => {
                let size = self.block_bytes();
                self.decode(&row[columns.start * size..columns.end * size], out);
            }
        }
    }

    /// Converts little-endian elements; `bytes` holds exactly `out.len()` of them.
    pub(crate) fn decode(self, bytes: &[u8], out: &mut [f32]) {
        debug_assert_eq!(bytes.len(), self.bytes_of(out.len()));
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
            Dtype::Blocks(block) => blocks::read(block, bytes, 0..out.len(), out),
        }
    }

    /// Appends numbers, which fill whole blocks, as they are stored: each rounded to the nearest, blocks by ggml's rule.
    ///
    /// # Errors
    /// When candle refuses to make the blocks.
    pub(crate) fn encode(self, numbers: &[f32], out: &mut Vec<u8>) -> Result<()> {
        match self {
            Dtype::F32 => out.extend_from_slice(&le_bytes(numbers)),
            Dtype::F16 => out.extend(numbers.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes())),
            Dtype::BF16 => out.extend(numbers.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes())),
            Dtype::Blocks(block) => {
                let numbers = Tensor::from_slice(numbers, (1, numbers.len()), &Device::Cpu)?;
                out.extend_from_slice(&QTensor::quantize(&numbers, candle_type(block))?.data()?);
            }
        }
        Ok(())
    }
}

/// Singles as files hold them, without a copy where memory holds them so.
pub(crate) fn le_bytes(numbers: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        // SAFETY: f32 has no padding, and every byte is a u8.
        Cow::Borrowed(unsafe { numbers.align_to::<u8>().1 })
    } else {
        Cow::Owned(numbers.iter().flat_map(|x| x.to_le_bytes()).collect())
    }
}

fn candle_type(block: Block) -> GgmlDType {
    match block {
        Block::Q4_0 => GgmlDType::Q4_0,
        Block::Q4_1 => GgmlDType::Q4_1,
        Block::Q5_0 => GgmlDType::Q5_0,
        Block::Q5_1 => GgmlDType::Q5_1,
        Block::Q8_0 => GgmlDType::Q8_0,
        Block::Q8_1 => GgmlDType::Q8_1,
        Block::Q2K => GgmlDType::Q2K,
        Block::Q3K => GgmlDType::Q3K,
        Block::Q4K => GgmlDType::Q4K,
        Block::Q5K => GgmlDType::Q5K,
        Block::Q6K => GgmlDType::Q6K,
        Block::Q8K => GgmlDType::Q8K,
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
