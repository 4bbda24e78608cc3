//! Chat templates: conversations as the model's own template writes them, and which part of the text is trained.
//!
//! A template is a jinja2 program that a model brings along. It is run as transformers runs it ([`ChatTemplate::render`]);
//! what it writes is encoded whole and without further special tokens
//! ([`Tokenizer::encode_chat`](crate::data::tokens::Tokenizer::encode_chat)). For training ([`ChatTemplate::training`]) each
//! assistant turn and its end token are found in the text, in one of three ways ([`Spans`]).

mod calls;
mod clock;
mod compiled;
mod conversation;
mod dialect;
mod environment;
mod facts;
mod format;
mod fuel;
mod json;
pub(crate) mod lost;
mod parts;
pub(crate) mod read;
mod roles;
mod source;
pub(crate) mod stack;
pub(crate) mod stored;
mod tags;
mod turns;
mod twin;

pub use self::compiled::{ChatTemplate, RenderOptions, Spans};
pub use self::conversation::Conversation;
pub(crate) use self::dialect::Dialect;
pub use self::facts::ChatFacts;
pub use self::format::ChatFormat;
pub(crate) use self::lost::Seen;
pub use self::source::{ChatSource, SpecialTokens};

#[cfg(test)]
mod tests;
