//! Early stopping and the best checkpoint: what transformers' rule says of the held-out losses, over stops and
//! kills.

use std::path::{Path, PathBuf};

use sftmix::{
    evaluate, Control, Dynamics, Error, EvalConfig, Event, LoraConfig, Recipe, Schedule, TrainConfig, TrainReport,
    TrainingJob,
};

use crate::support::{json, project};

/// A run whose held-out loss falls, then rises: the rate is far too high.
fn config(out: &Path) -> TrainConfig {
    let assets = project("assets/demo");
    TrainConfig {
        model: assets.clone(),
        data: assets.join("train.jsonl").into(),
        valid: Some(assets.join("valid.jsonl")),
        out: out.to_path_buf(),
        recipe: Recipe::Ntp,
        max_length: 64,
        batch_size: 16,
        lora: Some(LoraConfig { r: 4, ..Default::default() }),
        lr: 0.02,
        schedule: Schedule::Constant,
        epochs: 2,
        eval_every: Some(4),
        early_stopping_patience: Some(3),
        keep_best: true,
        keep: 1,
        threads: Some(2),
        ..Default::default()
    }
}

/// Evaluations of metrics.jsonl: stage, step, loss, whether it was the best.
fn evaluations(run: &Path) -> Vec<(String, u64, f64, bool)> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    let of = |v: serde_json::Value| {
        let loss = v["eval_loss"].as_f64()?;
        let stage = v["stage"].as_str().unwrap().to_string();
        Some((stage, v["global_step"].as_u64().unwrap(), loss, v["is_best"].as_bool().unwrap()))
    };
    lines.filter_map(of).collect()
}

/// transformers' EarlyStoppingCallback and Trainer over these losses: the step of the best, and of the end.
fn by_transformers(losses: &[(u64, f64)], patience: u64, threshold: f64) -> (u64, Option<u64>) {
    let (mut best, mut counter): (Option<(u64, f64)>, u64) = (None, 0);
    for &(step, loss) in losses {
        let improved = best.is_none_or(|(_, b)| loss < b && (loss - b).abs() > threshold);
        counter = if improved { 0 } else { counter + 1 };
        if best.is_none_or(|(_, b)| loss < b) {
            best = Some((step, loss));
        }
        if counter >= patience {
            return (best.unwrap().0, Some(step));
        }
    }
    (best.unwrap().0, None)
}

fn checkpoints(run: &Path) -> Vec<u64> {
    let mut all: Vec<u64> = std::fs::read_dir(run)
        .unwrap()
        .filter_map(|d| d.unwrap().file_name().to_str()?.strip_prefix("checkpoint-")?.parse().ok())
        .collect();
    all.sort_unstable();
    all
}

fn adapter(folder: &Path) -> (Vec<u8>, Vec<u8>) {
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    (read("adapter_model.safetensors"), read("adapter_config.json"))
}

fn check(report: &TrainReport, config: &TrainConfig) {
    let run = &report.run;
    let all = evaluations(run);
    let counted: Vec<(u64, f64)> = all.iter().filter(|e| e.0 != "base").map(|e| (e.1, e.2)).collect();
    let patience = config.early_stopping_patience.unwrap();
    let (best, end) = by_transformers(&counted, patience, config.early_stopping_threshold);
    assert_eq!((report.best_step, report.stopped_early), (Some(best), end.is_some()));
    let best_loss = counted.iter().find(|c| c.0 == best).unwrap().1;
    assert_eq!(report.best_eval_loss, Some(best_loss));
    assert_eq!(Some(report.steps), end.or(Some(report.steps)));
    assert_eq!(counted.last().unwrap().0, report.steps, "{counted:?}");
    // A loss is marked where it is below all before.
    let mut lowest = f64::INFINITY;
    for (_, step, loss, is_best) in all.iter().filter(|e| e.0 != "base") {
        assert_eq!(*is_best, *loss < lowest, "step {step}");
        lowest = lowest.min(*loss);
    }
    let expected: Vec<u64> =
        [best, report.steps].into_iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    assert_eq!(checkpoints(run), expected);
    assert!(adapter(&report.adapter) == adapter(&run.join(format!("checkpoint-{best}"))));
    assert_eq!(report.eval_loss, Some(best_loss));
    let state = json(&run.join(format!("checkpoint-{}/trainer_state.json", report.steps)));
    assert_eq!(state["best_metric"].as_f64(), Some(best_loss));
    assert_eq!(state["best_global_step"].as_u64(), Some(best));
    let folder = state["best_model_checkpoint"].as_str().unwrap().to_string();
    assert!(folder.ends_with(&format!("checkpoint-{best}")), "{folder}");
}

