//! What needs no handle: plan, evaluate, inspect, export, merge.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use sftmix::StopHandle;

use crate::border::{aside, Cross};
use crate::error::{Result, SftmixError};
use crate::job::Model;
use crate::records::{Evaluation, RunPlan};
use crate::settings::TrainSettings;

fn invalid(field: &str, reason: String) -> SftmixError {
    sftmix::Error::InvalidConfig { field: field.into(), reason }.into()
}

/// What a run of these settings will take: memory by part, tokens, time, and whether it stays within its limit.
#[uniffi::export(default(model = None))]
pub fn plan(settings: TrainSettings, model: Option<Arc<Model>>) -> Result<RunPlan> {
    let config = settings_of(settings, model.as_ref())?;
    let made = match model {
        Some(model) => sftmix::plan_on(&model.core, &config)?,
        None => sftmix::plan(&config)?,
    };
    Ok(made.into())
}

/// Settings of what looks at rows: where nothing would be written, a run folder may be left out.
fn settings_of(mut settings: TrainSettings, model: Option<&Arc<Model>>) -> Result<sftmix::TrainConfig> {
    if let Some(model) = model {
        model.home.check()?;
        settings.model = Some(model.path());
    }
    if settings.out.is_none() {
        settings.out = Some("run".into());
        settings.cache_dir.get_or_insert(sftmix::default_cache().cross());
    }
    settings.config()
}

/// Loss, perplexity and accuracy of the model, with an adapter where one is given, on a file of rows. `settings` says how
/// rows become examples (`data`, `max_length`, `batch_size`, the shape of rows), where to compute, and the model, where no
/// open one is given.
#[uniffi::export(default(model = None, adapter = None, force = false))]
pub fn evaluate(
    settings: TrainSettings,
    model: Option<Arc<Model>>,
    adapter: Option<String>,
    force: bool,
) -> Result<Evaluation> {
    evaluate_until(settings, model, adapter, force, &StopHandle::default())
}

fn evaluate_until(
    settings: TrainSettings,
    model: Option<Arc<Model>>,
    adapter: Option<String>,
    force: bool,
    stop: &StopHandle,
) -> Result<Evaluation> {
    let config = settings_of(settings, model.as_ref())?;
    let [data] = &config.data.0[..] else { return Err(invalid("data", "expected one file of rows".into())) };
    let eval = sftmix::EvalConfig {
        model: config.model.clone(),
        adapter: adapter.map(PathBuf::from),
        force,
        data: data.path.clone(),
        max_length: config.max_length,
        batch_size: config.batch_size,
        device: config.device,
        threads: config.threads,
        cache_dir: config.cache_dir.clone(),
        data_options: config.data_options.clone(),
    };
    let model = model.map_or_else(|| sftmix::Model::open(&eval.model), |model| Ok(model.core.clone()))?;
    Ok(sftmix::evaluate_on(&model, &eval, stop)?.into())
}

/// As `evaluate`, for callers that await. Where the caller is cancelled, it is broken off.
#[uniffi::export(default(model = None, adapter = None, force = false))]
pub async fn evaluate_async(
    settings: TrainSettings,
    model: Option<Arc<Model>>,
    adapter: Option<String>,
    force: bool,
) -> Result<Evaluation> {
    let stop = StopHandle::default();
    let stops = stop.clone();
    aside(move || evaluate_until(settings, model, adapter, force, &stop), move || stops.stop()).await
}

/// A token of a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, uniffi::Record)]
pub struct ShownToken {
    /// Its id.
    pub id: u32,
    /// What it stands for in the text, or its name in the vocabulary.
    pub text: String,
    /// Whether it is trained.
    pub trained: bool,
}

/// A row as it is trained on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, uniffi::Record)]
pub struct ShownRow {
    /// Its number in the file, from 1.
    pub row: u64,
    /// It lost its tail to the limit of length.
    pub cut: bool,
    /// Every value of it is empty.
    pub empty: bool,
    /// Why it is no example and is left out, as `bad_rows` allows.
    pub skipped: Option<String>,
    /// Its pieces: one, unless a text was split.
    pub windows: Vec<Vec<ShownToken>>,
}

/// Rows that were left out for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, uniffi::Record)]
pub struct SkippedRows {
    /// What is wrong with them: places, numbers and quoted texts are written as `…`.
    pub reason: String,
    /// How many.
    pub rows: u64,
    /// The numbers of the first.
    pub first: Vec<u64>,
}

/// What was found in a file of rows.
#[derive(Clone, Debug, PartialEq, uniffi::Record)]
pub struct InspectedFile {
    /// The file.
    pub path: String,
    /// Shape of its rows; none where it has none.
    pub shape: Option<String>,
    /// What became of its rows.
    pub rows: crate::records::RowCounts,
    /// Its rows that are no examples and are left out, as `bad_rows` allows, by reason.
    pub skipped: Vec<SkippedRows>,
    /// Tokens of its examples.
    pub tokens: u64,
    /// Trained tokens of these.
    pub supervised_tokens: u64,
    /// Tokens of the longest example.
    pub longest: u64,
    /// The rows that were to be shown.
    pub shown: Vec<ShownRow>,
}

