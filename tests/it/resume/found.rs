//! What a run finds in its folder that it did not leave there, and what it no longer finds.

use sftmix::{DataSource, DataSources};

use super::*;

/// What is named like a checkpoint and is none stays, whatever its number.
#[test]
fn folders_that_are_named_like_checkpoints_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, out) = (dir.path().join("whole"), dir.path().join("run"));
    run(config(&whole));
    stop_at(config(&out), 4);
    std::fs::create_dir(out.join("checkpoint-500")).unwrap();
    std::fs::create_dir(out.join("checkpoint-007")).unwrap();
    for name in ["checkpoint-500/mine", "checkpoint-007/mine", "checkpoint-99999"] {
        std::fs::write(out.join(name), "mine").unwrap();
    }
    resume(&out).unwrap();
    assert!(adapter(&out) == adapter(&whole));
    for name in ["checkpoint-500/mine", "checkpoint-007/mine", "checkpoint-99999"] {
        assert_eq!(std::fs::read_to_string(out.join(name)).unwrap(), "mine", "{name}");
    }
}

/// Each number of the moments is missed, and the checkpoint before is taken.
#[test]
fn a_checkpoint_that_lacks_a_moment_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, out) = (dir.path().join("whole"), dir.path().join("run"));
    run(config(&whole));
    stop_at(config(&out), 7);
    let path = out.join("checkpoint-7/optimizer.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let text = b"lora_B.weight.exp_avg_sq";
    let at = bytes.windows(text.len()).position(|w| w == text).unwrap();
    let mut spoilt = bytes.clone();
    spoilt[at] = b'L';
    std::fs::write(&path, spoilt).unwrap();
    resume(&out).unwrap();
    assert!(adapter(&out) == adapter(&whole));
}

/// A resume that is refused has cut nothing back: with the file put right the run ends as if nothing had been.
#[test]
fn a_refused_resume_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let online = |out: &Path| TrainConfig {
        recipe: Recipe::Sftmix,
        dynamics: Dynamics::Online,
        reference_epochs: 2,
        batch_size: 80,
        max_steps: None,
        save_every: 5,
        ..config(out)
    };
    run(online(&at("whole")));
    let out = at("run");
    stop_at(online(&out), 14);
    let other = at("other");
    copy_tree(&project("assets/demo"), &other);
    let settings = std::fs::read_to_string(other.join("config.json")).unwrap();
    std::fs::write(other.join("config.json"), format!("{settings} ")).unwrap();

    let lost = out.join("checkpoint-14/optimizer.safetensors");
    let kept = std::fs::read(&lost).unwrap();
    std::fs::remove_file(&lost).unwrap();
    let before = kept_files(&out);
    let e = resume_with(&out, json!({"model": other})).unwrap_err().to_string();
    assert!(e.contains("base model"), "{e}");
    assert!(kept_files(&out) == before);
    std::fs::write(&lost, kept).unwrap();
    resume(&out).unwrap();
    assert!(adapter(&out) == adapter(&at("whole")));

    // Before the first checkpoint, too.
    let early = at("early");
    stop_at(online(&early), 5);
    std::fs::remove_dir_all(early.join("checkpoint-5")).unwrap();
    let before = kept_files(&early);
    let e = resume_with(&early, json!({"model": other})).unwrap_err().to_string();
    assert!(e.contains("base model") && kept_files(&early) == before, "{e}");
    resume(&early).unwrap();
    assert!(adapter(&early) == adapter(&at("whole")));
}

/// All but what can be made again.
fn kept_files(run: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = files(run);
    all.retain(|(path, _)| !path.starts_with(run.join("cache")));
    all
}

