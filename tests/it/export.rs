//! Exports and merges: round trips through every format, damage, bases that do not fit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Content;
use candle_core::Device;
use sftmix::export::{
    export, merge, read, verify, AdapterSource, ExportConfig, Exported, Format, MergeConfig, Precision,
};
use sftmix::internal::base::facts::{AdapterFacts, BaseFacts};
use sftmix::internal::data::tokens::Tokenizer;
use sftmix::internal::device::Form;
use sftmix::internal::family::DecoderConfig;
use sftmix::internal::lora::peft::{load_adapter, save_adapter, PeftAdapter, PeftTensor};
use sftmix::internal::lora::peft::{load_tensors, Tensors};
use sftmix::internal::ops::Engine;
use sftmix::{
    evaluate, Control, Error, EvalConfig, GenerateConfig, Generator, LoraConfig, Model, Recipe, TargetModules,
    TrainConfig, TrainingJob,
};

use crate::support::{json, letters, options, project, shared};

const FAMILIES: [&str; 5] = ["llama", "llama_tied_rope3", "mistral", "qwen2", "qwen3"];
const FORMATS: [Format; 3] = [Format::Peft, Format::Gguf, Format::Mlx];

/// Rank and scale of a linear, by its number and module.
type Rank = fn(usize, &str) -> Option<(usize, f64)>;

fn golden(family: &str) -> PathBuf {
    project("tests/golden").join(family)
}

fn source(model: &Path, adapter: &Path, cache: &Path) -> AdapterSource {
    AdapterSource {
        model: Some(model.into()),
        adapter: Some(adapter.into()),
        threads: Some(2),
        cache_dir: Some(cache.join("cache")),
        ..Default::default()
    }
}

fn export_all(source: AdapterSource, out: &Path) -> Vec<Exported> {
    export(&ExportConfig { source, formats: FORMATS.to_vec(), out: Some(out.into()) }).unwrap().exports
}

/// What each module adds to its linear, `s·B·A`, in f64.
fn products(a: &PeftAdapter) -> BTreeMap<String, Vec<f64>> {
    let of = |(module, m): (&String, &sftmix::internal::lora::peft::LoraPair)| {
        let scale = a.scales[module];
        let at = |row: usize, col: usize| -> f64 {
            (0..m.r).map(|k| m.b[row * m.r + k] as f64 * m.a[k * m.in_features + col] as f64).sum::<f64>() * scale
        };
        let all = (0..m.out_features).flat_map(|row| (0..m.in_features).map(move |col| (row, col)));
        (module.clone(), all.map(|(row, col)| at(row, col)).collect())
    };
    a.modules.iter().map(of).collect()
}

/// Largest difference between what two adapters add; a module that one lacks adds zero.
fn apart(a: &PeftAdapter, b: &PeftAdapter) -> f64 {
    let (a, b) = (products(a), products(b));
    let mut worst = 0f64;
    for (module, want) in &a {
        worst = worst.max(want.iter().zip(&b[module]).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max));
    }
    b.iter().filter(|(m, _)| !a.contains_key(*m)).flat_map(|(_, v)| v).fold(worst, |w, v| w.max(v.abs()))
}

/// Numbers without a pattern.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        ((x >> 40) as f32 / (1u64 << 24) as f32) - 0.5
    };
    (0..n).map(|_| next()).collect()
}

