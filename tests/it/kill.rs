//! SIGKILL at random moments, in both stages: a resumed run ends at the bytes of an uninterrupted one.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::project;

use sftmix::internal::rng::{Key, Stream};

fn train(out: &Path, dynamics: &str, resume: bool) -> Command {
    let assets = project("assets/demo");
    let mut c = Command::new(env!("CARGO_BIN_EXE_sftmix"));
    c.args(["train", "--out"]).arg(out).stdout(Stdio::null()).stderr(Stdio::piped());
    if resume {
        c.arg("--resume");
    }
    if !resume || !out.join("run.json").exists() {
        c.arg("--model").arg(&assets).arg("--data").arg(assets.join("train.jsonl"));
        c.args("--max-length 64 --batch-size 16 --lora-r 4 --lora-dropout 0.1 --epochs 2 --threads 2".split(' '));
        c.args("--save-every 7 --dynamics".split(' ')).arg(dynamics);
        // Each setting where it has an effect.
        let reference = match dynamics {
            "sweep" => "--reference-checkpoints 3 --reference-epochs 2",
            "online" => "--reference-epochs 2",
            _ => "",
        };
        c.args(reference.split_whitespace());
        c.arg("--valid").arg(assets.join("valid.jsonl"));
    }
    c
}

fn finish(out: &Path, dynamics: &str, resume: bool) {
    let output = train(out, dynamics, resume).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn adapter(out: &Path) -> Vec<u8> {
    std::fs::read(out.join("adapter/adapter_model.safetensors")).unwrap()
}

/// Lines of metrics.jsonl by stage and step, without what the clock decides.
fn metrics(out: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let line = |l: &str| {
        let v: serde_json::Value = serde_json::from_str(l).unwrap();
        format!("{} {} {} {}", v["stage"], v["global_step"], v["loss"], v["eval_loss"])
    };
    text.lines().map(line).collect()
}

/// The stage of the last line of metrics.jsonl.
fn stage(out: &Path) -> Option<String> {
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).ok()?;
    let whole = text.rsplit_once('\n')?.0;
    let line: serde_json::Value = serde_json::from_str(whole.lines().last()?).ok()?;
    Some(line["stage"].as_str()?.to_string())
}

/// Kills the child once it has taken `steps` steps and some milliseconds more; false when it ended before.
pub fn kill_at(child: &mut Child, out: &Path, steps: usize, more: Duration) -> bool {
    let lines = || std::fs::read(out.join("metrics.jsonl")).map_or(0, |b| b.iter().filter(|&&b| b == b'\n').count());
    let patience = Instant::now();
    while lines() < steps && child.try_wait().unwrap().is_none() {
        assert!(patience.elapsed() < Duration::from_secs(300), "step {steps} never came");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(more);
    let ended = child.try_wait().unwrap().is_some();
    // SIGKILL on Unix.
    let _ = child.kill();
    child.wait().unwrap();
    !ended
}

#[test]
fn killed_runs_resume_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let kinds = ["sweep", "online", "single"];
    let wholes = kinds.map(|dynamics| {
        let whole = dir.path().join(dynamics);
        finish(&whole, dynamics, false);
        (adapter(&whole), metrics(&whole))
    });
    // The clock is the seed: moments differ from run to run, and are printed.
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let key = Key::new(seed, Stream::Bench, &[]);
    let mut stages = Vec::new();
    for trial in 0..10u64 {
        let out = dir.path().join(format!("killed-{trial}"));
        // The kinds that have two stages more often.
        let kind = [0, 1, 2, 0, 1, 0, 2, 0, 1, 0][trial as usize];
        let (dynamics, (want, lines)) = (kinds[kind], &wholes[kind]);
        let steps = lines.len();
        // Spread over the whole run, each moment at random in its tenth.
        let step = ((trial as f64 + key.uniform(trial)) / 10.0 * steps as f64) as usize;
        let more = Duration::from_micros(key.below(100 + trial, 60_000));
        let killed = kill_at(&mut train(&out, dynamics, false).spawn().unwrap(), &out, step, more);
        let at = stage(&out).unwrap_or_else(|| "before the first step".into());
        if trial % 3 == 0 && killed {
            // Once more, soon after it was taken up.
            let later = step + key.below(200 + trial, 12) as usize;
            kill_at(&mut train(&out, dynamics, true).spawn().unwrap(), &out, later, more);
        }
        finish(&out, dynamics, true);
        assert!(adapter(&out) == *want, "{dynamics}: killed {more:?} after step {step} in {at}, seed {seed}");
        assert_eq!(&metrics(&out), lines, "{dynamics}: each line of metrics.jsonl once");
        println!(
            "{dynamics}: killed {more:?} after step {step} of {steps} in {at}{}: same bytes",
            if killed { "" } else { " (it had ended)" }
        );
        if killed {
            stages.push(at);
        }
    }
    assert!(stages.len() >= 8, "too few runs were killed before they ended: {stages:?}");
    for stage in ["reference", "target", "single"] {
        assert!(stages.iter().any(|s| s == stage), "no kill fell into the {stage} stage: {stages:?}");
    }
}
