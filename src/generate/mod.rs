//! Text from a model and an adapter: the prompt in a few passes, then a token at a time over cached keys and
//! values.

mod chat;
mod config;
mod generator;
mod run;
mod sample;
mod shared;
mod stop;
mod stream;
mod text;

pub use config::GenerateConfig;
pub use generator::Generator;
pub use shared::SharedGenerator;
pub use text::Generation;
