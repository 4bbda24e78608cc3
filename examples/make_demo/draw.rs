//! Random draws in sequence, over the crate's counter-based keys.

use sftmix::internal::rng::{fnv1a, Key, Stream};

/// A key and how many of its numbers are used up.
pub struct Draw {
    key: Key,
    used: u64,
}

impl Draw {
    /// The stream of (seed, purpose, part).
    pub fn new(seed: u64, purpose: &str, part: u64) -> Draw {
        Draw { key: Key::new(seed, Stream::Bench, &[fnv1a(purpose), part]), used: 0 }
    }

    /// An integer in 0..n.
    pub fn below(&mut self, n: usize) -> usize {
        self.used += 1;
        self.key.below(self.used, n as u64) as usize
    }

    /// A number in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        self.used += 1;
        self.key.uniform(self.used)
    }

    /// True with probability p.
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// One of the items.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// One of the words of a list with commas.
    pub fn word(&mut self, list: &'static str) -> &'static str {
        let n = list.split(", ").count();
        list.split(", ").nth(self.below(n)).expect("counted above")
    }

    /// Shuffles in place.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i + 1);
            items.swap(i, j);
        }
    }
}
