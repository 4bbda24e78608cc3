use std::f64::consts::PI;
use std::path::PathBuf;

use serde_json::json;

use super::keys::{shown, KNOWN, REFUSED};
use super::*;
use crate::error::Error;

fn shared() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    if !path.is_dir() {
        println!("skipped: no {}", path.display());
        return None;
    }
    Some(path)
}

fn windows(config: &DecoderConfig) -> Vec<Option<usize>> {
    config.layers.iter().map(|l| l.window).collect()
}

/// A small llama with `changes` laid over it; the string `"absent"` removes a key.
fn parse(changes: Value) -> Result<DecoderConfig> {
    let mut value = json!({
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 128,
        "eos_token_id": 2, "bos_token_id": 1
    });
    let map = value.as_object_mut().unwrap();
    for (key, change) in changes.as_object().unwrap() {
        if change == "absent" {
            map.shift_remove(key);
        } else {
            map.insert(key.clone(), change.clone());
        }
    }
    DecoderConfig::from_json(&value, Path::new("config.json"))
}

fn reason(changes: Value) -> String {
    match parse(changes.clone()) {
        Err(Error::ModelNotSupported { reason, .. }) => reason,
        other => panic!("{changes}: {other:?}"),
    }
}

#[test]
fn golden_configs_parse_or_are_refused_by_name() {
    let Some(shared) = shared() else { return };
    let read = |name: &str| DecoderConfig::from_dir(&shared.join("golden").join(name));
    for name in ["llama", "llama_tied_rope3", "mistral", "qwen2", "qwen3"] {
        let config = read(name).unwrap();
        assert_eq!((config.hidden_size, config.intermediate_size, config.num_layers), (32, 48, 2), "{name}");
        assert_eq!((config.num_heads, config.num_kv_heads, config.vocab_size), (4, 2, 64), "{name}");
        assert_eq!(config.head_dim, if name == "qwen3" { 16 } else { 8 }, "{name}");
        assert_eq!(config.rms_norm_eps, 1e-5, "{name}");
        assert_eq!(config.ropes[0].theta, if name.starts_with("qwen") { 1e6 } else { 1e4 }, "{name}");
        assert_eq!(config.tie_word_embeddings, !matches!(name, "llama" | "mistral"), "{name}");
        assert_eq!((config.qkv_bias, config.o_bias, config.mlp_bias), (name == "qwen2", false, false), "{name}");
        assert_eq!(config.qk_norm, if name == "qwen3" { QkNorm::Head } else { QkNorm::None }, "{name}");
        assert_eq!(windows(&config), vec![if name == "mistral" { Some(6) } else { None }; 2], "{name}");
        assert_eq!((config.eos_token_ids, config.bos_token_id), (vec![2], Some(1)), "{name}");
    }
    let gemma = read("gemma").unwrap();
    assert!(gemma.norm_plus_one && !gemma.norms.after && gemma.tie_word_embeddings && gemma.head_dim == 16);
    assert_eq!(
        (gemma.attention_scale, gemma.embedding_scale, gemma.activation),
        (0.25, 32f64.sqrt(), Activation::GeluTanh)
    );
    assert_eq!((gemma.attention_softcap, gemma.logit_softcap), (None, None));
    assert!(!gemma.scaled_behind_embedding);
    let gemma2 = read("gemma2").unwrap();
    assert_eq!((gemma2.attention_softcap, gemma2.logit_softcap), (Some(50.0), Some(30.0)));
    assert_eq!((windows(&gemma2), gemma2.attention_scale), (vec![Some(6), None], 1.0 / 24f64.sqrt()));
    assert!(gemma2.norms.before && gemma2.norms.after && gemma2.qk_norm == QkNorm::None);
    let gemma3 = read("gemma3_text").unwrap();
    assert_eq!(gemma3.ropes.iter().map(|r| r.theta).collect::<Vec<_>>(), [1e6, 1e4]);
    let layers = [Layer { window: Some(6), rope: Some(1) }, Layer { window: None, rope: Some(0) }];
    assert_eq!((&gemma3.layers[..], gemma3.qk_norm, gemma3.logit_softcap), (&layers[..], QkNorm::Head, None));
    let phi3 = read("phi3").unwrap();
    assert_eq!((phi3.fused, phi3.ropes[0].rotary_dim, phi3.rms_norm_eps), (true, 8, 1e-5));
}

