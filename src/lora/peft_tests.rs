//! Tests of the PEFT folder.

use super::*;
use half::{bf16, f16};
use safetensors::tensor::{Dtype as StDtype, TensorView};
use std::collections::HashMap;

const Q: &str = "model.layers.0.self_attn.q_proj";
const UP: &str = "model.layers.11.mlp.up_proj";

fn values(seed: u32, n: usize) -> Vec<f32> {
    let mut x = seed;
    let mut next = || {
        x = x.wrapping_mul(1664525).wrapping_add(1013904223);
        f32::from_bits(0x3d00_0000 | (x >> 8) & 0x7f_ffff) * if x & 1 == 0 { 1.0 } else { -1.0 }
    };
    (0..n).map(|_| next()).collect()
}

fn pairs() -> BTreeMap<String, LoraPair> {
    let pair = |seed, r, i, o| LoraPair {
        r,
        in_features: i,
        out_features: o,
        a: values(seed, r * i),
        b: values(seed + 1, o * r),
        magnitude: None,
    };
    [(Q.to_string(), pair(1, 4, 6, 5)), (UP.to_string(), pair(9, 4, 3, 7))].into()
}

fn views<'a>(pairs: &'a BTreeMap<String, LoraPair>, config: &LoraConfig) -> Vec<PeftTensor<'a>> {
    pairs
        .iter()
        .map(|(module, p)| PeftTensor {
            module,
            r: p.r,
            in_features: p.in_features,
            out_features: p.out_features,
            scale: LoraConfig { r: p.r, ..config.clone() }.scale(),
            a: &p.a,
            b: &p.b,
            magnitude: p.magnitude.as_deref(),
        })
        .collect()
}

fn config() -> LoraConfig {
    LoraConfig { r: 4, lora_alpha: 8.0, ..LoraConfig::default() }
}

/// A saved adapter, to be damaged.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let dir = tempfile::tempdir().unwrap();
        save_adapter(dir.path(), &config(), "base", &views(&pairs(), &config())).unwrap();
        Folder(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn set(&self, key: &str, value: Value) -> &Folder {
        let path = self.path().join(CONFIG);
        let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        json[key] = value;
        fs::write(path, json.to_string()).unwrap();
        self
    }

    fn tensors(&self, tensors: &[(String, StDtype, Vec<usize>, Vec<u8>)]) -> &Folder {
        let views = tensors.iter().map(|(k, d, s, b)| (k, TensorView::new(*d, s.clone(), b).unwrap()));
        fs::write(self.path().join(TENSORS), safetensors::serialize(views, None).unwrap()).unwrap();
        self
    }

    fn fails(&self, words: &[&str]) {
        let error = load_adapter(self.path()).unwrap_err();
        assert!(matches!(error, Error::Adapter { .. }), "{error:?}");
        let text = error.to_string();
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text:?}");
        }
    }
}

fn f32_tensor(key: String, shape: &[usize]) -> (String, StDtype, Vec<usize>, Vec<u8>) {
    (key, StDtype::F32, shape.to_vec(), vec![0; 4 * shape.iter().product::<usize>()])
}

#[test]
fn round_trip_keeps_every_bit() {
    let mut pairs = pairs();
    pairs.get_mut(Q).unwrap().a[..3].copy_from_slice(&[-0.0, f32::MIN_POSITIVE / 8.0, f32::MAX]);
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("x/one"), dir.path().join("two"));
    let config = LoraConfig { lora_alpha: 2.5, use_rslora: true, lora_dropout: 0.1, ..config() };
    save_adapter(&one, &config, "some/base", &views(&pairs, &config)).unwrap();
    let mut reversed = views(&pairs, &config);
    reversed.reverse();
    save_adapter(&two, &config, "some/base", &reversed).unwrap();
    for file in [CONFIG, TENSORS] {
        assert_eq!(fs::read(one.join(file)).unwrap(), fs::read(two.join(file)).unwrap(), "{file}");
    }
    assert_eq!(adapter_hash(&views(&pairs, &config)), adapter_hash(&reversed));

    let adapter = load_adapter(&one).unwrap();
    for (module, pair) in &pairs {
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let read = &adapter.modules[module];
        assert_eq!((read.r, read.in_features, read.out_features), (pair.r, pair.in_features, pair.out_features));
        assert_eq!((bits(&read.a), bits(&read.b)), (bits(&pair.a), bits(&pair.b)));
        assert_eq!(adapter.scales[module], 1.25);
    }
    assert_eq!(adapter.modules.len(), 2);
    assert_eq!(adapter.base_model.as_deref(), Some("some/base"));
    let names = TargetModules::Names(vec!["q_proj".into(), "up_proj".into()]);
    assert_eq!(adapter.config, LoraConfig { target_modules: names, ..config });
}

