//! Adapters in the formats of other runtimes, and models with their adapter merged in. What is written is read again
//! from its files, and its weights and logits are compared with the adapter's, before it gets its name.

mod check;
mod ends;
mod gguf;
mod halves;
mod merge;
mod mlx;
mod numbers;
mod precision;
mod quantize;
mod source;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use check::Difference;
pub use merge::{merge, merge_on, MergeConfig, Merged};
pub use precision::Precision;
pub use quantize::{quantize, quantize_on, QuantType, QuantizeConfig, Quantized};
pub use source::AdapterSource;

use crate::base::facts::FILE as FACTS;
use crate::base::Model;
use crate::data::text::chat::stored::{write_templates, DEFAULT};
use crate::disk::replace_dirs;
use crate::error::{Error, Result};
use crate::family::DecoderConfig;
use crate::lora::peft::{load_adapter, PeftAdapter};
use crate::model::Adapter;
use check::{differences, Side, ROUNDING};
use source::Opened;

/// A format of adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Format {
    /// Hugging Face PEFT: `adapter_config.json`, `adapter_model.safetensors`.
    Peft,
    /// llama.cpp: `adapter.gguf`.
    Gguf,
    /// MLX: `adapter_config.json`, `adapters.safetensors`.
    Mlx,
}

impl Format {
    /// Every format, as written in settings.
    pub const NAMES: &'static [&'static str] = &["peft", "gguf", "mlx"];

    /// The format as written in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Peft => "peft",
            Format::Gguf => "gguf",
            Format::Mlx => "mlx",
        }
    }
}

impl std::str::FromStr for Format {
    type Err = String;
    fn from_str(s: &str) -> Result<Format, String> {
        match s {
            "peft" => Ok(Format::Peft),
            "gguf" => Ok(Format::Gguf),
            "mlx" => Ok(Format::Mlx),
            _ => Err(format!("expected one of {}, found {s:?}", Format::NAMES.join(", "))),
        }
    }
}

/// What to export.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExportConfig {
    /// The adapter.
    pub source: AdapterSource,
    /// Formats, at least one.
    pub formats: Vec<Format>,
    /// Gets a folder for each format, under its name, in the place of an earlier export; `None` takes `export` in the run
    /// folder.
    pub out: Option<PathBuf>,
}

/// A format that was written, or verified.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Exported {
    /// Which.
    pub format: Format,
    /// Its folder.
    pub path: PathBuf,
    /// How far its numbers are from the adapter's, as shares of themselves: A, B times its scale, magnitudes.
    pub weights: f32,
    /// How far its logits are from the adapter's.
    pub difference: Difference,
    /// What rounding explains.
    pub bound: f32,
}

/// What was exported.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ExportReport {
    /// The adapter.
    pub adapter: PathBuf,
    /// Its base.
    pub model: PathBuf,
    /// Where the rows come from that logits were compared on.
    pub rows_from: String,
    /// Rows.
    pub rows: usize,
    /// Tokens of theirs: positions compared.
    pub tokens: usize,
    /// Content hash of the chat template that lies beside each export; `None` where the base has none.
    pub chat_template: Option<String>,
    /// How far the base's logits are from those of base and adapter: what the adapter does.
    pub effect: f32,
    /// What was written.
    pub exports: Vec<Exported>,
}

/// Writes an adapter in other formats: all that are asked for, or none.
///
/// # Errors
/// [`Error::BaseMismatch`] when the adapter belongs to another base; [`Error::Adapter`] when a format cannot hold it;
/// [`Error::ExportMismatch`] when what was written is not what it was made from. Nothing is left behind then.
pub fn export(config: &ExportConfig) -> Result<ExportReport> {
    export_with(None, config, &mut |_, _| Ok(()))
}

/// As [`export`], of an adapter on a base that is open; the one that `config` names is not looked at.
///
/// # Errors
/// As [`export`].
pub fn export_on(base: &Model, config: &ExportConfig) -> Result<ExportReport> {
    export_with(Some(base), config, &mut |_, _| Ok(()))
}