#[test]
fn real_configs_parse() {
    let Some(shared) = shared() else { return };
    let mut parsed = Vec::new();
    let folders = std::fs::read_dir(shared.join("tokenizers")).unwrap().map(|entry| entry.unwrap().path());
    for dir in folders.chain([shared.join("models/stories260K")]).filter(|dir| dir.join("config.json").exists()) {
        let name = dir.file_name().unwrap().to_str().unwrap().to_string();
        match DecoderConfig::from_dir(&dir) {
            Ok(config) => {
                let window = if name.starts_with("phi-3") { Some(2047) } else { None };
                assert!(windows(&config).iter().all(|&w| w == window), "{name}");
                parsed.push(name);
            }
            Err(error) => panic!("{error}"),
        }
    }
    parsed.sort();
    let expected = [
        "llama-3.2-1b-instruct",
        "mistral-7b-instruct-v0.3",
        "phi-3-mini-4k-instruct",
        "qwen2.5-0.5b-instruct",
        "qwen3-0.6b",
        "smollm2-135m-instruct",
        "stories260K",
    ];
    assert_eq!(parsed, expected);
}

#[test]
fn llama3_scaling_of_four_wavelengths() {
    let scaling = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128
    });
    let config = parse(json!({ "rope_scaling": scaling, "rope_parameters": scaling })).unwrap();
    assert_eq!(config, parse(json!({ "rope_scaling": scaling })).unwrap());
    let inv_freq = |c: &DecoderConfig| c.ropes[0].frequencies().short;
    assert_eq!(inv_freq(&parse(json!({})).unwrap()), [1.0, 0.1, 0.01, 0.001]);
    // 2 pi / 0.1 = 62.83: (128 / 62.83 - 1) / 3 = 0.345728 is kept, the rest divided by 8.
    let smooth = (128.0 * f64::from(0.1_f32) / (2.0 * PI) - 1.0) / 3.0;
    let band = (0.1_f32 as f64 * ((1.0 - smooth) / 8.0 + smooth)) as f32;
    assert!((band - 0.042_751).abs() < 1e-6, "{band}");
    let freqs = inv_freq(&config);
    assert_eq!([freqs[0], freqs[2], freqs[3]], [1.0, 0.01 / 8.0, 0.001 / 8.0]);
    assert!((freqs[1] - band).abs() <= f32::EPSILON * band, "{} {band}", freqs[1]);
    if let Some(shared) = shared() {
        let golden = DecoderConfig::from_dir(&shared.join("golden/llama_tied_rope3")).unwrap();
        assert_eq!(inv_freq(&golden), freqs);
    }
}

#[test]
fn family_defaults_and_biases() {
    let llama = parse(json!({ "num_key_value_heads": null })).unwrap();
    assert_eq!((llama.num_kv_heads, llama.head_dim, llama.rms_norm_eps), (4, 8, 1e-6));
    assert_eq!(llama.ropes, [Rope { theta: 1e4, rotary_dim: 8, scaling: RopeScaling::None }]);
    assert!(!llama.tie_word_embeddings && !llama.qkv_bias && !llama.o_bias && !llama.mlp_bias);
    assert_eq!((llama.qk_norm, llama.attention_scale), (QkNorm::None, 1.0 / 8f64.sqrt()));
    for (family, bias, expected) in [
        ("llama", true, (true, true)),
        ("qwen2", false, (true, false)),
        ("qwen3", false, (false, false)),
        ("qwen3", true, (true, true)),
    ] {
        let config = parse(json!({ "model_type": family, "attention_bias": bias })).unwrap();
        assert_eq!((config.qkv_bias, config.o_bias), expected, "{family} {bias}");
        assert_eq!(config.head_dim, if family == "qwen3" { 128 } else { 8 });
    }
    let v5 = parse(json!({ "rope_parameters": { "rope_theta": 5e5, "rope_type": "default", "_own": 1 } })).unwrap();
    assert_eq!(v5.ropes, [Rope { theta: 5e5, rotary_dim: 8, scaling: RopeScaling::None }]);
    assert!(parse(json!({ "hidden_act": "swish", "_anything": [1], "partial_rotary_factor": 1 })).is_ok());
    // Without a model_type the whole of the file is read as that of the architecture.
    let unnamed = parse(json!({ "model_type": "absent", "architectures": ["Qwen2ForCausalLM"] })).unwrap();
    assert_eq!(unnamed, parse(json!({ "model_type": "qwen2" })).unwrap());
    let e = reason(json!({ "model_type": "absent", "architectures": ["LlamaForCausalLM"], "sliding_window": 4 }));
    assert_eq!(e, "sliding_window 4 is not supported (expected null with \"llama\")");
}

