//! From rows to texts with their trained spans: the shapes of rows, and conversations by the model's own template.

mod alpaca;
pub mod chat;
pub(crate) mod columns;
pub mod prompt;
pub mod rendered;
mod shape;
mod suggestion;
pub mod template;

pub use chat::{ChatTemplate, Conversation, RenderOptions};
pub use rendered::Rendered;
pub use shape::RowShape;
pub use template::Template;
