//! Models by their names on the hub: downloaded from a small server on loopback into a cache of the test's own, and used
//! from there. The program's environment is the test's; no test reads or writes the user's cache.

mod server;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{json, project};
use server::{etag, is_large, Server, COMMIT};

const WEIGHTS: &str = "model.safetensors";

/// The demo's model, and files that nobody needs.
fn demo() -> BTreeMap<String, Vec<u8>> {
    let names = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS];
    let read = |name: &str| fs::read(project("assets/demo").join(name)).unwrap();
    let mut files: BTreeMap<String, Vec<u8>> = names.into_iter().map(|n| (n.to_string(), read(n))).collect();
    files.insert("chat_template.jinja".into(), b"{{ messages[0].content }}".to_vec());
    files.insert("additional_chat_templates/tool_use.jinja".into(), b"{{ messages }}".to_vec());
    for unwanted in ["README.md", "pytorch_model.bin", "onnx/model.onnx", "../outside.json"] {
        files.insert(unwanted.into(), b"not needed".to_vec());
    }
    files
}

struct Machine {
    server: Server,
    dir: tempfile::TempDir,
}

impl Machine {
    fn of(files: BTreeMap<String, Vec<u8>>) -> Machine {
        Machine { server: Server::of(files), dir: tempfile::tempdir().unwrap() }
    }

    fn cache(&self) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join("hub")
    }

    fn model(&self) -> PathBuf {
        self.cache().join("models--org--demo")
    }

    fn run_with(&self, args: &[&str], more: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sftmix"));
        for name in ["HF_TOKEN", "HF_HUB_OFFLINE", "HF_HOME", "HUGGINGFACE_HUB_CACHE", "SFTMIX_LOG"] {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", &self.server.address).env("HF_HUB_CACHE", self.cache()).env("COLUMNS", "200");
        // Where a proxy is set the loopback is not behind it.
        command.env("HTTP_PROXY", "http://127.0.0.1:9").env_remove("NO_PROXY");
        command.envs(more.iter().copied()).args(args).stdin(Stdio::null()).output().unwrap()
    }

    fn run(&self, args: &[&str]) -> Output {
        self.run_with(args, &[])
    }

    fn download(&self) -> Value {
        done(&self.run(&["download", "org/demo", "--json"]))
    }

    /// Fails with this code, and says all of this.
    fn refused(&self, args: &[&str], code: i32, says: &[&str]) {
        refused(&self.run(args), code, says);
    }

    /// Whatever in the folder of blobs is not whole.
    fn partial(&self) -> Vec<(PathBuf, u64)> {
        let entries = fs::read_dir(self.model().join("blobs")).unwrap().map(|e| e.unwrap());
        let size = |path: &Path| fs::metadata(path).unwrap().len();
        entries.map(|e| e.path()).filter(|p| p.extension().is_some()).map(|p| (p.clone(), size(&p))).collect()
    }
}

fn done(o: &Output) -> Value {
    assert_eq!(o.status.code(), Some(0), "{}", String::from_utf8_lossy(&o.stderr));
    serde_json::from_slice(&o.stdout).unwrap_or_default()
}

fn refused(o: &Output, code: i32, says: &[&str]) {
    let text = String::from_utf8_lossy(&o.stderr);
    assert_eq!(o.status.code(), Some(code), "{text}");
    assert!(says.iter().all(|s| text.contains(s)), "expected {says:?} in {text}");
}

