//! Taking a run up again: nothing is lost where something is damaged, moved, swapped or half begun, and where the run
//! goes on it ends at the bytes of an uninterrupted one.

mod found;

use std::path::{Path, PathBuf};

use serde_json::{json, Map, Value};
use sftmix::{Control, Dynamics, Error, Event, LoraConfig, Recipe, TrainConfig, TrainReport, TrainingJob};

use crate::support::{self, project};

fn config(out: &Path) -> TrainConfig {
    let assets = project("assets/demo");
    TrainConfig {
        model: assets.clone(),
        data: assets.join("train.jsonl").into(),
        out: out.to_path_buf(),
        recipe: Recipe::Ntp,
        max_length: 64,
        batch_size: 16,
        lora: Some(LoraConfig { r: 4, ..Default::default() }),
        lr: 1e-3,
        epochs: 1,
        max_steps: Some(12),
        save_every: 3,
        threads: Some(2),
        ..Default::default()
    }
}

fn run(config: TrainConfig) -> TrainReport {
    TrainingJob::new(config).unwrap().run(|_| Control::Continue).unwrap()
}

/// Stops behind so many steps of all stages.
fn stop_at(config: TrainConfig, step: u64) {
    let job = TrainingJob::new(config).unwrap();
    let stopped = job.run(|e| match e {
        Event::Step(s) if s.global_step == step => Control::Stop,
        _ => Control::Continue,
    });
    assert!(matches!(stopped, Err(Error::Stopped { .. })), "{stopped:?}");
}

fn resume_with(out: &Path, given: Value) -> Result<TrainReport, Error> {
    let Value::Object(given) = given else { panic!("{given}") };
    TrainingJob::resume(out, &given)?.run(|_| Control::Continue)
}

fn resume(out: &Path) -> Result<TrainReport, Error> {
    resume_with(out, json!({}))
}

fn adapter(out: &Path) -> Vec<u8> {
    std::fs::read(out.join("adapter/adapter_model.safetensors")).unwrap()
}

/// Every file below a folder with its bytes.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(files(&path)),
            false => all.push((path.clone(), std::fs::read(&path).unwrap())),
        }
    }
    all.retain(|(path, _)| !path.ends_with(".lock"));
    all.sort();
    all
}

fn cut(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..100]).unwrap();
}

#[test]
fn checkpoints_that_cannot_be_read_are_named_and_nothing_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, out) = (dir.path().join("whole"), dir.path().join("run"));
    run(config(&whole));
    stop_at(config(&out), 7);
    let [older, newer] = ["checkpoint-6", "checkpoint-7"].map(|c| out.join(c));

    // The newest is damaged: the one before it is taken, whichever file it is.
    let kept = files(&newer);
    for (name, spoil) in [("optimizer.safetensors", true), ("adapter_config.json", false), ("sftmix_state.json", false)]
    {
        match spoil {
            true => cut(&newer.join(name)),
            false => std::fs::write(newer.join(name), "{").unwrap(),
        }
        let copy = dir.path().join(format!("copy-{name}"));
        copy_tree(&out, &copy);
        resume(&copy).unwrap();
        assert!(adapter(&copy) == adapter(&whole), "{name}");
        kept.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
    }

    // Both: an error that names each and why.
    cut(&older.join("optimizer.safetensors"));
    cut(&newer.join("optimizer.safetensors"));
    let before = files(&out);
    let e = resume(&out).unwrap_err();
    let text = e.to_string();
    assert!(
        matches!(e, Error::Checkpoint { .. }) && text.contains("it can go on from none of its checkpoints"),
        "{text}"
    );
    for checkpoint in ["checkpoint-6", "checkpoint-7"] {
        assert!(text.contains(&format!("{checkpoint}/optimizer.safetensors")), "{text}");
    }
    assert!(files(&out) == before);
}

/// That the system does not give a file is no damage: the run must not go back behind it.
#[cfg(unix)]
#[test]
fn a_checkpoint_that_the_system_does_not_give_is_no_damaged_one() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    stop_at(config(&out), 7);
    let path = out.join("checkpoint-7/optimizer.safetensors");
    std::fs::rename(&path, dir.path().join("aside")).unwrap();
    // A link to itself: ELOOP, whoever asks.
    std::os::unix::fs::symlink(&path, &path).unwrap();
    let before: Vec<_> = std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
    let e = resume(&out).unwrap_err();
    assert!(matches!(&e, Error::Io { path, .. } if path.ends_with("optimizer.safetensors")), "{e}");
    let after: Vec<_> = std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(before, after);
    std::fs::remove_file(&path).unwrap();
    std::fs::rename(dir.path().join("aside"), &path).unwrap();
    resume(&out).unwrap();
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for (path, bytes) in files(from) {
        let to = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::write(to, bytes).unwrap();
    }
}

