//! A model folder as one GGUF file, in the types that llama.cpp reads: tensor by tensor, so that no more than a few
//! rows for each thread are in memory.

mod mix;
mod rotation;
mod vocabulary;

pub use mix::QuantType;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::Value;

use self::mix::{tensor_type, ModelFacts};
use crate::gguf::{Architecture, RowOrder};

use crate::base::Model;
use crate::disk::write_with;
use crate::error::{Error, Result};
use crate::family::DecoderConfig;
use crate::formats::dtype::Dtype;
use crate::formats::Put;
use crate::gguf;
use crate::gguf::write::{Field, Fields, Planned};
use crate::ops::{Engine, EngineOptions};
use crate::weights::Weight;
use crate::weights::WeightStore;

/// Elements that a thread converts at once.
const PIECE: usize = 1 << 18;
const FOLDER: &str = "expected a Hugging Face model folder, found a file";

/// What is to be written.
#[derive(Clone, Debug)]
pub struct QuantizeConfig {
    /// Hugging Face model folder.
    pub model: PathBuf,
    /// The type, or mix of types, of the matrices; vectors are f32.
    pub kind: QuantType,
    /// The file.
    pub out: PathBuf,
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Quantized {
    /// Bytes of the file.
    pub bytes: u64,
    /// Tensors of each type, by ggml's name.
    pub tensors: BTreeMap<String, usize>,
    /// Bits of a number of the matrices, on average.
    pub bits_per_weight: f64,
    /// What of the model is not in the file, and why.
    pub left_out: Vec<String>,
}

/// Writes a model folder as GGUF, under a temporary name first.
///
/// # Errors
/// When the model cannot be read or has no place in GGUF, or the file cannot be written.
pub fn quantize(config: &QuantizeConfig) -> Result<Quantized> {
    if config.model.is_file() {
        return Err(Error::config("model", FOLDER));
    }
    quantize_on(&Model::at(&config.model)?, config)
}

/// As [`quantize`], of a model that is open; the one that `config` names is not looked at.
///
/// # Errors
/// As [`quantize`].
pub fn quantize_on(base: &Model, config: &QuantizeConfig) -> Result<Quantized> {
    if base.files().gguf().is_some() {
        return Err(Error::config("model", FOLDER));
    }
    let (model, c) = (base.path(), base.config()?);
    let path = model.join("config.json");
    let unsupported = |reason: String| Error::ModelNotSupported { path: path.clone(), reason };
    let arch = Architecture::of_model_type(&c.model_type)
        .ok_or_else(|| unsupported(format!("model_type {:?} has no place in GGUF", c.model_type)))?;
    let json = crate::family::raw(base.files())?;
    if let Some(reason) = rotation::refusal(c) {
        return Err(unsupported(reason));
    }
    if holds_another_thing(&config.out)? {
        let reason = format!("{} holds something that is no GGUF file", config.out.display());
        return Err(Error::config("out", reason));
    }
    // That every tensor is there in its shape: a file that lacks one would be found out by its readers.
    let engine = Engine::new(EngineOptions { threads: Some(1), ..Default::default() })?;
    drop(base.decoder(&engine, 1)?);
    let store = base.weights()?;
    let mut done = Quantized::default();
    let mut fields = Fields::default();
    fields.add("general.architecture", Field::Text(arch.name.into()));
    fields.add("general.type", Field::Text("model".into()));
    if let Some(name) = model.canonicalize().ok().as_deref().and_then(Path::file_name) {
        fields.add("general.name", Field::Text(name.to_string_lossy().into_owned()));
    }
    fields.add("general.file_type", Field::U32(config.kind.file_type()));
    fields.add("general.quantization_version", Field::U32(2));
    architecture_fields(&mut fields, arch, c, &json, &mut done.left_out);
    done.left_out.extend(vocabulary::add_fields(&mut fields, base, c.vocab_size)?);
    let tensors = tensors(store, arch, c, config.kind, &mut done.left_out)?;
    let plan: Vec<Planned> = tensors.iter().map(|t| t.planned.clone()).collect();
    let matrices = || plan.iter().filter(|p| p.shape.len() > 1);
    let numbers: usize = matrices().map(|p| p.shape.iter().product::<usize>()).sum();
    done.bits_per_weight = 8.0 * matrices().map(Planned::bytes).sum::<usize>() as f64 / numbers.max(1) as f64;
    plan.iter().for_each(|p| *done.tensors.entry(p.dtype.ggml_name().to_string()).or_default() += 1);
    done.bytes = write_with(&config.out, |file, temporary| {
        let bytes = gguf::write::write(file, temporary, &fields, &plan, |i, put| tensors[i].write(put))?;
        reads_as(c, temporary).map_err(|e| match e {
            Error::ModelNotSupported { reason, .. } => unsupported(reason),
            e => e,
        })?;
        Ok(bytes)
    })?;
    Ok(done)
}

/// Whether there is something in the way that is no GGUF file: a slip of the keyboard must not cost the base's weights.
fn holds_another_thing(out: &Path) -> Result<bool> {
    let mut magic = [0; 4];
    match std::fs::File::open(out) {
        Ok(_) if out.is_dir() => Ok(true),
        Ok(mut file) => Ok(std::io::Read::read_exact(&mut file, &mut magic).is_err() || &magic != b"GGUF"),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io(out)(e)),
    }
}

