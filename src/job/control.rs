//! A job, steered from other threads: pause, stop, limits that hold from the next micro-batch on, and what it is at.

use std::cell::Cell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::event::Event;
use super::feed::{Feed, NumberedEvent};
use super::limits::Limits;
use super::status::{JobState, JobStatus};
use crate::error::{Error, Result};
use crate::run::RunFolder;
use crate::stop::StopHandle;

thread_local! {
    /// The job whose work or listener this thread runs, by the address of what steers it; 0 is none.
    static INSIDE: Cell<usize> = const { Cell::new(0) };
}

/// Where a job may be held up or stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Rows are handed over; what was given cannot be asked for again.
    HandedRows,
    /// Rows become tokens; what is whole stays.
    Rows,
    /// Before a micro-batch of a step; a step counts when it is whole.
    Step,
    /// Behind a batch of a sweep, which is in the log.
    Sweep,
    /// Behind a batch of an evaluation, which begins anew.
    Evaluation,
}

/// Longest time until a job that waits looks whether it is to stop.
const NAP: Duration = Duration::from_millis(20);

/// Steers a job; every clone steers the same one, from any thread.
#[derive(Clone, Debug, Default)]
pub struct JobControl {
    stop: StopHandle,
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    shared: Mutex<Shared>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Shared {
    status: JobStatus,
    running: bool,
    pause: bool,
    /// A stop leaves no checkpoint.
    discard: bool,
    /// What was asked for and is not in force yet.
    asked: Option<Limits>,
    /// The least bytes that the run can go on with, once it is known.
    least_memory: Option<u64>,
    deadline: Option<Instant>,
    /// A slice has done something that the next need not do again.
    progressed: bool,
    /// The stop was the deadline's.
    expired: bool,
    /// When the last micro-batch was let go.
    released: Option<Instant>,
    feed: Feed,
}

impl JobControl {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.inner.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it is at; answers at once, whatever the job does.
    pub fn status(&self) -> JobStatus {
        self.lock().status.clone()
    }

    /// The handle that asks it to stop behind a checkpoint.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Asks it to wait. It finishes its micro-batch and writes a checkpoint, so that a process that is ended meanwhile
    /// loses nothing; memory stays held.
    pub fn pause(&self) {
        let mut shared = self.lock();
        shared.pause = true;
        if shared.status.state == JobState::Running {
            shared.status.state = JobState::Pausing;
        }
        self.inner.changed.notify_all();
    }

    /// Lets it go on after a pause.
    pub fn resume(&self) {
        let mut shared = self.lock();
        shared.pause = false;
        if matches!(shared.status.state, JobState::Pausing | JobState::Paused) {
            shared.status.state = JobState::Running;
        }
        self.inner.changed.notify_all();
    }

    /// Asks it to stop within a micro-batch: behind a checkpoint of its last whole step, or with `save` false at the
    /// newest one that is there. It can be taken up either way.
    pub fn cancel(&self, save: bool) {
        let mut shared = self.lock();
        shared.discard = !save;
        if shared.running && shared.status.state != JobState::Idle {
            shared.status.state = JobState::Stopping;
        }
        self.stop.stop();
        self.inner.changed.notify_all();
    }

    /// Changes what it may take of the machine, from the next micro-batch on; before it runs, from its first.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names what is out of range; [`Error::MemoryLimit`] when the run cannot go on in so
    /// little, with the bytes that it needs. Nothing is changed then.
    pub fn update(&self, limits: Limits) -> Result<()> {
        if let Some(n) = limits.threads.filter(|n| !(1..=1024).contains(n)) {
            return Err(Error::config("threads", format!("expected 1 to 1024, found {n}")));
        }
        if let Some(d) = limits.duty_cycle.filter(|d| !(*d > 0.0 && *d <= 1.0)) {
            return Err(Error::config("duty_cycle", format!("expected more than 0 and at most 1, found {d}")));
        }
        let mut shared = self.lock();
        if let (Some(limit), Some(needed)) = (limits.memory_limit, shared.least_memory) {
            if limit < needed {
                return Err(Error::MemoryLimit { limit, needed, savings: Vec::new() });
            }
        }
        let before = shared.asked.unwrap_or_default();
        shared.asked = Some(Limits {
            threads: limits.threads.or(before.threads),
            duty_cycle: limits.duty_cycle.or(before.duty_cycle),
            memory_limit: limits.memory_limit.or(before.memory_limit),
        });
        if let Some(duty) = limits.duty_cycle {
            // A rest that is being taken ends by it, too.
            shared.status.limits.duty_cycle = Some(duty);
        }
        self.inner.changed.notify_all();
        Ok(())
    }