/// What training will see of the data files: the first `rows` of each, or the row of a number, token by token, and what
/// became of all.
#[uniffi::export(default(model = None, rows = 3, row = None))]
pub fn inspect(
    settings: TrainSettings,
    model: Option<Arc<Model>>,
    rows: u64,
    row: Option<u64>,
) -> Result<Vec<InspectedFile>> {
    let config = settings_of(settings, model.as_ref())?;
    let look = sftmix::inspect::InspectConfig {
        model: config.model.clone(),
        data: config.data.clone(),
        row,
        rows: rows as usize,
        max_length: config.max_length,
        threads: config.threads,
        data_options: config.data_options.clone(),
    };
    let skipped = |s: sftmix::SkippedRows| SkippedRows { reason: s.reason, rows: s.rows, first: s.first };
    let file = |f: sftmix::inspect::InspectedFile| {
        let token = |t: sftmix::inspect::ShownToken| ShownToken { id: t.id, text: t.text, trained: t.trained };
        let shown = |r: sftmix::inspect::ShownRow| {
            let windows = r.windows.into_iter().map(|w| w.into_iter().map(token).collect()).collect();
            ShownRow { row: r.row, cut: r.cut, empty: r.empty, skipped: r.skipped, windows }
        };
        InspectedFile {
            path: f.path.cross(),
            shape: f.shape.map(String::from),
            rows: f.rows.into(),
            skipped: f.skipped.into_iter().map(skipped).collect(),
            tokens: f.tokens,
            supervised_tokens: f.supervised_tokens,
            longest: f.longest,
            shown: f.shown.into_iter().map(shown).collect(),
        }
    };
    Ok(sftmix::inspect::inspect(&look)?.into_iter().map(file).collect())
}

/// Which adapter, on which base: a run folder says both.
#[derive(Clone, Debug, uniffi::Record)]
pub struct AdapterSource {
    /// A run folder: its adapter, its base and its held-out rows.
    #[uniffi(default = None)]
    pub run: Option<String>,
    /// The base.
    #[uniffi(default = None)]
    pub model: Option<String>,
    /// A PEFT adapter folder.
    #[uniffi(default = None)]
    pub adapter: Option<String>,
    /// Rows to compare on.
    #[uniffi(default = None)]
    pub data: Option<String>,
    /// Take the adapter whatever base its sftmix.json names.
    #[uniffi(default = false)]
    pub force: bool,
}

impl From<AdapterSource> for sftmix::export::AdapterSource {
    fn from(s: AdapterSource) -> Self {
        sftmix::export::AdapterSource {
            run: s.run.map(Into::into),
            model: s.model.map(Into::into),
            adapter: s.adapter.map(Into::into),
            data: s.data.map(Into::into),
            force: s.force,
            ..Default::default()
        }
    }
}

/// An adapter in a format of another runtime.
#[derive(Clone, Debug, PartialEq, uniffi::Record)]
pub struct Exported {
    /// peft, gguf or mlx.
    pub format: String,
    /// Its folder.
    pub path: String,
    /// Largest difference of logits from the trained adapter's.
    pub difference: f64,
}

/// Writes an adapter for other runtimes (peft, gguf, mlx), reads each back and compares its logits with the trained one's.
#[uniffi::export(default(out = None))]
pub fn export_adapter(source: AdapterSource, formats: Vec<String>, out: Option<String>) -> Result<Vec<Exported>> {
    let format = |text: &String| text.parse().map_err(|reason| invalid("formats", reason));
    let formats = formats.iter().map(format).collect::<Result<_>>()?;
    let config = sftmix::export::ExportConfig { source: source.into(), formats, out: out.map(Into::into) };
    let one = |e: sftmix::export::Exported| Exported {
        format: e.format.as_str().into(),
        path: e.path.cross(),
        difference: e.difference.max.into(),
    };
    Ok(sftmix::export::export(&config)?.exports.into_iter().map(one).collect())
}

/// A model with the adapter in its weights.
#[derive(Clone, Debug, PartialEq, uniffi::Record)]
pub struct Merged {
    /// Its folder.
    pub path: String,
    /// Linears that were merged.
    pub linears: u64,
    /// Bytes that were written.
    pub bytes: u64,
    /// Largest difference of logits from model and adapter.
    pub difference: f64,
}

/// Writes a model whose weights have the adapter in them: a Hugging Face folder (`dtype` f32, f16 or bf16), or a GGUF file
/// of a type such as q4_k_m.
#[uniffi::export(default(dtype = None, gguf = None))]
pub fn merge(source: AdapterSource, out: String, dtype: Option<String>, gguf: Option<String>) -> Result<Merged> {
    let config = sftmix::export::MergeConfig {
        source: source.into(),
        out: out.into(),
        dtype: dtype.map(|t| t.parse().map_err(|reason| invalid("dtype", reason))).transpose()?,
        gguf: gguf.map(|t| t.parse().map_err(|reason| invalid("gguf", reason))).transpose()?,
    };
    let m = sftmix::export::merge(&config)?;
    Ok(Merged { path: m.path.cross(), linears: m.linears as u64, bytes: m.bytes, difference: m.difference.max.into() })
}
