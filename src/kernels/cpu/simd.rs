//! SIMD by run-time choice: a kernel is written once as a plain loop over lanes and compiled for each
//! instruction set; the best one the machine has is called, or the one that the thread is bound to. Also exp as
//! a polynomial, so that bits do not depend on the system's libm.

use std::cell::Cell;

/// Lanes of a kernel's accumulators: one AVX-512 register, two of AVX2, four of NEON.
pub const LANES: usize = 16;

/// Which instructions the kernels use, each level with those before it; beside x86-64 there is one, the target's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What the target guarantees.
    Base,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F.
    Avx512,
    /// AVX-512 BW, VL and VNNI: dot products of rounded vectors.
    Vnni,
}

thread_local! {
    static BOUND: Cell<Option<Level>> = const { Cell::new(None) };
}

impl Level {
    /// Every level.
    pub const ALL: [Level; 4] = [Level::Base, Level::Avx2, Level::Avx512, Level::Vnni];

    /// The best level of this machine.
    pub fn best() -> Level {
        #[cfg(target_arch = "x86_64")]
        {
            // std caches the answers in an atomic.
            if is_x86_feature_detected!("avx512f") {
                let vnni = is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
                    && is_x86_feature_detected!("f16c");
                return if vnni { Level::Vnni } else { Level::Avx512 };
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Level::Avx2;
            }
        }
        Level::Base
    }

    /// Has the kernels that this thread calls use this level from now on.
    ///
    /// # Panics
    /// When the machine has not got it.
    pub fn bind_thread(self) {
        assert!(self <= Level::best(), "{self:?} is beyond this machine");
        BOUND.set(Some(self));
    }

    /// What decides how sums are rounded, in a word: `avx512`, `avx2`, `sse2`, `neon`, `scalar`.
    pub fn instructions(self) -> &'static str {
        match self {
            Level::Avx512 | Level::Vnni => "avx512",
            Level::Avx2 => "avx2",
            Level::Base if cfg!(target_arch = "x86_64") => "sse2",
            Level::Base if cfg!(target_arch = "aarch64") => "neon",
            Level::Base => "scalar",
        }
    }
}

/// The level of the kernels that this thread calls.
#[inline]
pub fn level() -> Level {
    BOUND.get().unwrap_or_else(unbound)
}

#[cfg(not(test))]
fn unbound() -> Level {
    Level::best()
}

/// Tests of kernels are run on each level by `SFTMIX_TEST_SIMD`, a level as the setting `simd` names it.
#[cfg(test)]
fn unbound() -> Level {
    static ASKED: std::sync::OnceLock<Level> = std::sync::OnceLock::new();
    *ASKED.get_or_init(|| {
        let Ok(name) = std::env::var("SFTMIX_TEST_SIMD") else { return Level::best() };
        let names = ["base", "avx2", "avx512", "avx512-vnni"];
        let found = Level::ALL.into_iter().zip(names).find(|(level, n)| *n == name && *level <= Level::best());
        found.unwrap_or_else(|| panic!("this machine has no level {name:?}")).0
    })
}

