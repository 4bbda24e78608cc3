//! What the process has spent.

/// Seconds of CPU time of all threads so far; `None` where the system does not tell in this way.
pub(super) fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything; state is the first field behind it.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    // Linux counts in hundredths wherever Rust's standard library runs on it.
    Some((user + system) as f64 / 100.0)
}

/// Makes the system forget the peak of resident memory, where it can.
pub(super) fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}
