//! From a file of rows to ragged batches of token ids: [`rows`] reads objects as a stream,
//! [`template`] turns each into a text and the byte spans that are trained, `tokenizer` turns
//! the text into ids with a trained bit, `store` keeps those on disk and maps them, and
//! `batch` draws the order and lays rows end to end.

pub mod prompt;
pub mod rows;
pub mod template;
