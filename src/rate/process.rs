//! What the process has spent.

/// Seconds of CPU time of all threads so far; `None` where the system does not tell in this way.
pub(crate) fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything; state is the first field behind it.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    // Linux counts in hundredths wherever Rust's standard library runs on it.
    Some((user + system) as f64 / 100.0)
}

/// Makes the system forget the peak of resident memory, where it can.
pub(crate) fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Seconds since this process was started; `None` where the system does not tell.
pub(crate) fn seconds_since_start() -> Option<f64> {
    // Field 22 of stat, counted behind the name in parentheses, in ticks of 10 ms (USER_HZ is 100 on Linux).
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let started: f64 = stat.rsplit_once(") ")?.1.split_whitespace().nth(19)?.parse().ok()?;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    Some(uptime.split_whitespace().next()?.parse::<f64>().ok()? - started / 100.0)
}
