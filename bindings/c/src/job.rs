//! Training as a job.

use std::ffi::{c_char, c_int, c_void, CStr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sftmix::{Control, Event, Listener, RowSource, TrainConfig, TrainReport, TrainingJob};

use crate::border::{self, given_out, json, place, text};
use crate::event::{event_out, sftmix_event, sftmix_event_free};
use crate::fault::{callback_reason, guard, sftmix_status, Fail, Result};
use crate::model::{model_of, sftmix_model};
use crate::options::{object, sftmix_train_options, train};
use crate::report::{self, sftmix_report};
use crate::status::{info_out, limits_in, sftmix_job_info, sftmix_limits};
use crate::table::{self, Held};

mod inside;

pub use inside::Inside;

/// A training run: set up, run on a thread of its own or on the caller's, steered from any thread.
pub struct sftmix_job(());

/// What a listener answers: go on.
pub const SFTMIX_CONTINUE: c_int = 0;
/// What a listener answers: write a checkpoint and stop.
pub const SFTMIX_STOP: c_int = 1;
/// What a listener answers: it failed. The job writes a checkpoint and ends with `SFTMIX_STATUS_CALLBACK`; the reason is
/// what `sftmix_callback_failed` was told.
pub const SFTMIX_FAIL: c_int = 2;

/// Is told an event, which is the library's and stays until it returns, and answers `SFTMIX_CONTINUE`, `SFTMIX_STOP` or
/// `SFTMIX_FAIL`.
pub type sftmix_listener = Option<unsafe extern "C" fn(user_data: *mut c_void, event: *const sftmix_event) -> c_int>;

/// Gives the next row, a JSON object as UTF-8, or NULL behind the last. The text is the caller's and must stay until the
/// next call or, for the last one, until the job has begun to train; it is copied. To fail, it sets `*failed`, and may say
/// why by `sftmix_callback_failed`.
pub type sftmix_next_row = Option<unsafe extern "C" fn(user_data: *mut c_void, failed: *mut bool) -> *const c_char>;

type Listen = unsafe extern "C" fn(*mut c_void, *const sftmix_event) -> c_int;

/// What a caller passes along.
#[derive(Clone, Copy)]
struct User(*mut c_void);

// SAFETY: the caller says that its callback may be called from another thread with it.
unsafe impl Send for User {}

#[derive(Default)]
struct Told {
    listen: Mutex<Option<(Listen, User)>>,
    inside: Inside,
}

struct Job {
    job: TrainingJob,
    told: Arc<Told>,
}

impl Held for Job {
    type Opaque = sftmix_job;
    const KIND: usize = 2;
}

impl Told {
    fn tell(&self, event: &Event) -> Result<Control, String> {
        // Not held while it is called: it may call back in.
        let listen = *self.listen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((call, user)) = listen else { return Ok(Control::Continue) };
        let mut given = event_out(event, 0).map_err(|fail| fail.message)?;
        // SAFETY: as the caller said when it set the listener; the event's texts were made here.
        let answer = self.inside.call(|| unsafe { call(user.0, &given) });
        unsafe { sftmix_event_free(&mut given) };
        match answer {
            SFTMIX_CONTINUE => Ok(Control::Continue),
            SFTMIX_STOP => Ok(Control::Stop),
            SFTMIX_FAIL => Err(callback_reason()),
            other => Err(format!("it answered {other}, which is none of SFTMIX_CONTINUE, SFTMIX_STOP and SFTMIX_FAIL")),
        }
    }
}

/// Puts a job into the table, with its model and its ear.
fn put(job: TrainingJob, model: *const sftmix_model, told: Arc<Told>) -> Result<*mut sftmix_job> {
    let job = match model_of(model)? {
        Some(model) => job.sharing(&model),
        None => job,
    };
    let ear = told.clone();
    let listener: Listener = Box::new(move |event| ear.tell(event));
    table::put(Job { job: job.listened(listener), told })
}

/// The settings of a new run, on the model that is open.
unsafe fn settings(options: *const sftmix_train_options, model: *const sftmix_model) -> Result<TrainConfig> {
    table::at_home()?;
    // SAFETY: passed on.
    let mut given = unsafe { train(options)? };
    if let Some(model) = model_of(model)? {
        if given.has("model") {
            return Err(Fail::setting("model", "it is given twice: by its path and as a model that is open"));
        }
        given.path("model", model.path());
    }
    Ok(TrainConfig::from_settings(given.into_map())?)
}

/// A new run in a folder that holds none, on a model that is open or, where that is NULL, on the one that the options name.
///
/// `*out` is freed with `sftmix_job_free`; the model may be freed before. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_new(
    options: *const sftmix_train_options,
    model: *const sftmix_model,
    out: *mut *mut sftmix_job,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let out = place(out, "out")?;
        *out = put(TrainingJob::new(settings(options, model)?)?, model, Arc::default())?;
        Ok(())
    })
}

