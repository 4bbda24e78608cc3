//! A model with its adapter merged in, `W + s·B·A`: a Hugging Face folder like the base's, written a part of a tensor at a
//! time.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::SafeTensors;
use serde::Serialize;
use serde_json::{json, Map, Value};

use super::check::{differences, Difference, Side};
use super::ends::{add_end, end_of_turn};
use super::precision::Precision;
use super::quantize;
use super::quantize::QuantType;
use super::quantize::QuantizeConfig;
use super::source::{AdapterSource, Opened};
use crate::base::Model;
use crate::data::text::chat::stored::write_templates;
use crate::disk::{place, put, replace_dir, with_temporary_dir};
use crate::error::{Error, Result};
use crate::files::{ModelFiles, TOKENIZER};
use crate::formats;
use crate::formats::safetensors::Entry;
use crate::formats::Put;
use crate::held::MappedFile;
use crate::kernels::cpu::gemm::{gemm, View};
use crate::ops::linear::Slot;
use crate::weights::WeightStore;

/// Elements that are converted at once.
const PANEL: usize = 1 << 20;
/// Difference of logits that weights rounded to a type explain, in units of its rounding and of the largest logit. Found
/// on small models and large adapters: up to 16. It tells a merge that is wrong
/// from one that is rounded; that each number is rounded once and no more is what the probes are for.
const ROUNDINGS: f32 = 32.0;
/// The same for f32, where sums in another order weigh more: measured up to 8e-6.
const SUMS: f32 = 5e-5;
/// Rows of each merged matrix that are computed again, in f64, beside what was written.
const PROBES: usize = 4;
const SINGLE: &str = "model.safetensors";
const GENERATION: &str = "generation_config.json";
const INDEX: &str = "model.safetensors.index.json";
/// What is copied word for word, where the base has it. Templates are copied apart.
const COPIED: [&str; 9] = [
    "config.json",
    GENERATION,
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];

/// What to merge.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MergeConfig {
    /// The adapter and its base.
    pub source: AdapterSource,
    /// Gets the merged model; must be absent, or an empty folder.
    pub out: PathBuf,
    /// Write one GGUF file of this type instead of a folder.
    pub gguf: Option<QuantType>,
    /// Type of the stored numbers; `None` keeps that of each tensor (f32 on the way to a GGUF file).
    pub dtype: Option<Precision>,
}

/// What was merged.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Merged {
    /// The merged model's folder.
    pub path: PathBuf,
    /// Linears that were merged.
    pub linears: usize,
    /// Stored numbers that are others now.
    pub changed: u64,
    /// Numbers of the merged linears.
    pub numbers: u64,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Where the rows come from that logits were compared on.
    pub rows_from: String,
    /// Positions compared.
    pub tokens: usize,
    /// How far the merged model's logits are from those of base and adapter.
    pub difference: Difference,
    /// What rounding to the stored type explains; `None` for types of blocks, whose loss has no such figure.
    pub bound: Option<f32>,
    /// How far the base's logits are from those of base and adapter: what the adapter does.
    pub effect: f32,
    /// What of the merged folder has no place in a GGUF file, and why.
    pub left_out: Vec<String>,
    /// The end of a turn that the adapter was trained with and the base's files do not name among the end tokens: it was
    /// added to them.
    pub end_added: Option<String>,
}

/// Merges an adapter into its base.
///
/// # Errors
/// [`Error::Adapter`] when the merge would change nothing; [`Error::BaseMismatch`] when the adapter belongs to another
/// base; [`Error::NonFinite`] when a number does not fit the type; [`Error::ExportMismatch`] when what was written is
/// not base and adapter to the rounding of its type. Nothing is left behind then.
pub fn merge(config: &MergeConfig) -> Result<Merged> {
    merge_with(config, None)
}

/// As [`merge`], into a base that is open; the one that `config` names is not looked at.
///
/// # Errors
/// As [`merge`].
pub fn merge_on(base: &Model, config: &MergeConfig) -> Result<Merged> {
    merge_with(config, Some(base))
}

