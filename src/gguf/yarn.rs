//! YaRN's settings in a GGUF file, as llama.cpp takes them in the families that are read here.

use serde_json::{json, Value};

use super::fields::Read;
use crate::error::Result;

/// Fields that converters write and llama.cpp reads in other families only, each with what it takes for granted in
/// these: with another value the file and its readers would disagree.
const GRANTED: [(&str, f64); 4] =
    [("yarn_ext_factor", 1.0), ("yarn_beta_fast", 32.0), ("yarn_beta_slow", 1.0), ("yarn_log_multiplier", 0.0)];

/// `rope_scaling`.
pub(super) fn scaling(read: &Read, factor: Option<f64>) -> Result<Value> {
    let factor = factor.ok_or_else(|| read.missing("rope.scaling.factor"))?;
    for (name, granted) in GRANTED {
        let name = format!("rope.scaling.{name}");
        if let Some(x) = read.number(&name)?.filter(|&x| x != granted) {
            return Err(read.unsupported(&name, format!("{x} is not supported (expected {granted})")));
        }
    }
    // The factor of cos and sin that follows from `factor`, and by which llama.cpp multiplies `attn_factor`.
    let usual = if factor > 1.0 { 0.1 * libm::log(factor) + 1.0 } else { 1.0 };
    let name = "rope.scaling.yarn_attn_factor";
    if let Some(x) = read.number(name)?.filter(|x| (x - usual).abs() > 1e-6 * usual) {
        let reason = format!("{x} is not supported: llama.cpp does not read it, and takes {usual}");
        return Err(read.unsupported(name, reason));
    }
    let original = match read.size("rope.scaling.original_context_length")? {
        Some(n) => n,
        None => read.needed("context_length")?,
    };
    let mut scaling = json!({ "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original });
    if let Some(x) = read.number("rope.scaling.attn_factor")?.filter(|&x| x != 1.0) {
        scaling["attention_factor"] = (x * usual).into();
    }
    Ok(scaling)
}
