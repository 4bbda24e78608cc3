//! The files of a model: a Hugging Face folder's, or one GGUF file. Each is opened once, and what was absent stays
//! absent.

mod convert;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::error::{Error, Result};
use crate::formats::json::key_at_fault;
use crate::gguf::GgufFile;
use crate::held::{lfs_pointer, HeldFile};

/// The folder of templates beside `chat_template.jinja`.
const TEMPLATES: &str = "additional_chat_templates";
pub(crate) const TOKENIZER: &str = "tokenizer.json";

/// What is known of a small file: its content, or the system's number of the error that says that there is none.
type Small = std::result::Result<Arc<Vec<u8>>, Option<i32>>;

/// The files of a model, opened as they are asked for and no more than once.
#[derive(Debug)]
pub struct ModelFiles {
    path: PathBuf,
    gguf: Option<Arc<GgufFile>>,
    small: Mutex<BTreeMap<String, Small>>,
    tokenizer: Mutex<Option<Option<Arc<HeldFile>>>>,
    tokenizer_hash: OnceLock<String>,
    templates: Mutex<Option<BTreeMap<String, String>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ModelFiles {
    /// The files of a folder, none of which is opened yet, or a GGUF file, whose header is read. A name as `org/name` is
    /// that of a model in the Hugging Face cache, unless there is such a path.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`], of a name; [`Error::Io`] or [`Error::ModelFormat`], of a GGUF file.
    pub fn open(path: &Path) -> Result<ModelFiles> {
        let path = &crate::hub::resolve(path)?;
        let gguf = if path.is_file() { Some(Arc::new(GgufFile::open(path)?)) } else { None };
        Ok(ModelFiles {
            path: path.into(),
            gguf,
            small: Mutex::default(),
            tokenizer: Mutex::default(),
            tokenizer_hash: OnceLock::new(),
            templates: Mutex::default(),
        })
    }

    /// The folder, or the GGUF file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The GGUF file, where the model is one.
    pub(crate) fn gguf(&self) -> Option<&Arc<GgufFile>> {
        self.gguf.as_ref()
    }

    /// Where a file of the folder lies.
    pub fn place(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The content of a small file of the folder, which is kept; `None` where there is no such file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::ModelFormat`] where a Git LFS pointer lies in its place.
    pub fn small(&self, name: &str) -> Result<Option<Arc<Vec<u8>>>> {
        Ok(self.look(name)?.ok())
    }

    /// What a small file says; `Null` where there is none.
    ///
    /// # Errors
    /// As [`ModelFiles::small`]; [`Error::ModelFormat`] names the key at whose value it is no JSON.
    pub(crate) fn json(&self, name: &str) -> Result<serde_json::Value> {
        self.small(name)?.map_or(Ok(serde_json::Value::Null), |bytes| json_of(&self.place(name), &bytes))
    }

    /// As [`ModelFiles::small`], of a file that must be there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn needed(&self, name: &str) -> Result<Arc<Vec<u8>>> {
        self.look(name)?.map_err(|number| {
            let source = number.map_or_else(|| ErrorKind::NotFound.into(), std::io::Error::from_raw_os_error);
            Error::io(self.place(name))(source)
        })
    }

    /// A small file as text; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Io`], also where it is no text.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(bytes) = self.small(name)? else { return Ok(None) };
        match String::from_utf8(bytes.to_vec()) {
            Ok(text) => Ok(Some(text)),
            Err(e) => Err(Error::io(self.place(name))(std::io::Error::new(ErrorKind::InvalidData, e.utf8_error()))),
        }
    }

    fn look(&self, name: &str) -> Result<Small> {
        let mut small = lock(&self.small);
        if let Some(known) = small.get(name) {
            return Ok(known.clone());
        }
        let path = self.place(name);
        let found = match fs::read(&path) {
            Ok(bytes) => match lfs_pointer(&bytes) {
                Some(reason) => return Err(Error::ModelFormat { path, tensor: "file".into(), reason }),
                None => Ok(Arc::new(bytes)),
            },
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Err(e.raw_os_error()),
            Err(e) => return Err(Error::io(&path)(e)),
        };
        small.insert(name.into(), found.clone());
        Ok(found)
    }

    /// `tokenizer.json`, open and not kept in memory; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn tokenizer(&self) -> Result<Option<Arc<HeldFile>>> {
        let mut known = lock(&self.tokenizer);
        if let Some(file) = known.as_ref() {
            return Ok(file.clone());
        }
        let found = match HeldFile::open(&self.place(TOKENIZER)) {
            Ok(file) => Some(Arc::new(file)),
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        Ok(known.insert(found).clone())
    }

    /// The content of `tokenizer.json`, which must be there. Its hash is kept.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Tokenizer`] where a file of another library stands in its place says what makes one of it.
    pub(crate) fn read_tokenizer(&self) -> Result<Vec<u8>> {
        // Both kinds of systems give this number to a file that is not there.
        let absent = || Error::io(self.place(TOKENIZER))(std::io::Error::from_raw_os_error(2));
        let none = || convert::instead_of_tokenizer(&self.path).unwrap_or_else(absent);
        let file = self.tokenizer()?.ok_or_else(none)?;
        file.unchanged()?;
        let bytes = file.read()?;
        self.tokenizer_hash.get_or_init(|| crate::disk::hash_of(&bytes));
        Ok(bytes)
    }