fn merge_with(config: &MergeConfig, base: Option<&Model>) -> Result<Merged> {
    let out = &config.out;
    if out.as_os_str().is_empty() {
        return Err(Error::config("out", "expected a path, found nothing"));
    }
    if fs::read_dir(out).map_or(out.exists(), |mut entries| entries.next().is_some()) {
        return Err(Error::config("out", format!("{} holds something: choose another folder", out.display())));
    }
    if config.gguf.is_some() && out.is_dir() {
        return Err(Error::config("out", format!("{} is a folder: name the GGUF file", out.display())));
    }
    let opened = config.source.open(base)?;
    if opened.base.files().gguf().is_some() {
        let reason = format!("{} is no Hugging Face folder: merging keeps its layout", opened.base.path().display());
        return Err(Error::config("model", reason));
    }
    if opened.adapter.slots.iter().map(updates).collect::<Result<Vec<_>>>()?.iter().all(|u| !u) {
        return Err(nothing(&opened, "every B is zero, so the adapter was not trained"));
    }
    match config.gguf {
        None => {
            let mut merged = None;
            replace_dir(out, |dir| {
                merged = Some(folder(&opened, config.dtype, dir, out)?);
                Ok(())
            })?;
            merged.ok_or_else(|| Error::Misuse("a folder was made without being filled".into()))
        }
        Some(kind) => with_temporary_dir(out, |work| file(&opened, config.dtype, kind, work, out)),
    }
}

fn nothing(opened: &Opened, why: &str) -> Error {
    Error::Adapter { path: opened.adapter_path.clone(), reason: format!("the merge changes nothing: {why}") }
}

/// Writes the merged folder `dir`, which will be `out`, and reads it again.
fn folder(opened: &Opened, dtype: Option<Precision>, dir: &Path, out: &Path) -> Result<Merged> {
    let sums = Writer::new(opened, dtype)?.write(dir)?;
    if sums.changed == 0 {
        let why = "every update is lost in the rounding of the stored type; a wider dtype keeps it";
        return Err(nothing(opened, why));
    }
    verify(opened, dir, out, sums)
}

/// Writes the merged GGUF file by way of a folder in `work`: of f32, so that numbers are rounded once.
fn file(opened: &Opened, dtype: Option<Precision>, kind: QuantType, work: &Path, out: &Path) -> Result<Merged> {
    let name = out.file_name().unwrap_or_default();
    let (model, path) = (work.join(out.file_stem().unwrap_or(name)), work.join("file").join(name));
    fs::create_dir_all(&model).map_err(Error::io(&model))?;
    fs::create_dir_all(work.join("file")).map_err(Error::io(work))?;
    let merged = folder(opened, Some(dtype.unwrap_or(Precision::F32)), &model, out)?;
    let written = quantize(&QuantizeConfig { model, kind, out: path.clone() })?;
    let decoder = Model::at(&path)?.decoder(&opened.engine, opened.rows.longest())?;
    let side = Side { model: &decoder, adapter: None };
    let difference = differences(&opened.engine, opened.side(), &[side], &opened.rows)?.remove(0);
    drop(decoder);
    let bound = kind.to_string().parse::<Precision>().ok().map(|p| difference.bound(rounding(p.unit())));
    accept(out, "logits of the merged file", difference, bound.unwrap_or(f32::MAX))?;
    place(&path, out)?;
    let (bytes, left_out) = (written.bytes, written.left_out);
    Ok(Merged { difference, bound, bytes, left_out, ..merged })
}

/// What rounding to a unit explains, of the largest logit.
fn rounding(unit: f32) -> f32 {
    (ROUNDINGS * unit).max(SUMS)
}

fn accept(out: &Path, what: &str, difference: Difference, bound: f32) -> Result<()> {
    if difference.max > bound {
        let (path, what) = (out.to_path_buf(), what.to_string());
        return Err(Error::ExportMismatch { path, what, difference: difference.max, bound });
    }
    Ok(())
}

/// Whether a slot's update is not zero throughout. Magnitudes tell only beside the weight.
fn updates(slot: &Slot) -> Result<bool> {
    Ok(slot.dora.is_some() || slot.scale != 0.0 && slot.b.numbers()?.iter().any(|v| *v != 0.0))
}

/// What a merge amounts to.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    changed: u64,
    numbers: u64,
    bytes: u64,
    /// The coarsest type of a merged tensor: its unit of rounding.
    unit: f32,
}

/// The numbers of a slot.
struct Update<'a> {
    slot: &'a Slot,
    a: Cow<'a, [f32]>,
    b: Cow<'a, [f32]>,
    /// The length that each row gets, with DoRA.
    magnitude: Option<Cow<'a, [f32]>>,
}

