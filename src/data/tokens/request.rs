//! What a token store is made from.

use std::path::Path;

use super::tokenizer::Tokenizer;
use crate::config::DataOptions;
use crate::stop::StopIf;

/// What a store is made from.
#[derive(Clone, Copy)]
pub struct StoreRequest<'a> {
    /// The rows: a file, or a folder of texts.
    pub data: &'a Path,
    /// How rows become examples.
    pub options: &'a DataOptions,
    /// The text of the chat template that the options name, where it is known whatever the file says.
    pub template: Option<&'a str>,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Longest example in tokens, ≥ 2.
    pub max_length: usize,
    /// Where stores are kept; made where absent.
    pub cache_dir: &'a Path,
    /// Threads that tokenise, ≥ 1.
    pub threads: usize,
    /// Asked on the caller's thread, ten times a second or oftener, with whether rows were tokenised that the next build
    /// need not tokenise again; true ends the build.
    pub stop: StopIf<'a>,
}
