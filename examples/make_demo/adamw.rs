//! AdamW with clipping by the global norm; its state can be saved, which candle-nn's cannot.

use candle_core::{backprop::GradStore, Result, Tensor, Var};

pub struct AdamW {
    pub vars: Vec<(String, Var)>,
    pub first: Vec<Vec<f32>>,
    pub second: Vec<Vec<f32>>,
    pub decay: f64,
}

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.98;
const EPS: f64 = 1e-8;
const CLIP: f64 = 1.0;

impl AdamW {
    pub fn new(vars: Vec<(String, Var)>, decay: f64) -> AdamW {
        let zeros: Vec<Vec<f32>> = vars.iter().map(|(_, v)| vec![0.0; v.elem_count()]).collect();
        AdamW { vars, first: zeros.clone(), second: zeros, decay }
    }

    /// Step number `step`, counted from 1. Vectors are not decayed. Returns the gradient's norm.
    pub fn step(&mut self, grads: &GradStore, step: usize, lr: f64) -> Result<f64> {
        let mut all = Vec::with_capacity(self.vars.len());
        for (_, var) in &self.vars {
            all.push(match grads.get(var) {
                Some(g) => g.flatten_all()?.to_vec1::<f32>()?,
                None => vec![0.0; var.elem_count()],
            });
        }
        let norm = all.iter().flatten().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
        let clip = (CLIP / (norm + 1e-12)).min(1.0) as f32;
        let (b1, b2) = (BETA1 as f32, BETA2 as f32);
        let unbias1 = (1.0 / (1.0 - BETA1.powi(step as i32))) as f32;
        let unbias2 = (1.0 / (1.0 - BETA2.powi(step as i32))) as f32;
        for (i, (_, var)) in self.vars.iter().enumerate() {
            let mut w = var.flatten_all()?.to_vec1::<f32>()?;
            let keep = if var.rank() > 1 { (1.0 - lr * self.decay) as f32 } else { 1.0 };
            let moments = self.first[i].iter_mut().zip(&mut self.second[i]);
            for ((w, g), (m, v)) in w.iter_mut().zip(&all[i]).zip(moments) {
                let g = g * clip;
                *m = b1 * *m + (1.0 - b1) * g;
                *v = b2 * *v + (1.0 - b2) * g * g;
                *w = *w * keep - lr as f32 * (*m * unbias1) / ((*v * unbias2).sqrt() + EPS as f32);
            }
            var.set(&Tensor::from_vec(w, var.shape(), var.device())?)?;
        }
        Ok(norm)
    }
}

/// Linear warm-up to `peak`, then a cosine down to a tenth of it.
pub fn cosine(step: usize, warmup: usize, steps: usize, peak: f64) -> f64 {
    if step <= warmup {
        return peak * step as f64 / warmup as f64;
    }
    let done = (step - warmup) as f64 / (steps - warmup).max(1) as f64;
    peak * (0.1 + 0.45 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos()))
}
