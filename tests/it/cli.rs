//! The program, run as a user runs it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use sftmix::dynamics::{CheckpointInfo, DynamicsWriter, Header, Kind, Record, Stage};
use sftmix::{EvalConfig, LoraConfig, TrainConfig};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sftmix"))
        .args(args)
        .env("COLUMNS", "200")
        .env_remove("SFTMIX_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn out(o: &Output) -> String {
    String::from_utf8(o.stdout.clone()).unwrap()
}

fn err(o: &Output) -> String {
    String::from_utf8(o.stderr.clone()).unwrap()
}

/// Fails with this code, and says this.
fn refused(args: &[&str], code: i32, says: &[&str]) {
    let o = run(args);
    assert_eq!(o.status.code(), Some(code), "{args:?}: {}", err(&o));
    assert!(o.stdout.is_empty(), "{args:?}: {}", out(&o));
    for text in says {
        assert!(err(&o).contains(text), "{args:?}: expected {text:?} in {}", err(&o));
    }
}

#[test]
fn wrong_use_ends_with_2_and_says_what_is_wrong() {
    refused(&[], 2, &["Usage: sftmix"]);
    refused(&["trian"], 2, &["error: ", "trian"]);
    refused(&["train"], 2, &["error: --model is missing\n", "hint: "]);
    refused(&["train", "--model", "m", "--data", "d"], 2, &["error: --out is missing\n"]);
    refused(&["train", "--resume"], 2, &["error: --out is missing\n"]);
    refused(&["train", "--lr", "fast"], 2, &["--lr <X>", "fast"]);
    refused(&["train", "--recipe", "dpo"], 2, &["sftmix, ntp"]);
    refused(&["train", "--adam-betas", "0.9"], 2, &["expected two numbers as 0.9,0.999"]);
    refused(&["train", "--rank", "4"], 2, &["--rank"]);
    refused(&["eval", "--model", "m"], 2, &["--data <PATH>"]);
    refused(&["generate", "--model", "m"], 2, &["--prompt <TEXT>"]);
    refused(&["dynamics", "export", "r", "--format", "xml"], 2, &["csv, jsonl"]);
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("run");
    let at = at.to_str().unwrap();
    let odd = ["train", "--model", "m", "--data", "d", "--out", at, "--batch-size", "7"];
    refused(
        &odd,
        2,
        &["error: invalid setting batch_size: ", "found 7\nhint: on the command line the setting is --batch-size"],
    );
    assert!(!Path::new(at).exists(), "a refused run leaves nothing behind");
}

#[test]
fn what_would_not_happen_is_refused() {
    let common = ["--model", "m", "--data", "d", "--out", "no/such/folder"];
    let refused = |more: &[&str], says: &[&str]| {
        for command in ["train", "plan"] {
            refused(&[&[command], &common[..], more].concat(), 2, says);
        }
    };
    let path = "error: invalid setting dynamics: expected sweep, online, single or the folder of a run, found ";
    refused(&["--dynamics", "/nonexistent"], &[path, "/nonexistent\n"]);
    // Given, be it with its default.
    for mu in ["7", "0.2"] {
        let says = "error: invalid setting mu: it has no effect with recipe ntp; recipe sftmix takes it\n";
        refused(&["--recipe", "ntp", "--mu", mu], &[says]);
    }
    refused(&["--dynamics", "single", "--reference-epochs", "1"], &["invalid setting reference_epochs: it has no"]);
    refused(&["--force-base"], &["invalid setting force_base: it has no effect without init_adapter"]);
    refused(&["--rank-pattern", "q_proj=3,q_proj=5"], &["--rank-pattern", "q_proj is given twice"]);
}

#[test]
fn the_initial_adapter_and_what_is_said_of_it_agree() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let assets = crate::support::project("assets/demo");
    let (model, data) = (assets.to_str().unwrap().to_string(), assets.join("train.jsonl"));
    let train = |out: &str, more: &[&str]| {
        let common = ["train", "--model", &model, "--data", data.to_str().unwrap(), "--out", out, "--recipe", "ntp"];
        let quick = ["--max-steps", "2", "--max-length", "64", "--threads", "2"];
        run(&[&common[..], &quick, more].concat())
    };
    let first = at("first");
    assert_eq!(train(&first, &["--lora-r", "4", "--lora-dropout", "0.1"]).status.code(), Some(0));
    let adapter = format!("{first}/adapter");
    let o = train(&at("other"), &["--init-adapter", &adapter, "--lora-r", "16"]);
    let says = "error: invalid setting lora_r: 16 is given, but the initial adapter has 4\n";
    assert!(o.status.code() == Some(2) && err(&o).contains(says), "{}", err(&o));
    // What is not said is the adapter's own, and stands in run.json.
    let next = at("next");
    assert_eq!(train(&next, &["--init-adapter", &adapter, "--lora-alpha", "32"]).status.code(), Some(0));
    let config = &crate::support::json(&Path::new(&next).join("run.json"))["config"];
    assert_eq!((&config["lora_r"], &config["lora_dropout"]), (&4.into(), &0.1.into()));
    // The same command again, or another value.
    let again = ["--init-adapter", &adapter, "--lora-alpha", "32", "--resume"];
    assert_eq!(train(&next, &again).status.code(), Some(0));
    let o = train(&next, &["--lora-r", "16", "--resume"]);
    assert!(err(&o).contains("lora_r: the run was begun with 4, now 16 is given"), "{}", err(&o));
}

