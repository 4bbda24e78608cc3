use std::path::Path;

use crate::config::{Dynamics, LoraConfig, TrainConfig};
use crate::disk::{Done, DONE};
use crate::dynamics::{DynamicsLog, Position};
use crate::job::event::Control;
use crate::job::TrainingJob;
use crate::run::checkpoint::{list, state};

/// Bytes of a log's file that holds so many records: its head, and one a block of 256.
fn log_bytes(records: u64) -> u64 {
    16 + records.div_ceil(256) * 16 + records * 24
}

/// A machine that loses its power behind any checkpoint has all that the checkpoint refers to.
fn what_a_checkpoint_refers_to_is_on_disk_before_it(out: &Path, dynamics: Dynamics) {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    // As many steps as of all rows in batches of 80; under emulation these take a quarter of an hour.
    let text = std::fs::read_to_string(assets.join("train.jsonl")).unwrap();
    let rows = out.with_extension("jsonl");
    std::fs::write(&rows, text.lines().take(100).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let config = TrainConfig {
        model: assets,
        data: rows.into(),
        out: out.to_path_buf(),
        max_length: 64,
        batch_size: 10,
        lora: Some(LoraConfig { r: 4, ..Default::default() }),
        reference_epochs: 2,
        reference_checkpoints: if dynamics == Dynamics::Sweep {
            2
        } else {
            TrainConfig::default().reference_checkpoints
        },
        dynamics,
        epochs: 1,
        save_every: 4,
        keep: 100,
        threads: Some(2),
        ..Default::default()
    };
    DONE.take();
    TrainingJob::new(config).unwrap().run(|_| Control::Continue).unwrap();
    let (done, log) = (DONE.take(), DynamicsLog::open(out.join("dynamics")).unwrap());
    let (metrics, header) = (out.join("metrics.jsonl"), out.join("dynamics/header.json"));
    let (mut inside, mut behind) = (0, 0);
    for checkpoint in list(out).unwrap() {
        let state = state(&checkpoint).unwrap();
        let named = done.iter().position(|d| *d == Done::Named(checkpoint.path.clone())).unwrap();
        let (before, step) = (&done[..named], checkpoint.global_step);
        let synced = |path: &Path| {
            before.iter().rev().find_map(|d| match d {
                Done::File(file, bytes) if file == path => Some(*bytes),
                _ => None,
            })
        };
        assert!(synced(&metrics) >= Some(state.metrics_bytes), "metrics.jsonl behind step {step}: {before:?}");
        assert!(state.metrics_bytes > 0);
        let Position { complete, records } = state.dynamics.unwrap_or_default();
        for (i, info) in log.checkpoints().iter().enumerate().take(complete + usize::from(records > 0)) {
            let counted = if i < complete { info.records } else { records };
            let file = out.join(format!("dynamics/{}.bin", info.id));
            assert!(synced(&file) >= Some(log_bytes(counted)), "{} behind step {step}: {before:?}", info.id);
        }
        // Once when the log is made, then as each of its checkpoints is begun and ends.
        let named = |path: &Path| before.iter().filter(|d| matches!(d, Done::Named(file) if file == path)).count();
        let written = match state.dynamics {
            Some(_) => 1 + 2 * complete + usize::from(records > 0),
            None => 0,
        };
        assert!(named(&header) >= written, "header.json behind step {step}: {before:?}");
        inside += usize::from(records > 0);
        behind += complete;
    }
    assert!(behind > 0, "no checkpoint refers to dynamics");
    let online = log.checkpoints()[0].kind == crate::dynamics::Kind::Online;
    assert_eq!(inside > 0, online, "checkpoints within an epoch that is logged");
}

#[test]
fn a_checkpoint_comes_behind_the_metrics_and_the_sweeps_that_it_counts() {
    let dir = tempfile::tempdir().unwrap();
    what_a_checkpoint_refers_to_is_on_disk_before_it(&dir.path().join("run"), Dynamics::Sweep);
}

#[test]
fn a_checkpoint_comes_behind_the_records_of_its_epoch() {
    let dir = tempfile::tempdir().unwrap();
    what_a_checkpoint_refers_to_is_on_disk_before_it(&dir.path().join("run"), Dynamics::Online);
}
