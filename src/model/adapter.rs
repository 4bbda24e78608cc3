//! LoRA adapters in use: a slot on each chosen linear, named by the file's own module path.

use crate::config::LoraConfig;
use crate::error::{Error, Result};
use crate::ops::linear::{Linear, Slot, SlotGrad};
use crate::ops::Engine;

/// The slots of a model's linears (Hu et al. 2021).
#[derive(Debug)]
pub struct Adapter {
    /// What it was made or read with.
    pub config: LoraConfig,
    /// One for each adapted linear.
    pub slots: Vec<Slot>,
    /// NEFTune's α: noise on the embeddings in training.
    pub neftune_noise_alpha: Option<f64>,
    by_linear: Vec<Option<usize>>,
    layers: Vec<usize>,
}

impl Adapter {
    /// Of these slots: for each linear of the model its slot's number, and of each slot its block.
    pub(crate) fn new(
        config: LoraConfig,
        slots: Vec<Slot>,
        by_linear: Vec<Option<usize>>,
        layers: Vec<usize>,
    ) -> Adapter {
        Adapter { config, slots, neftune_noise_alpha: None, by_linear, layers }
    }

    /// Overwrites the numbers of one slot: A `[r, in]`, B `[out, r]`.
    ///
    /// # Errors
    /// [`Error::Adapter`] when the module has no slot or a length differs.
    pub fn set(&mut self, module: &str, a: &[f32], b: &[f32]) -> Result<()> {
        let wrong = |reason: String| Error::Adapter { path: module.into(), reason };
        let Some(s) = self.slots.iter_mut().find(|s| s.module == module) else {
            return Err(wrong("no slot on this module".into()));
        };
        if (a.len(), b.len()) != (s.r * s.in_features, s.out_features * s.r) {
            return Err(wrong(format!("expected {} and {} numbers", s.r * s.in_features, s.out_features * s.r)));
        }
        s.a.set(a)?;
        s.b.set(b)?;
        s.renew();
        Ok(())
    }

    /// Overwrites DoRA's magnitudes `[out]` of one slot.
    ///
    /// # Errors
    /// [`Error::Adapter`] when the module has no slot or no magnitudes, or the length differs.
    pub fn set_magnitude(&mut self, module: &str, magnitude: &[f32]) -> Result<()> {
        let wrong = |reason: String| Error::Adapter { path: module.into(), reason };
        let slot = self.slots.iter_mut().find(|s| s.module == module);
        let Some(d) = slot.and_then(|s| s.dora.as_mut()) else {
            return Err(wrong("no slot with magnitudes on this module".into()));
        };
        if magnitude.len() != d.magnitude.len() {
            return Err(wrong(format!("expected {} numbers", d.magnitude.len())));
        }
        d.magnitude.set(magnitude)
    }

    /// The slot's number on a linear.
    pub(crate) fn index(&self, lin: &Linear) -> Option<usize> {
        self.by_linear.get(lin.id).copied().flatten()
    }

    /// The slot on a linear.
    pub(crate) fn slot(&self, lin: &Linear) -> Option<&Slot> {
        self.index(lin).map(|i| &self.slots[i])
    }

    /// The block of each slot.
    pub(crate) fn layers(&self) -> &[usize] {
        &self.layers
    }

    /// The lowest block that has a slot.
    pub fn lowest_layer(&self) -> Option<usize> {
        self.layers.iter().copied().min()
    }

    /// Trained numbers.
    pub fn parameters(&self) -> usize {
        let of = |s: &Slot| s.r * (s.in_features + s.out_features) + s.dora.as_ref().map_or(0, |_| s.out_features);
        self.slots.iter().map(of).sum()
    }

    /// Gradients of zero, one for each slot.
    ///
    /// # Errors
    /// When the device refuses the buffers.
    pub fn zero_gradients(&self, engine: &Engine) -> Result<Vec<SlotGrad>> {
        let zero = |s: &Slot| {
            Ok(SlotGrad {
                a: engine.parameter(s.r, s.in_features, &vec![0.0; s.r * s.in_features])?,
                b: engine.parameter(s.out_features, s.r, &vec![0.0; s.out_features * s.r])?,
                m: s.dora
                    .is_some()
                    .then(|| engine.parameter(1, s.out_features, &vec![0.0; s.out_features]))
                    .transpose()?,
            })
        };
        self.slots.iter().map(zero).collect()
    }
}
