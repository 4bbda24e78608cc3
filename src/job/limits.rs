//! What a job may take of the machine.

use serde::Serialize;

/// What a job may take of the machine. What is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Limits {
    /// Worker threads, 1 to 1024. Another number than the run's own may round differently.
    pub threads: Option<usize>,
    /// Share of the time in which it computes, 0 < d ≤ 1: behind each micro-batch it rests for as long as that asks.
    pub duty_cycle: Option<f64>,
    /// Bytes that the library may hold, as the setting `memory_limit`. It decides what is kept for the backward pass; how
    /// rows are cut stays as the run began it.
    pub memory_limit: Option<u64>,
}

impl Limits {
    /// These, and where they say nothing the others.
    pub(crate) fn over(self, others: Limits) -> Limits {
        Limits {
            threads: self.threads.or(others.threads),
            duty_cycle: self.duty_cycle.or(others.duty_cycle),
            memory_limit: self.memory_limit.or(others.memory_limit),
        }
    }
}
