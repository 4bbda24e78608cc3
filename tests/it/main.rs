//! Integration tests, one module a theme. Those that read weights or data from beside the checkout
//! print one line and pass where these are absent.

mod asked;
mod block;
mod chat;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
mod data;
mod device;
mod doors;
mod dropout;
#[cfg(feature = "generate")]
mod export;
#[cfg(feature = "generate")]
mod generate;
mod gguf;
mod golden;
#[cfg(feature = "cli")]
mod hints;
#[cfg(feature = "cli")]
mod hub;
#[cfg(feature = "cli")]
mod kill;
#[cfg(feature = "cli")]
mod memory;
#[cfg(feature = "generate")]
mod model;
mod noise;
mod ops;
mod refused;
mod resume;
mod rows;
mod runs;
#[cfg(feature = "cli")]
mod scale;
mod steer;
mod stopping;
mod support;
#[cfg(feature = "generate")]
mod talk;
mod tokens;
mod variants;
