//! What is asked of a job at an odd moment: between slices, in a rest, in an evaluation or a sweep, before it is begun and
//! after its end. Nothing that was asked for is lost, and nothing holds for longer than it was meant.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Map;
use sftmix::{Control, Error, Event, JobState, Limits, Recipe, TrainConfig, TrainingJob};

use crate::steer::{adapter, config};
use crate::support::project;

fn until(job: &TrainingJob, what: impl Fn(&sftmix::JobStatus) -> bool) {
    let begun = Instant::now();
    while !what(&job.control().status()) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", job.control().status());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn paused(job: &TrainingJob) {
    until(job, |s| s.state == JobState::Paused);
    let status = job.control().status();
    let checkpoint = status.checkpoint.expect("a pause without a checkpoint");
    assert!(checkpoint.ends_with(format!("checkpoint-{}", status.global_step)), "{checkpoint:?}");
    assert!(checkpoint.join("trainer_state.json").exists());
}

fn whole(config: TrainConfig) -> Vec<u8> {
    let out = config.out.clone();
    TrainingJob::new(config).unwrap().run(|_| Control::Continue).unwrap();
    adapter(&out)
}

fn limits(threads: Option<usize>, duty_cycle: Option<f64>) -> Limits {
    Limits { threads, duty_cycle, memory_limit: None }
}

#[test]
fn a_paused_job_still_ends_its_slices() {
    let dir = tempfile::tempdir().unwrap();
    let want = whole(config(&dir.path().join("whole")));
    let out = dir.path().join("run");
    let job = TrainingJob::new(config(&out)).unwrap();
    // A rest behind each micro-batch, so that no machine is done within a slice.
    job.control().update(limits(None, Some(0.1))).unwrap();
    while job.control().status().global_step < 2 {
        assert!(job.run_slice(Duration::from_millis(200)).unwrap().report.is_none());
    }
    job.control().pause();
    for _ in 0..2 {
        // The pause holds from slice to slice.
        let (step, begun) = (job.control().status().global_step, Instant::now());
        let slice = job.run_slice(Duration::from_millis(300)).unwrap();
        assert!(slice.report.is_none() && begun.elapsed() < Duration::from_secs(20));
        assert_eq!((job.control().status().state, job.control().status().global_step), (JobState::Idle, step));
    }
    job.control().resume();
    job.control().update(limits(None, Some(1.0))).unwrap();
    while job.run_slice(Duration::from_secs(2)).unwrap().report.is_none() {}
    assert!(adapter(&out) == want);
}

#[test]
fn a_pause_in_a_rest_or_an_evaluation_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let judged = |out: &Path| TrainConfig { valid_split: Some(0.2), eval_every: Some(4), ..config(out) };
    let want = whole(judged(&dir.path().join("whole")));

    let rested = dir.path().join("rested");
    let job = TrainingJob::new(judged(&rested)).unwrap();
    job.control().update(limits(None, Some(0.1))).unwrap();
    job.start().unwrap();
    until(&job, |s| s.global_step >= 1);
    // It rests for most of the time: the pause comes in a rest.
    job.control().update(limits(None, Some(0.01))).unwrap();
    until(&job, |s| s.limits.duty_cycle == Some(0.01));
    let step = job.control().status().global_step;
    until(&job, |s| s.global_step > step);
    job.control().pause();
    paused(&job);
    job.control().update(limits(None, Some(1.0))).unwrap();
    job.control().resume();
    job.wait().unwrap();
    assert!(adapter(&rested) == want);

    let out = dir.path().join("judged");
    let job = Arc::new(TrainingJob::new(judged(&out)).unwrap());
    let (control, own) = (job.control().clone(), job.clone());
    let running = std::thread::spawn(move || {
        own.run(|event| {
            // What comes next is the evaluation of this step.
            if matches!(event, Event::Step(s) if s.global_step == 4) {
                control.pause();
            }
            Control::Continue
        })
    });
    paused(&job);
    assert_eq!(job.control().status().global_step, 4);
    job.control().resume();
    let report = running.join().unwrap().unwrap();
    assert!(adapter(&out) == want && report.steps == 24);
}

#[test]
fn a_stop_between_slices_stops_the_next_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let want = whole(config(&dir.path().join("whole")));
    for save in [true, false] {
        let out = dir.path().join(format!("run-{save}"));
        let job = TrainingJob::new(config(&out)).unwrap();
        job.control().update(limits(None, Some(0.1))).unwrap();
        while job.control().status().global_step < 2 {
            job.run_slice(Duration::from_millis(200)).unwrap();
        }
        match save {
            true => job.stop_handle().stop(),
            false => job.control().cancel(false),
        }
        let stopped = job.run_slice(Duration::from_secs(60));
        assert!(matches!(stopped, Err(Error::Stopped { checkpoint: Some(_) })), "{stopped:?}");
        assert_eq!(job.control().status().state, JobState::Cancelled);
        // Of a job that has ended a second press asks nothing, and the next slice is saved as ever.
        job.control().cancel(false);
        let slice = job.run_slice(Duration::from_millis(300)).unwrap();
        let at = job.control().status().global_step;
        assert!(slice.report.is_some() || slice.checkpoint.unwrap().ends_with(format!("checkpoint-{at}")));
        job.control().update(limits(None, Some(1.0))).unwrap();
        job.run(|_| Control::Continue).unwrap();
        assert!(adapter(&out) == want);
    }
}

