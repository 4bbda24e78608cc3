//! One decoder: blocks of frozen linears with adapters on them, forward and backward.

pub mod adapter;
pub mod block;
mod context;
pub mod decode;
pub mod decoder;
mod projection;
mod residency;

pub use adapter::Adapter;
pub use decoder::{Decoder, Keep};
