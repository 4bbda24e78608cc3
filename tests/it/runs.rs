//! Runs end to end on real weights and rows: figures beside PEFT's, every example in the log, the same
//! bytes twice.

use std::path::{Path, PathBuf};

use sftmix::dynamics::DynamicsLog;
use sftmix::internal::lora::peft::load_adapter;
use sftmix::{
    Control, DataMap, DataOptions, Dynamics, Error, Event, LoraConfig, MapFilter, MapKey, MapQuery, Recipe,
    TargetModules, TrainConfig, TrainReport, TrainingJob,
};

use crate::support::{project, shared};

/// The embedded demo's files, which the project ships.
fn demo(out: &Path) -> TrainConfig {
    let assets = project("assets/demo");
    TrainConfig {
        model: assets.clone(),
        data: assets.join("train.jsonl").into(),
        valid: Some(assets.join("valid.jsonl")),
        out: out.to_path_buf(),
        max_length: 64,
        batch_size: 16,
        lora: Some(LoraConfig { r: 4, ..Default::default() }),
        lr: 1e-3,
        epochs: 1,
        threads: Some(2),
        ..Default::default()
    }
}

fn run(config: TrainConfig) -> TrainReport {
    TrainingJob::new(config).unwrap().run(|_| Control::Continue).unwrap()
}

fn adapter_bytes(run: &Path) -> (Vec<u8>, Vec<u8>) {
    let read = |name: &str| std::fs::read(run.join("adapter").join(name)).unwrap();
    (read("adapter_model.safetensors"), read("adapter_config.json"))
}

/// Every example once in each checkpoint of the log.
fn check_log(run: &Path, examples: u64, checkpoints: usize) {
    let log = DynamicsLog::open(run.join("dynamics")).unwrap();
    assert_eq!((log.len(), log.checkpoints().len()), (examples, checkpoints));
    for (k, c) in log.checkpoints().iter().enumerate() {
        assert!(c.complete && c.records == examples, "{c:?}");
        log.validate(k).unwrap();
    }
}