#[test]
fn inputs_may_move_and_must_not_change() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let assets = project("assets/demo");
    copy_tree(&assets, &at("model"));
    std::fs::copy(assets.join("train.jsonl"), at("rows.jsonl")).unwrap();
    std::fs::copy(assets.join("valid.jsonl"), at("held.jsonl")).unwrap();
    let with = |out: &str| TrainConfig {
        model: at("model"),
        data: at("rows.jsonl").into(),
        valid: Some(at("held.jsonl")),
        eval_every: Some(4),
        keep_best: true,
        ..config(&at(out))
    };
    run(with("whole"));
    stop_at(with("run"), 5);
    stop_at(with("swapped"), 5);

    // Held-out rows with other contents behind the same name.
    let text = std::fs::read_to_string(at("held.jsonl")).unwrap();
    std::fs::write(at("held.jsonl"), text.lines().skip(1).map(|l| format!("{l}\n")).collect::<String>()).unwrap();
    let e = resume(&at("swapped")).unwrap_err().to_string();
    assert!(e.contains("the run was begun with another set of held-out rows: content hash"), "{e}");
    assert!(e.contains("held.jsonl"), "{e}");

    // All of it elsewhere, and the folder of the run as well.
    for (from, to) in [("model", "model2"), ("rows.jsonl", "rows2.jsonl"), ("run", "run2")] {
        std::fs::rename(at(from), at(to)).unwrap();
    }
    std::fs::write(at("held2.jsonl"), &text).unwrap();
    let e = resume(&at("run2")).unwrap_err();
    assert!(matches!(&e, Error::Io { .. } | Error::ModelFormat { .. }), "{e}");
    let given = json!({"model": at("model2"), "data": at("rows2.jsonl"), "valid": at("held2.jsonl")});
    resume_with(&at("run2"), given).unwrap();
    assert!(adapter(&at("run2")) == adapter(&at("whole")));
    let file = support::json(&at("run2/run.json"));
    assert_eq!(file["config"]["model"], json!(at("model2")));
    assert_eq!(file["stands_on"]["data"]["path"], json!(at("rows2.jsonl")));

    // More than places cannot be given anew.
    let e = resume_with(&at("swapped"), json!({"lr": 0.5})).unwrap_err().to_string();
    assert!(e.starts_with("invalid setting lr: the run was begun with 0.001"), "{e}");
}

#[test]
fn an_initial_adapter_is_the_one_that_the_run_was_begun_with() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    run(TrainConfig { max_steps: Some(3), ..config(&at("first")) });
    run(TrainConfig { max_steps: Some(5), ..config(&at("other")) });
    copy_tree(&at("first/adapter"), &at("initial"));
    let with = |out: &str| TrainConfig {
        recipe: Recipe::Sftmix,
        init_adapter: Some(at("initial")),
        max_steps: Some(6),
        reference_checkpoints: 2,
        ..config(&at(out))
    };
    run(with("whole"));
    for out in ["swapped", "gone"] {
        stop_at(with(out), 4);
    }
    // Other weights behind the same name.
    copy_tree(&at("other/adapter"), &at("initial"));
    let e = resume(&at("swapped")).unwrap_err().to_string();
    assert!(e.contains("the run was begun with another initial adapter: content hash"), "{e}");
    // Gone: the run has its own copy, also for the stage that has not begun.
    std::fs::remove_dir_all(at("initial")).unwrap();
    resume(&at("gone")).unwrap();
    assert!(adapter(&at("gone")) == adapter(&at("whole")));
}

#[test]
fn of_two_new_runs_in_one_folder_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let first = TrainingJob::new(TrainConfig { max_steps: Some(2), warmup_ratio: 0.0, ..config(&out) }).unwrap();
    let second = TrainingJob::new(TrainConfig { max_steps: Some(4), lr: 9e-3, ..config(&out) }).unwrap();
    first.run(|_| Control::Continue).unwrap();
    let before = files(&out);
    let e = second.run(|_| Control::Continue).unwrap_err().to_string();
    assert!(e.ends_with("the folder holds a run: resume it, or choose another"), "{e}");
    assert!(files(&out) == before);

    // A run that was read before another process changed it.
    let out = dir.path().join("two");
    stop_at(config(&out), 4);
    let early = TrainingJob::resume(&out, &Map::new()).unwrap();
    let mut file = support::json(&out.join("run.json"));
    file["config"]["seed"] = json!(77);
    std::fs::write(out.join("run.json"), file.to_string()).unwrap();
    let e = early.run(|_| Control::Continue).unwrap_err().to_string();
    assert!(e.contains("changed by another process"), "{e}");
}

