//! The library's log on stderr: warnings, and more where `SFTMIX_LOG` asks.

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::output;

struct Logger;

impl Log for Logger {
    fn enabled(&self, m: &Metadata<'_>) -> bool {
        // What other crates have to say below a warning is not about the user's run.
        m.level() <= log::max_level() && (m.level() <= Level::Warn || m.target().starts_with("sftmix"))
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = match record.level() {
                Level::Error => "error",
                Level::Warn => "warning",
                Level::Info => "info",
                Level::Debug => "debug",
                Level::Trace => "trace",
            };
            output::note(&format!("{level}: {}", record.args()));
        }
    }

    fn flush(&self) {}
}

/// Installs the logger; an unknown level is said and ignored.
pub fn install() {
    if log::set_logger(&Logger).is_err() {
        return;
    }
    log::set_max_level(LevelFilter::Warn);
    if let Ok(text) = std::env::var("SFTMIX_LOG") {
        match text.parse::<LevelFilter>() {
            Ok(level) => log::set_max_level(level),
            Err(_) if text.is_empty() => {}
            Err(_) => log::warn!("SFTMIX_LOG: expected off, error, warn, info, debug or trace, found {text:?}"),
        }
    }
}
