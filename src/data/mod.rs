//! From files of rows to ragged batches of token ids: [`rows`] reads objects as a stream, [`text`] turns each into a
//! text and the byte spans that are trained, [`tokens`] turns the texts into ids with a trained bit, keeps those on
//! disk, and lays rows end to end. [`inspect`] shows what becomes of rows.

pub mod inspect;
pub mod rows;
pub mod text;
pub mod tokens;

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
