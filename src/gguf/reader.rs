//! Reading the parts of a GGUF header one after the other, never beyond the file.

use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result};

/// Most dimensions of a tensor.
const DIMENSIONS: usize = 4;
/// The numbers of the types of texts and lists.
pub(crate) const TEXT: u32 = 8;
const LIST: u32 = 9;

/// A field's value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Text(String),
    /// Elements of one type, where they stand in the file.
    List {
        kind: u32,
        len: usize,
        bytes: Range<usize>,
    },
}

/// Bytes of an element of a list, by the type's number; `None` for texts, lists, and types there are not.
fn width(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// The error for a field or tensor of a file.
pub(crate) fn fault(path: &Path, name: &str, reason: String) -> Error {
    Error::ModelFormat { path: path.into(), tensor: name.into(), reason }
}

/// Reads one thing after the other; `what` names it in errors.
pub(crate) struct Reader<'a> {
    pub path: &'a Path,
    pub bytes: &'a [u8],
    pub at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8]> {
        let left = self.bytes.len() - self.at;
        if n > left as u64 {
            let reason = format!("{n} bytes at {}, but {left} are left: the file is truncated or damaged", self.at);
            return Err(fault(self.path, what, reason));
        }
        self.at += n as usize;
        Ok(&self.bytes[self.at - n as usize..self.at])
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    pub fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub fn text(&mut self, what: &str) -> Result<String> {
        let length = self.u64(what)?;
        let bytes = self.take(length, what)?;
        // Vocabularies of byte-level models hold whole characters, but not every writer checked.
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    pub fn value(&mut self, name: &str, kind: u32) -> Result<Value> {
        Ok(match kind {
            0 => Value::Unsigned(self.array::<1>(name)?[0] as u64),
            1 => Value::Signed(i8::from_le_bytes(self.array(name)?) as i64),
            2 => Value::Unsigned(u16::from_le_bytes(self.array(name)?) as u64),
            3 => Value::Signed(i16::from_le_bytes(self.array(name)?) as i64),
            4 => Value::Unsigned(self.u32(name)? as u64),
            5 => Value::Signed(i32::from_le_bytes(self.array(name)?) as i64),
            6 => Value::F32(f32::from_le_bytes(self.array(name)?)),
            7 => Value::Bool(self.array::<1>(name)?[0] != 0),
            TEXT => Value::Text(self.text(name)?),
            LIST => self.list(name)?,
            10 => Value::Unsigned(self.u64(name)?),
            11 => Value::Signed(i64::from_le_bytes(self.array(name)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(name)?)),
            _ => return Err(fault(self.path, name, format!("type {kind} of a field is not known"))),
        })
    }

    fn list(&mut self, name: &str) -> Result<Value> {
        let kind = self.u32(name)?;
        let len = self.u64(name)?;
        let start = self.at;
        match (kind, width(kind)) {
            (_, Some(width)) => {
                let bytes = len.saturating_mul(width as u64);
                self.take(bytes, name)?;
            }
            (TEXT, _) => {
                for _ in 0..len {
                    let length = self.u64(name)?;
                    self.take(length, name)?;
                }
            }
            _ => return Err(fault(self.path, name, format!("lists of type {kind} are not supported"))),
        }
        Ok(Value::List { kind, len: len as usize, bytes: start..self.at })
    }

    pub fn tensor(&mut self, i: u64) -> Result<(String, Vec<usize>, u32, u64)> {
        let name = self.text(&format!("tensor {i}"))?;
        let dimensions = self.u32(&name)? as usize;
        if dimensions > DIMENSIONS {
            return Err(fault(self.path, &name, format!("{dimensions} dimensions, expected at most {DIMENSIONS}")));
        }
        let mut shape = Vec::with_capacity(dimensions);
        for _ in 0..dimensions {
            let n = self.u64(&name)?;
            let n = usize::try_from(n).map_err(|_| fault(self.path, &name, format!("a dimension of {n}")))?;
            shape.push(n);
        }
        shape.reverse();
        Ok((name.clone(), shape, self.u32(&name)?, self.u64(&name)?))
    }
}
