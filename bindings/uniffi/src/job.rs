//! A model that is open, and jobs that train on it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};
use sftmix::Control;

use crate::border::{aside, Cross, Home};
use crate::error::{Result, SftmixError};
use crate::records::{Event, JobStatus, Limits, NumberedEvent, Slice, TrainReport};
use crate::settings::TrainSettings;

/// A model that is open: any number of jobs and generators share its mapped weights.
#[derive(Debug, uniffi::Object)]
pub struct Model {
    pub(crate) core: sftmix::Model,
    pub(crate) home: Home,
}

#[uniffi::export]
impl Model {
    /// Opens a Hugging Face model folder or a GGUF file.
    #[uniffi::constructor]
    pub fn open(path: String) -> Result<Arc<Model>> {
        Ok(Arc::new(Model { core: sftmix::Model::open(path)?, home: Home::here() }))
    }

    /// The same model with worker threads that are shared: whatever is opened on what is returned (jobs, evaluations,
    /// generators) computes on these, where each would have its own otherwise. Without a number the machine's cores are taken;
    /// a setting `threads` of another number is an error then.
    #[uniffi::method(default(threads = None))]
    pub fn share_workers(&self, threads: Option<u64>) -> Result<Arc<Model>> {
        self.home.check()?;
        let core = self.core.share_workers(threads.map(|n| usize::try_from(n).unwrap_or(usize::MAX)))?;
        Ok(Arc::new(Model { core, home: Home::here() }))
    }

    /// Where it lies.
    pub fn path(&self) -> String {
        self.core.path().to_path_buf().cross()
    }
}

/// Is told each event, on a thread of its own: training does not wait for it, and while it is busy the newest step takes
/// the place of the one before.
#[uniffi::export(with_foreign)]
pub trait EventListener: Send + Sync {
    /// Whether to go on; an error ends the job behind a checkpoint and reaches whoever waits for it.
    fn on_event(&self, event: Event) -> Result<bool>;
}

/// Gives rows one by one.
#[uniffi::export(with_foreign)]
pub trait RowSource: Send + Sync {
    /// The next row, a JSON object as text; nothing behind the last.
    fn next_row(&self) -> Result<Option<String>>;
}

impl TrainSettings {
    /// What is given, by name, in the form that settings files have.
    pub(crate) fn given(&self) -> Result<Map<String, Value>> {
        let invalid = |field: &str, reason: String| {
            SftmixError::from(sftmix::Error::InvalidConfig { field: field.into(), reason })
        };
        let value = serde_json::to_value(self).map_err(|e| invalid("settings", e.to_string()))?;
        let Value::Object(mut all) = value else { return Err(invalid("settings", "no object".into())) };
        if self.target_modules.as_deref().is_some_and(|names| names == ["all-linear"]) {
            all.insert("target_modules".into(), "all-linear".into());
        }
        if let Some(text) = &self.chat_template_kwargs {
            let object: Map<String, Value> = serde_json::from_str(text)
                .map_err(|e| invalid("chat_template_kwargs", format!("expected a JSON object: {e}")))?;
            all.insert("chat_template_kwargs".into(), object.into());
        }
        Ok(all)
    }

    pub(crate) fn config(&self) -> Result<sftmix::TrainConfig> {
        Ok(sftmix::TrainConfig::from_settings(self.given()?)?)
    }
}

/// The job itself, shared with the thread that an asynchronous caller waits on.
#[derive(Debug)]
struct Held {
    job: sftmix::TrainingJob,
    home: Home,
}

/// A run: start it or run it in slices, steer it from any thread, pull its events or listen to them. Its folder alone is
/// enough to take it up again, in this process or another.
#[derive(Debug, uniffi::Object)]
pub struct TrainingJob {
    held: Mutex<Option<Arc<Held>>>,
}

fn with_model(mut settings: TrainSettings, model: Option<&Arc<Model>>) -> TrainSettings {
    if let Some(model) = model {
        settings.model = Some(model.path());
    }
    settings
}