impl<'a> Update<'a> {
    fn of(slot: &'a Slot) -> Result<Update<'a>> {
        let magnitude = slot.dora.as_ref().map(|d| d.magnitude.numbers()).transpose()?;
        Ok(Update { slot, a: slot.a.numbers()?, b: slot.b.numbers()?, magnitude })
    }
}

/// What a row of `W + s·B·A` is multiplied with to have this length; a row of zeros stays one, as in training.
fn stretch(magnitude: f32, squares: f64) -> f64 {
    if squares > 0.0 {
        magnitude as f64 / squares.sqrt()
    } else {
        0.0
    }
}

struct Writer<'a> {
    opened: &'a Opened,
    dtype: Option<Precision>,
    /// By tensor name; those that were met are taken out.
    updates: BTreeMap<String, Update<'a>>,
    sums: Sums,
}

impl<'a> Writer<'a> {
    fn new(opened: &'a Opened, dtype: Option<Precision>) -> Result<Writer<'a>> {
        let of = |slot: &'a Slot| Ok((format!("{}.weight", slot.module), Update::of(slot)?));
        let updates = opened.adapter.slots.iter().map(of).collect::<Result<_>>()?;
        Ok(Writer { opened, dtype, updates, sums: Sums::default() })
    }

    fn write(mut self, dir: &Path) -> Result<Sums> {
        let (files, store) = (self.opened.base.files(), self.opened.base.weights()?);
        let base = files.path();
        for file in store.held() {
            self.file(file, &inside(base, file.path(), dir)?)?;
        }
        if let Some(name) = self.updates.keys().next() {
            let reason = "the adapter changes it, but no weight file holds it".into();
            return Err(Error::ModelFormat { path: base.into(), tensor: name.clone(), reason });
        }
        // A single file needs no index, even where one lies beside it.
        if store.files().iter().all(|file| *file != base.join(SINGLE)) {
            let mut json = object(files, INDEX)?;
            if let Some(Value::Object(metadata)) = json.get_mut("metadata") {
                metadata.insert("total_size".into(), self.sums.bytes.into());
            }
            write_json(&dir.join(INDEX), &json)?;
        }
        self.texts(files, dir)?;
        write_templates(&self.opened.templates, dir)?;
        Ok(self.sums)
    }

    /// Config and tokenizer: as they are, but for the type in the config where it is another now, and an end of turn that the
    /// base's files do not name.
    fn texts(&self, base: &ModelFiles, dir: &Path) -> Result<()> {
        // Whoever generates with the merged model stops where it was trained to.
        let end = end_of_turn(self.opened).map(|(id, _)| id);
        if end.is_some() && base.small(GENERATION)?.is_none() {
            let config = object(base, "config.json")?;
            let mut own: Map<String, Value> = config.into_iter().filter(|(key, _)| key == "eos_token_id").collect();
            end.into_iter().for_each(|id| add_end(&mut own, id));
            write_json(&dir.join(GENERATION), &own)?;
        }
        for name in COPIED {
            let content = match name {
                TOKENIZER => base.tokenizer()?.map(|file| file.read()).transpose()?.map(Arc::new),
                _ => base.small(name)?,
            };
            let Some(content) = content else { continue };
            let to = dir.join(name);
            let dtype = self.dtype.filter(|_| name == "config.json");
            let end = end.filter(|_| ["config.json", GENERATION].contains(&name));
            if dtype.is_none() && end.is_none() {
                fs::write(&to, content.as_slice()).map_err(Error::io(&to))?;
                continue;
            }
            let mut json = object(base, name)?;
            for key in ["torch_dtype", "dtype"] {
                if let (Some(dtype), Some(value)) = (dtype, json.get_mut(key)) {
                    *value = dtype.hugging_face().into();
                }
            }
            end.into_iter().for_each(|id| add_end(&mut json, id));
            write_json(&to, &json)?;
        }
        Ok(())
    }

    /// One weight file: the same tensors in the same order.
    fn file(&mut self, from: &MappedFile, to: &Path) -> Result<()> {
        from.unchanged()?;
        let map = from.map();
        let wrong = |e: safetensors::SafeTensorError| Error::ModelFormat {
            path: from.path().into(),
            tensor: "header".into(),
            reason: format!("damaged: {e}"),
        };
        let (length, metadata): (usize, Metadata) = SafeTensors::read_metadata(map).map_err(wrong)?;
        let mut tensors: Vec<(String, &TensorInfo)> = metadata.tensors().into_iter().collect();
        tensors.sort_by_key(|(name, t)| (t.data_offsets, name.clone()));

        let entries: Vec<Entry> = tensors
            .iter()
            .map(|(name, t)| {
                let stored = t.data_offsets.1 - t.data_offsets.0;
                let (dtype, bytes) = match (Precision::of_safetensors(t.dtype), self.dtype) {
                    (Some(had), Some(dtype)) => (dtype.safetensors(), stored / had.size() * dtype.size()),
                    _ => (t.dtype, stored),
                };
                Entry { name, dtype, shape: &t.shape, bytes }
            })
            .collect();
        self.sums.bytes += entries.iter().map(|e| e.bytes as u64).sum::<u64>();
        let about = metadata.metadata().as_ref().map(|about| json!(about.iter().collect::<BTreeMap<_, _>>()));
        formats::safetensors::write(to, about, &entries, |i, put| {
            let (name, t) = &tensors[i];
            let bytes = &map[8 + length + t.data_offsets.0..8 + length + t.data_offsets.1];
            self.tensor(name, t, (from, bytes), put)
        })
    }

    /// One tensor, as it is, converted or merged, in panels of whole rows.
    fn tensor(&mut self, name: &str, t: &TensorInfo, (from, bytes): (&MappedFile, &[u8]), put: Put) -> Result<()> {
        let update = self.updates.remove(name);
        let mut unchanged = |part: &[u8]| from.unchanged().and_then(|()| put(part));
        let Some(had) = Precision::of_safetensors(t.dtype) else { return unchanged(bytes) };
        let dtype = self.dtype.unwrap_or(had);
        if update.is_none() && had == dtype {
            return bytes.chunks(4 * PANEL).try_for_each(unchanged);
        }
        let cols: usize = t.shape.iter().skip(1).product::<usize>().max(1);
        let rows = bytes.len() / had.size() / cols;
        let at_once = (PANEL / cols).max(1);
        let (mut before, mut after, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
        for first in (0..rows).step_by(at_once) {
            let end = (first + at_once).min(rows);
            from.unchanged()?;
            numbers.resize((end - first) * cols, 0.0);
            had.decode(&bytes[first * cols * had.size()..end * cols * had.size()], &mut numbers);
            after.clear();
            if let Some(u) = &update {
                before.clear();
                dtype.encode(&numbers, &mut before)?;
                let (r, m) = (u.slot.r, end - first);
                let rows = View::rows(&u.b[first * r..end * r], r);
                let (into, a, scale) = (&mut numbers, View::rows(&u.a, cols), u.slot.scale);
                self.opened.engine.run(|| {
                    gemm(into, cols, true, (m, cols, r), scale, rows, a);
                    Ok(())
                })?;
                for (row, lengths) in numbers.chunks_exact_mut(cols).zip(first..).filter(|_| u.magnitude.is_some()) {
                    let squares = row.iter().map(|v| (*v as f64) * (*v as f64)).sum();
                    let factor = u.magnitude.as_ref().map_or(1.0, |m| stretch(m[lengths], squares));
                    row.iter_mut().for_each(|v| *v = (*v as f64 * factor) as f32);
                }
            }
            dtype.encode(&numbers, &mut after)?;
            if numbers.iter().any(|v| dtype.overflows(*v)) {
                let what = format!("a number of {name} that is too large for {}", dtype.as_str());
                return Err(Error::NonFinite { what });
            }
            if update.is_some() {
                let size = dtype.size();
                let pairs = before.chunks_exact(size).zip(after.chunks_exact(size));
                self.sums.changed += pairs.filter(|(b, a)| b != a).count() as u64;
                self.sums.numbers += numbers.len() as u64;
                self.sums.unit = self.sums.unit.max(dtype.unit());
            }
            put(&after)?;
        }
        Ok(())
    }
}

/// A file's place in another folder, whose folders are made.
fn inside(base: &Path, file: &Path, dir: &Path) -> Result<PathBuf> {
    let to = dir.join(file.strip_prefix(base).unwrap_or(file));
    if let Some(above) = to.parent() {
        fs::create_dir_all(above).map_err(Error::io(above))?;
    }
    Ok(to)
}

fn object(files: &ModelFiles, name: &str) -> Result<Map<String, Value>> {
    serde_json::from_slice(&files.needed(name)?).map_err(|e| Error::ModelFormat {
        path: files.place(name),
        tensor: "json".into(),
        reason: format!("damaged: {e}"),
    })
}

fn write_json(path: &Path, json: &Map<String, Value>) -> Result<()> {
    put(path, &crate::disk::pretty(json)?)
}

/// Reads the merged folder `dir`, which will be `out`: some rows of every merged matrix against f64, then logits.
fn verify(opened: &Opened, dir: &Path, out: &Path, sums: Sums) -> Result<Merged> {
    let merged = Model::at(dir)?;
    for linear in opened.model.linears() {
        let Some(slot) = opened.adapter.slot(linear) else { continue };
        probe(out, merged.weights()?, linear.weight.weight(), slot)?;
    }
    let Opened { engine, rows, .. } = opened;
    let model = merged.decoder(engine, rows.longest())?;
    let sides = [&model, &opened.model].map(|model| Side { model, adapter: None });
    let found = differences(engine, opened.side(), &sides, rows)?;
    let (difference, effect) = (found[0], found[1].max);
    let bound = difference.bound(rounding(sums.unit));
    accept(out, "logits of the merged model", difference, bound)?;
    if difference.max > effect / 2.0 {
        log::warn!(
            "rounding hides much of the adapter: it moves logits by up to {effect:.1e}, the merged model is {:.1e} away; a \
             wider dtype keeps it",
            difference.max
        );
    }
    Ok(Merged {
        path: out.to_path_buf(),
        linears: opened.adapter.slots.len(),
        changed: sums.changed,
        numbers: sums.numbers,
        bytes: sums.bytes,
        rows_from: rows.from.clone(),
        tokens: rows.tokens(),
        difference,
        bound: Some(bound),
        effect,
        left_out: Vec::new(),
        end_added: end_of_turn(opened).map(|(_, text)| text),
    })
}

/// Some rows of a merged matrix against `W + s·B·A` in f64: each number is that one, rounded once.
fn probe(out: &Path, store: &Arc<WeightStore>, base: &crate::weights::Weight, slot: &Slot) -> Result<()> {
    let (rows, cols, r) = (slot.out_features, slot.in_features, slot.r);
    let stored = store.get(&format!("{}.weight", slot.module), &[rows, cols])?;
    let unit = Precision::of(stored.dtype()).map_or(0.0, Precision::unit) as f64;
    let Update { a, b, magnitude, .. } = Update::of(slot)?;
    let (mut w, mut got) = (vec![0f32; cols], vec![0f32; cols]);
    for i in 0..PROBES.min(rows) {
        let row = i * (rows - 1) / (PROBES - 1);
        base.read_rows(row..row + 1, &mut w);
        stored.read_rows(row..row + 1, &mut got);
        // Each number and the size of what it is summed from.
        let exact = w.iter().enumerate().map(|(col, w)| {
            let terms = (0..r).map(|k| slot.scale as f64 * b[row * r + k] as f64 * a[k * cols + col] as f64);
            terms.fold((*w as f64, w.abs() as f64), |(s, n), t| (s + t, n + t.abs()))
        });
        let exact: Vec<(f64, f64)> = exact.collect();
        let factor = magnitude.as_ref().map_or(1.0, |m| stretch(m[row], exact.iter().map(|(v, _)| v * v).sum()));
        for (col, ((sum, size), got)) in exact.iter().zip(&got).enumerate() {
            let (sum, size) = (sum * factor, size * factor.abs());
            // The sum was made in f32; half numbers below the normal ones have a fixed step.
            let allowed = 1.01 * unit * sum.abs() + (r + 2) as f64 * f32::EPSILON as f64 * size + 3e-8;
            let difference = (*got as f64 - sum).abs();
            if difference.is_nan() || difference > allowed {
                return Err(Error::ExportMismatch {
                    path: out.into(),
                    what: format!("the numbers of {} (row {row}, column {col})", slot.module),
                    difference: difference as f32,
                    bound: allowed as f32,
                });
            }
        }
    }
    Ok(())
}
