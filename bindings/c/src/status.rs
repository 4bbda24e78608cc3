//! What a job is at, and what it may take of the machine.

use sftmix::{JobState, JobStatus, Limits};

use crate::border::{self, Sized, SFTMIX_UNSET};
use crate::event::{sftmix_stage, stage_of};
use crate::fault::Result;
use crate::given::{count, real, threads};

/// What a job is at.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum sftmix_job_state {
    /// Not begun, or between two slices.
    Idle = 0,
    /// It reads rows and opens the model.
    Preparing = 1,
    /// It computes.
    Running = 2,
    /// It was asked to pause and finishes a micro-batch and a checkpoint.
    Pausing = 3,
    /// It waits, with what it has done on disk.
    Paused = 4,
    /// It was asked to stop and finishes a micro-batch and a checkpoint.
    Stopping = 5,
    /// It has ended with an adapter.
    Done = 6,
    /// It was stopped; it can be taken up.
    Cancelled = 7,
    /// It has ended with an error.
    Failed = 8,
    /// One that this interface has no number for.
    Other = 99,
}

/// What a job may take of the machine. `sftmix_limits_init` sets nothing, and what is not set stays as it is. It lies by
/// value in `sftmix_event` and `sftmix_job_info`, so it stays as it is for as long as the library's soname does.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sftmix_limits {
    /// Bytes of the structure, set by `sftmix_limits_init`.
    pub struct_size: usize,
    /// Worker threads, 1 to 1024; `SFTMIX_UNSET`.
    pub threads: i64,
    /// Share of the time in which it computes, more than 0 and at most 1; NaN.
    pub duty_cycle: f64,
    /// Bytes that the library may hold; `SFTMIX_UNSET`.
    pub memory_limit: i64,
}

impl Sized for sftmix_limits {
    const NAME: &'static str = "sftmix_limits";

    fn unset() -> Self {
        sftmix_limits {
            struct_size: std::mem::size_of::<Self>(),
            threads: SFTMIX_UNSET,
            duty_cycle: f64::NAN,
            memory_limit: SFTMIX_UNSET,
        }
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.struct_size
    }
}

/// Sets nothing, in a structure of which the caller has so many bytes: `sftmix_limits_init` says how many. NULL is left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_limits_init_sized(limits: *mut sftmix_limits, size: usize) {
    // SAFETY: it is NULL or the caller's.
    unsafe { border::init(limits, size) };
}

/// Limits as the caller gave them.
///
/// # Safety
/// It is NULL or the caller's.
pub unsafe fn limits_in(p: *const sftmix_limits) -> Result<Limits> {
    // SAFETY: passed on.
    let l = unsafe { border::read(p)? };
    Ok(Limits {
        threads: threads(l.threads)?,
        duty_cycle: real(l.duty_cycle),
        memory_limit: count(l.memory_limit, "memory_limit")?,
    })
}

/// Limits as a structure.
pub fn limits_out(l: &Limits) -> sftmix_limits {
    let number = |n: Option<u64>| n.map_or(SFTMIX_UNSET, |n| n as i64);
    sftmix_limits {
        threads: number(l.threads.map(|n| n as u64)),
        duty_cycle: l.duty_cycle.unwrap_or(f64::NAN),
        memory_limit: number(l.memory_limit),
        ..Sized::unset()
    }
}

/// A job at a glance. Set up by `sftmix_job_info_init`; holds nothing that must be freed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sftmix_job_info {
    /// Bytes of the structure, set by `sftmix_job_info_init`.
    pub struct_size: usize,
    /// What it is at.
    pub state: sftmix_job_state,
    /// Part of the run.
    pub stage: sftmix_stage,
    /// Steps done in all stages.
    pub global_step: u64,
    /// Steps of all stages; 0 until it is known.
    pub total_steps: u64,
    /// Epochs done in the stage.
    pub epoch: f64,
    /// Loss of the last step, nats a token; NaN before one.
    pub loss: f64,
    /// Held-out loss of the last evaluation; NaN before one.
    pub eval_loss: f64,
    /// Tokens a second of the last step.
    pub tokens_per_second: f64,
    /// Seconds over all resumptions, at the last step.
    pub elapsed_seconds: f64,
    /// Seconds that the rest was expected to take; NaN before a step.
    pub eta_seconds: f64,
    /// Peak anonymous memory, bytes.
    pub peak_anonymous_bytes: u64,
    /// Limits that are in force beside the settings.
    pub limits: sftmix_limits,
}

impl Sized for sftmix_job_info {
    const NAME: &'static str = "sftmix_job_info";

    fn unset() -> Self {
        info_out(&JobStatus::default())
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.struct_size
    }
}

/// Sets up a structure of which the caller has so many bytes: `sftmix_job_info_init` says how many. NULL is left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_info_init_sized(info: *mut sftmix_job_info, size: usize) {
    // SAFETY: it is NULL or the caller's.
    unsafe { border::init(info, size) };
}

/// A status as a structure.
pub fn info_out(s: &JobStatus) -> sftmix_job_info {
    use sftmix_job_state as S;
    let number = |n: Option<f64>| n.unwrap_or(f64::NAN);
    sftmix_job_info {
        struct_size: std::mem::size_of::<sftmix_job_info>(),
        state: match s.state {
            JobState::Idle => S::Idle,
            JobState::Preparing => S::Preparing,
            JobState::Running => S::Running,
            JobState::Pausing => S::Pausing,
            JobState::Paused => S::Paused,
            JobState::Stopping => S::Stopping,
            JobState::Done => S::Done,
            JobState::Cancelled => S::Cancelled,
            JobState::Failed => S::Failed,
            // The enum may grow before this file does.
            _ => S::Other,
        },
        stage: stage_of(&s.stage),
        global_step: s.global_step,
        total_steps: s.total_steps,
        epoch: s.epoch,
        loss: number(s.loss),
        eval_loss: number(s.eval_loss),
        tokens_per_second: s.tokens_per_second,
        elapsed_seconds: s.elapsed_seconds,
        eta_seconds: number(s.eta_seconds),
        peak_anonymous_bytes: s.peak_anonymous_bytes,
        limits: limits_out(&s.limits),
    }
}