/// What is named anew is looked at; what the run kept and is damaged is made again from where it came.
#[test]
fn dynamics_and_adapters_that_are_named_anew_are_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    run(TrainConfig { recipe: Recipe::Sftmix, max_steps: Some(4), ..config(&at("earlier")) });
    run(TrainConfig { recipe: Recipe::Sftmix, max_steps: Some(4), seed: 3, ..config(&at("another")) });
    run(TrainConfig { max_steps: Some(3), ..config(&at("first")) });
    let with = |out: &str| TrainConfig {
        recipe: Recipe::Sftmix,
        dynamics: Dynamics::Path(at("earlier")),
        init_adapter: Some(at("first/adapter")),
        max_steps: Some(6),
        ..config(&at(out))
    };
    run(with("whole"));
    let out = at("run");
    stop_at(with("run"), 4);
    let e = resume_with(&out, json!({"dynamics": at("another")})).unwrap_err().to_string();
    assert!(e.contains("imported confidences"), "{e}");
    for name in ["dynamics", "init_adapter"] {
        let e = resume_with(&out, json!({ name: at("nowhere") })).unwrap_err().to_string();
        assert!(e.contains("nowhere"), "{name}: {e}");
    }
    let kept = std::fs::read(out.join("confidence.bin")).unwrap();
    for damaged in [&kept[..100], &kept[..7], &vec![0; kept.len()]] {
        std::fs::write(out.join("confidence.bin"), damaged).unwrap();
        let copy = at(&format!("copy-{}-{}", damaged.len(), damaged[0]));
        copy_tree(&out, &copy);
        resume(&copy).unwrap();
        assert!(adapter(&copy) == adapter(&at("whole")));
        assert!(std::fs::read(copy.join("confidence.bin")).unwrap() == kept);
    }
}

#[test]
fn an_adapter_that_is_gone_is_made_again_from_the_last_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    run(config(&out));
    let was = adapter(&out);
    std::fs::remove_dir_all(out.join("adapter")).unwrap();
    resume(&out).unwrap();
    assert!(adapter(&out) == was);
    std::fs::remove_dir_all(out.join("adapter")).unwrap();
    for step in [6, 9, 12] {
        let _ = std::fs::remove_dir_all(out.join(format!("checkpoint-{step}")));
    }
    let e = resume(&out).unwrap_err().to_string();
    assert!(e.contains("both its adapter/ and its checkpoints are gone"), "{e}");
}

/// Held-out rows that lay in the folder of the rows move with it.
#[test]
fn a_folder_of_rows_moves_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("rows")).unwrap();
    for name in ["train.jsonl", "valid.jsonl"] {
        std::fs::copy(project("assets/demo").join(name), at("rows").join(name)).unwrap();
    }
    let with = |out: &Path| TrainConfig { data: at("rows").into(), ..config(out) };
    run(with(&at("whole")));
    stop_at(with(&at("run")), 4);
    std::fs::rename(at("rows"), at("moved")).unwrap();
    resume_with(&at("run"), json!({"data": at("moved")})).unwrap();
    assert!(adapter(&at("run")) == adapter(&at("whole")));
}

/// A stop at a step that is evaluated and saved leaves the log of a run without it.
#[test]
fn the_log_of_a_stopped_run_is_in_the_same_order() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let with = |out: &Path| TrainConfig {
        valid: Some(project("assets/demo").join("valid.jsonl")),
        eval_every: Some(3),
        ..config(out)
    };
    run(with(&at("whole")));
    stop_at(with(&at("run")), 6);
    let stopped = resume_stopped(&at("run"));
    assert!(matches!(stopped, Error::Stopped { checkpoint: Some(path) } if path.ends_with("checkpoint-6")));
    resume(&at("run")).unwrap();
    let log = |out: &Path| {
        let text = std::fs::read_to_string(out.join("checkpoint-12/trainer_state.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["log_history"].clone()
    };
    assert_eq!(log(&at("run")), log(&at("whole")));
}

/// A resume that is stopped before it has gone on.
fn resume_stopped(out: &Path) -> Error {
    let job = TrainingJob::resume(out, &Map::new()).unwrap();
    job.stop_handle().stop();
    job.run(|_| Control::Continue).unwrap_err()
}

/// `run.json` is text: a path that it cannot say is refused by its name before anything is written.
#[cfg(target_os = "linux")]
#[test]
fn paths_that_are_no_text_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join(std::ffi::OsStr::from_bytes(b"odd-\xff"));
    std::fs::create_dir(&odd).unwrap();
    let e = TrainingJob::new(config(&odd.join("run"))).unwrap_err();
    assert!(matches!(&e, Error::InvalidConfig { field, .. } if field == "out"), "{e}");
    let e =
        TrainingJob::new(TrainConfig { cache_dir: Some(odd.clone()), ..config(&dir.path().join("run")) }).unwrap_err();
    assert!(matches!(&e, Error::InvalidConfig { field, .. } if field == "cache_dir"), "{e}");
    let e = TrainingJob::resume(&odd.join("run"), &Map::new()).unwrap_err();
    assert!(matches!(&e, Error::InvalidConfig { field, .. } if field == "out"), "{e}");
    assert!(std::fs::read_dir(&odd).unwrap().next().is_none() && !dir.path().join("run").exists());
}

