//! Training as a job: settings in, events out, a stop that leaves a checkpoint, a resume that gives the
//! bits of an uninterrupted run.

mod event;
mod runner;

use std::path::Path;

use serde_json::{Map, Value};

pub use event::{Control, Event, Prepared, StepEvent};

use crate::base::Model;
use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::run::settings::taken_up;
use crate::run::{RunFile, RunFolder, TrainReport};
use crate::stop::StopHandle;

/// A run that is set up and not begun.
#[derive(Debug)]
pub struct TrainingJob {
    config: TrainConfig,
    /// The one that is open already; without, the one that the settings name is opened when the job runs.
    model: Option<Model>,
    resume: bool,
    /// The run that is taken up, as it was read.
    known: Option<Box<RunFile>>,
    stop: StopHandle,
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
        let config = config.absolute();
        config.paths_are_text()?;
        runner::empty(&config)?;
        Ok(TrainingJob { config, model: None, resume: false, known: None, stop: StopHandle::default() })
    }

    /// A new run on a model that is open, whose map it shares; the one that `config` names is not looked at.
    ///
    /// # Errors
    /// As [`TrainingJob::new`].
    pub fn on(model: &Model, config: TrainConfig) -> Result<TrainingJob> {
        let job = TrainingJob::new(TrainConfig { model: model.path().to_path_buf(), ..config })?;
        Ok(TrainingJob { model: Some(model.clone()), ..job })
    }

    /// The run in `out`, to be taken up where its newest whole checkpoint stands. Its settings come from the folder;
    /// `given` holds those that are given now, by field name of [`TrainConfig`]: inputs may lie elsewhere, with the same
    /// contents, and device, memory limits and cache folder may be others. Where no run is there yet it is begun from
    /// `given` over the defaults.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names a setting that contradicts the run's, with both values.
    pub fn resume(out: &Path, given: &Map<String, Value>) -> Result<TrainingJob> {
        let known = RunFolder::new(out).read()?.map(Box::new);
        let config = match &known {
            Some(run) => taken_up(run, out, given)?,
            None => {
                let mut all = given.clone();
                let out =
                    out.to_str().ok_or_else(|| Error::config("out", format!("{} is not UTF-8", out.display())))?;
                all.insert("out".into(), out.into());
                TrainConfig::from_settings(all)?.with_data_files()?
            }
        };
        config.paths_are_text()?;
        config.validate()?;
        let config = config.absolute();
        config.paths_are_text()?;
        if known.is_none() {
            runner::empty(&config)?;
        }
        Ok(TrainingJob { config, model: None, resume: true, known, stop: StopHandle::default() })
    }

    /// Its settings.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// A handle that stops it.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Runs to the end on this thread (and the engine's workers).
    ///
    /// # Errors
    /// [`Error::Stopped`] when it was stopped, with the checkpoint; otherwise what went wrong. What was
    /// written stays, and [`TrainingJob::resume`] takes it up.
    pub fn run(self, mut observer: impl FnMut(&Event) -> Control + Send) -> Result<TrainReport> {
        let known = self.known.as_deref();
        runner::run(&self.config, self.model.as_ref(), self.resume, known, &self.stop, &mut observer)
    }

    /// Runs on a thread of its own.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(self, observer: impl FnMut(&Event) -> Control + Send + 'static) -> Result<JobHandle> {
        let stop = self.stop_handle();
        let builder = std::thread::Builder::new().name("sftmix-job".into());
        let thread = builder.spawn(move || self.run(observer)).map_err(|e| Error::Threads(e.to_string()))?;
        Ok(JobHandle { stop, thread })
    }
}

/// A job that runs on a thread of its own.
#[derive(Debug)]
pub struct JobHandle {
    stop: StopHandle,
    thread: std::thread::JoinHandle<Result<TrainReport>>,
}

impl JobHandle {
    /// Asks it to stop.
    pub fn stop(&self) {
        self.stop.stop();
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// As [`TrainingJob::run`].
    pub fn wait(self) -> Result<TrainReport> {
        self.thread.join().unwrap_or_else(|_| Err(Error::Threads("the job's thread panicked".into())))
    }
}
