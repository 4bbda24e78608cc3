//! The data map of a run: what its dynamics log says of each example, asked page by page.
//!
//! The log stays in its files. A question reads the records of every checkpoint once or a few times through memory maps
//! and holds at most 24 bytes an example while it is answered, beside the rows of the page; nothing an example between
//! questions. Measures are those of [`crate::dynamics`], bit for bit.

mod column;
mod history;
mod open;
mod query;
mod row;
mod select;
mod summary;
mod texts;

pub use history::MapPoint;
pub use open::DataMap;
pub use query::{MapFilter, MapKey, MapQuery};
pub use row::{MapPage, MapRow};
pub use summary::{MapDistribution, MapSummary};

#[cfg(test)]
mod tests;