#[test]
fn bytes_are_those_of_safetensors() {
    let pairs = pairs();
    let folder = Folder::new();
    let tensors: Vec<_> = views(&pairs, &config())
        .iter()
        .flat_map(matrices_of)
        .map(|(k, m)| (k, m.shape.to_vec(), m.data.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()))
        .collect();
    let views = tensors.iter().map(|(k, s, b)| (k, TensorView::new(StDtype::F32, s.clone(), b).unwrap()));
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let want = safetensors::serialize(views, Some(metadata)).unwrap();
    assert_eq!(fs::read(folder.path().join(TENSORS)).unwrap(), want);
}

#[test]
fn config_has_the_keys_of_peft_sorted() {
    let folder = Folder::new();
    let text = fs::read_to_string(folder.path().join(CONFIG)).unwrap();
    let ours: Map<String, Value> = serde_json::from_str(&text).unwrap();
    assert!(ours.keys().is_sorted());
    assert!(text.contains("\"lora_alpha\": 8,") && text.contains("\"lora_dropout\": 0.0,"));
    assert_eq!(ours["target_modules"], json!(["q_proj", "up_proj"]));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden/llama/adapter").join(CONFIG);
    let Ok(golden) = fs::read(&path) else { return println!("skipped: {} is absent", path.display()) };
    let mut golden: Map<String, Value> = serde_json::from_slice(&golden).unwrap();
    golden["target_modules"] = ours["target_modules"].clone();
    golden["base_model_name_or_path"] = json!("base");
    assert_eq!(ours, golden);
}

