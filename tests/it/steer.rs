//! A job that is steered from outside: pause, slices, limits, stops with and without a checkpoint, events that are
//! pulled, listeners, rows that a caller hands over.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Map;
use sftmix::{
    Control, Error, Event, JobState, Limits, Model, Recipe, RowSource, TrainConfig, TrainReport, TrainingJob,
};

use crate::support::project;

pub fn config(out: &Path) -> TrainConfig {
    TrainConfig {
        model: project("assets/demo"),
        data: project("assets/demo/train.jsonl").to_str().unwrap().into(),
        out: out.to_path_buf(),
        recipe: Recipe::Sftmix,
        epochs: 1,
        max_steps: Some(12),
        batch_size: 4,
        max_length: 64,
        threads: Some(2),
        save_every: 5,
        ..Default::default()
    }
}

pub fn adapter(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("adapter/adapter_model.safetensors")).unwrap()
}

fn whole(dir: &Path) -> Vec<u8> {
    let out = dir.join("whole");
    TrainingJob::new(config(&out)).unwrap().run(|_| Control::Continue).unwrap();
    adapter(&out)
}

#[test]
fn jobs_share_worker_threads() {
    let dir = tempfile::tempdir().unwrap();
    let want = whole(dir.path());
    let model = Model::open(project("assets/demo")).unwrap();
    let shared = model.share_workers(Some(2)).unwrap();
    let on = |name: &str, threads| {
        TrainingJob::on(&shared, TrainConfig { threads, ..config(&dir.path().join(name)) }).unwrap()
    };
    std::thread::scope(|s| {
        for name in ["a", "b"] {
            s.spawn(move || on(name, None).run(|_| Control::Continue).unwrap());
        }
    });
    assert!(adapter(&dir.path().join("a")) == want && adapter(&dir.path().join("b")) == want);
    let e = on("c", Some(3)).run(|_| Control::Continue).unwrap_err().to_string();
    assert!(e.contains("threads: expected 2 or none, found 3"), "{e}");
    assert!(!dir.path().join("c").exists());
    assert!(matches!(model.share_workers(Some(0)), Err(Error::InvalidConfig { .. })));

    // A limit on threads is refused, and the run goes on.
    let job = on("d", None);
    job.control().update(Limits { threads: Some(1), ..Default::default() }).unwrap();
    let mut refused = None;
    job.run(|event| {
        if let Event::Limits { refused: why, .. } = event {
            refused = why.clone();
        }
        Control::Continue
    })
    .unwrap();
    assert!(refused.is_some_and(|why| why.contains("expected 2 or none, found 1")));
    assert!(adapter(&dir.path().join("d")) == want);
}

/// Waits until the job is at a state.
fn until(job: &TrainingJob, state: JobState) {
    let begun = Instant::now();
    while job.control().status().state != state {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", job.control().status());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Pulls and acknowledges every event until there is none, and gives the steps' numbers.
fn drain(job: &TrainingJob, mut each: impl FnMut(&Event)) -> Vec<u64> {
    let mut steps = Vec::new();
    while let Some(next) = job.control().next_event(Duration::MAX).unwrap() {
        if let Event::Step(s) = &next.event {
            steps.push(s.global_step);
        }
        each(&next.event);
        job.control().acknowledge(next.number).unwrap();
    }
    steps
}

#[test]
fn a_pause_waits_behind_a_checkpoint_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let want = whole(dir.path());
    let out = dir.path().join("paused");
    let job = TrainingJob::new(config(&out)).unwrap();
    assert_eq!(job.control().status().state, JobState::Idle);
    job.start().unwrap();
    for at in [3, 9] {
        while job.control().status().global_step < at {
            std::thread::sleep(Duration::from_millis(1));
        }
        job.control().pause();
        until(&job, JobState::Paused);
        let status = job.control().status();
        let checkpoint = status.checkpoint.unwrap();
        assert!(checkpoint.ends_with(format!("checkpoint-{}", status.global_step)), "{checkpoint:?}");
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(job.control().status().global_step, status.global_step, "it goes on in a pause");
        job.control().resume();
    }
    job.wait().unwrap();
    assert_eq!(job.control().status().state, JobState::Done);
    assert!(adapter(&out) == want);
    // Another waiter is told the same, and the finished run gives its report again.
    assert_eq!(job.wait().unwrap(), job.run(|_| Control::Continue).unwrap());
}

#[test]
fn a_paused_job_can_be_stopped_or_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let job = TrainingJob::new(config(&dir.path().join("a"))).unwrap();
    job.control().pause();
    job.start().unwrap();
    until(&job, JobState::Paused);
    assert!(matches!(job.start(), Err(Error::Misuse(_))), "a job that runs is begun again");
    job.control().cancel(true);
    assert!(matches!(job.wait(), Err(Error::Stopped { .. })));
    assert_eq!(job.control().status().state, JobState::Cancelled);

    let out = dir.path().join("b");
    let job = TrainingJob::new(config(&out)).unwrap();
    job.start().unwrap();
    until(&job, JobState::Running);
    job.control().pause();
    until(&job, JobState::Paused);
    drop(job);
    // Its threads and its lock are gone.
    TrainingJob::resume(&out, &Map::new()).unwrap().run(|_| Control::Continue).unwrap();
}

