//! A GGUF file's fields as the `config.json` that they came from, so that families, defaults and refusals are those
//! of Hugging Face folders.

use serde_json::{json, Map, Value};

use super::fields::Read;
use super::file::GgufFile;
use super::names::Architecture;
use super::yarn;
use crate::error::{Error, Result};

/// Positions of a model that Llama 3's scaling was made from, in every file there is but tests'.
const LLAMA3_POSITIONS: f64 = 8192.0;

/// The file's family.
///
/// # Errors
/// [`Error::ModelNotSupported`] for one that is not known, [`Error::ModelFormat`] where none is named.
pub(crate) fn architecture(file: &GgufFile) -> Result<&'static Architecture> {
    let key = "general.architecture";
    let kind = file.text("general.type")?.unwrap_or("model");
    if kind != "model" {
        return Err(file.fault("general.type", format!("expected a model, found {kind:?}")));
    }
    if let Some(parts) = file.size("split.count")?.filter(|&n| n > 1) {
        let reason = format!("one of {parts} parts: merge them first (gguf-split --merge)");
        return Err(file.fault("split.count", reason));
    }
    let name = file.text(key)?.ok_or_else(|| file.fault(key, "expected a text, found nothing"))?;
    Architecture::named(name).ok_or_else(|| {
        let names = Architecture::names().join(", ");
        let reason = format!("{key} {name:?} is not one of those supported: {names}");
        Error::ModelNotSupported { path: file.path().into(), reason }
    })
}

/// The `config.json` of the model.
///
/// # Errors
/// [`Error::ModelFormat`] for a field that is absent or of another type, [`Error::ModelNotSupported`] for what would
/// change the numbers and has no word in a `config.json`.
pub(crate) fn model_config(file: &GgufFile) -> Result<Value> {
    let arch = architecture(file)?;
    let read = Read { file, arch: arch.name };
    let mut c = Map::new();
    c.insert("model_type".into(), arch.model_type.into());
    let heads = read.needed("attention.head_count")?;
    let hidden = read.needed("embedding_length")?;
    let head_dim = match read.size("attention.key_length")? {
        Some(n) => n,
        None if heads > 0 => hidden / heads,
        None => 0,
    };
    if let Some(values) = read.size("attention.value_length")?.filter(|&n| n != head_dim) {
        let reason = format!("{values}, but keys have {head_dim}: heads of two sizes are not supported");
        return Err(read.unsupported("attention.value_length", reason));
    }
    for (key, name) in [
        ("num_hidden_layers", "block_count"),
        ("intermediate_size", "feed_forward_length"),
        ("max_position_embeddings", "context_length"),
    ] {
        c.insert(key.into(), read.needed(name)?.into());
    }
    c.insert("hidden_size".into(), hidden.into());
    c.insert("num_attention_heads".into(), heads.into());
    c.insert("num_key_value_heads".into(), read.size("attention.head_count_kv")?.unwrap_or(heads).into());
    c.insert("head_dim".into(), head_dim.into());
    c.insert("vocab_size".into(), vocabulary(file)?.into());
    let eps = read.number("attention.layer_norm_rms_epsilon")?;
    let eps = eps.ok_or_else(|| read.missing("attention.layer_norm_rms_epsilon"))?;
    c.insert("rms_norm_eps".into(), eps.into());
    c.insert("rope_theta".into(), read.number("rope.freq_base")?.unwrap_or(10_000.0).into());
    if let Some(rotated) = read.size("rope.dimension_count")?.filter(|&n| n != head_dim) {
        c.insert("partial_rotary_factor".into(), (rotated as f64 / head_dim.max(1) as f64).into());
    }
    if let Some(scaling) = scaling(&read, head_dim as usize)? {
        c.insert("rope_scaling".into(), scaling);
    }
    c.insert("tie_word_embeddings".into(), (!file.tensors().contains_key("output.weight")).into());
    biases(file, arch, &mut c)?;
    family(&read, arch, head_dim, &mut c)?;
    for (key, name) in [("bos_token_id", "bos"), ("pad_token_id", "padding")] {
        if let Some(id) = file.size(&format!("tokenizer.ggml.{name}_token_id"))? {
            c.insert(key.into(), id.into());
        }
    }
    c.insert("eos_token_id".into(), json!(super::tokens::end_tokens(file)?));
    experts(&read)?;
    Ok(Value::Object(c))
}

