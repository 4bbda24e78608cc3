//! Asking what takes long to stop.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;

/// Whether to end something; it is told whether anything was made since it began that the next attempt need not make
/// again, without which one attempt after the other could end where it began.
pub(crate) type StopIf<'a> = &'a dyn Fn(bool) -> bool;

/// Asks a job to stop; safe from any thread. It takes effect within one micro-batch.
#[derive(Clone, Debug, Default)]
pub struct StopHandle(Arc<AtomicBool>);

impl StopHandle {
    /// Asks for the stop.
    pub fn stop(&self) {
        self.0.store(true, Relaxed);
    }

    /// Forgets that it was asked for.
    pub(crate) fn reset(&self) {
        self.0.store(false, Relaxed);
    }

    /// Whether it was asked for.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Relaxed)
    }
}
