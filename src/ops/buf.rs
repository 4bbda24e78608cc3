//! Matrices of activations, parameters and frozen weights, on the host or on the engine's device.

use std::borrow::Cow;

use candle_core::{DType, Tensor};

use super::engine::Engine;
use super::moved::Transfer;
use super::pool::HostBuf;
use super::transfer;
use crate::error::Result;
use crate::kernels::cpu::matvec::{self, LowRank};
use crate::weights::weight::StoredRows;
use crate::weights::Weight;

impl Engine {
    /// A buffer of unspecified contents (zeros on a device).
    pub(crate) fn take(&self, rows: usize, cols: usize) -> Result<Buf> {
        if self.fused() {
            Ok(Buf::Host(self.pool.take(rows * cols)))
        } else {
            self.zeros(rows, cols)
        }
    }

    /// A buffer of zeros.
    pub fn zeros(&self, rows: usize, cols: usize) -> Result<Buf> {
        Ok(if self.fused() {
            Buf::Host(self.pool.zeros(rows * cols))
        } else {
            Buf::Dev(Tensor::zeros((rows, cols), self.options.dtype, self.device())?)
        })
    }

    /// A buffer in f32 whatever the activation type: for parameters and their gradients.
    ///
    /// # Errors
    /// When the device refuses the copy.
    ///
    /// # Panics
    /// When `data` is not `rows · cols` long.
    pub fn parameter(&self, rows: usize, cols: usize, data: &[f32]) -> Result<Buf> {
        Ok(if self.fused() {
            let mut b = self.pool.take(rows * cols);
            b.copy_from_slice(data);
            Buf::Host(b)
        } else {
            Buf::Dev(self.upload(Transfer::Adapter, data, (rows, cols))?)
        })
    }
}

/// A matrix of activations or parameters: lent by the pool, or a tensor on the engine's device.
#[derive(Debug)]
pub enum Buf {
    /// Row-major f32 on the host.
    Host(HostBuf),
    /// A two-dimensional tensor.
    Dev(Tensor),
}

impl Buf {
    /// The elements of a host buffer.
    pub(crate) fn host(&self) -> &[f32] {
        match self {
            Buf::Host(b) => b,
            Buf::Dev(_) => unreachable!("a fused operation was given a device buffer"),
        }
    }

    pub(crate) fn host_mut(&mut self) -> &mut [f32] {
        match self {
            Buf::Host(b) => b,
            Buf::Dev(_) => unreachable!("a fused operation was given a device buffer"),
        }
    }

    pub(crate) fn tensor(&self) -> &Tensor {
        match self {
            Buf::Dev(t) => t,
            Buf::Host(_) => unreachable!("a portable operation was given a host buffer"),
        }
    }

    /// The elements, copied to the host in f32, row-major.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        match self {
            Buf::Host(b) => Ok(b.to_vec()),
            Buf::Dev(t) => transfer::values(t),
        }
    }

    /// Elements.
    pub(crate) fn len(&self) -> usize {
        match self {
            Buf::Host(b) => b.len(),
            Buf::Dev(t) => t.elem_count(),
        }
    }

    /// The elements in f32, row-major: where they are on the host, else copied there.
    pub(crate) fn numbers(&self) -> Result<Cow<'_, [f32]>> {
        match self {
            Buf::Host(b) => Ok(Cow::Borrowed(b)),
            Buf::Dev(t) => transfer::values(t).map(Cow::Owned),
        }
    }

    /// Overwrites the elements.
    pub(crate) fn set(&mut self, data: &[f32]) -> Result<()> {
        match self {
            Buf::Host(b) => b.copy_from_slice(data),
            Buf::Dev(t) => transfer::overwrite(t, data)?,
        }
        Ok(())
    }

    /// Sets every element to zero.
    pub(crate) fn clear(&mut self) -> Result<()> {
        match self {
            Buf::Host(b) => b.fill(0.0),
            Buf::Dev(t) => *t = t.zeros_like()?,
        }
        Ok(())
    }

    /// A copy.
    pub(crate) fn copy(&self, engine: &Engine) -> Buf {
        match self {
            Buf::Host(b) => {
                let mut c = engine.pool.take(b.len());
                c.copy_from_slice(b);
                Buf::Host(c)
            }
            Buf::Dev(t) => Buf::Dev(t.clone()),
        }
    }
}

