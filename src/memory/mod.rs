//! Memory: the library's own account of what it holds, and what the system says of the process.

mod account;

pub use account::{Account, Charge};

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Duration;

/// Anonymous resident bytes of this process (`RssAnon` of /proc/self/status); `None` where the system
/// does not tell.
pub fn anonymous_bytes() -> Option<u64> {
    status_bytes("RssAnon:")
}

/// Peak resident bytes of this process, maps included (`VmHWM`); `None` where the system does not tell.
pub fn peak_resident_bytes() -> Option<u64> {
    status_bytes("VmHWM:")
}

fn status_bytes(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}

/// Samples [`anonymous_bytes`] on a thread of its own until dropped: peak anonymous memory of the process.
/// Mapped weights are not anonymous: the system can drop them, so they do not count.
#[derive(Debug)]
pub struct PeakSampler {
    peak: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl PeakSampler {
    /// Starts sampling every 5 ms. Where the system does not tell, the peak stays `None`.
    pub fn start() -> PeakSampler {
        let (peak, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (p, d) = (peak.clone(), done.clone());
        let body = move || {
            while !d.load(Relaxed) {
                let Some(now) = anonymous_bytes() else { return };
                p.fetch_max(now, Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        let thread = std::thread::Builder::new().name("sftmix-memory".into()).spawn(body).ok();
        PeakSampler { peak, done, thread }
    }

    /// The largest sample so far, bytes.
    pub fn peak(&self) -> Option<u64> {
        if let Some(now) = anonymous_bytes() {
            self.peak.fetch_max(now, Relaxed);
        }
        Some(self.peak.load(Relaxed)).filter(|&p| p > 0)
    }
}

impl Drop for PeakSampler {
    fn drop(&mut self) {
        self.done.store(true, Relaxed);
        if let Some(t) = self.thread.take() {
            // The thread holds no lock and sleeps at most 5 ms.
            let _ = t.join();
        }
    }
}