#[test]
fn a_job_that_is_dropped_is_stopped_as_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let job = TrainingJob::new(TrainConfig { recipe: Recipe::Ntp, save_every: 100, ..config(&out) }).unwrap();
    job.control().update(limits(None, Some(0.1))).unwrap();
    job.start().unwrap();
    until(&job, |s| s.global_step >= 2);
    job.control().cancel(false);
    drop(job);
    let checkpoints = std::fs::read_dir(&out).unwrap().flatten().filter(|e| e.file_name().len() > 10);
    let names: Vec<_> = checkpoints.map(|e| e.file_name()).filter(|n| n.to_string_lossy().starts_with("ch")).collect();
    assert!(names.is_empty(), "{names:?}");
    TrainingJob::resume(&out, &Map::new()).unwrap().run(|_| Control::Continue).unwrap();
}

#[test]
fn limits_hold_in_later_attempts_and_from_a_sweep_or_an_evaluation_on() {
    let dir = tempfile::tempdir().unwrap();
    let judged = |out: &Path| TrainConfig { valid_split: Some(0.2), ..config(out) };
    let want = whole(judged(&dir.path().join("whole")));
    let out = dir.path().join("run");
    let job = TrainingJob::new(judged(&out)).unwrap();
    job.control().update(limits(Some(1), None)).unwrap();
    let mut told = Vec::new();
    let stopped = job.run(|event| {
        match event {
            // The untouched model's evaluation comes first.
            Event::Evaluated(e) if e.stage == "base" => assert_eq!(told.len(), 1, "it waits for a step"),
            Event::Limits { limits, .. } => told.push(limits.threads),
            Event::Step(s) if s.global_step == 3 => return Control::Stop,
            _ => {}
        }
        Control::Continue
    });
    assert!(matches!(stopped, Err(Error::Stopped { .. })));
    let (mut sweeps, mut asked, mut found) = (0, None, None);
    let control = job.control().clone();
    job.run(|event| {
        match event {
            Event::Limits { limits, .. } => {
                told.push(limits.threads);
                if limits.threads == Some(2) {
                    found.get_or_insert(sweeps);
                }
            }
            Event::Sweep { done, total, .. } => {
                sweeps += 1;
                if asked.is_none() && done < total {
                    asked = Some(sweeps);
                    control.update(limits(Some(2), None)).unwrap();
                }
            }
            _ => {}
        }
        Control::Continue
    })
    .unwrap();
    assert_eq!(told, [Some(1), Some(1), Some(2)]);
    assert!(asked.is_some() && found == asked, "asked at {asked:?}, in force at {found:?}");
    assert_eq!(adapter(&out).len(), want.len());
}

#[test]
fn a_pause_is_not_counted() {
    let dir = tempfile::tempdir().unwrap();
    let job = TrainingJob::new(config(&dir.path().join("run"))).unwrap();
    let begun = Instant::now();
    job.start().unwrap();
    until(&job, |s| s.global_step >= 3);
    job.control().pause();
    until(&job, |s| s.state == JobState::Paused);
    std::thread::sleep(Duration::from_secs(2));
    job.control().resume();
    let report = job.wait().unwrap();
    let wall = begun.elapsed().as_secs_f64();
    assert!(report.seconds <= wall - 2.0, "{} of {wall} s", report.seconds);
}

#[test]
fn events_of_a_finished_run_come_to_who_has_not_dealt_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let report = TrainingJob::new(config(&out)).unwrap().run(|_| Control::Continue).unwrap();
    let job = TrainingJob::resume(&out, &Map::new()).unwrap();
    job.start().unwrap();
    let mut steps = Vec::new();
    while let Some(next) = job.control().next_event(Duration::MAX).unwrap() {
        if let Event::Step(s) = next.event {
            steps.push(s.global_step);
        }
        job.control().acknowledge(next.number).unwrap();
    }
    assert_eq!(steps, (1..=report.steps).collect::<Vec<_>>());
    job.wait().unwrap();
}

/// A process that was killed between the rows and the run has left rows that are ours: the next may hand over its own.
#[test]
fn rows_that_a_killed_process_left_are_no_hindrance() {
    let dir = tempfile::tempdir().unwrap();
    let want = whole(config(&dir.path().join("whole")));
    let text = std::fs::read_to_string(project("assets/demo/train.jsonl")).unwrap();
    let out = dir.path().join("run");
    std::fs::create_dir(&out).unwrap();
    // As they lie there at that moment.
    std::fs::write(out.join(".rows"), "").unwrap();
    std::fs::write(out.join("rows.jsonl"), r#"{"text": "of another attempt"}"#).unwrap();
    let handed = |bad: bool| {
        let rows = Mutex::new(text.lines().map(String::from).collect::<Vec<_>>().into_iter());
        let with = TrainConfig { data: Default::default(), ..config(&out) };
        let mut given = 0;
        let source = move || {
            given += 1;
            let row = rows.lock().unwrap().next();
            Ok(if bad && given == 3 { Some(r#"{"text": "cut"#.to_string()) } else { row })
        };
        TrainingJob::with_rows(with, Box::new(source)).unwrap()
    };
    let e = handed(true).run(|_| Control::Continue).unwrap_err();
    assert!(matches!(&e, Error::DataInvalid { row: 3, .. }), "{e}");
    assert!(!out.join("rows.jsonl").exists() && !out.join(".rows").exists());
    handed(false).run(|_| Control::Continue).unwrap();
    assert!(adapter(&out) == want && !out.join(".rows").exists() && out.join("rows.jsonl").exists());
}
