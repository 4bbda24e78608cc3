//! Training as a job.

use std::ffi::{c_char, c_int, c_void, CStr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sftmix::{Control, Event, Listener, RowSource, TrainConfig, TrainingJob};

use crate::border::{place, text, Sized};
use crate::event::{event_out, sftmix_event};
use crate::fault::{guard, reason, sftmix_status, Fail, Result};
use crate::given::Given;
use crate::model::{model_of, sftmix_model};
use crate::options::{sftmix_train_options, train};
use crate::table::{self, Held};

mod inside;
mod run;
mod steer;

use inside::Inside;

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

fn timeout(milliseconds: i64) -> Duration {
    u64::try_from(milliseconds).map_or(Duration::MAX, Duration::from_millis)
}

impl Told {
    fn tell(&self, event: &Event) -> Result<Control, String> {
        // Not held while it is called: it may call back in.
        let listen = *self.listen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((call, user)) = listen else { return Ok(Control::Continue) };
        let mut given = event_out(event, 0).map_err(|fail| fail.message)?;
        // SAFETY: as the caller said when it set the listener; the event's texts were made here.
        let (answer, said) = self.inside.call(|| unsafe { call(user.0, &given) });
        unsafe { given.free() };
        match answer {
            SFTMIX_CONTINUE => Ok(Control::Continue),
            SFTMIX_STOP => Ok(Control::Stop),
            SFTMIX_FAIL => Err(reason(said)),
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
    given.model(model_of(model)?.as_ref())?;
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
            let (row, said) = asks.inside.call(|| next({ user }.0, &mut failed));
            if failed {
                return Err(reason(said));
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
/// same contents, and `device`, `memory_limit`, `resident_limit` and `cache_dir` may be others. The model, which may be
/// NULL, is one of them.
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
        let mut given = Given::default();
        given.json(settings_json)?;
        given.model(model_of(model)?.as_ref())?;
        *out = put(TrainingJob::resume(dir.as_ref(), &given.into_map())?, model, Arc::default())?;
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