impl TrainingJob {
    fn of(job: sftmix::TrainingJob, model: Option<Arc<Model>>, listener: Option<Arc<dyn EventListener>>) -> Arc<Self> {
        let job = match model {
            Some(model) => job.sharing(&model.core),
            None => job,
        };
        let job = match listener {
            Some(listener) => job.listened(Box::new(move |event| match listener.on_event(event.clone().into()) {
                Ok(true) => Ok(Control::Continue),
                Ok(false) => Ok(Control::Stop),
                Err(SftmixError::Callback { reason, .. }) => Err(reason),
                Err(e) => Err(e.to_string()),
            })),
            None => job,
        };
        Arc::new(TrainingJob { held: Mutex::new(Some(Arc::new(Held { job, home: Home::here() }))) })
    }

    fn held(&self) -> Result<Arc<Held>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let held = held.ok_or_else(|| SftmixError::Misuse { detail: "misuse: the job was shut down".into() })?;
        held.home.check()?;
        Ok(held)
    }
}

fn duration(field: &str, seconds: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        let reason = format!("expected seconds, 0 or more, found {seconds}");
        sftmix::Error::InvalidConfig { field: field.into(), reason }.into()
    })
}

/// Without a time there is none to wait for.
fn timeout(seconds: Option<f64>) -> Result<Duration> {
    seconds.map_or(Ok(Duration::MAX), |s| duration("timeout", s))
}

#[uniffi::export]
impl TrainingJob {
    /// A new run in a folder that holds none. With `rows` the settings name no data: they are written through to the run
    /// folder when the job begins.
    #[uniffi::constructor(default(model = None, listener = None, rows = None))]
    pub fn new(
        settings: TrainSettings,
        model: Option<Arc<Model>>,
        listener: Option<Arc<dyn EventListener>>,
        rows: Option<Arc<dyn RowSource>>,
    ) -> Result<Arc<TrainingJob>> {
        let config = with_model(settings, model.as_ref()).config()?;
        let job = match rows {
            Some(rows) => {
                let next = move || match rows.next_row() {
                    Ok(row) => Ok(row),
                    Err(SftmixError::Callback { reason, .. }) => Err(reason),
                    Err(e) => Err(e.to_string()),
                };
                sftmix::TrainingJob::with_rows(config, Box::new(next))?
            }
            None => sftmix::TrainingJob::new(config)?,
        };
        Ok(TrainingJob::of(job, model, listener))
    }

    /// The run in the folder `out`, to be taken up where its newest whole checkpoint stands. `settings` may name inputs
    /// that have moved and other settings of the machine; nothing else is needed.
    #[uniffi::constructor(default(settings = None, model = None, listener = None))]
    pub fn resume(
        out: String,
        settings: Option<TrainSettings>,
        model: Option<Arc<Model>>,
        listener: Option<Arc<dyn EventListener>>,
    ) -> Result<Arc<TrainingJob>> {
        let given = with_model(settings.unwrap_or_default(), model.as_ref()).given()?;
        let job = sftmix::TrainingJob::resume(out.as_ref(), &given)?;
        Ok(TrainingJob::of(job, model, listener))
    }

    /// Its run folder.
    pub fn out(&self) -> Result<String> {
        Ok(self.held()?.job.config().out.clone().cross())
    }

    /// Every setting, as JSON by the names of settings files.
    pub fn settings_json(&self) -> Result<String> {
        Ok(serde_json::to_string(self.held()?.job.config()).unwrap_or_default())
    }

    /// Begins it on a thread of its own.
    pub fn start(&self) -> Result<()> {
        Ok(self.held()?.job.start()?)
    }

    /// Waits for the end of what `start` began; without a timeout (seconds) for as long as it takes. Nothing where it
    /// still goes on then, or was not begun.
    #[uniffi::method(default(timeout = None))]
    pub fn wait(&self, timeout: Option<f64>) -> Result<Option<TrainReport>> {
        let report = self.held()?.job.wait_for(self::timeout(timeout)?).transpose()?;
        Ok(report.map(Into::into))
    }

    /// Begins it and waits for its end.
    pub fn run(&self) -> Result<TrainReport> {
        let held = self.held()?;
        held.job.start()?;
        Ok(held.job.wait()?.into())
    }

