//! A frozen linear and an adapter on it: what they hold, what of it is trained, and what the forward pass leaves for the
//! backward pass. W has no gradient, ever. The passes themselves are those of [`adapted`](super::adapted).

use std::sync::RwLock;

use super::buf::{Buf, Matrix, Param};
use super::elementwise::{dropout, DropoutKey};
use super::engine::Engine;
use super::layout::Layout;
use crate::error::Result;

/// A frozen linear of the model.
#[derive(Debug)]
pub struct Linear {
    /// Its number among the model's linears.
    pub id: usize,
    /// Its block.
    pub layer: usize,
    /// Its module path in the model's files, `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// W `[out, in]`.
    pub weight: Matrix,
    /// Bias `[out]`.
    pub bias: Option<Param>,
}

/// An adapter on a linear.
#[derive(Debug)]
pub struct Slot {
    /// Module path.
    pub module: String,
    /// A number for the path: keys random numbers.
    pub key: u64,
    /// Rank R.
    pub r: usize,
    /// Inputs of the linear.
    pub in_features: usize,
    /// Outputs of the linear.
    pub out_features: usize,
    /// s.
    pub scale: f32,
    /// Dropout on the adapter's input, in training.
    pub dropout: f32,
    /// Factor of the learning rate of B and m.
    pub lr_factor: f32,
    /// A `[R, in]`, f32.
    pub a: Buf,
    /// B `[out, R]`, f32.
    pub b: Buf,
    /// The magnitudes m, and what follows from A and B for them, where there are any.
    pub dora: Option<Dora>,
}

impl Slot {
    /// What is trained, with the factor of its learning rate: A, B, and m where there is one.
    pub(crate) fn parameters_mut(&mut self) -> impl Iterator<Item = (&mut Buf, f32)> {
        let m = self.dora.as_mut().map(|d| (&mut d.magnitude, self.lr_factor));
        [(&mut self.a, 1.0), (&mut self.b, self.lr_factor)].into_iter().chain(m)
    }

    /// A or B has changed.
    pub(crate) fn renew(&mut self) {
        self.dora.iter_mut().for_each(Dora::renew);
    }
}

/// What DoRA adds to an adapter on a linear.
#[derive(Debug)]
pub struct Dora {
    /// m `[1, out]`, f32.
    pub magnitude: Buf,
    pub(super) inverse: RwLock<Inverse>,
}

/// 1/‖W + s·B·A‖ of each row, 0 where the row is zero: such a row gives 0 whatever m.
#[derive(Debug)]
pub(super) struct Inverse {
    /// Whether it is that of A and B as they are.
    pub fresh: bool,
    /// `[1, out]`, f32.
    pub of_rows: Buf,
}

impl Dora {
    /// Of these magnitudes `[out]`.
    ///
    /// # Errors
    /// When the device refuses the buffers.
    pub fn new(engine: &Engine, magnitude: &[f32]) -> Result<Dora> {
        let buffer = |numbers: &[f32]| engine.parameter(1, numbers.len(), numbers);
        let inverse = Inverse { fresh: false, of_rows: buffer(&vec![0.0; magnitude.len()])? };
        Ok(Dora { magnitude: buffer(magnitude)?, inverse: RwLock::new(inverse) })
    }

    /// A or B has changed.
    pub(crate) fn renew(&mut self) {
        self.inverse.get_mut().unwrap_or_else(|e| e.into_inner()).fresh = false;
    }
}

/// Gradients of a slot, f32; its moments have the same shapes.
#[derive(Debug)]
pub struct SlotGrad {
    /// dA `[R, in]`.
    pub a: Buf,
    /// dB `[out, R]`.
    pub b: Buf,
    /// dm `[1, out]`, where the slot has magnitudes.
    pub m: Option<Buf>,
}

impl SlotGrad {
    /// A's, B's, and m's where there is one.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &Buf> {
        [&self.a, &self.b].into_iter().chain(&self.m)
    }

    /// As [`SlotGrad::parts`].
    pub(crate) fn parts_mut(&mut self) -> impl Iterator<Item = &mut Buf> {
        [&mut self.a, &mut self.b].into_iter().chain(&mut self.m)
    }
}

/// What the forward pass of an adapted linear leaves for its backward pass.
#[derive(Debug)]
pub struct Kept {
    /// `t = x̃·Aᵀ` `[N,R]`.
    pub t: Buf,
    /// With magnitudes, `z = x̃·(W + s·B·A)ᵀ` `[N,out]`.
    pub z: Option<Buf>,
}

/// What a call knows beside its operands.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// Where the tokens stand.
    pub layout: &'a Layout,
    /// Set in training: dropout is on.
    pub dropout: Option<DropoutKey>,
}

impl Call<'_> {
    /// x̃, when dropout changes x.
    pub(super) fn dropped(&self, engine: &Engine, x: &Buf, slot: &Slot) -> Result<Option<Buf>> {
        match self.dropout {
            Some(key) if slot.dropout > 0.0 => {
                let mut d = x.copy(engine);
                dropout(engine, &mut d, slot.in_features, slot.dropout, key, slot.key, self.layout)?;
                Ok(Some(d))
            }
            _ => Ok(None),
        }
    }
}

/// What the backward pass of a linear reads.
pub struct Saved<'a> {
    /// The input `x[N,in]`.
    pub x: &'a Buf,
    /// What the forward pass left; made again from x where it was not kept.
    pub t: Option<&'a Kept>,
}
