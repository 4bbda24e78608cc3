//! A GGUF file's fields of its family.

use super::file::GgufFile;
use crate::error::{Error, Result};

/// Fields of the family, by their name behind the prefix.
pub(super) struct Read<'a> {
    pub file: &'a GgufFile,
    /// The prefix.
    pub arch: &'static str,
}

impl Read<'_> {
    pub fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    pub fn size(&self, name: &str) -> Result<Option<u64>> {
        self.file.size(&self.key(name))
    }

    pub fn number(&self, name: &str) -> Result<Option<f64>> {
        self.file.number(&self.key(name))
    }

    pub fn needed(&self, name: &str) -> Result<u64> {
        self.size(name)?.ok_or_else(|| self.missing(name))
    }

    pub fn missing(&self, name: &str) -> Error {
        self.file.fault(&self.key(name), "expected a number, found nothing")
    }

    pub fn unsupported(&self, name: &str, reason: String) -> Error {
        let reason = format!("{} {reason}", self.key(name));
        Error::ModelNotSupported { path: self.file.path().into(), reason }
    }

    /// A number, of whichever type.
    pub fn number_or_size(&self, name: &str) -> Result<Option<f64>> {
        match self.file.field(&self.key(name)) {
            Some(super::reader::Value::Unsigned(n)) => Ok(Some(*n as f64)),
            _ => self.number(name),
        }
    }
}
