//! A job from its beginning to its end.

use std::time::Duration;

use sftmix::{TrainReport, TrainingJob};

use super::{sftmix_job, timeout, Job};
use crate::border::{self, place};
use crate::fault::{guard, sftmix_status, Fail, Result};
use crate::report::{self, sftmix_report};
use crate::table;

/// Runs the job on a thread of its own, from where its folder stands; `sftmix_job_wait` gives its end. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_start(job: *mut sftmix_job) -> sftmix_status {
    guard(|| Ok(table::get::<Job>(job)?.job.start()?))
}

/// Runs the job to its end on this thread. `report` may be NULL. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_run(job: *mut sftmix_job, report: *mut sftmix_report) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let mut finished = false;
        slice(job, Duration::MAX, &mut finished, report)
    })
}

/// Trains on this thread for at most so many seconds and the micro-batch that is under way, writes a checkpoint and
/// returns; the next slice, in this process or another, goes on to the same bytes. However short it is, it tokenises some
/// rows, or takes a step or a batch of a sweep; to open and to prepare counts towards its time, and may take longer.
/// `*finished` says whether the run is at its end, and `report`, which may be NULL, is filled then. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_run_slice(
    job: *mut sftmix_job,
    seconds: f64,
    finished: *mut bool,
    report: *mut sftmix_report,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let time = Duration::try_from_secs_f64(seconds);
        let time = time.map_err(|_| Fail::argument("seconds", &format!("expected 0 and more, found {seconds}")))?;
        slice(job, time, place(finished, "finished")?, report)
    })
}

unsafe fn slice(job: *mut sftmix_job, time: Duration, finished: &mut bool, out: *mut sftmix_report) -> Result<()> {
    let job = table::get::<Job>(job)?;
    // SAFETY: passed on.
    unsafe {
        checked(out)?;
        *finished = false;
        if let Some(done) = job.job.run_slice(time)?.report {
            *finished = true;
            report::fill(out, &done)?;
        }
    }
    Ok(())
}

/// A report that has no place is found out before the work.
unsafe fn checked(out: *mut sftmix_report) -> Result<()> {
    // SAFETY: passed on.
    if out.is_null() {
        Ok(())
    } else {
        unsafe { border::can_fill(out) }
    }
}

/// Waits for the end of the job, for so many milliseconds, or less than 0 for as long as it takes. `*ended` says whether
/// it has come to its end; NULL only where there is no limit. The status is then that of the run, and `report`, which may be
/// NULL, is filled where it is finished. A job that was not begun, or is between two slices, has no end to wait for: that is
/// `SFTMIX_STATUS_MISUSE`, and `*ended` is false. From any thread, but no callback of the job.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_wait(
    job: *mut sftmix_job,
    timeout_ms: i64,
    ended: *mut bool,
    report: *mut sftmix_report,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let job = table::get::<Job>(job)?;
        if ended.is_null() && timeout_ms >= 0 {
            return Err(Fail::argument("ended", "it is NULL, and timeout_ms is a limit"));
        }
        let mut unasked = false;
        let ended = ended.as_mut().unwrap_or(&mut unasked);
        *ended = false;
        checked(report)?;
        job.told.inside.refuse("waits for the job")?;
        if let Some(result) = outcome(&job.job, timeout(timeout_ms)) {
            // It may be told that it waits for itself, or for nothing.
            *ended = !matches!(result, Err(sftmix::Error::Misuse(_)));
            report::fill(report, &result?)?;
        }
        Ok(())
    })
}

/// How the job ended; `None` while it goes on.
fn outcome(job: &TrainingJob, timeout: Duration) -> Option<sftmix::Result<TrainReport>> {
    let waited = job.wait_for(timeout);
    if waited.is_some() || !job.is_finished() {
        return waited;
    }
    // It ended since, or there is nothing under way.
    let idle = || Err(sftmix::Error::Misuse("the job is not running, and it has not come to an end".into()));
    Some(job.wait_for(Duration::ZERO).unwrap_or_else(idle))
}

/// Frees the job. One that runs is stopped behind a checkpoint and waited for; no callback is called afterwards, and calls
/// of other threads that hold it begin nothing any more. NULL is fine. From any thread, but no callback of the job: there,
/// and in a log callback on one of its threads, it is `SFTMIX_STATUS_MISUSE`, and the job goes on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_free(job: *mut sftmix_job) -> sftmix_status {
    guard(|| {
        if job.is_null() {
            return Ok(());
        }
        let held = table::get::<Job>(job)?;
        held.told.inside.refuse("frees the job")?;
        // Before the handle goes: where it is refused, the job can still be steered.
        held.job.close()?;
        table::take::<Job>(job).map(drop)
    })
}