/// An adapter on every linear of the model that `rank` gives a rank and a scale.
fn make_adapter(model: &Path, dir: &Path, config: &LoraConfig, rank: impl Fn(usize, &str) -> Option<(usize, f64)>) {
    let linears = DecoderConfig::from_dir(model).unwrap().linears();
    let made: Vec<_> = linears
        .iter()
        .enumerate()
        .filter_map(|(i, l)| {
            let (r, scale) = rank(i, &l.module)?;
            let (a, b) = (noise(r * l.in_features, 2 * i as u64 + 1), noise(r * l.out_features, 2 * i as u64 + 2));
            Some((l, r, scale, a, b))
        })
        .collect();
    let tensors: Vec<_> = made
        .iter()
        .map(|(l, r, scale, a, b)| PeftTensor {
            module: &l.module,
            r: *r,
            in_features: l.in_features,
            out_features: l.out_features,
            scale: *scale,
            a,
            b,
            magnitude: None,
        })
        .collect();
    save_adapter(dir, config, "base", &tensors).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

#[test]
fn every_format_holds_the_adapter_of_every_family() {
    for family in FAMILIES {
        let dir = tempfile::tempdir().unwrap();
        let (model, out) = (golden(family), dir.path().join("out"));
        let adapter = model.join("adapter");
        let exports = export_all(source(&model, &adapter, dir.path()), &out);
        let config = DecoderConfig::from_dir(&model).unwrap();
        let want = load_adapter(&adapter).unwrap();
        assert_eq!(names(&out), ["gguf", "mlx", "peft"]);
        for e in &exports {
            println!("{family} {}: {:.1e} of {}", e.format.as_str(), e.difference.max, e.difference.largest);
            // The same numbers and the same scale: the same bits.
            assert_eq!((e.difference.max, e.path.as_path()), (0.0, out.join(e.format.as_str()).as_path()));
            let got = read(e.format, &e.path, &config).unwrap();
            assert_eq!((&got.modules, &got.scales), (&want.modules, &want.scales), "{family} {:?}", e.format);
            let facts = AdapterFacts::read(&e.path).unwrap().unwrap();
            assert_eq!(facts.base.quantization.as_deref(), Some("f32"));
            verify(&source(&model, &adapter, dir.path()), e.format, &e.path).unwrap();
        }
    }
}

/// The file itself, by a reader that is not ours: names, order of rows, alpha.
#[test]
fn gguf_permutes_queries_and_keys_where_llama_cpp_does() {
    for (family, permuted) in [("llama", true), ("mistral", true), ("qwen2", false), ("qwen3", false)] {
        let dir = tempfile::tempdir().unwrap();
        let model = golden(family);
        export_all(source(&model, &model.join("adapter"), dir.path()), &dir.path().join("out"));
        let mut file = std::fs::File::open(dir.path().join("out/gguf/adapter.gguf")).unwrap();
        let content = Content::read(&mut file).unwrap();
        let text = |key: &str| content.metadata[key].to_string().unwrap().clone();
        let arch = if permuted { "llama" } else { family };
        assert_eq!((text("general.type"), text("adapter.type")), ("adapter".into(), "lora".into()));
        assert_eq!(text("general.architecture"), arch);
        assert_eq!(content.metadata["adapter.lora.alpha"].to_f32().unwrap(), 8.0);
        let c = DecoderConfig::from_dir(&model).unwrap();
        let want = load_adapter(&model.join("adapter")).unwrap();
        for (name, module, heads) in
            [("attn_q", "q_proj", c.num_heads), ("attn_k", "k_proj", c.num_kv_heads), ("attn_v", "v_proj", 0)]
        {
            let pair = &want.modules[&format!("model.layers.1.self_attn.{module}")];
            let mut get = |suffix: &str| {
                let t = content.tensor(&mut file, &format!("blk.1.{name}.weight.{suffix}"), &Device::Cpu).unwrap();
                let t = t.dequantize(&Device::Cpu).unwrap();
                (t.dims2().unwrap(), t.flatten_all().unwrap().to_vec1::<f32>().unwrap())
            };
            assert_eq!(get("lora_a"), ((pair.r, pair.in_features), pair.a.clone()));
            let (shape, b) = get("lora_b");
            assert_eq!(shape, (pair.out_features, pair.r));
            for row in 0..pair.out_features {
                let (head, at, half) = (row / c.head_dim, row % c.head_dim, c.head_dim / 2);
                let moved = if permuted && heads > 0 { head * c.head_dim + 2 * (at % half) + at / half } else { row };
                let (want, got) = (&pair.b[row * pair.r..][..pair.r], &b[moved * pair.r..][..pair.r]);
                assert_eq!(want, got, "{family} {module} row {row}");
            }
        }
    }
}

#[test]
fn ranks_and_scales_that_differ_go_through() {
    for family in ["llama", "qwen3"] {
        let (dir, model) = (tempfile::tempdir().unwrap(), golden(family));
        let targets = TargetModules::AllLinear;
        let rs = LoraConfig { r: 4, lora_alpha: 6.0, use_rslora: true, target_modules: targets, ..Default::default() };
        let plain = LoraConfig { use_rslora: false, ..rs.clone() };
        let cases: [(&str, &LoraConfig, Rank); 4] = [
            ("rslora", &rs, |_, _| Some((4, 3.0))),
            ("ranks", &plain, |i, _| Some(([1, 4, 7][i % 3], 1.5))),
            ("both", &rs, |i, _| Some(([1, 4, 7][i % 3], [0.75, -2.0, 0.3, 1.0][i % 4]))),
            // The first block has none, and one name of the second block neither; the first that has is scaled by zero.
            ("holes", &plain, |i, m| {
                (i >= 7 && !m.ends_with("up_proj")).then_some((2 + i % 2, if i == 7 { 0.0 } else { 0.5 }))
            }),
        ];
        for (name, config, rank) in cases {
            let (adapter, out) = (dir.path().join(name), dir.path().join(format!("{name}-out")));
            make_adapter(&model, &adapter, config, rank);
            let exports = export_all(source(&model, &adapter, dir.path()), &out);
            let want = load_adapter(&adapter).unwrap();
            for e in exports {
                let got = read(e.format, &e.path, &DecoderConfig::from_dir(&model).unwrap()).unwrap();
                let d = apart(&want, &got);
                println!("{family} {name} {}: {d:.1e}, logits {:.1e}", e.format.as_str(), e.difference.max);
                assert!(d <= 2e-6 && e.difference.max <= e.bound, "{family} {name} {:?}: {d:e} {e:?}", e.format);
            }
            let mlx = json(&out.join("mlx/adapter_config.json"));
            let rank = want.modules.values().map(|m| m.r).max().unwrap();
            assert_eq!(mlx["lora_parameters"]["rank"], rank);
            assert_eq!(mlx["num_layers"], if name == "holes" { 1 } else { 2 });
        }
    }
}

/// Rewrites a safetensors file of f32.
fn rewrite(path: &Path, change: impl Fn(&str, &mut Vec<usize>, &mut Vec<f32>)) {
    let mut tensors = load_tensors(path).unwrap();
    tensors.iter_mut().for_each(|(name, (shape, data))| change(name, shape, data));
    write(path, &tensors);
}

fn write(path: &Path, tensors: &BTreeMap<String, (Vec<usize>, Vec<f32>)>) {
    let bytes: BTreeMap<&str, Vec<u8>> =
        tensors.iter().map(|(n, (_, d))| (n.as_str(), d.iter().flat_map(|v| v.to_le_bytes()).collect())).collect();
    let views = tensors.iter().map(|(name, (shape, _))| {
        let data = &bytes[name.as_str()];
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), data).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn damage_to_an_export_is_seen() {
    let (dir, model) = (tempfile::tempdir().unwrap(), golden("llama"));
    // Of full rank on a square matrix, so that every transposition has the right shape.
    let adapter = dir.path().join("adapter");
    let config = LoraConfig { r: 32, lora_alpha: 8.0, ..Default::default() };
    make_adapter(&model, &adapter, &config, |_, m| m.ends_with("q_proj").then_some((32, 0.25)));
    let (source, out) = (source(&model, &adapter, dir.path()), dir.path().join("out"));
    let fresh = || export_all(source.clone(), &out);
    let check = |format: Format| verify(&source, format, &out.join(format.as_str()));
    let mismatch = |format: Format, what: &str| match check(format) {
        Err(Error::ExportMismatch { path, difference, bound, .. }) => {
            println!("{what}: logits differ by {difference:.1e}");
            assert!(difference > bound && path == out.join(format.as_str()));
        }
        other => panic!("{what}: {other:?}"),
    };
    fresh();
    rewrite(&out.join("mlx/adapters.safetensors"), |name, _, data| {
        if name == "model.layers.0.self_attn.q_proj.lora_b" {
            let old = data.clone();
            (0..32 * 32).for_each(|i| data[i] = old[i % 32 * 32 + i / 32]);
        }
    });
    mismatch(Format::Mlx, "a square matrix the wrong way round");
    rewrite(&out.join("peft/adapter_model.safetensors"), |name, _, data| {
        if name.contains("layers.1") && name.contains("lora_B") {
            data[5] += 0.5;
        }
    });
    mismatch(Format::Peft, "one number");
    fresh();
    // In GGUF: alpha, then two rows of one head exchanged.
    let path = out.join("gguf/adapter.gguf");
    let whole = std::fs::read(&path).unwrap();
    let at = whole.windows(18).position(|w| w == b"adapter.lora.alpha").unwrap() + 18 + 4;
    let mut bytes = whole.clone();
    bytes[at..at + 4].copy_from_slice(&9f32.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    mismatch(Format::Gguf, "another alpha");
    let (rows, end) = (32 * 4, whole.len());
    let mut bytes = whole.clone();
    bytes.copy_within(end - rows..end, end - 2 * rows);
    std::fs::write(&path, &bytes).unwrap();
    mismatch(Format::Gguf, "a row twice");

    // What is no longer an adapter at all.
    for (bytes, says) in [(&whole[..whole.len() / 2], "adapter.gguf"), (&b"GGUF"[..], "adapter.gguf")] {
        std::fs::write(&path, bytes).unwrap();
        let error = check(Format::Gguf).unwrap_err();
        assert!(matches!(error, Error::Adapter { .. }) && error.to_string().contains(says), "{error}");
    }
    fresh();
    let file = out.join("mlx/adapter_config.json");
    let text = std::fs::read_to_string(&file).unwrap();
    for (from, to, says) in [
        ("\"num_layers\": 2", "\"num_layers\": 1", "layers.0"),
        ("\"rank\": 32", "\"rank\": 31", "expected rank 31"),
        ("q_proj", "k_proj", "puts no LoRA layer there"),
        ("\"lora\"", "\"full\"", "fine_tune_type"),
        ("\"lora\"", "\"dora\"", "magnitudes, found 0"),
    ] {
        assert!(text.contains(from), "{text}");
        std::fs::write(&file, text.replace(from, to)).unwrap();
        let error = check(Format::Mlx).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    std::fs::write(&file, &text).unwrap();
    check(Format::Mlx).unwrap();
}

/// The place of a tensor in a GGUF file, by candle's reader.
fn place_in_gguf(path: &Path, name: &str) -> (usize, Vec<usize>) {
    let content = Content::read(&mut std::fs::File::open(path).unwrap()).unwrap();
    let info = &content.tensor_infos[name];
    ((content.tensor_data_offset + info.offset) as usize, info.shape.dims().to_vec())
}

/// Changes the two B of an export on q_proj, as their format lays them.
fn change_b(format: Format, dir: &Path, change: &dyn Fn(&mut [Vec<f32>; 2])) {
    let numbers = |bytes: &[u8]| bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    if format == Format::Gguf {
        let path = dir.join("adapter.gguf");
        let mut bytes = std::fs::read(&path).unwrap();
        let places = [0, 1].map(|l| {
            let (at, shape) = place_in_gguf(&path, &format!("blk.{l}.attn_q.weight.lora_b"));
            at..at + 4 * shape.iter().product::<usize>()
        });
        let mut both: [Vec<f32>; 2] = [0, 1].map(|l: usize| numbers(&bytes[places[l].clone()]));
        change(&mut both);
        for (place, b) in places.into_iter().zip(both) {
            bytes[place].copy_from_slice(&b.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
        }
        return std::fs::write(&path, bytes).unwrap();
    }
    let (file, before, after) = match format {
        Format::Mlx => ("adapters.safetensors", "model", "lora_b"),
        Format::Peft => ("adapter_model.safetensors", "base_model.model.model", "lora_B.weight"),
        other => panic!("where has {other:?} its B?"),
    };
    let mut tensors = load_tensors(&dir.join(file)).unwrap();
    let names = [0, 1].map(|l| format!("{before}.layers.{l}.self_attn.q_proj.{after}"));
    let mut both = names.clone().map(|name| tensors[&name].1.clone());
    change(&mut both);
    for (name, b) in names.iter().zip(both) {
        tensors.get_mut(name).unwrap().1 = b;
    }
    write(&dir.join(file), &tensors);
}

/// Makes the scale that an export states 1 % larger.
fn change_scale(format: Format, dir: &Path) {
    if format == Format::Gguf {
        let path = dir.join("adapter.gguf");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(18).position(|w| w == b"adapter.lora.alpha").unwrap() + 18 + 4;
        bytes[at..at + 4].copy_from_slice(&8.08f32.to_le_bytes());
        return std::fs::write(&path, bytes).unwrap();
    }
    let path = dir.join("adapter_config.json");
    let mut config = json(&path);
    match format {
        Format::Mlx => config["lora_parameters"]["scale"] = 0.2525.into(),
        Format::Peft => config["lora_alpha"] = 8.08.into(),
        other => panic!("where has {other:?} its scale?"),
    }
    std::fs::write(&path, config.to_string()).unwrap();
}

/// An export whose B was zero throughout passed where the adapter moved logits by less than rounding explains.
#[test]
fn a_tiny_adapter_is_checked_by_its_weights() {
    let (dir, model) = (tempfile::tempdir().unwrap(), golden("llama"));
    let adapter = dir.path().join("adapter");
    // Of full rank on square matrices, so that every transposition has the right shape.
    let config = LoraConfig { r: 32, lora_alpha: 8.0, ..Default::default() };
    make_adapter(&model, &adapter, &config, |_, m| m.ends_with("q_proj").then_some((32, 0.25)));
    rewrite(&adapter.join("adapter_model.safetensors"), |name, _, data| {
        if name.contains("lora_B") {
            data.iter_mut().for_each(|v| *v *= 2e-7);
        }
    });
    let (source, out) = (source(&model, &adapter, dir.path()), dir.path().join("out"));
    type Damage<'a> = (&'a str, &'a dyn Fn(&mut [Vec<f32>; 2]));
    let damages: [Damage; 4] = [
        ("B zero", &|both| both.iter_mut().for_each(|b| b.fill(0.0))),
        ("B of one module zero", &|both| both[1].fill(0.0)),
        ("B of another module", &|both| both[0] = both[1].clone()),
        ("B the wrong way round", &|both| {
            let old = both[0].clone();
            (0..32 * 32).for_each(|i| both[0][i] = old[i % 32 * 32 + i / 32]);
        }),
    ];
    let report = export(&ExportConfig { source: source.clone(), formats: FORMATS.to_vec(), out: Some(out.clone()) });
    let report = report.unwrap();
    for e in &report.exports {
        assert!(report.effect > 0.0 && report.effect < e.bound && e.weights == 0.0, "{report:?}");
        let (format, dir) = (e.format, e.path.as_path());
        let refused = |what: &str| match verify(&source, format, dir) {
            Err(Error::ExportMismatch { what: said, difference, bound, path }) => {
                assert!(
                    said.contains("B times its scale of model.layers.") && said.contains(format.as_str()),
                    "{said}"
                );
                assert!(difference > bound && bound > 0.0 && path == dir, "{what}: {difference:e} {bound:e}");
            }
            other => panic!("{format:?}, {what}: {other:?}"),
        };
        for (what, damage) in damages {
            change_b(format, dir, damage);
            refused(what);
            export_all(source.clone(), &out);
        }
        change_scale(format, dir);
        refused("the scale 1 % larger");
        export_all(source.clone(), &out);
        assert_eq!(verify(&source, format, dir).unwrap().effect, report.effect);
    }
    // An adapter that does nothing is said to.
    rewrite(&adapter.join("adapter_model.safetensors"), |name, _, data| {
        if name.contains("lora_B") {
            data.fill(0.0);
        }
    });
    let report = export(&ExportConfig { source, formats: vec![Format::Mlx], out: Some(out) }).unwrap();
    assert_eq!(report.effect, 0.0);
}

/// The settings of other formats hold the adapter's alpha as it was given, not as f32 made it.
#[test]
fn scales_are_exact_in_every_format() {
    let (dir, model) = (tempfile::tempdir().unwrap(), golden("llama"));
    for (i, (alpha, use_rslora)) in [(2.1, false), (32.00002, false), (2.1, true)].into_iter().enumerate() {
        let (adapter, out) = (dir.path().join(format!("a{i}")), dir.path().join(format!("out{i}")));
        let config = LoraConfig { r: 7, lora_alpha: alpha, use_rslora, ..Default::default() };
        make_adapter(&model, &adapter, &config, |_, m| m.ends_with("v_proj").then(|| (7, config.scale())));
        export_all(source(&model, &adapter, dir.path()), &out);
        assert_eq!(json(&out.join("peft/adapter_config.json"))["lora_alpha"], alpha);
        assert_eq!(json(&out.join("mlx/adapter_config.json"))["lora_parameters"]["scale"], config.scale());
        let mut file = std::fs::File::open(out.join("gguf/adapter.gguf")).unwrap();
        let found = Content::read(&mut file).unwrap().metadata["adapter.lora.alpha"].to_f32().unwrap();
        assert_eq!(found, (config.scale() * 7.0) as f32);
    }
}

/// What MLX itself refuses, or what says nothing, is named with its value.
#[test]
fn settings_of_mlx_out_of_range_are_named() {
    let (dir, model) = (tempfile::tempdir().unwrap(), golden("llama"));
    let source = source(&model, &model.join("adapter"), dir.path());
    export_all(source.clone(), &dir.path().join("out"));
    let mlx = dir.path().join("out/mlx");
    let path = mlx.join("adapter_config.json");
    let whole = std::fs::read_to_string(&path).unwrap();
    for (key, values) in [
        ("scale", vec!["0", "0.0", "NaN", "1e300", "1e-300", "\"2\"", "null"]),
        ("rank", vec!["0", "-1", "1.5", "18446744073709551616"]),
        ("dropout", vec!["-1", "1", "9223372036854775808", "\"0\""]),
        ("num_layers", vec!["0", "-1", "1e300"]),
    ] {
        let had = whole.lines().find(|l| l.contains(&format!("\"{key}\":"))).unwrap();
        for value in values {
            let comma = if had.ends_with(',') { "," } else { "" };
            std::fs::write(&path, whole.replace(had, &format!("\"{key}\": {value}{comma}"))).unwrap();
            let error = verify(&source, Format::Mlx, &mlx).unwrap_err().to_string();
            let shown = serde_json::from_str(value).map_or(value.into(), |v: serde_json::Value| v.to_string());
            assert!(error.contains(&format!("{key}:")) && error.contains(&shown), "{key} {value}: {error}");
        }
    }
    std::fs::write(&path, &whole).unwrap();
    verify(&source, Format::Mlx, &mlx).unwrap();
}

/// The GGUF file by candle's reader: where each tensor lies, what it is, and that nothing is between them.
#[test]
fn adapters_in_gguf_are_laid_out_as_llama_cpp_reads_them() {
    let (dir, model) = (tempfile::tempdir().unwrap(), golden("llama"));
    export_all(source(&model, &model.join("adapter"), dir.path()), &dir.path().join("out"));
    let path = dir.path().join("out/gguf/adapter.gguf");
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!((&bytes[..4], &bytes[4..8]), (&b"GGUF"[..], &3u32.to_le_bytes()[..]));
    let content = Content::read(&mut std::fs::File::open(&path).unwrap()).unwrap();
    let mut tensors: Vec<_> = content.tensor_infos.values().collect();
    tensors.sort_by_key(|t| t.offset);
    let mut end = 0;
    for t in &tensors {
        assert_eq!((t.offset, t.ggml_dtype), (end, candle_core::quantized::GgmlDType::F32));
        end += (4 * t.shape.elem_count() as u64).next_multiple_of(32);
    }
    assert_eq!(content.tensor_data_offset % 32, 0);
    assert_eq!((content.tensor_data_offset + end, tensors.len()), (bytes.len() as u64, 28));
}

/// Fails unless the safetensors library writes the same bytes; gives the number of tensors.
fn as_the_library_writes(path: &Path) -> usize {
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let again = safetensors::serialize(tensors.tensors(), header.metadata().clone()).unwrap();
    assert!(again == bytes, "{}", path.display());
    tensors.len()
}

/// Adapters and merged models have the bytes that the safetensors library writes; a run's optimizer state below.
#[test]
fn every_safetensors_file_is_as_the_library_writes_it() {
    let dir = tempfile::tempdir().unwrap();
    let same = as_the_library_writes;
    let (model, out) = (golden("llama"), dir.path().join("out"));
    export_all(source(&model, &model.join("adapter"), dir.path()), &out);
    assert_eq!(same(&out.join("peft/adapter_model.safetensors")), 28);
    assert_eq!(same(&out.join("mlx/adapters.safetensors")), 28);
    for (i, dtype) in [None, Some(Precision::F16), Some(Precision::BF16)].into_iter().enumerate() {
        let merged = dir.path().join(format!("m{i}"));
        merge_into(source(&model, &model.join("adapter"), dir.path()), &merged, dtype).unwrap();
        assert!(same(&merged.join("model.safetensors")) > 14);
    }
}

#[test]
fn nothing_is_left_of_an_export_that_fails() {
    let (dir, model) = (tempfile::tempdir().unwrap(), golden("llama"));
    let (good, bad, out) = (model.join("adapter"), dir.path().join("bad"), dir.path().join("made/out"));
    std::fs::create_dir(&bad).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(good.join(name), bad.join(name)).unwrap();
    }
    // Numbers that are finite, and of whose products none is.
    rewrite(&bad.join("adapter_model.safetensors"), |_, _, data| data.fill(1e30));
    let run = |adapter: &Path, out: &Path| {
        export(&ExportConfig {
            source: source(&model, adapter, dir.path()),
            formats: vec![Format::Mlx, Format::Peft, Format::Gguf, Format::Mlx],
            out: Some(out.into()),
        })
    };
    assert!(matches!(run(&bad, &out), Err(Error::NonFinite { .. })));
    assert!(!out.exists());
    assert_eq!(run(&good, &out).unwrap().exports.len(), 3);
    let before = std::fs::read(out.join("mlx/adapters.safetensors")).unwrap();
    assert!(matches!(run(&bad, &out), Err(Error::NonFinite { .. })));
    assert_eq!(names(&out), ["gguf", "mlx", "peft"]);
    assert_eq!(std::fs::read(out.join("mlx/adapters.safetensors")).unwrap(), before);

    // What is not an export is not written over.
    let other = dir.path().join("other");
    std::fs::create_dir_all(other.join("mlx")).unwrap();
    assert!(matches!(run(&good, &other), Err(Error::InvalidConfig { field, .. }) if field == "out"));
    assert!(names(&other.join("mlx")).is_empty());
    let none = ExportConfig { source: source(&model, &good, dir.path()), out: Some(out), ..Default::default() };
    assert!(matches!(export(&none), Err(Error::InvalidConfig { field, .. }) if field == "formats"));
}

fn merge_into(source: AdapterSource, out: &Path, dtype: Option<Precision>) -> sftmix::Result<sftmix::export::Merged> {
    merge(&MergeConfig { source, out: out.into(), dtype, gguf: None })
}

#[test]
fn a_merged_model_is_base_and_adapter() {
    for family in FAMILIES {
        let (dir, model) = (tempfile::tempdir().unwrap(), golden(family));
        for dtype in [None, Some(Precision::F16), Some(Precision::BF16)] {
            let out = dir.path().join(format!("{dtype:?}"));
            let merged = merge_into(source(&model, &model.join("adapter"), dir.path()), &out, dtype).unwrap();
            println!("{family} {dtype:?}: {:.1e}, allowed {:.1e}", merged.difference.max, merged.bound.unwrap());
            assert_eq!(merged.linears, 14);
            assert!(merged.changed > merged.numbers / 2, "{merged:?}");
            if dtype.is_none() {
                assert!(merged.difference.max <= 1e-5 * merged.difference.largest.max(1.0));
                let same = |name: &str| {
                    assert_eq!(std::fs::read(model.join(name)).unwrap(), std::fs::read(out.join(name)).unwrap())
                };
                same("config.json");
            } else {
                // The types differ in how much they lose, so one bound for all would hide a mistake.
                assert!(merged.difference.max > 1e-5);
            }
            let tensors = load_tensors(&out.join("model.safetensors")).unwrap();
            let base = load_tensors(&model.join("model.safetensors")).unwrap();
            assert!(tensors.keys().eq(base.keys()), "nothing comes, nothing goes, tied or not");
            // The golden configs name no type; where one stands it follows.
            let config = json(&out.join("config.json"));
            for key in ["dtype", "torch_dtype"] {
                let want = match dtype {
                    Some(Precision::F16) => "float16",
                    Some(Precision::BF16) => "bfloat16",
                    None | Some(Precision::F32) => {
                        json(&model.join("config.json"))[key].as_str().unwrap_or("").to_string().leak()
                    }
                    Some(other) => panic!("by which name does config.json know {other:?}?"),
                };
                assert!(config[key].is_null() || config[key] == want, "{config}");
            }
        }
    }
}

#[test]
fn magnitudes_are_merged_and_not_exported_where_they_have_no_place() {
    let (dir, model) = (tempfile::tempdir().unwrap(), golden("llama"));
    let (adapter, out) = (dir.path().join("dora"), dir.path().join("out"));
    let config = LoraConfig { r: 4, lora_alpha: 8.0, ..Default::default() };
    make_adapter(&model, &adapter, &config, |i, _| (i % 2 == 0).then_some((4, 2.0)));
    // Magnitudes that are no row's length, beside A and B.
    let path = adapter.join("adapter_model.safetensors");
    let mut tensors = load_tensors(&path).unwrap();
    let made: Vec<_> = tensors
        .iter()
        .filter(|(name, _)| name.ends_with("lora_B.weight"))
        .map(|(name, (shape, _))| {
            let magnitude = noise(shape[0], shape[0] as u64).iter().map(|v| 1.0 + v).collect();
            (name.replace("lora_B.weight", "lora_magnitude_vector"), (vec![shape[0]], magnitude))
        })
        .collect();
    tensors.extend(made);
    write(&path, &tensors);
    let config = adapter.join("adapter_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains("\"use_dora\": false"));
    std::fs::write(&config, text.replace("\"use_dora\": false", "\"use_dora\": true")).unwrap();

    let of = source(&model, &adapter, dir.path());
    let merged = merge_into(of.clone(), &dir.path().join("merged"), None).unwrap();
    println!("with magnitudes: {:.1e} of {:.1}", merged.difference.max, merged.effect);
    assert!(merged.difference.max <= merged.bound.unwrap() && merged.effect > 0.5, "{merged:?}");
    let formats = vec![Format::Peft, Format::Gguf];
    let error = export(&ExportConfig { source: of.clone(), formats, out: Some(out.clone()) }).unwrap_err();
    assert!(matches!(&error, Error::Adapter { reason, .. } if reason.contains("DoRA")), "{error}");
    assert!(!out.exists());
    let formats = vec![Format::Peft, Format::Mlx];
    let report = export(&ExportConfig { source: of.clone(), formats, out: Some(out.clone()) }).unwrap();
    assert_eq!(report.exports[0].difference.max, 0.0);
    assert!(report.exports[1].difference.max <= report.exports[1].bound, "{report:?}");

    // Lengths that were lost, changed, of another number, or without their module, are seen.
    let file = out.join("mlx/adapters.safetensors");
    let tensors = load_tensors(&file).unwrap();
    let name = tensors.keys().find(|name| name.ends_with(".m")).unwrap();
    let says = |word: &str, change: &dyn Fn(&mut Tensors)| {
        let mut changed = tensors.clone();
        change(&mut changed);
        write(&file, &changed);
        let error = verify(&of, Format::Mlx, &out.join("mlx")).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    says("magnitudes, found 0", &|t| drop(t.remove(name)));
    says("in the mlx export", &|t| t.get_mut(name).unwrap().1[0] += 1.0);
    says("magnitudes, found 1", &|t| drop(t.insert(name.clone(), (vec![1], vec![1.0]))));
    let halves = ["lora_a", "lora_b"].map(|half| format!("{}.{half}", name.strip_suffix(".m").unwrap()));
    says("no lora_a", &|t| halves.iter().for_each(|half| drop(t.remove(half))));
}

#[test]
fn a_sharded_base_stays_sharded() {
    let (dir, base) = (tempfile::tempdir().unwrap(), golden("llama"));
    let model = dir.path().join("model");
    std::fs::create_dir_all(model.join("part")).unwrap();
    std::fs::copy(base.join("config.json"), model.join("config.json")).unwrap();
    std::fs::write(model.join("chat_template.jinja"), "{{ messages }}\r\n").unwrap();
    let all = load_tensors(&base.join("model.safetensors")).unwrap();
    let place = |name: &str| if name.contains("layers.1") { "part/b.safetensors" } else { "a.safetensors" };
    for file in ["part/b.safetensors", "a.safetensors"] {
        let bytes: BTreeMap<&str, (Vec<usize>, Vec<u8>)> = all
            .iter()
            .filter(|(name, _)| place(name) == file)
            .map(|(n, (s, d))| (n.as_str(), (s.clone(), d.iter().flat_map(|v| v.to_le_bytes()).collect())))
            .collect();
        let views = bytes.iter().map(|(n, (s, d))| {
            (n, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, s.clone(), d).unwrap())
        });
        std::fs::write(model.join(file), safetensors::serialize(views, None).unwrap()).unwrap();
    }
    let map: BTreeMap<&str, &str> = all.keys().map(|n| (n.as_str(), place(n))).collect();
    let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
    std::fs::write(model.join("model.safetensors.index.json"), index.to_string()).unwrap();

    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    let adapter = base.join("adapter");
    let one = merge_into(source(&base, &adapter, dir.path()), &whole, Some(Precision::BF16)).unwrap();
    let two = merge_into(source(&model, &adapter, dir.path()), &parts, Some(Precision::BF16)).unwrap();
    assert_eq!((one.changed, one.bytes), (two.changed, two.bytes));
    assert_eq!(std::fs::read(parts.join("chat_template.jinja")).unwrap(), b"{{ messages }}\r\n");
    let index = json(&parts.join("model.safetensors.index.json"));
    assert_eq!(index["metadata"]["total_size"], two.bytes);
    let mut tensors = load_tensors(&parts.join("a.safetensors")).unwrap();
    tensors.extend(load_tensors(&parts.join("part/b.safetensors")).unwrap());
    assert_eq!(tensors, load_tensors(&whole.join("model.safetensors")).unwrap());
    // A folder that holds something is not written over.
    let again = merge_into(source(&base, &adapter, dir.path()), &whole, None);
    assert!(matches!(again, Err(Error::InvalidConfig { field, .. }) if field == "out"));
}

#[test]
fn a_merge_that_changes_nothing_is_an_error() {
    let (dir, model) = (tempfile::tempdir().unwrap(), golden("qwen2"));
    let (zero, tiny, out) = (dir.path().join("zero"), dir.path().join("tiny"), dir.path().join("out"));
    let config = LoraConfig { r: 4, lora_alpha: 8.0, ..Default::default() };
    make_adapter(&model, &zero, &config, |_, _| Some((4, 2.0)));
    rewrite(&zero.join("adapter_model.safetensors"), |name, _, data| {
        if name.contains("lora_B") {
            data.fill(0.0);
        }
    });
    make_adapter(&model, &tiny, &config, |_, _| Some((4, 2.0)));
    rewrite(&tiny.join("adapter_model.safetensors"), |name, _, data| {
        if name.contains("lora_B") {
            data.iter_mut().for_each(|v| *v *= 1e-18);
        }
    });
    for (adapter, says) in [(&zero, "every B is zero"), (&tiny, "lost in the rounding")] {
        let error = merge_into(source(&model, adapter, dir.path()), &out, Some(Precision::BF16)).unwrap_err();
        assert!(matches!(error, Error::Adapter { .. }), "{error:?}");
        assert!(error.to_string().contains("changes nothing") && error.to_string().contains(says), "{error}");
        assert!(!out.exists());
    }
    // A number that half precision cannot hold.
    let huge = dir.path().join("huge");
    make_adapter(&model, &huge, &config, |_, _| Some((4, 1e7)));
    let error = merge_into(source(&model, &huge, dir.path()), &out, Some(Precision::F16)).unwrap_err();
    assert!(matches!(&error, Error::NonFinite { what } if what.contains("f16")), "{error}");
    assert_eq!(names(dir.path()).iter().filter(|n| n.starts_with(".tmp") || *n == "out").count(), 0);
}

#[test]
fn a_merged_model_generates_what_base_and_adapter_do() {
    let Some(model) = shared("models/stories260K") else { return };
    let dir = tempfile::tempdir().unwrap();
    let adapter = model.join("golden_lora");
    let out = dir.path().join("merged");
    merge_into(source(&model, &adapter, dir.path()), &out, None).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"] {
        assert_eq!(std::fs::read(model.join(name)).unwrap(), std::fs::read(out.join(name)).unwrap());
    }
    let text = |model: &Path, adapter: Option<&Path>| {
        let engine = Engine::new(options(Form::Fused)).unwrap();
        let mut g = Generator::open_on(engine, model, adapter).unwrap();
        let config = GenerateConfig { max_new_tokens: 60, ..Default::default() };
        g.generate("Once upon a time", &config, &mut |_| Control::Continue).unwrap().text
    };
    let merged = text(&out, None);
    assert_eq!(merged, text(&model, Some(&adapter)));
    assert_ne!(merged, text(&model, None));
}

#[test]
fn a_model_is_merged_into_a_gguf_file() {
    use sftmix::export::QuantType;
    let Some(model) = shared("models/stories260K") else { return };
    let dir = tempfile::tempdir().unwrap();
    let adapter = model.join("golden_lora");
    let mut sizes = Vec::new();
    for (kind, within) in [(QuantType::F32, 1e-5), (QuantType::F16, 0.02), (QuantType::Q8_0, 0.1)] {
        let out = dir.path().join(format!("{kind}.gguf"));
        let config = MergeConfig {
            source: source(&model, &adapter, dir.path()),
            out: out.clone(),
            dtype: None,
            gguf: Some(kind),
        };
        let merged = merge(&config).unwrap();
        println!("{kind}: {:.1e} of {:.1}, {:?}", merged.difference.max, merged.effect, merged.bound);
        assert!(merged.difference.max <= within * merged.difference.largest && merged.effect > 0.5, "{merged:?}");
        assert_eq!(merged.bound.is_none(), kind == QuantType::Q8_0);
        assert_eq!(std::fs::metadata(&out).unwrap().len(), merged.bytes);
        sizes.push(merged.bytes);
        // What is there is not written over.
        assert!(matches!(merge(&config), Err(Error::InvalidConfig { field, .. }) if field == "out"));
    }
    assert!(sizes.is_sorted_by(|a, b| a > b), "{sizes:?}");
    assert_eq!(names(dir.path()), ["cache", "f16.gguf", "f32.gguf", "q8_0.gguf"]);
    // It is a base: the end of the text is the folder's.
    let text = |model: &Path, adapter: Option<&Path>| {
        let engine = Engine::new(options(Form::Fused)).unwrap();
        let mut g = Generator::open_on(engine, model, adapter).unwrap();
        let config = GenerateConfig { max_new_tokens: 60, ..Default::default() };
        g.generate("Once upon a time", &config, &mut |_| Control::Continue).unwrap().text
    };
    assert_eq!(text(&dir.path().join("f32.gguf"), None), text(&model, Some(&adapter)));
}

/// A run of two steps, on the model that the project ships.
fn tiny_run(model: &Path, out: &Path, init: Option<PathBuf>, force_base: bool) -> sftmix::Result<PathBuf> {
    let assets = project("assets/demo");
    let config = TrainConfig {
        model: model.into(),
        data: assets.join("train.jsonl").into(),
        valid: Some(assets.join("valid.jsonl")),
        out: out.into(),
        recipe: Recipe::Ntp,
        max_length: 64,
        max_steps: Some(2),
        schedule: sftmix::Schedule::Constant,
        warmup_ratio: 0.0,
        lr: 5e-2,
        save_every: 1,
        threads: Some(2),
        init_adapter: init,
        force_base,
        ..Default::default()
    };
    Ok(TrainingJob::new(config)?.run(|_| Control::Continue)?.run)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

#[test]
fn a_run_exports_merges_and_knows_its_base() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let model = at("model");
    copy(&project("assets/demo"), &model);
    std::fs::write(model.join("chat_template.jinja"), "{{ messages[0] }}").unwrap();
    let run = tiny_run(&model, &at("run"), None, false).unwrap();
    for file in ["optimizer.safetensors", "adapter_model.safetensors"] {
        assert!(as_the_library_writes(&run.join("checkpoint-2").join(file)) > 1);
    }

    // The adapter and the checkpoints say what they stand on.
    let facts = AdapterFacts::read(&run.join("adapter")).unwrap().unwrap();
    let base = Model::open(&model).unwrap().facts(&at("elsewhere")).unwrap();
    assert_eq!(BaseFacts { quantization: None, ..facts.base.clone() }, base);
    assert_eq!(facts.base.quantization.as_deref(), Some("bf16"));
    assert_eq!(facts.recipe.as_ref().unwrap()["recipe"], "ntp");
    assert_eq!(AdapterFacts::read(&run.join("checkpoint-2")).unwrap(), Some(facts.clone()));

    // The run is enough: its adapter, its base, its held-out rows, its folder.
    let of_run = AdapterSource { run: Some(run.clone()), threads: Some(2), ..Default::default() };
    let report = export(&ExportConfig { source: of_run.clone(), formats: FORMATS.to_vec(), out: None }).unwrap();
    assert!(report.rows_from.ends_with("valid.jsonl") && report.rows == 8, "{report:?}");
    let hash = blake3::hash(b"{{ messages[0] }}").to_hex().to_string();
    assert_eq!((report.chat_template.as_deref(), &facts.base.chat_template["default"]), (Some(&*hash), &hash));
    for e in &report.exports {
        assert_eq!((e.difference.max, e.path.parent()), (0.0, Some(&*run.join("export"))));
        assert_eq!(AdapterFacts::read(&e.path).unwrap(), Some(facts.clone()));
        assert_eq!(std::fs::read(e.path.join("chat_template.jinja")).unwrap(), b"{{ messages[0] }}");
    }
    let merged = merge_into(of_run.clone(), &at("merged"), None).unwrap();
    println!("merged in bf16: {:.1e}, allowed {:.1e}", merged.difference.max, merged.bound.unwrap());
    assert_eq!(std::fs::read(at("merged/chat_template.jinja")).unwrap(), b"{{ messages[0] }}");

    // The same base elsewhere is the base; another one is refused, each way in, and taken when forced.
    let (moved, other) = (at("moved"), at("other"));
    copy(&model, &moved);
    copy(&model, &other);
    let weights = other.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 0x80;
    std::fs::write(&weights, bytes).unwrap();
    let adapter = run.join("adapter");
    let eval = |model: &Path, force: bool| {
        evaluate(&EvalConfig {
            model: model.into(),
            adapter: Some(adapter.clone()),
            force,
            data: project("assets/demo/valid.jsonl"),
            max_length: 64,
            threads: Some(2),
            cache_dir: Some(at("cache")),
            ..Default::default()
        })
        .map(drop)
    };
    let with = |model: &Path, force| AdapterSource { force, model: Some(model.into()), ..of_run.clone() };
    let exported = |model: &Path, force: bool| {
        let formats = vec![Format::Peft];
        export(&ExportConfig { source: with(model, force), formats, out: Some(at("x")) }).map(drop)
    };
    let merge = |model: &Path, force: bool, out: &str| merge_into(with(model, force), &at(out), None).map(drop);
    let mut g = Generator::open_on(Engine::new(options(Form::Fused)).unwrap(), &other, None).unwrap();
    g.force_adapter(Some(&adapter)).unwrap();
    let refused = [
        ("eval", eval(&other, false)),
        ("export", exported(&other, false)),
        ("merge", merge(&other, false, "m0")),
        ("generate", g.set_adapter(Some(&adapter))),
        ("train", tiny_run(&other, &at("t0"), Some(adapter.clone()), false).map(drop)),
    ];
    for (what, result) in refused {
        match result {
            Err(Error::BaseMismatch(m)) => {
                assert_eq!((m.what, m.base.as_path()), ("weights", other.as_path()), "{what}");
                assert!(m.expected == facts.base.weights && m.found != m.expected, "{what}");
                assert_eq!(m.trained_on, facts.base.model, "{what}");
            }
            r => panic!("{what}: {r:?}"),
        }
    }
    assert!(!at("m0").exists() && !at("x").exists());
    for (what, result) in [
        ("eval", eval(&other, true)),
        ("export", exported(&other, true)),
        ("merge", merge(&other, true, "m1")),
        ("train", tiny_run(&other, &at("t1"), Some(adapter.clone()), true).map(drop)),
        ("the base, moved", eval(&moved, false)),
        ("merge with the base, moved", merge(&moved, false, "m2")),
        ("train on the base, moved", tiny_run(&moved, &at("t2"), Some(adapter.clone()), false).map(drop)),
    ] {
        result.unwrap_or_else(|e| panic!("{what}: {e}"));
    }
    // PEFT's own has no such file, and loads.
    std::fs::remove_file(adapter.join("sftmix.json")).unwrap();
    eval(&other, false).unwrap();
}

/// The template that a run was given goes out with its adapter; one that is the base's own with marks around what is
/// trained goes out as the base's.
#[test]
fn the_template_that_was_trained_goes_out() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let end = "{{ eos_token }}";
    let written = |mark: &str, open: &str, close: &str| {
        format!(
            "{{% for m in messages %}}{{{{ m.role }}}}{mark}{{% if m.role == 'assistant' %}}{open}{{{{ m.content }}}}{end}\
             {close}{{% else %}}{{{{ m.content }}}}\n{{% endif %}}{{% endfor %}}"
        )
    };
    let own = written(": ", "", "");
    let tagged = written(": ", "{% generation %}", "{% endgeneration %}");
    let other = written("> ", "{% generation %}", "{% endgeneration %}");
    let row = |i: usize| serde_json::json!({"messages": [{"role": "user", "content": format!("light {i}?")}, {"role": "assistant", "content": "red"}]});
    std::fs::write(at("rows.jsonl"), (0..16).map(|i| format!("{}\n", row(i))).collect::<String>()).unwrap();
    for (name, base, given, goes) in
        [("other", Some(&own), &other, &other), ("tagged", Some(&own), &tagged, &own), ("none", None, &other, &other)]
    {
        let (model, run, file) = (at(&format!("{name}-model")), at(name), at(&format!("{name}.jinja")));
        copy(&project("assets/demo"), &model);
        if let Some(text) = base {
            std::fs::write(model.join("chat_template.jinja"), text).unwrap();
        }
        std::fs::write(&file, given).unwrap();
        let mut config = TrainConfig {
            model: model.clone(),
            data: at("rows.jsonl").into(),
            out: run.clone(),
            recipe: Recipe::Ntp,
            max_length: 64,
            batch_size: 4,
            epochs: 1,
            threads: Some(2),
            lora: Some(LoraConfig { r: 2, ..Default::default() }),
            ..Default::default()
        };
        config.data_options.chat_template = Some(file.clone());
        TrainingJob::new(config).unwrap().run(|_| Control::Continue).unwrap();
        // The run has its text.
        std::fs::remove_file(&file).unwrap();

        let of_run = AdapterSource { run: Some(run.clone()), threads: Some(2), ..Default::default() };
        let alone = source(&model, &run.join("adapter"), dir.path());
        for (i, source) in [of_run.clone(), alone].into_iter().enumerate() {
            let out = at(&format!("{name}-export-{i}"));
            let report = export(&ExportConfig { source, formats: FORMATS.to_vec(), out: Some(out.clone()) }).unwrap();
            assert_eq!(report.chat_template.unwrap(), blake3::hash(goes.as_bytes()).to_hex().to_string(), "{name}");
            for format in FORMATS {
                let text = std::fs::read_to_string(out.join(format.as_str()).join("chat_template.jinja")).unwrap();
                assert_eq!(&text, goes, "{name} {}", format.as_str());
            }
            let gguf = std::fs::read(out.join("gguf/adapter.gguf")).unwrap();
            assert!(gguf.windows(goes.len()).any(|w| w == goes.as_bytes()), "{name}");
        }
        merge_into(of_run, &at(&format!("{name}-merged")), None).unwrap();
        let merged = Model::open(at(&format!("{name}-merged"))).unwrap().facts(dir.path()).unwrap();
        assert_eq!(merged.chat_template["default"], blake3::hash(goes.as_bytes()).to_hex().to_string(), "{name}");
    }
}

#[test]
fn what_is_no_run_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let of = |run: &Path| AdapterSource { run: Some(run.into()), ..Default::default() };
    let export_of =
        |source| export(&ExportConfig { source, formats: vec![Format::Mlx], out: Some(dir.path().join("o")) });
    assert!(matches!(export_of(of(dir.path())), Err(Error::Checkpoint { .. })));
    assert!(matches!(export_of(AdapterSource::default()), Err(Error::InvalidConfig { field, .. }) if field == "model"));
}