#[test]
fn a_model_is_downloaded_once_and_used_by_its_name() {
    let m = Machine::of(demo());
    let at = |name: &str| m.dir.path().join(name).to_str().unwrap().to_string();
    let rows = project("assets/demo/train.jsonl");
    let train = |out: &str, more: &[&str]| {
        let common =
            ["train", "--model", "org/demo", "--data", rows.to_str().unwrap(), "--out", out, "--recipe", "ntp"];
        m.run(&[&common[..], &["--max-steps", "2", "--max-length", "64", "--threads", "2"], more].concat())
    };
    let cache = m.cache();
    let says =
        ["org/demo: no such path", cache.to_str().unwrap(), "`sftmix download org/demo`", "`hf download org/demo`"];
    refused(&train(&at("run"), &[]), 1, &says);
    assert!(m.server.asked().is_empty() && !Path::new(&at("run")).exists());

    m.server.set(|s| s.busy = 2);
    let done_now = m.download();
    let snapshot = m.model().join("snapshots").join(COMMIT);
    assert_eq!((done_now["path"].as_str(), &done_now["files"]), (snapshot.to_str(), &7.into()));
    assert_eq!(done_now["commit"], COMMIT);
    for (name, bytes) in demo() {
        let wanted = !["README.md", "pytorch_model.bin", "onnx/model.onnx", "../outside.json"].contains(&name.as_str());
        assert_eq!(snapshot.join(&name).exists(), wanted, "{name}");
        if wanted {
            assert_eq!(fs::read(snapshot.join(&name)).unwrap(), bytes);
            assert_eq!(fs::read(m.model().join("blobs").join(etag(&name, &bytes))).unwrap(), bytes);
        }
    }
    #[cfg(unix)]
    {
        let blob = format!("../../blobs/{}", etag("config.json", &demo()["config.json"]));
        assert_eq!(fs::read_link(snapshot.join("config.json")).unwrap(), Path::new(&blob));
    }
    assert_eq!(fs::read_to_string(m.model().join("refs/main")).unwrap(), COMMIT);
    assert!(m.partial().is_empty());
    assert!(m.server.asked().iter().any(|r| r.ends_with("/cdn/model.safetensors")));
    m.download();
    assert!(!m.server.asked().iter().any(|r| r.starts_with("GET") && !r.contains("/api/models/")));

    // Nothing below asks the server, and a run records where the model lies.
    done(&train(&at("run"), &[]));
    let recorded = json(&Path::new(&at("run")).join("run.json"));
    assert_eq!(recorded["config"]["model"].as_str(), snapshot.to_str());
    assert_eq!(recorded["stands_on"]["model"]["path"].as_str(), snapshot.to_str());
    let facts = json(&Path::new(&at("run/adapter")).join("sftmix.json"));
    assert_eq!(facts["base"]["model"].as_str(), snapshot.to_str());
    done(&train(&at("run"), &["--resume"]));
    let pinned = format!("org/demo@{COMMIT}");
    let adapter = at("run/adapter");
    done(&m.run(&["generate", "--model", &pinned, "--adapter", &adapter, "--prompt", "x", "--max-new-tokens", "2"]));
    done(&m.run(&["data", "inspect", "--model", "org/demo", "--data", rows.to_str().unwrap()]));
    done(&m.run(&["quantize", "--model", "org/demo", "--type", "q8_0", "--out", &at("base.gguf")]));
    let out = ["--out", &at("merged")];
    done(&m.run(&[&["merge", "--model", "org/demo", "--adapter", &adapter][..], &out].concat()));
    assert!(m.server.asked().is_empty());
    m.refused(&["chat", "--model", "org/demo@v9"], 1, &["no snapshot of revision v9 is there", "--revision v9"]);
}

#[test]
fn what_was_interrupted_goes_on_where_it_was() {
    let m = Machine::of(demo());
    let cut = 100_000;
    // Within one download.
    m.server.set(|s| s.cut = Some((WEIGHTS.into(), cut, 1)));
    m.download();
    assert!(m.server.asked().contains(&format!("GET /cdn/{WEIGHTS} from {cut}")));

    // Over two, the server ending every connection in the first.
    fs::remove_dir_all(m.cache()).unwrap();
    m.server.set(|s| s.cut = Some((WEIGHTS.into(), cut, usize::MAX)));
    m.refused(&["download", "org/demo"], 1, &[WEIGHTS, "at byte 100000 of"]);
    let partial = m.partial();
    let name = format!("{}.incomplete", etag(WEIGHTS, &demo()[WEIGHTS]));
    assert_eq!(partial, [(m.model().join("blobs").join(name), cut as u64)]);
    assert!(!m.model().join("refs/main").exists());
    m.refused(&["chat", "--model", "org/demo"], 1, &["no snapshot of revision main", "sftmix download org/demo"]);
    m.refused(&["chat", "--model", &format!("org/demo@{COMMIT}")], 1, &["lacks model.safetensors"]);
    m.server.asked();
    m.server.set(|s| s.cut = None);
    m.download();
    let asked = m.server.asked();
    assert!(asked.contains(&format!("GET /cdn/{WEIGHTS} from {cut}")), "{asked:?}");
    assert!(
        !asked.iter().any(|r| r.starts_with("GET") && r.contains("/resolve/") && r.ends_with(".json")),
        "{asked:?}"
    );

    // A server that knows no ranges, and a partial file that is longer than the file.
    let blob = m.model().join("blobs").join(etag(WEIGHTS, &demo()[WEIGHTS]));
    let again = |left: &[u8]| {
        fs::remove_file(&blob).unwrap();
        fs::write(blob.with_extension("incomplete"), left).unwrap();
        m.download();
        assert_eq!(fs::read(&blob).unwrap(), demo()[WEIGHTS]);
    };
    m.server.set(|s| s.whole = true);
    again(&demo()[WEIGHTS][..cut]);
    again(&vec![0; demo()[WEIGHTS].len() + 1]);
    // One that is whole already is compared and not read again.
    m.server.asked();
    again(&demo()[WEIGHTS]);
    assert!(!m.server.asked().iter().any(|r| r.contains("/cdn/")));
}

