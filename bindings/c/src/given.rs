//! Settings and values as they are given: by name, and one by one.

use std::ffi::c_char;
use std::path::PathBuf;

use serde_json::{Map, Number, Value};
use sftmix::{DeviceSetting, Model};

use crate::border::{maybe_text, SFTMIX_UNSET};
use crate::fault::{Fail, Result};

/// Settings that are given, by name.
#[derive(Debug, Default)]
pub struct Given(Map<String, Value>);

impl Given {
    /// # Safety
    /// The text is NULL or ends in a NUL.
    pub unsafe fn text(&mut self, name: &str, p: *const c_char) -> Result<()> {
        // SAFETY: passed on.
        if let Some(text) = unsafe { maybe_text(p, name)? } {
            self.0.insert(name.into(), text.into());
        }
        Ok(())
    }

    pub fn number(&mut self, name: &str, value: i64) {
        if value != SFTMIX_UNSET {
            self.0.insert(name.into(), value.into());
        }
    }

    pub fn real(&mut self, name: &str, value: f64) -> Result<()> {
        if !value.is_nan() {
            let number = Number::from_f64(value);
            let number =
                number.ok_or_else(|| Fail::setting(name, format!("expected a finite number, found {value}")))?;
            self.0.insert(name.into(), number.into());
        }
        Ok(())
    }

    /// A JSON object of more.
    ///
    /// # Safety
    /// The text is NULL or ends in a NUL.
    pub unsafe fn json(&mut self, p: *const c_char) -> Result<()> {
        // SAFETY: passed on.
        for (name, value) in unsafe { object(p, "settings_json")? } {
            if !value.is_null() && self.0.contains_key(&name) {
                return Err(Fail::setting(&name, "it is given twice: by its field and in settings_json"));
            }
            if !value.is_null() {
                self.0.insert(name, value);
            }
        }
        Ok(())
    }

    pub fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.into(), value.into());
    }

    /// The model that is open, in the place of the one that is named.
    pub fn model(&mut self, model: Option<&Model>) -> Result<()> {
        if let Some(model) = model {
            once(self.0.contains_key("model"))?;
            self.put("model", model.path().to_string_lossy().as_ref());
        }
        Ok(())
    }

    pub fn into_map(self) -> Map<String, Value> {
        self.0
    }
}

/// Refuses a model that is given by its path as well as open.
pub fn once(named: bool) -> Result<()> {
    match named {
        true => Err(Fail::setting("model", "it is given twice: by its path and as a model that is open")),
        false => Ok(()),
    }
}

/// A JSON object, empty where the text is NULL.
///
/// # Safety
/// The text is NULL or ends in a NUL.
pub unsafe fn object(p: *const c_char, name: &str) -> Result<Map<String, Value>> {
    // SAFETY: passed on.
    let Some(text) = (unsafe { maybe_text(p, name)? }) else { return Ok(Map::new()) };
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Fail::argument(name, "expected a JSON object")),
        Err(e) => Err(Fail::argument(name, &format!("not valid JSON: {e}"))),
    }
}

/// A device by its word; NULL is the default.
///
/// # Safety
/// The text is NULL or ends in a NUL.
pub unsafe fn device(p: *const c_char) -> Result<DeviceSetting> {
    // SAFETY: passed on.
    match unsafe { maybe_text(p, "device")? } {
        None => Ok(DeviceSetting::default()),
        Some(word) => word.parse().map_err(|reason: String| Fail::setting("device", reason)),
    }
}

/// A path, or NULL for none.
///
/// # Safety
/// The text is NULL or ends in a NUL.
pub unsafe fn path(p: *const c_char, name: &str) -> Result<Option<PathBuf>> {
    // SAFETY: passed on.
    Ok(unsafe { maybe_text(p, name)? }.map(PathBuf::from))
}

/// A count, or `SFTMIX_UNSET` for none.
pub fn count<T: TryFrom<i64>>(value: i64, name: &str) -> Result<Option<T>> {
    if value == SFTMIX_UNSET {
        return Ok(None);
    }
    let fits = T::try_from(value).map(Some);
    fits.map_err(|_| Fail::setting(name, format!("expected a number of 0 and more, found {value}")))
}

/// A number of threads, or `SFTMIX_UNSET` for the library's choice.
pub fn threads(value: i64) -> Result<Option<usize>> {
    match count::<usize>(value, "threads")? {
        Some(n) if !(1..=1024).contains(&n) => Err(Fail::setting("threads", format!("expected 1 to 1024, found {n}"))),
        n => Ok(n),
    }
}

/// 1, or 0 and `SFTMIX_UNSET` for no.
pub fn flag(value: i64, name: &str) -> Result<bool> {
    match value {
        SFTMIX_UNSET | 0 => Ok(false),
        1 => Ok(true),
        _ => Err(Fail::setting(name, format!("expected 0 or 1, found {value}"))),
    }
}

/// A fraction, or NaN for none.
pub fn real(value: f64) -> Option<f64> {
    (!value.is_nan()).then_some(value)
}
