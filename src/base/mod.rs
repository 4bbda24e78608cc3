//! The base model of a run as a whole: what is opened of it, and by which hashes it is known.

pub mod check;
pub mod facts;
pub mod model;
pub mod open;

pub use crate::disk::HashCache;
pub use model::Model;
