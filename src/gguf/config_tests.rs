use std::path::PathBuf;

use serde_json::{json, Value as Json};

use super::*;
use crate::formats::dtype::Dtype;
use crate::gguf::write::{Field, Fields, Planned};

const SIZES: [(&str, u32); 6] = [
    ("block_count", 2),
    ("context_length", 64),
    ("embedding_length", 32),
    ("feed_forward_length", 48),
    ("attention.head_count", 4),
    ("attention.head_count_kv", 2),
];

/// A file of this family with an embedding, a head, and `more`; vectors hold `numbers`.
fn write(dir: &std::path::Path, arch: &str, more: &[(&str, Field)], vectors: &[(&str, Vec<f32>)]) -> PathBuf {
    let mut fields = Fields::default();
    fields.add("general.architecture", Field::Text(arch.into()));
    for (name, n) in SIZES {
        fields.add(format!("{arch}.{name}"), Field::U32(n));
    }
    fields.add(format!("{arch}.attention.layer_norm_rms_epsilon"), Field::F32(1e-5));
    fields.add("tokenizer.ggml.eos_token_id", Field::U32(2));
    for (name, field) in more {
        let prefix = if name.contains("general.") || name.contains("split.") { "" } else { &format!("{arch}.") };
        fields.add(format!("{prefix}{name}"), field.clone());
    }
    let planned = |name: &str, shape: &[usize]| Planned { name: name.into(), shape: shape.into(), dtype: Dtype::F32 };
    let mut tensors = vec![planned("token_embd.weight", &[16, 32]), planned("output.weight", &[16, 32])];
    tensors.extend(vectors.iter().map(|(name, v)| planned(name, &[v.len()])));
    let mut bytes = fields.header(&tensors);
    bytes.extend(vec![0; 2 * 16 * 32 * 4]);
    for (_, v) in vectors {
        v.iter().for_each(|x| bytes.extend(x.to_le_bytes()));
        bytes.resize(bytes.len().next_multiple_of(32), 0);
    }
    let path = dir.join("x.gguf");
    std::fs::write(&path, bytes).unwrap();
    path
}

fn config(arch: &str, more: &[(&str, Field)], vectors: &[(&str, Vec<f32>)]) -> Result<Json> {
    let dir = tempfile::tempdir().unwrap();
    model_config(&GgufFile::open(&write(dir.path(), arch, more, vectors))?)
}

#[test]
fn the_words_of_each_family() {
    let llama = config("llama", &[("rope.freq_base", Field::F32(500_000.0))], &[]).unwrap();
    assert_eq!(
        llama,
        json!({
            "model_type": "llama", "num_hidden_layers": 2, "intermediate_size": 48, "max_position_embeddings": 64,
            "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 16,
            "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "tie_word_embeddings": false, "eos_token_id": [2],
        })
    );
    let has = |arch: &str, more: &[(&str, Field)], expected: Json| {
        let found = config(arch, more, &[]).unwrap();
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&found[key], value, "{arch} {key}: {found}");
        }
    };
    let window = ("attention.sliding_window", Field::U32(16));
    let wide = ("attention.key_length", Field::U32(16));
    let values = ("attention.value_length", Field::U32(16));
    let cap = ("attn_logit_softcapping", Field::F32(50.0));
    has(
        "gemma2",
        &[window.clone(), wide.clone(), values.clone(), cap],
        json!({"model_type": "gemma2", "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16,
            "attn_logit_softcapping": 50.0, "hidden_activation": "gelu_pytorch_tanh"}),
    );
    let linear = [("rope.scaling.type", Field::Text("linear".into())), ("rope.scaling.factor", Field::F32(8.0))];
    has(
        "gemma3",
        &[vec![window.clone()], linear.to_vec()].concat(),
        json!({"model_type": "gemma3_text", "rope_local_base_freq": 10_000.0, "sliding_window_pattern": 6,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    );
    has("phi3", &[window], json!({"model_type": "phi3", "sliding_window": 16}));
    has("smollm3", &[], json!({"no_rope_layer_interval": 4}));
    has(
        "granite",
        &[("attention.scale", Field::F32(0.015625)), ("residual_scale", Field::F32(0.22))],
        json!({"attention_multiplier": 0.015625, "residual_multiplier": 0.22}),
    );
    has("smollm3", &[("rope.dimension_count", Field::U32(2))], json!({"partial_rotary_factor": 0.25}));
}

#[test]
fn llama_3_is_told_by_its_factors() {
    let made = llama3_factors(10_000.0, 8, 32.0, (1.0, 4.0), 8192.0);
    assert_eq!((made[0], made.len()), (1.0, 4));
    let factors = llama3_factors(500_000.0, 8, 32.0, (1.0, 4.0), 8192.0);
    let theta = ("rope.freq_base", Field::F32(500_000.0));
    let found = config("llama", std::slice::from_ref(&theta), &[("rope_freqs.weight", factors.clone())]).unwrap();
    assert_eq!(
        found["rope_scaling"],
        json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192})
    );
    let ones = config("llama", std::slice::from_ref(&theta), &[("rope_freqs.weight", vec![1.0; 4])]).unwrap();
    assert!(ones.get("rope_scaling").is_none());
    let fails = |factors: Vec<f32>| {
        config("llama", std::slice::from_ref(&theta), &[("rope_freqs.weight", factors)]).unwrap_err()
    };
    let error = fails(vec![1.0, 1.5, 9.0, 32.0]).to_string();
    assert!(error.ends_with("rope_freqs.weight: factors up to 32 that no known setting of llama3 gives"), "{error}");
    let error = fails(vec![2.0; 3]).to_string();
    assert!(error.ends_with("rope_freqs.weight: expected 4 singles, found shape [3]"), "{error}");
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let fails = |arch: &str, more: &[(&str, Field)], vectors: &[(&str, Vec<f32>)], end: &str| {
        let error = config(arch, more, vectors).unwrap_err().to_string();
        assert!(error.ends_with(end), "{error}");
    };
    let names = Architecture::names().join(", ");
    for other in ["mamba", "stablelm", "starcoder2"] {
        let end = format!("general.architecture {other:?} is not one of those supported: {names}");
        fails(other, &[], &[], &end);
        assert!(!names.contains(other), "{names}");
    }
    let kind = ("general.type", Field::Text("adapter".into()));
    fails("llama", &[kind], &[], "general.type: expected a model, found \"adapter\"");
    let split = ("split.count", Field::U32(3));
    fails("llama", &[split], &[], "split.count: one of 3 parts: merge them first (gguf-split --merge)");
    let experts = ("expert_count", Field::U32(8));
    fails("llama", &[experts], &[], "llama.expert_count 8 is not supported (expected 0)");
    let longrope = ("rope.scaling.type", Field::Text("longrope".into()));
    fails("qwen2", &[longrope], &[], "qwen2.rope.scaling.type \"longrope\" is not supported");
    let scaled = ("rope.scaling.attn_factor", Field::F32(1.25));
    fails("llama", &[scaled], &[], "llama.rope.scaling.attn_factor 1.25 is not supported without yarn (expected 1)");
    let long = ("rope_factors_long.weight", vec![1.0; 4]);
    fails("phi3", &[], &[long], "rope_factors_long.weight: rotary factors by length (longrope) are not supported");
    let values = ("attention.value_length", Field::U32(4));
    let end = "llama.attention.value_length 4, but keys have 8: heads of two sizes are not supported";
    fails("llama", &[values], &[], end);
    let text = ("rope.freq_base", Field::Text("x".into()));
    fails("llama", &[text], &[], "llama.rope.freq_base: expected a number, found Text(\"x\")");
    fails("gemma2", &[], &[], "gemma2.attention.sliding_window: expected a number, found nothing");
}