#[test]
fn wikisql_ends_where_peft_does() {
    let (Some(model), Some(data)) = (shared("models/stories260K"), shared("data/wikisql-mlx")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = |recipe: Recipe| TrainConfig {
        model: model.clone(),
        data: data.join("train.jsonl").into(),
        valid: Some(data.join("valid.jsonl")),
        out: dir.path().join(recipe.as_str()),
        recipe,
        max_length: 512,
        lr: 1e-3,
        epochs: 2,
        cache_dir: Some(dir.path().join("cache")),
        ..Default::default()
    };
    let ntp = run(config(Recipe::Ntp));
    let (base, end) = (ntp.base_eval_loss.unwrap(), ntp.eval_loss.unwrap());
    assert!((base - 5.75).abs() < 0.01, "base {base}");
    assert!((end - 1.97).abs() <= 0.03, "PEFT ends at 1.97, this at {end}");
    let sftmix = run(config(Recipe::Sftmix));
    println!("wikisql: base {base:.3}, ntp {end:.3}, sftmix {:.3}", sftmix.eval_loss.unwrap());
    assert!(sftmix.eval_loss.unwrap() < base);
    check_log(&sftmix.run, sftmix.examples, 4);
    for report in [ntp, sftmix] {
        assert_eq!(load_adapter(&report.adapter).unwrap().modules.len(), 5 * 7);
    }
}

#[test]
fn gsm8k_improves_on_its_base() {
    let (Some(model), Some(data)) = (shared("models/stories260K"), shared("data/gsm8k")) else { return };
    let dir = tempfile::tempdir().unwrap();
    // A part of the held-out rows and of an epoch: the whole of it belongs to a longer check.
    let test = std::fs::read_to_string(data.join("test.jsonl")).unwrap();
    let valid = dir.path().join("valid.jsonl");
    std::fs::write(&valid, test.lines().take(60).map(|l| format!("{l}\n")).collect::<String>()).unwrap();
    let options = DataOptions {
        prompt_field: Some("question".into()),
        response_field: Some("answer".into()),
        ..Default::default()
    };
    let report = run(TrainConfig {
        model,
        data: data.join("train.jsonl").into(),
        valid: Some(valid),
        out: dir.path().join("run"),
        recipe: Recipe::Ntp,
        max_length: 512,
        lr: 1e-3,
        max_steps: Some(40),
        data_options: options,
        ..Default::default()
    });
    let (base, end) = (report.base_eval_loss.unwrap(), report.eval_loss.unwrap());
    println!("gsm8k: base {base:.3}, ntp after 40 steps {end:.3}, {} rows cut", report.rows_cut);
    assert!(end < base, "{base} {end}");
    assert_eq!(report.examples + report.rows_dropped, 7473);
}

#[test]
fn a_run_twice_gives_the_same_bytes_in_every_kind_of_dynamics() {
    let dir = tempfile::tempdir().unwrap();
    let import = dir.path().join("sweep-a");
    for (name, dynamics, epochs, reference_epochs, checkpoints) in [
        ("sweep", Dynamics::Sweep, 1, 1, 4),
        ("online", Dynamics::Online, 1, 2, 2),
        ("single", Dynamics::Single, 2, 1, 1),
        ("import", Dynamics::Path(import.clone()), 1, 1, 0),
    ] {
        let outs: Vec<PathBuf> = ["a", "b"].iter().map(|n| dir.path().join(format!("{name}-{n}"))).collect();
        for (i, out) in outs.iter().enumerate() {
            // The second time with blocks run twice: that changes no bit either.
            let recompute = if i == 0 { sftmix::Recompute::Off } else { sftmix::Recompute::On };
            let c = TrainConfig { dynamics: dynamics.clone(), epochs, reference_epochs, recompute, ..demo(out) };
            let mut splits = 0;
            let report = TrainingJob::new(c).unwrap().run(|e| {
                splits += matches!(e, Event::Split { confident: 400, unconfident: 400, neither: 0 }) as u32;
                Control::Continue
            });
            assert!(report.unwrap().eval_loss.unwrap() < 1.6, "{name}");
            assert_eq!(splits, 1, "{name}");
            if checkpoints > 0 {
                check_log(out, 800, checkpoints);
            }
        }
        assert!(adapter_bytes(&outs[0]) == adapter_bytes(&outs[1]), "{name}");
    }
    assert!(adapter_bytes(&import) != adapter_bytes(&dir.path().join("online-a")));
    assert!(adapter_bytes(&import) == adapter_bytes(&dir.path().join("import-a")), "the same log, the same split");
}

#[test]
fn a_micro_batch_of_one_ends_at_the_same_losses() {
    let dir = tempfile::tempdir().unwrap();
    let losses: Vec<f64> = [1, 2, 8]
        .iter()
        .map(|&n| {
            let out = dir.path().join(n.to_string());
            run(TrainConfig { micro_batch: Some(n), ..demo(&out) }).eval_loss.unwrap()
        })
        .collect();
    assert!(losses.iter().all(|l| (l - losses[0]).abs() < 2e-3), "{losses:?}");
}

#[test]
fn a_stop_leaves_a_checkpoint_that_resumes_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let lora = LoraConfig { r: 4, lora_dropout: 0.1, ..Default::default() };
    let base = || TrainConfig { lora: Some(lora.clone()), save_every: 1000, ..demo(&whole) };
    run(base());
    // In the reference run, in a sweep, at the border of stages, in the target run.
    for (name, stop_at) in [("step", 3), ("sweep", 13), ("border", 50), ("target", 77)] {
        let out = dir.path().join(name);
        let job = TrainingJob::new(TrainConfig { out: out.clone(), ..base() }).unwrap();
        let mut stopped = false;
        let error = job.run(|e| {
            let now = match e {
                Event::Step(s) => name != "sweep" && s.global_step == stop_at,
                Event::Sweep { number: 1, done, .. } => name == "sweep" && *done > 100,
                _ => false,
            };
            stopped |= now;
            if now {
                Control::Stop
            } else {
                Control::Continue
            }
        });
        assert!(stopped, "{name}");
        match error {
            Err(Error::Stopped { checkpoint: Some(path) }) => assert!(path.exists(), "{name}"),
            other => panic!("{name}: {other:?}"),
        }
        let job = TrainingJob::resume(&out, &serde_json::Map::new()).unwrap();
        let report = job.run(|_| Control::Continue).unwrap();
        assert!(adapter_bytes(&out) == adapter_bytes(&whole), "{name}");
        check_log(&out, 800, 4);
        let lines = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let steps: Vec<u64> = lines
            .lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap())
            .filter(|v| v["loss"].is_number())
            .map(|v| v["global_step"].as_u64().unwrap())
            .collect();
        assert_eq!(steps, (1..=report.steps).collect::<Vec<_>>(), "{name}: each step once in metrics.jsonl");
        // A finished run is reported, not run again.
        let again = TrainingJob::resume(&out, &serde_json::Map::new()).unwrap().run(|_| panic!("it ran")).unwrap();
        assert_eq!(again, report);
    }
}