#[test]
fn aliases_are_the_setting_itself() {
    let common = ["train", "--model", "m", "--data", "d", "--out", "no/such/folder"];
    for (alias, value, field) in [
        ("--learning-rate", "0", "lr"),
        ("--num-train-epochs", "0", "epochs"),
        ("--per-device-train-batch-size", "0", "batch_size"),
        ("--lora-rank", "0", "lora_r"),
    ] {
        refused(&[&common[..], &[alias, value]].concat(), 2, &[&format!("invalid setting {field}: ")]);
    }
    refused(&[&common[..], &["--max-grad-norm=-1"]].concat(), 2, &["invalid setting clip: "]);
    refused(&[&common[..], &["--max-grad-norm", "inf"]].concat(), 2, &["expected a number, found \"inf\""]);
    refused(&["train", "--lr-scheduler-type", "step"], 2, &["cosine, linear, constant"]);
}

#[test]
fn a_model_that_is_not_there_is_a_failure_with_a_path() {
    let dir = tempfile::tempdir().unwrap();
    let (model, data, at) = (dir.path().join("none"), dir.path().join("d.jsonl"), dir.path().join("run"));
    std::fs::write(&data, "{\"text\": \"a\"}\n").unwrap();
    let [model, data, at] = [&model, &data, &at].map(|p| p.to_str().unwrap());
    refused(&["train", "--model", model, "--data", data, "--out", at], 1, &["error: ", model]);
}

#[test]
fn help_shows_the_defaults_of_the_library() {
    let o = run(&["train", "--help"]);
    assert_eq!(o.status.code(), Some(0));
    let help = out(&o);
    let (d, lora) = (TrainConfig::default(), LoraConfig::default());
    for (flag, default) in [
        ("--mu ", d.mu.to_string()),
        ("--batch-size ", d.batch_size.to_string()),
        ("--lora-r ", lora.r.to_string()),
        ("--lora-alpha ", lora.lora_alpha.to_string()),
        ("--lr ", d.lr.to_string()),
        ("--schedule ", d.schedule.to_string()),
        ("--adam-eps ", "1e-8".into()),
        ("--adam-betas ", format!("{},{}", d.adam_betas.0, d.adam_betas.1)),
        ("--target-modules ", "all-linear".into()),
        ("--dynamics ", "sweep".into()),
        ("--threads ", "the machine's cores".into()),
    ] {
        let at = help.find(&format!("\n      {flag}")).unwrap_or_else(|| panic!("{flag} in {help}"));
        let entry = help[at + 7..].split("\n      --").next().unwrap();
        assert!(entry.contains(&format!("[default: {default}]")), "{flag}: {entry}");
    }
    let help = out(&run(&["eval", "--help"]));
    assert!(help.contains(&format!("[default: {}]", EvalConfig::default().max_length)), "{help}");
    assert!(out(&run(&["generate", "--help"])).contains("[default: 128]"));
    assert!(out(&run(&["--version"])).starts_with("sftmix "));
}

#[test]
fn a_settings_file_is_checked_and_stands_below_the_flags() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.toml");
    let file = path.to_str().unwrap();
    let at = dir.path().join("run");
    let with = |text: &str, more: &[&str], says: &[&str]| {
        std::fs::write(&path, text).unwrap();
        refused(&[&["train", "--config", file, "--out", at.to_str().unwrap()], more].concat(), 2, says);
    };
    with(
        "lora_rang = 4",
        &[],
        &[&format!("error: {file}: lora_rang: there is no setting of this name; did you mean lora_r?\n")],
    );
    with("lr = 'fast'", &[], &[&format!("error: {file}: lr: invalid type")]);
    with("lr = ", &[], &[&format!("error: {file}: line 1: ")]);
    with("model = 'm'", &[], &["error: --data is missing\n"]);
    let all = "model = 'm'\ndata = 'd'\nlora-r = 0\nepochs = 5";
    with(all, &[], &["invalid setting lora_r: expected ≥ 1, found 0"]);
    with(all, &["--lora-r", "4", "--epochs", "0"], &["invalid setting epochs: expected ≥ 1, found 0"]);
    refused(&["train", "--config", "no/such.toml"], 2, &["error: no/such.toml: "]);
}

