//! Training: groups of rows, the optimizer, the learning rate, forward passes over a set.

pub mod batches;
pub mod group;
pub mod optimizer;
pub mod schedule;
pub mod score;
