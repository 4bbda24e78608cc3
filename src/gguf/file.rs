//! The header of a GGUF file: its fields and where its tensors lie. Nothing is believed that the file's length does
//! not bear out, and lists (a vocabulary has hundreds of thousands of entries) stay where they are until they are
//! asked for.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::reader::{fault, Reader, Value, TEXT};
use crate::error::{Error, Result};
use crate::formats::dtype::Dtype;
use crate::held::MappedFile;

/// The first bytes of a file.
pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
/// The version that is written; 2 is read as well.
pub(crate) const VERSION: u32 = 3;
/// Where tensors begin, unless the file says otherwise.
pub(crate) const ALIGNMENT: usize = 32;
/// Least bytes of a field and of a tensor's entry: name, type, value; name, dimensions, type, place.
const LEAST: [usize; 2] = [8 + 4 + 1, 8 + 4 + 8 + 4 + 8];

/// A tensor's entry.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Info {
    /// Outermost first, as everywhere but in the file.
    pub shape: Vec<usize>,
    /// ggml's number of the type.
    pub kind: u32,
    /// Absent for a type that cannot be read: its size is not known.
    pub bytes: Option<Range<usize>>,
}

/// A mapped GGUF file. Who reads its lists or tensors asks before whether the file is unchanged.
#[derive(Debug)]
pub(crate) struct GgufFile {
    file: Arc<MappedFile>,
    fields: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Info>,
    /// The bytes of the fields about the tokenizer, each with its name.
    tokenizer: Vec<Range<usize>>,
}

/// ggml's name of a type that cannot be read here, where it is known.
pub(crate) fn type_name(kind: u32) -> String {
    const NAMES: [(u32, &str); 13] = [
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (20, "IQ4_NL"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (23, "IQ4_XS"),
        (28, "F64"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (39, "MXFP4"),
    ];
    NAMES.iter().find(|(n, _)| *n == kind).map_or(format!("number {kind}"), |(_, name)| name.to_string())
}

impl GgufFile {
    /// Maps a file and reads its header.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::ModelFormat`] that names the field or tensor at fault.
    pub fn open(path: &Path) -> Result<GgufFile> {
        let file = MappedFile::open(path)?;
        let (map, length) = (file.map(), file.length());
        let fail = |reason: String| Err(fault(path, "header", reason));
        if length < 24 {
            return fail(format!("expected at least 24 bytes, found {length}: the file is truncated"));
        }
        if &map[..4] != MAGIC {
            return fail(format!("expected a GGUF file, which begins with \"GGUF\", found {:?}", ascii(&map[..4])));
        }
        let mut r = Reader { path, bytes: map, at: 4 };
        match r.u32("header")? {
            2 | 3 => {}
            v if matches!(v.swap_bytes(), 1..=3) => {
                return fail("the file is big-endian, which is not supported".into())
            }
            v => return fail(format!("GGUF version {v} is not supported (expected 2 or 3)")),
        }
        let (tensor_count, field_count) = (r.u64("header")?, r.u64("header")?);
        for (count, least, what) in [(field_count, LEAST[0], "fields"), (tensor_count, LEAST[1], "tensors")] {
            let most = (map.len() / least) as u64;
            if count > most {
                let reason = format!("{count} {what}, but a file of {length} bytes has room for {most} at most");
                return fail(format!("{reason}: it is truncated or damaged"));
            }
        }
        let (mut fields, mut tokenizer) = (BTreeMap::new(), Vec::new());
        for i in 0..field_count {
            let start = r.at;
            let name = r.text(&format!("field {i}"))?;
            let kind = r.u32(&name)?;
            let value = r.value(&name, kind)?;
            if name.starts_with("tokenizer.") {
                tokenizer.push(start..r.at);
            }
            if fields.insert(name.clone(), value).is_some() {
                return Err(fault(path, &name, "the file has this field twice".into()));
            }
        }
        let alignment = match fields.get("general.alignment") {
            None => ALIGNMENT,
            Some(Value::Unsigned(n)) if n.is_power_of_two() && (8..=1 << 20).contains(n) => *n as usize,
            Some(found) => {
                let reason = format!("expected a power of two from 8, found {found:?}");
                return Err(fault(path, "general.alignment", reason));
            }
        };
        let mut entries = Vec::new();
        for i in 0..tensor_count {
            entries.push(r.tensor(i)?);
        }
        let data = r.at.next_multiple_of(alignment);
        let mut tensors = BTreeMap::new();
        for (name, shape, kind, offset) in entries {
            let info = place(path, &name, (shape, kind), (data, offset, alignment), map.len())?;
            if tensors.insert(name.clone(), info).is_some() {
                return Err(fault(path, &name, "the file has this tensor twice".into()));
            }
        }
        Ok(GgufFile { file: Arc::new(file), fields, tensors, tokenizer })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The file itself.
    pub fn file(&self) -> &Arc<MappedFile> {
        &self.file
    }

    fn map(&self) -> &[u8] {
        self.file.map()
    }

    /// The field of this name.
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.fields.get(name)
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> &BTreeMap<String, Info> {
        &self.tensors
    }

    /// The elements of a tensor as stored.
    pub fn bytes(&self, info: &Info) -> Option<&[u8]> {
        Some(&self.map()[info.bytes.clone()?])
    }

    /// The bytes of all fields about the tokenizer, in the order of the file.
    pub fn tokenizer_bytes(&self) -> impl Iterator<Item = &[u8]> {
        self.tokenizer.iter().map(|r| &self.map()[r.clone()])
    }

    /// A text field; absent is `None`.
    pub fn text(&self, name: &str) -> Result<Option<&str>> {
        match self.field(name) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(found) => Err(self.wrong(name, "a text", found)),
        }
    }

    /// A whole number that is not negative; absent is `None`.
    pub fn size(&self, name: &str) -> Result<Option<u64>> {
        match self.field(name) {
            None => Ok(None),
            Some(&Value::Unsigned(n)) => Ok(Some(n)),
            Some(&Value::Signed(n)) if n >= 0 => Ok(Some(n as u64)),
            Some(found) => Err(self.wrong(name, "a whole number", found)),
        }
    }

    /// A number; a single is read as the shortest decimal that gives it. Absent is `None`.
    pub fn number(&self, name: &str) -> Result<Option<f64>> {
        match self.field(name) {
            None => Ok(None),
            Some(&Value::F32(x)) => Ok(Some(shortest(x))),
            Some(&Value::F64(x)) => Ok(Some(x)),
            Some(found) => Err(self.wrong(name, "a number", found)),
        }
    }

    /// True or false; absent is `None`.
    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        match self.field(name) {
            None => Ok(None),
            Some(&Value::Bool(b)) => Ok(Some(b)),
            Some(found) => Err(self.wrong(name, "true or false", found)),
        }
    }

    /// A list of texts; absent is `None`.
    pub fn texts(&self, name: &str) -> Result<Option<Vec<String>>> {
        match self.field(name) {
            None => Ok(None),
            Some(Value::List { kind: TEXT, len, bytes }) => {
                let mut r = Reader { path: self.path(), bytes: &self.map()[..bytes.end], at: bytes.start };
                (0..*len).map(|_| r.text(name)).collect::<Result<Vec<_>>>().map(Some)
            }
            Some(found) => Err(self.wrong(name, "a list of texts", found)),
        }
    }

    /// A list of singles; absent is `None`.
    pub fn singles(&self, name: &str) -> Result<Option<Vec<f32>>> {
        match self.field(name) {
            None => Ok(None),
            Some(Value::List { kind: 6, bytes, .. }) => {
                let four = self.map()[bytes.clone()].chunks_exact(4);
                Ok(Some(four.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()))
            }
            Some(found) => Err(self.wrong(name, "a list of singles", found)),
        }
    }

    /// A list of 32-bit integers; absent is `None`.
    pub fn integers(&self, name: &str) -> Result<Option<Vec<i32>>> {
        match self.field(name) {
            None => Ok(None),
            Some(Value::List { kind: 4 | 5, bytes, .. }) => {
                let four = self.map()[bytes.clone()].chunks_exact(4);
                Ok(Some(four.map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()))
            }
            Some(found) => Err(self.wrong(name, "a list of integers", found)),
        }
    }

    /// The error for a field or tensor of this file.
    pub fn fault(&self, name: &str, reason: impl Into<String>) -> Error {
        fault(self.path(), name, reason.into())
    }

    fn wrong(&self, name: &str, expected: &str, found: &Value) -> Error {
        let found = match found {
            Value::List { len, .. } => format!("a list of {len}"),
            other => format!("{other:?}"),
        };
        self.fault(name, format!("expected {expected}, found {found}"))
    }
}

/// The f64 that the decimal of a single stands for: 1e-5, not 9.99999975e-6.
fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(x as f64)
}