#[test]
fn a_run_ends_where_transformers_rule_says_and_with_the_best_adapter() {
    let dir = tempfile::tempdir().unwrap();
    let c = config(&dir.path().join("run"));
    let mut told = Vec::new();
    let job = TrainingJob::new(c.clone()).unwrap();
    let report = job
        .run(|e| {
            if let Event::StoppedEarly { global_step, best_step, best_eval_loss } = e {
                told.push((*global_step, *best_step, *best_eval_loss));
            }
            Control::Continue
        })
        .unwrap();
    check(&report, &c);
    assert!(report.stopped_early && report.best_step.unwrap() < report.steps && report.steps < 100, "{report:?}");
    assert_eq!(told, [(report.steps, report.best_step.unwrap(), report.best_eval_loss.unwrap())]);
    let found = evaluate(&EvalConfig {
        model: c.model.clone(),
        data: c.valid.clone().unwrap(),
        adapter: Some(report.adapter.clone()),
        max_length: 64,
        ..Default::default()
    })
    .unwrap();
    assert!((found.nll / report.best_eval_loss.unwrap() - 1.0).abs() < 1e-6, "{} {report:?}", found.nll);

    // A threshold that nothing improves by: the first evaluation counts, and those after it do not.
    let c = TrainConfig {
        out: dir.path().join("threshold"),
        early_stopping_threshold: 100.0,
        early_stopping_patience: Some(2),
        lr: 1e-3,
        ..c
    };
    let report = TrainingJob::new(c.clone()).unwrap().run(|_| Control::Continue).unwrap();
    assert_eq!((report.steps, report.stopped_early), (12, true));
    check(&report, &c);

    // Patience that runs out at the last step cuts nothing.
    let ends = TrainConfig { out: dir.path().join("ends"), max_steps: Some(12), ..c.clone() };
    let report = TrainingJob::new(ends).unwrap().run(|_| Control::Continue).unwrap();
    assert_eq!((report.steps, report.stopped_early), (12, false));

    // Without patience the run goes on, and without keep_best it ends with the last weights.
    let c = TrainConfig {
        out: dir.path().join("last"),
        early_stopping_threshold: 0.0,
        early_stopping_patience: None,
        keep_best: false,
        max_steps: Some(20),
        // The rate rises over as many steps as in a longer run.
        warmup_ratio: 0.5,
        lr: 0.02,
        ..c
    };
    let report = TrainingJob::new(c).unwrap().run(|_| Control::Continue).unwrap();
    assert!(!report.stopped_early && report.best_step.unwrap() < 20, "{report:?}");
    assert_eq!((report.steps, checkpoints(&report.run)), (20, vec![20]));
    assert!(adapter(&report.adapter) == adapter(&report.run.join("checkpoint-20")));
    assert!(report.eval_loss.unwrap() > report.best_eval_loss.unwrap());
}

#[test]
fn stops_anywhere_leave_the_same_end() {
    let dir = tempfile::tempdir().unwrap();
    let whole = TrainingJob::new(config(&dir.path().join("whole"))).unwrap().run(|_| Control::Continue).unwrap();
    let best = whole.best_step.unwrap();
    // Before and behind the best, in an evaluation, at the step that ends the run, and after it.
    for stop_at in [1, best, best + 1, whole.steps - 1, whole.steps] {
        for evaluation in [false, true] {
            let out = dir.path().join(format!("stop-{stop_at}-{evaluation}"));
            let mut stopped = false;
            let ended = TrainingJob::new(config(&out)).unwrap().run(|e| {
                let now = match e {
                    Event::Step(s) if !evaluation => s.global_step == stop_at,
                    Event::Evaluated(e) if evaluation => e.global_step >= stop_at,
                    _ => false,
                };
                stopped |= now;
                if now {
                    Control::Stop
                } else {
                    Control::Continue
                }
            });
            assert!(stopped && matches!(ended, Err(Error::Stopped { .. })), "{stop_at}: {ended:?}");
            let report =
                TrainingJob::resume(&out, &serde_json::Map::new()).unwrap().run(|_| Control::Continue).unwrap();
            check(&report, &config(&out));
            assert!(adapter(&report.adapter) == adapter(&whole.adapter), "{stop_at} {evaluation}");
            assert_eq!(evaluations(&report.run), evaluations(&whole.run), "{stop_at} {evaluation}");
            assert_eq!((report.steps, report.eval_loss), (whole.steps, whole.eval_loss));
        }
    }
}