    /// The next event that was not acknowledged: the same one until it is. Waits up to `timeout` for one; `None` where
    /// none came, or the job is not running and every event of it was acknowledged. Steps and evaluations come in full
    /// number, also those of before a crash that nobody acknowledged; of sweeps and checkpoints the newest comes.
    ///
    /// # Errors
    /// When `metrics.jsonl`, where they are kept, cannot be read.
    pub fn next_event(&self, timeout: Duration) -> Result<Option<NumberedEvent>> {
        // Who works for the job would wait for itself.
        let timeout = if self.is_inside() { Duration::ZERO } else { timeout };
        let until = Instant::now().checked_add(timeout);
        let mut shared = self.lock();
        loop {
            if let Some(event) = shared.feed.next()? {
                return Ok(Some(event));
            }
            let left = until.map_or(Duration::MAX, |u| u.saturating_duration_since(Instant::now()));
            if !shared.running || left.is_zero() {
                return Ok(None);
            }
            let nap = left.min(Duration::from_secs(60));
            shared = self.inner.changed.wait_timeout(shared, nap).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Says that an event was dealt with: the next comes, and this one not again, also not after a crash.
    ///
    /// # Errors
    /// [`Error::Misuse`] when no event of this number was given out.
    pub fn acknowledge(&self, number: u64) -> Result<()> {
        self.lock().feed.acknowledge(number)
    }
}

/// The job's own side.
impl JobControl {
    /// Begins an attempt; one that goes on after an earlier one forgets how that was stopped.
    ///
    /// # Errors
    /// [`Error::Misuse`] while another runs.
    pub(super) fn begin(&self, again: bool, slice: Option<Duration>) -> Result<()> {
        let mut shared = self.lock();
        if shared.running {
            return Err(Error::Misuse("the job is running".into()));
        }
        if again {
            self.stop.reset();
        }
        shared.running = true;
        (shared.expired, shared.progressed) = (false, false);
        shared.deadline = slice.and_then(|s| Instant::now().checked_add(s));
        shared.released = None;
        shared.status.state = JobState::Preparing;
        Ok(())
    }

    pub(super) fn end(&self, state: JobState) {
        let mut shared = self.lock();
        // A pause that is asked for between two attempts holds the next.
        (shared.running, shared.pause, shared.discard) = (false, false, false);
        shared.least_memory = None;
        shared.status.state = state;
        self.inner.changed.notify_all();
    }

    pub(super) fn is_running(&self) -> bool {
        self.lock().running
    }

    /// Whether the time of the slice was up, rather than somebody asking for a stop.
    pub(super) fn expired(&self) -> bool {
        self.lock().expired
    }

    pub(super) fn discards(&self) -> bool {
        self.lock().discard
    }

    pub(super) fn is_pausing(&self) -> bool {
        self.lock().pause && !self.stop.is_stopped()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_stopped()
    }

    pub(super) fn stop(&self) {
        self.cancel(true);
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

    /// Between two micro-batches: waits while it is paused, rests for the duty cycle, and says whether to stop. The time of
    /// a slice is not up before there is progress that the next need not make again: else short slices would have no end.
    pub(super) fn gate(&self, at: Gate) -> bool {
        let mut shared = self.lock();
        let worked = shared.released.map_or(Duration::ZERO, |t| t.elapsed());
        let arrived = Instant::now();
        loop {
            let may_end = match at {
                Gate::Rows | Gate::Sweep => true,
                Gate::Step => shared.progressed,
                Gate::HandedRows | Gate::Evaluation => false,
            };
            if may_end && shared.deadline.is_some_and(|d| d <= Instant::now()) && !self.stop.is_stopped() {
                shared.expired = true;
                self.stop.stop();
            }
            if self.stop.is_stopped() {
                return true;
            }
            let duty = shared.status.limits.duty_cycle.unwrap_or(1.0);
            let rest = worked.mul_f64((1.0 / duty - 1.0).min(1e6));
            let left = rest.saturating_sub(arrived.elapsed());
            if !shared.pause && left.is_zero() {
                break;
            }
            if shared.pause && shared.status.state != JobState::Paused {
                shared.status.state = JobState::Paused;
                self.inner.changed.notify_all();
            }
            let nap = if shared.pause || left.is_zero() { NAP } else { left.min(NAP) };
            shared = self.inner.changed.wait_timeout(shared, nap).unwrap_or_else(PoisonError::into_inner).0;
        }
        if shared.status.state == JobState::Paused {
            shared.status.state = JobState::Running;
        }
        shared.released = Some(Instant::now());
        false
    }

    /// Limits that were asked for since the last look.
    pub(super) fn take_limits(&self) -> Option<Limits> {
        self.lock().asked.take()
    }

    /// What is in force from now on.
    pub(super) fn limits_are(&self, limits: Limits) {
        self.lock().status.limits = limits;
    }

    pub(super) fn least_memory_is(&self, bytes: u64) {
        self.lock().least_memory = Some(bytes);
    }

    /// `metrics.jsonl` stands at so many bytes as the job begins to write.
    pub(super) fn writes_to(&self, folder: &RunFolder, bytes: u64) {
        self.lock().feed.writes_to(folder, bytes);
    }

    /// An event happened; those that stand in `metrics.jsonl` are written by now, up to `bytes`.
    pub(super) fn told(&self, event: &Event, bytes: u64) {
        let mut shared = self.lock();
        shared.progressed |= matches!(event, Event::Step(_) | Event::Sweep { .. });
        shared.status.tell(event);
        shared.feed.tell(event, bytes);
        self.inner.changed.notify_all();
    }
}

/// A thread that works for a job.
pub(super) struct Inside(usize);

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.0);
    }
}