/// Rows of the embedding.
fn vocabulary(file: &GgufFile) -> Result<u64> {
    let name = "token_embd.weight";
    let info = file.tensors().get(name).ok_or_else(|| file.fault(name, "expected a matrix, found no such tensor"))?;
    Ok(info.shape.first().copied().unwrap_or(0) as u64)
}

/// Which linears have biases is told by the tensors.
fn biases(file: &GgufFile, arch: &Architecture, c: &mut Map<String, Value>) -> Result<()> {
    let has = |name: &str| file.tensors().contains_key(&format!("blk.0.{name}.bias"));
    let (queries, output, mlp) = (has("attn_q") || has("attn_qkv"), has("attn_output"), has("ffn_down"));
    // Qwen2's biases are its own.
    if arch.model_type != "qwen2" && (queries || output) {
        if queries != output {
            return Err(file.fault("blk.0.attn_output.bias", "queries have a bias and outputs none, or the reverse"));
        }
        c.insert("attention_bias".into(), true.into());
    }
    if mlp {
        c.insert("mlp_bias".into(), true.into());
    }
    Ok(())
}

/// What a family's `config.json` says beside the shapes.
fn family(read: &Read, arch: &Architecture, head_dim: u64, c: &mut Map<String, Value>) -> Result<()> {
    let mut set = |key: &str, value: Value| c.insert(key.into(), value);
    let window = read.size("attention.sliding_window")?.filter(|&n| n > 0);
    match arch.model_type {
        "gemma" => {
            set("hidden_activation", "gelu_pytorch_tanh".into());
        }
        "gemma2" | "gemma3_text" => {
            set("hidden_activation", "gelu_pytorch_tanh".into());
            set("query_pre_attn_scalar", query_scale(read, arch, head_dim)?.into());
            let window = window.ok_or_else(|| read.missing("attention.sliding_window"))?;
            set("sliding_window", window.into());
            for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
                if let Some(cap) = read.number(key)? {
                    set(key, cap.into());
                }
            }
            if arch.model_type == "gemma3_text" {
                set("sliding_window_pattern", 6.into());
                set("rope_local_base_freq", read.number("rope.freq_base_swa")?.unwrap_or(10_000.0).into());
            }
        }
        // Mistral, which shares the name: llama.cpp has no window there, but the model has one.
        "llama" if window.is_some() => {
            set("model_type", "mistral".into());
            set("sliding_window", window.into());
        }
        "phi3" => {
            if let Some(window) = window {
                set("sliding_window", window.into());
            }
        }
        "smollm3" => {
            set("no_rope_layer_interval", 4.into());
        }
        "granite" => {
            for (key, name) in [
                ("attention_multiplier", "attention.scale"),
                ("embedding_multiplier", "embedding_scale"),
                ("residual_multiplier", "residual_scale"),
                ("logits_scaling", "logit_scale"),
            ] {
                if let Some(x) = read.number(name)? {
                    set(key, x.into());
                }
            }
        }
        "llama" | "qwen2" | "qwen3" | "olmo2" => {
            // llama.cpp has no window in these families, whatever the file says of one.
            if let Some(window) = window {
                log::warn!(
                    "{}: {} {window} is ignored",
                    read.file.path().display(),
                    read.key("attention.sliding_window")
                );
            }
        }
        other => {
            let reason = format!("{other:?} is not read from GGUF files");
            return Err(Error::ModelNotSupported { path: read.file.path().into(), reason });
        }
    }
    Ok(())
}

/// Gemma's scale of queries, which the file does not hold: that of the head, but for the models of 27B.
fn query_scale(read: &Read, arch: &Architecture, head_dim: u64) -> Result<u64> {
    let largest = if arch.model_type == "gemma2" { 46 } else { 62 };
    let (hidden, heads) = (read.needed("embedding_length")?, read.needed("attention.head_count")?);
    Ok(if read.needed("block_count")? == largest { hidden / heads.max(1) } else { head_dim })
}

