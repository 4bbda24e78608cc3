//! What the program says of a model whose files are not what their names promise: the file, the key or the tensor, and
//! what to do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{json, Value};

use crate::support::{json as read, project};

/// The demo's model in a folder of its own.
fn model() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    {
        fs::copy(project("assets/demo").join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn run(args: &[&str]) -> (Option<i32>, String) {
    let o: Output = Command::new(env!("CARGO_BIN_EXE_sftmix"))
        .args(args)
        .env_remove("SFTMIX_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (o.status.code(), String::from_utf8(o.stderr).unwrap())
}

/// Evaluates a model on the demo's rows.
fn eval(model: &Path, cache: &Path) -> (Option<i32>, String) {
    let [model, cache] = [model, cache].map(|p| p.to_str().unwrap());
    let data = project("assets/demo/test.jsonl");
    run(&["eval", "--model", model, "--data", data.to_str().unwrap(), "--device", "cpu", "--cache-dir", cache])
}

fn change(dir: &Path, change: impl FnOnce(&mut Value)) {
    let path = dir.join("config.json");
    let mut config = read(&path);
    change(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn a_git_lfs_pointer_is_called_one() {
    let cache = tempfile::tempdir().unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00ff\nsize 123456\n";
    let mut wrong = Vec::new();
    let files =
        ["model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json", "generation_config.json"];
    for file in files.into_iter().chain(["base.gguf"]) {
        let dir = model();
        let path: PathBuf = dir.path().join(file);
        fs::write(&path, pointer).unwrap();
        let model = if file.ends_with("gguf") { &path } else { dir.path() };
        let (code, said) = eval(model, cache.path());
        let want = format!(
            "error: {}: file: a Git LFS pointer lies in place of the file of 123456 bytes: `git lfs pull` in its \
             repository fetches it\n",
            path.display()
        );
        if code != Some(1) || !said.contains(&want) {
            wrong.push(format!("{file}: {code:?} {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_no_json_is_named_by_file_and_key() {
    let cache = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for (file, from, to, says) in [
        ("config.json", "10000.0", "NaN", "rope_theta: NaN: not valid JSON: expected value at line"),
        ("config.json", "0.00001", "-Infinity", "rms_norm_eps: -Infinity: not valid JSON: invalid number at line"),
        (
            "tokenizer_config.json",
            "{",
            "{\"model_max_length\": Infinity, ",
            "model_max_length: Infinity: not valid JSON",
        ),
        ("generation_config.json", "{", "{\"temperature\": NaN, ", "temperature: NaN: not valid JSON"),
    ] {
        let dir = model();
        let path = dir.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let (code, said) = eval(dir.path(), cache.path());
        if code != Some(1) || !said.contains(&format!("error: {}: {says}", path.display())) {
            wrong.push(format!("{file} {to}: {code:?} {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_weight_that_is_no_number_is_named_and_no_rate_is_blamed() {
    let (dir, other) = (model(), tempfile::tempdir().unwrap());
    let path = dir.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let name = "model.layers.1.mlp.up_proj.weight";
    let at = {
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensor = file.tensor(name).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (safetensors::Dtype::BF16, &[352, 128][..]));
        tensor.data().as_ptr() as usize - bytes.as_ptr() as usize
    };
    // Row 2, column 5.
    let at = at + 2 * (2 * 128 + 5);
    bytes[at..at + 2].copy_from_slice(&[0xC0, 0x7F]);
    fs::write(&path, bytes).unwrap();

    let [m, out] = [dir.path().into(), other.path().join("run")].map(|p: PathBuf| p.to_str().unwrap().to_string());
    let data = project("assets/demo/train.jsonl");
    let train = ["train", "--model", &m, "--data", data.to_str().unwrap(), "--out", &out, "--recipe", "ntp"];
    let train = [&train[..], &["--max-steps", "2", "--device", "cpu", "--threads", "2"]].concat();
    let says =
        format!("error: {}: {name}: NaN in row 2, column 5 (from 0), expected a finite number; ", path.display());
    let mut wrong = Vec::new();
    for (what, (code, said)) in [
        ("loss of ", eval(dir.path(), other.path())),
        ("logits of new token 1 ", run(&["generate", "--model", &m, "--prompt", "Question:", "--device", "cpu"])),
        ("loss of row ", run(&train)),
    ] {
        let named = said.find(&says).is_some_and(|at| said[at + says.len()..].starts_with(what));
        if code != Some(1) || !named || said.contains("--lr") {
            wrong.push(format!("{what}: {code:?} {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_model_without_a_model_type_is_read_by_its_architecture() {
    let (dir, cache) = (model(), tempfile::tempdir().unwrap());
    let path = dir.path().join("config.json");
    let plain = eval(dir.path(), cache.path());
    assert_eq!((plain.0, plain.1.contains("model_type")), (Some(0), false), "{}", plain.1);
    let remove = |c: &mut Value| drop(c.as_object_mut().unwrap().shift_remove("model_type"));

    change(dir.path(), remove);
    let (code, said) = eval(dir.path(), cache.path());
    let says = format!(
        "warning: {}: model_type is absent; architectures \"LlamaForCausalLM\" is the family llama\n",
        path.display()
    );
    assert_eq!((code, said.matches(&says).count()), (Some(0), 1), "{said}");

    change(dir.path(), |c| c["architectures"] = json!(["NovelForCausalLM"]));
    let (code, said) = eval(dir.path(), cache.path());
    let says = "model_type is absent, and architectures [\"NovelForCausalLM\"] is not one of those supported: gemma \
                (GemmaForCausalLM), ";
    assert!(code == Some(1) && said.contains(says) && said.contains("qwen3 (Qwen3ForCausalLM)"), "{said}");

    change(dir.path(), |c| {
        c["architectures"] = json!(["Qwen2ForCausalLM"]);
        c["model_type"] = "llama".into();
    });
    let (code, said) = eval(dir.path(), cache.path());
    let says = "architectures \"Qwen2ForCausalLM\" is the family qwen2; model_type \"llama\" decides\n";
    assert_eq!((code, said.matches(says).count()), (Some(0), 1), "{said}");
}
