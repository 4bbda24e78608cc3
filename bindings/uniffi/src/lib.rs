//! The door for languages that UniFFI speaks. It converts and locks, and decides nothing: what a binding wants goes into
//! the library first. See docs/decisions/0014-doors.md.

// An error crosses field by field and is made once a failing call: a box would buy nothing.
#![allow(clippy::result_large_err)]

mod border;
mod error;
mod generate;
mod job;
mod logging;
mod map;
mod records;
mod settings;
mod tasks;

uniffi::setup_scaffolding!("sftmix");

/// The version of the library.
#[uniffi::export]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").into()
}
