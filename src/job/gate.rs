//! The job's own side of its controls: where it may be held up or stopped, and what it says of itself.

use std::cell::Cell;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::control::{lock, JobControl};
use super::event::Event;
use super::limits::Limits;
use super::status::JobState;
use crate::error::{Error, Result};
use crate::run::{RunFolder, TrainReport};

thread_local! {
    /// The job whose work or listener this thread runs, by the address of what steers it; 0 is none.
    static INSIDE: Cell<usize> = const { Cell::new(0) };
}

/// Where a job may be held up or stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Rows become tokens; what was made stays, where anything was.
    Rows {
        /// Since the attempt began.
        made: bool,
    },
    /// Before a micro-batch of a step; a step counts when it is whole.
    Step,
    /// Behind a batch of a sweep, which is in the log.
    Sweep,
    /// Behind a batch of an evaluation, which another attempt begins anew.
    Evaluation,
}

/// What a job is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The next micro-batch.
    Go,
    /// To come to an end.
    Stop,
    /// Something between two micro-batches, and then to ask again: limits are to be put into force, or what was done is
    /// to be saved before a pause.
    Tend,
}

/// Longest time until a job that waits looks whether it is to stop.
const NAP: Duration = Duration::from_millis(20);

impl JobControl {
    /// Begins an attempt. One that follows an end forgets how that was stopped; one that follows a slice does not, since
    /// nobody has seen what was asked for since.
    ///
    /// # Errors
    /// [`Error::Misuse`] while another runs.
    pub(super) fn begin(&self, slice: Option<Duration>) -> Result<()> {
        let mut shared = lock(&self.inner.shared);
        if shared.running {
            return Err(Error::Misuse("the job is running".into()));
        }
        if shared.closed {
            return Err(Error::Misuse("the job was closed".into()));
        }
        if shared.ended != JobState::Idle {
            self.stop.reset();
            shared.discard = false;
        }
        (shared.running, shared.prepared) = (true, false);
        (shared.expired, shared.progressed) = (false, false);
        shared.deadline = slice.and_then(|s| Instant::now().checked_add(s));
        (shared.released, shared.arrived, shared.paused) = (None, None, Duration::ZERO);
        // The attempt opens with the run's own; what was in force is asked for again.
        let had = shared.status.limits;
        if had != Limits::default() {
            shared.asked = Some(shared.asked.unwrap_or_default().over(had));
        }
        Ok(())
    }

    /// Ends an attempt, and says whether it was a slice whose time was up. A pause holds the next slice, too.
    pub(super) fn end(&self, result: &Result<TrainReport>) -> bool {
        let mut shared = lock(&self.inner.shared);
        shared.ended = match result {
            Ok(_) => JobState::Done,
            // Somebody else may have asked for a stop meanwhile: that is no end of a slice.
            Err(Error::Stopped { .. }) if shared.expired && !self.stop.is_stopped() => JobState::Idle,
            Err(Error::Stopped { .. }) => JobState::Cancelled,
            Err(_) => JobState::Failed,
        };
        let slice = shared.ended == JobState::Idle;
        shared.running = false;
        shared.pause &= slice;
        shared.held = None;
        shared.least_memory = None;
        drop(shared);
        self.inner.changed.notify_all();
        slice
    }

    pub(super) fn is_running(&self) -> bool {
        lock(&self.inner.shared).running
    }

    /// Whether a stop leaves no checkpoint. The end of a slice does.
    pub(super) fn discards(&self) -> bool {
        lock(&self.inner.shared).discard && self.stop.is_stopped()
    }

    pub(super) fn is_pausing(&self) -> bool {
        lock(&self.inner.shared).pause && !self.is_stopped()
    }