#[test]
fn loads_what_peft_wrote() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden");
    let Ok(entries) = fs::read_dir(&golden) else { return println!("skipped: {} is absent", golden.display()) };
    let mut count = 0;
    for dir in entries.map(|e| e.unwrap().path().join("adapter")).filter(|d| d.is_dir()) {
        let adapter = load_adapter(&dir).unwrap();
        assert_eq!((adapter.config.r, adapter.config.lora_alpha), (4, 8.0));
        assert!(adapter.modules.len() >= 8 && adapter.modules.keys().eq(adapter.scales.keys()));
        for (module, pair) in &adapter.modules {
            assert!(adapter.config.target_modules.matches(module), "{module}");
            assert_eq!((pair.a.len(), pair.b.len()), (4 * pair.in_features, 4 * pair.out_features));
            assert_eq!(adapter.scales[module], 2.0);
        }
        // Written again: the tensor file is the same, byte for byte.
        let again = tempfile::tempdir().unwrap();
        save_adapter(again.path(), &adapter.config, "", &views(&adapter.modules, &adapter.config)).unwrap();
        let read = |d: &Path| fs::read(d.join(TENSORS)).unwrap();
        assert_eq!(read(again.path()), read(&dir), "{}", dir.display());
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn reads_half_precision() {
    let folder = Folder::new();
    let x = [1.5f32, -0.25];
    let a = (format!("{PREFIX}{Q}{SUFFIX_A}"), StDtype::F16, vec![1, 2]);
    let b = (format!("{PREFIX}{Q}{SUFFIX_B}"), StDtype::BF16, vec![2, 1]);
    folder.set("r", json!(1)).tensors(&[
        (a.0, a.1, a.2, x.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect()),
        (b.0, b.1, b.2, x.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect()),
    ]);
    let adapter = load_adapter(folder.path()).unwrap();
    let want = LoraPair { r: 1, in_features: 2, out_features: 2, a: x.to_vec(), b: x.to_vec(), magnitude: None };
    assert_eq!(adapter.modules, [(Q.to_string(), want)].into());
}

#[test]
fn patterns_follow_peft() {
    let mut pairs = pairs();
    pairs.insert(UP.into(), LoraPair { r: 2, a: values(3, 6), b: values(4, 14), ..pairs[UP].clone() });
    let folder = Folder::new();
    // Another rank is written as a pattern and found again.
    save_adapter(folder.path(), &config(), "base", &views(&pairs, &config())).unwrap();
    let adapter = load_adapter(folder.path()).unwrap();
    assert_eq!((adapter.modules[UP].r, adapter.modules[Q].r), (2, 4));
    assert_eq!((adapter.scales[UP], adapter.scales[Q]), (4.0, 2.0));
    // The first that matches; a name matches whole components only.
    folder.set("alpha_pattern", json!({"proj": 1, "1.mlp.up_proj": 2, "mlp.up_proj": 6, "up_proj": 3, Q: 10}));
    let scales = load_adapter(folder.path()).unwrap().scales;
    assert_eq!((scales[UP], scales[Q]), (3.0, 2.5));
    folder.set("use_rslora", json!(true));
    let scales = load_adapter(folder.path()).unwrap().scales;
    assert_eq!((scales[UP], scales[Q]), (6.0 / 2f64.sqrt(), 5.0));

    folder.set("rank_pattern", json!({}));
    folder.fails(&[TENSORS, UP, "expected rank 4", "found 2"]);
    for pattern in ["layers\\.0.q_proj", "^model", "up_proj$", ".*up_proj", "q_proj|up_proj", "up[12]", ""] {
        Folder::new().set("rank_pattern", json!({ pattern: 4 })).fails(&["rank_pattern", &format!("{pattern:?}")]);
        Folder::new().set("alpha_pattern", json!({ pattern: 4 })).fails(&["alpha_pattern", "regular"]);
    }
    Folder::new().set("rank_pattern", json!({"q_proj": "4"})).fails(&["rank_pattern", "q_proj", "number"]);
}

/// 32.00002 was written as 32, and a run that was taken up ended at other bytes.
#[test]
fn alphas_are_written_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(CONFIG);
    let third = 1.0 / 3.0;
    for (use_rslora, use_dora) in [(false, false), (true, false), (false, true)] {
        for alpha in [32.00002, 32.0, 31.999998, third, 1e-7, 16777217.0, 1e15 + 0.5, 3e20, -2.5] {
            let pattern = ModulePattern::parse("up_proj=7.0000001").unwrap();
            let config = LoraConfig { lora_alpha: alpha, use_rslora, use_dora, alpha_pattern: pattern, ..config() };
            let mut pairs = pairs();
            pairs.values_mut().filter(|_| use_dora).for_each(|p| p.magnitude = Some(vec![1.0; p.out_features]));
            let all = views(&pairs, &config);
            // As a slot keeps them.
            let slot = |t: &PeftTensor| config.scale_of(t.module) as f32 as f64;
            let tensors: Vec<PeftTensor> = all.iter().map(|t| PeftTensor { scale: slot(t), ..*t }).collect();
            save_adapter(dir.path(), &config, "base", &tensors).unwrap();
            let json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            assert_eq!(json["alpha_pattern"], json!({"up_proj": 7.0000001}), "{alpha}");
            assert_eq!(json["lora_alpha"].is_i64(), alpha.fract() == 0.0 && alpha < 1e15, "{alpha}");
            let read = load_adapter(dir.path()).unwrap();
            assert_eq!(read.config.lora_alpha.to_bits(), alpha.to_bits());
            assert_eq!(read.scales[Q].to_bits(), config.scale_of(Q).to_bits());
            assert_eq!(read.config.alpha_pattern, config.alpha_pattern);
        }
    }
    // A scale that is not the config's: the whole number that gives it in f32, or what it is.
    let of = |scale: f32| {
        let pairs = pairs();
        let mut tensors = views(&pairs, &config());
        tensors[0].scale = scale as f64;
        save_adapter(dir.path(), &config(), "base", &tensors).unwrap();
        let read = load_adapter(dir.path()).unwrap();
        assert_eq!(read.scales[Q] as f32, scale);
        let json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        json["alpha_pattern"].clone()
    };
    assert_eq!(of(2.0), json!({}));
    assert_eq!(of(0.75), json!({Q: 3}));
    assert_eq!(of(2.0000002), json!({Q: 4.0 * 2.0000002f32 as f64}));
}

