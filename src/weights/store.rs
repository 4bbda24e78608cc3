//! The tensors of a Hugging Face model folder or a GGUF file, mapped read-only: nothing is copied until rows are
//! asked for, and the pages belong to the system's cache.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::SafeTensors;

use crate::error::{Error, Result};
use crate::family::DecoderConfig;
use crate::files::ModelFiles;
pub use crate::formats::dtype::Dtype;
use crate::gguf;
use crate::gguf::Architecture;
use crate::gguf::GgufFile;
use crate::held::MappedFile;
pub use crate::kernels::cpu::blocks::Block;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

#[derive(Debug)]
pub(super) struct StoredTensor {
    /// The type, or the name of one that cannot be read.
    pub dtype: std::result::Result<Dtype, String>,
    pub shape: Vec<usize>,
    pub bytes: Range<usize>,
    pub shard: usize,
}

/// Every tensor of a model, by Hugging Face's name. The files must not be changed or shortened while it lives:
/// [`WeightStore::unchanged`] tells before each use.
#[derive(Debug)]
pub struct WeightStore {
    pub(super) files: Vec<PathBuf>,
    maps: Vec<Arc<MappedFile>>,
    pub(super) entries: BTreeMap<String, StoredTensor>,
    /// What names the tensors: the index, or the only file.
    pub(super) listing: PathBuf,
    /// Where the file is GGUF: its family, and the heads of queries, of keys, and their size.
    pub(super) gguf: Option<(&'static Architecture, [usize; 3])>,
}

impl WeightStore {
    /// Maps `model.safetensors` or, where there is none, the shards that `model.safetensors.index.json`
    /// lists; or takes the GGUF file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::ModelFormat`] for a file that is absent or damaged.
    pub fn of(model: &ModelFiles) -> Result<Arc<WeightStore>> {
        if let Some(file) = model.gguf() {
            return WeightStore::of_gguf(file);
        }
        let dir = model.path();
        let single = dir.join(SINGLE);
        let exists = |path: &Path| path.try_exists().map_err(Error::io(path));
        let (listing, files, placed) = if exists(&single)? {
            (single.clone(), vec![single], BTreeMap::new())
        } else if let Some(text) = model.small(INDEX)? {
            let index = model.place(INDEX);
            let placed = read_index(&index, &text)?;
            let shards: BTreeSet<&String> = placed.values().collect();
            let files = shards.into_iter().map(|s| dir.join(s)).collect();
            (index, files, placed)
        } else {
            let hint = match exists(&dir.join("pytorch_model.bin"))? || exists(&dir.join(format!("pytorch_{INDEX}")))? {
                true => "; convert pytorch_model.bin to safetensors first",
                false => "",
            };
            return Err(format_error(dir, SINGLE, format!("neither {SINGLE} nor {INDEX} is in this folder{hint}")));
        };

        let mut store =
            WeightStore { files: Vec::new(), maps: Vec::new(), entries: BTreeMap::new(), listing, gguf: None };
        for file in files {
            store.add(file)?;
        }
        for (name, shard) in &placed {
            let shard = dir.join(shard);
            match store.entries.get(name) {
                Some(entry) if store.files[entry.shard] == shard => {}
                _ => return Err(format_error(&shard, name, format!("{INDEX} places it in this file, which lacks it"))),
            }
        }
        Ok(Arc::new(store))
    }

    /// As [`WeightStore::of`], of what lies at this path.
    ///
    /// # Errors
    /// As [`WeightStore::of`].
    pub fn open(dir: &Path) -> Result<Arc<WeightStore>> {
        WeightStore::of(&ModelFiles::open(dir)?)
    }

    fn of_gguf(file: &GgufFile) -> Result<Arc<WeightStore>> {
        let path = file.path();
        file.file().unchanged()?;
        let arch = gguf::architecture(file)?;
        let c = DecoderConfig::from_json(&gguf::model_config(file)?, path)?;
        let mut entries = BTreeMap::new();
        for (name, info) in file.tensors() {
            // What the config was made from.
            if name == "rope_freqs.weight" {
                continue;
            }
            let Some(original) = arch.original(name) else {
                let reason = format!("models of the family {} have no such tensor", arch.name);
                return Err(format_error(path, name, reason));
            };
            let dtype = Dtype::from_ggml(info.kind).ok_or_else(|| gguf::type_name(info.kind));
            let bytes = info.bytes.clone().unwrap_or(0..0);
            entries.insert(original, StoredTensor { dtype, shape: info.shape.clone(), bytes, shard: 0 });
        }
        Ok(Arc::new(WeightStore {
            files: vec![path.into()],
            maps: vec![file.file().clone()],
            entries,
            listing: path.into(),
            gguf: Some((arch, [c.num_heads, c.num_kv_heads, c.head_dim])),
        }))
    }