#[test]
fn slices_go_on_to_the_same_bytes_in_one_process_and_in_several() {
    let dir = tempfile::tempdir().unwrap();
    let want = whole(dir.path());
    for anew in [false, true] {
        let out = dir.path().join(format!("slices-{anew}"));
        let mut job = TrainingJob::new(config(&out)).unwrap();
        // A rest behind each micro-batch, so that no machine is done within a slice.
        job.control().update(Limits { duty_cycle: Some(0.5), ..Default::default() }).unwrap();
        let mut slices = 0;
        let report: TrainReport = loop {
            let begun = Instant::now();
            let slice = job.run_slice(Duration::from_millis(400)).unwrap();
            slices += 1;
            assert!(slices < 500);
            match slice.report {
                Some(report) => break report,
                None => assert!(begun.elapsed() < Duration::from_secs(20)),
            }
            assert_eq!(job.control().status().state, JobState::Idle);
            if anew && out.join("run.json").exists() {
                job = TrainingJob::resume(&out, &Map::new()).unwrap();
                job.control().update(Limits { duty_cycle: Some(0.5), ..Default::default() }).unwrap();
            }
        };
        println!("{slices} slices");
        assert!(report.steps > 12 && adapter(&out) == want);
    }
}

#[test]
fn a_stop_without_a_checkpoint_leaves_the_newest_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let want = whole(dir.path());
    let out = dir.path().join("cut");
    let job = TrainingJob::new(config(&out)).unwrap();
    let control = job.control().clone();
    let ended = job.run(|event| {
        if matches!(event, Event::Step(s) if s.global_step == 8) {
            control.cancel(false);
        }
        Control::Continue
    });
    let Err(Error::Stopped { checkpoint: Some(checkpoint) }) = ended else { panic!("{ended:?}") };
    // Of the sweep before.
    assert!(checkpoint.ends_with("checkpoint-6"), "{checkpoint:?}");
    assert!(!out.join("checkpoint-8").exists());
    job.run(|_| Control::Continue).unwrap();
    assert!(adapter(&out) == want);
}

#[test]
fn limits_hold_from_the_next_micro_batch_on() {
    let dir = tempfile::tempdir().unwrap();
    let want = whole(dir.path());
    let out = dir.path().join("limited");
    let job = TrainingJob::new(config(&out)).unwrap();
    let control = job.control().clone();
    for (bad, field) in [
        (Limits { threads: Some(0), ..Default::default() }, "threads"),
        (Limits { duty_cycle: Some(0.0), ..Default::default() }, "duty_cycle"),
        (Limits { duty_cycle: Some(1.5), ..Default::default() }, "duty_cycle"),
        (Limits { duty_cycle: Some(f64::NAN), ..Default::default() }, "duty_cycle"),
    ] {
        assert!(matches!(control.update(bad), Err(Error::InvalidConfig { field: f, .. }) if f == field));
    }
    let (mut told, mut least) = (Vec::new(), 0);
    job.run(|event| {
        match event {
            Event::Step(s) if s.global_step == 2 => {
                let refused = control.update(Limits { memory_limit: Some(1000), ..Default::default() });
                let Err(Error::MemoryLimit { limit: 1000, needed, .. }) = refused else { panic!("{refused:?}") };
                least = needed;
                control.update(Limits { memory_limit: Some(needed), duty_cycle: Some(0.9), threads: None }).unwrap();
            }
            Event::Limits { limits, refused } => told.push((*limits, refused.clone())),
            _ => {}
        }
        Control::Continue
    })
    .unwrap();
    let limits = Limits { threads: None, duty_cycle: Some(0.9), memory_limit: Some(least) };
    assert_eq!(told, [(limits, None)]);
    assert_eq!(control.status().limits, limits);
    assert!(adapter(&out) == want, "memory and rest change nothing that is computed");

    let job = TrainingJob::new(config(&dir.path().join("threads"))).unwrap();
    job.control().update(Limits { threads: Some(1), ..Default::default() }).unwrap();
    job.run(|_| Control::Continue).unwrap();
    assert_eq!(job.control().status().limits.threads, Some(1));
}

