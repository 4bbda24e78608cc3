//! One attempt of a job: from where its folder stands to the end, a stop or an error.

use std::path::Path;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use serde_json::{Map, Value};

use super::control::{lock, JobControl};
use super::event::{Control, Event};
use super::listener::{Listener, Listening};
use super::rows::RowSource;
use super::runner;
use crate::base::Model;
use crate::config::TrainConfig;
use crate::error::{panic_text, Error, Result};
use crate::run::settings::taken_up;
use crate::run::{RunFile, RunFolder, TrainReport};

/// A job, shared with the thread that it runs on.
pub(super) struct Inner {
    pub config: TrainConfig,
    pub control: JobControl,
    /// What the next attempt begins with.
    pub next: Mutex<Next>,
    pub outcome: Mutex<Option<Result<TrainReport>>>,
    pub ended: Condvar,
}

/// What the next attempt begins with.
pub(super) struct Next {
    /// The one that is open already; without, the one that the settings name is opened when the job runs.
    pub model: Option<Model>,
    pub resume: bool,
    /// The run that is taken up, as it was read.
    pub known: Option<Box<RunFile>>,
    /// Whether an attempt was made before: then the folder says what there is to go on with.
    pub again: bool,
    pub rows: Option<RowSource>,
    /// Its rows lie in the folder.
    pub spooled: bool,
    pub listener: Option<Listener>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("out", &self.config.out).field("status", &self.control.status()).finish()
    }
}

impl Inner {
    pub fn begin(&self, slice: Option<Duration>) -> Result<()> {
        // Together: who waits sees the end of this attempt, and not of the one before.
        let mut outcome = lock(&self.outcome);
        self.control.begin(slice)?;
        *outcome = None;
        Ok(())
    }

    /// One way from where the folder stands to the end, a stop or an error.
    pub fn attempt(&self, observer: &mut (dyn FnMut(&Event) -> Control + Send)) -> Result<TrainReport> {
        let _inside = self.control.enter();
        let (config, resume, known, mut model, mut rows) = {
            let mut next = lock(&self.next);
            let (mut config, mut resume, mut known) = (self.config.clone(), next.resume, next.known.take());
            if std::mem::replace(&mut next.again, true) && RunFolder::new(&config.out).read()?.is_some() {
                resume = true;
                (config, known) = found(&self.config.out, &Map::new())?;
            }
            (config, resume, known, next.model.clone(), next.rows.take())
        };
        let handed = rows.is_some();
        let guarded = std::panic::AssertUnwindSafe(|| {
            runner::run(&config, &mut model, resume, known.as_deref(), &mut rows, &self.control, observer)
        });
        let result = std::panic::catch_unwind(guarded);
        {
            let mut next = lock(&self.next);
            next.spooled |= handed && rows.is_none();
            next.rows = rows;
            // Slices share one.
            next.model = model;
        }
        result.unwrap_or_else(|panic| Err(Error::Threads(format!("the job panicked: {}", panic_text(&*panic)))))
    }

    /// An attempt that tells the listener.
    pub fn listened_attempt(&self) -> Result<TrainReport> {
        // What is logged behind the attempt is told on this thread, too.
        let _inside = self.control.enter();
        let Some(listener) = lock(&self.next).listener.take() else {
            return self.attempt(&mut |_| Control::Continue);
        };
        let listening = Listening::start(listener, &self.control)?;
        let result = self.attempt(&mut |event| {
            listening.tell(event);
            Control::Continue
        });
        let (listener, told) = listening.finish();
        lock(&self.next).listener = listener;
        match (told, result) {
            // What the listener broke off, or did not want to hear the end of.
            (Err(failed), Ok(_) | Err(Error::Stopped { .. })) => Err(failed),
            (told, result) => {
                if let Err(failed) = told {
                    log::warn!("{failed}");
                }
                result
            }
        }
    }

    /// The end of an attempt; whether it was a slice whose time was up.
    pub fn end(&self, result: &Result<TrainReport>) -> bool {
        let mut outcome = lock(&self.outcome);
        let expired = self.control.end(result);
        // A slice whose time was up is no end of the job.
        *outcome = (!expired).then(|| result.clone());
        drop(outcome);
        self.ended.notify_all();
        expired
    }
}

/// The run in `out` and its settings, with what is given now.
pub(super) fn found(out: &Path, given: &Map<String, Value>) -> Result<(TrainConfig, Option<Box<RunFile>>)> {
    let text = out.to_str().ok_or_else(|| Error::config("out", format!("{} is not UTF-8", out.display())))?;
    let known = RunFolder::new(out).read()?.map(Box::new);
    let config = match &known {
        Some(run) => taken_up(run, out, given)?,
        None if !["model", "data"].iter().all(|key| given.contains_key(*key)) => {
            let reason = "there is no run here to be taken up; to begin one, name its model and data".into();
            return Err(Error::Checkpoint { path: out.to_path_buf(), reason });
        }
        None => {
            let mut all = given.clone();
            all.insert("out".into(), text.into());
            TrainConfig::from_settings(all)?.with_data_files()?
        }
    };
    config.paths_are_text()?;
    config.validate()?;
    let config = config.with_model_found()?.absolute();
    config.paths_are_text()?;
    Ok((config, known))
}
