//! Training: groups of rows and the memory they need, the optimizer, the learning rate, forward passes over a set.

pub mod batches;
pub mod footprint;
pub mod group;
pub mod optimizer;
pub mod plan;
pub mod schedule;
pub mod score;
