//! AdamW over the adapter's parameters, with the global gradient norm.

use candle_core::Tensor;
use rayon::prelude::*;

use super::buf::Buf;
use super::engine::{Engine, Phase};
use super::moved::Transfer;
use crate::error::Result;
use crate::kernels::cpu::{adamw as kernel, elementwise};
pub use kernel::Step;

/// Σ g² of each gradient; from a device in one copy.
pub fn sum_squares(engine: &Engine, gradients: &[&Buf]) -> Result<Vec<f64>> {
    if engine.fused() {
        return Ok(gradients.iter().map(|g| elementwise::sum_squares(g.host())).collect());
    }
    let sums = gradients.iter().map(|g| Ok(g.tensor().sqr()?.sum_all()?)).collect::<Result<Vec<_>>>()?;
    let sums = engine.download::<f32>(Transfer::Norm, &Tensor::stack(&sums, 0)?)?;
    Ok(sums.into_iter().map(f64::from).collect())
}

/// Updates `p` and the moments `m`, `v` in place from the gradient `g`.
pub fn update(engine: &Engine, p: &mut Buf, m: &mut Buf, v: &mut Buf, g: &Buf, s: Step) -> Result<()> {
    const PART: usize = 64 * 1024;
    engine.timed(Phase::Optimizer, || match (p, m, v) {
        (Buf::Host(p), Buf::Host(m), Buf::Host(v)) => {
            let moments = m.par_chunks_mut(PART).zip(v.par_chunks_mut(PART));
            let parts = p.par_chunks_mut(PART).zip(moments).zip(g.host().par_chunks(PART));
            parts.for_each(|((p, (m, v)), g)| kernel::update(p, m, v, g, s));
            Ok(())
        }
        (Buf::Dev(p), Buf::Dev(m), Buf::Dev(v)) => {
            let g = g.tensor().affine(s.grad_scale as f64, 0.0)?;
            let mix = |old: &Tensor, beta: f32, rest: f32, new: &Tensor| -> Result<Tensor> {
                Ok((old.affine(beta as f64, 0.0)? + new.affine(rest as f64, 0.0)?)?)
            };
            *m = mix(m, s.beta1, s.rest.0, &g)?;
            *v = mix(v, s.beta2, s.rest.1, &g.sqr()?)?;
            let denominator = v.sqrt()?.affine(s.inv_sqrt_bias2 as f64, s.eps as f64)?;
            *p = (p.affine(s.decay as f64, 0.0)? - m.div(&denominator)?.affine(s.step_size as f64, 0.0)?)?;
            Ok(())
        }
        _ => unreachable!("parameters and moments live on one device"),
    })
}