fn ascii(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Where a tensor lies, if it lies within the file.
fn place(
    path: &Path,
    name: &str,
    (shape, kind): (Vec<usize>, u32),
    (data, offset, alignment): (usize, u64, usize),
    length: usize,
) -> Result<Info> {
    let fail = |reason: String| Err(fault(path, name, reason));
    let Some(dtype) = Dtype::from_ggml(kind) else { return Ok(Info { shape, kind, bytes: None }) };
    let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let Some(elements) = elements.filter(|n| n.checked_mul(8).is_some()) else {
        return fail(format!("shape {shape:?} is larger than any memory"));
    };
    let last = shape.last().copied().unwrap_or(1);
    if !last.is_multiple_of(dtype.block()) {
        let (name, block) = (dtype.ggml_name(), dtype.block());
        return fail(format!("rows of {last} elements are no whole blocks of {name}, which have {block}"));
    }
    if !offset.is_multiple_of(alignment as u64) {
        return fail(format!("it begins at {offset}, which is no multiple of the alignment {alignment}"));
    }
    let start = usize::try_from(offset).ok().and_then(|o| o.checked_add(data));
    let end = start.and_then(|s| s.checked_add(dtype.bytes_of(elements)));
    match start.zip(end) {
        Some((start, end)) if end <= length => Ok(Info { shape, kind, bytes: Some(start..end) }),
        _ => fail(format!(
            "{} bytes from {offset} on, after a header of {data}, are more than the file's {length}: it is truncated",
            dtype.bytes_of(elements)
        )),
    }
}