/// Sums are rounded in another way on another processor: said, and no reason to refuse.
#[cfg(feature = "cli")]
#[test]
fn a_run_that_goes_on_with_other_instructions_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    stop_at(TrainConfig { max_steps: Some(4), ..config(&out) }, 2);
    let begun = support::json(&out.join("run.json"));
    let here = begun["resolved"]["instructions"].as_str().unwrap();
    assert!(["avx512", "avx2", "sse2", "neon", "scalar"].contains(&here.split('+').next().unwrap()), "{here}");
    // As begun here, on another processor, and by a version that did not record it.
    for (i, was) in [json!(here), json!("avx1024"), Value::Null].into_iter().enumerate() {
        let copy = dir.path().join(format!("copy-{i}"));
        copy_tree(&out, &copy);
        let mut file = begun.clone();
        file["config"]["out"] = json!(copy);
        file["resolved"]["instructions"] = was.clone();
        if was.is_null() {
            file["resolved"].as_object_mut().unwrap().remove("instructions");
        }
        std::fs::write(copy.join("run.json"), file.to_string()).unwrap();
        let mut train = std::process::Command::new(env!("CARGO_BIN_EXE_sftmix"));
        let ended = train.args(["train", "--resume", "--out"]).arg(&copy).env_remove("SFTMIX_LOG").output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{said}");
        let warning = format!(
            "the run was begun on avx1024 and goes on on {here}: the same numbers but for rounding, not the same bits"
        );
        assert_eq!(said.contains(&warning), was == "avx1024", "{was}: {said}");
        assert_eq!(said.contains("the run was begun on"), was == "avx1024", "{was}: {said}");
        // What it was begun with stays.
        let after = support::json(&copy.join("run.json"));
        assert_eq!(after["resolved"].get("instructions"), Some(&was).filter(|was| !was.is_null()));
    }
}

/// A checkpoint that was damaged, gone back behind and put right again counts more of the log than is there by then:
/// the run goes on from the one before it.
#[test]
fn a_checkpoint_put_right_too_late_is_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let online = |out: &Path| TrainConfig {
        recipe: Recipe::Sftmix,
        dynamics: Dynamics::Online,
        reference_epochs: 2,
        batch_size: 80,
        max_steps: None,
        save_every: 5,
        ..config(out)
    };
    run(online(&at("whole")));
    let out = at("run");
    stop_at(online(&out), 14);
    let lost = out.join("checkpoint-14/optimizer.safetensors");
    let kept = std::fs::read(&lost).unwrap();
    cut(&lost);
    // Taken up behind step 10, and gone before it has saved.
    let died = TrainingJob::resume(&out, &Map::new()).unwrap().run(|e| match e {
        Event::Step(s) if s.global_step == 12 => std::panic::resume_unwind(Box::new("died")),
        _ => Control::Continue,
    });
    assert!(matches!(died, Err(Error::Threads(_))) && lost.exists(), "{died:?}");
    std::fs::write(&lost, kept).unwrap();

    // With no other left, what there is to do.
    let alone = at("alone");
    copy_tree(&out, &alone);
    std::fs::remove_dir_all(alone.join("checkpoint-10")).unwrap();
    let before = kept_files(&alone);
    let e = resume(&alone).unwrap_err().to_string();
    for part in ["checkpoint-14: it counts 1 whole checkpoints and 320 records", "put back", "another run"] {
        assert!(e.contains(part), "{part} in {e}");
    }
    assert!(kept_files(&alone) == before);

    let mut first = None;
    let job = TrainingJob::resume(&out, &Map::new()).unwrap();
    job.run(|e| {
        if let Event::Step(s) = e {
            first.get_or_insert(s.global_step);
        }
        Control::Continue
    })
    .unwrap();
    assert_eq!(first, Some(11));
    assert!(adapter(&out) == adapter(&at("whole")));
    let log = |run: &Path| kept_files(&run.join("dynamics")).into_iter().map(|f| f.1).collect::<Vec<_>>();
    assert!(log(&out) == log(&at("whole")));
}