    /// The hash of `tokenizer.json`, in hexadecimal, once it was read.
    pub(crate) fn tokenizer_hash(&self) -> Option<&String> {
        self.tokenizer_hash.get()
    }

    /// The texts of `additional_chat_templates/` by name.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn additional_templates(&self) -> Result<BTreeMap<String, String>> {
        let mut known = lock(&self.templates);
        if let Some(found) = known.as_ref() {
            return Ok(found.clone());
        }
        let mut found = BTreeMap::new();
        let folder = self.place(TEMPLATES);
        if folder.is_dir() {
            for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
                let path = entry.map_err(Error::io(&folder))?.path();
                let name = path.file_stem().and_then(|n| n.to_str()).map(String::from);
                if let (Some(name), Some("jinja")) = (name, path.extension().and_then(|e| e.to_str())) {
                    found.insert(name, fs::read_to_string(&path).map_err(Error::io(&path))?);
                }
            }
        }
        Ok(known.insert(found).clone())
    }
}

/// What a small file says, which may begin with a byte order mark.
///
/// # Errors
/// [`Error::ModelFormat`] names the file and the key at whose value it is no JSON.
pub(crate) fn json_of(path: &Path, bytes: &[u8]) -> Result<serde_json::Value> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    serde_json::from_slice(bytes).map_err(|error| {
        let (tensor, reason) = match key_at_fault(bytes, &error) {
            Some((key, value)) => (key, format!("{value}: not valid JSON: {error}")),
            None => ("JSON".into(), format!("not valid JSON: {error}")),
        };
        Error::ModelFormat { path: path.to_path_buf(), tensor, reason }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_or_absent_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("config.json", "{}");
        write("bad.json", "x");
        fs::write(dir.path().join("bytes"), [0xff]).unwrap();
        let files = ModelFiles::open(dir.path()).unwrap();
        assert_eq!(files.small("config.json").unwrap().unwrap().as_slice(), b"{}");
        assert!(files.small("generation_config.json").unwrap().is_none());
        assert!(files.tokenizer().unwrap().is_none() && files.additional_templates().unwrap().is_empty());
        assert!(matches!(files.text("bytes"), Err(Error::Io { path, .. }) if path.ends_with("bytes")));

        write("config.json", "{ }");
        write("generation_config.json", "{}");
        write(TOKENIZER, "{}");
        assert_eq!(files.needed("config.json").unwrap().as_slice(), b"{}");
        assert!(files.small("generation_config.json").unwrap().is_none());
        assert!(files.tokenizer().unwrap().is_none());
        // Read as the system says it, also the second time.
        for _ in 0..2 {
            let absent = files.needed("absent.json").unwrap_err().to_string();
            let system = fs::read(dir.path().join("absent.json")).unwrap_err().to_string();
            assert!(absent.contains("absent.json") && absent.contains(&system), "{absent}");
        }
        // A pointer is no content, of whatever kind of file.
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n";
        let of = |name: &str, read: &dyn Fn(&ModelFiles) -> Result<()>| {
            write(name, pointer);
            let said = ModelFiles::open(dir.path()).and_then(|files| read(&files)).unwrap_err().to_string();
            assert!(
                said.contains(name) && said.contains("a Git LFS pointer") && said.contains("git lfs pull"),
                "{said}"
            );
        };
        of("added_tokens.json", &|files| files.json("added_tokens.json").map(drop));
        of("chat_template.jinja", &|files| files.text("chat_template.jinja").map(drop));
        of(TOKENIZER, &|files| files.read_tokenizer().map(drop));
        write("x.gguf", pointer);
        let said = ModelFiles::open(&dir.path().join("x.gguf")).unwrap_err().to_string();
        assert!(said.contains("x.gguf: file: a Git LFS pointer"), "{said}");
        write(TOKENIZER, "{}");
        let again = ModelFiles::open(dir.path()).unwrap();
        assert_eq!(again.needed("config.json").unwrap().as_slice(), b"{ }");
        assert_eq!(again.tokenizer().unwrap().unwrap().read().unwrap(), b"{}");
    }

    #[test]
    fn what_is_no_json_is_named_by_its_key() {
        let at = Path::new("config.json");
        let e = |text: &str| json_of(at, text.as_bytes()).unwrap_err().to_string();
        let mut wrong = Vec::new();
        for (text, want) in [
            (
                "{\n  \"a\": \"x:y\",\n  \"rope_theta\": NaN\n}",
                "rope_theta: NaN: not valid JSON: expected value at line 3",
            ),
            ("{\"rms_norm_eps\": -Infinity}", "rms_norm_eps: -Infinity: not valid JSON: invalid number at line 1"),
            ("{\"rope_scaling\": {\"factor\": Infinity}}", "factor: Infinity: not valid JSON: expected value"),
            ("{\"long\": [1.0, NaN]}", "long: NaN: not valid JSON: expected value at line 1 column"),
            // Neither a colon in a text nor the key before is taken for the one at fault.
            ("{\"chat_template\": \"a: \\x\"}", "chat_template: \"a: \\x\": not valid JSON: invalid escape"),
            ("{\"a\": 1, x}", "JSON: not valid JSON: key must be a string"),
        ] {
            let found = e(text);
            if !found.starts_with(&format!("config.json: {want}")) {
                wrong.push(format!("{text}: expected {want}, found {found}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(e("").starts_with("config.json: JSON: not valid JSON"), "{}", e(""));
        assert_eq!(json_of(at, b"\xEF\xBB\xBF{\"a\": 1}").unwrap()["a"], 1);
    }
}
