//! AdamW (Loshchilov and Hutter 2019) as `torch.optim.AdamW`: decoupled decay, bias-corrected moments.

use super::simd::{fma, simd_kernel};

/// The numbers of one step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// 1 − lr·weight_decay.
    pub decay: f32,
    /// β₁.
    pub beta1: f32,
    /// β₂.
    pub beta2: f32,
    /// 1 − β₁ and 1 − β₂, rounded from f64 as torch does: 1 − f32(0.999) is off by 1e-5.
    pub rest: (f32, f32),
    /// lr / (1 − β₁^t).
    pub step_size: f32,
    /// 1 / √(1 − β₂^t).
    pub inv_sqrt_bias2: f32,
    /// ε.
    pub eps: f32,
    /// Factor of the gradient (clipping).
    pub grad_scale: f32,
}

simd_kernel! {
    /// Updates parameters `p` and moments `m`, `v` in place from the gradient `g`.
    pub fn update(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], s: Step) {
        for (((p, m), v), &g) in p.iter_mut().zip(m.iter_mut()).zip(v.iter_mut()).zip(g) {
            let g = g * s.grad_scale;
            *m = fma::<FMA>(s.rest.0, g - *m, *m);
            *v = fma::<FMA>(s.beta2, *v, s.rest.1 * g * g);
            let denominator = v.sqrt() * s.inv_sqrt_bias2 + s.eps;
            *p = *p * s.decay - s.step_size * (*m / denominator);
        }
    }
}
