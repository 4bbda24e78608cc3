//! What is refused, and in which words: one row of the table each. Nothing of it is left behind.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{json, Value};
use sftmix::export::{quantize, QuantType, QuantizeConfig};
use sftmix::internal::device::Form;
use sftmix::internal::model::Decoder;
use sftmix::{Control, Error, LoraConfig, ModulePattern, Recipe, TrainConfig, TrainingJob};

use crate::support::{engine, json as read, letters, project};

/// The golden llama with a tokenizer and four rows.
struct Case {
    dir: PathBuf,
}

impl Case {
    fn new(dir: &Path) -> Case {
        let case = Case { dir: dir.into() };
        fs::create_dir_all(case.model()).unwrap();
        for file in ["config.json", "model.safetensors"] {
            fs::copy(project("tests/golden/llama").join(file), case.model().join(file)).unwrap();
        }
        case.write("model/tokenizer.json", &letters(&[]).to_string());
        let rows = (0..4).map(|i| format!("{}\n", json!({"prompt": "ab", "completion": "cdef"[i..].to_string()})));
        case.write("rows.jsonl", &rows.collect::<String>());
        case
    }

    fn model(&self) -> PathBuf {
        self.dir.join("model")
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut value = read(&self.dir.join(path));
        change(&mut value);
        self.write(path, &value.to_string());
    }

    fn config(&self) -> TrainConfig {
        TrainConfig {
            model: self.model(),
            data: self.dir.join("rows.jsonl").into(),
            out: self.dir.join("run"),
            recipe: Recipe::Ntp,
            max_length: 32,
            batch_size: 2,
            lora: Some(LoraConfig { r: 2, ..Default::default() }),
            epochs: 1,
            threads: Some(1),
            cache_dir: Some(self.dir.join("cache")),
            ..Default::default()
        }
    }

    /// The model as a GGUF file.
    fn gguf(&self) -> PathBuf {
        let out = self.dir.join("model.gguf");
        quantize(&QuantizeConfig { model: self.model(), kind: QuantType::F32, out: out.clone() }).unwrap();
        out
    }

    /// An adapter of a run on the model, as files of `adapter`.
    fn adapter(&self) -> PathBuf {
        let config = TrainConfig { out: self.dir.join("first"), ..self.config() };
        TrainingJob::new(config).unwrap().run(|_| Control::Continue).unwrap().adapter
    }

    /// Moves the tensors of the one file to two, by the index.
    fn shard(&self) {
        let path = self.model().join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut map = serde_json::Map::new();
        for (i, name) in ["one.safetensors", "two.safetensors"].into_iter().enumerate() {
            let part: Vec<_> = all.tensors().into_iter().filter(|(n, _)| n.contains("layers.1") == (i == 1)).collect();
            part.iter().for_each(|(n, _)| drop(map.insert(n.clone(), name.into())));
            fs::write(self.model().join(name), safetensors::serialize(part, None).unwrap()).unwrap();
        }
        self.write("model/model.safetensors.index.json", &json!({"metadata": {}, "weight_map": map}).to_string());
        fs::remove_file(path).unwrap();
    }
}

/// A change that spoils the case, and what to run then.
type Spoil = fn(&Case) -> TrainConfig;

