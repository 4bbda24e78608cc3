//! The most that the processor computes: chains of fused multiply-adds in registers alone, as many as hide the time that
//! each takes. No product of matrices can be faster.

use super::simd::{level, Level};

/// Runs so many rounds of independent multiply-adds on this thread, at its level; gives the floating-point operations that
/// these were, a multiplication and an addition each.
pub fn spin(rounds: usize) -> f64 {
    let per_round = match level() {
        // SAFETY: the level says that the machine has these instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Vnni => unsafe { avx512::spin(rounds) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::spin(rounds) },
        // SAFETY: NEON belongs to the target.
        #[cfg(target_arch = "aarch64")]
        Level::Base => unsafe { neon::spin(rounds) },
        #[allow(unreachable_patterns)]
        _ => plain(rounds),
    };
    2.0 * (per_round * rounds) as f64
}

/// Without fused instructions: a multiplication and an addition, by what the compiler makes of lanes.
fn plain(rounds: usize) -> usize {
    const CHAINS: usize = 12;
    let (x, y) = (std::hint::black_box(0.999_9f32), std::hint::black_box(1e-5f32));
    let mut sums = [[1f32; 4]; CHAINS];
    for _ in 0..rounds {
        for sums in &mut sums {
            for s in sums {
                *s = *s * x + y;
            }
        }
    }
    std::hint::black_box(sums);
    4 * CHAINS
}

#[allow(unused_macros)]
macro_rules! chains {
    ($features:literal, $chains:literal, $lanes:literal, $splat:expr, $fma:expr) => {
        #[target_feature(enable = $features)]
        pub unsafe fn spin(rounds: usize) -> usize {
            let (x, y) = ($splat(std::hint::black_box(0.999_9)), $splat(std::hint::black_box(1e-5)));
            let mut sums = [y; $chains];
            for _ in 0..rounds {
                for s in &mut sums {
                    *s = $fma(*s, x, y);
                }
            }
            std::hint::black_box(sums);
            $chains * $lanes
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    chains!("avx512f", 24, 16, |v| _mm512_set1_ps(v), |a, b, c| _mm512_fmadd_ps(a, b, c));
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    chains!("avx2,fma", 12, 8, |v| _mm256_set1_ps(v), |a, b, c| _mm256_fmadd_ps(a, b, c));
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    chains!("neon", 24, 4, |v| vdupq_n_f32(v), |a, b, c| vfmaq_f32(c, a, b));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_counted() {
        let one = spin(1);
        assert!(one >= 2.0 * 4.0 * 12.0 && spin(10) == 10.0 * one);
    }
}
