//! How numbers lie in files: their types, and the containers that hold tensors.

pub mod dtype;