#[test]
fn target_modules_take_every_form() {
    let paths = TargetModules::Names(vec![Q.into(), UP.into()]);
    let folder = Folder::new();
    let read = || load_adapter(folder.path()).unwrap().config.target_modules;
    folder.set("target_modules", json!("all-linear"));
    assert_eq!(read(), TargetModules::AllLinear);
    folder.set("target_modules", json!(".*_proj"));
    assert_eq!(read(), paths);
    folder.set("target_modules", json!(["up_proj", "q_proj"]));
    assert_eq!(read(), TargetModules::parse("q_proj,up_proj"));
    folder.set("exclude_modules", json!(["x"]));
    assert_eq!(read(), paths);
    folder.set("target_modules", json!([1])).set("exclude_modules", json!(null)).fails(&["target_modules"]);
}

#[test]
fn magnitudes_patterns_and_layers_survive() {
    let mut pairs = pairs();
    let (q, up) = (values(20, 5), values(21, 7));
    pairs.get_mut(Q).unwrap().magnitude = Some(q.clone());
    pairs.insert(
        UP.into(),
        LoraPair { r: 2, a: values(3, 6), b: values(4, 14), magnitude: Some(up), ..pairs[UP].clone() },
    );
    let config = LoraConfig {
        use_dora: true,
        target_modules: TargetModules::parse("q_proj,up_proj"),
        layers_to_transform: Some(Layers::new([0, 11])),
        rank_pattern: ModulePattern::parse("mlp.up_proj=2,up_proj=3").unwrap(),
        alpha_pattern: ModulePattern::parse("q_proj=2.5").unwrap(),
        ..config()
    };
    let tensors: Vec<PeftTensor> =
        views(&pairs, &config).into_iter().map(|t| PeftTensor { scale: config.scale_of(t.module), ..t }).collect();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    save_adapter(one.path(), &config, "base", &tensors).unwrap();
    let json: Value = serde_json::from_slice(&fs::read(one.path().join(CONFIG)).unwrap()).unwrap();
    assert_eq!(json["layers_to_transform"], json!([0, 11]));
    assert_eq!(json["rank_pattern"].to_string(), r#"{"mlp.up_proj":2,"up_proj":3}"#);
    let read = load_adapter(one.path()).unwrap();
    assert_eq!((&read.config, &read.modules), (&config, &pairs));
    assert_eq!((read.scales[UP], read.scales[Q]), (4.0, 2.5 / 4.0));
    save_adapter(two.path(), &read.config, "base", &tensors).unwrap();
    for file in [CONFIG, TENSORS] {
        assert_eq!(fs::read(one.path().join(file)).unwrap(), fs::read(two.path().join(file)).unwrap(), "{file}");
    }
    let file = load_tensors(&one.path().join(TENSORS)).unwrap();
    assert_eq!(file[&format!("{PREFIX}{Q}.lora_magnitude_vector")], (vec![5], q));
    let error = save_adapter(two.path(), &LoraConfig { use_dora: false, ..config }, "", &tensors).unwrap_err();
    assert!(error.to_string().contains("magnitudes"), "{error}");
}

#[test]
fn refuses_what_is_not_plain_lora() {
    for (key, value) in [
        ("peft_type", json!("LOHA")),
        ("peft_type", json!(null)),
        ("modules_to_save", json!(["lm_head"])),
        ("bias", json!("lora_only")),
        ("fan_in_fan_out", json!(true)),
        ("lora_bias", json!(true)),
        ("use_qalora", json!(true)),
        ("use_bdlora", json!({"x": 1})),
        ("layer_replication", json!([[0, 4]])),
        ("trainable_token_indices", json!([1])),
        ("target_parameters", json!(["experts.weight"])),
        ("init_lora_weights", json!("pissa")),
        ("r", json!(0)),
        ("r", json!(1.5)),
        ("r", json!(-4)),
        ("r", json!(1e300)),
        ("lora_alpha", json!("8")),
        ("lora_alpha", json!(0)),
        ("lora_alpha", json!(1e300)),
        ("lora_alpha", json!(-1e-300)),
        ("lora_dropout", json!(-1)),
        ("lora_dropout", json!(-0.1)),
        ("lora_dropout", json!(1)),
        ("lora_dropout", json!(0.999999999)),
        ("lora_dropout", json!(1u64 << 63)),
        ("lora_dropout", json!("0.1")),
        ("layers_to_transform", json!([-1])),
        ("use_rslora", json!(1)),
        ("rank_pattern", json!([1])),
    ] {
        Folder::new().set(key, value.clone()).fails(&[CONFIG, key, &value.to_string()]);
    }
    for (key, value) in [
        ("rank_pattern", json!(0)),
        ("rank_pattern", json!(1e300)),
        ("alpha_pattern", json!(1e300)),
        ("alpha_pattern", json!(null)),
    ] {
        Folder::new().set(key, json!({"q_proj": value})).fails(&[CONFIG, key, "q_proj", &value.to_string()]);
    }
    Folder::new().set("alpha_pattern", json!({"q_proj": 0, "up_proj": 0})).fails(&[CONFIG, "alpha_pattern", "0"]);
    // PEFT's own meaning: the update is taken away, a module is turned off.
    let folder = Folder::new();
    folder.set("lora_alpha", json!(-8)).set("alpha_pattern", json!({"up_proj": 0}));
    let read = load_adapter(folder.path()).unwrap();
    assert_eq!((read.scales[Q], read.scales[UP]), (-2.0, 0.0));
    // What Python's json writes of numbers that are none.
    for number in ["NaN", "Infinity", "-Infinity", "1e999"] {
        for key in ["lora_alpha", "lora_dropout"] {
            let folder = Folder::new();
            folder.set(key, json!("HERE"));
            let path = folder.path().join(CONFIG);
            let text = fs::read_to_string(&path).unwrap().replace("\"HERE\"", number);
            fs::write(&path, text).unwrap();
            folder.fails(&[CONFIG, key, number]);
        }
    }
    let folder = Folder::new();
    folder.set("init_lora_weights", json!("gaussian")).set("modules_to_save", json!([])).set("novel", json!(1));
    load_adapter(folder.path()).unwrap();
    fs::write(folder.path().join(CONFIG), "{").unwrap();
    folder.fails(&[CONFIG, "damaged"]);
}

#[test]
fn names_the_tensor_at_fault() {
    let a = |m: &str| format!("{PREFIX}{m}{SUFFIX_A}");
    let b = |m: &str| format!("{PREFIX}{m}{SUFFIX_B}");
    let good = || vec![f32_tensor(a(Q), &[4, 6]), f32_tensor(b(Q), &[5, 4])];
    let with = |t| [good(), vec![t]].concat();
    let folder = Folder::new();
    folder.tensors(&good());
    load_adapter(folder.path()).unwrap();
    folder.tensors(&with(f32_tensor(a(UP), &[4, 6]))).fails(&[TENSORS, &a(UP), "no lora_B"]);
    folder.tensors(&with(f32_tensor(b(UP), &[4, 6]))).fails(&[TENSORS, &b(UP), "no lora_A"]);
    folder.tensors(&[good()[0].clone(), f32_tensor(b(Q), &[5, 3])]).fails(&[&b(Q), "[5, 4]", "[5, 3]"]);
    folder.tensors(&[good()[1].clone(), f32_tensor(a(Q), &[24])]).fails(&[&a(Q), "[24]"]);
    folder.tensors(&[f32_tensor(a(Q), &[2, 6]), f32_tensor(b(Q), &[5, 2])]).fails(&[&a(Q), "rank 4", "found 2"]);
    for key in ["base_model.model.lm_head.weight", "base_model.model.x.lora_magnitude_vectors", "x.lora_A.weight"] {
        folder.tensors(&with(f32_tensor(key.into(), &[4, 6]))).fails(&[key, "not a LoRA tensor"]);
    }
    let m = |m: &str| format!("{PREFIX}{m}{SUFFIX_M}");
    folder.tensors(&with(f32_tensor(m(Q), &[5, 1]))).fails(&[&m(Q), "one dimension", "[5, 1]"]);
    folder.tensors(&with(f32_tensor(m(Q), &[6]))).fails(&[&m(Q), "[5]", "[6]"]);
    folder.tensors(&with(f32_tensor(m(UP), &[6]))).fails(&[&m(UP), "no lora_A"]);
    folder.tensors(&with(f32_tensor(m(Q), &[5]))).fails(&[&m(Q), "does not say use_dora"]);
    folder.set("use_dora", json!(true));
    load_adapter(folder.path()).unwrap();
    folder.tensors(&good()).fails(&[&m(Q), "missing"]);
    folder.set("use_dora", json!(false));
    folder.tensors(&with((a(UP), StDtype::I64, vec![1, 1], vec![0; 8]))).fails(&[&a(UP), "I64"]);
    folder.tensors(&[]).fails(&["found none"]);

    for (dtype, bytes, says) in [
        (StDtype::F32, f32::NAN.to_le_bytes().to_vec(), "number 24 of 24 is NaN"),
        (StDtype::F16, f16::INFINITY.to_le_bytes().to_vec(), "number 24 of 24 is inf"),
        (StDtype::BF16, bf16::NEG_INFINITY.to_le_bytes().to_vec(), "number 24 of 24 is -inf"),
    ] {
        let bytes = [vec![0; 23 * bytes.len()], bytes].concat();
        let end = "expected a finite one";
        folder.tensors(&[(a(Q), dtype, vec![4, 6], bytes), good()[1].clone()]).fails(&[TENSORS, &a(Q), says, end]);
    }

    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 77\n";
    for file in [TENSORS, CONFIG] {
        let folder = Folder::new();
        fs::write(folder.path().join(file), pointer).unwrap();
        folder.fails(&[file, "a Git LFS pointer", "of 77 bytes", "git lfs pull"]);
    }

    let whole = fs::read(Folder::new().path().join(TENSORS)).unwrap();
    for cut in [0, 7, 100, whole.len() - 1] {
        fs::write(folder.path().join(TENSORS), &whole[..cut]).unwrap();
        folder.fails(&[TENSORS, "truncated"]);
    }
    fs::remove_file(folder.path().join(TENSORS)).unwrap();
    folder.fails(&[TENSORS, "missing"]);
    fs::write(folder.path().join("adapter_model.bin"), "").unwrap();
    folder.fails(&["adapter_model.bin", "convert it to safetensors"]);
    fs::remove_file(folder.path().join(CONFIG)).unwrap();
    assert!(matches!(load_adapter(folder.path()), Err(Error::Io { .. })));
}

#[test]
fn save_refuses_wrong_shapes() {
    let pairs = pairs();
    let dir = tempfile::tempdir().unwrap();
    let fails = |tensors: &[PeftTensor], word: &str| {
        let error = save_adapter(dir.path(), &config(), "", tensors).unwrap_err().to_string();
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    };
    let mut wrong = views(&pairs, &config());
    wrong[0].b = &wrong[0].b[1..];
    fails(&wrong, "q_proj.lora_B.weight: expected [5, 4], found 19 numbers");
    fails(&[], "no module");
    fails(&[views(&pairs, &config())[0], views(&pairs, &config())[0]], "given twice");
}

#[test]
fn hash_sees_names_shapes_and_bits() {
    let pairs = pairs();
    let whole = views(&pairs, &config());
    let mut seen = BTreeSet::from([adapter_hash(&whole), adapter_hash(&whole[..1]), adapter_hash(&[])]);
    let mut other = whole.clone();
    other[0].module = "model.layers.0.self_attn.k_proj";
    seen.insert(adapter_hash(&other));
    other = whole.clone();
    (other[0].in_features, other[0].r) = (other[0].r, other[0].in_features);
    seen.insert(adapter_hash(&other));
    let mut a = whole[0].a.to_vec();
    a[5] = -a[5];
    other = whole.clone();
    other[0].a = &a;
    seen.insert(adapter_hash(&other));
    assert_eq!(seen.len(), 6);
}
