//! Rotary position embedding (Su et al. 2021) in Hugging Face's two-halves order; backward rotates by −θ.

use candle_core::{Tensor, D};

use super::transfer::Transfer;
use super::{Buf, Engine, Layout, Phase};
use crate::error::Result;
use crate::kernels::cpu::rope as kernel;
use crate::memory::Charge;

/// cos and sin of position·inv_freq, `[positions, D/2]`.
#[derive(Debug)]
pub struct Table {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
    dev: Option<(Tensor, Tensor)>,
    _charge: Charge,
}

impl Table {
    /// Angles in f64 from the f32 frequencies, rounded once: Hugging Face rounds the frequencies to f32.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn new(engine: &Engine, inv_freq: &[f32], positions: usize) -> Result<Table> {
        let half = inv_freq.len();
        let angle = |f: fn(f64) -> f64| -> Vec<f32> {
            (0..positions * half).map(|i| f((i / half) as f64 * inv_freq[i % half] as f64) as f32).collect()
        };
        let (cos, sin) = (angle(libm::cos), angle(libm::sin));
        let dev = if engine.fused() {
            None
        } else {
            let t = |v: &[f32]| engine.upload(Transfer::Weights, v, (positions, half));
            Some((t(&cos)?, t(&sin)?))
        };
        let _charge = engine.account().charge(size_of_val(&cos[..]) + size_of_val(&sin[..]));
        Ok(Table { half, cos, sin, dev, _charge })
    }

    /// Positions it covers.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }
}

/// Rotates `x[N, heads·D]` in place by its tokens' angles, or by minus those.
pub fn rotate(engine: &Engine, x: &mut Buf, heads: usize, table: &Table, layout: &Layout, inverse: bool) -> Result<()> {
    engine.timed(Phase::Elementwise, || match x {
        Buf::Host(x) => {
            kernel::rotate(x, heads, &table.cos, &table.sin, table.half, &layout.positions, inverse);
            Ok(())
        }
        Buf::Dev(x) => {
            let Some((cos, sin)) = &table.dev else { unreachable!("the table was made for the fused form") };
            let (n, half) = (layout.tokens(), table.half);
            let at = layout.device_positions(engine)?;
            let part = |t: &Tensor| t.index_select(&at, 0)?.to_dtype(x.dtype())?.reshape((n, 1, half));
            let (cos, sin) = (part(cos)?, part(sin)?);
            let sin = if inverse { sin.neg()? } else { sin };
            let h = x.reshape((n, heads, 2 * half))?;
            let (lo, hi) = (h.narrow(D::Minus1, 0, half)?, h.narrow(D::Minus1, half, half)?);
            let new_lo = (lo.broadcast_mul(&cos)? - hi.broadcast_mul(&sin)?)?;
            let new_hi = (hi.broadcast_mul(&cos)? + lo.broadcast_mul(&sin)?)?;
            *x = Tensor::cat(&[new_lo, new_hi], D::Minus1)?.reshape((n, heads * 2 * half))?;
            Ok(())
        }
    })
}