#[test]
fn families_differ_as_in_transformers() {
    let longrope = json!({ "type": "su", "short_factor": [1.0, 2.0, 3.0], "long_factor": [4, 5, 6] });
    let phi = |changes: Value| {
        let mut all = json!({
            "model_type": "phi3", "rope_scaling": longrope, "original_max_position_embeddings": 32,
            "partial_rotary_factor": 0.75, "sliding_window": null
        });
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        all
    };
    let config = parse(phi(json!({}))).unwrap();
    let f = config.ropes[0].frequencies();
    assert_eq!((f.short.len(), f.long.as_ref().unwrap().0, config.ropes[0].rotary_dim), (3, 32, 6));
    assert_eq!((f.short[0], f.long.unwrap().1[0]), (1.0, 0.25));
    // √(1 + ln(128/32)/ln 32).
    assert!((f.scale - 1.4f64.sqrt()).abs() < 1e-12, "{}", f.scale);
    let bad = phi(json!({ "partial_rotary_factor": 1.0 }));
    let wrong = "rope_scaling.short_factor: expected 4 numbers above 0, found [1.0,2.0,3.0]";
    assert_eq!(reason(bad), wrong);
    let unknown = reason(phi(json!({ "rope_scaling": { "type": "proportional", "factor": 2 } })));
    let known = "(expected \"default\", \"linear\", \"dynamic\", \"llama3\", \"yarn\" or \"longrope\")";
    assert!(unknown.ends_with(known), "{unknown}");

    let layers = json!({ "num_hidden_layers": 8 });
    let of = |family: &str, changes: &Value| {
        let mut all = json!({ "model_type": family });
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        parse(all).unwrap()
    };
    let smollm3 = of("smollm3", &layers);
    let ropes: Vec<bool> = smollm3.layers.iter().map(|l| l.rope.is_some()).collect();
    assert_eq!(ropes, [true, true, true, false, true, true, true, false]);
    assert_eq!((smollm3.ropes[0].theta, smollm3.tie_word_embeddings), (2e6, true));
    let gemma3 = of("gemma3_text", &layers);
    let full: Vec<usize> = (0..8).filter(|&l| gemma3.layers[l].window.is_none()).collect();
    assert_eq!((full, gemma3.layers[5].rope, gemma3.layers[6].rope), (vec![5], Some(0), Some(1)));
    assert_eq!((gemma3.head_dim, gemma3.attention_scale, gemma3.layers[0].window), (256, 1.0 / 16.0, Some(4096)));
    let linear = json!({ "rope_scaling": { "rope_type": "linear", "factor": 8.0 }, "head_dim": 8 });
    let gemma3 = of("gemma3_text", &linear);
    assert_eq!(gemma3.ropes[0].scaling, RopeScaling::Linear { factor: 8.0 });
    assert_eq!(gemma3.ropes[1], Rope { theta: 1e4, rotary_dim: 8, scaling: RopeScaling::None });
    let gemma2 = of("gemma2", &json!({ "attn_logit_softcapping": null }));
    assert_eq!((gemma2.attention_softcap, gemma2.logit_softcap), (None, Some(30.0)));
    let olmo2 = of("olmo2", &json!({}));
    assert_eq!((olmo2.norms, olmo2.qk_norm), (Norms { before: false, after: true }, QkNorm::Whole));
    let granite =
        of("granite", &json!({ "attention_multiplier": 0.5, "logits_scaling": 4, "residual_multiplier": 0.2 }));
    assert_eq!((granite.attention_scale, granite.logit_scale, granite.residual_scale), (0.5, 0.25, 0.2));
    assert!(granite.scaled_behind_embedding);
    for (changes, expected) in [
        (
            json!({ "model_type": "gemma2", "hidden_activation": "gelu" }),
            "hidden_activation \"gelu\" is not supported (expected \"gelu_pytorch_tanh\")",
        ),
        (
            json!({ "model_type": "smollm3", "no_rope_layers": [1] }),
            "no_rope_layers: expected a list of at least 2 numbers 0 (no rotation) or 1, found [1]",
        ),
        (json!({ "model_type": "granite", "logits_scaling": 0 }), "logits_scaling: expected a number above 0, found 0"),
        (
            json!({ "model_type": "gemma3_text", "rope_parameters": { "rope_theta": 1e4 } }),
            "rope_parameters: expected full_attention and sliding_attention, found {\"rope_theta\":10000.0}",
        ),
        (
            json!({ "model_type": "olmo2", "sliding_window": 8 }),
            "sliding_window 8 is not supported (expected null with \"olmo2\")",
        ),
    ] {
        assert_eq!(reason(changes.clone()), expected, "{changes}");
    }
}

