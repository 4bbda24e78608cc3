//! Training as a job: settings in, events out, a stop that leaves a checkpoint, a resume that gives the
//! bits of an uninterrupted run.

mod event;
mod runner;

use std::path::Path;

use serde_json::{Map, Value};

pub use event::{Control, Event, Prepared, StepEvent};

use crate::base::Model;
use crate::config::{Dynamics, Recipe, TrainConfig};
use crate::error::{Error, Result};
use crate::run::folder::check_settings;
use crate::run::{RunFolder, TrainReport};
use crate::stop::StopHandle;

/// A run that is set up and not begun.
#[derive(Debug)]
pub struct TrainingJob {
    config: TrainConfig,
    /// The one that is open already; without, the one that the settings name is opened when the job runs.
    model: Option<Model>,
    resume: bool,
    stop: StopHandle,
}

/// A setting of a run that is resumed: as given now, else as it was.
fn changed<T: serde::de::DeserializeOwned>(given: &mut Map<String, Value>, field: &str, was: T) -> Result<T> {
    match given.remove(field) {
        Some(v) => serde_json::from_value(v).map_err(|e| Error::config(field, e.to_string())),
        None => Ok(was),
    }
}

impl TrainingJob {
    /// A new run in a folder that holds none.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names a bad setting; [`Error::Checkpoint`] when the folder holds a run.
    pub fn new(config: TrainConfig) -> Result<TrainingJob> {
        let config = config.with_data_files()?;
        config.validate()?;
        let config = config.absolute();
        if RunFolder::new(&config.out).read()?.is_some() {
            let reason = "the folder holds a run: resume it, or choose another".into();
            return Err(Error::Checkpoint { path: config.out, reason });
        }
        check_new(&config)?;
        Ok(TrainingJob { config, model: None, resume: false, stop: StopHandle::default() })
    }

    /// A new run on a model that is open, whose map it shares; the one that `config` names is not looked at.
    ///
    /// # Errors
    /// As [`TrainingJob::new`].
    pub fn on(model: &Model, config: TrainConfig) -> Result<TrainingJob> {
        let job = TrainingJob::new(TrainConfig { model: model.path().to_path_buf(), ..config })?;
        Ok(TrainingJob { model: Some(model.clone()), ..job })
    }

    /// The run in `out`, to be taken up where its newest whole checkpoint stands. Its settings come from
    /// the folder; `given` holds those that are given now, by field name of [`TrainConfig`], of which only the
    /// device may differ. Where no run is there yet it is begun from `given` over the defaults.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names a setting that contradicts the run's, with both values.
    pub fn resume(out: &Path, given: &Map<String, Value>) -> Result<TrainingJob> {
        let begun = RunFolder::new(out).read()?;
        let is_new = begun.is_none();
        let config = match begun {
            Some(run) => {
                let mut given = given.clone();
                // The folder may have been moved, or be named another way.
                given.remove("out");
                // Where it goes on, and in how much memory, may be another.
                let device = changed(&mut given, "device", run.config.device)?;
                let memory_limit = changed(&mut given, "memory_limit", run.config.memory_limit)?;
                let resident_limit = changed(&mut given, "resident_limit", run.config.resident_limit)?;
                check_settings(&run, &given)?;
                TrainConfig { out: out.to_path_buf(), device, memory_limit, resident_limit, ..run.config }
            }
            None => {
                let mut all = given.clone();
                all.insert("out".into(), Value::String(out.to_string_lossy().into_owned()));
                serde_json::from_value(Value::Object(all)).map_err(|e| Error::config("config", e.to_string()))?
            }
        };
        let config = if is_new { config.with_data_files()? } else { config };
        config.validate()?;
        let config = config.absolute();
        if is_new {
            check_new(&config)?;
        }
        Ok(TrainingJob { config, model: None, resume: true, stop: StopHandle::default() })
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
        runner::run(&self.config, self.model.as_ref(), self.resume, &self.stop, &mut observer)
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

/// What must hold before a run begins: nothing in its folder that is not its own, and dynamics that are there.
fn check_new(config: &TrainConfig) -> Result<()> {
    let folder = RunFolder::new(&config.out);
    if let Some(name) = folder.foreign()? {
        let reason = format!("the folder holds {name} of something else: choose another");
        return Err(Error::Checkpoint { path: config.out.clone(), reason });
    }
    match &config.dynamics {
        Dynamics::Path(path) if config.recipe == Recipe::Sftmix && !path.exists() => {
            let found = format!("expected sweep, online, single or the folder of a run, found {}", path.display());
            Err(Error::config("dynamics", found))
        }
        _ => Ok(()),
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
