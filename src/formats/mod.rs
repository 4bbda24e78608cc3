//! How numbers lie in files: their types, and the containers that hold tensors.

pub mod dtype;
pub(crate) mod json;
pub(crate) mod safetensors;

/// Takes the next bytes of a tensor that is written.
pub(crate) type Put<'a> = &'a mut dyn FnMut(&[u8]) -> crate::error::Result<()>;