#[test]
fn settings_that_contradict_a_run_are_refused_with_both_values() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let job = TrainingJob::new(TrainConfig { recipe: Recipe::Ntp, ..demo(&out) }).unwrap();
    let stop = job.stop_handle();
    let ended = job.run(|_| {
        stop.stop();
        Control::Continue
    });
    assert!(matches!(ended, Err(Error::Stopped { checkpoint: None })), "{ended:?}");
    let given = |json: serde_json::Value| json.as_object().unwrap().clone();
    let e = TrainingJob::resume(&out, &given(serde_json::json!({"lr": 5e-3}))).unwrap_err();
    assert_eq!(e.to_string(), "invalid setting lr: the run was begun with 0.001, now 0.005 is given");
    let e = TrainingJob::new(TrainConfig { recipe: Recipe::Ntp, ..demo(&out) }).unwrap_err();
    assert!(e.to_string().contains("holds a run"), "{e}");
    // Same settings again, and no checkpoint yet: it starts afresh.
    let job = TrainingJob::resume(&out, &given(serde_json::json!({"lr": 1e-3, "recipe": "ntp"}))).unwrap();
    assert_eq!(job.run(|_| Control::Continue).unwrap().steps, 50);
}

#[test]
fn what_is_refused_can_be_given_again_corrected_and_nothing_foreign_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let on = |names: &str| {
        let target_modules = TargetModules::parse(names);
        Some(LoraConfig { r: 4, target_modules, ..Default::default() })
    };
    let bad = TrainConfig { lora: on("nope"), recipe: Recipe::Ntp, max_steps: Some(3), ..demo(&out) };
    let e = TrainingJob::new(bad.clone()).unwrap().run(|_| Control::Continue).unwrap_err();
    assert!(e.to_string().contains("target_modules: \"nope\" matches no linear"), "{e}");
    run(TrainConfig { lora: on("q_proj"), ..bad.clone() });

    let e = TrainingJob::new(TrainConfig {
        dynamics: Dynamics::Path("onlin".into()),
        out: dir.path().join("x"),
        ..demo(&out)
    });
    assert!(e.unwrap_err().to_string().contains("expected sweep, online, single or the folder of a run"));

    let foreign = dir.path().join("foreign");
    std::fs::create_dir_all(foreign.join("checkpoint-500")).unwrap();
    let e = TrainingJob::new(TrainConfig { out: foreign.clone(), ..bad }).unwrap_err().to_string();
    assert!(e.contains("checkpoint-500") && foreign.join("checkpoint-500").exists(), "{e}");
}

