//! From files of rows to ragged batches of token ids: [`rows`] reads objects as a stream,
//! [`template`] turns each into a text and the byte spans that are trained (conversations by the
//! model's own template, [`chat`]), [`tokenizer`] turns
//! the text into ids with a trained bit, [`store`] keeps those on disk and maps them, and
//! [`batch`] draws the order and lays rows end to end.

mod alpaca;
pub mod batch;
mod build;
pub mod chat;
#[cfg(feature = "tables")]
mod csv_rows;
mod files;
mod index;
pub mod inspect;
mod json_rows;
#[cfg(feature = "tables")]
mod parquet_rows;
mod part;
pub(crate) mod pipeline;
pub mod prompt;
pub mod rows;
pub(crate) mod select;
mod sharegpt;
mod source_hash;
mod sources;
pub mod store;
pub mod template;
mod texts;
pub mod tokenizer;

pub use batch::{epoch_order, Ragged, NONE};
pub use chat::{ChatTemplate, Conversation, RenderOptions};
pub(crate) use files::{Kind, Split};
pub use rows::RowReader;
pub use sources::{DataSource, DataSources};
pub use store::{file_and_row, read_rows, row_name, Example, RowCounts, SourceCounts, StoreRequest, TokenStore};
pub use template::{Rendered, RowShape, Template};
pub use tokenizer::{EncodedRow, Tokenizer, TARGET};

#[cfg(test)]
pub(crate) mod testing {
    //! Where tests find the shared model and data.

    use std::path::PathBuf;

    /// A path of the shared folder, or a line of output and `None` where that is absent.
    pub fn shared(path: &str) -> Option<PathBuf> {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
        if !path.exists() {
            println!("skipped: {} is absent", path.display());
            return None;
        }
        Some(path)
    }
}
