//! What the library logs, for the caller. Nothing is ever printed.

use std::ffi::{c_char, c_int, c_void};
use std::sync::{Mutex, Once, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::fault::{c_text, guard, sftmix_status, Fail};
use crate::table;

/// Is told a line of the log: its level (1 error, 2 warning, 3 information, 4 debug, 5 trace), the part of the library it
/// is from, and the text. Both texts stay until it returns. It may be called from any thread, several at once.
pub type sftmix_log_callback =
    Option<unsafe extern "C" fn(user_data: *mut c_void, level: c_int, target: *const c_char, message: *const c_char)>;

type Call = unsafe extern "C" fn(*mut c_void, c_int, *const c_char, *const c_char);

#[derive(Clone, Copy)]
struct Told(Call, *mut c_void);

// SAFETY: the caller says that its callback may be called from any thread.
unsafe impl Send for Told {}

static TOLD: Mutex<Option<Told>> = Mutex::new(None);

struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata) -> bool {
        true
    }

    fn log(&self, record: &Record) {
        // Not held while it is called: it may call back in.
        let told = *TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Told(call, user_data)) = told {
            let (target, message) = (c_text(record.target()), c_text(&record.args().to_string()));
            let level = match record.level() {
                Level::Error => 1,
                Level::Warn => 2,
                Level::Info => 3,
                Level::Debug => 4,
                Level::Trace => 5,
            };
            // SAFETY: as the caller said.
            unsafe { call(user_data, level, target.as_ptr(), message.as_ptr()) };
        }
    }

    fn flush(&self) {}
}

/// Tells `callback` what the library logs, up to `level` (0 nothing to 5 all); NULL ends it. `user_data` is passed to it as
/// it is and must stay for as long as a call of it may be under way, which may be a little after it was replaced.
/// Without a callback nothing is logged anywhere. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_set_log_callback(
    level: c_int,
    callback: sftmix_log_callback,
    user_data: *mut c_void,
) -> sftmix_status {
    guard(|| {
        table::at_home()?;
        let most = match (level, callback) {
            (0, _) | (_, None) => LevelFilter::Off,
            (1, _) => LevelFilter::Error,
            (2, _) => LevelFilter::Warn,
            (3, _) => LevelFilter::Info,
            (4, _) => LevelFilter::Debug,
            (5, _) => LevelFilter::Trace,
            _ => return Err(Fail::argument("level", "expected 0 to 5")),
        };
        static ONCE: Once = Once::new();
        // Refused where a Rust program that links this library has a logger of its own; then that one is told.
        ONCE.call_once(|| _ = log::set_logger(&Logger));
        *TOLD.lock().unwrap_or_else(PoisonError::into_inner) = callback.map(|call| Told(call, user_data));
        log::set_max_level(most);
        Ok(())
    })
}
