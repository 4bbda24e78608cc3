//! One decoder: `config.json` → switches, mapped weights, forward and backward.

pub mod block;
pub mod config;
pub mod decode;
pub mod decoder;
mod dtype;
mod projection;
mod residency;
pub mod shapes;
mod weight;
pub mod weights;

pub use config::DecoderConfig;
pub use decoder::{Decoder, Keep};
