//! The report of a finished run.

use std::ffi::c_char;

use sftmix::TrainReport;

use crate::border::{self, given_out, json, take_all_back, Sized};
use crate::fault::Result;

/// What a finished run says. Set up by `sftmix_report_init`; what a call has filled is freed by `sftmix_report_free`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sftmix_report {
    /// Bytes of the structure, set by `sftmix_report_init`.
    pub struct_size: usize,
    /// The run folder.
    pub run: *mut c_char,
    /// The adapter's folder.
    pub adapter: *mut c_char,
    /// The whole report as JSON, in the words of `sftmix train --json`.
    pub json: *mut c_char,
    /// Optimizer steps of all stages.
    pub steps: u64,
    /// Mean loss of the final stage, nats a token.
    pub train_loss: f64,
    /// Held-out loss of the untouched base; NaN without held-out rows.
    pub base_eval_loss: f64,
    /// Held-out loss of the adapter; NaN without held-out rows.
    pub eval_loss: f64,
    /// The lowest held-out loss; NaN where none counts.
    pub best_eval_loss: f64,
    /// Steps that were done then.
    pub best_step: u64,
    /// Examples trained on.
    pub examples: u64,
    /// Rows that lost their tail to the limit of length.
    pub rows_cut: u64,
    /// Rows that gave no example.
    pub rows_dropped: u64,
    /// Seconds over all resumptions.
    pub seconds: f64,
    /// Peak anonymous memory of the process, bytes.
    pub peak_anonymous_bytes: u64,
    /// Whether the held-out loss no longer improved.
    pub stopped_early: bool,
    /// Rows that are no examples and were left out, as `bad_rows` allows; run.json has the reasons.
    pub rows_skipped: u64,
}

impl Sized for sftmix_report {
    const NAME: &'static str = "sftmix_report";

    fn unset() -> Self {
        let none = std::ptr::null_mut();
        sftmix_report {
            struct_size: std::mem::size_of::<Self>(),
            run: none,
            adapter: none,
            json: none,
            steps: 0,
            train_loss: f64::NAN,
            base_eval_loss: f64::NAN,
            eval_loss: f64::NAN,
            best_eval_loss: f64::NAN,
            best_step: 0,
            examples: 0,
            rows_cut: 0,
            rows_dropped: 0,
            seconds: 0.0,
            peak_anonymous_bytes: 0,
            stopped_early: false,
            rows_skipped: 0,
        }
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.struct_size
    }

    unsafe fn free(&mut self) {
        // SAFETY: passed on.
        unsafe { take_all_back([&mut self.run, &mut self.adapter, &mut self.json]) };
    }
}

/// Sets up a structure of which the caller has so many bytes: `sftmix_report_init` says how many. NULL is left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_report_init_sized(report: *mut sftmix_report, size: usize) {
    // SAFETY: it is NULL or the caller's.
    unsafe { border::init(report, size) };
}

/// Frees the texts of a report and sets them to NULL; again, or with NULL, does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_report_free(report: *mut sftmix_report) {
    // SAFETY: it is NULL or the caller's, and its texts are from here.
    unsafe { border::release(report) };
}

/// Fills a report, unless there is no place for it.
///
/// # Safety
/// It is NULL or the caller's.
pub unsafe fn fill(out: *mut sftmix_report, r: &TrainReport) -> Result<()> {
    if out.is_null() {
        return Ok(());
    }
    let number = |n: Option<f64>| n.unwrap_or(f64::NAN);
    let value = sftmix_report {
        run: given_out(&r.run.to_string_lossy()),
        adapter: given_out(&r.adapter.to_string_lossy()),
        json: given_out(&json(r)?),
        steps: r.steps,
        train_loss: r.train_loss,
        base_eval_loss: number(r.base_eval_loss),
        eval_loss: number(r.eval_loss),
        best_eval_loss: number(r.best_eval_loss),
        best_step: r.best_step.unwrap_or(0),
        examples: r.examples,
        rows_cut: r.rows_cut,
        rows_dropped: r.rows_dropped,
        seconds: r.seconds,
        peak_anonymous_bytes: r.peak_anonymous_bytes,
        stopped_early: r.stopped_early,
        rows_skipped: r.rows_skipped,
        ..Sized::unset()
    };
    // SAFETY: passed on.
    unsafe { border::fill(out, value) }
}