#[test]
fn a_content_that_is_not_the_listed_one_is_refused() {
    for spoilt in [WEIGHTS, "tokenizer.json"] {
        let m = Machine::of(demo());
        m.server.set(|s| s.spoilt = vec![spoilt.into()]);
        let listed = etag(spoilt, &demo()[spoilt]);
        m.refused(&["download", "org/demo"], 1, &[&format!("{spoilt}: what came has the hash"), &listed]);
        assert!(m.partial().is_empty() && !m.model().join("blobs").join(&listed).exists());
        let snapshot = m.model().join("snapshots").join(COMMIT);
        assert!(!snapshot.join(spoilt).exists() && snapshot.join("config.json").exists());
        m.server.set(|s| s.spoilt.clear());
        m.download();
        assert_eq!(fs::read(snapshot.join(spoilt)).unwrap(), demo()[spoilt]);
    }
    // A partial file that another had begun with other bytes.
    let m = Machine::of(demo());
    let blobs = m.model().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{}.incomplete", etag(WEIGHTS, &demo()[WEIGHTS]))), [7; 5000]).unwrap();
    m.refused(&["download", "org/demo"], 1, &[WEIGHTS, "what came has the hash"]);
    assert!(m.partial().is_empty());
    m.download();
}

#[test]
fn what_the_hub_refuses_is_said() {
    let m = Machine::of(demo());
    m.refused(&["download", "demo"], 2, &["org/name@revision", "found \"demo\""]);
    m.refused(&["download", "org/other"], 1, &["there is no such model", "404", "/api/models/org/other/revision/main"]);
    m.refused(&["download", "org/demo@v9"], 1, &["no such revision", "404"]);
    m.refused(&["download", "org/gated"], 1, &["accepted its terms", "HF_TOKEN"]);
    m.server.set(|s| s.token = Some("secret".into()));
    m.server.asked();
    m.refused(&["download", "org/demo"], 1, &["401", "HF_TOKEN"]);
    refused(&m.run_with(&["download", "org/demo"], &[("HF_TOKEN", "wrong")]), 1, &["401"]);
    assert!(!m.cache().exists());
    // The hub is told the token; where it sends us to is not.
    m.server.asked();
    done(&m.run_with(&["download", "org/demo", "--json"], &[("HF_TOKEN", "secret")]));
    let asked = m.server.asked();
    assert!(asked.iter().all(|r| r.contains("/cdn/") != r.ends_with(" secret")), "{asked:?}");
    refused(&m.run_with(&["download", "org/demo"], &[("HF_HUB_OFFLINE", "1")]), 1, &["HF_HUB_OFFLINE is set"]);
    assert!(m.server.asked().is_empty());
}

#[test]
fn shards_and_gguf_files_are_chosen() {
    let mut files = demo();
    let weights = files.remove(WEIGHTS).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&weights).unwrap();
    let shard = "model-00001-of-00001.safetensors";
    let map: serde_json::Map<String, Value> = tensors.names().iter().map(|n| (n.to_string(), shard.into())).collect();
    files.insert(shard.into(), weights);
    files.insert("other.safetensors".into(), vec![1]);
    let index = serde_json::json!({ "weight_map": map }).to_string();
    files.insert("model.safetensors.index.json".into(), index.into_bytes());
    let m = Machine::of(files);
    let done_now = m.download();
    assert_eq!(done_now["files"], 8);
    let rows = project("assets/demo/test.jsonl");
    done(&m.run(&["eval", "--model", "org/demo", "--data", rows.to_str().unwrap(), "--json"]));
    assert!(!m.model().join("snapshots").join(COMMIT).join("other.safetensors").exists());

    let files = ["a.gguf", "q/b.gguf", "README.md"].map(|n| (n.to_string(), n.as_bytes().to_vec()));
    let m = Machine::of(files.into());
    m.refused(&["download", "org/demo"], 2, &["setting file", "a.gguf, q/b.gguf"]);
    m.refused(&["download", "org/demo", "--file", "c.gguf"], 2, &["found \"c.gguf\"", "a.gguf, q/b.gguf"]);
    let one = done(&m.run(&["download", "org/demo@refs/pr/1", "--file", "q/b.gguf", "--json"]));
    let path = m.model().join("snapshots").join(COMMIT).join("q/b.gguf");
    assert_eq!((one["path"].as_str(), fs::read(&path).unwrap()), (path.to_str(), b"q/b.gguf".to_vec()));
    assert!(is_large("q/b.gguf") && m.model().join("refs/refs/pr/1").exists());
    // Found by its name, and then no GGUF file.
    m.refused(&["chat", "--model", "org/demo@refs/pr/1"], 1, &[path.to_str().unwrap()]);

    let mut files = demo();
    files.remove("tokenizer.json");
    Machine::of(files.clone()).refused(&["download", "org/demo"], 1, &["org/demo: the model has no tokenizer.json"]);
    files.remove(WEIGHTS);
    Machine::of(files).refused(&["download", "org/demo"], 1, &["neither model.safetensors"]);
}
