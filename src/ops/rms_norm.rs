//! RMS norm (Zhang and Sennrich 2019): `y = x·inv·w`, `inv = 1/√(mean x² + ε)`;
//! `dx = inv·(g·w) − x·inv³/C·Σ(g·w·x)`. The width is the weight's, so heads are normed with the same code.

use candle_core::{DType, Tensor, D};

use super::buf::{Buf, Param};
use super::engine::{Engine, Phase};
use crate::error::Result;
use crate::kernels::cpu::norm;

/// `y` like `x[N, k·C]`, each run of C normed with `w[C]`.
pub fn forward(engine: &Engine, x: &Buf, w: &Param, eps: f64) -> Result<Buf> {
    engine.timed(Phase::Elementwise, || match x {
        Buf::Host(x) => {
            let mut y = engine.pool.take(x.len());
            norm::forward(x, w.host(), eps as f32, &mut y);
            Ok(Buf::Host(y))
        }
        Buf::Dev(x) => {
            let (rows, inv) = rows_and_inverse(x, w, eps)?;
            let y = rows.broadcast_mul(&inv)?.broadcast_mul(&w.tensor(DType::F32)?)?;
            Ok(Buf::Dev(y.reshape(x.shape())?.to_dtype(x.dtype())?))
        }
    })
}

/// `dx (+)=` the gradient of the input.
pub fn backward(engine: &Engine, x: &Buf, w: &Param, eps: f64, g: &Buf, dx: &mut Buf, add: bool) -> Result<()> {
    engine.timed(Phase::Elementwise, || match dx {
        Buf::Host(dx) => {
            norm::backward(x.host(), w.host(), eps as f32, g.host(), dx, add);
            Ok(())
        }
        Buf::Dev(dx) => {
            let x = x.tensor();
            let (rows, inv) = rows_and_inverse(x, w, eps)?;
            let c = w.host().len();
            let gw = g.tensor().to_dtype(DType::F32)?.reshape(rows.shape())?.broadcast_mul(&w.tensor(DType::F32)?)?;
            let k = ((&gw * &rows)?.sum_keepdim(D::Minus1)? * inv.powf(3.0)?)?.affine(1.0 / c as f64, 0.0)?;
            let v = (gw.broadcast_mul(&inv)? - rows.broadcast_mul(&k)?)?;
            let v = v.reshape(x.shape())?.to_dtype(x.dtype())?;
            *dx = if add { (&*dx + v)? } else { v };
            Ok(())
        }
    })
}

/// `x` as rows of C in f32 and 1/√(mean x² + ε) of each.
fn rows_and_inverse(x: &Tensor, w: &Param, eps: f64) -> Result<(Tensor, Tensor)> {
    let c = w.host().len();
    let rows = x.to_dtype(DType::F32)?.reshape((x.elem_count() / c, c))?;
    let mean = rows.sqr()?.sum_keepdim(D::Minus1)?.affine(1.0 / c as f64, eps)?;
    Ok((rows, mean.sqrt()?.recip()?))
}
