//! LoRA: slots on linears, and PEFT's folders in and out.

mod adapter;
pub(crate) mod initial;
pub mod peft;
pub(crate) mod tensors;
