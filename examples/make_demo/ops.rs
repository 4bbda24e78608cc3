//! Operations candle's autograd lacks or composes from many passes, as custom operations with a backward:
//! RMS norm, rotary embedding, causal softmax, silu(a)·b, cross-entropy. CPU, f32, contiguous.
//!
//! `N` rows, `C` width, `T` positions, `D` head size.

use candle_core::{bail, CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

fn slice<'a>(s: &'a CpuStorage, l: &Layout) -> Result<&'a [f32]> {
    match l.contiguous_offsets() {
        Some((from, to)) => Ok(&s.as_slice::<f32>()?[from..to]),
        None => bail!("the operand is not contiguous"),
    }
}

fn values(t: &Tensor) -> Result<Vec<f32>> {
    t.flatten_all()?.to_vec1()
}

fn like(t: &Tensor, v: Vec<f32>) -> Result<Tensor> {
    Tensor::from_vec(v, t.shape(), t.device())
}

/// y = x · r · w, r = 1/√(mean x² + ε), over the last axis. x [N, C], w [C].
struct RmsNorm(f64);

fn rms(x: &[f32], eps: f64) -> f32 {
    1.0 / (x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32 + eps as f32).sqrt()
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }
    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (slice(s1, l1)?, slice(s2, l2)?);
        let mut y = Vec::with_capacity(x.len());
        for x in x.chunks(w.len()) {
            let r = rms(x, self.0);
            y.extend(x.iter().zip(w).map(|(x, w)| x * r * w));
        }
        Ok((CpuStorage::F32(y), l1.shape().clone()))
    }
    // dx = r·(w·g) − x·r³/C·Σ g·w·x;  dw = Σ_N g·x·r
    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (xs, ws, gs) = (values(x)?, values(w)?, values(g)?);
        let c = ws.len();
        let (mut dx, mut dw) = (Vec::with_capacity(xs.len()), vec![0f32; c]);
        for (x, g) in xs.chunks(c).zip(gs.chunks(c)) {
            let r = rms(x, self.0);
            let dot: f32 = (0..c).map(|i| g[i] * ws[i] * x[i]).sum();
            let k = r * r * r * dot / c as f32;
            dx.extend((0..c).map(|i| r * ws[i] * g[i] - x[i] * k));
            dw.iter_mut().zip(x.iter().zip(g)).for_each(|(d, (x, g))| *d += g * x * r);
        }
        Ok((Some(like(x, dx)?), Some(like(w, dw)?)))
    }
}

pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    x.apply_op2(w, RmsNorm(eps))
}

/// Turns the pair (i, i + D/2) of each head by position·θ^(−2i/D). x [.., T, D].
struct Rope {
    theta: f64,
    backwards: bool,
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }
    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(s, l)?;
        let dims = l.dims();
        let (t, d) = (dims[dims.len() - 2], dims[dims.len() - 1]);
        let h = d / 2;
        let sign = if self.backwards { -1.0 } else { 1.0 };
        let turns: Vec<(f32, f32)> = (0..t * h)
            .map(|k| {
                let angle = (k / h) as f64 * self.theta.powf(-2.0 * (k % h) as f64 / d as f64);
                (angle.cos() as f32, (sign * angle.sin()) as f32)
            })
            .collect();
        let mut y = vec![0f32; x.len()];
        for (row, (x, y)) in x.chunks(d).zip(y.chunks_mut(d)).enumerate() {
            for (i, (cos, sin)) in turns[(row % t) * h..][..h].iter().enumerate() {
                y[i] = x[i] * cos - x[i + h] * sin;
                y[i + h] = x[i + h] * cos + x[i] * sin;
            }
        }
        Ok((CpuStorage::F32(y), l.shape().clone()))
    }
    fn bwd(&self, _: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(g.contiguous()?.apply_op1_no_bwd(&Rope { theta: self.theta, backwards: true })?))
    }
}

pub fn rope(x: &Tensor, theta: f64) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Rope { theta, backwards: false })
}

/// Softmax of s·x over the columns up to the row's own position. x [.., k·T, T]; row i stands at position i mod T.
struct CausalSoftmax(f32);

impl CustomOp1 for CausalSoftmax {
    fn name(&self) -> &'static str {
        "causal-softmax"
    }
    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(s, l)?;
        let t = l.dims()[l.dims().len() - 1];
        let mut y = vec![0f32; x.len()];
        for (row, (x, y)) in x.chunks(t).zip(y.chunks_mut(t)).enumerate() {
            let n = row % t + 1;
            let max = x[..n].iter().copied().fold(f32::MIN, f32::max);
            let mut sum = 0.0;
            for (y, x) in y[..n].iter_mut().zip(x) {
                *y = ((x - max) * self.0).exp();
                sum += *y;
            }
            y[..n].iter_mut().for_each(|y| *y /= sum);
        }
        Ok((CpuStorage::F32(y), l.shape().clone()))
    }
    // dx = s·y·(g − Σ g·y)
    fn bwd(&self, x: &Tensor, y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let (y, mut g) = (values(y)?, values(g)?);
        let t = x.dim(candle_core::D::Minus1)?;
        for (y, g) in y.chunks(t).zip(g.chunks_mut(t)) {
            let dot: f32 = y.iter().zip(g.iter()).map(|(y, g)| y * g).sum();
            g.iter_mut().zip(y).for_each(|(g, y)| *g = self.0 * y * (*g - dot));
        }
        Ok(Some(like(x, g)?))
    }
}