#[test]
fn windows_of_each_family() {
    let (none, four) = (vec![None; 2], vec![Some(4); 2]);
    let mixed = json!(["full_attention", "sliding_attention"]);
    for (changes, expected) in [
        (json!({ "model_type": "mistral" }), &vec![Some(4096); 2]),
        (json!({ "model_type": "mistral", "sliding_window": null }), &none),
        (json!({ "model_type": "mistral", "sliding_window": 4 }), &four),
        (json!({ "model_type": "qwen2", "sliding_window": 4 }), &none),
        (json!({ "model_type": "qwen2", "sliding_window": 4, "use_sliding_window": true }), &none),
        (
            json!({ "model_type": "qwen3", "sliding_window": 4, "use_sliding_window": true, "max_window_layers": 0 }),
            &four,
        ),
        (
            json!({ "model_type": "qwen2", "sliding_window": 4, "use_sliding_window": true, "max_window_layers": 1 }),
            &vec![None, Some(4)],
        ),
        (
            json!({ "model_type": "qwen3", "sliding_window": 4, "use_sliding_window": true, "layer_types": mixed }),
            &vec![None, Some(4)],
        ),
    ] {
        assert_eq!(&windows(&parse(changes.clone()).unwrap()), expected, "{changes}");
    }
}

#[test]
fn bad_configs_name_key_and_value() {
    let llama3 = |key: &str, value: Value| {
        let mut scaling = json!({
            "rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
            "original_max_position_embeddings": 128
        });
        scaling[key] = value;
        json!({ "rope_parameters": scaling })
    };
    let size = "expected an integer from 1 to 2147483647, found";
    for (changes, expected) in [
        (json!({ "model_type": 7 }), "model_type: expected a string, found 7".to_string()),
        (json!({ "hidden_size": "absent" }), format!("hidden_size: {size} nothing")),
        (json!({ "hidden_size": "32" }), format!("hidden_size: {size} \"32\"")),
        (json!({ "vocab_size": 0 }), format!("vocab_size: {size} 0")),
        (json!({ "head_dim": -8 }), format!("head_dim: {size} -8")),
        (json!({ "head_dim": 7 }), "head_dim 7 is not even".into()),
        (json!({ "num_hidden_layers": 20000 }), "num_hidden_layers 20000 exceeds 10000".into()),
        (
            json!({ "num_key_value_heads": 3 }),
            "num_attention_heads 4 is not a multiple of num_key_value_heads 3".into(),
        ),
        (
            json!({ "hidden_size": 30 }),
            "head_dim is absent and hidden_size 30 is not a multiple of num_attention_heads 4".into(),
        ),
        (json!({ "rms_norm_eps": null }), "rms_norm_eps: expected a number above 0, found null".into()),
        (json!({ "tie_word_embeddings": 1 }), "tie_word_embeddings: expected true or false, found 1".into()),
        (
            json!({ "eos_token_id": [2, -1] }),
            "eos_token_id: expected a token id or a list of token ids, found [2,-1]".into(),
        ),
        (json!({ "bos_token_id": [1, 2] }), "bos_token_id: expected one token id, found [1,2]".into()),
        (json!({ "hidden_act": "gelu" }), "hidden_act \"gelu\" is not supported (expected \"silu\")".into()),
        (json!({ "num_local_experts": 8 }), "num_local_experts 8 is not supported (expected 0)".into()),
        (json!({ "residual_multiplier": 0.2 }), "residual_multiplier 0.2 is not supported (expected 1)".into()),
        (json!({ "partial_rotary_factor": 0.5 }), "partial_rotary_factor 0.5 is not supported (expected 1)".into()),
        (json!({ "no_rope_layers": [1, 0] }), "no_rope_layers [1,0] is not supported (expected null)".into()),
        (json!({ "attention_chunk_size": 64 }), "attention_chunk_size 64 is not supported (expected 0)".into()),
        (json!({ "rope_interleaved": true }), "rope_interleaved true is not supported (expected false)".into()),
        (json!({ "is_encoder_decoder": true }), "is_encoder_decoder true is not supported (expected false)".into()),
        (
            json!({ "attn_logit_softcapping": 50.0 }),
            "attn_logit_softcapping 50.0 is not supported (expected null)".into(),
        ),
        (
            json!({ "quantization_config": { "bits": 4 } }),
            "quantization_config {\"bits\":4} is not supported (expected null)".into(),
        ),
        (
            json!({ "model_type": "mistral", "attention_bias": true }),
            "attention_bias true is not supported with model_type \"mistral\"".into(),
        ),
        (
            json!({ "rope_theta": 1e4, "rope_parameters": { "rope_theta": 5e5 } }),
            "rope_theta 10000.0 contradicts rope_parameters.rope_theta 500000.0".into(),
        ),
        (
            json!({ "rope_parameters": { "rope_type": "default" }, "rope_scaling": { "type": "longrope", "factor": 2 } }),
            "rope_scaling.type \"longrope\" is not supported (expected \"default\", \"linear\", \"dynamic\", \
             \"llama3\" or \"yarn\")"
                .into(),
        ),
        (
            json!({ "rope_parameters": { "rope_type": "default" }, "rope_scaling": { "type": "yarn", "factor": 2 } }),
            "rope_scaling {\"type\":\"yarn\",\"factor\":2} contradicts rope_parameters {\"rope_type\":\"default\"}"
                .into(),
        ),
        (
            json!({ "rope_scaling": { "rope_type": "default", "type": "linear" } }),
            "rope_scaling.type \"linear\" contradicts rope_scaling.rope_type \"default\"".into(),
        ),
        (json!({ "rope_scaling": { "factor": 2 } }), "rope_scaling.rope_type: expected a string, found nothing".into()),
        (
            json!({ "rope_parameters": { "partial_rotary_factor": 0.25 } }),
            "rope_parameters.partial_rotary_factor 0.25 is not supported (expected 1)".into(),
        ),
        (llama3("factor", json!("8")), "rope_parameters.factor: expected a number above 0, found \"8\"".into()),
        (
            llama3("low_freq_factor", json!(4)),
            "rope_parameters.low_freq_factor 4 is not below rope_parameters.high_freq_factor 4".into(),
        ),
        (
            llama3("attention_factor", json!(2)),
            "rope_parameters.attention_factor 2 is not supported (expected no such key)".into(),
        ),
        (json!({ "model_type": "mistral", "sliding_window": 0 }), format!("sliding_window: {size} 0")),
        (json!({ "sliding_window": 4 }), "sliding_window 4 is not supported (expected null with \"llama\")".into()),
        (
            json!({ "layer_types": ["full_attention"] }),
            "layer_types: expected a list of 2 strings, found [\"full_attention\"]".into(),
        ),
        (
            json!({ "layer_types": ["full_attention", "linear_attention"] }),
            "layer_types[1] \"linear_attention\" is not supported (expected \"full_attention\" or \
             \"sliding_attention\")"
                .into(),
        ),
        (
            json!({ "model_type": "qwen2", "layer_types": ["sliding_attention", "full_attention"] }),
            "layer_types[0] \"sliding_attention\" has no sliding_window".into(),
        ),
    ] {
        assert_eq!(reason(changes.clone()), expected, "{changes}");
    }
    // Null is no contradiction: v5 writers leave the old key so.
    let mut both = llama3("factor", json!(8));
    both["rope_scaling"] = Value::Null;
    assert!(matches!(parse(both).unwrap().ropes[0].scaling, RopeScaling::Llama3 { .. }));
}

