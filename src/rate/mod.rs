//! What the machine's best f32 product reaches on the step's own shapes: the scale a step is measured on. Beside it what
//! the processor's multiply-adds give at most, the scale of that scale.

#[cfg(feature = "cli")]
mod blas;
pub mod process;

use std::time::{Duration, Instant};

use candle_core::Tensor;
use memmap2::MmapMut;
use serde::Serialize;

#[cfg(feature = "cli")]
use self::blas::OpenBlas;
use self::process::cpu_seconds;
use crate::error::{Error, Result};
use crate::kernels::cpu::peak;
use crate::ops::Engine;

/// The rate of one library.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Speed {
    /// 1e9 floating-point operations per second of wall time.
    pub gflops: f64,
    /// The same per second of CPU time, where the system tells it.
    pub gflops_per_cpu_second: Option<f64>,
}

impl Speed {
    /// So many 1e9 operations since that moment, and since so many CPU seconds were spent.
    fn of(gflop: f64, started: Instant, cpu: Option<f64>) -> Speed {
        let seconds = started.elapsed().as_secs_f64();
        let spent = cpu_seconds().zip(cpu).map(|(now, before)| now - before).filter(|&s| s > 0.0);
        Speed { gflops: gflop / seconds, gflops_per_cpu_second: spent.map(|s| gflop / s) }
    }
}

/// The rates measured beside a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// The gemm crate.
    pub gemm: Speed,
    /// OpenBLAS, where it is found.
    pub openblas: Option<Speed>,
    /// Fused multiply-adds in registers alone, at the level of the engine's kernels; none on a GPU.
    pub peak: Option<Speed>,
    /// The device's own library, where the steps run on a GPU: then it alone is the scale.
    pub device: Option<Speed>,
}

impl Rates {
    /// The faster library.
    pub fn best(&self) -> (&'static str, Speed) {
        match (self.device, self.openblas) {
            (Some(d), _) => ("device", d),
            (None, Some(o)) if o.gflops > self.gemm.gflops => ("openblas", o),
            _ => ("gemm", self.gemm),
        }
    }

    /// The higher rate per CPU second.
    pub fn best_per_cpu_second(&self) -> Option<f64> {
        // A GPU's products take next to no CPU time.
        if self.device.is_some() {
            return None;
        }
        let other = self.openblas.and_then(|o| o.gflops_per_cpu_second);
        [self.gemm.gflops_per_cpu_second, other].into_iter().flatten().reduce(f64::max)
    }

    /// The mean of measurements.
    pub(crate) fn mean(all: &[Rates]) -> Rates {
        let mean = |f: &dyn Fn(&Rates) -> Option<f64>| {
            let sum = all.iter().map(f).sum::<Option<f64>>();
            sum.filter(|_| !all.is_empty()).map(|s| s / all.len() as f64)
        };
        let speed = |f: &dyn Fn(&Rates) -> Option<Speed>| {
            Some(Speed {
                gflops: mean(&|r| Some(f(r)?.gflops))?,
                gflops_per_cpu_second: mean(&|r| f(r)?.gflops_per_cpu_second),
            })
        };
        Rates {
            gemm: speed(&|r| Some(r.gemm)).unwrap_or_default(),
            openblas: speed(&|r| r.openblas),
            peak: speed(&|r| r.peak),
            device: speed(&|r| r.device),
        }
    }
}

enum Library<'a> {
    Gemm(&'a Engine),
    #[cfg(feature = "cli")]
    OpenBlas(&'a OpenBlas),
}

impl Library<'_> {
    fn product(&self, y: &mut [f32], x: &[f32], w: &[f32], (m, n, k): (usize, usize, usize), transposed: bool) {
        match self {
            Library::Gemm(engine) => {
                assert!(y.len() >= m * n && x.len() >= m * k && w.len() >= n * k);
                let threads = engine.threads();
                let parallelism = if threads > 1 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
                let (w_cs, w_rs) = if transposed { (k, 1) } else { (1, n) };
                let y = y.as_mut_ptr();
                // SAFETY: the slices hold the matrices, as asserted.
                unsafe {
                    gemm::gemm(
                        m,
                        n,
                        k,
                        y,
                        1,
                        n as isize,
                        false,
                        x.as_ptr(),
                        1,
                        k as isize,
                        w.as_ptr(),
                        w_cs as isize,
                        w_rs as isize,
                        0.0,
                        1.0,
                        false,
                        false,
                        false,
                        parallelism,
                    );
                }
            }
            #[cfg(feature = "cli")]
            Library::OpenBlas(o) => o.product(y, x, w, (m, n, k), transposed),
        }
    }
}

/// Times products between steps.
pub(crate) struct Reference {
    #[cfg(feature = "cli")]
    openblas: Option<OpenBlas>,
    /// Outputs and inputs of a block's linears.
    linears: Vec<(usize, usize)>,
    /// How long one library is timed at least.
    pub budget: Duration,
}

impl Reference {
    /// The products of a block with these linears (outputs, inputs).
    pub fn new(linears: Vec<(usize, usize)>, threads: usize) -> Reference {
        #[cfg(not(feature = "cli"))]
        let _ = threads;
        Reference {
            #[cfg(feature = "cli")]
            openblas: OpenBlas::load(threads),
            linears,
            budget: Duration::from_millis(300),
        }
    }