#[cfg(feature = "cli")]
#[test]
fn the_program_exports_and_merges() {
    let (dir, model) = (tempfile::tempdir().unwrap(), golden("llama"));
    let text = |p: PathBuf| p.to_str().unwrap().to_string();
    let (out, merged, adapter) =
        (text(dir.path().join("out")), text(dir.path().join("m")), text(model.join("adapter")));
    let (model, cache) = (text(model), text(dir.path().join("cache")));
    let run = |args: &[&str]| {
        let o = std::process::Command::new(env!("CARGO_BIN_EXE_sftmix")).args(args).output().unwrap();
        (o.status.code(), String::from_utf8(o.stdout).unwrap(), String::from_utf8(o.stderr).unwrap())
    };
    let common = ["--model", &model, "--adapter", &adapter, "--cache-dir", &cache, "--out"];
    let (code, shown, err) = run(&[&["export", "--to", "peft,gguf,mlx"], &common[..], &[&out]].concat());
    assert_eq!(code, Some(0), "{err}");
    assert!(shown.contains("logits differ by") && shown.contains("0.0e0 at most"), "{shown}");
    assert!(shown.contains("weights differ by") && shown.contains("adapter moves logits by"), "{shown}");
    let (code, shown, err) = run(&[&["merge", "--json"], &common[..], &[&merged]].concat());
    assert_eq!(code, Some(0), "{err}");
    let report: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((report["linears"].as_u64(), report["path"].as_str()), (Some(14), Some(&*merged)));
    let (code, _, err) = run(&["export", "--to", "onnx", "run"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("peft, gguf, mlx"), "{err}");
    assert_eq!(run(&["export", "--to", "peft"]).0, Some(2));
}

/// llama.cpp's converter on a matrix of queries or keys: `[H, 2, D/2, in] → [H, D/2, 2, in]`.
fn converted(w: &candle_core::Tensor, heads: usize) -> candle_core::Tensor {
    let (rows, cols) = w.dims2().unwrap();
    let four = w.reshape((heads, 2, rows / heads / 2, cols)).unwrap();
    four.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, cols)).unwrap()
}

