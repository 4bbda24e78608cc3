//! Dot products of ggml's blocks with vectors that are rounded to eight bits first, as llama.cpp and candle
//! generate: our kernels where the processor has the instructions, else candle's. A product is off by about half a percent
//! of its terms' size.

#[cfg(target_arch = "x86_64")]
mod vnni;

use std::ops::Range;

use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4K, BlockQ4_0, BlockQ5K, BlockQ6K, BlockQ8_0, GgmlType,
};

use super::blocks::Block;
use super::dots::{Rounded, FEW};

/// Rounds `x[m,k]` for rows of this kind; `None` where there is no fast kernel, or the blocks lie at odd places.
pub fn of<'a>(block: Block, bytes: &'a [u8], x: &[f32], k: usize) -> Option<Box<dyn Rounded + 'a>> {
    #[cfg(target_arch = "x86_64")]
    if let Some(rows) = vnni::of(block, bytes, x, k) {
        return Some(rows);
    }
    by_candle(block, bytes, x, k)
}

fn by_candle<'a>(block: Block, bytes: &'a [u8], x: &[f32], k: usize) -> Option<Box<dyn Rounded + 'a>> {
    Some(match block {
        Block::Q4_0 => pair::<BlockQ4_0>(bytes, x, k)?,
        Block::Q8_0 => pair::<BlockQ8_0>(bytes, x, k)?,
        Block::Q2K => pair::<BlockQ2K>(bytes, x, k)?,
        Block::Q3K => pair::<BlockQ3K>(bytes, x, k)?,
        Block::Q4K => pair::<BlockQ4K>(bytes, x, k)?,
        Block::Q5K => pair::<BlockQ5K>(bytes, x, k)?,
        Block::Q6K => pair::<BlockQ6K>(bytes, x, k)?,
        // Of these candle has plain loops only, which take longer than to read the blocks exactly.
        Block::Q4_1 | Block::Q5_0 | Block::Q5_1 | Block::Q8_1 | Block::Q8K => return None,
    })
}

struct Pair<'a, T: GgmlType> {
    rows: &'a [T],
    vectors: Vec<T::VecDotType>,
    k: usize,
    /// Blocks of a row, and of a vector.
    blocks: usize,
}

fn pair<'a, T: GgmlType + 'a>(bytes: &'a [u8], x: &[f32], k: usize) -> Option<Box<dyn Rounded + 'a>> {
    // SAFETY: candle's blocks are plain numbers without padding: every bit pattern is one.
    let (head, rows, tail) = unsafe { bytes.align_to::<T>() };
    let odd = !head.is_empty() || !tail.is_empty() || !k.is_multiple_of(T::BLCK_SIZE);
    if odd || cfg!(target_endian = "big") {
        return None;
    }
    let blocks = k / T::BLCK_SIZE;
    let mut vectors = vec![T::VecDotType::zeros(); x.len() / k * blocks];
    for (x, vector) in x.chunks_exact(k).zip(vectors.chunks_exact_mut(blocks)) {
        T::VecDotType::from_float(x, vector);
    }
    Some(Box::new(Pair { rows, vectors, k, blocks }))
}

impl<T: GgmlType> Rounded for Pair<'_, T> {
    fn dots(&self, rows: Range<usize>, y: &mut [[f32; FEW]]) {
        let row = |r: usize| &self.rows[r * self.blocks..(r + 1) * self.blocks];
        for (i, x) in self.vectors.chunks_exact(self.blocks).enumerate() {
            for (r, y) in rows.clone().zip(y.iter_mut()) {
                y[i] = T::vec_dot(self.k, row(r), x);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::blocks::{self, tests::random_blocks};
    use super::*;
    use crate::rng::{Key, Stream};

    #[test]
    fn candles_kernels_are_off_by_what_rounding_costs() {
        use Block::*;
        let (key, k, n) = (Key::new(6, Stream::Bench, &[]), 512, 4);
        let x: Vec<f32> = (0..k).map(|i| key.uniform(i as u64) as f32 - 0.4).collect();
        for block in [Q4_0, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K] {
            // Where candle takes them for whole blocks, they lie as it aligns them.
            let bytes = random_blocks(block, n * k / block.numbers());
            let Some(rows) = by_candle(block, &bytes, &x, k) else { continue };
            let mut y = vec![[0f32; FEW]; n];
            rows.dots(0..n, &mut y);
            for (row, y) in bytes.chunks_exact(block.bytes_of(k)).zip(&y) {
                let mut w = vec![0f32; k];
                blocks::read(block, row, 0..k, &mut w);
                let terms = || w.iter().zip(&x).map(|(w, x)| *w as f64 * *x as f64);
                let (exact, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                assert!((y[0] as f64 - exact).abs() / size < 0.02, "{block:?}: {} for {exact}", y[0]);
            }
        }
        assert!(by_candle(Q5_0, &[0; 22], &[0.0; 32], 32).is_none());
    }
}
