//! Memory: the library's own account of what it holds, and what the system says of the process.

mod account;

pub use account::{Account, Charge};

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Duration;

/// Bytes as people write them: `600MiB`, `1.5 GiB`, `200MB`, `4096`.
///
/// # Errors
/// Says what was expected.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let unit: f64 = match text[at..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1048576.0,
        "g" | "gib" => 1073741824.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        _ => f64::NAN,
    };
    match text[..at].trim().parse::<f64>().map(|n| n * unit) {
        Ok(n) if n.is_finite() && n >= 1.0 => Ok(n as u64),
        _ => Err(format!("expected bytes as 600MiB or 1.5GiB, found {text:?}")),
    }
}

/// Bytes for people: two or three digits in MiB or GiB.
pub(crate) fn show_bytes(bytes: u64) -> String {
    match bytes as f64 / 1048576.0 {
        m if m < 10.0 => format!("{m:.1} MiB"),
        m if m < 10240.0 => format!("{m:.0} MiB"),
        m => format!("{:.1} GiB", m / 1024.0),
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_people_write_them() {
        let read = |s: &str| parse_bytes(s).unwrap();
        assert_eq!(
            [read("600MiB"), read("1.5 GiB"), read("200MB"), read("4096")],
            [629145600, 1610612736, 200000000, 4096]
        );
        assert_eq!(read("2g"), 2 << 30);
        for bad in ["", "MiB", "-1", "12 parsecs", "0", "nan", "infGB"] {
            assert!(parse_bytes(bad).unwrap_err().contains("600MiB"), "{bad}");
        }
        assert_eq!(
            [show_bytes(1 << 20), show_bytes(600 << 20), show_bytes(20 << 30)],
            ["1.0 MiB", "600 MiB", "20.0 GiB"]
        );
    }
}