/// Whatever of a start is on disk when the process dies, `--resume` begins or goes on.
#[test]
fn every_moment_of_a_start_can_be_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    run(TrainConfig { recipe: Recipe::Sftmix, max_steps: Some(4), ..config(&at("earlier")) });
    run(TrainConfig { max_steps: Some(3), ..config(&at("first")) });
    let with = |out: &str| TrainConfig {
        recipe: Recipe::Sftmix,
        dynamics: Dynamics::Path(at("earlier")),
        init_adapter: Some(at("first/adapter")),
        max_steps: Some(5),
        ..config(&at(out))
    };
    run(with("whole"));
    // What a start writes, in order: the settings, the confidences, the copy of the adapter, metrics.
    let parts = ["run.json", "confidence.bin", "initial_adapter", "metrics.jsonl"];
    for killed in 0..=parts.len() {
        let out = at(&format!("killed-{killed}"));
        std::fs::create_dir(&out).unwrap();
        for part in &parts[..killed] {
            let from = at("whole").join(part);
            match from.is_dir() {
                true => copy_tree(&from, &out.join(part)),
                false => drop(std::fs::copy(&from, out.join(part)).unwrap()),
            }
        }
        if killed > 0 {
            let text = std::fs::read_to_string(out.join("run.json")).unwrap();
            std::fs::write(out.join("run.json"), text.replace("/whole", &format!("/killed-{killed}"))).unwrap();
            resume(&out).unwrap();
        } else {
            // As one says it: what has its default is not said, and some of it would have no effect.
            let said = |config| match serde_json::to_value(config) {
                Ok(Value::Object(said)) => said,
                other => unreachable!("{other:?}"),
            };
            let (mut given, unsaid) = (said(with("killed-0")), said(TrainConfig::default()));
            given.retain(|name, value| unsaid.get(name) != Some(value));
            TrainingJob::resume(&out, &given).unwrap().run(|_| Control::Continue).unwrap();
        }
        assert!(adapter(&out) == adapter(&at("whole")), "{killed} of {parts:?}");
    }
}

#[test]
fn a_checkpoint_beyond_the_settings_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    stop_at(config(&out), 7);
    let mut file = support::json(&out.join("run.json"));
    file["config"]["max_steps"] = json!(5);
    std::fs::write(out.join("run.json"), file.to_string()).unwrap();
    let e = resume(&out).unwrap_err().to_string();
    assert!(e.contains("has 7 steps of stage target, which has 5 by the settings"), "{e}");
}

#[test]
fn a_best_checkpoint_that_is_gone_is_missed_when_the_run_is_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let c = TrainConfig {
        valid: Some(project("assets/demo/valid.jsonl")),
        eval_every: Some(2),
        keep_best: true,
        keep: 1,
        lr: 0.05,
        warmup_ratio: 0.0,
        ..config(&out)
    };
    stop_at(c, 7);
    let state = support::json(&out.join("checkpoint-7/sftmix_state.json"));
    let best = state["best"]["global_step"].as_u64().unwrap();
    assert!(best < 7, "the rate is too low for this test");
    std::fs::remove_dir_all(out.join(format!("checkpoint-{best}"))).unwrap();
    let mut steps = 0;
    let resumed = TrainingJob::resume(&out, &Map::new()).unwrap().run(|e| {
        steps += matches!(e, Event::Step(_)) as u32;
        Control::Continue
    });
    let e = resumed.unwrap_err().to_string();
    assert!(e.contains(&format!("checkpoint-{best}: ")) && e.contains("had the best held-out loss"), "{e}");
    assert_eq!(steps, 0);
}