/// A llama folder as llama.cpp's converter lays it out in f32, by candle's writer; with an adapter's file added where its
/// tensors' names say so.
fn gguf_model(model: &Path, path: &Path, adapter: Option<&Path>) {
    use candle_core::quantized::gguf_file::{self, Value};
    use candle_core::quantized::{GgmlDType, QTensor};

    let c = DecoderConfig::from_dir(model).unwrap();
    let mut lora = adapter.map(|path| {
        let mut file = std::fs::File::open(path).unwrap();
        (Content::read(&mut file).unwrap(), file)
    });
    let (mut tensors, mut added) = (Vec::new(), 0);
    for (name, (shape, data)) in load_tensors(&model.join("model.safetensors")).unwrap() {
        let mut w = candle_core::Tensor::from_vec(data, shape, &Device::Cpu).unwrap();
        if name.contains("q_proj") {
            w = converted(&w, c.num_heads);
        } else if name.contains("k_proj") {
            w = converted(&w, c.num_kv_heads);
        }
        let mut gguf = name.replace("model.layers.", "blk.").replace("self_attn.", "").replace("mlp.", "");
        for (hf, short) in [
            ("q_proj", "attn_q"),
            ("k_proj", "attn_k"),
            ("v_proj", "attn_v"),
            ("o_proj", "attn_output"),
            ("gate_proj", "ffn_gate"),
            ("up_proj", "ffn_up"),
            ("down_proj", "ffn_down"),
            ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "ffn_norm"),
            ("model.embed_tokens", "token_embd"),
            ("model.norm", "output_norm"),
            ("lm_head", "output"),
        ] {
            gguf = gguf.replace(hf, short);
        }
        if let Some((lora, file)) = &mut lora {
            let alpha = lora.metadata["adapter.lora.alpha"].to_f32().unwrap() as f64;
            let mut get = |suffix: &str| {
                lora.tensor_infos.get(&format!("{gguf}.{suffix}"))?;
                let t = lora.tensor(file, &format!("{gguf}.{suffix}"), &Device::Cpu).unwrap();
                Some(t.dequantize(&Device::Cpu).unwrap())
            };
            if let (Some(a), Some(b)) = (get("lora_a"), get("lora_b")) {
                w = (w + (b.matmul(&a).unwrap() * (alpha / a.dim(0).unwrap() as f64)).unwrap()).unwrap();
                added += 1;
            }
        }
        tensors.push((gguf, QTensor::quantize(&w, GgmlDType::F32).unwrap()));
    }
    assert!(lora.is_none_or(|(lora, _)| lora.tensor_infos.len() == 2 * added));
    let number = |n: usize| Value::U32(n as u32);
    let keys = [
        ("general.architecture", Value::String("llama".into())),
        ("llama.attention.head_count", number(c.num_heads)),
        ("llama.attention.head_count_kv", number(c.num_kv_heads)),
        ("llama.block_count", number(c.num_layers)),
        ("llama.context_length", number(c.max_position_embeddings)),
        ("llama.feed_forward_length", number(c.intermediate_size)),
        ("llama.vocab_size", number(c.vocab_size)),
        ("llama.embedding_length", number(c.hidden_size)),
        ("llama.rope.dimension_count", number(c.head_dim)),
        ("llama.rope.freq_base", Value::F32(c.ropes[0].theta as f32)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(c.rms_norm_eps as f32)),
    ];
    let keys: Vec<(&str, &Value)> = keys.iter().map(|(k, v)| (*k, v)).collect();
    let named: Vec<(&str, &QTensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    gguf_file::write(&mut std::fs::File::create(path).unwrap(), &keys, &named).unwrap();
}

