//! The scaling of a model's rotation as llama.cpp reads it, or why it has no words for it.

use crate::family::yarn::attention_of;
use crate::family::{DecoderConfig, Rope, RopeScaling};
use crate::gguf::config::llama3_factors;
use crate::gguf::write::Field;
use crate::weights::Weight;

/// Why GGUF cannot hold it.
pub(super) fn refusal(c: &DecoderConfig) -> Option<String> {
    let why = match &c.ropes[0].scaling {
        RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Llama3 { .. } => return None,
        RopeScaling::LongRope { .. } => "\"longrope\" is not written to GGUF".into(),
        RopeScaling::Dynamic { .. } => "\"dynamic\" is not written to GGUF: llama.cpp has no such scaling".into(),
        RopeScaling::Yarn(_) if c.model_type == "gemma3_text" => {
            "\"yarn\" of gemma3_text is not written to GGUF: llama.cpp has it for layers with a window too".into()
        }
        RopeScaling::Yarn(y) if !y.truncate => {
            "\"yarn\" with truncate false is not written to GGUF: llama.cpp rounds the ends of the ramp".into()
        }
        RopeScaling::Yarn(y) if (y.beta_fast, y.beta_slow) != (32.0, 1.0) => format!(
            "\"yarn\" with beta_fast {} and beta_slow {} is not written to GGUF: llama.cpp takes 32 and 1",
            y.beta_fast, y.beta_slow
        ),
        RopeScaling::Yarn(_) => return None,
    };
    Some(format!("rotary scaling {why}"))
}

/// The fields of it, by their name behind the family's.
pub(super) fn fields(rope: &Rope) -> Vec<(&'static str, Field)> {
    let scaled = |kind: &str, factor: f64| {
        vec![("rope.scaling.type", Field::Text(kind.into())), ("rope.scaling.factor", Field::F32(factor as f32))]
    };
    let original = |n: u32| ("rope.scaling.original_context_length", Field::U32(n));
    match &rope.scaling {
        RopeScaling::Linear { factor } => scaled("linear", *factor),
        RopeScaling::Llama3 { original_max_position_embeddings: n, .. } => vec![original(*n as u32)],
        RopeScaling::Yarn(y) => {
            let mut all = scaled("yarn", y.factor);
            all.push(original(y.original_max_position_embeddings as u32));
            // llama.cpp multiplies it by the factor of cos and sin that follows from the stretching. Its converter
            // writes `yarn_attn_factor`, which these families do not read.
            let usual = attention_of(y.factor, 1.0);
            if y.attention_factor != usual {
                all.push(("rope.scaling.attn_factor", Field::F32((y.attention_factor / usual) as f32)));
            }
            all
        }
        _ => Vec::new(),
    }
}

/// Llama 3's scaling, which stands in the file as a tensor: by how much each frequency is divided.
pub(super) fn factors(c: &DecoderConfig) -> Option<Weight> {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } =
        c.ropes[0].scaling
    else {
        return None;
    };
    let bounds = (low_freq_factor, high_freq_factor);
    let factors = llama3_factors(c.ropes[0].theta, c.head_dim, factor, bounds, original_max_position_embeddings);
    Some(Weight::from_vec("rope_freqs.weight", &[factors.len()], factors))
}

/// Makes of what was read what was written, where a single's rounding is all that is between.
pub(super) fn unround(read: &mut Rope, written: &Rope) {
    if let (RopeScaling::Yarn(read), RopeScaling::Yarn(written)) = (&mut read.scaling, &written.scaling) {
        if (read.attention_factor / written.attention_factor - 1.0).abs() <= 2.0 * f64::from(f32::EPSILON) {
            read.attention_factor = written.attention_factor;
        }
    }
}
