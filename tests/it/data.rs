//! Where rows come from, as a user sees it: `data inspect` on files that others wrote, runs on folders, on several
//! files and on a share that is held out.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{json, Value};
use sftmix::dynamics::DynamicsLog;
use sftmix::{
    Control, DataSource, DataSources, Event, LoraConfig, Prepared, Recipe, TrainConfig, TrainReport, TrainingJob,
};

use crate::support::{project, shared};

fn sftmix(args: &[&str]) -> Output {
    let mut c = Command::new(env!("CARGO_BIN_EXE_sftmix"));
    c.args(args).env("COLUMNS", "200").env_remove("SFTMIX_LOG").stdin(Stdio::null()).output().unwrap()
}

fn err(o: &Output) -> String {
    String::from_utf8(o.stderr.clone()).unwrap()
}

/// The one file that `data inspect --json` found.
fn inspected(model: &Path, data: &Path, more: &[&str]) -> Value {
    let args = ["data", "inspect", "--json", "--model", model.to_str().unwrap(), "--data", data.to_str().unwrap()];
    let o = sftmix(&[&args[..], more].concat());
    assert!(o.status.success(), "{}: {}", data.display(), err(&o));
    let all: Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!(all["files"].as_array().unwrap().len(), 1);
    all["files"][0].clone()
}

/// What holds of every file, and its trained text of the first row.
fn check(f: &Value) -> String {
    let n = |key: &str| f["rows"][key].as_u64().unwrap();
    let buckets: u64 = f["lengths"].as_array().unwrap().iter().map(|b| b["examples"].as_u64().unwrap()).sum();
    assert_eq!(buckets, n("kept"), "{f}");
    assert!(f["supervised_tokens"].as_u64().unwrap() <= f["tokens"].as_u64().unwrap());
    let tokens = f["shown"][0]["windows"][0].as_array().unwrap();
    tokens.iter().filter(|t| t["trained"] == true).map(|t| t["text"].as_str().unwrap()).collect()
}

#[test]
fn files_of_every_shape_are_inspected() {
    let Some(model) = shared("models/stories260K") else { return };
    let pair = ["--prompt-field", "question", "--response-field", "answer"];
    let seeds =
        ["--prompt-template", r"{instruction}\n{instances.0.input}\n", "--response-field", "instances.0.output"];
    for (data, shape, rows, more, trained) in [
        ("alpaca/alpaca_random_9k.json", "alpaca", 9229, &[][..], "The song 'Shape of You' by Ed Sheeran is"),
        ("gsm8k", "columns", 7473, &pair, "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia"),
        ("medquad", "columns", 3041, &pair, "Summary : A1C is a blood test"),
        ("self-instruct/seed_tasks.jsonl", "template", 175, &seeds, "Yes, you can have 1 oatmeal banana"),
        ("self-instruct/user_oriented_instructions.jsonl", "template", 252, &seeds, "If you have any questions"),
        ("wikisql-mlx", "text", 1000, &[], "table: 1-1000181-1\ncolumns: State/territory"),
    ] {
        let Some(path) = shared(&format!("data/{data}")) else { return };
        let more = [&["--max-length", "512"], more].concat();
        let f = inspected(&model, &path, &more);
        assert_eq!((&f["shape"], &f["rows"]["rows"]), (&json!(shape), &json!(rows)), "{data}");
        let text = check(&f);
        assert!(text.starts_with(trained), "{data}: {text}");
    }
}

#[test]
fn tool_calls_in_sharegpt_form_are_trained_by_the_models_template() {
    let (Some(model), Some(data)) =
        (shared("tokenizers/qwen2.5-0.5b-instruct"), shared("data/glaive-toolcall/glaive_toolcall_en_demo.json"))
    else {
        return;
    };
    let f = inspected(&model, &data, &["--max-length", "16384"]);
    assert_eq!((&f["shape"], &f["rows"]["rows"], &f["rows"]["kept"]), (&json!("sharegpt"), &json!(300), &json!(300)));
    assert_eq!((&f["rows"]["cut"], &f["chat"]["format"]), (&json!(0), &json!("template")));
    let text = check(&f);
    assert!(text.starts_with("Of course! I can help you with that. Please tell me what ingredients"), "{text}");
    // The call of the fourth turn is trained, what the tool answered is not.
    assert!(text.contains("<tool_call>\n{\"name\": \"search_recipes\", \"arguments\": {\"ingredients\""), "{text}");
    assert!(text.ends_with("<|im_end|>") && !text.contains("<tool_response>"), "{text}");
    let all: String =
        f["shown"][0]["windows"][0].as_array().unwrap().iter().map(|t| t["text"].as_str().unwrap()).collect();
    assert!(all.contains("# Tools") && all.contains("<tool_response>"), "{all}");
}