    /// Whether somebody asked for a stop, or the time of the slice is up.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_stopped() || lock(&self.inner.shared).expired
    }

    /// Asks for a stop, with a checkpoint or without as was said before.
    pub(super) fn stop(&self) {
        self.stop.stop();
        self.inner.changed.notify_all();
    }

    /// Asks for a stop for good.
    pub(super) fn close(&self) {
        lock(&self.inner.shared).closed = true;
        self.stop();
    }

    /// How long the attempt has been paused.
    pub(super) fn paused(&self) -> Duration {
        lock(&self.inner.shared).paused
    }

    /// This thread works for the job until the guard is dropped.
    pub(super) fn enter(&self) -> Inside {
        Inside(INSIDE.replace(self.identity()))
    }

    /// Whether this thread works for the job: then it cannot wait for its end.
    pub(super) fn is_inside(&self) -> bool {
        INSIDE.get() == self.identity()
    }

    fn identity(&self) -> usize {
        Arc::as_ptr(&self.inner) as usize
    }

    /// Between two micro-batches: waits while it is paused, rests for the duty cycle, and says what to do. `unsaved` is
    /// whether a process that ends now would lose something. The time of a slice is not up before there is progress that
    /// the next need not make again, else short slices would have no end; in a pause there is none to wait for.
    pub(super) fn gate(&self, at: Gate, unsaved: bool) -> Turn {
        let mut shared = lock(&self.inner.shared);
        let now = Instant::now();
        let worked = shared.released.take().map_or(Duration::ZERO, |t| now - t);
        let (arrived, worked) = *shared.arrived.get_or_insert((now, worked));
        let turn = loop {
            let may_end = match at {
                Gate::Rows { made } => made || shared.pause,
                Gate::Sweep => true,
                Gate::Step => shared.progressed || shared.pause,
                Gate::Evaluation => shared.pause,
            };
            if may_end && shared.deadline.is_some_and(|d| d <= Instant::now()) {
                shared.expired = true;
            }
            if self.stop.is_stopped() || shared.expired {
                break Turn::Stop;
            }
            if shared.asked.is_some() && !matches!(at, Gate::Rows { .. }) || shared.pause && unsaved {
                break Turn::Tend;
            }
            let duty = shared.status.limits.duty_cycle.unwrap_or(1.0);
            let rest = worked.mul_f64((1.0 / duty - 1.0).min(1e6)).saturating_sub(arrived.elapsed());
            if shared.pause && shared.held.is_none() {
                shared.held = Some(Instant::now());
                self.inner.changed.notify_all();
            } else if !shared.pause {
                shared.goes_on();
                if rest.is_zero() {
                    (shared.released, shared.arrived) = (Some(Instant::now()), None);
                    break Turn::Go;
                }
            }
            let nap = if shared.pause { NAP } else { rest.min(NAP) };
            shared = self.inner.changed.wait_timeout(shared, nap).unwrap_or_else(PoisonError::into_inner).0;
        };
        shared.goes_on();
        turn
    }

    /// Limits that were asked for since the last look.
    pub(super) fn take_limits(&self) -> Option<Limits> {
        lock(&self.inner.shared).asked.take()
    }

    /// What is in force from now on.
    pub(super) fn limits_are(&self, limits: Limits) {
        lock(&self.inner.shared).status.limits = limits;
    }

    pub(super) fn least_memory_is(&self, bytes: u64) {
        lock(&self.inner.shared).least_memory = Some(bytes);
    }

    /// `metrics.jsonl` stands at so many bytes as the job begins to write, or as a finished run left it.
    pub(super) fn writes_to(&self, folder: &RunFolder, bytes: u64) {
        lock(&self.inner.feed).writes_to(folder, bytes);
    }

    /// An event happened; those that stand in `metrics.jsonl` are written by now, up to `bytes`.
    pub(super) fn told(&self, event: &Event, bytes: u64) {
        lock(&self.inner.feed).tell(event, bytes);
        let mut shared = lock(&self.inner.shared);
        shared.prepared |= matches!(event, Event::Prepared(_));
        shared.progressed |= matches!(event, Event::Step(_) | Event::Sweep { .. });
        shared.status.tell(event);
        shared.told += 1;
        drop(shared);
        self.inner.changed.notify_all();
    }
}

impl super::control::Shared {
    /// The end of a pause.
    fn goes_on(&mut self) {
        if let Some(since) = self.held.take() {
            self.paused += since.elapsed();
        }
    }
}

/// A thread that works for a job.
pub(super) struct Inside(usize);

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.0);
    }
}
