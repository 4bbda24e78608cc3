//! The MLP's gate, residual, dropout.

use candle_core::Tensor;

use super::buf::Buf;
use super::engine::{Engine, Phase};
use super::layout::Layout;
use super::moved::Transfer;
use crate::error::Result;
use crate::kernels::cpu::elementwise as kernel;
use crate::rng::{Key, Stream};
pub use kernel::Gate;

/// `act(gate)·up`, all `[N,F]`.
pub fn gate_mul(engine: &Engine, act: Gate, gate: &Buf, up: &Buf) -> Result<Buf> {
    engine.timed(Phase::Elementwise, || match gate {
        Buf::Host(gate) => {
            let mut h = engine.pool.take(gate.len());
            kernel::gate_mul(act, gate, up.host(), &mut h);
            Ok(Buf::Host(h))
        }
        Buf::Dev(gate) => {
            let (w, _) = inner(act, gate)?;
            Ok(Buf::Dev(((gate * sigmoid(&w)?)? * up.tensor())?))
        }
    })
}

/// Turns `gate`, `up` into their gradients: with σ of the inner function w,
/// `dgate = g·up·σ·(1 + gate·w'·(1 − σ))`, `dup = g·gate·σ`.
pub fn gate_mul_backward(engine: &Engine, act: Gate, gate: &mut Buf, up: &mut Buf, g: &Buf) -> Result<()> {
    engine.timed(Phase::Elementwise, || match (gate, up) {
        (Buf::Host(gate), Buf::Host(up)) => {
            kernel::gate_mul_backward(act, gate, up, g.host());
            Ok(())
        }
        (Buf::Dev(gate), Buf::Dev(up)) => {
            let g = g.tensor();
            let (w, slope) = inner(act, gate)?;
            let s = sigmoid(&w)?;
            let bend = (&*gate * (1.0 - &s)?)?;
            let bend = slope.map_or(Ok(bend.clone()), |slope| bend * slope)?;
            let dup = ((g * &*gate)? * &s)?;
            *gate = (((g * &*up)? * s)? * (bend + 1.0)?)?;
            *up = dup;
            Ok(())
        }
        _ => unreachable!("gate and up live on one device"),
    })
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    Ok((x.neg()?.exp()? + 1.0)?.recip()?)
}

/// w of the gate's function `x·σ(w)`, and its slope where that is not 1.
fn inner(act: Gate, x: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
    match act {
        Gate::Silu => Ok((x.clone(), None)),
        Gate::GeluTanh => {
            let factor = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
            let s = x.sqr()?.affine(0.044715, 0.0)?;
            let w = (x * s.affine(factor, factor)?)?;
            Ok((w, Some(s.affine(3.0 * factor, factor)?)))
        }
    }
}

/// `y *= factor`.
pub fn scale(engine: &Engine, y: &mut Buf, factor: f32) -> Result<()> {
    if factor == 1.0 {
        return Ok(());
    }
    engine.timed(Phase::Elementwise, || match y {
        Buf::Host(y) => {
            kernel::scale(y, factor);
            Ok(())
        }
        Buf::Dev(y) => {
            *y = y.affine(factor as f64, 0.0)?;
            Ok(())
        }
    })
}

/// `y += x`.
pub fn add(engine: &Engine, y: &mut Buf, x: &Buf) -> Result<()> {
    engine.timed(Phase::Elementwise, || match y {
        Buf::Host(y) => {
            kernel::add(y, x.host());
            Ok(())
        }
        Buf::Dev(y) => {
            *y = (&*y + x.tensor())?;
            Ok(())
        }
    })
}

/// What the dropout masks of one adapter in one step are a function of.
#[derive(Clone, Copy, Debug)]
pub struct DropoutKey {
    /// The run's seed.
    pub seed: u64,
    /// Optimizer step.
    pub step: u64,
}

impl DropoutKey {
    fn row(self, row_id: u64, module: u64) -> Key {
        Key::new(self.seed, Stream::Dropout, &[self.step, row_id, module])
    }
}

/// Drops features of `x[N, width]` with probability `p` and scales the rest by 1/(1 − p), in place. The
/// mask is a function of (seed, step, row, position, module): made again in the backward pass, the same
/// for every micro-batch, on every device: where x is not on the host, what is kept is uploaded as bytes.
pub fn dropout(
    engine: &Engine,
    x: &mut Buf,
    width: usize,
    p: f32,
    key: DropoutKey,
    module: u64,
    layout: &Layout,
) -> Result<()> {
    if p == 0.0 {
        return Ok(());
    }
    engine.timed(Phase::Elementwise, || {
        let rows = layout.row_of_token();
        let keys: Vec<Key> = layout.row_ids.iter().map(|&r| key.row(r, module)).collect();
        let token = |i: usize| (keys[rows[i] as usize], layout.positions[i]);
        match x {
            Buf::Host(x) => kernel::dropout(x, width, p, token),
            Buf::Dev(x) => {
                let mut mask = vec![1f32; layout.tokens() * width];
                kernel::dropout(&mut mask, width, p, token);
                // What the kernel multiplies with where it keeps.
                let scale = 1.0 / (1.0 - p);
                let kept: Vec<u8> = mask.into_iter().map(|m| (m != 0.0) as u8).collect();
                let kept = engine.upload(Transfer::Dropout, &kept, (layout.tokens(), width))?;
                *x = (&*x * kept.to_dtype(x.dtype())?.affine(scale as f64, 0.0)?)?;
            }
        }
        Ok(())
    })
}

/// NEFTune (Jain et al. 2023, arXiv 2310.05914): adds noise to the embeddings `x[N, width]`, uniform in ±a with
/// `a = alpha/√(tokens of the row · width)`. It is a function of (seed, step, row, position), as dropout's masks.
pub fn neftune(engine: &Engine, x: &mut Buf, width: usize, alpha: f64, key: DropoutKey, layout: &Layout) -> Result<()> {
    engine.timed(Phase::Elementwise, || {
        let rows = layout.row_of_token();
        let of_row = |(i, w): (usize, &[u32])| {
            let size = alpha / ((w[1] - w[0]) as f64 * width as f64).sqrt();
            (Key::new(key.seed, Stream::Noise, &[key.step, layout.row_ids[i]]), size as f32)
        };
        let keys: Vec<(Key, f32)> = layout.offsets.windows(2).enumerate().map(of_row).collect();
        let token = |i: usize| {
            let (key, size) = keys[rows[i] as usize];
            (key, layout.positions[i], size)
        };
        match x {
            Buf::Host(x) => kernel::noise(x, width, token),
            Buf::Dev(x) => {
                let mut noise = vec![0f32; layout.tokens() * width];
                kernel::noise(&mut noise, width, token);
                let noise = engine.upload(Transfer::Dropout, &noise, (layout.tokens(), width))?;
                *x = (&*x + noise.to_dtype(x.dtype())?)?;
            }
        }
        Ok(())
    })
}