/// As [`export`]; `between` is given each folder when it is written and not yet read again.
fn export_with(
    base: Option<&Model>,
    config: &ExportConfig,
    between: &mut dyn FnMut(Format, &Path) -> Result<()>,
) -> Result<ExportReport> {
    let mut formats = Vec::new();
    for &format in &config.formats {
        if !formats.contains(&format) {
            formats.push(format);
        }
    }
    if formats.is_empty() {
        return Err(Error::config("formats", format!("expected one or more of {}", Format::NAMES.join(", "))));
    }
    let out = match (&config.out, &config.source.run) {
        (Some(out), _) => out.clone(),
        (None, Some(run)) => run.join("export"),
        (None, None) => return Err(Error::config("out", "a folder is needed where no run is named")),
    };
    let targets: Vec<PathBuf> = formats.iter().map(|f| out.join(f.as_str())).collect();
    for target in &targets {
        if target.exists() && !target.join(FACTS).exists() {
            let reason = format!("{} holds something that is no export: choose another folder", target.display());
            return Err(Error::config("out", reason));
        }
    }
    let opened = config.source.open(base)?;
    let lengths = opened.adapter.slots.iter().find(|s| s.dora.is_some());
    if let Some(slot) = lengths.filter(|_| formats.contains(&Format::Gguf)) {
        let reason = format!(
            "gguf: {} has magnitudes (DoRA), for which these adapters have no place: sftmix merge writes them into the model",
            slot.module
        );
        return Err(Error::Adapter { path: opened.adapter_path.clone(), reason });
    }
    let was_there = out.exists();
    let (mut exports, mut effect) = (Vec::new(), 0.0);
    let finals: Vec<&Path> = targets.iter().map(PathBuf::as_path).collect();
    let done = replace_dirs(&finals, |folders| {
        let each = || formats.iter().copied().zip(folders.iter().map(PathBuf::as_path)).zip(&targets);
        for ((format, dir), _) in each() {
            write(format, dir, &opened)?;
            between(format, dir)?;
        }
        let each = each().map(|((f, dir), target)| (f, dir, target.as_path()));
        (exports, effect) = compare(&opened, &each.collect::<Vec<_>>())?;
        Ok(())
    });
    if let Err(e) = done {
        if !was_there {
            // Made for the exports; not empty where something else came meanwhile.
            let _ = std::fs::remove_dir(&out);
        }
        return Err(e);
    }
    Ok(opened.report(exports, effect))
}

/// Compares an export that lies in `dir` with the adapter it should be.
///
/// # Errors
/// As [`export`]; nothing is removed.
pub fn verify(source: &AdapterSource, format: Format, dir: &Path) -> Result<ExportReport> {
    let opened = source.open(None)?;
    let (exports, effect) = compare(&opened, &[(format, dir, dir)])?;
    Ok(opened.report(exports, effect))
}

/// Reads an export from its files.
///
/// # Errors
/// [`Error::Adapter`] when it is damaged, or of another architecture than `config`.
pub fn read(format: Format, dir: &Path, config: &DecoderConfig) -> Result<PeftAdapter> {
    match format {
        Format::Peft => load_adapter(dir),
        Format::Gguf => gguf::read(&dir.join(gguf::FILE), config),
        Format::Mlx => mlx::read(dir, config),
    }
}

fn write(format: Format, dir: &Path, opened: &Opened) -> Result<()> {
    let (adapter, config) = (&opened.adapter, &opened.model.config);
    match format {
        Format::Peft => adapter.save(dir, &opened.base_name)?,
        Format::Mlx => mlx::write(dir, config, adapter)?,
        Format::Gguf => {
            let mut texts = vec![("sftmix.base.weights", opened.facts.base.weights.as_str())];
            if let Some(template) = opened.templates.get(DEFAULT) {
                texts.push(("tokenizer.chat_template", template));
            }
            gguf::write(&dir.join(gguf::FILE), config, adapter, &texts)?;
        }
    }
    opened.facts.write(dir)?;
    write_templates(&opened.templates, dir)
}

/// Reads the exports (format, where it lies, where it will lie) and compares their weights and logits with the
/// adapter's; gives the adapter's effect beside them.
fn compare(opened: &Opened, written: &[(Format, &Path, &Path)]) -> Result<(Vec<Exported>, f32)> {
    let Opened { engine, model, .. } = opened;
    let read = |(format, dir, _): &(Format, &Path, &Path)| {
        Adapter::from_peft(engine, model, read(*format, dir, &model.config)?, dir)
    };
    let adapters = written.iter().map(read).collect::<Result<Vec<_>>>()?;
    let both = written.iter().zip(&adapters);
    let weights = both.map(|(&(format, _, path), got)| numbers::compare(&opened.adapter, got, format.as_str(), path));
    let weights = weights.collect::<Result<Vec<_>>>()?;
    let mut sides: Vec<Side> = adapters.iter().map(|a| Side { model, adapter: Some(a) }).collect();
    sides.push(Side { model, adapter: None });
    let mut found = differences(engine, opened.side(), &sides, &opened.rows)?;
    let effect = found.pop().map_or(0.0, |base| base.max);
    let exports = written
        .iter()
        .zip(weights)
        .zip(found)
        .map(|((&(format, _, path), weights), difference)| {
            let bound = difference.bound(ROUNDING);
            if difference.max > bound {
                let (path, what) = (path.to_path_buf(), format!("logits of the {} export", format.as_str()));
                return Err(Error::ExportMismatch { path, what, difference: difference.max, bound });
            }
            Ok(Exported { format, path: path.to_path_buf(), weights, difference, bound })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok((exports, effect))
}

impl Opened {
    fn report(&self, exports: Vec<Exported>, effect: f32) -> ExportReport {
        let hash = |text: &String| crate::disk::hash_of(text);
        ExportReport {
            adapter: self.adapter_path.clone(),
            model: self.base.path().to_path_buf(),
            rows_from: self.rows.from.clone(),
            rows: self.rows.ids.len(),
            tokens: self.rows.tokens(),
            chat_template: self.templates.get(DEFAULT).map(hash),
            effect,
            exports,
        }
    }
}

#[cfg(test)]
mod tests;
