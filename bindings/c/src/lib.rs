//! The C interface: `extern "C"` functions over the library, whose header cbindgen writes. Nothing is decided here: what
//! comes in is converted and checked, what goes out is converted, and a panic becomes a status.
//!
//! # Safety
//! What holds for every function: pointers are NULL where the function says so, or point to what their type says, whole
//! and aligned, for as long as the call runs, and texts end in a NUL. Handles are exempt: they are numbers that are looked
//! up and never followed, so a freed or foreign one is an error and no more.

#![allow(non_camel_case_types, clippy::missing_safety_doc)]

mod border;
mod evaluate;
mod event;
mod export;
mod fault;
mod generation;
mod generator;
mod given;
mod job;
mod logging;
mod look;
mod map;
mod model;
mod names;
mod options;
mod report;
mod status;
mod stop;
mod table;

use std::ffi::c_char;

/// The version of the library, as `0.1.0`. The text is the library's and stays.
#[unsafe(no_mangle)]
pub extern "C" fn sftmix_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
