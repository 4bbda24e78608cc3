//! Rows that a caller hands over one by one: written through to `rows.jsonl` of the run folder, whole or not at all, so
//! that the run can be taken up from its folder alone, and none is held in memory.

use std::io::{BufWriter, Write};

use super::control::JobControl;
use crate::disk::{write_with, writing};
use crate::error::{Error, Result};
use crate::run::RunFolder;

/// Gives the next row, a JSON object as text, or `None` behind the last; its error ends the job and reaches the caller.
pub type RowSource = Box<dyn FnMut() -> Result<Option<String>, String> + Send>;

/// Writes all rows of the source.
///
/// # Errors
/// [`Error::Callback`] when the source fails, [`Error::DataInvalid`] names a row that is no JSON object,
/// [`Error::NothingToTrain`] where there is none, [`Error::Stopped`]. No file is left then, and a source that has given
/// rows is spent: what it gave cannot be asked for again.
pub(super) fn spool(folder: &RunFolder, source: &mut RowSource, control: &JobControl) -> Result<()> {
    let mut rows = 0;
    let written = write(folder, source, control, &mut rows);
    if written.is_err() {
        folder.drop_rows();
    }
    if written.is_err() && rows > 0 {
        *source = Box::new(|| Err("its rows were handed over in part before: set the job up anew".into()));
    }
    written
}

fn write(folder: &RunFolder, source: &mut RowSource, control: &JobControl, rows: &mut u64) -> Result<()> {
    let path = folder.rows();
    folder.claim_rows()?;
    write_with(&path, |file, _| {
        let mut out = BufWriter::new(file);
        loop {
            // A pause holds what comes behind: what was given cannot be asked for again.
            if control.stop_handle().is_stopped() {
                return Err(Error::Stopped { checkpoint: None });
            }
            let called = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut *source));
            let given = called.unwrap_or_else(|panic| Err(crate::error::panic_text(&*panic).to_string()));
            let Some(text) = given.map_err(|reason| Error::Callback { reason })? else { break };
            *rows += 1;
            let line =
                one_line(&text).map_err(|reason| Error::DataInvalid { path: path.clone(), row: *rows, reason })?;
            let written = out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n"));
            written.map_err(writing(&path, None))?;
        }
        if *rows == 0 {
            return Err(Error::NothingToTrain { reason: "the source of rows gave none".into() });
        }
        out.flush().map_err(writing(&path, None))
    })
}

/// The row as one line: as it was given, unless it is spread over several.
fn one_line(text: &str) -> Result<std::borrow::Cow<'_, str>, String> {
    let text = text.trim();
    if !text.starts_with('{') {
        return Err("expected a JSON object".into());
    }
    let invalid = |e: serde_json::Error| format!("not valid JSON: {e}");
    if !text.contains(['\n', '\r']) {
        // While the caller is there to be told which row it was.
        serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(invalid)?;
        return Ok(text.into());
    }
    let value: serde_json::Value = serde_json::from_str(text).map_err(invalid)?;
    Ok(value.to_string().into())
}