/// A run folder with dynamics of six rows under two checkpoints; row i is the likelier, the lower i.
fn run_with_dynamics(dir: &Path) {
    let data = dir.join("rows.jsonl");
    let rows: Vec<(String, String)> = (1..=6).map(|i| (format!("Question {i}? "), format!("answer {i}"))).collect();
    let text: String =
        rows.iter().map(|(p, c)| format!("{}\n", serde_json::json!({"prompt": p, "completion": c}))).collect();
    std::fs::write(&data, text).unwrap();
    let config = TrainConfig { model: "m".into(), data: data.into(), out: dir.into(), ..Default::default() };
    std::fs::write(dir.join("run.json"), serde_json::json!({"format": 1, "config": config}).to_string()).unwrap();

    let examples: Vec<(u64, [u8; 16])> = (1..=6)
        .zip(&rows)
        .map(|(row, (p, c))| (row, sftmix::internal::data::text::Rendered::pair(p.as_str(), c).hash(0)))
        .collect();
    let mut log = DynamicsWriter::create(dir.join("dynamics"), Header::new("aa", "bb"), examples.into_iter()).unwrap();
    for step in [5, 10] {
        log.begin(CheckpointInfo::new(Stage::Reference, Kind::Sweep, step, step as f64 / 10.0, "cc")).unwrap();
        for example in 0..6 {
            let nll_sum = f64::from(example + 1) * 0.4;
            log.append(&Record { example, n_tokens: 4, n_correct: 2, mean_prob: 0.5, nll_sum }).unwrap();
        }
        log.finish().unwrap();
    }
}

#[test]
fn dynamics_are_shown_with_their_text() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap();
    refused(&["dynamics", "show", at], 1, &["no dynamics here"]);
    run_with_dynamics(dir.path());

    let o = run(&["dynamics", "show", at, "--rows", "2"]);
    let text = out(&o);
    assert_eq!((o.status.code(), err(&o).as_str()), (Some(0), ""), "{text}");
    for line in
        ["reference-5, reference-10", "row 1: perplexity 1.1052, loss 0.1000, 4 tokens", "answer 6", "Question 2?"]
    {
        assert!(text.contains(line), "expected {line:?} in {text}");
    }
    assert!(!text.contains("answer 3"), "{text}");

    // The dynamics folder serves as well.
    let o = run(&["dynamics", "show", dir.path().join("dynamics").to_str().unwrap(), "--rows", "1", "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!((&value["examples"], &value["spearman"]), (&6.into(), &1.0.into()));
    assert!((value["nll"]["median"].as_f64().unwrap() - 0.35).abs() < 1e-12, "{value}");
    assert_eq!((&value["confident"]["examples"], &value["confident"]["mean_tokens"]), (&3.into(), &4.0.into()));
    assert_eq!(value["most_confident"][0]["response"], "answer 1");
    assert_eq!(
        (&value["least_confident"][0]["row"], value["least_confident"].as_array().unwrap().len()),
        (&6.into(), 1)
    );

    std::fs::remove_file(dir.path().join("rows.jsonl")).unwrap();
    let o = run(&["dynamics", "show", at]);
    let text = out(&o);
    assert_eq!(o.status.code(), Some(0));
    assert_eq!(text.matches("cannot be shown: ").count(), 1, "{text}");
    assert!(text.contains("row 6: "), "{text}");
}

#[test]
fn dynamics_are_exported() {
    let dir = tempfile::tempdir().unwrap();
    run_with_dynamics(dir.path());
    let at = dir.path().to_str().unwrap();
    let table = out(&run(&["dynamics", "export", at, "--format", "csv"]));
    assert!(table.starts_with("index,row,hash,") && table.lines().count() == 7, "{table}");
    assert!(table.lines().nth(1).unwrap().ends_with(",confident"), "{table}");
    let file = dir.path().join("t.csv");
    assert!(run(&["dynamics", "export", at, "--format", "csv", "--out", file.to_str().unwrap()]).status.success());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), table);
    let folder = dir.path().join("td");
    assert!(run(&["dynamics", "export", at, "--format", "jsonl", "--out", folder.to_str().unwrap()]).status.success());
    for name in ["dynamics_epoch_0.jsonl", "dynamics_epoch_1.jsonl", "td_metrics.jsonl"] {
        assert_eq!(std::fs::read_to_string(folder.join(name)).unwrap().lines().count(), 6, "{name}");
    }
}

