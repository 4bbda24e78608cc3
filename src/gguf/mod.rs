//! GGUF, the file of llama.cpp: bases are read from it as they are.

pub(crate) mod config;
mod fields;
pub(crate) mod file;
pub(crate) mod names;
pub(crate) mod pre;
pub(crate) mod reader;
pub mod tokenizer;
pub(crate) mod tokens;
pub(crate) mod write;
mod yarn;

pub(crate) use config::{architecture, model_config};
pub(crate) use file::{type_name, GgufFile};
pub use names::{Architecture, RowOrder};
pub(crate) use tokenizer::chat_template_of;
pub use tokenizer::{chat_template, ChatTemplate};
