//! Lines on stderr beside a status line that is written over, and tables on stdout.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Widest status line; a wider one would wrap and could not be written over.
const WIDTH: usize = 79;

/// Characters of the status line that stands on the terminal.
static STATUS: Mutex<usize> = Mutex::new(0);

fn status_width() -> MutexGuard<'static, usize> {
    STATUS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a status line can be written over.
pub fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// A line on stderr that stays. A closed stderr is not an error: nobody is there to be told.
pub fn note(line: &str) {
    let mut width = status_width();
    let clear = if *width > 0 { format!("\r{:width$}\r", "", width = *width) } else { String::new() };
    *width = 0;
    let _ = writeln!(std::io::stderr(), "{clear}{line}");
}

/// A line on stderr that the next one takes the place of.
pub fn status(line: &str) {
    let line: String = line.chars().take(WIDTH).collect();
    let mut width = status_width();
    let pad = width.saturating_sub(line.chars().count());
    *width = line.chars().count();
    let mut err = std::io::stderr();
    let _ = write!(err, "\r{line}{:pad$}", "").and_then(|()| err.flush());
}

/// Takes the status line away.
pub fn clear_status() {
    let mut width = status_width();
    if *width > 0 {
        let mut err = std::io::stderr();
        let _ = write!(err, "\r{:width$}\r", "", width = *width).and_then(|()| err.flush());
        *width = 0;
    }
}

/// Writes text to stdout.
pub fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes a JSON value to stdout, on one line.
pub fn print_json(value: &impl serde::Serialize) -> std::io::Result<()> {
    print(&format!("{}\n", serde_json::to_string(value)?))
}

/// Rows of name and value, the values below one another.
pub fn table(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}
