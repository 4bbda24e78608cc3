use std::path::Path;

use serde_json::json;

use super::*;

/// A llama whose heads have `dim` features, of which none is left alone.
fn parse(dim: usize, theta: f64, positions: usize, scaling: &Value) -> Result<DecoderConfig> {
    parse_as("llama", dim, theta, positions, json!({ "rope_scaling": scaling }))
}

fn parse_as(family: &str, dim: usize, theta: f64, positions: usize, more: Value) -> Result<DecoderConfig> {
    let mut value = json!({
        "model_type": family, "hidden_size": 4 * dim, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "head_dim": dim, "vocab_size": 64, "max_position_embeddings": positions,
        "rope_theta": theta
    });
    value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    DecoderConfig::from_json(&value, Path::new("config.json"))
}

fn yarn(more: Value) -> Value {
    let mut all = json!({ "rope_type": "yarn" });
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

struct Case {
    name: &'static str,
    dim: usize,
    theta: f64,
    positions: usize,
    scaling: Value,
    /// What transformers 5.24 gives (`_compute_yarn_parameters`): the factor of cos and sin, and frequencies by number:
    /// where there are many the first two, those at the ends of the ramp and beyond, its middle, the last.
    attention: f64,
    frequencies: &'static [(usize, f32)],
}

fn cases() -> Vec<Case> {
    let of = |name, (dim, theta, positions), scaling, attention, frequencies| Case {
        name,
        dim,
        theta,
        positions,
        scaling: yarn(scaling),
        attention,
        frequencies,
    };
    let rounded: &[(usize, f32)] = &[
        (0, 1.0),
        (1, 0.689_044_3),
        (8, 0.050_813_273),
        (9, 0.031_620_752),
        (13, 0.004_069_554_6),
        (17, 0.000_227_947_84),
        (18, 3.830_881e-5),
        (31, 3.023_511_4e-7),
    ];
    let deepseek: &[(usize, f32)] = &[
        (0, 1.0),
        (1, 0.749_894_2),
        (10, 0.056_234_13),
        (11, 0.039_006_926),
        (17, 0.003_561_997_3),
        (22, 0.000_177_827_94),
        (23, 3.333_803_4e-5),
        (31, 3.333_803_5e-6),
    ];
    vec![
        of(
            "Qwen 2.5",
            (128, 1e6, 32_768),
            json!({ "factor": 4.0, "original_max_position_embeddings": 32_768 }),
            1.138_629_436_111_989,
            &[
                (0, 1.0),
                (1, 0.805_842_2),
                (23, 0.006_978_306),
                (24, 0.005_375_321_5),
                (32, 0.000_602_941_14),
                (39, 6.490_394e-5),
                (40, 4.445_698_5e-5),
                (63, 3.102_344_4e-7),
            ],
        ),
        of(
            "gpt-oss: ends of the ramp not rounded",
            (64, 150_000.0, 131_072),
            json!({ "factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 32.0, "beta_slow": 1.0,
                "truncate": false }),
            1.346_573_590_279_972_7,
            &[
                (0, 1.0),
                (1, 0.689_044_3),
                (8, 0.050_813_273),
                (9, 0.031_705_696),
                (13, 0.003_860_359),
                (17, 0.000_129_318_7),
                (18, 3.830_881e-5),
                (31, 3.023_511_4e-7),
            ],
        ),
        of(
            "the same, rounded",
            (64, 150_000.0, 131_072),
            json!({ "factor": 32.0, "original_max_position_embeddings": 4096 }),
            1.346_573_590_279_972_7,
            rounded,
        ),
        of(
            "Ministral 3: both scales alike",
            (128, 1e6, 262_144),
            json!({ "factor": 16.0, "original_max_position_embeddings": 16_384, "beta_fast": 32.0, "beta_slow": 1.0,
                "mscale": 1.0, "mscale_all_dim": 1.0 }),
            1.0,
            &[
                (0, 1.0),
                (1, 0.805_842_2),
                (20, 0.013_335_215),
                (21, 0.010_153_464),
                (29, 0.000_962_501_9),
                (36, 4.961_135e-5),
                (37, 2.123_880_2e-5),
                (63, 7.755_861e-8),
            ],
        ),
        of(
            "two scales",
            (64, 1e4, 163_840),
            json!({ "factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 1.0, "mscale_all_dim": 0.707,
                "finetuned": true }),
            1.085_726_399_256_135_5,
            deepseek,
        ),
        of(
            "one scale alone has no effect",
            (64, 1e4, 163_840),
            json!({ "factor": 40, "original_max_position_embeddings": 4096, "mscale": 0.707, "mscale_all_dim": 0 }),
            1.368_887_945_411_393_6,
            deepseek,
        ),
        of(
            "a factor of cos and sin comes before scales",
            (16, 1e4, 1024),
            json!({ "factor": 8.0, "original_max_position_embeddings": 128, "attention_factor": 1.25, "mscale": 1.0,
                "mscale_all_dim": 0.5 }),
            1.25,
            &[(0, 1.0), (1, 0.223_994_66), (2, 0.041_666_664), (3, 0.003_952_847_3), (7, 3.952_847_3e-5)],
        ),
        of(
            "factor null is the ratio of lengths, betas of zero are the usual ones",
            (16, 1e4, 1536),
            json!({ "factor": null, "original_max_position_embeddings": 512, "beta_fast": 0, "beta_slow": null }),
            1.109_861_228_866_811,
            &[(0, 1.0), (1, 0.263_523_13), (2, 0.066_666_67), (3, 0.015_811_387), (7, 0.000_105_409_26)],
        ),
        of(
            "truncate null is no rounding",
            (16, 1e4, 1024),
            json!({ "factor": 8.0, "original_max_position_embeddings": 128, "truncate": null }),
            1.207_944_154_167_983_6,
            &[(0, 1.0), (1, 0.210_539_1), (2, 0.033_156_61), (3, 0.003_952_847_3), (7, 3.952_847_3e-5)],
        ),
        of(
            "a ramp of no length is a step",
            (16, 1e4, 1024),
            json!({ "factor": 8.0, "original_max_position_embeddings": 1024, "beta_fast": 4.0, "beta_slow": 4.0,
                "truncate": false }),
            1.207_944_154_167_983_6,
            &[(0, 1.0), (1, 0.316_227_76), (2, 0.1), (3, 0.031_622_78), (4, 0.00125), (7, 3.952_847_3e-5)],
        ),
        of(
            "a factor below 1",
            (16, 1e4, 1024),
            json!({ "factor": 0.5, "original_max_position_embeddings": 1024 }),
            1.0,
            &[(1, 0.316_227_76), (2, 0.125), (3, 0.047_434_166), (4, 0.0175), (7, 0.000_632_455_6)],
        ),
        of(
            "no original length is the length that the model names",
            (16, 1e4, 1024),
            json!({ "factor": 2.0 }),
            1.069_314_718_055_994_5,
            &[(1, 0.316_227_76), (2, 0.087_500_006), (3, 0.023_717_083), (4, 0.006_249_999_6), (7, 0.000_158_113_9)],
        ),
    ]
}

#[test]
fn yarn_is_that_of_transformers() {
    let mut failed = Vec::new();
    for case in cases() {
        let Case { name, dim, theta, positions, scaling, .. } = &case;
        let config = parse(*dim, *theta, *positions, scaling).unwrap();
        let found = config.ropes[0].frequencies();
        if (found.scale - case.attention).abs() > 1e-12 || found.long.is_some() || found.short.len() != dim / 2 {
            failed.push(format!("{name}: factor {} of {} frequencies", found.scale, found.short.len()));
        }
        for &(i, want) in case.frequencies {
            // torch takes powers in singles: two units of the last place.
            if (found.short[i] - want).abs() > 2.0 * f32::EPSILON * want {
                failed.push(format!("{name}: frequency {i} is {:e}, not {want:e}", found.short[i]));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Old key and new, a model's own length beside it, and the length that rows may have.
#[test]
fn yarn_is_read_wherever_it_stands() {
    let inner = json!({ "factor": 4.0, "original_max_position_embeddings": 64 });
    let want = parse(16, 1e4, 64, &yarn(inner.clone())).unwrap();
    assert_eq!(want.max_position_embeddings, 256, "the length that it stretches to");
    let longer = parse(16, 1e4, 1024, &yarn(inner.clone())).unwrap();
    assert_eq!(longer.max_position_embeddings, 1024, "the config names a greater one");
    let mut old = inner.clone();
    old["type"] = "yarn".into();
    let mut new = yarn(inner.clone());
    new["rope_theta"] = 1e4.into();
    let outer = json!({ "rope_scaling": yarn(json!({ "factor": 4.0 })), "original_max_position_embeddings": 64 });
    for more in [
        json!({ "rope_scaling": old }),
        json!({ "rope_parameters": new }),
        json!({ "rope_parameters": new, "rope_scaling": old }),
        outer,
    ] {
        assert_eq!(parse_as("llama", 16, 1e4, 64, more.clone()).unwrap(), want, "{more}");
    }
    let part = json!({ "rope_scaling": yarn(inner), "partial_rotary_factor": 0.5, "sliding_window": null });
    let part = parse_as("phi3", 16, 1e4, 64, part).unwrap().ropes[0].frequencies();
    assert_eq!((part.short.len(), part.scale), (4, want.ropes[0].frequencies().scale));
    let kinds = json!({
        "full_attention": yarn(json!({ "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 1e4 })),
        "sliding_attention": { "rope_type": "default", "rope_theta": 1e4 }
    });
    let gemma = parse_as("gemma3_text", 16, 1e4, 64, json!({ "rope_parameters": kinds })).unwrap();
    assert_eq!((&gemma.ropes[0], &gemma.ropes[1].scaling), (&want.ropes[0], &RopeScaling::None));
}

/// Up to the length that the model was made for dynamic scaling is none; longer rows are refused.
#[test]
fn dynamic_is_none_for_rows_that_are_not_too_long() {
    let config = parse(16, 1e4, 128, &json!({ "type": "dynamic", "factor": 2.0 })).unwrap();
    let rope = &config.ropes[0];
    assert_eq!(rope.frequencies(), parse(16, 1e4, 128, &Value::Null).unwrap().ropes[0].frequencies());
    rope.check_length(128).unwrap();
    let error = rope.check_length(129).unwrap_err().to_string();
    let says =
        "a row has 129 tokens, but the model's rotary scaling \"dynamic\" has other frequencies for each length \
                above max_position_embeddings 128, which is not supported: at most 128";
    assert_eq!(error, format!("invalid setting max_length: {says}"));
}

#[test]
fn bad_settings_name_key_and_value() {
    let mut failed = Vec::new();
    for (scaling, expected) in [
        (yarn(json!({})), "rope_scaling.factor: expected a number above 0, found nothing"),
        (yarn(json!({ "factor": 0 })), "rope_scaling.factor: expected a number above 0, found 0"),
        (
            yarn(json!({ "factor": 2, "attention_factor": 0.0 })),
            "rope_scaling.attention_factor: expected a number above 0, found 0.0",
        ),
        (
            yarn(json!({ "factor": 2, "beta_fast": "32" })),
            "rope_scaling.beta_fast: expected a number above 0, found \"32\"",
        ),
        (
            yarn(json!({ "factor": 2, "mscale": -1, "mscale_all_dim": 1 })),
            "rope_scaling.mscale: expected a number above 0, found -1",
        ),
        (
            yarn(json!({ "factor": 2, "truncate": 1 })),
            "rope_scaling.truncate: expected true or false, found 1",
        ),
        (
            yarn(json!({ "factor": 16, "llama_4_scaling_beta": 0.1 })),
            "rope_scaling.llama_4_scaling_beta 0.1 is not supported (expected no such key)",
        ),
        (
            yarn(json!({ "factor": 2, "beta_fast": 1, "beta_slow": 32 })),
            "beta_fast 1 and beta_slow 32 over 1024 positions leave no ramp between the frequencies: it would begin at 4 \
             and end at 2",
        ),
        (
            json!({ "rope_type": "dynamic", "factor": 2, "alpha": 1000 }),
            "rope_scaling.alpha 1000 is not supported (expected no such key)",
        ),
        (json!({ "rope_type": "dynamic" }), "rope_scaling.factor: expected a number above 0, found nothing"),
    ] {
        match parse(16, 1e4, 1024, &scaling) {
            Err(crate::Error::ModelNotSupported { reason, .. }) if reason == expected => {}
            other => failed.push(format!("{scaling}: {other:?}")),
        }
    }
    let nested = json!({ "rope_scaling": yarn(json!({ "factor": 2, "truncate": false })) });
    match parse_as("gemma3_text", 16, 1e4, 1024, nested) {
        Err(error)
            if error.to_string().ends_with("truncate false is not supported (expected true with \"gemma3_text\")") => {}
        other => failed.push(format!("{other:?}")),
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
