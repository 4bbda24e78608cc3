//! AdamW over an adapter's slots, with global-norm clipping; its state can be saved and put back.

use crate::error::{Error, Result};
use crate::model::Adapter;
use crate::ops::adamw::{self, Step};
use crate::ops::linear::SlotGrad;
use crate::ops::{Buf, Engine, Phase};

/// Settings of AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// β₁, β₂.
    pub betas: (f64, f64),
    /// ε.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest global gradient norm; 0 = off.
    pub clip: f64,
}

/// AdamW with the moments of every slot.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    /// Steps taken.
    step: u64,
    first: Vec<SlotGrad>,
    second: Vec<SlotGrad>,
}

impl AdamW {
    /// Moments of zero.
    ///
    /// # Errors
    /// When the device refuses the buffers.
    pub fn new(engine: &Engine, adapter: &Adapter, config: AdamWConfig) -> Result<AdamW> {
        Ok(AdamW { config, step: 0, first: adapter.zero_gradients(engine)?, second: adapter.zero_gradients(engine)? })
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// One step with learning rate `lr`; gives the gradient norm before clipping and sets the gradients
    /// to zero. Nothing is changed when the norm is not finite.
    ///
    /// # Errors
    /// [`Error::NonFinite`] names the first slot whose gradient is not finite.
    pub fn apply(&mut self, engine: &Engine, adapter: &mut Adapter, grads: &mut [SlotGrad], lr: f64) -> Result<f64> {
        let norm = self.norm(engine, adapter, grads)?;
        let c = self.config;
        self.step += 1;
        let bias = |beta: f64| 1.0 - libm::pow(beta, self.step as f64);
        // torch.nn.utils.clip_grad_norm_
        let grad_scale = if c.clip > 0.0 { (c.clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
        for (i, slot) in adapter.slots.iter_mut().enumerate() {
            let step = |lr: f64| Step {
                decay: (1.0 - lr * c.weight_decay) as f32,
                beta1: c.betas.0 as f32,
                beta2: c.betas.1 as f32,
                rest: ((1.0 - c.betas.0) as f32, (1.0 - c.betas.1) as f32),
                step_size: (lr / bias(c.betas.0)) as f32,
                inv_sqrt_bias2: (1.0 / bias(c.betas.1).sqrt()) as f32,
                eps: c.eps as f32,
                grad_scale: grad_scale as f32,
            };
            let moments = self.first[i].parts_mut().zip(self.second[i].parts_mut());
            for (((p, factor), (m, v)), g) in slot.parameters_mut().zip(moments).zip(grads[i].parts_mut()) {
                adamw::update(engine, p, m, v, g, step(lr * factor as f64))?;
                g.clear()?;
            }
            slot.renew();
        }
        Ok(norm)
    }

    fn norm(&self, engine: &Engine, adapter: &Adapter, grads: &[SlotGrad]) -> Result<f64> {
        engine.timed(Phase::Optimizer, || {
            let mut total = 0.0;
            let all: Vec<&Buf> = grads.iter().flat_map(SlotGrad::parts).collect();
            let mut sums = adamw::sum_squares(engine, &all)?.into_iter();
            for (slot, grad) in adapter.slots.iter().zip(grads) {
                let part: f64 = sums.by_ref().take(grad.parts().count()).sum();
                if !part.is_finite() {
                    return Err(Error::NonFinite {
                        what: format!("gradient of {}, step {}", slot.module, self.step + 1),
                    });
                }
                total += part;
            }
            Ok(total.sqrt())
        })
    }

    /// Each slot's moments, first and second: A's, B's, and the magnitudes' where there are any.
    pub(crate) fn moments(&self) -> impl Iterator<Item = Vec<[&Buf; 2]>> {
        self.first.iter().zip(&self.second).map(|(m, v)| m.parts().zip(v.parts()).map(|(m, v)| [m, v]).collect())
    }

    /// Puts a saved state back: each slot's moments, first and second, of A, of B, and of the magnitudes where
    /// there are any.
    ///
    /// # Errors
    /// [`Error::Misuse`] when it is another adapter's; when the device refuses the copy.
    pub fn restore(&mut self, step: u64, slots: &[Vec<[Vec<f32>; 2]>]) -> Result<()> {
        let fits = |(has, new): (Vec<[&Buf; 2]>, &Vec<[Vec<f32>; 2]>)| {
            let same = |(h, n): (&[&Buf; 2], &[Vec<f32>; 2])| h[0].len() == n[0].len() && h[1].len() == n[1].len();
            has.len() == new.len() && has.iter().zip(new).all(same)
        };
        if slots.len() != self.first.len() || !self.moments().zip(slots).all(fits) {
            return Err(Error::Misuse("moments of another adapter".into()));
        }
        self.step = step;
        for ((m, v), parts) in self.first.iter_mut().zip(&mut self.second).zip(slots) {
            for ((m, v), [first, second]) in m.parts_mut().zip(v.parts_mut()).zip(parts) {
                m.set(first)?;
                v.set(second)?;
            }
        }
        Ok(())
    }
}