    fn add(&mut self, path: PathBuf) -> Result<()> {
        let file = match MappedFile::open(&path) {
            Ok(file) => file,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                let reason = format!("this file is missing, but {} lists it", self.listing.display());
                return Err(format_error(&path, "header", reason));
            }
            Err(e) => return Err(e),
        };
        let length = file.length();
        if length < 8 {
            return Err(format_error(
                &path,
                "header",
                format!("expected at least 8 bytes, found {length}: the file is truncated"),
            ));
        }
        let (header, metadata) = read_header(&path, file.map())?;
        let shard = self.files.len();
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let dtype = Dtype::from_safetensors(info.dtype).ok_or_else(|| format!("{:?}", info.dtype));
            let entry = StoredTensor { dtype, shape: info.shape.clone(), bytes: header + start..header + end, shard };
            if let Some(other) = self.entries.insert(name.clone(), entry) {
                let reason = format!("it is also in {}", self.files[other.shard].display());
                return Err(format_error(&path, &name, reason));
            }
        }
        self.files.push(path);
        self.maps.push(Arc::new(file));
        Ok(())
    }

    /// Whether a tensor of this name is there, whatever its type.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The shape of the tensor of this name, whatever its type.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|e| e.shape.as_slice())
    }

    /// Bytes of the tensor of this name; 0 where there is none.
    pub(crate) fn stored_bytes(&self, name: &str) -> usize {
        self.entries.get(name).map_or(0, |e| e.bytes.len())
    }

    /// The file that the tensor of this name is in.
    pub(crate) fn file_of(&self, name: &str) -> Option<&Path> {
        self.entries.get(name).map(|e| self.files[e.shard].as_path())
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The mapped files, in name order.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// A mapped file.
    pub(crate) fn map(&self, shard: usize) -> &Mmap {
        self.maps[shard].map()
    }

    /// The open files, in name order.
    pub(crate) fn held(&self) -> &[Arc<MappedFile>] {
        &self.maps
    }

    /// Refuses to go on where a file has another length or time than at opening: to read a map of what was cut off
    /// ends the process. A question to the system a file, so it can be asked before each pass.
    ///
    /// # Errors
    /// [`Error::ModelFormat`] names the file, its length then and now.
    pub fn unchanged(&self) -> Result<()> {
        self.maps.iter().try_for_each(|file| file.unchanged())
    }

    /// Bytes mapped, headers included.
    pub fn mapped_bytes(&self) -> u64 {
        self.maps.iter().map(|m| m.length()).sum()
    }
}

pub(super) fn format_error(path: &Path, tensor: &str, reason: String) -> Error {
    Error::ModelFormat { path: path.into(), tensor: tensor.into(), reason }
}

/// Where the data begin, and the header.
fn read_header(path: &Path, bytes: &[u8]) -> Result<(usize, safetensors::tensor::Metadata)> {
    match SafeTensors::read_metadata(bytes) {
        Ok((length, metadata)) => Ok((8 + length, metadata)),
        Err(e) => {
            use safetensors::SafeTensorError::*;
            let reason = match &e {
                MetadataIncompleteBuffer => {
                    let found = bytes.len();
                    format!("the header does not describe a file of {found} bytes: truncated, or bytes appended")
                }
                HeaderTooSmall | InvalidHeaderLength => {
                    format!("the file ends within its header, at {} bytes: truncated", bytes.len())
                }
                _ => format!("damaged: {e}"),
            };
            Err(format_error(path, "header", reason))
        }
    }
}

