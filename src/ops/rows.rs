//! Embedding look-up's neighbours: taking rows of a matrix out and adding them back.

use candle_core::Tensor;

use super::buf::Buf;
use super::engine::{Engine, Phase};
use super::moved::Transfer;
use crate::error::Result;

/// `y[S,C]`: the rows of `x[N,C]` that `at` names.
pub fn gather(engine: &Engine, x: &Buf, cols: usize, at: &[u32]) -> Result<Buf> {
    engine.timed(Phase::Elementwise, || match x {
        Buf::Host(x) => {
            let mut y = engine.pool.take(at.len() * cols);
            for (y, &i) in y.chunks_exact_mut(cols).zip(at) {
                y.copy_from_slice(&x[i as usize * cols..(i as usize + 1) * cols]);
            }
            Ok(Buf::Host(y))
        }
        Buf::Dev(x) => Ok(Buf::Dev(x.index_select(&engine.upload(Transfer::Rows, at, at.len())?, 0)?)),
    })
}

/// `x[N,C]` of zeros but for the rows `at[i]` = rows `first + i` of `y[S,C]`. `at` holds no row twice.
pub fn scatter(engine: &Engine, n: usize, cols: usize, y: &Buf, first: usize, at: &[u32]) -> Result<Buf> {
    engine.timed(Phase::Elementwise, || match y {
        Buf::Host(y) => {
            let mut x = engine.pool.zeros(n * cols);
            for (y, &i) in y[first * cols..].chunks_exact(cols).zip(at) {
                x[i as usize * cols..(i as usize + 1) * cols].copy_from_slice(y);
            }
            Ok(Buf::Host(x))
        }
        Buf::Dev(y) => {
            let at_t = engine.upload(Transfer::Rows, at, at.len())?;
            let x = Tensor::zeros((n, cols), y.dtype(), y.device())?;
            Ok(Buf::Dev(x.index_add(&at_t, &y.narrow(0, first, at.len())?.contiguous()?, 0)?))
        }
    })
}

/// The rows of several matrices `[S_i, C]` one below the other.
pub fn stack(engine: &Engine, parts: Vec<Buf>, cols: usize) -> Result<Buf> {
    if parts.len() == 1 {
        if let Some(one) = parts.into_iter().next() {
            return Ok(one);
        }
        unreachable!("one part was counted");
    }
    engine.timed(Phase::Elementwise, || {
        if !engine.fused() {
            let parts: Vec<&Tensor> = parts.iter().map(Buf::tensor).collect();
            return Ok(Buf::Dev(Tensor::cat(&parts, 0)?));
        }
        let mut out = engine.pool.take(parts.iter().map(|p| p.host().len()).sum());
        debug_assert_eq!(out.len() % cols.max(1), 0);
        let mut at = 0;
        for p in &parts {
            out[at..at + p.host().len()].copy_from_slice(p.host());
            at += p.host().len();
        }
        Ok(Buf::Host(out))
    })
}
