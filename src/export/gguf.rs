//! An adapter as llama.cpp reads it: one GGUF file, `<base tensor>.lora_a [r, in]` and `.lora_b [out, r]` in f32.
//!
//! At run time `B·A·x` is multiplied with `adapter.lora.alpha / r`, r by tensor and one alpha for the file. So rsLoRA
//! is an alpha, and where slots differ in `s·r` the rest stands in their B.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use super::halves::{exact_scale, first_nonzero, pair_up, scaled, Factor};
use crate::error::{Error, Result};
use crate::family::DecoderConfig;
use crate::formats::dtype::{le_bytes, Dtype};
use crate::gguf;
use crate::gguf::write::{Field, Fields, Planned};
use crate::gguf::{type_name, GgufFile};
use crate::gguf::{Architecture, RowOrder};
use crate::lora::peft::PeftAdapter;
use crate::model::Adapter;
use crate::ops::linear::Slot;

/// The file's name in its folder.
pub(super) const FILE: &str = "adapter.gguf";
const ALPHA: &str = "adapter.lora.alpha";

/// What the format calls the model's parts.
fn architecture(path: &Path, config: &DecoderConfig) -> Result<&'static Architecture> {
    Architecture::of_model_type(&config.model_type).ok_or_else(|| Error::Adapter {
        path: path.into(),
        reason: format!("gguf: no names are known for the tensors of model_type {:?}", config.model_type),
    })
}

fn row_order(architecture: &Architecture, module: &str, c: &DecoderConfig) -> Option<RowOrder> {
    architecture.row_order(module, c.num_heads, c.num_kv_heads, c.head_dim)
}

/// Writes the file with `texts` among its keys.
pub(super) fn write(path: &Path, config: &DecoderConfig, adapter: &Adapter, texts: &[(&str, &str)]) -> Result<()> {
    let wrong = |reason: String| Error::Adapter { path: path.into(), reason };
    let family = architecture(path, config)?;
    // llama.cpp takes an alpha of 0 for none, and multiplies with 1.
    let of = |s: &Slot| exact_scale(&adapter.config, s) * s.r as f64;
    let alpha = first_nonzero(adapter.slots.iter().map(of)).unwrap_or(1.0) as f32;
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    for s in &adapter.slots {
        let Some(name) = family.tensor(&format!("{}.weight", s.module)) else {
            return Err(wrong(format!("gguf: {} has no name in {:?} files", s.module, family.name)));
        };
        let b = scaled(&s.b.numbers()?, of(s) / alpha as f64);
        let b = match row_order(family, &s.module, config) {
            Some(order) => order.to_gguf(&b, s.r),
            None => b,
        };
        for (suffix, data, shape) in
            [("lora_a", s.a.numbers()?.into_owned(), [s.r, s.in_features]), ("lora_b", b, [s.out_features, s.r])]
        {
            tensors.insert(format!("{name}.{suffix}"), (shape.to_vec(), data));
        }
    }
    let mut fields = Fields::default();
    let text = |s: &str| Field::Text(s.into());
    fields.add("general.type", text("adapter"));
    fields.add("general.architecture", text(family.name));
    fields.add("adapter.type", text("lora"));
    fields.add(ALPHA, Field::F32(alpha));
    texts.iter().for_each(|(key, value)| fields.add(*key, text(value)));
    let planned = |(name, (shape, _)): (&String, &(Vec<usize>, Vec<f32>))| Planned {
        name: name.clone(),
        shape: shape.clone(),
        dtype: Dtype::F32,
    };
    let plan: Vec<Planned> = tensors.iter().map(planned).collect();
    let numbers: Vec<&Vec<f32>> = tensors.values().map(|(_, numbers)| numbers).collect();
    let file = File::create(path).map_err(Error::io(path))?;
    gguf::write::write(file, path, &fields, &plan, |i, put| put(&le_bytes(numbers[i]))).map(drop)
}

/// Reads such a file as llama.cpp does: both of each pair, nothing else, scaled by alpha over its own rank.
pub(super) fn read(path: &Path, config: &DecoderConfig) -> Result<PeftAdapter> {
    let wrong = |reason: String| Error::Adapter { path: path.into(), reason };
    let family = architecture(path, config)?;
    let file = GgufFile::open(path).map_err(|e| match e {
        Error::ModelFormat { tensor, reason, .. } => wrong(format!("{tensor}: {reason}")),
        e => e,
    })?;
    for (key, expected) in
        [("general.type", "adapter"), ("adapter.type", "lora"), ("general.architecture", family.name)]
    {
        let found = file.text(key)?;
        if found != Some(expected) {
            return Err(wrong(format!("{key}: expected {expected:?}, found {found:?}")));
        }
    }
    let alpha = match file.number(ALPHA)? {
        Some(alpha) if (alpha as f32).is_finite() => alpha,
        found => return Err(wrong(format!("{ALPHA}: expected a number, found {found:?}"))),
    };
    let mut halves = Vec::new();
    for (name, info) in file.tensors() {
        let Some((base, suffix)) = name.rsplit_once('.') else {
            return Err(wrong(format!("{name}: expected .lora_a or .lora_b at its end")));
        };
        let is_a = match suffix {
            "lora_a" => true,
            "lora_b" => false,
            _ => return Err(wrong(format!("{name}: expected .lora_a or .lora_b at its end"))),
        };
        let module = family.original(base).and_then(|n| n.strip_suffix(".weight").map(String::from));
        let module = module.ok_or_else(|| wrong(format!("{name}: {base} is no weight of {:?} files", family.name)))?;
        let (Some(dtype), Some(bytes)) = (Dtype::from_ggml(info.kind), file.bytes(info)) else {
            return Err(wrong(format!("{name}: the type {} cannot be read", type_name(info.kind))));
        };
        let &[rows, cols] = &info.shape[..] else {
            return Err(wrong(format!("{name}: expected two dimensions, found {:?}", info.shape)));
        };
        let (shape, mut data) = ((rows, cols), vec![0f32; rows * cols]);
        dtype.read(bytes, 0..rows * cols, &mut data);
        if let Some(order) = row_order(family, &module, config).filter(|_| !is_a) {
            if order.rows() != shape.0 {
                return Err(wrong(format!("{name}: expected {} rows, found {}", order.rows(), shape.0)));
            }
            data = order.from_gguf(&data, shape.1);
        }
        halves.push(Factor { module, is_a, shape, data });
    }
    let scale = |r: usize| if alpha == 0.0 { 1.0 } else { alpha / r as f64 };
    pair_up(path, halves, None, scale)
}