#[test]
fn end_tokens_are_the_union_of_both_files() {
    let dir = tempfile::tempdir().unwrap();
    let value = json!({
        "model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "vocab_size": 8, "max_position_embeddings": 8, "eos_token_id": 2
    });
    let eos = || DecoderConfig::from_dir(dir.path()).map(|config| config.eos_token_ids);
    assert!(matches!(eos(), Err(Error::Io { path, .. }) if path.ends_with("config.json")));
    std::fs::write(dir.path().join("config.json"), value.to_string()).unwrap();
    assert_eq!(eos().unwrap(), [2]);
    for (text, expected) in [("{\"eos_token_id\": [5, 2, 5]}", vec![2, 5]), ("{\"eos_token_id\": 7}", vec![2, 7])] {
        std::fs::write(dir.path().join("generation_config.json"), text).unwrap();
        assert_eq!(eos().unwrap(), expected);
    }
    std::fs::write(dir.path().join("generation_config.json"), "{").unwrap();
    assert!(matches!(eos(), Err(Error::ModelFormat { path, .. }) if path.ends_with("generation_config.json")));
}

#[test]
fn only_unlisted_keys_are_unknown() {
    let value = json!({ "hidden_size": 8, "num_experts": 0, "_private": 1, "top_p": 1.0, "new_idea": 3 });
    assert_eq!(Keys::new(&value, Path::new("config.json")).unwrap().unknown(), ["new_idea"]);
    let mut all: Vec<&str> = KNOWN.iter().flat_map(|line| line.split(' ')).collect();
    all.extend(REFUSED.iter().flat_map(|(_, keys)| keys.iter()));
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count, "a key is listed twice");
    assert_eq!(shown(&Value::from("é".repeat(500))).chars().count(), 163);
}