#[test]
fn inspect_prints_rows_and_counts_for_people() {
    let model = project("assets/demo");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.jsonl");
    std::fs::write(&path, "{\"prompt\":\"Who? \",\"completion\":\"Ann\"}\n{\"prompt\":\"\",\"completion\":\"\"}\n")
        .unwrap();
    let [model, data] = [&model, &path].map(|p| p.to_str().unwrap());
    let inspect = |more: &[&str]| sftmix(&[&["data", "inspect", "--model", model, "--data", data][..], more].concat());
    let o = inspect(&[]);
    let text = String::from_utf8(o.stdout.clone()).unwrap();
    assert_eq!((o.status.code(), err(&o).as_str()), (Some(0), ""), "{text}");
    for line in ["row 2: empty, left out\n", "shape           prompt-completion\n", "empty           1 (row 2)\n"] {
        assert!(text.contains(line), "expected {line:?} in {text}");
    }
    assert!(text.starts_with("row 1: ") && text.contains('[') && !text.contains('\u{1b}'), "{text}");
    for (more, says) in [
        (&["--row", "3"][..], "d.jsonl has no row 3: its last is 2\n"),
        (&["--data-format", "alpaca"], "d.jsonl: row 1: the key instruction is missing\nhint: --data-format, "),
        (&["--max-length", "1"], "invalid setting max_length: expected ≥ 2, found 1"),
    ] {
        let o = inspect(more);
        assert!(!o.status.success() && o.stdout.is_empty() && err(&o).contains(says), "{more:?}: {}", err(&o));
    }
    assert_eq!(inspect(&["--row", "3"]).status.code(), Some(2));
}

/// The demo's files, trained on for a few steps.
fn demo(out: &Path) -> TrainConfig {
    let assets = project("assets/demo");
    TrainConfig {
        model: assets.clone(),
        data: assets.join("train.jsonl").into(),
        out: out.to_path_buf(),
        max_length: 64,
        batch_size: 16,
        lora: Some(LoraConfig { r: 2, ..Default::default() }),
        lr: 1e-3,
        max_steps: Some(4),
        epochs: 1,
        threads: Some(2),
        cache_dir: Some(out.with_file_name("cache")),
        ..Default::default()
    }
}

fn run(config: TrainConfig) -> (TrainReport, Prepared) {
    let mut prepared = None;
    let report = TrainingJob::new(config).unwrap().run(|event| {
        if let Event::Prepared(p) = event {
            prepared = Some(p.clone());
        }
        Control::Continue
    });
    (report.unwrap(), prepared.unwrap())
}

fn run_json(out: &Path) -> Value {
    crate::support::json(&out.join("run.json"))
}

#[test]
fn a_run_holds_out_a_share_and_resumes_on_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let config = TrainConfig { valid_split: Some(0.1), eval_every: Some(2), seed: 5, ..demo(&out) };
    let (report, p) = run(config.clone());
    assert_eq!((report.examples, p.valid_examples, p.sources[0].held_out), (720, Some(80), 80));
    assert!(report.eval_loss.unwrap() < report.base_eval_loss.unwrap());
    assert_eq!(DynamicsLog::open(out.join("dynamics")).unwrap().len(), 720);
    let file = run_json(&out);
    assert_eq!((&file["config"]["valid_split"], &file["sources"][0]["held_out"]), (&json!(0.1), &json!(80)));

    // Stopped and taken up again it ends at the same bytes; another seed holds out other rows.
    let stopped = dir.path().join("stopped");
    let job = TrainingJob::new(TrainConfig { out: stopped.clone(), ..config.clone() }).unwrap();
    let stop =
        |e: &Event| if matches!(e, Event::Step(s) if s.global_step == 6) { Control::Stop } else { Control::Continue };
    assert!(job.run(stop).is_err());
    let again = TrainingJob::resume(&stopped, &serde_json::Map::new()).unwrap().run(|_| Control::Continue).unwrap();
    assert_eq!((again.eval_loss, again.base_eval_loss), (report.eval_loss, report.base_eval_loss));
    let adapter = |run: &Path| std::fs::read(run.join("adapter/adapter_model.safetensors")).unwrap();
    assert!(adapter(&stopped) == adapter(&out));
    let other = dir.path().join("other");
    run(TrainConfig { seed: 6, out: other.clone(), recipe: Recipe::Ntp, ..config.clone() });
    assert_ne!(run_json(&other)["stands_on"]["data"], file["stands_on"]["data"]);
    let stores = std::fs::read_dir(dir.path().join("cache")).unwrap().map(|e| e.unwrap().path());
    assert_eq!(stores.filter(|p| p.extension().is_some_and(|e| e == "tokens")).count(), 1, "tokenised once");

    let plan = sftmix::plan(&TrainConfig { out: dir.path().join("planned"), ..config.clone() }).unwrap();
    assert_eq!(plan.examples, 720);
    let refused = |change: fn(&mut TrainConfig)| {
        let mut config = TrainConfig { out: dir.path().join("refused"), ..config.clone() };
        change(&mut config);
        TrainingJob::new(config).unwrap_err().to_string()
    };
    let e = refused(|c| c.valid = Some("v.jsonl".into()));
    assert!(e.starts_with("invalid setting valid_split: valid is v.jsonl as well"), "{e}");
    let e = refused(|c| c.valid_split = Some(1.0));
    assert_eq!(e, "invalid setting valid_split: expected a share between 0 and 1, found 1");
}

