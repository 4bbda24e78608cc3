//! What the library has to say beside its results goes to a listener of the host's, and nowhere without one.

use std::sync::{Arc, Mutex, Once, PoisonError, RwLock};

/// Is told what the library logs, on the thread that logs.
#[uniffi::export(with_foreign)]
pub trait LogListener: Send + Sync {
    /// `level` is error, warn, info or debug.
    fn on_log(&self, level: String, message: String);
}

static LISTENER: RwLock<Option<Arc<dyn LogListener>>> = RwLock::new(None);
static INSTALLED: Once = Once::new();
/// One listener is set at a time.
static SETTING: Mutex<()> = Mutex::new(());

struct Forward;

impl log::Log for Forward {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }

    fn log(&self, record: &log::Record) {
        let listener = LISTENER.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(listener) = listener.filter(|_| record.target().starts_with("sftmix")) {
            listener.on_log(record.level().as_str().to_lowercase(), record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// Sends what the library logs, down to `level` (error, warn, info or debug), to a listener of the whole process; without
/// one it is dropped.
#[uniffi::export(default(level = "warn"))]
pub fn set_log_listener(listener: Option<Arc<dyn LogListener>>, level: String) -> crate::error::Result<()> {
    let level: log::LevelFilter = level.parse().map_err(|_| sftmix::Error::InvalidConfig {
        field: "level".into(),
        reason: format!("expected error, warn, info or debug, found {level:?}"),
    })?;
    let _one = SETTING.lock().unwrap_or_else(PoisonError::into_inner);
    // Another logger of the process stays where it is.
    INSTALLED.call_once(|| drop(log::set_logger(&Forward)));
    log::set_max_level(if listener.is_some() { level } else { log::LevelFilter::Off });
    *LISTENER.write().unwrap_or_else(PoisonError::into_inner) = listener;
    Ok(())
}
