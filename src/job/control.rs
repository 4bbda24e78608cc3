//! A job, steered from other threads: pause, stop, limits that hold from the next micro-batch on, and what it is at.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::feed::{Feed, NumberedEvent};
use super::limits::Limits;
use super::status::{JobState, JobStatus};
use crate::error::{Error, Result};
use crate::stop::StopHandle;

/// Steers a job; every clone steers the same one, from any thread.
#[derive(Clone, Debug, Default)]
pub struct JobControl {
    pub(super) stop: StopHandle,
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub shared: Mutex<Shared>,
    pub changed: Condvar,
    /// Has a lock of its own: it reads a file, and nobody who asks what the job is at waits for that.
    pub feed: Mutex<Feed>,
}

/// What is asked of a job, and what it says of itself. The state is worked out from these when somebody asks.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub status: JobStatus,
    /// What the last attempt ended as; idle before the first and between slices.
    pub ended: JobState,
    pub running: bool,
    /// Nothing is begun any more.
    pub closed: bool,
    /// Rows and model are open.
    pub prepared: bool,
    /// Somebody asked it to wait.
    pub pause: bool,
    /// It does wait, since then.
    pub held: Option<Instant>,
    /// How long it has waited in this attempt.
    pub paused: Duration,
    /// A stop leaves no checkpoint.
    pub discard: bool,
    /// What was asked for and is not in force yet.
    pub asked: Option<Limits>,
    /// The least bytes that the run can go on with, once it is known.
    pub least_memory: Option<u64>,
    /// The end of a slice, and whether it has come.
    pub deadline: Option<Instant>,
    pub expired: bool,
    /// A slice has done something that the next need not do again.
    pub progressed: bool,
    /// When the last micro-batch was let go.
    pub released: Option<Instant>,
    /// When the next came to the gate, and how long the work before had taken: what it rests for.
    pub arrived: Option<(Instant, Duration)>,
    /// Events so far: who waits for one sees that there is another.
    pub told: u64,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl JobControl {
    /// What it is at; answers at once, whatever the job does.
    pub fn status(&self) -> JobStatus {
        let shared = lock(&self.inner.shared);
        let state = match &*shared {
            Shared { running: false, ended, .. } => *ended,
            Shared { expired, .. } if *expired || self.stop.is_stopped() => JobState::Stopping,
            Shared { held: Some(_), .. } => JobState::Paused,
            Shared { pause: true, .. } => JobState::Pausing,
            Shared { prepared: false, .. } => JobState::Preparing,
            _ => JobState::Running,
        };
        JobStatus { state, ..shared.status.clone() }
    }

    /// The handle that asks it to stop behind a checkpoint.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Asks it to wait. It finishes its micro-batch and writes a checkpoint, so that a process that is ended meanwhile
    /// loses nothing; memory stays held. Asked for before it runs, or between two slices, it holds what comes next; the
    /// time of a slice goes on.
    pub fn pause(&self) {
        lock(&self.inner.shared).pause = true;
        self.inner.changed.notify_all();
    }

    /// Lets it go on after a pause.
    pub fn resume(&self) {
        lock(&self.inner.shared).pause = false;
        self.inner.changed.notify_all();
    }

    /// Asks it to stop within a micro-batch: behind a checkpoint of its last whole step, or with `save` false at the
    /// newest one that is there. It can be taken up either way. Asked for before it runs, or between two slices, it stops
    /// what comes next; of a job that has ended it asks nothing.
    pub fn cancel(&self, save: bool) {
        let mut shared = lock(&self.inner.shared);
        shared.discard = !save;
        self.stop.stop();
        drop(shared);
        self.inner.changed.notify_all();
    }

    /// Changes what it may take of the machine, from the next micro-batch on; before it runs, from its first. It holds
    /// for later attempts and slices, too.
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
        let mut shared = lock(&self.inner.shared);
        if let (Some(limit), Some(needed)) = (limits.memory_limit, shared.least_memory) {
            if limit < needed {
                return Err(Error::MemoryLimit { limit, needed, savings: Vec::new() });
            }
        }
        shared.asked = Some(limits.over(shared.asked.unwrap_or_default()));
        drop(shared);
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
        loop {
            let (told, running) = {
                let shared = lock(&self.inner.shared);
                (shared.told, shared.running)
            };
            if let Some(event) = lock(&self.inner.feed).next()? {
                return Ok(Some(event));
            }
            let mut shared = lock(&self.inner.shared);
            loop {
                let left = until.map_or(Duration::MAX, |u| u.saturating_duration_since(Instant::now()));
                if !running || left.is_zero() {
                    return Ok(None);
                }
                if shared.told != told || !shared.running {
                    break;
                }
                let nap = left.min(Duration::from_secs(60));
                shared = self.inner.changed.wait_timeout(shared, nap).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    /// Says that an event was dealt with: the next comes, and this one not again, also not after a crash.
    ///
    /// # Errors
    /// [`Error::Misuse`] when no event of this number was given out.
    pub fn acknowledge(&self, number: u64) -> Result<()> {
        lock(&self.inner.feed).acknowledge(number)
    }
}