    /// The rates for micro-batches of `tokens`. The matrices live in a map of their own that is given back
    /// before this returns, so that they do not show in what the next step holds. Where the engine runs on a
    /// GPU, that is what is timed.
    pub fn measure(&self, engine: &Engine, tokens: usize) -> Result<Rates> {
        if !engine.device().is_cpu() {
            return Ok(Rates { device: Some(self.time_device(engine, tokens)?), ..Rates::default() });
        }
        let widest = self.linears.iter().map(|l| l.0.max(l.1)).max().unwrap_or(1);
        let weights = self.linears.iter().map(|l| l.0 * l.1).max().unwrap_or(1);
        let rows = tokens * widest;
        let mut map = MmapMut::map_anon(4 * (2 * rows + weights)).map_err(Error::io("anonymous memory"))?;
        // SAFETY: every bit pattern is an f32, and pages are aligned.
        let (_, floats, _) = unsafe { map.align_to_mut::<f32>() };
        for (i, v) in floats.iter_mut().enumerate() {
            *v = (i % 251) as f32 * (1.0 / 251.0) - 0.5;
        }
        let (y, rest) = floats.split_at_mut(rows);
        let (x, w) = rest.split_at_mut(rows);
        let peak = engine.run(|| Ok(self.time_peak()))?;
        let gemm = engine.run(|| Ok(self.time(&Library::Gemm(engine), y, x, w, tokens)))?;
        #[cfg(not(feature = "cli"))]
        let openblas = None;
        #[cfg(feature = "cli")]
        let openblas = self.openblas.as_ref().map(|o| {
            let speed = self.time(&Library::OpenBlas(o), y, x, w, tokens);
            // Its threads spin for some time before they sleep.
            std::thread::sleep(Duration::from_millis(100));
            speed
        });
        Ok(Rates { gemm, openblas, peak: Some(peak), device: None })
    }

    /// Multiply-adds in registers on all threads at once, for a sixth of the budget.
    fn time_peak(&self) -> Speed {
        // Some milliseconds of each thread.
        const ROUNDS: usize = 1 << 20;
        let round = || rayon::broadcast(|_| peak::spin(ROUNDS)).into_iter().sum::<f64>();
        round();
        let (cpu, started, mut flop) = (cpu_seconds(), Instant::now(), 0.0);
        while flop == 0.0 || started.elapsed() < self.budget / 6 {
            flop += round();
        }
        Speed::of(1e-9 * flop, started, cpu)
    }

    /// As [`Reference::time`] with candle's f32 products on the engine's device, which is waited for.
    fn time_device(&self, engine: &Engine, tokens: usize) -> Result<Speed> {
        let random = |rows, cols| Tensor::rand(-0.5f32, 0.5, (rows, cols), engine.device());
        let mut products = Vec::new();
        for &(out, inp) in &self.linears {
            products.push((random(tokens, inp)?, random(tokens, out)?, random(out, inp)?));
        }
        let round = || -> Result<()> {
            for (x, g, w) in &products {
                x.matmul(&w.t()?)?;
                g.matmul(w)?;
            }
            engine.synchronize()
        };
        round()?;
        let (started, mut rounds) = (Instant::now(), 0);
        while rounds == 0 || started.elapsed() < self.budget {
            round()?;
            rounds += 1;
        }
        let parameters: usize = self.linears.iter().map(|(out, inp)| out * inp).sum();
        let flop = 4e-9 * (rounds * tokens * parameters) as f64;
        Ok(Speed { gflops: flop / started.elapsed().as_secs_f64(), gflops_per_cpu_second: None })
    }

    /// Forward `x·Wᵀ` and backward `g·W` of every linear of a block, in rounds until the budget is spent,
    /// after one that warms up.
    fn time(&self, library: &Library, y: &mut [f32], x: &[f32], w: &[f32], tokens: usize) -> Speed {
        let mut round = || {
            for &(out, inp) in &self.linears {
                library.product(y, x, &w[..out * inp], (tokens, out, inp), true);
                library.product(y, x, &w[..out * inp], (tokens, inp, out), false);
            }
        };
        round();
        let (cpu, started, mut rounds) = (cpu_seconds(), Instant::now(), 0);
        while rounds == 0 || started.elapsed() < self.budget {
            round();
            rounds += 1;
        }
        let parameters: usize = self.linears.iter().map(|(out, inp)| out * inp).sum();
        Speed::of(4e-9 * (rounds * tokens * parameters) as f64, started, cpu)
    }
}

/// The machine's rate of f32 products of these linears (outputs, inputs), 1e9 operations a second.
pub(crate) fn reference_rate(engine: &Engine, linears: Vec<(usize, usize)>) -> Result<f64> {
    let mut reference = Reference::new(linears, engine.threads());
    reference.budget = Duration::from_millis(100);
    Ok(reference.measure(engine, 512)?.best().1.gflops)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::EngineOptions;

    #[test]
    fn both_libraries_multiply() {
        let engine = Engine::new(EngineOptions { threads: Some(2), ..Default::default() }).unwrap();
        let (m, n, k) = (5, 7, 3);
        let x: Vec<f32> = (0..m * k).map(|i| i as f32 - 4.0).collect();
        let w: Vec<f32> = (0..n * k).map(|i| 2.0 - i as f32).collect();
        #[cfg(feature = "cli")]
        let openblas = OpenBlas::load(2);
        let libraries = [
            Some(Library::Gemm(&engine)),
            #[cfg(feature = "cli")]
            openblas.as_ref().map(Library::OpenBlas),
        ];
        for library in libraries.into_iter().flatten() {
            for transposed in [false, true] {
                let mut y = vec![0f32; m * n];
                library.product(&mut y, &x, &w, (m, n, k), transposed);
                for (i, &y) in y.iter().enumerate() {
                    let (i, j) = (i / n, i % n);
                    let at = |p: usize| if transposed { w[j * k + p] } else { w[p * n + j] };
                    assert_eq!(y, (0..k).map(|p| x[i * k + p] * at(p)).sum::<f32>());
                }
            }
        }
    }
}
