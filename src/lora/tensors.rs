//! Files of f32 matrices, read and written one matrix at a time.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use memmap2::Mmap;
use safetensors::SafeTensors;
use serde_json::{json, Map, Value};

use crate::error::{Error, Result};
use crate::formats::dtype::Dtype;

/// Tensors by name: shape and numbers.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// A matrix or a vector to be written.
pub struct Matrix<'a> {
    /// Rows and columns, or elements.
    pub shape: Vec<usize>,
    /// Row-major.
    pub data: &'a [f32],
}

/// Numbers as files hold them.
pub(super) fn le_bytes(data: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        // SAFETY: f32 has no padding, and every byte is a u8.
        Cow::Borrowed(unsafe { data.align_to::<u8>().1 })
    } else {
        Cow::Owned(data.iter().flat_map(|x| x.to_le_bytes()).collect())
    }
}

/// Every tensor of a safetensors file, converted from F32, F16 or BF16.
pub fn load_tensors(path: &Path) -> Result<Tensors> {
    let fault = |reason: String| Error::Adapter { path: path.into(), reason };
    let file = File::open(path).map_err(Error::io(path))?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    if length < 8 {
        return Err(fault(format!("expected at least 8 bytes, found {length}: truncated")));
    }
    // SAFETY: read-only, and gone when this function returns.
    let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
    let tensors =
        SafeTensors::deserialize(&map).map_err(|e| fault(format!("truncated or damaged ({length} bytes): {e}")))?;
    let mut out = BTreeMap::new();
    for (name, view) in tensors.iter() {
        let Some(dtype) = Dtype::from_safetensors(view.dtype()) else {
            return Err(fault(format!("{name}: expected F32, F16 or BF16, found {:?}", view.dtype())));
        };
        let mut data = vec![0.0; view.data().len() / dtype.block_bytes()];
        dtype.decode(view.data(), &mut data);
        out.insert(name.to_string(), (view.shape().to_vec(), data));
    }
    Ok(out)
}

/// What `safetensors::serialize` writes, without a second copy in memory.
pub fn write_tensors(path: &Path, metadata: Value, matrices: &BTreeMap<String, Matrix>) -> Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), metadata);
    let mut offset = 0;
    for (key, matrix) in matrices {
        let end = offset + matrix.data.len() * 4;
        header.insert(key.clone(), json!({"dtype": "F32", "shape": matrix.shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let mut header = serde_json::to_vec(&header).map_err(|e| Error::io(path)(e.into()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let write = || -> std::io::Result<()> {
        let mut out = BufWriter::new(File::create(path)?);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for matrix in matrices.values() {
            out.write_all(&le_bytes(matrix.data))?;
        }
        out.flush()
    };
    write().map_err(crate::disk::writing(path, Some((8 + header.len() + offset) as u64)))
}