/// As `sftmix_job_new`, on rows that `next` hands over one by one; the options name no data. It is called when the job
/// begins, on the thread that the job runs on, and not again once it gave NULL; what it gave is kept in the run folder.
///
/// `user_data` is passed to it as it is and must stay until the job has begun to train, or was freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_new_with_rows(
    options: *const sftmix_train_options,
    model: *const sftmix_model,
    next: sftmix_next_row,
    user_data: *mut c_void,
    out: *mut *mut sftmix_job,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let out = place(out, "out")?;
        let next = next.ok_or_else(|| Fail::argument("next", "it is NULL"))?;
        let (told, user) = (Arc::<Told>::default(), User(user_data));
        let asks = told.clone();
        let rows: RowSource = Box::new(move || {
            let (user, mut failed) = (user, false);
            let row = asks.inside.call(|| next({ user }.0, &mut failed));
            if failed {
                return Err(callback_reason());
            }
            if row.is_null() {
                return Ok(None);
            }
            let row = CStr::from_ptr(row).to_str();
            row.map(|text| Some(text.to_string())).map_err(|e| format!("it gave a row that is not UTF-8: {e}"))
        });
        *out = put(TrainingJob::with_rows(settings(options, model)?, rows)?, model, told)?;
        Ok(())
    })
}

/// The run in a folder, to be taken up where its newest whole checkpoint stands; where no run is there yet, one is begun.
/// `settings_json`, which may be NULL, is an object of the settings that are given now: inputs may lie elsewhere, with the
/// same contents, and device, limits and cache folder may be others. The model may be NULL.
///
/// `*out` is freed with `sftmix_job_free`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_resume(
    out_dir: *const c_char,
    settings_json: *const c_char,
    model: *const sftmix_model,
    out: *mut *mut sftmix_job,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        table::at_home()?;
        let (dir, out) = (text(out_dir, "out_dir")?, place(out, "out")?);
        let given = object(settings_json, "settings_json")?;
        *out = put(TrainingJob::resume(dir.as_ref(), &given)?, model, Arc::default())?;
        Ok(())
    })
}

/// Tells `listener` each event from now on, in the place of an earlier one; NULL tells nobody. It is called on a thread of
/// the library, one call at a time, and training does not wait for it: while it is busy, the newest step takes the place
/// of the one before. It may call any function but those that wait for this job or free it.
///
/// `user_data` is passed to it as it is and must stay until the job was freed. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_set_listener(
    job: *mut sftmix_job,
    listener: sftmix_listener,
    user_data: *mut c_void,
) -> sftmix_status {
    guard(|| {
        let job = table::get::<Job>(job)?;
        let mut listen = job.told.listen.lock().unwrap_or_else(PoisonError::into_inner);
        *listen = listener.map(|call| (call, User(user_data)));
        Ok(())
    })
}

/// Runs the job on a thread of its own, from where its folder stands; `sftmix_job_wait` gives its end. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_start(job: *mut sftmix_job) -> sftmix_status {
    guard(|| Ok(table::get::<Job>(job)?.job.start()?))
}

/// Runs the job to its end on this thread. `report` may be NULL. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_run(job: *mut sftmix_job, report: *mut sftmix_report) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let mut finished = false;
        slice(job, Duration::MAX, &mut finished, report)
    })
}

/// Trains on this thread for at most so many seconds and the micro-batch that is under way, writes a checkpoint and
/// returns; the next slice, in this process or another, goes on to the same bytes. `*finished` says whether the run is at
/// its end, and `report`, which may be NULL, is filled then. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_run_slice(
    job: *mut sftmix_job,
    seconds: f64,
    finished: *mut bool,
    report: *mut sftmix_report,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let time = Duration::try_from_secs_f64(seconds);
        let time = time.map_err(|_| Fail::argument("seconds", &format!("expected 0 and more, found {seconds}")))?;
        slice(job, time, place(finished, "finished")?, report)
    })
}

unsafe fn slice(job: *mut sftmix_job, time: Duration, finished: &mut bool, out: *mut sftmix_report) -> Result<()> {
    let job = table::get::<Job>(job)?;
    // SAFETY: passed on.
    unsafe {
        checked(out)?;
        *finished = false;
        if let Some(done) = job.job.run_slice(time)?.report {
            *finished = true;
            report::fill(out, &done)?;
        }
    }
    Ok(())
}

/// A report that has no place is found out before the work.
unsafe fn checked(out: *mut sftmix_report) -> Result<()> {
    // SAFETY: passed on.
    if out.is_null() {
        Ok(())
    } else {
        unsafe { border::can_fill(out) }
    }
}

/// Asks the job to wait: it finishes its micro-batch and writes a checkpoint; memory stays held. Returns at once. From any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_pause(job: *mut sftmix_job) -> sftmix_status {
    guard(|| {
        table::get::<Job>(job)?.job.control().pause();
        Ok(())
    })
}

/// Lets the job go on after `sftmix_job_pause`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_unpause(job: *mut sftmix_job) -> sftmix_status {
    guard(|| {
        table::get::<Job>(job)?.job.control().resume();
        Ok(())
    })
}

