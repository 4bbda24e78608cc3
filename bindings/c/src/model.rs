//! Models that are open.

use std::ffi::c_char;

use sftmix::Model;

use crate::border::{given_out, place, text};
use crate::fault::{guard, sftmix_status, Result};
use crate::given;
use crate::table::{self, Held};

/// A model that is open. Any number of jobs, generators and calls may work on one at the same time, and all share its
/// mapped weights; its files must stay as they are while it lives.
pub struct sftmix_model(());

pub struct Open(pub Model);

impl Held for Open {
    type Opaque = sftmix_model;
    const KIND: usize = 1;
}

/// The model of a handle, or none for NULL.
pub fn model_of(handle: *const sftmix_model) -> Result<Option<Model>> {
    Ok(table::maybe::<Open>(handle)?.map(|open| open.0.clone()))
}

/// Opens a Hugging Face model folder (`config.json`, `tokenizer.json`, safetensors) or a GGUF file.
///
/// `*out` is freed with `sftmix_model_free`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_model_open(path: *const c_char, out: *mut *mut sftmix_model) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        table::at_home()?;
        let (path, out) = (text(path, "path")?, place(out, "out")?);
        *out = table::put(Open(Model::open(path)?))?;
        Ok(())
    })
}

/// Where the model lies, as an absolute path.
///
/// `*out` is freed with `sftmix_string_free`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_model_path(model: *const sftmix_model, out: *mut *mut c_char) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let model = table::get::<Open>(model)?;
        *place(out, "out")? = given_out(&model.0.path().to_string_lossy());
        Ok(())
    })
}

/// The same model with worker threads that are shared: jobs, evaluations and generators that are opened on `*out` compute on
/// these, where each would have its own otherwise. `threads` of `SFTMIX_UNSET` takes the machine's cores; an option `threads` of
/// another number is an error then.
///
/// `*out` is freed with `sftmix_model_free`, by itself. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_model_share_workers(
    model: *const sftmix_model,
    threads: i64,
    out: *mut *mut sftmix_model,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let model = table::get::<Open>(model)?;
        let out = place(out, "out")?;
        *out = table::put(Open(model.0.share_workers(given::threads(threads)?)?))?;
        Ok(())
    })
}

/// Frees the handle; what works on the model keeps it open until it ends. NULL is fine. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_model_free(model: *mut sftmix_model) -> sftmix_status {
    guard(|| if model.is_null() { Ok(()) } else { table::take::<Open>(model).map(drop) })
}
