//! Adapters in other formats, and merged into their base.

use std::ffi::c_char;

use sftmix::export::{export, export_on, merge, merge_on, AdapterSource, ExportConfig, MergeConfig};

use crate::border::{self, given_out, json, maybe_text, place, Sized, SFTMIX_UNSET};
use crate::fault::{guard, sftmix_status, Fail, Result};
use crate::given::{flag, once, path, threads};
use crate::model::{model_of, sftmix_model};
use crate::options::data_options;
use crate::table;

/// Which adapter, on which base, and what to make of it. `sftmix_export_options_init` sets nothing, and what is not set has
/// the library's default.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sftmix_export_options {
    /// Bytes of the structure, set by `sftmix_export_options_init`.
    pub struct_size: usize,
    /// A run folder: its adapter, base and held-out rows, where the others leave them open.
    pub run: *const c_char,
    /// The base; NULL where the call is given a model, or the run's.
    pub model: *const c_char,
    /// A PEFT adapter folder; NULL for the run's.
    pub adapter: *const c_char,
    /// Rows to compare logits on.
    pub data: *const c_char,
    /// How these rows become examples: a JSON object of `data_format`, `prompt_field` and the like.
    pub data_options_json: *const c_char,
    /// Where hashes and tokenised rows are kept.
    pub cache_dir: *const c_char,
    /// Of an export a folder that gets one for each format (NULL: `export` in the run folder), of a merge the folder or
    /// file of the merged model.
    pub out: *const c_char,
    /// Of an export: `peft`, `gguf`, `mlx`, or several with commas between.
    pub formats: *const c_char,
    /// Of a merge: write a GGUF file of this type, such as `q4_k_m`, instead of a folder.
    pub gguf: *const c_char,
    /// Of a merge: type of the stored numbers, such as `bf16`; NULL keeps that of each tensor.
    pub dtype: *const c_char,
    /// Worker threads, 1 to 1024.
    pub threads: i64,
    /// 1 takes the adapter whatever base it names.
    pub force: i64,
}

impl Sized for sftmix_export_options {
    const NAME: &'static str = "sftmix_export_options";

    fn unset() -> Self {
        let none = std::ptr::null();
        sftmix_export_options {
            struct_size: std::mem::size_of::<Self>(),
            run: none,
            model: none,
            adapter: none,
            data: none,
            data_options_json: none,
            cache_dir: none,
            out: none,
            formats: none,
            gguf: none,
            dtype: none,
            threads: SFTMIX_UNSET,
            force: SFTMIX_UNSET,
        }
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.struct_size
    }
}

/// Sets nothing, in a structure of which the caller has so many bytes: `sftmix_export_options_init` says how many. NULL is left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_export_options_init_sized(options: *mut sftmix_export_options, size: usize) {
    // SAFETY: it is NULL or the caller's.
    unsafe { border::init(options, size) };
}

unsafe fn source(o: &sftmix_export_options, model: *const sftmix_model) -> Result<AdapterSource> {
    once(!model.is_null() && !o.model.is_null())?;
    // SAFETY: passed on.
    unsafe {
        Ok(AdapterSource {
            run: path(o.run, "run")?,
            model: path(o.model, "model")?,
            adapter: path(o.adapter, "adapter")?,
            data: path(o.data, "data")?,
            data_options: data_options(o.data_options_json)?,
            force: flag(o.force, "force")?,
            threads: threads(o.threads)?,
            cache_dir: path(o.cache_dir, "cache_dir")?,
        })
    }
}

/// A word that names a thing of the library.
unsafe fn word<T: std::str::FromStr<Err = String>>(p: *const c_char, name: &str) -> Result<Option<T>> {
    // SAFETY: passed on.
    let word = unsafe { maybe_text(p, name)? };
    word.map(|w| w.parse().map_err(|reason: String| Fail::setting(name, reason))).transpose()
}

fn not_here(p: *const c_char, name: &str, of: &str) -> Result<()> {
    if p.is_null() {
        Ok(())
    } else {
        Err(Fail::setting(name, format!("it has no effect on {of}")))
    }
}

/// Writes an adapter in other formats: all that are asked for, or none. What is written is read again and compared with
/// the adapter. The model may be NULL. `json_out`, which gets the words of `sftmix export --json`, may be NULL.
///
/// `*json_out` is freed with `sftmix_string_free`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_export(
    options: *const sftmix_export_options,
    model: *const sftmix_model,
    json_out: *mut *mut c_char,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        table::at_home()?;
        let o = border::read(options)?;
        not_here(o.gguf, "gguf", "an export")?;
        not_here(o.dtype, "dtype", "an export")?;
        let names = maybe_text(o.formats, "formats")?.unwrap_or_default();
        let names = names.split(',').map(str::trim).filter(|n| !n.is_empty());
        let format = |n: &str| n.parse().map_err(|reason: String| Fail::setting("formats", reason));
        let formats = names.map(format).collect::<Result<_>>()?;
        let config = ExportConfig { source: source(&o, model)?, formats, out: path(o.out, "out")? };
        let report = match model_of(model)? {
            Some(model) => export_on(&model, &config)?,
            None => export(&config)?,
        };
        put(json_out, json(&report)?)
    })
}

/// Merges an adapter into its base: a model folder like the base's, or a GGUF file. The model may be NULL. `json_out`,
/// which gets the words of `sftmix merge --json`, may be NULL.
///
/// `*json_out` is freed with `sftmix_string_free`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_merge(
    options: *const sftmix_export_options,
    model: *const sftmix_model,
    json_out: *mut *mut c_char,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        table::at_home()?;
        let o = border::read(options)?;
        not_here(o.formats, "formats", "a merge")?;
        let config = MergeConfig {
            source: source(&o, model)?,
            out: path(o.out, "out")?.unwrap_or_default(),
            gguf: word(o.gguf, "gguf")?,
            dtype: word(o.dtype, "dtype")?,
        };
        let merged = match model_of(model)? {
            Some(model) => merge_on(&model, &config)?,
            None => merge(&config)?,
        };
        put(json_out, json(&merged)?)
    })
}

unsafe fn put(out: *mut *mut c_char, text: String) -> Result<()> {
    if !out.is_null() {
        // SAFETY: it is the caller's.
        *unsafe { place(out, "json_out")? } = given_out(&text);
    }
    Ok(())
}
