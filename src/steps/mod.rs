//! What a run does step by step, free of tensors: which rows a step takes and how they are cut.

pub mod cut;
pub mod stage;
