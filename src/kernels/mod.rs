//! The fused forms beneath `ops/`. Nothing here knows a model or a buffer type: slices in, slices out.

pub mod cpu;