/// YaRN as llama.cpp takes it: what it reads is read, what it takes for granted may be said and not changed.
#[test]
fn yarn_is_read_as_llama_cpp_reads_it() {
    let kind = ("rope.scaling.type", Field::Text("yarn".into()));
    let four = ("rope.scaling.factor", Field::F32(4.0));
    let yarn = |arch: &str, more: &[(&str, Field)]| {
        let all = [&[kind.clone(), four.clone()][..], more].concat();
        config(arch, &all, &[]).map(|c| c["rope_scaling"].clone())
    };
    let original = ("rope.scaling.original_context_length", Field::U32(16));
    let found = yarn("qwen2", std::slice::from_ref(&original)).unwrap();
    assert_eq!(found, json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}));
    assert_eq!(yarn("llama", &[]).unwrap()["original_max_position_embeddings"], 64, "the context length");
    let granted = [
        ("rope.scaling.yarn_ext_factor", 1.0),
        ("rope.scaling.yarn_beta_fast", 32.0),
        ("rope.scaling.yarn_beta_slow", 1.0),
        ("rope.scaling.yarn_log_multiplier", 0.0),
        ("rope.scaling.yarn_attn_factor", 1.138_629_4),
    ];
    let said: Vec<(&str, Field)> = granted.map(|(name, x)| (name, Field::F32(x))).to_vec();
    assert_eq!(yarn("qwen2", &[&said[..], &[original]].concat()).unwrap(), found);
    let scaled = yarn("qwen2", &[("rope.scaling.attn_factor", Field::F32(0.5))]).unwrap();
    let factor = scaled["attention_factor"].as_f64().unwrap();
    assert!((factor - 0.569_314_718_055_994_5).abs() < 1e-12, "{factor}");

    let mut failed = Vec::new();
    for (name, _) in granted {
        let error = yarn("qwen2", &[(name, Field::F32(1.5))]).map_err(|e| e.to_string());
        if !error.as_ref().is_err_and(|e| e.contains(&format!("qwen2.{name} 1.5 is not supported"))) {
            failed.push(format!("{name}: {error:?}"));
        }
    }
    for (found, end) in [
        (
            config("qwen2", std::slice::from_ref(&kind), &[]),
            "qwen2.rope.scaling.factor: expected a number, found nothing",
        ),
        (
            config("llama", &[kind.clone(), four.clone()], &[("rope_freqs.weight", vec![2.0; 4])]),
            "llama.rope.scaling.type \"yarn\" is not supported",
        ),
        (
            config("gemma3", &[kind.clone(), four.clone(), ("attention.sliding_window", Field::U32(16))], &[]),
            "gemma3.rope.scaling.type \"yarn\" is not supported",
        ),
    ] {
        let error = found.map_err(|e| e.to_string());
        if !error.as_ref().is_err_and(|e| e.ends_with(end)) {
            failed.push(format!("{end}: {error:?}"));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// A tensor that the family does not have is not passed over.
#[test]
fn a_tensor_beside_the_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "llama", &[], &[("blk.0.attn_rot_embd.weight", vec![1.0; 4])]);
    let error = crate::weights::WeightStore::open(&path).unwrap_err().to_string();
    assert!(error.ends_with("blk.0.attn_rot_embd.weight: models of the family llama have no such tensor"), "{error}");
}

/// A family that has a name and no words here would be read without them.
#[test]
fn every_family_that_has_a_name_is_read() {
    for name in Architecture::names() {
        let read = config(name, &[("attention.sliding_window", Field::U32(16))], &[]).unwrap();
        assert!(read["model_type"].is_string(), "{name}");
    }
}