/// A frozen matrix `[rows, cols]` of the model: mapped on the host, uploaded once for the portable form.
#[derive(Debug, Clone)]
pub struct Matrix {
    weight: Weight,
    dev: Option<Tensor>,
}

impl Matrix {
    /// Takes a matrix of the model into use on the engine's device.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn new(engine: &Engine, weight: Weight) -> Result<Matrix> {
        let dev = if engine.fused() { None } else { Some(engine.upload_weight(&weight)?) };
        Ok(Matrix { weight, dev })
    }

    /// Rows (outputs of a linear).
    pub fn rows(&self) -> usize {
        self.weight.rows()
    }

    /// Columns (inputs of a linear).
    pub fn cols(&self) -> usize {
        self.weight.cols()
    }

    pub(crate) fn weight(&self) -> &Weight {
        &self.weight
    }

    /// The rows as the fused products read them.
    pub(crate) fn stored(&self, engine: &Engine) -> StoredRows<'_> {
        self.weight.stored(engine.matrix_units())
    }

    /// `y[m,rows]` of a few vectors `x[m,cols]`, and an adapter's term.
    pub(crate) fn multiply_few(&self, engine: &Engine, x: &[f32], low: Option<LowRank>, y: &mut [f32]) {
        let source = self.weight.source(engine.options.rounded_blocks);
        let order = self.weight.order().map(|order| move |row| order.original(row));
        let place = order.as_ref().map(|p| p as matvec::Place);
        matvec::product(source, place, (x.len() / self.cols(), self.rows(), self.cols()), x, low, y);
    }

    pub(crate) fn tensor(&self) -> &Tensor {
        match &self.dev {
            Some(t) => t,
            None => unreachable!("a portable operation was given a matrix that was not uploaded"),
        }
    }

    /// Lends rows as f32: the map itself where it is f32, else converted into a buffer of the pool.
    pub(crate) fn with_rows<T>(&self, engine: &Engine, rows: std::ops::Range<usize>, f: impl FnOnce(&[f32]) -> T) -> T {
        let cols = self.cols();
        if let Some(all) = self.weight.as_f32() {
            return f(&all[rows.start * cols..rows.end * cols]);
        }
        let mut scratch = engine.pool.scratch(rows.len() * cols);
        crate::kernels::cpu::for_rows(&mut scratch, cols, |r0, out| {
            let first = rows.start + r0;
            self.weight.read_rows(first..first + out.len() / cols, out);
        });
        f(&scratch)
    }
}

/// A frozen vector (norm weight, bias), in f32.
#[derive(Debug, Clone)]
pub struct Param {
    host: Vec<f32>,
    dev: Option<Tensor>,
}

impl Param {
    /// Takes a vector of the model into use on the engine's device.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn new(engine: &Engine, weight: &Weight) -> Result<Param> {
        Param::plus(engine, weight, 0.0)
    }

    /// As [`Param::new`] with `offset` added to each element: Gemma's norms multiply with 1 + weight.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn plus(engine: &Engine, weight: &Weight, offset: f32) -> Result<Param> {
        let mut host = weight.to_vec_f32();
        host.iter_mut().for_each(|v| *v += offset);
        let dev = if engine.fused() { None } else { Some(engine.upload(Transfer::Weights, &host, host.len())?) };
        Ok(Param { host, dev })
    }

    pub(crate) fn host(&self) -> &[f32] {
        &self.host
    }

    pub(crate) fn tensor(&self, dtype: DType) -> Result<Tensor> {
        match &self.dev {
            Some(t) => Ok(t.to_dtype(dtype)?),
            None => unreachable!("a portable operation was given a vector that was not uploaded"),
        }
    }
}