#[test]
fn other_data_or_another_base_is_refused_on_resume() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("rows.jsonl");
    let assets = project("assets/demo");
    let rows = std::fs::read_to_string(assets.join("train.jsonl")).unwrap();
    std::fs::write(&data, &rows).unwrap();
    let out = dir.path().join("run");
    let job = TrainingJob::new(TrainConfig { recipe: Recipe::Ntp, data: data.as_path().into(), ..demo(&out) }).unwrap();
    let stop = |e: &Event| if matches!(e, Event::Step(s) if s.step == 2) { Control::Stop } else { Control::Continue };
    assert!(job.run(stop).is_err());
    std::fs::write(&data, rows.replace("Tremwick", "Tremwack")).unwrap();
    let resume = |out: &Path| {
        let job = TrainingJob::resume(out, &serde_json::Map::new()).unwrap();
        job.run(|e| panic!("{e:?}")).unwrap_err().to_string()
    };
    assert!(resume(&out).contains("another data"));

    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        std::fs::copy(assets.join(name), model.join(name)).unwrap();
    }
    let out = dir.path().join("run-2");
    let job = TrainingJob::new(TrainConfig { recipe: Recipe::Ntp, model: model.clone(), ..demo(&out) }).unwrap();
    assert!(job.run(stop).is_err());
    let mut bytes = std::fs::read(model.join("model.safetensors")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(model.join("model.safetensors"), bytes).unwrap();
    let e = resume(&out);
    assert!(e.contains("another base model"), "{e}");
}

#[test]
fn a_run_is_looked_at_page_by_page_while_it_goes_and_when_it_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let mut seen = Vec::new();
    TrainingJob::new(demo(&out))
        .unwrap()
        .run(|e| {
            // In the second sweep, and in the target run.
            if matches!(e, Event::Sweep { number: 2, .. } | Event::Split { .. }) {
                let map = DataMap::open(&out).unwrap();
                let summary = map.summary().unwrap();
                seen.push((summary.checkpoints.len(), summary.incomplete.is_some()));
            }
            Control::Continue
        })
        .unwrap();
    assert!(seen.contains(&(1, true)) && seen.last() == Some(&(4, false)), "{seen:?}");

    let map = DataMap::open(&out).unwrap();
    let summary = map.summary().unwrap();
    assert_eq!((summary.examples, summary.confident.rows, summary.unconfident.rows), (800, 400, 400));
    assert!(summary.confident.mean_nll < summary.unconfident.mean_nll, "{summary:?}");
    let mut rows = Vec::new();
    for offset in (0..800).step_by(300) {
        let query = MapQuery { offset, limit: 300, with_text: true, ..Default::default() };
        let page = map.page(&query).unwrap();
        assert_eq!(page.total, 800);
        rows.extend(page.rows);
    }
    assert!(rows.is_sorted_by_key(|r| r.confidence), "least confident first");
    let mut indices: Vec<u32> = rows.iter().map(|r| r.index).collect();
    indices.sort_unstable();
    assert_eq!(indices, (0..800).collect::<Vec<_>>(), "each example once");
    let data = project("assets/demo/train.jsonl");
    let lines: Vec<String> = std::fs::read_to_string(&data).unwrap().lines().map(String::from).collect();
    for row in &rows {
        assert_eq!((row.file.as_deref(), row.text_absent.as_deref()), (Some(data.as_path()), None));
        let line: serde_json::Value = serde_json::from_str(&lines[row.row as usize - 1]).unwrap();
        assert_eq!(line["completion"].as_str(), row.response.as_deref(), "{row:?}");
    }

    let never = MapFilter { key: MapKey::Correctness, min: None, max: Some(0.0) };
    let query = MapQuery { sort_by: MapKey::Nll, descending: true, filters: vec![never], ..Default::default() };
    let page = map.page(&query).unwrap();
    let halves = [&summary.confident, &summary.unconfident, &summary.neither];
    assert_eq!(page.total, halves.iter().map(|h| h.never_correct).sum::<u64>());
    let row = &rows[0];
    let points = map.history(row.index).unwrap();
    let mean = points.iter().map(|p| p.nll).sum::<f64>() / points.len() as f64;
    assert_eq!(
        points.iter().map(|p| &p.checkpoint).collect::<Vec<_>>(),
        summary.checkpoints.iter().collect::<Vec<_>>()
    );
    assert!((mean - row.mean_nll).abs() < 1e-12, "{points:?} {row:?}");
}