/// Refuses a file whose fields do not say what the model's settings say: a family has settings that llama.cpp takes for
/// granted.
fn reads_as(c: &DecoderConfig, file: &Path) -> Result<()> {
    let read = DecoderConfig::from_dir(file)?;
    let mut layers = read.layers.clone();
    if layers.iter().all(|l| l.window.is_none()) {
        layers.iter_mut().zip(&c.layers).for_each(|(read, c)| read.window = c.window);
    }
    let mut ropes = read.ropes.clone();
    ropes.iter_mut().zip(&c.ropes).for_each(|(read, c)| rotation::unround(read, c));
    let same = DecoderConfig {
        // Families that share a name; more tokens may end an answer; what is left out is told.
        model_type: c.model_type.clone(),
        eos_token_ids: c.eos_token_ids.clone(),
        bos_token_id: c.bos_token_id,
        layers,
        ropes,
        ..read
    };
    if same == *c {
        return Ok(());
    }
    let (ours, theirs) = (format!("{c:?}"), format!("{same:?}"));
    let differing = ours.split(", ").zip(theirs.split(", ")).find(|(a, b)| a != b);
    let (ours, theirs) = differing.unwrap_or((&ours, &theirs));
    let reason = format!("GGUF has no words for {ours}: the file would be read as {theirs}");
    Err(Error::ModelNotSupported { path: file.into(), reason })
}

/// A tensor and where its numbers come from.
struct SourceTensor {
    planned: Planned,
    weight: Weight,
    /// How its rows are to stand.
    order: Option<RowOrder>,
    /// What is added to each number.
    plus: f32,
}

fn tensors(
    store: &Arc<WeightStore>,
    arch: &Architecture,
    c: &DecoderConfig,
    kind: QuantType,
    left_out: &mut Vec<String>,
) -> Result<Vec<SourceTensor>> {
    let facts = ModelFacts { layers: c.num_layers, grouped: c.num_heads / c.num_kv_heads, tied: c.tie_word_embeddings };
    let mut out = Vec::new();
    for name in store.names() {
        let shape = store.shape(name).unwrap_or_default();
        if name == "lm_head.weight" && c.tie_word_embeddings {
            left_out.push(format!("{name}: the head is the embedding"));
            continue;
        }
        if name.ends_with("rotary_emb.inv_freq") {
            left_out.push(format!("{name}: made from the settings"));
            continue;
        }
        let Some(gguf) = arch.tensor(name) else {
            let reason = format!("GGUF files of the family {} have no such tensor", arch.name);
            let path = store.files()[0].clone();
            return Err(Error::ModelFormat { path, tensor: name.into(), reason });
        };
        let weight = store.get(name, shape)?;
        let dtype = tensor_type(kind, &gguf, shape, facts);
        let norm = arch.norms_plus_one && shape.len() == 1 && name.ends_with("norm.weight");
        let order = arch.row_order(name, c.num_heads, c.num_kv_heads, c.head_dim);
        if let Some(order) = order.filter(|o| shape.first() != Some(&o.rows())) {
            let reason = format!("expected {} rows, found shape {shape:?}", order.rows());
            return Err(Error::ModelFormat { path: store.files()[0].clone(), tensor: name.into(), reason });
        }
        let planned = Planned { name: gguf, shape: shape.to_vec(), dtype };
        out.push(SourceTensor { planned, weight, order, plus: if norm { 1.0 } else { 0.0 } });
    }
    if let Some(weight) = rotation::factors(c) {
        let shape = weight.shape().to_vec();
        let planned = Planned { name: "rope_freqs.weight".into(), shape, dtype: Dtype::F32 };
        out.push(SourceTensor { planned, weight, order: None, plus: 0.0 });
    }
    // llama.cpp's order, so that a block's tensors lie together: the embedding, the blocks by number, the rest.
    let place = |name: &str| match name.strip_prefix("blk.").and_then(|r| r.split('.').next()?.parse::<usize>().ok()) {
        Some(layer) => (1, layer),
        None if name.starts_with("token_embd") => (0, 0),
        None => (2, 0),
    };
    out.sort_by(|a, b| {
        place(&a.planned.name).cmp(&place(&b.planned.name)).then_with(|| a.planned.name.cmp(&b.planned.name))
    });
    Ok(out)
}

