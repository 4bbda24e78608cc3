//! Counter-based random numbers: every number is a function of a key and an index, so there is no
//! generator state to save, and neither micro-batches nor a resumed run change what is drawn.
//!
//! The mixer is SplitMix64's finaliser (Steele, Lea, Flood 2014); a key is a chain of mixed parts.

/// What a stream of random numbers is used for; keeps streams of one seed apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Stream {
    /// LoRA A at the start. Parts: FNV-1a of the module path.
    LoraInit = 1,
    /// Order of the rows. Parts: stage, epoch.
    RowOrder = 2,
    /// Order of one half. Parts: epoch, half.
    HalfOrder = 3,
    /// λ of a pair. Parts: epoch, pair.
    Lambda = 4,
    /// Dropout. Parts: step, row, FNV-1a of the module path.
    Dropout = 5,
    /// Sampling in generation.
    Sample = 6,
    /// Random weights and rows for benchmarks.
    Bench = 7,
    /// Noise on embeddings. Parts: step, row.
    Noise = 8,
    /// Which rows are held out. Parts: data file; index: row.
    HeldOut = 16,
    /// Which rows are taken once more, or at all, by their file's weight. Parts: data file; index: row.
    RowSample = 17,
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

#[inline]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A stream of random numbers addressed by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

impl Key {
    /// The key of (seed, stream, parts…).
    pub fn new(seed: u64, stream: Stream, parts: &[u64]) -> Key {
        let mut k = mix(seed.wrapping_add(GOLDEN)) ^ mix((stream as u64).wrapping_mul(GOLDEN));
        for &p in parts {
            k = mix(k.wrapping_mul(3).wrapping_add(GOLDEN) ^ mix(p.wrapping_add(GOLDEN)));
        }
        Key(k)
    }

    /// The `i`-th 64 random bits.
    #[inline]
    pub fn bits(self, i: u64) -> u64 {
        mix(self.0.wrapping_add(i.wrapping_add(1).wrapping_mul(GOLDEN)))
    }

    /// The `i`-th number, uniform in [0, 1), 53 bits.
    #[inline]
    pub fn uniform(self, i: u64) -> f64 {
        (self.bits(i) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// The `i`-th integer, uniform in 0..n (Lemire's multiply-shift; bias below n / 2^64).
    #[inline]
    pub fn below(self, i: u64, n: u64) -> u64 {
        ((self.bits(i) as u128 * n as u128) >> 64) as u64
    }

    /// The `i`-th pair of standard normals (Box–Muller).
    pub fn normal2(self, i: u64) -> (f64, f64) {
        let u = 1.0 - self.uniform(2 * i);
        let r = (-2.0 * libm::log(u)).sqrt();
        let t = 2.0 * std::f64::consts::PI * self.uniform(2 * i + 1);
        (r * libm::cos(t), r * libm::sin(t))
    }

    /// Shuffles in place (Fisher–Yates).
    pub fn shuffle<T>(self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i as u64, i as u64 + 1) as usize;
            items.swap(i, j);
        }
    }
}

/// FNV-1a of a text: a stable number for a name.
pub fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ b as u64).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_moments_and_independence_of_streams() {
        let k = Key::new(7, Stream::Lambda, &[1, 2]);
        let n = 100_000;
        let (mut s, mut s2, mut lag) = (0.0, 0.0, 0.0);
        for i in 0..n {
            let u = k.uniform(i);
            s += u;
            s2 += u * u;
            lag += u * k.uniform(i + 1);
        }
        let n = n as f64;
        assert!((s / n - 0.5).abs() < 0.004, "mean {}", s / n);
        assert!((s2 / n - 1.0 / 3.0).abs() < 0.004);
        assert!((lag / n - 0.25).abs() < 0.004);
        assert_ne!(k.bits(0), Key::new(7, Stream::Dropout, &[1, 2]).bits(0));
        assert_ne!(k.bits(0), Key::new(7, Stream::Lambda, &[2, 1]).bits(0));
    }

    #[test]
    fn values_are_pinned() {
        // A change here changes every run that anybody wants to repeat.
        assert_eq!(Key::new(0, Stream::RowOrder, &[0]).bits(0), Key::new(0, Stream::RowOrder, &[0]).bits(0));
        let mut v: Vec<u32> = (0..10).collect();
        Key::new(1, Stream::RowOrder, &[0, 0]).shuffle(&mut v);
        let mut sorted = v.clone();
        sorted.sort();
        assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        assert_ne!(v, sorted);
    }

    #[test]
    fn normals_have_unit_variance() {
        let k = Key::new(3, Stream::Bench, &[]);
        let (mut s, mut s2) = (0.0, 0.0);
        for i in 0..50_000 {
            let (a, b) = k.normal2(i);
            s += a + b;
            s2 += a * a + b * b;
        }
        assert!((s / 1e5).abs() < 0.015 && (s2 / 1e5 - 1.0).abs() < 0.03);
    }
}
