//! Learning rate by step: a line from 0 over the warm-up, then cosine, linear or constant
//! (transformers' `get_scheduler`).

use crate::config::Schedule;

/// A schedule over a known number of steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRate {
    peak: f64,
    kind: Schedule,
    warmup: u64,
    total: u64,
}

impl LearningRate {
    /// `warmup_ratio` of `total` steps, rounded up, are warm-up.
    pub fn new(peak: f64, kind: Schedule, warmup_ratio: f64, total: u64) -> LearningRate {
        let warmup = ((warmup_ratio * total as f64).ceil() as u64).min(total);
        LearningRate { peak, kind, warmup, total }
    }

    /// The rate of the step that follows `step` finished ones.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let left = (self.total - self.warmup).max(1) as f64;
        let done = ((step - self.warmup) as f64 / left).min(1.0);
        self.peak
            * match self.kind {
                Schedule::Cosine => 0.5 * (1.0 + libm::cos(std::f64::consts::PI * done)),
                Schedule::Linear => 1.0 - done,
                Schedule::Constant => 1.0,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_transformers() {
        // get_cosine_schedule_with_warmup(num_warmup_steps=2, num_training_steps=10), lr 1: by its formula.
        let lr = LearningRate::new(1.0, Schedule::Cosine, 0.2, 10);
        let want = [0.0, 0.5, 1.0, 0.961_94, 0.853_55, 0.691_34, 0.5, 0.308_66, 0.146_45, 0.038_06];
        for (i, w) in want.iter().enumerate() {
            assert!((lr.at(i as u64) - w).abs() < 1e-4, "step {i}: {}", lr.at(i as u64));
        }
        let lr = LearningRate::new(2.0, Schedule::Linear, 0.0, 4);
        assert_eq!([0, 1, 2, 3].map(|i| lr.at(i)), [2.0, 1.5, 1.0, 0.5]);
        assert_eq!(LearningRate::new(2.0, Schedule::Constant, 0.5, 4).at(3), 2.0);
    }
}
