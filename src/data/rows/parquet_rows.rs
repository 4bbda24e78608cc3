//! Rows of a Parquet file. Pages are read as rows need them; lists and structs become JSON's.

use std::fs::File;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;

use parquet::basic::{ConvertedType, LogicalType, Repetition};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::{Map, Number, Value};

use super::raw::{RawRows, RowParser, MAX_ROW_BYTES};
use crate::error::{panic_text, Error, Result};

/// Reads the rows of a file.
pub(crate) struct ParquetRows {
    parser: RowParser,
    rows: RowIter<'static>,
    row: u64,
}

impl ParquetRows {
    /// Opens a file and reads its schema.
    pub fn open(path: &Path) -> Result<ParquetRows> {
        let parser = RowParser::new(path);
        let file = File::open(path).map_err(Error::io(path))?;
        let opened = guarded(|| SerializedFileReader::new(file).map_err(|e| e.to_string()));
        let reader = opened.map_err(|e| parser.fault(1, format!("not a Parquet file: {e}")))?;
        let schema = reader.metadata().file_metadata().schema();
        if let Some(name) = bare_repetition(schema, true) {
            let reason = format!("column {name}: repeated without being a list, which is not supported");
            return Err(parser.fault(1, reason));
        }
        Ok(ParquetRows { parser, rows: RowIter::from_file_into(Box::new(reader)), row: 0 })
    }
}

/// About how many bytes reading a file holds: of each column a dictionary and a page, packed and not.
pub(crate) fn held_bytes(path: &Path) -> usize {
    /// Writers close a page or a dictionary at 1 MiB.
    const PAGES: i64 = 4 << 20;
    let opened =
        File::open(path).ok().and_then(|f| guarded(|| SerializedFileReader::new(f).map_err(|e| e.to_string())).ok());
    let Some(reader) = opened else { return 0 };
    let of = |group: &parquet::file::metadata::RowGroupMetaData| -> i64 {
        group.columns().iter().map(|c| (c.uncompressed_size().max(0) + c.compressed_size().max(0)).min(PAGES)).sum()
    };
    reader.metadata().row_groups().iter().map(of).max().unwrap_or(0) as usize
}

impl RawRows for ParquetRows {
    fn next_raw(&mut self, bytes: &mut Vec<u8>) -> Result<Option<u64>> {
        let rows = &mut self.rows;
        let next = guarded(|| rows.next().transpose().map_err(|e| e.to_string()));
        let fault = |e: String| self.parser.fault(self.row + 1, e);
        let Some(row) = next.map_err(|e| fault(format!("not readable as Parquet: {e}")))? else { return Ok(None) };
        let object = object(&row).map_err(&fault)?;
        let start = bytes.len();
        serde_json::to_writer(&mut *bytes, &object).map_err(|e| fault(e.to_string()))?;
        if bytes.len() - start > MAX_ROW_BYTES {
            return Err(fault(format!("the row is longer than {} MiB", MAX_ROW_BYTES >> 20)));
        }
        self.row += 1;
        Ok(Some(self.row))
    }
}

/// The library panics on what it does not know.
fn guarded<T>(body: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(panic_text(&*panic).to_string()))
}

/// A field that repeats and is neither list nor map: the library's rows of such are wrong (arrow-rs #2394).
fn bare_repetition(at: &Type, top: bool) -> Option<String> {
    if !at.is_group() {
        return None;
    }
    let info = at.get_basic_info();
    let listed = !top
        && (matches!(info.logical_type_ref(), Some(LogicalType::List | LogicalType::Map))
            || matches!(
                info.converted_type(),
                ConvertedType::LIST | ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE
            ));
    at.get_fields().iter().find_map(|field| {
        let info = field.get_basic_info();
        let repeats = info.has_repetition() && info.repetition() == Repetition::REPEATED;
        if repeats && !listed {
            return Some(field.name().to_string());
        }
        bare_repetition(field, false)
    })
}

fn object(row: &Row) -> Result<Map<String, Value>, String> {
    row.get_column_iter()
        .map(|(name, field)| Ok((name.clone(), value(field).map_err(|e| format!("{name}: {e}"))?)))
        .collect()
}

fn value(field: &Field) -> Result<Value, String> {
    let float = |x: f64| Number::from_f64(x).map(Value::Number).ok_or_else(|| format!("{x} is no number in JSON"));
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(b) => (*b).into(),
        Field::Byte(n) => (*n).into(),
        Field::Short(n) => (*n).into(),
        Field::Int(n) => (*n).into(),
        Field::Long(n) => (*n).into(),
        Field::UByte(n) => (*n).into(),
        Field::UShort(n) => (*n).into(),
        Field::UInt(n) => (*n).into(),
        Field::ULong(n) => (*n).into(),
        Field::Float16(x) => float(x.to_f64())?,
        // By its digits: 0.1 is not to become 0.10000000149011612.
        Field::Float(x) => float(x.to_string().parse().unwrap_or(f64::from(*x)))?,
        Field::Double(x) => float(*x)?,
        Field::Str(s) => s.as_str().into(),
        Field::Bytes(b) => match std::str::from_utf8(b.data()) {
            Ok(text) => text.into(),
            Err(_) => return Err("expected text, found bytes that are not in UTF-8".into()),
        },
        Field::Group(row) => Value::Object(object(row)?),
        Field::ListInternal(list) => list.elements().iter().map(value).collect::<Result<_, _>>()?,
        Field::MapInternal(map) => {
            let pair = |(key, v): &(Field, Field)| match value(key)? {
                Value::String(key) => Ok((key, value(v)?)),
                other => Ok((other.to_string(), value(v)?)),
            };
            Value::Object(map.entries().iter().map(pair).collect::<Result<_, String>>()?)
        }
        // Dates, times and decimals, as text.
        other => other.to_string().into(),
    })
}