/// Mixtures of experts share a family's name with dense models.
fn experts(read: &Read) -> Result<()> {
    match read.size("expert_count")?.filter(|&n| n > 0) {
        Some(n) => Err(read.unsupported("expert_count", format!("{n} is not supported (expected 0)"))),
        None => Ok(()),
    }
}

/// `rope_scaling`: by fields, or by the factors of each frequency that Llama 3's files hold.
fn scaling(read: &Read, head_dim: usize) -> Result<Option<Value>> {
    let kind = read.file.text(&read.key("rope.scaling.type"))?.unwrap_or("none");
    let factor = match read.number("rope.scaling.factor")? {
        Some(x) => Some(x),
        None => read.number("rope.scale_linear")?,
    };
    for name in ["rope_factors_long.weight", "rope_factors_short.weight"] {
        if read.file.tensors().contains_key(name) {
            let reason = format!("{name}: rotary factors by length (longrope) are not supported");
            return Err(Error::ModelNotSupported { path: read.file.path().into(), reason });
        }
    }
    let factors = frequency_factors(read, head_dim)?;
    if kind != "yarn" {
        let name = "rope.scaling.attn_factor";
        if let Some(x) = read.number(name)?.filter(|&x| x != 1.0) {
            return Err(read.unsupported(name, format!("{x} is not supported without yarn (expected 1)")));
        }
    }
    match (kind, factor.filter(|&x| x != 1.0), factors) {
        // In Gemma 3, llama.cpp gives layers with a window the same factor of cos and sin.
        ("yarn", _, None) if read.arch != "gemma3" => yarn::scaling(read, factor).map(Some),
        ("none" | "linear", None, None) => Ok(None),
        ("none" | "linear", None, Some(factors)) => llama3(read, head_dim, &factors).map(Some),
        ("linear", Some(x), None) => Ok(Some(json!({ "rope_type": "linear", "factor": x }))),
        (kind, ..) => Err(read.unsupported("rope.scaling.type", format!("{kind:?} is not supported"))),
    }
}

/// `rope_freqs.weight`: by how much each frequency is divided.
fn frequency_factors(read: &Read, head_dim: usize) -> Result<Option<Vec<f32>>> {
    let name = "rope_freqs.weight";
    let Some(info) = read.file.tensors().get(name) else { return Ok(None) };
    let bytes = read.file.bytes(info).filter(|_| info.kind == 0 && info.shape == [head_dim / 2]);
    let Some(bytes) = bytes else {
        return Err(read.file.fault(name, format!("expected {} singles, found shape {:?}", head_dim / 2, info.shape)));
    };
    let factors: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Ok(factors.iter().any(|&f| f != 1.0).then_some(factors))
}

/// Llama 3's settings, from the factors that they give: low and high 1 and 4, the length before stretching 8192 or
/// what the file says.
fn llama3(read: &Read, head_dim: usize, factors: &[f32]) -> Result<Value> {
    let theta = read.number("rope.freq_base")?.unwrap_or(10_000.0);
    let factor = factors.iter().fold(0f32, |a, &b| a.max(b)) as f64;
    let known = [read.number_or_size("rope.scaling.original_context_length")?, Some(LLAMA3_POSITIONS)];
    for original in known.into_iter().flatten() {
        let made = llama3_factors(theta, head_dim, factor, (1.0, 4.0), original);
        if made.iter().zip(factors).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs()) {
            return Ok(json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": original as u64,
            }));
        }
    }
    let reason = format!("rope_freqs.weight: factors up to {factor} that no known setting of llama3 gives");
    Err(Error::ModelNotSupported { path: read.file.path().into(), reason })
}

/// By how much Llama 3's scaling divides each frequency, as llama.cpp's converter writes it.
pub(crate) fn llama3_factors(
    theta: f64,
    head_dim: usize,
    factor: f64,
    (low, high): (f64, f64),
    original: f64,
) -> Vec<f32> {
    let one = |i: usize| {
        let frequency = 1.0 / libm::pow(theta, (2 * i) as f64 / head_dim as f64);
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        if wavelength < original / high {
            1.0
        } else if wavelength > original / low {
            factor as f32
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
        }
    };
    (0..head_dim / 2).map(one).collect()
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