#[test]
fn a_reader_that_leaves_is_not_an_error() {
    let dir = tempfile::tempdir().unwrap();
    run_with_dynamics(dir.path());
    for args in [&["dynamics", "show"][..], &["dynamics", "export", "--format", "csv"], &["train", "--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_sftmix"));
        command.args(args).stdout(writer).stderr(Stdio::piped());
        if args[0] == "dynamics" {
            command.arg(dir.path());
        }
        let o = command.output().unwrap();
        assert_eq!((o.status.code(), err(&o).as_str()), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn a_bench_runs_on_rows_of_ones_own() {
    let cache = tempfile::tempdir().unwrap();
    let assets = crate::support::project("assets/demo");
    let data = assets.join("train.jsonl");
    let [model, data, cache] = [&assets, &data, cache.path()].map(|p: &Path| p.to_str().unwrap());
    let own = ["bench", "--model", model, "--data", data, "--cache-dir", cache];
    let quick = ["--steps", "2", "--batch-size", "16", "--threads", "2", "--device", "cpu"];
    let o = run(&[&own[..], &quick, &["--json"]].concat());
    assert_eq!(o.status.code(), Some(0), "{}", err(&o));
    let v: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    let rows = &v["rows"];
    assert_eq!((&rows["data"], &rows["examples"], &rows["rows"]), (&data.into(), &800.into(), &32.into()), "{v}");
    let [tokens, trained] = ["tokens", "supervised_tokens"].map(|key| rows[key].as_u64().unwrap());
    assert!(tokens == (2.0 * v["tokens_per_step"].as_f64().unwrap()) as u64 && 32 < trained && trained < tokens, "{v}");
    // The losses of a trained model, not of random tokens: ln 1024 is 6.9; among so many rows, that some are broken counts little.
    assert!(v["losses"].as_array().unwrap().iter().all(|l| l.as_f64().unwrap() < 6.0), "{v}");
    let table =
        out(&run(&[&own[..], &quick, &["--prompt-field", "prompt", "--response-field", "completion"]].concat()));
    let line = format!("32 with {tokens} tokens, {trained} of them trained; {data} has 800 examples\n");
    assert!(table.lines().any(|l| l.starts_with("rows ")) && table.contains(&line), "{line:?} in {table}");

    // The lowest level is everywhere, and is what was used; no processor has one that is not named.
    let o = run(&["bench", "--shape", "tiny", "--steps", "1", "--simd", "base", "--device", "cpu", "--json"]);
    let v: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    let peak = v["sgemm"]["peak"]["gflops"].as_f64().unwrap();
    assert!(v["simd"] == "base" && peak > 0.0 && v["peak_share"].as_f64().unwrap() > 0.0, "{v}");
    refused(&["bench", "--simd", "sse9"], 2, &["base, avx2, avx512, avx512-vnni, amx"]);
    refused(&["bench", "--simd", "base", "--device", "portable"], 2, &["simd: it has no effect"]);

    let no_effect = "it has no effect with";
    refused(&["bench", "--data", data], 2, &["error: invalid setting data: random weights have no tokenizer"]);
    refused(&[&own[..], &["--packed"]].concat(), 2, &["error: invalid setting packed: ", no_effect]);
    refused(&["bench", "--model", model, "--cache-dir", cache], 2, &["error: invalid setting cache_dir: ", no_effect]);
    for flags in [["--text-field", "a"], ["--data-format", "text"], ["--chat-template", "x"]] {
        let field = flags[0][2..].replace('-', "_");
        let says = format!("error: invalid setting {field}: it has no effect without data");
        refused(&[&["bench", "--model", model], &flags[..]].concat(), 2, &[&says]);
    }
    // Read as train reads them: the same words.
    refused(&[&own[..], &["--response-field", "answer", "--prompt-field", "prompt"]].concat(), 1, &["row 1", "answer"]);
}

#[test]
fn the_demo_does_not_mix_its_runs_with_earlier_ones() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("seed-0")).unwrap();
    refused(&["demo", "--out", dir.path().to_str().unwrap()], 2, &["holds the runs of an earlier demo"]);
}

#[test]
fn the_demo_reports_every_arm() {
    let o = run(&["demo", "--json"]);
    assert_eq!(o.status.code(), Some(0), "{}", err(&o));
    let last = out(&o).lines().last().unwrap().to_string();
    let v: serde_json::Value = serde_json::from_str(&last).unwrap();
    let nll = |arm: &str| v[arm]["nll"].as_f64().unwrap();
    for arm in ["base", "ntp", "ntp_early", "ntp_same_compute", "sftmix"] {
        for key in ["nll", "exact_match", "ece", "nll_sd", "exact_match_sd"] {
            assert!(v[arm][key].is_number(), "{arm} {key}: {last}");
        }
        assert!(arm == "base" || nll(arm) < 0.3 * nll("base"), "{arm}: {last}");
    }
    // By chance 32 of the 160 broken rows would be among the 160 least confident.
    assert!(v["broken_rows"] == 160 && v["broken_found"].as_f64().unwrap() > 100.0, "{last}");
    assert!(v["seconds"].is_number() && v["peak_anonymous_bytes"].is_number(), "{last}");
}
