//! Columns of a matrix as matrices of their own, and back: the parts of a fused projection.

use candle_core::Tensor;

use super::buf::Buf;
use super::engine::{Engine, Phase};
use crate::error::Result;
use crate::kernels::cpu::for_rows;

/// `x[N, Σ widths]` as matrices `[N, width]`.
pub fn split(engine: &Engine, x: Buf, widths: &[usize]) -> Result<Vec<Buf>> {
    let starts = widths.iter().scan(0, |at, &w| Some(std::mem::replace(at, *at + w)));
    engine.timed(Phase::Elementwise, || match &x {
        Buf::Host(x) => {
            let all: usize = widths.iter().sum();
            let part = |(start, &width): (usize, &usize)| {
                let mut part = engine.pool.take(x.len() / all * width);
                for_rows(&mut part, width, |first, rows| {
                    for (row, from) in rows.chunks_exact_mut(width).zip(x.chunks_exact(all).skip(first)) {
                        row.copy_from_slice(&from[start..start + width]);
                    }
                });
                Buf::Host(part)
            };
            Ok(starts.zip(widths).map(part).collect())
        }
        Buf::Dev(x) => {
            let part = |(start, &width): (usize, &usize)| Ok(Buf::Dev(x.narrow(1, start, width)?.contiguous()?));
            starts.zip(widths).map(part).collect()
        }
    })
}

/// Matrices `[N, width]` side by side.
pub fn join<const P: usize>(engine: &Engine, parts: [Buf; P], widths: &[usize]) -> Result<Buf> {
    engine.timed(Phase::Elementwise, || {
        if engine.fused() {
            let all: usize = widths.iter().sum();
            let n = parts[0].len() / widths[0];
            let mut x = engine.pool.take(n * all);
            for_rows(&mut x, all, |first, rows| {
                for (r, row) in rows.chunks_exact_mut(all).enumerate() {
                    let mut rest = row;
                    for (part, &width) in parts.iter().zip(widths) {
                        let (to, later) = rest.split_at_mut(width);
                        to.copy_from_slice(&part.host()[(first + r) * width..(first + r + 1) * width]);
                        rest = later;
                    }
                }
            });
            return Ok(Buf::Host(x));
        }
        let parts: Vec<&Tensor> = parts.iter().map(Buf::tensor).collect();
        Ok(Buf::Dev(Tensor::cat(&parts, 1)?))
    })
}