/// Asks the job to stop within a micro-batch: behind a checkpoint of its last whole step, or without `save` at the newest
/// one that is there. It can be taken up either way, by this job or `sftmix_job_resume`. Returns at once; what runs or
/// waits for the job ends with `SFTMIX_STATUS_STOPPED`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_cancel(job: *mut sftmix_job, save: bool) -> sftmix_status {
    guard(|| {
        table::get::<Job>(job)?.job.control().cancel(save);
        Ok(())
    })
}

/// Changes what the job may take of the machine, from its next micro-batch on. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_update(job: *mut sftmix_job, limits: *const sftmix_limits) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe { Ok(table::get::<Job>(job)?.job.control().update(limits_in(limits)?)?) })
}

/// What the job is at. Returns at once, whatever the job does. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_status(job: *const sftmix_job, out: *mut sftmix_job_info) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe { border::fill(out, info_out(&table::get::<Job>(job)?.job.control().status())) })
}

/// The same as JSON, with the folder of the newest checkpoint.
///
/// `*out` is freed with `sftmix_string_free`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_status_json(job: *const sftmix_job, out: *mut *mut c_char) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let status = table::get::<Job>(job)?.job.control().status();
        *place(out, "out")? = given_out(&json(&status)?);
        Ok(())
    })
}

/// The job's settings as JSON, by name.
///
/// `*out` is freed with `sftmix_string_free`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_settings(job: *const sftmix_job, out: *mut *mut c_char) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let job = table::get::<Job>(job)?;
        *place(out, "out")? = given_out(&json(job.job.config())?);
        Ok(())
    })
}

fn timeout(milliseconds: i64) -> Duration {
    u64::try_from(milliseconds).map_or(Duration::MAX, Duration::from_millis)
}

/// The next event that was not acknowledged: the same one until it is. Waits up to so many milliseconds for one, less than
/// 0 for as long as the job runs; `SFTMIX_EVENT_KIND_NONE` where none came. Steps and evaluations come in full number, of
/// sweeps and checkpoints the newest.
///
/// `out` was set up by `sftmix_event_init`, and is freed with `sftmix_event_free` before it is filled again. From any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_next_event(
    job: *mut sftmix_job,
    timeout_ms: i64,
    out: *mut sftmix_event,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let job = table::get::<Job>(job)?;
        border::can_fill(out)?;
        let event = job.job.control().next_event(timeout(timeout_ms))?;
        let none = <sftmix_event as border::Sized>::unset();
        border::fill(out, event.map_or(Ok(none), |e| event_out(&e.event, e.number))?)
    })
}

/// Says that the event of this number was dealt with: the next comes, and this one not again, also not after a crash. From
/// any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_acknowledge(job: *mut sftmix_job, number: u64) -> sftmix_status {
    guard(|| Ok(table::get::<Job>(job)?.job.control().acknowledge(number)?))
}

/// Waits for the end of the job, for so many milliseconds, or less than 0 for as long as it takes. `*ended` says whether
/// it has ended; NULL only where there is no limit. The status is then that of the run, and `report`, which may be NULL,
/// is filled where it is at its end. From any thread, but no callback of the job.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_wait(
    job: *mut sftmix_job,
    timeout_ms: i64,
    ended: *mut bool,
    report: *mut sftmix_report,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let job = table::get::<Job>(job)?;
        if ended.is_null() && timeout_ms >= 0 {
            return Err(Fail::argument("ended", "it is NULL, and timeout_ms is a limit"));
        }
        let mut unasked = false;
        let ended = ended.as_mut().unwrap_or(&mut unasked);
        *ended = false;
        checked(report)?;
        job.told.inside.refuse("waits for the job")?;
        if let Some(result) = outcome(&job.job, timeout(timeout_ms)) {
            *ended = true;
            report::fill(report, &result?)?;
        }
        Ok(())
    })
}

/// How the job ended; `None` while it goes on.
fn outcome(job: &TrainingJob, timeout: Duration) -> Option<sftmix::Result<TrainReport>> {
    let waited = job.wait_for(timeout);
    if waited.is_some() || !job.is_finished() {
        return waited;
    }
    // It ended, or was not begun.
    let not_begun = || Err(sftmix::Error::Misuse("the job was not begun".into()));
    Some(job.wait_for(Duration::ZERO).unwrap_or_else(not_begun))
}

/// Frees the job. One that runs is stopped behind a checkpoint and waited for; no callback is called afterwards. NULL is
/// fine. From any thread, but no callback of the job.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_job_free(job: *mut sftmix_job) -> sftmix_status {
    guard(|| {
        if job.is_null() {
            return Ok(());
        }
        table::get::<Job>(job)?.told.inside.refuse("frees the job")?;
        let job = table::take::<Job>(job)?;
        job.job.control().cancel(true);
        // Another thread may wait for it, too, and the last one drops it.
        job.job.wait_for(Duration::MAX);
        Ok(())
    })
}