#[test]
fn only_the_recipes_own_training_counts() {
    let dir = tempfile::tempdir().unwrap();
    // From the first evaluation on nothing improves: the reference run and the plain epoch go to their end.
    let c = |name: &str| TrainConfig {
        recipe: Recipe::Sftmix,
        early_stopping_threshold: 100.0,
        early_stopping_patience: Some(1),
        eval_every: Some(10),
        lr: 1e-3,
        epochs: 3,
        ..config(&dir.path().join(name))
    };
    let report = TrainingJob::new(c("sweep")).unwrap().run(|_| Control::Continue).unwrap();
    assert_eq!((report.steps, report.stopped_early), (50 + 20, true), "the reference run has 50 steps");
    let c = TrainConfig { dynamics: Dynamics::Single, ..c("single") };
    let report = TrainingJob::new(c).unwrap().run(|_| Control::Continue).unwrap();
    assert_eq!((report.steps, report.stopped_early), (50 + 20, true), "the plain epoch has 50 steps");
}

#[test]
fn what_needs_held_out_rows_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let c = TrainConfig { valid: None, eval_every: None, ..config(&dir.path().join("run")) };
    let refused = |c: TrainConfig, word: &str| {
        let e = TrainingJob::new(c).unwrap_err().to_string();
        assert!(e.contains(word), "{e}");
    };
    refused(c.clone(), "early_stopping_patience: expected held-out rows");
    refused(TrainConfig { early_stopping_patience: None, ..c }, "keep_best: expected held-out rows");
    let c = TrainConfig { early_stopping_threshold: 0.1, early_stopping_patience: None, ..config(dir.path()) };
    refused(c, "early_stopping_threshold: expected early_stopping_patience with it");
}

#[cfg(feature = "cli")]
#[test]
fn killed_runs_end_with_the_same_best() {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    let assets = project("assets/demo");
    let dir = tempfile::tempdir().unwrap();
    let train = |out: &PathBuf, resume: bool| {
        let mut c = Command::new(env!("CARGO_BIN_EXE_sftmix"));
        c.args(["train", "--out"]).arg(out).stdout(Stdio::null()).stderr(Stdio::piped());
        if resume {
            c.arg("--resume");
        }
        if !out.join("run.json").exists() {
            c.arg("--model").arg(&assets).arg("--data").arg(assets.join("train.jsonl"));
            c.arg("--valid").arg(assets.join("valid.jsonl"));
            c.args("--recipe ntp --max-length 64 --batch-size 16 --lora-r 4 --lr 0.02 --schedule constant".split(' '));
            c.args(
                "--epochs 2 --eval-every 4 --early-stopping-patience 3 --keep-best --keep 1 --save-every 3".split(' '),
            );
            c.args("--threads 2 --use-dora --neftune-noise-alpha 5 --loraplus-lr-ratio 2".split(' '));
        }
        c
    };
    let finish = |out: &PathBuf, resume: bool| {
        let o = train(out, resume).output().unwrap();
        assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    };
    let whole = dir.path().join("whole");
    finish(&whole, false);
    let (want, lines) = (adapter(&whole.join("adapter")), evaluations(&whole));
    let steps = json(&whole.join("report.json"))["steps"].as_u64().unwrap() as usize;
    let mut killed = 0;
    for (i, at) in [2, steps / 2, steps - 2, steps, steps + lines.len()].into_iter().enumerate() {
        let out = dir.path().join(format!("killed-{i}"));
        let more = Duration::from_micros(700 * i as u64);
        killed += crate::kill::kill_at(&mut train(&out, false).spawn().unwrap(), &out, at, more) as usize;
        finish(&out, true);
        assert!(adapter(&out.join("adapter")) == want, "killed at line {at}");
        assert_eq!(evaluations(&out), lines, "killed at line {at}");
    }
    assert!(killed >= 3, "too few runs were killed before they ended");
}