impl SourceTensor {
    /// Hands its bytes on, piece by piece.
    fn write(&self, put: Put) -> Result<()> {
        // A vector is one row, unless its elements are to be reordered.
        let (rows, cols) = match (self.planned.shape.as_slice(), self.order) {
            ([n], None) => (1, *n),
            _ => (self.weight.rows(), self.weight.cols()),
        };
        let some = (PIECE / cols.max(1)).max(1);
        let pieces: Vec<usize> = (0..rows).step_by(some).collect();
        for together in pieces.chunks(2 * rayon::current_num_threads()) {
            self.weight.unchanged()?;
            let made = together.par_iter().map(|&first| self.piece(first..(first + some).min(rows), cols));
            for piece in made.collect::<Result<Vec<_>>>()? {
                put(&piece)?;
            }
        }
        Ok(())
    }

    fn piece(&self, rows: std::ops::Range<usize>, cols: usize) -> Result<Vec<u8>> {
        let mut numbers = vec![0f32; rows.len() * cols];
        match self.order {
            None if self.weight.cols() == cols => self.weight.read_rows(rows, &mut numbers),
            // A vector.
            None => self.weight.read_rows(0..cols, &mut numbers),
            Some(order) => {
                for (row, out) in rows.zip(numbers.chunks_exact_mut(cols)) {
                    let from = order.original(row);
                    self.weight.read_rows(from..from + 1, out);
                }
            }
        }
        if self.plus != 0.0 {
            numbers.iter_mut().for_each(|x| *x += self.plus);
        }
        encode(self.planned.dtype, &numbers, &self.planned.name)
    }
}

/// Numbers, whole rows of them, as stored.
///
/// # Errors
/// [`Error::NonFinite`] where one, or the scale of a block, is beyond the type.
fn encode(dtype: Dtype, numbers: &[f32], name: &str) -> Result<Vec<u8>> {
    let (mut bytes, mut read) = (Vec::new(), vec![0f32; numbers.len()]);
    dtype.encode(numbers, &mut bytes)?;
    dtype.read(&bytes, 0..numbers.len(), &mut read);
    if !numbers.iter().chain(&read).all(|x| x.is_finite()) {
        return Err(Error::NonFinite { what: format!("a number of {name} as {}", dtype.ggml_name()) });
    }
    Ok(bytes)
}

/// The fields that [`crate::gguf::config`] reads.
fn architecture_fields(
    fields: &mut Fields,
    arch: &Architecture,
    c: &DecoderConfig,
    json: &Value,
    left_out: &mut Vec<String>,
) {
    let mut add = |name: &str, field: Field| fields.add(format!("{}.{name}", arch.name), field);
    for (name, n) in [
        ("block_count", c.num_layers),
        ("context_length", c.max_position_embeddings),
        ("embedding_length", c.hidden_size),
        ("feed_forward_length", c.intermediate_size),
        ("attention.head_count", c.num_heads),
        ("attention.head_count_kv", c.num_kv_heads),
        ("attention.key_length", c.head_dim),
        ("attention.value_length", c.head_dim),
        ("rope.dimension_count", c.ropes[0].rotary_dim),
        ("vocab_size", c.vocab_size),
    ] {
        add(name, Field::U32(n as u32));
    }
    add("attention.layer_norm_rms_epsilon", Field::F32(c.rms_norm_eps as f32));
    add("rope.freq_base", Field::F32(c.ropes[0].theta as f32));
    rotation::fields(&c.ropes[0]).into_iter().for_each(|(name, field)| add(name, field));
    let window = c.layers.iter().find_map(|l| l.window);
    match (arch.model_type, window) {
        ("gemma2" | "gemma3_text" | "phi3", Some(n)) => add("attention.sliding_window", Field::U32(n as u32)),
        ("mistral", Some(n)) => {
            add("attention.sliding_window", Field::U32(n as u32));
            left_out.push(format!("sliding_window {n}: it is in the file, but llama.cpp does not use it"));
        }
        (_, Some(n)) => left_out.push(format!("sliding_window {n}: llama.cpp has none in the family {}", arch.name)),
        (_, None) => {}
    }
    for (key, name) in [
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
        ("attention_multiplier", "attention.scale"),
        ("embedding_multiplier", "embedding_scale"),
        ("residual_multiplier", "residual_scale"),
        ("logits_scaling", "logit_scale"),
    ] {
        // What the config leaves out is 1 to Hugging Face, and something else to llama.cpp.
        let usual = (arch.model_type == "granite" && !key.ends_with("softcapping")).then_some(1.0);
        if let Some(x) = json[key].as_f64().or(usual) {
            add(name, Field::F32(x as f32));
        }
    }
}
