//! Statuses and this thread's last error.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{c_char, CStr, CString};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr::null;
use std::sync::Once;

use sftmix::Error;

/// What a call returns. Each number stays what it is; a later version may add some.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum sftmix_status {
    /// It worked.
    Ok = 0,
    /// A file could not be read or written: `path`, `reason`.
    Io = 1,
    /// A setting is out of range, contradicts another or the run that is resumed: `field`, `reason`.
    InvalidConfig = 2,
    /// The model is of a kind that is not supported: `path`, `reason`.
    ModelNotSupported = 3,
    /// A file of the model is damaged: `path`, `tensor`, `reason`.
    ModelFormat = 4,
    /// The tokenizer could not be read or used: `path`, `reason`.
    Tokenizer = 5,
    /// A chat template cannot be used, or refuses a conversation: `path`, `reason`.
    ChatTemplate = 6,
    /// A row of the data cannot be used: `path`, `row`, `reason`.
    DataInvalid = 7,
    /// No example is left to train on: `reason`.
    NothingToTrain = 8,
    /// A stage ended with every trained number as it began: `reason`.
    NothingTrained = 9,
    /// An adapter is damaged or does not fit the model: `path`, `reason`.
    Adapter = 10,
    /// An adapter was trained on another base: `adapter`, `what`, `trained_on`, `expected`, `base`, `found`.
    BaseMismatch = 11,
    /// What was written is not what it was made from: `path`, `what`, `difference`, `bound`.
    ExportMismatch = 12,
    /// A dynamics log is damaged or does not fit the data: `path`, `reason`.
    Dynamics = 13,
    /// A run folder or checkpoint is damaged or in the way: `path`, `reason`.
    Checkpoint = 14,
    /// A loss or gradient stopped being a finite number: `what`.
    NonFinite = 15,
    /// The job was stopped: `checkpoint`, where one was written.
    Stopped = 16,
    /// The device is absent or does not work: `device`, `reason`.
    Device = 17,
    /// The device has too little memory: `reason`.
    DeviceMemory = 18,
    /// More memory is needed than was granted: `limit`, `needed` (bytes), `savings` (a JSON list of changes and bytes).
    MemoryLimit = 19,
    /// An operation on tensors failed: `reason`.
    Tensor = 20,
    /// The caller broke what the function asks for: `reason`.
    Misuse = 21,
    /// A callback said that it failed: `reason`.
    Callback = 22,
    /// Threads could not be started, or one panicked: `reason`.
    Threads = 23,
    /// A folder holds no dynamics log: `path`; `taken_from`, the earlier run that the run took its dynamics from.
    NoDynamics = 24,
    /// A model of this name is not in the local cache: `name`, `cache`, `reason`; the message says the command that downloads it.
    ModelNotFound = 25,
    /// A model could not be downloaded; what was fetched of it stays: `url`, `reason`.
    Download = 26,
    /// An error that this interface has no number for: `reason`.
    Other = 99,
    /// An argument is NULL, no UTF-8, or a structure of no known size: `field`, `reason`.
    InvalidArgument = 100,
    /// A handle was freed, is of another kind, or never was one: `reason`.
    InvalidHandle = 101,
    /// The process was forked after the library was used; the child cannot use it: `reason`.
    Forked = 102,
    /// A fault in the library; what the call worked on may be in no good state: `reason`.
    Panic = 103,
}

/// Why a call failed.
#[derive(Debug)]
pub struct Fail {
    pub status: sftmix_status,
    pub message: String,
    pub fields: Vec<(&'static str, String)>,
}

pub type Result<T, E = Fail> = std::result::Result<T, E>;

impl Fail {
    pub fn new(status: sftmix_status, reason: impl Into<String>) -> Fail {
        let reason = reason.into();
        Fail { status, message: reason.clone(), fields: vec![("reason", reason)] }
    }

    pub fn argument(field: &str, reason: &str) -> Fail {
        Fail {
            status: sftmix_status::InvalidArgument,
            message: format!("argument {field}: {reason}"),
            fields: vec![("field", field.into()), ("reason", reason.into())],
        }
    }

