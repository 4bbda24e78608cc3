//! A model's weights: every tensor of a folder or GGUF file by Hugging Face's name, mapped and never copied whole.

mod finite;
mod named;
pub mod store;
pub mod weight;

pub use store::WeightStore;
pub use weight::Weight;
