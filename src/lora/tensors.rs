//! Files of f32 matrices, read and written one matrix at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use memmap2::Mmap;
use safetensors::SafeTensors;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::formats;
use crate::formats::dtype::{le_bytes, Dtype};
use crate::formats::safetensors::Entry;
use crate::held::lfs_pointer;

/// Tensors by name: shape and numbers.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// A matrix or a vector to be written.
pub struct Matrix<'a> {
    /// Rows and columns, or elements.
    pub shape: Vec<usize>,
    /// Row-major.
    pub data: &'a [f32],
}

/// Every tensor of a safetensors file, converted from F32, F16 or BF16. Each of its numbers is finite: a run that ended in
/// NaN leaves an adapter that turns every result into NaN, and what names it is the file, not the result.
pub fn load_tensors(path: &Path) -> Result<Tensors> {
    let fault = |reason: String| Error::Adapter { path: path.into(), reason };
    let file = File::open(path).map_err(Error::io(path))?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    if length < 8 {
        return Err(fault(format!("expected at least 8 bytes, found {length}: truncated")));
    }
    // SAFETY: read-only, and gone when this function returns.
    let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
    if let Some(reason) = lfs_pointer(&map) {
        return Err(fault(reason));
    }
    let tensors =
        SafeTensors::deserialize(&map).map_err(|e| fault(format!("truncated or damaged ({length} bytes): {e}")))?;
    let mut out = BTreeMap::new();
    for (name, view) in tensors.iter() {
        let Some(dtype) = Dtype::from_safetensors(view.dtype()) else {
            return Err(fault(format!("{name}: expected F32, F16 or BF16, found {:?}", view.dtype())));
        };
        let mut data = vec![0.0; view.data().len() / dtype.block_bytes()];
        dtype.decode(view.data(), &mut data);
        if let Some(at) = data.iter().position(|v| !v.is_finite()) {
            return Err(fault(format!(
                "{name}: number {} of {} is {}, expected a finite one",
                at + 1,
                data.len(),
                data[at]
            )));
        }
        out.insert(name.to_string(), (view.shape().to_vec(), data));
    }
    Ok(out)
}

/// What `safetensors::serialize` writes, without a second copy in memory. Fails when the file cannot be written.
pub fn write_tensors(path: &Path, metadata: Value, matrices: &BTreeMap<String, Matrix>) -> Result<()> {
    let entries: Vec<Entry> = matrices.iter().map(|(name, m)| entry(name, m)).collect();
    let all: Vec<&Matrix> = matrices.values().collect();
    formats::safetensors::write(path, Some(metadata), &entries, |i, put| put(&le_bytes(all[i].data)))
}

fn entry<'a>(name: &'a str, m: &'a Matrix) -> Entry<'a> {
    Entry { name, dtype: safetensors::Dtype::F32, shape: &m.shape, bytes: m.data.len() * 4 }
}
