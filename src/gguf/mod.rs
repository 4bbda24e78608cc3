//! GGUF, the file of llama.cpp: bases are read from it as they are, and written to it by [`quantize()`].

mod config;
mod file;
mod mix;
mod names;
mod pre;
mod quantize;
mod reader;
pub(crate) mod tokenizer;
mod vocabulary;
mod write;

pub(crate) use config::{architecture, model_config};
pub(crate) use file::{type_name, GgufFile};
pub use mix::QuantType;
pub use names::{Architecture, RowOrder};
pub use quantize::{quantize, QuantizeConfig, Quantized};
pub use tokenizer::{chat_template, ChatTemplate};

use std::path::Path;

/// Whether a model is one file, which must be GGUF then, and no folder.
pub(crate) fn is_file(model: &Path) -> bool {
    model.is_file()
}