    pub fn setting(field: &str, reason: impl Into<String>) -> Fail {
        Error::InvalidConfig { field: field.into(), reason: reason.into() }.into()
    }
}

impl From<Error> for Fail {
    fn from(e: Error) -> Fail {
        use sftmix_status as S;
        let message = e.to_string();
        let shown = |p: &std::path::Path| p.display().to_string();
        let at = |path: &std::path::Path, reason: &str| vec![("path", shown(path)), ("reason", reason.to_string())];
        let alone = |reason: &str| vec![("reason", reason.to_string())];
        let (status, fields) = match &e {
            Error::Io { path, source } => (S::Io, at(path, &source.to_string())),
            Error::InvalidConfig { field, reason } => {
                (S::InvalidConfig, vec![("field", field.clone()), ("reason", reason.clone())])
            }
            Error::ModelNotSupported { path, reason } => (S::ModelNotSupported, at(path, reason)),
            Error::ModelFormat { path, tensor, reason } => {
                (S::ModelFormat, [at(path, reason), vec![("tensor", tensor.clone())]].concat())
            }
            Error::Tokenizer { path, reason } => (S::Tokenizer, at(path, reason)),
            Error::ChatTemplate { path, reason } => (S::ChatTemplate, at(path, reason)),
            Error::DataInvalid { path, row, reason } => {
                (S::DataInvalid, [at(path, reason), vec![("row", row.to_string())]].concat())
            }
            Error::NothingToTrain { reason } => (S::NothingToTrain, alone(reason)),
            Error::NothingTrained { reason } => (S::NothingTrained, alone(reason)),
            Error::Adapter { path, reason } => (S::Adapter, at(path, reason)),
            Error::BaseMismatch(m) => {
                let fields = vec![
                    ("adapter", shown(&m.adapter)),
                    ("what", m.what.to_string()),
                    ("trained_on", m.trained_on.clone()),
                    ("expected", m.expected.clone()),
                    ("base", shown(&m.base)),
                    ("found", m.found.clone()),
                ];
                (S::BaseMismatch, fields)
            }
            Error::ExportMismatch { path, what, difference, bound } => {
                let fields = vec![
                    ("path", shown(path)),
                    ("what", what.clone()),
                    ("difference", difference.to_string()),
                    ("bound", bound.to_string()),
                ];
                (S::ExportMismatch, fields)
            }
            Error::Dynamics { path, reason } => (S::Dynamics, at(path, reason)),
            Error::NoDynamics { path, from } => {
                let fields = [Some(("path", shown(path))), from.as_ref().map(|f| ("taken_from", shown(f)))];
                (S::NoDynamics, fields.into_iter().flatten().collect())
            }
            Error::ModelNotFound { name, cache, reason } => {
                (S::ModelNotFound, vec![("name", name.clone()), ("cache", shown(cache)), ("reason", reason.clone())])
            }
            Error::Download { url, reason } => (S::Download, vec![("url", url.clone()), ("reason", reason.clone())]),
            Error::Checkpoint { path, reason } => (S::Checkpoint, at(path, reason)),
            Error::NonFinite { what } => (S::NonFinite, vec![("what", what.clone())]),
            Error::Stopped { checkpoint } => {
                (S::Stopped, checkpoint.iter().map(|path| ("checkpoint", shown(path))).collect())
            }
            Error::Device { device, reason } => {
                (S::Device, vec![("device", device.clone()), ("reason", reason.clone())])
            }
            Error::DeviceMemory(reason) => (S::DeviceMemory, alone(reason)),
            Error::MemoryLimit { limit, needed, savings } => {
                let savings = serde_json::to_string(savings).unwrap_or_default();
                let fields = vec![("limit", limit.to_string()), ("needed", needed.to_string()), ("savings", savings)];
                (S::MemoryLimit, fields)
            }
            Error::Tensor(e) => (S::Tensor, alone(&e.to_string())),
            Error::Misuse(reason) => (S::Misuse, alone(reason)),
            Error::Callback { reason } => (S::Callback, alone(reason)),
            Error::Threads(reason) => (S::Threads, alone(reason)),
            // The enum may grow before this file does.
            _ => (S::Other, alone(&message)),
        };
        Fail { status, message, fields }
    }
}

struct Last {
    status: sftmix_status,
    message: CString,
    fields: Vec<(&'static str, CString)>,
}

thread_local! {
    static LAST: RefCell<Last> =
        RefCell::new(Last { status: sftmix_status::Ok, message: CString::default(), fields: Vec::new() });
    static REASON: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A text for C: a NUL inside it becomes U+FFFD.
pub fn c_text(text: &str) -> CString {
    CString::new(text).unwrap_or_else(|_| CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default())
}

/// A caller's program has its own stderr: what a thread says as it panics goes to the log.
fn quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|panic| log::error!("{panic}"))));
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

/// The body of every function: neither an error nor a panic leaves it.
pub fn guard(body: impl FnOnce() -> Result<()>) -> sftmix_status {
    quiet();
    let fail = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return sftmix_status::Ok,
        Ok(Err(fail)) => fail,
        Err(panic) => Fail::new(sftmix_status::Panic, panic_text(&*panic)),
    };
    let status = fail.status;
    let last = Last {
        status,
        message: c_text(&fail.message),
        fields: fail.fields.iter().map(|(name, text)| (*name, c_text(text))).collect(),
    };
    // A thread that is ending keeps none.
    let _ = LAST.try_with(|l| *l.borrow_mut() = last);
    status
}

/// Why the last call of this thread that failed did so, in a sentence; empty before any. Never NULL; the text is the
/// library's and stays until the next call of this thread that fails.
#[unsafe(no_mangle)]
pub extern "C" fn sftmix_last_error() -> *const c_char {
    LAST.try_with(|l| l.borrow().message.as_ptr()).unwrap_or(c"".as_ptr())
}

/// The status of the last call of this thread that failed; `SFTMIX_STATUS_OK` before any.
#[unsafe(no_mangle)]
pub extern "C" fn sftmix_last_error_status() -> sftmix_status {
    LAST.try_with(|l| l.borrow().status).unwrap_or(sftmix_status::Ok)
}

