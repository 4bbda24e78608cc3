//! Integration tests, one module a theme. Those that read weights or data from beside the checkout
//! print one line and pass where these are absent.

mod block;
mod dropout;
#[cfg(feature = "generate")]
mod generate;
mod golden;
mod ops;
mod runs;
mod support;
