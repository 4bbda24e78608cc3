//! Training as a job: settings in, events out, a stop that leaves a checkpoint, a resume that gives the
//! bits of an uninterrupted run.

mod attempt;
mod control;
mod event;
mod feed;
mod gate;
mod limits;
mod listener;
mod rows;
mod runner;
mod slice;
mod status;

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

pub use control::JobControl;
pub use event::{Control, EvaluatedEvent, Event, Prepared, StepEvent};
pub use feed::NumberedEvent;
pub use limits::Limits;
pub use listener::Listener;
pub use rows::RowSource;
pub use slice::Slice;
pub use status::{JobState, JobStatus};

use crate::base::Model;
use crate::config::{DataSource, DataSources, TrainConfig};
use crate::error::{Error, Result};
use crate::run::{RunFile, RunFolder, TrainReport};
use crate::stop::StopHandle;
use attempt::{found, Inner, Next};
use control::lock;

/// A run: set up, then run on this thread or on one of its own, in one go or in slices, steered from any thread.
///
/// ```no_run
/// # fn main() -> sftmix::Result<()> {
/// use std::time::Duration;
/// use sftmix::{Event, TrainConfig, TrainingJob};
/// let config = TrainConfig { model: "model".into(), data: "rows.jsonl".into(), out: "run".into(), ..Default::default() };
/// let job = TrainingJob::new(config)?;
/// job.start()?;
/// while let Some(event) = job.control().next_event(Duration::MAX)? {
///     if let Event::Step(step) = &event.event {
///         println!("{} of {}: {:.3}", step.global_step, step.total_steps, step.loss);
///     }
///     job.control().acknowledge(event.number)?;
/// }
/// println!("{}", job.wait()?.adapter.display());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TrainingJob {
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl TrainingJob {
    /// A new run in a folder that holds none.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names a bad setting; [`Error::Checkpoint`] when the folder holds a run.
    pub fn new(config: TrainConfig) -> Result<TrainingJob> {
        let config = config.with_data_files()?;
        // As they were said, for the messages; and as they are recorded.
        config.paths_are_text()?;
        config.validate()?;
        let config = config.with_model_found()?.absolute();
        config.paths_are_text()?;
        runner::empty(&config)?;
        Ok(TrainingJob::of(config, false, None))
    }

    /// A new run on a model that is open, whose map it shares; the one that `config` names is not looked at.
    ///
    /// # Errors
    /// As [`TrainingJob::new`].
    pub fn on(model: &Model, config: TrainConfig) -> Result<TrainingJob> {
        let job = TrainingJob::new(TrainConfig { model: model.path().to_path_buf(), ..config })?;
        lock(&job.inner.next).model = Some(model.clone());
        Ok(job)
    }

    /// A new run on rows that are handed over one by one, each a JSON object as text. When the job begins they are
    /// written through to `rows.jsonl` of the run folder; `config` names no data.
    ///
    /// # Errors
    /// As [`TrainingJob::new`]; [`Error::InvalidConfig`] where `config` names data.
    pub fn with_rows(config: TrainConfig, rows: RowSource) -> Result<TrainingJob> {
        if !config.data.0.is_empty() {
            return Err(Error::config("data", "expected none where rows are handed over"));
        }
        let path = RunFolder::new(&config.out).rows();
        let data = DataSources(vec![DataSource { path, weight: 1.0 }]);
        let job = TrainingJob::new(TrainConfig { data, ..config })?;
        lock(&job.inner.next).rows = Some(rows);
        Ok(job)
    }

    /// The run in `out`, to be taken up where its newest whole checkpoint stands. Its settings come from the folder;
    /// `given` holds those that are given now, by field name of [`TrainConfig`]: inputs may lie elsewhere, with the same
    /// contents, and device, memory limits and cache folder may be others. Where no run is there yet it is begun from
    /// `given` over the defaults.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names a setting that contradicts the run's, with both values.
    pub fn resume(out: &Path, given: &Map<String, Value>) -> Result<TrainingJob> {
        let (config, known) = found(out, given)?;
        if known.is_none() {
            runner::empty(&config)?;
        }
        Ok(TrainingJob::of(config, true, known))
    }

    fn of(config: TrainConfig, resume: bool, known: Option<Box<RunFile>>) -> TrainingJob {
        let next = Next { model: None, resume, known, again: false, rows: None, spooled: false, listener: None };
        let inner = Inner {
            config,
            control: JobControl::default(),
            next: Mutex::new(next),
            outcome: Mutex::default(),
            ended: Condvar::new(),
        };
        TrainingJob { inner: Arc::new(inner), thread: Mutex::default() }
    }

    /// Goes on with a model that is open, whose map it shares, in place of opening the one that the settings name. It must
    /// have the same contents.
    #[must_use]
    pub fn sharing(self, model: &Model) -> TrainingJob {
        lock(&self.inner.next).model = Some(model.clone());
        self
    }

    /// Tells `listener` each event, on a thread of its own: training does not wait for it, and while it is busy the newest
    /// step takes the place of the one before. For [`TrainingJob::start`] and [`TrainingJob::run_slice`].
    #[must_use]
    pub fn listened(self, listener: Listener) -> TrainingJob {
        lock(&self.inner.next).listener = Some(listener);
        self
    }

    /// Its settings.
    pub fn config(&self) -> &TrainConfig {
        &self.inner.config
    }

    /// What steers it.
    pub fn control(&self) -> &JobControl {
        &self.inner.control
    }

    /// A handle that stops it.
    pub fn stop_handle(&self) -> StopHandle {
        self.inner.control.stop_handle()
    }

    /// Runs to the end on this thread (and the engine's workers). `observer` is told each event there and then.
    ///
    /// # Errors
    /// [`Error::Stopped`] when it was stopped, with the checkpoint; otherwise what went wrong. What was
    /// written stays: run it again, or [`TrainingJob::resume`] it.
    pub fn run(&self, mut observer: impl FnMut(&Event) -> Control + Send) -> Result<TrainReport> {
        self.inner.begin(None)?;
        let result = self.inner.attempt(&mut observer);
        self.inner.end(&result);
        result
    }

    /// Runs on a thread of its own; [`TrainingJob::wait`] gives its end.
    ///
    /// # Errors
    /// [`Error::Misuse`] when it runs already; [`Error::Threads`] when no thread can be started.
    pub fn start(&self) -> Result<()> {
        let mut thread = lock(&self.thread);
        self.inner.begin(None)?;
        let inner = self.inner.clone();
        let body = move || {
            let result = inner.listened_attempt();
            inner.end(&result);
        };
        match std::thread::Builder::new().name("sftmix-job".into()).spawn(body) {
            Ok(made) => {
                *thread = Some(made);
                Ok(())
            }
            Err(e) => {
                let result = Err(Error::Threads(e.to_string()));
                self.inner.end(&result);
                result.map(drop)
            }
        }
    }

    /// Trains on this thread for at most so long and what is under way (a micro-batch; the slice's first step, an evaluation,
    /// rows that are handed over: what the next slice would have to begin anew), writes a checkpoint and returns;
    /// the next slice, in this process or another, goes on to the same bytes. However short it is, it tokenises some rows,
    /// or takes a step or a batch of a sweep. The model stays open between slices, memory for training does not.
    ///
    /// # Errors
    /// As [`TrainingJob::run`]: [`Error::Stopped`] when somebody stopped it before its time was up.
    pub fn run_slice(&self, time: Duration) -> Result<Slice> {
        self.inner.begin(Some(time))?;
        let result = self.inner.listened_attempt();
        let expired = self.inner.end(&result);
        match result {
            Ok(report) => Ok(Slice { report: Some(report), checkpoint: None }),
            Err(Error::Stopped { checkpoint }) if expired => Ok(Slice { report: None, checkpoint }),
            Err(e) => Err(e),
        }
    }

    /// Stops it for good and waits for its end: behind a checkpoint, unless it was cancelled without one. What others still
    /// hold of it begins nothing any more. To drop it does the same.
    ///
    /// # Errors
    /// [`Error::Misuse`] where a callback of the job asks for it: it would wait for itself. Nothing is asked for then.
    pub fn close(&self) -> Result<()> {
        if self.inner.control.is_inside() {
            return Err(Error::Misuse("a callback closes the job that calls it".into()));
        }
        self.inner.control.close();
        let mut outcome = lock(&self.inner.outcome);
        while self.inner.control.is_running() {
            outcome = self.inner.ended.wait(outcome).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Whether it is not running.
    pub fn is_finished(&self) -> bool {
        !self.inner.control.is_running()
    }

    /// Waits for the end of what [`TrainingJob::start`] began; who comes later is told the same.
    ///
    /// # Errors
    /// As [`TrainingJob::run`]; [`Error::Misuse`] when it was not begun, and between two slices.
    pub fn wait(&self) -> Result<TrainReport> {
        self.wait_for(Duration::MAX)
            .unwrap_or_else(|| Err(Error::Misuse("the job is not running, and it has not come to an end".into())))
    }

    /// As [`TrainingJob::wait`], for so long at most: `None` while it goes on, and where it was not begun. A callback of the
    /// job is told [`Error::Misuse`]: it would wait for itself.
    pub fn wait_for(&self, timeout: Duration) -> Option<Result<TrainReport>> {
        if self.inner.control.is_inside() {
            return Some(Err(Error::Misuse("a callback waits for the job that calls it".into())));
        }
        let until = Instant::now().checked_add(timeout);
        let mut outcome = lock(&self.inner.outcome);
        loop {
            let left = until.map_or(Duration::from_secs(60), |u| u.saturating_duration_since(Instant::now()));
            if outcome.is_some() || left.is_zero() || !self.inner.control.is_running() {
                return outcome.clone();
            }
            outcome = self.inner.ended.wait_timeout(outcome, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for TrainingJob {
    /// Stops it, behind a checkpoint, and waits for its threads.
    fn drop(&mut self) {
        if let Some(thread) = lock(&self.thread).take() {
            self.inner.control.close();
            // A callback that drops its job cannot wait for it. A panic in the thread was told already.
            if !self.inner.control.is_inside() {
                let _ = thread.join();
            }
        }
        let folder = RunFolder::new(&self.inner.config.out);
        if lock(&self.inner.next).spooled && matches!(folder.read(), Ok(None)) {
            // Nothing of a run that was not begun stays.
            folder.drop_rows();
        }
    }
}