#[test]
fn events_come_until_they_are_acknowledged_also_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let job = TrainingJob::new(TrainConfig { valid_split: Some(0.1), ..config(&out) }).unwrap();
    assert!(job.control().next_event(Duration::ZERO).unwrap().is_none(), "an event before it is begun");
    assert!(matches!(job.control().acknowledge(1), Err(Error::Misuse(_))));
    job.start().unwrap();
    let first = job.control().next_event(Duration::MAX).unwrap().unwrap();
    let again = job.control().next_event(Duration::ZERO).unwrap().unwrap();
    assert_eq!((first.number, again.number), (1, 1));
    assert!(matches!(first.event, Event::Prepared(_)));
    let mut seen = Vec::new();
    let mut acknowledged = 0;
    while acknowledged < 7 {
        let next = job.control().next_event(Duration::MAX).unwrap().unwrap();
        if let Event::Step(s) = &next.event {
            seen.push(s.global_step);
            acknowledged += 1;
        }
        job.control().acknowledge(next.number).unwrap();
        job.control().acknowledge(next.number).unwrap();
    }
    // The reader goes; the run ends without it.
    let report = job.wait().unwrap();
    drop(job);
    std::fs::remove_file(out.join("report.json")).unwrap();
    std::fs::remove_dir_all(out.join("adapter")).unwrap();
    let job = TrainingJob::resume(&out, &Map::new()).unwrap();
    job.start().unwrap();
    let mut evaluated = 0;
    seen.extend(drain(&job, |event| evaluated += usize::from(matches!(event, Event::Evaluated(_)))));
    assert_eq!(seen, (1..=report.steps).collect::<Vec<_>>());
    assert!(evaluated >= 1);
}

#[test]
fn a_reader_that_is_late_misses_no_step() {
    let dir = tempfile::tempdir().unwrap();
    let job = TrainingJob::new(config(&dir.path().join("run"))).unwrap();
    job.start().unwrap();
    let report = job.wait().unwrap();
    let mut words = Vec::new();
    let steps = drain(&job, |event| {
        let json = serde_json::to_value(event).unwrap();
        words.push(json["event"].as_str().unwrap().to_string());
    });
    assert_eq!(steps, (1..=report.steps).collect::<Vec<_>>());
    assert_eq!(words[0], "prepared");
    for word in ["split", "step", "checkpoint", "sweep"] {
        assert!(words.iter().any(|w| w == word), "{word} {words:?}");
    }
}

#[test]
fn a_listener_is_told_and_its_failure_reaches_the_caller() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let told = Arc::new(AtomicUsize::new(0));
    let count = told.clone();
    let job = TrainingJob::new(config(&out)).unwrap().listened(Box::new(move |event| {
        match event {
            Event::Step(s) if s.global_step >= 3 => return Err("the screen is gone".into()),
            _ => count.fetch_add(1, SeqCst),
        };
        Ok(Control::Continue)
    }));
    job.start().unwrap();
    let ended = job.wait();
    assert!(matches!(&ended, Err(Error::Callback { reason }) if reason == "the screen is gone"), "{ended:?}");
    assert_eq!(job.control().status().state, JobState::Failed);
    assert!(told.load(SeqCst) >= 1);
    TrainingJob::resume(&out, &Map::new()).unwrap().run(|_| Control::Continue).unwrap();
}

fn source(mut rows: Vec<String>) -> RowSource {
    rows.reverse();
    Box::new(move || Ok(rows.pop()))
}

