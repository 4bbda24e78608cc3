//! Files and folders that are there whole or not at all, whenever the process is killed.
//!
//! Whatever is written lies under a temporary name beside its target until it is on disk, then it is renamed. A
//! lock on a small file beside it says that its writer lives; [`sweep`] removes what nobody holds and puts back a
//! folder whose replacement never came. Nothing here knows the rest of the crate but its errors
//! and open files.

mod append;
mod fault;
mod folders;
mod hash;
mod lock;
mod names;
mod sweep;
mod sync;
mod write;

pub(crate) use append::Append;
pub(crate) use fault::writing;
pub(crate) use folders::{replace_dir, replace_dirs, with_temporary_dir};
pub use hash::HashCache;
pub(crate) use hash::{hash_of, hash_of_files};
pub use lock::FolderLock;
pub(crate) use names::read_if_there;
pub(crate) use sweep::sweep;
pub(crate) use sync::{sync_data, sync_dir, sync_file};
#[cfg(test)]
pub(crate) use sync::{Done, DONE};
pub(crate) use write::{place, pretty, put, write_file, write_with, Draft};

#[cfg(test)]
mod tests;