/// A part of this thread's last error by its name, such as `path`, `row`, `field`, `reason`, `needed`, `limit`,
/// `checkpoint`: `sftmix_status` says which it has. NULL where it has none of this name. The text is the library's and
/// stays until the next call of this thread that fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_last_error_field(name: *const c_char) -> *const c_char {
    if name.is_null() {
        return null();
    }
    // SAFETY: the caller's text ends in a NUL.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    let find = |last: &Last| last.fields.iter().find(|(n, _)| n.as_bytes() == name).map(|(_, text)| text.as_ptr());
    LAST.try_with(|l| find(&l.borrow())).ok().flatten().unwrap_or(null())
}

/// For a callback that fails: says why, before it returns. The text (copied) becomes the `reason` of the
/// `SFTMIX_STATUS_CALLBACK` that the call or job ends with. NULL says nothing. What is said outside of a callback, or by one
/// that then answers that it did not fail, is forgotten.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_callback_failed(reason: *const c_char) {
    if reason.is_null() {
        return;
    }
    // SAFETY: the caller's text ends in a NUL.
    let reason = unsafe { CStr::from_ptr(reason) }.to_string_lossy().into_owned();
    let _ = REASON.try_with(|r| *r.borrow_mut() = Some(reason));
}

/// Calls a callback; gives its answer, and why it fails where it said so. What was said before, by nobody or by a callback
/// that this one is called within, is none of its business.
pub fn called<T>(call: impl FnOnce() -> T) -> (T, Option<String>) {
    let swap = |reason| REASON.try_with(|r| r.replace(reason)).ok().flatten();
    let before = swap(None);
    let answer = call();
    (answer, swap(before))
}

/// Why a callback failed.
pub fn reason(said: Option<String>) -> String {
    said.unwrap_or_else(|| "it did not say why".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &CStr) -> Option<String> {
        let text = unsafe { sftmix_last_error_field(name.as_ptr()) };
        (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_string())
    }

    #[test]
    fn a_panic_is_a_status() {
        assert_eq!(guard(|| panic!("of {}", 7)), sftmix_status::Panic);
        assert_eq!((sftmix_last_error_status(), field(c"reason").as_deref()), (sftmix_status::Panic, Some("of 7")));
        assert_eq!(guard(|| Ok(())), sftmix_status::Ok);
        assert_eq!(sftmix_last_error_status(), sftmix_status::Panic);
    }

    #[test]
    fn fields_are_the_variants_own() {
        let savings = vec![("recompute on".to_string(), 5)];
        guard(|| Err(Error::MemoryLimit { limit: 1, needed: 2, savings }.into()));
        assert_eq!(field(c"savings").as_deref(), Some(r#"[["recompute on",5]]"#));
        assert_eq!((field(c"limit").as_deref(), field(c"needed").as_deref()), (Some("1"), Some("2")));
        guard(|| Err(Error::DataInvalid { path: "a\0b".into(), row: 3, reason: "r".into() }.into()));
        assert_eq!((field(c"path").as_deref(), field(c"row").as_deref()), (Some("a\u{fffd}b"), Some("3")));
        guard(|| Err(Error::Stopped { checkpoint: None }.into()));
        assert_eq!(field(c"checkpoint"), None);
    }

    /// What no caller can bring about: faults of ours, and of devices.
    #[test]
    fn faults_that_no_call_provokes_have_their_statuses_too() {
        let mismatch = Error::ExportMismatch { path: "p".into(), what: "logits".into(), difference: 0.5, bound: 0.25 };
        assert_eq!(guard(|| Err(mismatch.into())), sftmix_status::ExportMismatch);
        let fields = [c"path", c"what", c"difference", c"bound"].map(field);
        assert_eq!(fields.map(Option::unwrap), ["p", "logits", "0.5", "0.25"]);
        assert_eq!(guard(|| Err(Error::DeviceMemory("m".into()).into())), sftmix_status::DeviceMemory);
        assert_eq!(field(c"reason").as_deref(), Some("m"));
        assert_eq!(guard(|| Err(Error::Threads("t".into()).into())), sftmix_status::Threads);
        assert_eq!(field(c"reason").as_deref(), Some("t"));
    }

    #[test]
    fn each_thread_has_its_own() {
        guard(|| Err(Fail::argument("x", "y")));
        std::thread::spawn(|| assert_eq!(sftmix_last_error_status(), sftmix_status::Ok)).join().unwrap();
        assert_eq!(sftmix_last_error_status(), sftmix_status::InvalidArgument);
    }

    #[test]
    fn a_reason_is_that_of_the_callback_that_said_it() {
        let say = |text: &CStr| unsafe { sftmix_callback_failed(text.as_ptr()) };
        say(c"outside");
        let (inner, outer) = called(|| {
            say(c"outer");
            let (_, silent) = called(|| ());
            let (_, inner) = called(|| say(c"inner"));
            assert_eq!(silent, None);
            inner
        });
        assert_eq!((inner.as_deref(), outer.as_deref()), (Some("inner"), Some("outer")));
        assert_eq!(called(|| ()).1, None);
    }
}