/// candle's model of GGUF llama files turns neighbouring rows together, as llama.cpp does and we do not: with the base's rows
/// put in its order here, the adapter's file must give it our logits.
#[test]
fn a_runtime_of_gguf_gives_our_logits() {
    use candle_transformers::models::quantized_llama::ModelWeights;
    use sftmix::internal::model::Adapter;
    use sftmix::internal::model::Decoder;
    use sftmix::internal::ops::{head_loss, Layout};
    use sftmix::Keep;

    let (dir, model) = (tempfile::tempdir().unwrap(), golden("llama"));
    let (adapter, out) = (dir.path().join("adapter"), dir.path().join("out"));
    let config = LoraConfig { r: 4, lora_alpha: 6.0, use_rslora: true, ..Default::default() };
    make_adapter(&model, &adapter, &config, |i, _| Some(([1, 4, 7][i % 3], [0.75, -2.0, 0.3, 1.0][i % 4])));
    export_all(source(&model, &adapter, dir.path()), &out);

    let path = dir.path().join("merged.gguf");
    gguf_model(&model, &path, Some(&out.join("gguf/adapter.gguf")));
    let mut file = std::fs::File::open(&path).unwrap();
    let content = Content::read(&mut file).unwrap();
    let mut theirs = ModelWeights::from_gguf(content, &mut file, &Device::Cpu).unwrap();

    let c = DecoderConfig::from_dir(&model).unwrap();
    let engine = Engine::new(options(Form::Fused)).unwrap();
    let ours = Decoder::open(&engine, &model, 64).unwrap();
    let adapter = Adapter::load(&engine, &ours, &adapter).unwrap();
    let mut worst = [0f32; 2];
    for tokens in [1, 2, 7, 20] {
        let ids: Vec<u32> = (0..tokens).map(|i| (i * 37 + 11) % c.vocab_size as u32).collect();
        let logits = |adapter: Option<&Adapter>| {
            engine
                .run(|| {
                    let layout = Layout::new(vec![0, tokens], vec![0]);
                    let mut pass = ours.forward(&engine, adapter, &ids, layout, Keep::Nothing, None)?;
                    let states = ours.states(&engine, &mut pass, vec![tokens - 1])?;
                    head_loss::logits(&engine, ours.head(), &states)
                })
                .unwrap()
        };
        let input = candle_core::Tensor::new(ids.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let got = theirs.forward(&input, 0).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (worst, ours) in worst.iter_mut().zip([logits(Some(&adapter)), logits(None)]) {
            *worst = ours.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(*worst, f32::max);
        }
    }
    println!("beside candle's GGUF llama: {:.1e}; the base alone is {:.1e} away", worst[0], worst[1]);
    assert!(worst[0] < 2e-5 && worst[1] > 0.5, "{worst:?}");
}

/// Adapters count rows in Hugging Face's order whatever the base is stored as: exported from a GGUF base they are the same.
#[test]
fn a_gguf_base_gives_the_same_exports() {
    let (dir, model) = (tempfile::tempdir().unwrap(), golden("llama"));
    let base = dir.path().join("base.gguf");
    gguf_model(&model, &base, None);
    let adapter = model.join("adapter");
    let (one, two) = (dir.path().join("folder"), dir.path().join("file"));
    export_all(source(&model, &adapter, dir.path()), &one);
    for e in export_all(source(&base, &adapter, dir.path()), &two) {
        assert_eq!(e.difference.max, 0.0);
        let facts = AdapterFacts::read(&e.path).unwrap().unwrap();
        assert_eq!((facts.base.tokenizer, facts.base.quantization.as_deref()), (None, Some("f32")));
    }
    let c = DecoderConfig::from_dir(&model).unwrap();
    for format in FORMATS {
        let read = |out: &Path| read(format, &out.join(format.as_str()), &c).unwrap();
        assert_eq!((read(&one).modules, read(&one).scales), (read(&two).modules, read(&two).scales));
    }
    // Each is bound to the base that it was exported with: the folder and the file are not the same contents.
    let other = source(&model, &two.join("peft"), dir.path());
    assert!(matches!(verify(&other, Format::Mlx, &two.join("mlx")), Err(Error::BaseMismatch(_))));
    verify(&AdapterSource { force: true, ..other }, Format::Mlx, &two.join("mlx")).unwrap();
    let error = merge_into(source(&base, &adapter, dir.path()), &dir.path().join("m"), None).unwrap_err();
    assert!(matches!(&error, Error::InvalidConfig { field, .. } if field == "model"), "{error}");
}

/// The end of a turn by the template that goes out is among the end tokens of all that is written.
#[test]
fn a_merged_model_ends_where_it_was_trained_to() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let model = at("model");
    std::fs::create_dir(&model).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden("llama").join(file), model.join(file)).unwrap();
    }
    let mut tokenizer = letters(&["<e>"]);
    let mut end = tokenizer["added_tokens"][2].clone();
    (end["id"], end["content"]) = (63.into(), "<e>".into());
    tokenizer["added_tokens"].as_array_mut().unwrap().push(end);
    std::fs::write(model.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    make_adapter(&model, &at("adapter"), &LoraConfig::default(), |_, _| Some((2, 4.0)));
    let merged = |out: &str| merge_into(source(&model, &at("adapter"), &at("cache")), &at(out), None).unwrap();

    // Without a template there is nothing to add.
    assert_eq!(merged("plain").end_added, None);
    assert_eq!(std::fs::read(at("plain/config.json")).unwrap(), std::fs::read(model.join("config.json")).unwrap());
    assert!(!at("plain/generation_config.json").exists());

    let template = "{% for m in messages %}{{ m.role[0] }}{{ m.content }}<e>{% endfor %}";
    std::fs::write(model.join("chat_template.jinja"), template).unwrap();
    let had = json(&model.join("config.json"))["eos_token_id"].clone();
    for (generation, out) in [(None, "a"), (Some(serde_json::json!({"temperature": 0.5, "eos_token_id": 2})), "b")] {
        if let Some(generation) = generation {
            std::fs::write(model.join("generation_config.json"), generation.to_string()).unwrap();
        }
        assert_eq!(merged(out).end_added.as_deref(), Some("<e>"));
        for file in ["config.json", "generation_config.json"] {
            let all = json(&at(out).join(file))["eos_token_id"].clone();
            assert_eq!(all, serde_json::json!([had, 63]), "{file}");
        }
        assert_eq!(Tokenizer::load(at(out)).unwrap().eos_ids(), [2, 63]);
    }
    assert_eq!(json(&at("b/generation_config.json"))["temperature"], 0.5);
}