#[test]
fn a_folder_brings_its_validation_rows() {
    let dir = tempfile::tempdir().unwrap();
    let assets = project("assets/demo");
    for name in ["train.jsonl", "valid.jsonl"] {
        std::fs::copy(assets.join(name), dir.path().join(name)).unwrap();
    }
    let out = dir.path().join("run");
    let (report, p) = run(TrainConfig { data: dir.path().into(), recipe: Recipe::Ntp, ..demo(&out) });
    assert_eq!((report.examples, p.valid_examples), (800, Some(100)));
    let config = &run_json(&out)["config"];
    assert!(config["data"].as_str().unwrap().ends_with("train.jsonl"), "{config}");
    assert!(config["valid"].as_str().unwrap().ends_with("valid.jsonl"), "{config}");
    // The folder is still the same setting.
    let given = json!({"data": dir.path()});
    TrainingJob::resume(&out, given.as_object().unwrap()).unwrap();
}

#[test]
fn several_files_are_weighed_and_shown_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let rows: String =
        (0..30).map(|i| format!("{}\n", json!({"prompt": format!("Q{i}? "), "completion": "odd"}))).collect();
    std::fs::write(at("odd.jsonl"), rows).unwrap();
    std::fs::create_dir(at("notes")).unwrap();
    std::fs::write(at("notes/a.md"), "# A note\nof two lines").unwrap();
    std::fs::write(at("notes/b.txt"), "Another note.").unwrap();
    let out = at("run");
    let sources = [(project("assets/demo/train.jsonl"), 0.1), (at("odd.jsonl"), 1.5), (at("notes"), 2.0)];
    let data = DataSources(sources.map(|(path, weight)| DataSource { path, weight }).to_vec());
    let (report, p) = run(TrainConfig { data, ..demo(&out) });
    let taken: Vec<u64> = p.sources.iter().map(|s| s.taken).collect();
    assert_eq!((report.examples, taken.as_slice(), p.rows.rows), (129, &[80, 45, 4][..], 832));
    let log = DynamicsLog::open(out.join("dynamics")).unwrap();
    assert_eq!(log.len(), 129);
    let o = sftmix(&["dynamics", "show", out.to_str().unwrap(), "--rows", "64"]);
    let text = String::from_utf8(o.stdout.clone()).unwrap();
    assert_eq!((o.status.code(), err(&o).as_str()), (Some(0), ""), "{text}");
    for line in ["of file 2: ", "of file 3: ", "# A note of two lines", "response  odd"] {
        assert!(text.contains(line), "expected {line:?} in {text}");
    }
    assert!(!text.contains("cannot be shown"), "{text}");
    // The log serves a run on the same files, copies and all.
    let again = TrainConfig { dynamics: sftmix::Dynamics::Path(out.clone()), out: at("again"), ..demo(&out) };
    let data: DataSources = serde_json::from_value(run_json(&out)["config"]["data"].clone()).unwrap();
    let (report, _) = run(TrainConfig { data, cache_dir: Some(at("cache")), ..again });
    assert_eq!(report.examples, 129);
}

#[cfg(not(feature = "tables"))]
#[test]
fn parquet_names_the_feature_that_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let inspect = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, "text\na\n").unwrap();
        let (model, data) = (project("assets/demo"), path.to_str().unwrap());
        (sftmix(&["data", "inspect", "--model", model.to_str().unwrap(), "--data", data]), data.to_string())
    };
    let (o, data) = inspect("d.parquet");
    let says = format!("error: {data}: Parquet is read by builds with the feature `tables`");
    assert!(o.status.code() == Some(1) && err(&o).starts_with(&says), "{}", err(&o));
    for name in ["d.csv", "d.tsv"] {
        assert!(inspect(name).0.status.success(), "{name}");
    }
}
