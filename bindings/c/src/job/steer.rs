//! What may be asked of a job from any thread while it runs, and what it tells.

use std::ffi::c_char;

use super::{sftmix_job, timeout, Job};
use crate::border::{self, given_out, json, place};
use crate::event::{event_out, sftmix_event};
use crate::fault::{guard, sftmix_status};
use crate::status::{info_out, limits_in, sftmix_job_info, sftmix_limits};
use crate::table;

/// Asks the job to wait: it finishes its micro-batch and writes a checkpoint; memory stays held. Returns at once. From any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_pause(job: *mut sftmix_job) -> sftmix_status {
    guard(|| {
        table::get::<Job>(job)?.job.control().pause();
        Ok(())
    })
}

/// Lets the job go on after `sftmix_job_pause`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_unpause(job: *mut sftmix_job) -> sftmix_status {
    guard(|| {
        table::get::<Job>(job)?.job.control().resume();
        Ok(())
    })
}

/// Asks the job to stop within a micro-batch: behind a checkpoint of its last whole step, or without `save` at the newest
/// one that is there. It can be taken up either way, by this job or `sftmix_job_resume`. Returns at once; what runs or
/// waits for the job ends with `SFTMIX_STATUS_STOPPED`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_cancel(job: *mut sftmix_job, save: bool) -> sftmix_status {
    guard(|| {
        table::get::<Job>(job)?.job.control().cancel(save);
        Ok(())
    })
}

/// Changes what the job may take of the machine, from its next micro-batch on. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_update(job: *mut sftmix_job, limits: *const sftmix_limits) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe { Ok(table::get::<Job>(job)?.job.control().update(limits_in(limits)?)?) })
}

/// What the job is at. Returns at once, whatever the job does. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_status(job: *const sftmix_job, out: *mut sftmix_job_info) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe { border::fill(out, info_out(&table::get::<Job>(job)?.job.control().status())) })
}

/// The same as JSON, with the folder of the newest checkpoint.
///
/// `*out` is freed with `sftmix_string_free`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_status_json(job: *const sftmix_job, out: *mut *mut c_char) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let status = table::get::<Job>(job)?.job.control().status();
        *place(out, "out")? = given_out(&json(&status)?);
        Ok(())
    })
}

/// The job's settings as JSON, by name.
///
/// `*out` is freed with `sftmix_string_free`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_settings(job: *const sftmix_job, out: *mut *mut c_char) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let job = table::get::<Job>(job)?;
        *place(out, "out")? = given_out(&json(job.job.config())?);
        Ok(())
    })
}

/// The next event that was not acknowledged: the same one until it is. Waits up to so many milliseconds for one, less than
/// 0 for as long as the job runs; `SFTMIX_EVENT_KIND_NONE` where none came. Steps and evaluations come in full number, of
/// sweeps and checkpoints the newest.
///
/// `out` was set up by `sftmix_event_init`, and is freed with `sftmix_event_free` before it is filled again. From any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_next_event(
    job: *mut sftmix_job,
    timeout_ms: i64,
    out: *mut sftmix_event,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let job = table::get::<Job>(job)?;
        border::can_fill(out)?;
        let event = job.job.control().next_event(timeout(timeout_ms))?;
        let none = <sftmix_event as border::Sized>::unset();
        border::fill(out, event.map_or(Ok(none), |e| event_out(&e.event, e.number))?)
    })
}

/// Says that the event of this number was dealt with: the next comes, and this one not again, also not after a crash. From
/// any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_acknowledge(job: *mut sftmix_job, number: u64) -> sftmix_status {
    guard(|| Ok(table::get::<Job>(job)?.job.control().acknowledge(number)?))
}