/// What a run has tokenised when it is stopped before it begins is there for the next; one that is refused leaves nothing.
#[test]
fn a_run_that_is_stopped_while_it_tokenises_keeps_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let rows = std::fs::read_to_string(project("assets/demo/train.jsonl")).unwrap();
    std::fs::write(at("a.jsonl"), &rows).unwrap();
    std::fs::write(at("b.jsonl"), rows.repeat(100)).unwrap();
    let with = |out: &Path| TrainConfig {
        data: DataSources(
            [("a.jsonl", 1.0), ("b.jsonl", 0.01)].map(|(path, weight)| DataSource { path: at(path), weight }).to_vec(),
        ),
        max_steps: Some(2),
        ..config(out)
    };
    run(with(&at("whole")));
    let out = at("run");
    let job = TrainingJob::new(with(&out)).unwrap();
    let (stop, cache) = (job.stop_handle(), out.join("cache"));
    let stores = || -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&cache).into_iter().flatten().map(|e| e.unwrap().path());
        entries.filter(|p| p.extension().is_some_and(|e| e == "index")).collect()
    };
    let ended = std::thread::scope(|scope| {
        let running = scope.spawn(|| job.run(|_| Control::Continue));
        while stores().is_empty() && !running.is_finished() {
            std::thread::yield_now();
        }
        stop.stop();
        running.join().unwrap()
    });
    assert!(matches!(ended, Err(Error::Stopped { checkpoint: None })), "{ended:?}");
    let first = stores();
    assert!(!first.is_empty() && first.len() <= 2, "the first file, and the second as far as it came: {first:?}");
    let in_run: Vec<_> = std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(in_run, ["cache"]);
    let whole_stores: Vec<_> = files(&at("whole/cache")).into_iter().map(|f| f.1).collect();
    let kept =
        first.iter().find(|p| whole_stores.contains(&std::fs::read(p).unwrap())).expect("the first file's store");
    let made = std::fs::metadata(kept).unwrap().modified().unwrap();

    run(with(&out));
    assert_eq!(std::fs::metadata(kept).unwrap().modified().unwrap(), made);
    assert!(adapter(&out) == adapter(&at("whole")));
    assert_eq!(stores().len(), 2);

    // Stopped before a row was read: at most the model's hash is there. Refused behind the rows: nothing.
    let job = TrainingJob::new(with(&at("none"))).unwrap();
    job.stop_handle().stop();
    assert!(matches!(job.run(|_| Control::Continue), Err(Error::Stopped { checkpoint: None })));
    let refused = TrainConfig { valid_split: Some(1e-9), ..with(&at("refused")) };
    assert!(TrainingJob::new(refused).unwrap().run(|_| Control::Continue).is_err());
    assert!(!at("refused").exists());
    let left = if at("none").exists() { files(&at("none")) } else { Vec::new() };
    assert!(left.iter().all(|(path, _)| *path == at("none/cache/hashes.json")), "{left:?}");
}
