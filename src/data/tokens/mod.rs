//! From texts to tokens: the tokenizer, the token store on disk, and ragged batches of its examples.

mod added;
pub mod batch;
mod build;
pub(crate) mod counts;
mod index;
mod open;
mod part;
pub(crate) mod pipeline;
pub mod request;
pub(crate) mod select;
mod selection;
pub(crate) mod skipped;
mod source_hash;
pub mod source_row;
pub mod store;
pub mod tokenizer;
mod unfinished;
mod writer;

pub use batch::{epoch_order, Ragged, NONE};
pub use counts::SourceCounts;
pub use index::RowCounts;
pub use request::StoreRequest;
pub use skipped::SkippedRows;
pub use source_row::{file_and_row, row_name};
pub use store::{read_rows, Example, TokenStore};
pub use tokenizer::{EncodedRow, Tokenizer, TARGET};
