//! Breaking off a call that takes long, from another thread.

use sftmix::StopHandle;

use crate::border::place;
use crate::fault::{guard, sftmix_status, Result};
use crate::table::{self, Held};

/// What breaks off a call that it was given to. It may be given to several, and stays as it is once it was used: a call that
/// is given a used one is broken off as it begins.
pub struct sftmix_stop_handle(());

struct Stop(StopHandle);

impl Held for Stop {
    type Opaque = sftmix_stop_handle;
    const KIND: usize = 5;
}

/// What a handle stands for, or what nobody asks, for NULL.
pub fn stop_of(handle: *const sftmix_stop_handle) -> Result<StopHandle> {
    Ok(table::maybe::<Stop>(handle)?.map_or_else(StopHandle::default, |stop| stop.0.clone()))
}

/// Makes one.
///
/// `*out` is freed with `sftmix_stop_handle_free`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_stop_handle_new(out: *mut *mut sftmix_stop_handle) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        *place(out, "out")? = table::put(Stop(StopHandle::default()))?;
        Ok(())
    })
}

/// Breaks off what it was given to. Returns at once. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_stop_handle_stop(stop: *mut sftmix_stop_handle) -> sftmix_status {
    guard(|| {
        table::get::<Stop>(stop)?.0.stop();
        Ok(())
    })
}

/// Frees the handle; what it was given to goes on. NULL is fine. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_stop_handle_free(stop: *mut sftmix_stop_handle) -> sftmix_status {
    guard(|| if stop.is_null() { Ok(()) } else { table::take::<Stop>(stop).map(drop) })
}