    /// As `run`, for callers that await. Where the caller is cancelled, the job stops behind a checkpoint.
    pub async fn run_async(&self) -> Result<TrainReport> {
        let held = self.held()?;
        held.job.start()?;
        let stop = held.job.stop_handle();
        aside(move || Ok(held.job.wait()?.into()), move || stop.stop()).await
    }

    /// Trains for at most so many seconds and the micro-batch under way, writes a checkpoint and returns; the next slice
    /// goes on to the same bytes. However short it is, it tokenises some rows, or takes a step or a batch of a sweep.
    pub fn run_slice(&self, seconds: f64) -> Result<Slice> {
        Ok(self.held()?.job.run_slice(duration("seconds", seconds)?)?.into())
    }

    /// As `run_slice`, for callers that await. Where the caller is cancelled, the job stops behind a checkpoint.
    pub async fn run_slice_async(&self, seconds: f64) -> Result<Slice> {
        let (held, time) = (self.held()?, duration("seconds", seconds)?);
        let stop = held.job.stop_handle();
        aside(move || Ok(held.job.run_slice(time)?.into()), move || stop.stop()).await
    }

    /// Asks it to wait: it finishes its micro-batch and writes a checkpoint.
    pub fn pause(&self) -> Result<()> {
        self.held()?.job.control().pause();
        Ok(())
    }

    /// Lets it go on after a pause.
    pub fn unpause(&self) -> Result<()> {
        self.held()?.job.control().resume();
        Ok(())
    }

    /// Asks it to stop within a micro-batch: behind a checkpoint, or with `save` false at the newest one that is there.
    #[uniffi::method(default(save = true))]
    pub fn cancel(&self, save: bool) -> Result<()> {
        self.held()?.job.control().cancel(save);
        Ok(())
    }

    /// Changes what it may take of the machine, from the next micro-batch on.
    pub fn update(&self, limits: Limits) -> Result<()> {
        let limits = sftmix::Limits {
            threads: limits.threads.map(|n| n as usize),
            duty_cycle: limits.duty_cycle,
            memory_limit: limits.memory_limit,
        };
        Ok(self.held()?.job.control().update(limits)?)
    }

    /// What it is at; answers at once.
    pub fn status(&self) -> Result<JobStatus> {
        Ok(self.held()?.job.control().status().into())
    }

    /// The next event that was not acknowledged, the same one until it is; without a timeout (seconds) waits for as long
    /// as the job runs. Nothing where none came, or the job has ended and all were acknowledged.
    #[uniffi::method(default(timeout = None))]
    pub fn next_event(&self, timeout: Option<f64>) -> Result<Option<NumberedEvent>> {
        next_event(&*self.held()?, self::timeout(timeout)?)
    }

    /// As `next_event`, for callers that await.
    #[uniffi::method(default(timeout = None))]
    pub async fn next_event_async(&self, timeout: Option<f64>) -> Result<Option<NumberedEvent>> {
        let (held, time) = (self.held()?, self::timeout(timeout)?);
        aside(move || next_event(&held, time), || {}).await
    }

    /// Says that an event was dealt with: it does not come again, also not after a crash.
    pub fn acknowledge(&self, number: u64) -> Result<()> {
        Ok(self.held()?.job.control().acknowledge(number)?)
    }

    /// Stops it, behind a checkpoint unless it was cancelled without one, waits for its threads and lets its memory go. To
    /// drop the object does the same.
    pub fn shut_down(&self) -> Result<()> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(held) = held {
            // In a child that was forked it stays: its threads are the parent's.
            held.home.check()?;
            held.job.close()?;
            self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        Ok(())
    }
}

fn next_event(held: &Held, timeout: Duration) -> Result<Option<NumberedEvent>> {
    let next = held.job.control().next_event(timeout)?;
    Ok(next.map(|e| NumberedEvent { number: e.number, event: e.event.into() }))
}

impl Drop for TrainingJob {
    fn drop(&mut self) {
        if let Some(held) = self.held.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            match held.home.check() {
                // Others may still hold the job, as a caller that awaits it. One of its callbacks cannot wait for it.
                Ok(()) => drop(held.job.close().inspect_err(|_| held.job.stop_handle().stop())),
                // The threads are the parent's: there is nothing to join here.
                Err(_) => std::mem::forget(held),
            }
        }
    }
}