pub fn causal_softmax(x: &Tensor, scale: f32) -> Result<Tensor> {
    x.apply_op1(CausalSoftmax(scale))
}

/// silu(a)·b.
struct Gate;

fn sigmoid(a: f32) -> f32 {
    1.0 / (1.0 + (-a).exp())
}

impl CustomOp2 for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }
    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = slice(s1, l1)?.iter().zip(slice(s2, l2)?).map(|(&a, b)| a * sigmoid(a) * b).collect();
        Ok((CpuStorage::F32(y), l1.shape().clone()))
    }
    // da = g·b·σ·(1 + a·(1 − σ));  db = g·a·σ
    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (mut av, mut bv, gv) = (values(a)?, values(b)?, values(g)?);
        for ((a, b), g) in av.iter_mut().zip(&mut bv).zip(gv) {
            let s = sigmoid(*a);
            let (da, db) = (g * *b * s * (1.0 + *a * (1.0 - s)), g * *a * s);
            (*a, *b) = (da, db);
        }
        Ok((Some(like(a, av)?), Some(like(b, bv)?)))
    }
}

pub fn gate(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    a.apply_op2(b, Gate)
}

/// A target that takes no part in the loss.
pub const IGNORE: u32 = u32::MAX;

/// Mean of −log softmax(x)[target] over the rows with a target. x [N, V].
struct CrossEntropy(Vec<u32>);

/// −log p of each row's target; 0 where there is none.
pub fn row_losses(x: &[f32], targets: &[u32]) -> Vec<f64> {
    let v = x.len() / targets.len();
    x.chunks(v)
        .zip(targets)
        .map(|(x, &t)| {
            if t == IGNORE {
                return 0.0;
            }
            let max = x.iter().copied().fold(f32::MIN, f32::max);
            let sum: f32 = x.iter().map(|x| (x - max).exp()).sum();
            f64::from(sum.ln() + max - x[t as usize])
        })
        .collect()
}

impl CrossEntropy {
    fn count(&self) -> f32 {
        self.0.iter().filter(|&&t| t != IGNORE).count().max(1) as f32
    }
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }
    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let sum: f64 = row_losses(slice(s, l)?, &self.0).iter().sum();
        Ok((CpuStorage::F32(vec![sum as f32 / self.count()]), Shape::from(())))
    }
    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let mut out = values(x)?;
        let k = g.to_scalar::<f32>()? / self.count();
        let v = out.len() / self.0.len();
        for (x, &t) in out.chunks_mut(v).zip(&self.0) {
            if t == IGNORE {
                x.fill(0.0);
                continue;
            }
            let max = x.iter().copied().fold(f32::MIN, f32::max);
            x.iter_mut().for_each(|x| *x = (*x - max).exp());
            let r = k / x.iter().sum::<f32>();
            x.iter_mut().for_each(|x| *x *= r);
            x[t as usize] -= k;
        }
        Ok(Some(like(x, out)?))
    }
}

pub fn cross_entropy(x: &Tensor, targets: Vec<u32>) -> Result<Tensor> {
    x.apply_op1(CrossEntropy(targets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    /// d(Σ f(x)·c)/dx by autograd against central differences.
    fn check(x: &Var, f: impl Fn(&Tensor) -> Result<Tensor>) {
        let y = f(x).unwrap();
        let c = Tensor::arange(0f32, y.elem_count() as f32, &Device::Cpu)
            .unwrap()
            .reshape(y.shape())
            .unwrap()
            .sin()
            .unwrap();
        let loss = |x: &Tensor| (f(x).unwrap() * &c).unwrap().sum_all().unwrap();
        let grad = values(loss(x).backward().unwrap().get(x).unwrap()).unwrap();
        let at = values(x).unwrap();
        for i in 0..at.len() {
            let value = |e: f32| {
                let mut v = at.clone();
                v[i] += e;
                loss(&like(x, v).unwrap()).to_scalar::<f32>().unwrap()
            };
            let slope = (value(1e-2) - value(-1e-2)) / 2e-2;
            assert!((slope - grad[i]).abs() < 3e-3 * (1.0 + slope.abs()), "{i}: {slope} {}", grad[i]);
        }
    }

    fn var(shape: &[usize]) -> Var {
        let n: usize = shape.iter().product();
        Var::from_vec((0..n).map(|i| (i as f32 * 1.7).sin()).collect(), shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn gradients_agree_with_differences() {
        let (x, w) = (var(&[3, 8]), var(&[8]));
        check(&x, |x| rms_norm(x, &w, 1e-5));
        check(&w, |w| rms_norm(&x, w, 1e-5));
        check(&var(&[2, 3, 4]), |x| rope(x, 100.0));
        check(&var(&[1, 6, 3]), |x| causal_softmax(x, 0.7));
        check(&x, |a| gate(a, &x.affine(0.5, 0.3)?.detach()));
        check(&x, |b| gate(&x.affine(0.5, 0.3)?.detach(), b));
        check(&x, |x| cross_entropy(x, vec![1, IGNORE, 7]));
    }
}