/// Name, what is wrong, the message; `{dir}` stands for the case's folder.
const TABLE: &[(&str, Spoil, &str)] = &[
    (
        "a tensor of another dtype",
        |case| {
            let path = case.model().join("model.safetensors");
            let bytes = fs::read(&path).unwrap();
            let at = bytes.windows(5).position(|w| w == b"\"F32\"").unwrap();
            let bytes = [&bytes[..at], b"\"I32\"", &bytes[at + 5..]].concat();
            fs::write(&path, bytes).unwrap();
            case.config()
        },
        "{dir}/model/model.safetensors: lm_head.weight: expected F32, F16 or BF16, found I32",
    ),
    (
        "a shard that is not there",
        |case| {
            case.shard();
            fs::remove_file(case.model().join("two.safetensors")).unwrap();
            case.config()
        },
        "{dir}/model/two.safetensors: header: this file is missing, but \
         {dir}/model/model.safetensors.index.json lists it",
    ),
    (
        "a GGUF file that was cut off",
        |case| {
            let path = case.gguf();
            let length = fs::metadata(&path).unwrap().len();
            fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 1000).unwrap();
            TrainConfig { model: path, ..case.config() }
        },
        "{dir}/model.gguf: output.weight: 8192 bytes from 70144 on, after a header of 3392, are more than the \
          file's 80856: it is truncated",
    ),
    (
        "a type of blocks that nobody here reads",
        |case| {
            let path = case.gguf();
            let mut bytes = fs::read(&path).unwrap();
            let name = b"blk.0.attn_q.weight";
            let at = bytes.windows(name.len()).position(|w| w == name).unwrap() + name.len();
            // Dimensions: their number, two of eight bytes; then the type. 16 is IQ2_XXS.
            bytes[at + 20..at + 24].copy_from_slice(&16u32.to_le_bytes());
            fs::write(&path, bytes).unwrap();
            TrainConfig { model: path, ..case.config() }
        },
        "{dir}/model.gguf: model.layers.0.self_attn.q_proj.weight: the type IQ2_XXS cannot be read (expected \
         F32, F16, BF16, Q4_0 to Q8_1 or Q2_K to Q8_K)",
    ),
    (
        "a template that raises",
        |case| {
            case.write("model/chat_template.jinja", "{{ raise_exception('no such role') }}");
            case.write(
                "rows.jsonl",
                r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#,
            );
            case.config()
        },
        "{dir}/rows.jsonl: row 1: the chat template refuses it: no such role",
    ),
    (
        "roles that do not alternate",
        |case| {
            let template = "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
                {{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}\
                {{ m.content + (eos_token if m.role == 'assistant' else '') }}{% endfor %}";
            case.write("model/chat_template.jinja", template);
            let turn = |role: &str| json!({"role": role, "content": "a"});
            let good = json!({"messages": [turn("user"), turn("assistant")]});
            let bad = json!({"messages": [turn("user"), turn("user"), turn("assistant")]});
            case.write("rows.jsonl", &format!("{good}\n{bad}\n"));
            case.config()
        },
        "{dir}/rows.jsonl: row 2: the chat template refuses it: Conversation roles must alternate \
         user/assistant",
    ),
    (
        "no row with an assistant's turn",
        |case| {
            case.write("rows.jsonl", r#"{"messages": [{"role": "user", "content": "a"}]}"#);
            case.config()
        },
        "nothing to train on: {dir}/rows.jsonl: 1 rows read, 0 examples, 0 rows cut, 0 empty, 1 without a \
         target",
    ),
    (
        "an adapter for another base",
        |case| {
            let adapter = case.adapter();
            let path = case.model().join("model.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(&path, bytes).unwrap();
            TrainConfig { init_adapter: Some(adapter), ..case.config() }
        },
        "{dir}/first/adapter: adapter: trained on another base: the weights of {dir}/model had content hash \
         4f27e08ccba127856a65a36477e5fe88be118a18080bb11a707897a0e54c5a0a, those of {dir}/model have \
         3f25f0b9423eeb5edaf7120acd7d1400f3cd60a8ad486bdc54fe61d90c68ad91",
    ),
    (
        "an adapter of another rank than its configuration says",
        |case| {
            let adapter = case.adapter();
            let path = adapter.strip_prefix(&case.dir).unwrap().join("adapter_config.json");
            case.change(path.to_str().unwrap(), |c| c["r"] = 3.into());
            TrainConfig { init_adapter: Some(adapter), ..case.config() }
        },
        "{dir}/first/adapter/adapter_model.safetensors: adapter: \
         base_model.model.model.layers.0.mlp.down_proj.lora_A.weight: expected rank 3 by adapter_config.json, \
          found 2",
    ),
    (
        "a rank that is not the initial adapter's, though it is the default",
        |case| {
            let lora = Some(LoraConfig { r: 16, ..Default::default() });
            TrainConfig { init_adapter: Some(case.adapter()), lora, ..case.config() }
        },
        "invalid setting lora_r: 16 is given, but the initial adapter has 2",
    ),
    (
        "a rank of a pattern beyond its linear",
        |case| {
            let rank_pattern = ModulePattern::parse("o_proj=2,q_proj=999").unwrap();
            TrainConfig { lora: Some(LoraConfig { r: 2, rank_pattern, ..Default::default() }), ..case.config() }
        },
        "invalid setting rank_pattern: q_proj: rank 999 is beyond the 32x32 of model.layers.0.self_attn.q_proj",
    ),
    (
        "one step, whose rate is 0",
        |case| TrainConfig { max_steps: Some(1), ..case.config() },
        "invalid setting warmup_ratio: the run has one step, and warm-up begins at learning rate 0: nothing would be \
         trained; expected 0, or more steps (max_steps, epochs, a smaller batch_size), found 0.1",
    ),
    (
        "a rate that no number of f32 can follow",
        |case| TrainConfig { lr: 1e-60, ..case.config() },
        "nothing was trained: after the target stage B is zero, as it began: the loss has no gradient there, or lr is \
         too small to move it",
    ),
    (
        "an initial adapter that such a rate leaves as it was",
        |case| TrainConfig { init_adapter: Some(case.adapter()), lr: 1e-60, ..case.config() },
        "nothing was trained: after the target stage every number is the initial adapter's: the loss has no gradient \
         there, or lr is too small to move it",
    ),
    (
        "a setting of another recipe",
        |case| TrainConfig { mu: 7.0, ..case.config() },
        "invalid setting mu: it has no effect with recipe ntp; recipe sftmix takes it",
    ),
    (
        "a tokenizer with more tokens than the model has embeddings",
        |case| {
            case.write("model/tokenizer.json", &letters(&["0", "1", "2"]).to_string());
            case.write(
                "rows.jsonl",
                "{\"prompt\": \"a\", \"completion\": \"b0\"}\n{\"prompt\": \"a\", \"completion\": \"b12\"}\n",
            );
            case.config()
        },
        "{dir}/rows.jsonl: row 2: token 64, but the model has 64 embeddings: its tokenizer has more tokens",
    ),
    (
        "an index that leaves the folder",
        |case| {
            case.shard();
            case.change("model/model.safetensors.index.json", |index| {
                index["weight_map"]["model.norm.weight"] = "../one.safetensors".into();
            });
            case.config()
        },
        "{dir}/model/model.safetensors.index.json: model.norm.weight: expected a file inside the model \
         folder, found \"../one.safetensors\"",
    ),
    (
        "an index with an absolute name",
        |case| {
            case.shard();
            case.change("model/model.safetensors.index.json", |index| {
                index["weight_map"]["model.norm.weight"] = "/one.safetensors".into();
            });
            case.config()
        },
        "{dir}/model/model.safetensors.index.json: model.norm.weight: expected a file inside the model \
         folder, found \"/one.safetensors\"",
    ),
];

#[test]
fn bad_input_is_refused_in_these_words() {
    let mut wrong = Vec::new();
    for (name, spoil, want) in TABLE {
        let dir = tempfile::tempdir().unwrap();
        let case = Case::new(dir.path());
        let config = spoil(&case);
        let result = TrainingJob::new(config).and_then(|job| job.run(|_| Control::Continue));
        let text = match result {
            Ok(_) => "(accepted)".to_string(),
            Err(e) => e.to_string().replace(dir.path().to_str().unwrap(), "{dir}"),
        };
        if text != *want {
            wrong.push(format!("{name}\n  expected {want}\n  found    {text}"));
        }
        assert!(!dir.path().join("run/adapter").exists(), "{name}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Hugging Face's cache is a folder of links.
#[cfg(unix)]
#[test]
fn links_inside_a_model_folder_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    let case = Case::new(dir.path());
    for sharded in [false, true] {
        if sharded {
            case.shard();
        }
        let (blobs, links) = (case.dir.join(format!("blobs{sharded}")), case.dir.join(format!("links{sharded}")));
        fs::create_dir_all(&blobs).unwrap();
        fs::create_dir_all(&links).unwrap();
        for (i, entry) in fs::read_dir(case.model()).unwrap().enumerate() {
            let entry = entry.unwrap();
            let blob = blobs.join(i.to_string());
            fs::copy(entry.path(), &blob).unwrap();
            std::os::unix::fs::symlink(&blob, links.join(entry.file_name())).unwrap();
        }
        let run = |model: PathBuf, out: String| {
            let config = TrainConfig { model, out: case.dir.join(out), ..case.config() };
            let report = TrainingJob::new(config).unwrap().run(|_| Control::Continue).unwrap();
            fs::read(report.adapter.join("adapter_model.safetensors")).unwrap()
        };
        assert!(run(case.model(), format!("run{sharded}")) == run(links, format!("linked{sharded}")));
    }
}

/// What would destroy a file, or write one that holds no numbers, ends before anything is written.
#[test]
fn quantize_writes_over_no_other_file_and_no_infinite_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let case = Case::new(dir.path());
    let quantize = |kind: QuantType, out: PathBuf| {
        quantize(&QuantizeConfig { model: case.model(), kind, out }).map_err(|e| e.to_string()).map(|_| ())
    };
    let weights = case.model().join("model.safetensors");
    let before = fs::read(&weights).unwrap();
    let e = quantize(QuantType::F16, weights.clone()).unwrap_err();
    assert!(e.ends_with("model.safetensors holds something that is no GGUF file"), "{e}");
    assert!(fs::read(&weights).unwrap() == before);
    let out = dir.path().join("out.gguf");
    quantize(QuantType::F16, out.clone()).unwrap();
    quantize(QuantType::F32, out.clone()).unwrap();

    // A base without one of its tensors.
    let one = "model.layers.1.mlp.down_proj.weight";
    let file = safetensors::SafeTensors::deserialize(&before).unwrap();
    let rest: Vec<_> = file.tensors().into_iter().filter(|(name, _)| name != one).collect();
    fs::write(&weights, safetensors::serialize(rest, None).unwrap()).unwrap();
    let e = quantize(QuantType::F16, out.clone()).unwrap_err();
    assert!(e.contains("model.safetensors") && e.contains(one), "{e}");

    // 1e30 is a number of f32 and of bf16, not of f16, in which the scales of blocks are, too.
    let name = "model.layers.0.mlp.up_proj.weight";
    let at = {
        let file = safetensors::SafeTensors::deserialize(&before).unwrap();
        file.tensor(name).unwrap().data().as_ptr() as usize - before.as_ptr() as usize
    };
    let mut large = before.clone();
    large[at..at + 4].copy_from_slice(&1e30f32.to_le_bytes());
    fs::write(&weights, large).unwrap();
    let held = fs::read(&out).unwrap();
    for (kind, shown) in [(QuantType::F16, "F16"), ("q8_0".parse().unwrap(), "Q8_0")] {
        let e = quantize(kind, out.clone()).unwrap_err();
        assert!(e.contains("blk.0.ffn_up.weight") && e.ends_with(shown), "{e}");
    }
    assert!(fs::read(&out).unwrap() == held);
    quantize(QuantType::F32, out).unwrap();
}

/// Tensors that the configuration does not name would change the numbers: they are not passed over.
#[test]
fn weights_without_a_place_are_named() {
    let demo = std::fs::read(project("assets/demo/model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&demo).unwrap();
    let write = |more: &str| {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(project("assets/demo")).unwrap() {
            let from = entry.unwrap().path();
            if from.extension().is_some_and(|e| e == "json") {
                std::fs::copy(&from, dir.path().join(from.file_name().unwrap())).unwrap();
            }
        }
        let bytes = [0u8; 16];
        let added = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![4], &bytes).unwrap();
        let tensors = file.tensors().into_iter().chain([(more.to_string(), added)]);
        safetensors::serialize_to_file(tensors, None, &dir.path().join("model.safetensors")).unwrap();
        dir
    };
    let opened = |more: &str| {
        let dir = write(more);
        let engine = engine(Form::Fused, 8, 8);
        Decoder::open(&engine, dir.path(), 8).map(drop).map_err(|e| {
            assert!(matches!(&e, Error::ModelFormat { path, .. } if path.ends_with("model.safetensors")), "{e}");
            e.to_string()
        })
    };
    for more in [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.1.self_attn.q_norm.weight",
        "model.layers.99.mlp.up_proj.weight",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        "model.norm.bias",
        "lm_head.bias",
    ] {
        let e = opened(more).unwrap_err();
        assert!(e.contains(&format!("{more}: the configuration has no place for it")), "{e}");
    }
    // What changes no number stays unread.
    for more in ["model.layers.0.self_attn.rotary_emb.inv_freq", "vision_tower.x.weight"] {
        assert_eq!(opened(more), Ok(()), "{more}");
    }
}
