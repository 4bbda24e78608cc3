//! Writing GGUF: fields and the table of tensors first, then the tensors one after the other as they are made.

use std::io::{BufWriter, Write};
use std::path::Path;

use super::file::{ALIGNMENT, MAGIC, VERSION};
use crate::disk::writing;
use crate::error::{Error, Result};
use crate::formats::dtype::Dtype;
use crate::formats::Put;

/// A field to be written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Field {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Singles(Vec<f32>),
    Integers(Vec<i32>),
}

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Planned {
    pub name: String,
    /// Outermost first.
    pub shape: Vec<usize>,
    pub dtype: Dtype,
}

impl Planned {
    /// Bytes of its elements.
    pub fn bytes(&self) -> usize {
        self.dtype.bytes_of(self.shape.iter().product())
    }
}

/// Fields in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields(Vec<(String, Field)>);

impl Fields {
    /// Adds a field.
    pub fn add(&mut self, name: impl Into<String>, field: Field) {
        self.0.push((name.into(), field));
    }

    /// The header of a file with these fields and tensors, filled up to where the first tensor begins.
    pub(super) fn header(&self, tensors: &[Planned]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend((tensors.len() as u64).to_le_bytes());
        out.extend((self.0.len() as u64).to_le_bytes());
        for (name, field) in &self.0 {
            text(&mut out, name);
            value(&mut out, field);
        }
        let mut offset = 0u64;
        for t in tensors {
            text(&mut out, &t.name);
            out.extend((t.shape.len() as u32).to_le_bytes());
            t.shape.iter().rev().for_each(|&n| out.extend((n as u64).to_le_bytes()));
            out.extend(t.dtype.ggml().to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += t.bytes().next_multiple_of(ALIGNMENT) as u64;
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out
    }
}

/// Writes a whole file, whose name is for messages, and gives its bytes; `make` hands the bytes of the tensor of this
/// number on, in as many parts as it likes.
///
/// # Errors
/// When the file cannot be written; [`Error::Misuse`] where a tensor has other bytes than its shape and type take.
pub(crate) fn write(
    file: impl Write,
    path: &Path,
    fields: &Fields,
    tensors: &[Planned],
    mut make: impl FnMut(usize, Put) -> Result<()>,
) -> Result<u64> {
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let header = fields.header(tensors);
    let planned = tensors.iter().map(|t| t.bytes().next_multiple_of(ALIGNMENT)).sum::<usize>();
    let whole = Some((header.len() + planned) as u64);
    out.write_all(&header).map_err(writing(path, whole))?;
    let mut total = header.len();
    for (i, t) in tensors.iter().enumerate() {
        let mut made = 0;
        make(i, &mut |part| {
            made += part.len();
            out.write_all(part).map_err(writing(path, whole))
        })?;
        if made != t.bytes() {
            return Err(Error::Misuse(format!("{}: {made} bytes were made, {} were planned", t.name, t.bytes())));
        }
        let padded = made.next_multiple_of(ALIGNMENT);
        out.write_all(&vec![0; padded - made]).map_err(writing(path, whole))?;
        total += padded;
    }
    out.flush().map_err(writing(path, whole))?;
    Ok(total as u64)
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn value(out: &mut Vec<u8>, field: &Field) {
    let kind = |out: &mut Vec<u8>, n: u32| out.extend(n.to_le_bytes());
    let list = |out: &mut Vec<u8>, n: u32, len: usize| {
        kind(out, 9);
        kind(out, n);
        out.extend((len as u64).to_le_bytes());
    };
    match field {
        Field::U32(n) => {
            kind(out, 4);
            out.extend(n.to_le_bytes());
        }
        Field::F32(x) => {
            kind(out, 6);
            out.extend(x.to_le_bytes());
        }
        Field::Bool(b) => {
            kind(out, 7);
            out.push(*b as u8);
        }
        Field::Text(t) => {
            kind(out, 8);
            text(out, t);
        }
        Field::Texts(all) => {
            list(out, 8, all.len());
            all.iter().for_each(|t| text(out, t));
        }
        Field::Singles(all) => {
            list(out, 6, all.len());
            all.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        Field::Integers(all) => {
            list(out, 5, all.len());
            all.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
    }
}