/// Hugging Face's file: where the run stands, and a log of evaluations and due checkpoints.
#[test]
fn trainer_state_has_its_epoch_and_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let [whole, stopped] = ["whole", "stopped"].map(|name| dir.path().join(name));
    let c = |out: &Path| TrainConfig {
        valid: Some(project("assets/demo/valid.jsonl")),
        eval_every: Some(5),
        max_steps: Some(9),
        ..config(out)
    };
    run(c(&whole));
    stop_at(c(&stopped), 4);
    resume(&stopped).unwrap();
    let [a, b] = [&whole, &stopped].map(|run| support::json(&run.join("checkpoint-9/trainer_state.json")));
    assert_eq!(a["epoch"], json!(0.18));
    assert_eq!(a["log_history"], b["log_history"]);
    let log: Vec<(u64, bool, bool)> = a["log_history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["step"].as_u64().unwrap(), e["loss"].is_number(), e["eval_loss"].is_number()))
        .collect();
    assert_eq!(log, [(3, true, false), (5, false, true), (6, true, false), (9, true, false), (9, false, true)]);
    assert!(a["log_history"][0]["learning_rate"].is_number() && a["log_history"][0]["grad_norm"].is_number());
}

/// An epoch of the reference run that `max_steps` cuts is logged as what it is and left out of the split.
#[test]
fn a_cut_online_epoch_is_logged_as_cut() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let mut order = Vec::new();
    let c = TrainConfig {
        recipe: Recipe::Sftmix,
        dynamics: Dynamics::Online,
        reference_epochs: 3,
        max_steps: Some(120),
        save_every: 1000,
        ..config(&out)
    };
    let job = TrainingJob::new(c).unwrap();
    job.run(|e| {
        order.push(match e {
            Event::Prepared(_) => "prepared",
            Event::Split { .. } => "split",
            _ => return Control::Continue,
        });
        Control::Continue
    })
    .unwrap();
    assert_eq!(order, ["prepared", "split"]);
    let header = support::json(&out.join("dynamics/header.json"));
    let logged: Vec<(f64, u64)> = header["checkpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["epoch"].as_f64().unwrap(), c["records"].as_u64().unwrap()))
        .collect();
    assert_eq!(logged, [(1.0, 800), (2.0, 800), (2.4, 320)]);

    // Imported: the halves are known from the start, and told behind what was found.
    let mut order = Vec::new();
    let c = TrainConfig { recipe: Recipe::Sftmix, dynamics: Dynamics::Path(out), ..config(&dir.path().join("import")) };
    TrainingJob::new(c)
        .unwrap()
        .run(|e| {
            order.extend(match e {
                Event::Prepared(_) => Some("prepared"),
                Event::Split { .. } => Some("split"),
                Event::Step(s) if s.step == 1 => Some("step"),
                _ => None,
            });
            Control::Continue
        })
        .unwrap();
    assert_eq!(order, ["prepared", "split", "step"]);
}

/// A template given for the run is the run's: its text counts, wherever its file is by then.
#[test]
fn a_chat_template_is_known_by_its_text() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let template = "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}{{ m.content }}\
                    {{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}\n{% endif %}{% endfor %}";
    std::fs::write(at("t.jinja"), template).unwrap();
    let row = |i: usize| json!({"messages": [{"role": "user", "content": format!("light {i}?")}, {"role": "assistant", "content": "red"}]});
    std::fs::write(at("rows.jsonl"), (0..64).map(|i| format!("{}\n", row(i))).collect::<String>()).unwrap();
    let with = |out: &str| {
        let mut c = TrainConfig { data: at("rows.jsonl").into(), epochs: 2, max_steps: None, ..config(&at(out)) };
        c.data_options.chat_template = Some(at("t.jinja"));
        c
    };
    run(with("whole"));
    for out in ["edited", "gone", "another"] {
        stop_at(with(out), 3);
    }
    std::fs::write(at("t.jinja"), template.replace(": ", "> ")).unwrap();
    resume(&at("edited")).unwrap();
    assert!(adapter(&at("edited")) == adapter(&at("whole")));
    std::fs::copy(at("t.jinja"), at("u.jinja")).unwrap();
    let e = resume_with(&at("another"), json!({"chat_template": at("u.jinja")})).unwrap_err().to_string();
    assert!(e.contains("the run was begun with another chat template") && e.contains("u.jinja"), "{e}");
    std::fs::remove_file(at("t.jinja")).unwrap();
    resume(&at("gone")).unwrap();
    assert!(adapter(&at("gone")) == adapter(&at("whole")));
    // It lies beside the adapter, whose record has its hash.
    assert_eq!(std::fs::read_to_string(at("whole/adapter/chat_template.jinja")).unwrap(), template);
    let facts = support::json(&at("whole/adapter/sftmix.json"));
    assert_eq!(facts["chat_template"], blake3::hash(template.as_bytes()).to_hex().to_string());
    assert_eq!(facts["recipe"].get("chat_template"), None);
}