/// Defines a kernel compiled for each instruction set. In the body, `FMA` says whether a fused
/// multiply-add is an instruction (elsewhere `f32::mul_add` would be a slow library call).
macro_rules! simd_kernel {
    ($(#[$m:meta])* pub fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$m])*
        pub fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(unused, clippy::too_many_arguments)]
            fn body<const FMA: bool>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn v4($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn v3($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                match $crate::kernels::cpu::simd::level() {
                    $crate::kernels::cpu::simd::Level::Base => body::<false>($($arg),*),
                    // SAFETY: the level says that the machine has these instructions.
                    $crate::kernels::cpu::simd::Level::Avx2 => unsafe { v3($($arg),*) },
                    // SAFETY: as above.
                    _ => unsafe { v4($($arg),*) },
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            {
                body::<{ cfg!(target_arch = "aarch64") }>($($arg),*)
            }
        }
    };
}
pub(crate) use simd_kernel;

/// `a·b + c`, fused when `FMA`.
#[inline(always)]
pub fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

/// Asks for what lies `ahead` elements behind these, where the processor can be told so.
#[inline(always)]
pub fn prefetch<T>(these: &[T], ahead: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, harmless at any address.
    unsafe {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        _mm_prefetch::<_MM_HINT_T0>(these.as_ptr().wrapping_add(ahead).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (these, ahead);
}

/// e^x. Relative error below 2.4e-7 on [-87, 88], 2.5e-7 without fused multiply-adds; below -87.3 it gives 0, above 88 it saturates near 1.6e38.
///
/// Cody–Waite reduction x = n·ln 2 + r, a degree-6 polynomial for e^r, and n taken from the bits of the
/// magic-number sum, since a float-to-int conversion would keep the loop from vectorising.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5·2^23
    let low = x < -87.3;
    let x = x.clamp(-87.3, 88.0);
    let shifted = fma::<FMA>(x, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = fma::<FMA>(n, -0.693_359_4, x);
    let r = fma::<FMA>(n, 2.121_944_4e-4, r);
    let p = 1.388_893_6e-3;
    let p = fma::<FMA>(p, r, 8.333_341e-3);
    let p = fma::<FMA>(p, r, 4.166_664e-2);
    let p = fma::<FMA>(p, r, 1.666_666_6e-1);
    let p = fma::<FMA>(p, r, 0.5);
    let p = fma::<FMA>(p, r, 1.0);
    let p = fma::<FMA>(p, r, 1.0);
    let scale = f32::from_bits(shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(127) << 23);
    if low {
        0.0
    } else {
        p * scale
    }
}

/// tanh x. Relative error below 6e-7: a polynomial near 0, where `1 − 2/(e^2x + 1)` would cancel.
#[inline(always)]
pub fn tanh<const FMA: bool>(x: f32) -> f32 {
    let far = 1.0 - 2.0 / (exp::<FMA>(2.0 * x) + 1.0);
    let s = x * x;
    let p = -1382.0 / 155_925.0;
    let p = fma::<FMA>(p, s, 62.0 / 2835.0);
    let p = fma::<FMA>(p, s, -17.0 / 315.0);
    let p = fma::<FMA>(p, s, 2.0 / 15.0);
    let p = fma::<FMA>(p, s, -1.0 / 3.0);
    let near = fma::<FMA>(p * s, x, x);
    if s < 0.09 {
        near
    } else {
        far
    }
}

/// `c·tanh(x/c)`, a softcap.
#[inline(always)]
pub fn softcap<const FMA: bool>(x: f32, c: f32) -> f32 {
    c * tanh::<FMA>(x / c)
}

/// Sum of the lanes in a fixed order.
#[inline(always)]
pub fn sum_lanes(a: [f32; LANES]) -> f32 {
    let mut b = [0f32; 8];
    for i in 0..8 {
        b[i] = a[i] + a[i + 8];
    }
    ((b[0] + b[4]) + (b[2] + b[6])) + ((b[1] + b[5]) + (b[3] + b[7]))
}

/// Σ x·y over lanes, the tail added last.
#[inline(always)]
pub fn dot<const FMA: bool>(x: &[f32], y: &[f32]) -> f32 {
    let n = x.len().min(y.len());
    let (x, y) = (&x[..n], &y[..n]);
    let mut acc = [0f32; LANES];
    let (xc, yc) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let tail: f32 = xc.remainder().iter().zip(yc.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in xc.zip(yc) {
        for i in 0..LANES {
            acc[i] = fma::<FMA>(a[i], b[i], acc[i]);
        }
    }
    sum_lanes(acc) + tail
}

#[cfg(test)]
mod tests {
    use super::*;

    simd_kernel! {
        /// exp of each.
        pub fn exp_all(x: &[f32], y: &mut [f32]) {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = exp::<FMA>(x);
            }
        }
    }

    #[test]
    fn exp_is_within_two_ulp_of_libm() {
        let x: Vec<f32> = (0..200_001).map(|i| -87.0 + i as f32 * (175.0 / 200_000.0)).collect();
        let mut y = vec![0.0; x.len()];
        exp_all(&x, &mut y);
        let worst = x.iter().zip(&y).map(|(&x, &y)| {
            let want = libm::exp(x as f64);
            ((y as f64 - want) / want).abs()
        });
        let worst = worst.fold(0.0, f64::max);
        let bound = if level().instructions() == "sse2" { 2.5e-7 } else { 2.4e-7 };
        assert!(worst < bound, "relative error {worst:e}");
        exp_all(&[-200.0, f32::NEG_INFINITY, 0.0], &mut y[..3]);
        assert_eq!(&y[..3], &[0.0, 0.0, 1.0]);
    }

    simd_kernel! {
        /// tanh of each.
        pub fn tanh_all(x: &[f32], y: &mut [f32]) {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = tanh::<FMA>(x);
            }
        }
    }

    #[test]
    fn tanh_is_close_to_libm_everywhere() {
        let x: Vec<f32> = (0..200_001).map(|i| -20.0 + i as f32 * 2e-4).chain([1e-30, -1e-10, 100.0]).collect();
        let mut y = vec![0.0; x.len()];
        tanh_all(&x, &mut y);
        let error = |(&x, &y): (&f32, &f32)| {
            let want = libm::tanh(x as f64);
            ((y as f64 - want) / want).abs()
        };
        let worst = x.iter().zip(&y).filter(|(x, _)| **x != 0.0).map(error).fold(0.0, f64::max);
        assert!(worst < 6e-7, "relative error {worst:e}");
        tanh_all(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY], &mut y[..3]);
        assert!(y[0].is_nan() && y[1..3] == [1.0, -1.0]);
    }

    #[test]
    fn exp_of_nan_is_not_hidden() {
        let mut y = [0.0];
        exp_all(&[f32::NAN], &mut y);
        assert!(y[0].is_nan());
    }
}