/// Tensor name → file name.
fn read_index(path: &Path, text: &[u8]) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index =
        serde_json::from_slice(text).map_err(|e| format_error(path, "weight_map", format!("damaged: {e}")))?;
    if index.weight_map.is_empty() {
        return Err(format_error(path, "weight_map", "expected at least one tensor, found none".into()));
    }
    for (tensor, file) in &index.weight_map {
        // `\` and `:` are separators on Windows only; one rule everywhere.
        let inside = Path::new(file).components().all(|c| matches!(c, Component::Normal(_)));
        if file.is_empty() || !inside || file.contains(['\\', ':']) {
            let reason = format!("expected a file inside the model folder, found {file:?}");
            return Err(format_error(path, tensor, reason));
        }
    }
    Ok(index.weight_map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use half::f16;
    use safetensors::tensor::{Dtype as StDtype, TensorView};

    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i as f32 - 7.5) * 0.25).collect()
    }

    fn encode(dtype: StDtype, data: &[f32]) -> Vec<u8> {
        let mut out = Vec::new();
        match Dtype::from_safetensors(dtype) {
            Some(dtype) => dtype.encode(data, &mut out).unwrap(),
            None => out.extend(data.iter().flat_map(|&x| (x as i64).to_le_bytes())),
        }
        out
    }

    fn bytes(tensors: &[(&str, StDtype, &[usize])]) -> Vec<u8> {
        let data: Vec<_> =
            tensors.iter().map(|(_, dtype, shape)| encode(*dtype, &values(shape.iter().product()))).collect();
        let views = tensors
            .iter()
            .zip(&data)
            .map(|((name, dtype, shape), data)| (*name, TensorView::new(*dtype, shape.to_vec(), data).unwrap()));
        safetensors::serialize(views, None).unwrap()
    }

    fn write(dir: &Path, file: &str, tensors: &[(&str, StDtype, &[usize])]) {
        fs::write(dir.join(file), bytes(tensors)).unwrap();
    }

    fn fails(result: Result<impl std::fmt::Debug>, words: &[&str]) {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::ModelFormat { .. }), "{error:?}");
        let text = error.to_string();
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text:?}");
        }
    }

    #[test]
    fn reads_the_three_types() {
        let dir = tempfile::tempdir().unwrap();
        let shape: &[usize] = &[4, 3];
        write(
            dir.path(),
            SINGLE,
            &[
                ("single", StDtype::F32, shape),
                ("half", StDtype::F16, shape),
                ("brain", StDtype::BF16, shape),
                ("vector", StDtype::BF16, &[5]),
                ("scalar", StDtype::F32, &[]),
                ("ids", StDtype::I64, &[2]),
            ],
        );
        let store = WeightStore::open(dir.path()).unwrap();
        assert_eq!(store.names().collect::<Vec<_>>(), ["brain", "half", "ids", "scalar", "single", "vector"]);
        assert!(store.contains("half") && !store.contains("hal"));
        assert_eq!(store.files(), [dir.path().join(SINGLE)]);
        assert_eq!(store.mapped_bytes(), fs::metadata(&store.files()[0]).unwrap().len());
        for (name, dtype) in [("single", Dtype::F32), ("half", Dtype::F16), ("brain", Dtype::BF16)] {
            let weight = store.get(name, shape).unwrap();
            assert_eq!((weight.name(), weight.rows(), weight.cols(), weight.dtype()), (name, 4, 3, dtype));
            assert_eq!(weight.bytes().len(), dtype.bytes_of(12));
            assert_eq!(weight.to_vec_f32(), values(12));
            let mut out = [0.0; 6];
            weight.read_rows(1..3, &mut out);
            assert_eq!(out, values(12)[3..9]);
            weight.read_rows(4..4, &mut []);
            if let Some(view) = weight.as_f32() {
                assert_eq!(view, values(12));
            }
            assert!(name == "single" || weight.as_f32().is_none());
        }
        let vector = store.get("vector", &[5]).unwrap();
        assert_eq!((vector.rows(), vector.cols(), vector.to_vec_f32()), (5, 1, values(5)));
        assert_eq!(store.get("scalar", &[]).unwrap().to_vec_f32(), values(1));

        fails(store.get("single", &[3, 4]), &[SINGLE, "single", "[3, 4]", "[4, 3]"]);
        fails(store.get("absent", &[3]), &[SINGLE, "absent", "none of this name"]);
        fails(store.get("ids", &[2]), &[SINGLE, "ids", "I64"]);
    }

    #[test]
    fn keeps_every_bit() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for shift in [0, 1] {
            let mut moved = vec![0; shift];
            moved.extend_from_slice(&all);
            let mut out = vec![0.0; 1 << 16];
            Dtype::F16.decode(&moved[shift..], &mut out);
            for (i, x) in out.iter().enumerate() {
                let want = f16::from_bits(i as u16).to_f32();
                assert!(x.to_bits() == want.to_bits() || (x.is_nan() && want.is_nan()), "{i:#x}");
            }
            Dtype::BF16.decode(&moved[shift..], &mut out);
            assert!(out.iter().enumerate().all(|(i, x)| x.to_bits() == (i as u32) << 16));
        }
    }

    #[test]
    fn reads_an_unaligned_header() {
        // A header of odd length: the crate pads to 8, other writers do not.
        let mut header = br#"{"b":{"dtype":"BF16","shape":[3],"data_offsets":[12,18]},
            "w":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}"#
            .to_vec();
        while header.len() % 4 != 1 {
            header.push(b' ');
        }
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header);
        file.extend(encode(StDtype::F32, &values(3)));
        file.extend(encode(StDtype::BF16, &values(3)));
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(SINGLE), file).unwrap();
        let store = WeightStore::open(dir.path()).unwrap();
        let weight = store.get("w", &[3]).unwrap();
        assert!(weight.as_f32().is_none());
        assert_eq!(weight.to_vec_f32(), values(3));
        assert_eq!(store.get("b", &[3]).unwrap().to_vec_f32(), values(3));
    }

    #[test]
    fn reads_shards() {
        let dir = tempfile::tempdir().unwrap();
        let index = |map: &str| fs::write(dir.path().join(INDEX), format!(r#"{{"weight_map":{map}}}"#)).unwrap();
        let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
        write(dir.path(), one, &[("a", StDtype::F32, &[2, 2])]);
        index(&format!(r#"{{"b":"{two}","a":"{one}"}}"#));
        fails(WeightStore::open(dir.path()), &[two, "missing", INDEX]);

        write(dir.path(), two, &[("b", StDtype::BF16, &[3])]);
        let store = WeightStore::open(dir.path()).unwrap();
        assert_eq!(store.files(), [dir.path().join(one), dir.path().join(two)]);
        assert_eq!(store.get("a", &[2, 2]).unwrap().to_vec_f32(), values(4));
        assert_eq!(store.get("b", &[3]).unwrap().to_vec_f32(), values(3));
        fails(store.get("b", &[4]), &[two, "b", "[4]", "[3]"]);
        fails(store.get("c", &[4]), &[INDEX, "c"]);

        index(&format!(r#"{{"b":"{two}","a":"{one}","c":"{one}"}}"#));
        fails(WeightStore::open(dir.path()), &[one, "c", "lacks"]);
        index(&format!(r#"{{"b":"{one}","a":"{two}"}}"#));
        fails(WeightStore::open(dir.path()), &[two, "a", "lacks"]);
        write(dir.path(), two, &[("b", StDtype::BF16, &[3]), ("a", StDtype::F32, &[2, 2])]);
        index(&format!(r#"{{"b":"{two}","a":"{one}"}}"#));
        fails(WeightStore::open(dir.path()), &[two, "a", "also in", one]);

        for file in ["../x.safetensors", "/x.safetensors", "x/../../y", "", ".", "..\\\\x", "C:x"] {
            index(&format!(r#"{{"a":"{file}"}}"#));
            fails(WeightStore::open(dir.path()), &[INDEX, "a", "inside the model folder"]);
        }
        index("{}");
        fails(WeightStore::open(dir.path()), &[INDEX, "weight_map"]);
        fs::write(dir.path().join(INDEX), "{").unwrap();
        fails(WeightStore::open(dir.path()), &[INDEX, "weight_map", "damaged"]);
    }

    #[test]
    fn names_what_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        fails(WeightStore::open(dir.path()), &[SINGLE, INDEX]);
        fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
        fails(WeightStore::open(dir.path()), &["convert"]);

        let whole = bytes(&[("a", StDtype::F32, &[8, 8])]);
        for cut in [0, 7, 8, 20, whole.len() - 256, whole.len() - 1] {
            fs::write(dir.path().join(SINGLE), &whole[..cut]).unwrap();
            fails(WeightStore::open(dir.path()), &[SINGLE, "header", "truncated"]);
        }
        let mut damaged = whole.clone();
        damaged[8] = b'?';
        fs::write(dir.path().join(SINGLE), &damaged).unwrap();
        fails(WeightStore::open(dir.path()), &[SINGLE, "header", "damaged"]);
        damaged = whole;
        damaged[7] = 0xff;
        fs::write(dir.path().join(SINGLE), &damaged).unwrap();
        fails(WeightStore::open(dir.path()), &[SINGLE, "header", "damaged"]);
    }
}
