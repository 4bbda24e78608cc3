//! Writing safetensors: a header that names every tensor, then their bytes, handed on as they are made.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use safetensors::Dtype;
use serde_json::{json, Map, Value};

use super::Put;
use crate::disk::writing;
use crate::error::{Error, Result};

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [usize],
    /// Bytes of its elements.
    pub bytes: usize,
}

/// The header of a file of these tensors in this order, its length in front: the first tensor begins behind it.
pub(crate) fn header(metadata: Option<Value>, entries: &[Entry]) -> Vec<u8> {
    let mut all = Map::new();
    all.extend(metadata.map(|m| ("__metadata__".to_string(), m)));
    let mut offset = 0;
    for e in entries {
        let end = offset + e.bytes;
        all.insert(e.name.into(), json!({"dtype": e.dtype, "shape": e.shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let mut text = Value::Object(all).to_string().into_bytes();
    // The data begins at a multiple of 8.
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes(), text.as_slice()].concat()
}

/// Writes a file of these tensors in this order; `make` hands the bytes of the one of this number on, in as many parts
/// as it likes. The bytes are those of `safetensors::serialize` where the order is.
///
/// # Errors
/// When the file cannot be written; [`Error::Misuse`] where a tensor has other bytes than were announced.
pub(crate) fn write(
    path: &Path,
    metadata: Option<Value>,
    entries: &[Entry],
    mut make: impl FnMut(usize, Put) -> Result<()>,
) -> Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(Error::io(path))?);
    let header = header(metadata, entries);
    let whole = Some((header.len() + entries.iter().map(|e| e.bytes).sum::<usize>()) as u64);
    out.write_all(&header).map_err(writing(path, whole))?;
    for (i, e) in entries.iter().enumerate() {
        let mut made = 0;
        make(i, &mut |part| {
            made += part.len();
            out.write_all(part).map_err(writing(path, whole))
        })?;
        if made != e.bytes {
            return Err(Error::Misuse(format!("{}: {made} bytes were made, {} were announced", e.name, e.bytes)));
        }
    }
    out.flush().map_err(writing(path, whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;
    use std::collections::HashMap;

    /// The library's own order: wider types first, then names.
    #[test]
    fn bytes_are_those_of_safetensors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let all = [
            ("b", Dtype::I64, vec![1], vec![1u8; 8]),
            ("a", Dtype::F32, vec![2, 3], (0..24).collect()),
            ("long \"name\"", Dtype::F32, vec![], vec![9; 4]),
            ("none", Dtype::F32, vec![0, 4], vec![]),
            ("c", Dtype::BF16, vec![5], (0..10).collect()),
        ];
        let entries =
            || all.iter().map(|(name, dtype, shape, bytes)| Entry { name, dtype: *dtype, shape, bytes: bytes.len() });
        let entries: Vec<Entry> = entries().collect();
        for metadata in [None, Some(HashMap::from([("format".to_string(), "pt".to_string())]))] {
            let views = all.iter().map(|(n, d, s, b)| (*n, TensorView::new(*d, s.clone(), b).unwrap()));
            let want = safetensors::serialize(views, metadata.clone()).unwrap();
            // In parts of one byte, and whole.
            for part in [1, 100] {
                write(&path, metadata.as_ref().map(|m| json!(m)), &entries, |i, put| {
                    all[i].3.chunks(part).try_for_each(&mut *put)
                })
                .unwrap();
                assert_eq!(std::fs::read(&path).unwrap(), want);
            }
        }
        let error = write(&path, None, &entries, |i, put| put(&all[i].3[..all[i].3.len().min(9)])).unwrap_err();
        assert!(matches!(error, Error::Misuse(_)) && error.to_string().contains("a: 9 bytes"), "{error}");
    }
}