#[test]
fn rows_may_be_handed_over() {
    let dir = tempfile::tempdir().unwrap();
    let want = whole(dir.path());
    let text = std::fs::read_to_string(project("assets/demo/train.jsonl")).unwrap();
    let rows: Vec<String> = text.lines().map(String::from).collect();
    let of = |name: &str| TrainConfig { data: Default::default(), ..config(&dir.path().join(name)) };

    let job = TrainingJob::with_rows(of("handed"), source(rows.clone())).unwrap();
    // Slices that end before the run is begun ask for no row twice.
    assert!(job.run_slice(Duration::ZERO).unwrap().report.is_none());
    job.run(|_| Control::Continue).unwrap();
    assert!(adapter(&dir.path().join("handed")) == want);

    let e = TrainingJob::with_rows(config(&dir.path().join("both")), source(rows.clone())).unwrap_err();
    assert!(matches!(e, Error::InvalidConfig { field, .. } if field == "data"));
    let ends = |name: &str, rows: RowSource| {
        let e = TrainingJob::with_rows(of(name), rows).unwrap().run(|_| Control::Continue).unwrap_err();
        assert!(!dir.path().join(name).exists(), "something is left of {name}");
        e
    };
    assert!(matches!(ends("none", source(Vec::new())), Error::NothingToTrain { .. }));
    let e = ends("bad", source(vec![rows[0].clone(), "[1]".into()]));
    assert!(matches!(&e, Error::DataInvalid { row: 2, .. }), "{e}");
    let mut left = 3;
    let failing = move || {
        left -= 1;
        if left == 0 {
            Err("the database is gone".into())
        } else {
            Ok(Some(r#"{"text": "a b"}"#.to_string()))
        }
    };
    assert!(
        matches!(ends("failing", Box::new(failing)), Error::Callback { reason } if reason == "the database is gone")
    );
    assert!(matches!(ends("panics", Box::new(|| panic!("oh"))), Error::Callback { reason } if reason == "oh"));

    let theirs = dir.path().join("theirs");
    std::fs::create_dir(&theirs).unwrap();
    std::fs::write(theirs.join("rows.jsonl"), "mine").unwrap();
    let e = TrainingJob::with_rows(of("theirs"), source(rows)).unwrap().run(|_| Control::Continue).unwrap_err();
    assert!(matches!(e, Error::Checkpoint { .. }));
    assert_eq!(std::fs::read_to_string(theirs.join("rows.jsonl")).unwrap(), "mine");
}

/// A slice that is shorter than a step, an evaluation or the preparation still brings the run on.
#[test]
fn the_shortest_slices_have_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let valid = |out: &Path| TrainConfig { valid_split: Some(0.2), eval_every: Some(4), ..config(out) };
    let at = |name: &str| dir.path().join(name);
    TrainingJob::new(valid(&at("whole"))).unwrap().run(|_| Control::Continue).unwrap();
    let job = TrainingJob::new(valid(&at("slices"))).unwrap();
    // Each brings some rows, a step, or a batch of a sweep, whatever its time.
    let mut slices = 0;
    while job.run_slice(Duration::ZERO).unwrap().report.is_none() {
        slices += 1;
        assert!(slices < 300);
    }
    assert!(slices > 20, "{slices}");
    assert!(adapter(&at("slices")) == adapter(&at("whole")));
}

/// What a callback of a job must not do is refused, and does not hang.
#[test]
fn a_callback_that_waits_for_its_own_job_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let slot: Arc<std::sync::OnceLock<std::sync::Weak<TrainingJob>>> = Arc::default();
    let (inside, said) = (slot.clone(), Arc::new(std::sync::Mutex::new(Vec::new())));
    let tell = said.clone();
    let job = TrainingJob::new(config(&dir.path().join("run"))).unwrap().listened(Box::new(move |event| {
        if matches!(event, Event::Prepared(_)) {
            let job = inside.get().and_then(|job| job.upgrade()).unwrap();
            let waited = matches!(job.wait(), Err(Error::Misuse(_)));
            let begun = matches!(job.start(), Err(Error::Misuse(_)));
            while let Some(next) = job.control().next_event(Duration::MAX).unwrap() {
                job.control().acknowledge(next.number).unwrap();
            }
            job.control().update(Limits { duty_cycle: Some(1.0), ..Default::default() }).unwrap();
            tell.lock().unwrap().push((waited, begun));
        }
        Ok(Control::Continue)
    }));
    let job = Arc::new(job);
    slot.set(Arc::downgrade(&job)).unwrap();
    job.start().unwrap();
    job.wait().unwrap();
    assert_eq!(*said.lock().unwrap(), [(true, true)]);
}

/// A job that is stopped while rows are handed over cannot ask for the first of them again, and says so.
#[test]
fn rows_that_were_handed_over_in_part_are_not_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    let config = TrainConfig { data: Default::default(), ..config(&dir.path().join("run")) };
    let text = std::fs::read_to_string(project("assets/demo/train.jsonl")).unwrap();
    let mut rows = text.lines().map(String::from).collect::<Vec<_>>().into_iter();
    let slot: Arc<std::sync::OnceLock<sftmix::JobControl>> = Arc::default();
    let stop = slot.clone();
    let next = move || {
        if rows.len() < 500 {
            stop.get().unwrap().cancel(true);
        }
        Ok(rows.next())
    };
    let job = TrainingJob::with_rows(config, Box::new(next)).unwrap();
    slot.set(job.control().clone()).unwrap();
    assert!(matches!(job.run(|_| Control::Continue), Err(Error::Stopped { .. })));
    let e = job.run(|_| Control::Continue).unwrap_err();
    assert!(matches!(&e, Error::Callback { reason } if reason.contains("in part")), "{e}");
    assert!(!dir.path().join("run").exists());
}

/// A pause that is asked for before the job, or between two slices, holds it.
#[test]
fn a_pause_may_be_asked_for_before_there_is_anything_to_pause() {
    let dir = tempfile::tempdir().unwrap();
    let job = TrainingJob::new(config(&dir.path().join("run"))).unwrap();
    assert!(job.run_slice(Duration::from_millis(1)).unwrap().report.is_none());
    job.control().pause();
    job.start().unwrap();
    until(&job, JobState::Paused);
    job.control().resume();
    job.wait().unwrap();
}
