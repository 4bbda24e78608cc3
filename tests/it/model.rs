//! A model that is open: its files opened once each, shared by who works on it at the same time, and asked before each pass
//! whether they are what they were.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use sftmix::export::{export, export_on, merge_on, quantize, AdapterSource, ExportConfig, Format, MergeConfig};
use sftmix::export::{quantize_on, QuantizeConfig};
use sftmix::internal::data::inspect::{inspect, InspectConfig};
use sftmix::{
    evaluate, evaluate_on, plan, plan_on, Control, DeviceSetting, Error, EvalConfig, Event, GenerateConfig, Generator,
    Model, Recipe, StopHandle, TrainConfig, TrainReport, TrainingJob,
};

use crate::support::project;

const FILES: [&str; 5] =
    ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];
const WEIGHTS: &str = "model.safetensors";

/// A copy of the demo's model in a folder of its own.
fn copy(to: &Path) -> PathBuf {
    fs::create_dir_all(to).unwrap();
    for file in FILES {
        fs::copy(project("assets/demo").join(file), to.join(file)).unwrap();
    }
    to.to_path_buf()
}

/// The same model as a GGUF file in a folder of its own.
fn gguf(model: &Path, to: &Path) -> PathBuf {
    fs::create_dir_all(to).unwrap();
    let out = to.join("model.gguf");
    quantize(&QuantizeConfig { model: model.into(), kind: "q8_0".parse().unwrap(), out: out.clone() }).unwrap();
    out
}

fn config(model: &Path, out: &Path, recipe: Recipe) -> TrainConfig {
    let assets = project("assets/demo");
    TrainConfig {
        model: model.into(),
        data: assets.join("train.jsonl").into(),
        valid: Some(assets.join("valid.jsonl")),
        out: out.into(),
        recipe,
        max_length: 64,
        batch_size: 16,
        lora: Some(sftmix::LoraConfig { r: 4, ..Default::default() }),
        lr: 1e-3,
        epochs: 1,
        max_steps: Some(12),
        save_every: 4,
        threads: Some(2),
        device: DeviceSetting::Cpu,
        ..Default::default()
    }
}

fn run(job: TrainingJob) -> TrainReport {
    job.run(|_| Control::Continue).unwrap()
}

fn adapter(report: &TrainReport) -> [Vec<u8>; 3] {
    ["adapter_model.safetensors", "adapter_config.json", "sftmix.json"]
        .map(|name| fs::read(report.adapter.join(name)).unwrap())
}

fn evaluation(model: &Path, adapter: Option<&Path>, cache: &Path) -> EvalConfig {
    EvalConfig {
        model: model.into(),
        adapter: adapter.map(Path::to_path_buf),
        data: project("assets/demo/test.jsonl"),
        max_length: 64,
        threads: Some(2),
        device: DeviceSetting::Cpu,
        cache_dir: Some(cache.into()),
        ..Default::default()
    }
}

fn text(generator: &mut Generator, tokens: usize, mut seen: impl FnMut(usize)) -> sftmix::Result<String> {
    let config = GenerateConfig { max_new_tokens: tokens, temperature: 0.0, ..Default::default() };
    let mut number = 0;
    let made = generator.generate("The colour of", &config, &mut |_| {
        number += 1;
        seen(number);
        Control::Continue
    })?;
    Ok(made.text)
}

/// Cuts a file to its first kilobyte, in place.
fn cut(path: &Path) -> u64 {
    let file = File::options().write(true).open(path).unwrap();
    let before = file.metadata().unwrap().len();
    file.set_len(1024).unwrap();
    before
}

fn changed(error: Error, file: &Path, before: u64) {
    match error {
        Error::ModelFormat { path, reason, .. } => {
            assert_eq!(path, file);
            let said = format!("{before} bytes at opening, 1024 now");
            assert!(reason.contains(&said), "{reason}");
        }
        e => panic!("{e:?}"),
    }
}

/// Windows does not cut a file that is mapped.
fn cannot_be_cut() -> bool {
    if cfg!(windows) {
        println!("skipped: Windows refuses to cut a mapped file");
    }
    cfg!(windows)
}

#[test]
fn weights_that_are_cut_off_end_a_run_and_not_the_process() {
    if cannot_be_cut() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for form in ["folder", "gguf"] {
        let folder = copy(&at(&format!("{form}-model")));
        let (model, weights) = match form {
            "folder" => (folder.clone(), folder.join(WEIGHTS)),
            _ => {
                let file = gguf(&folder, &at("one"));
                (file.clone(), file)
            }
        };
        let whole = fs::read(&weights).unwrap();
        let undisturbed = run(TrainingJob::new(config(&model, &at(&format!("{form}-a")), Recipe::Ntp)).unwrap());
        let out = at(&format!("{form}-b"));
        let (mut last, mut before) = (None, 0);
        let error = TrainingJob::new(config(&model, &out, Recipe::Ntp)).unwrap().run(|event| {
            match event {
                Event::Checkpoint { path } => last = Some(path.clone()),
                Event::Step(step) if step.global_step == 6 => before = cut(&weights),
                _ => {}
            }
            Control::Continue
        });
        changed(error.unwrap_err(), &weights, before);
        let last = last.unwrap();
        assert!(last.to_string_lossy().ends_with('4') && last.is_dir(), "{}", last.display());
        // With the file whole again the run goes on from there.
        fs::write(&weights, &whole).unwrap();
        let report = run(TrainingJob::resume(&out, &serde_json::Map::new()).unwrap());
        assert_eq!(adapter(&report)[..2], adapter(&undisturbed)[..2]);
    }
}

#[test]
fn weights_that_are_cut_off_end_a_generation_and_not_the_process() {
    if cannot_be_cut() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let folder = copy(&dir.path().join("model"));
    let weights = folder.join(WEIGHTS);
    let model = Model::open(&folder).unwrap();
    let mut generator = Generator::on(&model, DeviceSetting::Cpu, Some(2)).unwrap();
    let alone = text(&mut generator, 12, |_| ()).unwrap();
    let mut before = 0;
    let error = text(&mut generator, 12, |number| {
        if number == 3 {
            before = cut(&weights);
        }
    });
    changed(error.unwrap_err(), &weights, before);
    // Who works on the model is told likewise, from its first pass on or before it.
    let all = [
        model.unchanged(),
        text(&mut generator, 1, |_| ()).map(drop),
        evaluate_on(&model, &evaluation(Path::new(""), None, &dir.path().join("cache")), &StopHandle::default())
            .map(drop),
        Generator::on(&model, DeviceSetting::Cpu, Some(2)).map(drop),
        TrainingJob::on(&model, config(Path::new(""), &dir.path().join("run"), Recipe::Ntp))
            .and_then(|job| job.run(|_| Control::Continue).map(drop)),
    ];
    all.into_iter().for_each(|result| changed(result.unwrap_err(), &weights, before));
    // Another file in its place is another model's; this one has what it had.
    let other = copy(&dir.path().join("other"));
    let model = Model::open(&other).unwrap();
    let mut generator = Generator::on(&model, DeviceSetting::Cpu, Some(2)).unwrap();
    fs::rename(&weights, other.join(WEIGHTS)).unwrap();
    assert_eq!(text(&mut generator, 12, |_| ()).unwrap(), alone);
}

#[test]
fn a_file_that_was_written_to_is_noticed_by_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let folder = copy(&dir.path().join("model"));
    let model = Model::open(&folder).unwrap();
    let file = File::options().write(true).open(folder.join(WEIGHTS)).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000)).unwrap();
    let error = model.unchanged().unwrap_err().to_string();
    assert!(error.contains(WEIGHTS) && error.contains("of another time"), "{error}");
}

#[test]
fn one_model_is_shared_by_all_who_work_on_it_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let folder = copy(&at("model"));
    let alone = run(TrainingJob::new(config(&folder, &at("alone"), Recipe::Ntp)).unwrap());
    let mut generator = Generator::open(&folder, None, DeviceSetting::Cpu, Some(2)).unwrap();
    let said = text(&mut generator, 24, |_| ()).unwrap();
    let cache = at("cache");
    let judged = evaluate(&evaluation(&folder, None, &cache)).unwrap();
    drop(generator);

    let model = Model::open(&folder).unwrap();
    let jobs =
        ["one", "two"].map(|name| TrainingJob::on(&model, config(Path::new(""), &at(name), Recipe::Ntp)).unwrap());
    let handles = jobs.map(|job| {
        job.start().unwrap();
        job
    });
    let mut generator = Generator::on(&model, DeviceSetting::Cpu, Some(2)).unwrap();
    let mut times = 0;
    while times < 3 || !handles.iter().all(|h| h.is_finished()) {
        assert_eq!(text(&mut generator, 24, |_| ()).unwrap(), said);
        assert_eq!(
            evaluate_on(&model, &evaluation(Path::new(""), None, &cache), &StopHandle::default()).unwrap(),
            judged
        );
        times += 1;
    }
    for handle in handles {
        assert_eq!(adapter(&handle.wait().unwrap()), adapter(&alone));
    }
    // The adapter of a run is put on the model that it was trained on, without a file being read again.
    generator.set_adapter(Some(&alone.adapter)).unwrap();
    assert_ne!(text(&mut generator, 24, |_| ()).unwrap(), said);
}

#[test]
fn what_takes_a_model_gives_what_its_path_gives() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let folder = copy(&at("model"));
    let model = Model::open(&folder).unwrap();
    assert_eq!(model.path(), folder);
    let report = run(TrainingJob::on(&model, config(Path::new("elsewhere"), &at("run"), Recipe::Ntp)).unwrap());

    let settings = config(&folder, &at("planned"), Recipe::Ntp);
    let (by_path, on) = (plan(&settings).unwrap(), plan_on(&model, &settings).unwrap());
    assert_eq!((by_path.predicted_peak_bytes, by_path.gflop), (on.predicted_peak_bytes, on.gflop));

    let source = AdapterSource {
        model: Some(folder.clone()),
        adapter: Some(report.adapter.clone()),
        threads: Some(2),
        cache_dir: Some(at("cache")),
        ..Default::default()
    };
    let to = |name: &str| ExportConfig { source: source.clone(), formats: vec![Format::Gguf], out: Some(at(name)) };
    let (by_path, on) = (export(&to("a")).unwrap(), export_on(&model, &to("b")).unwrap());
    let file = |e: &sftmix::export::ExportReport| fs::read(e.exports[0].path.join("adapter.gguf")).unwrap();
    assert_eq!(file(&by_path), file(&on));

    let merged = MergeConfig { source, out: at("merged"), ..Default::default() };
    let merged = merge_on(&model, &merged).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"] {
        assert_eq!(fs::read(merged.path.join(name)).unwrap(), fs::read(folder.join(name)).unwrap(), "{name}");
    }
    let quantized = QuantizeConfig { model: "".into(), kind: "q8_0".parse().unwrap(), out: at("on.gguf") };
    quantize_on(&model, &quantized).unwrap();
    assert_eq!(fs::read(at("on.gguf")).unwrap(), fs::read(gguf(&folder, &at("by-path"))).unwrap());
    let one = Model::open(at("on.gguf")).unwrap();
    let error = quantize_on(&one, &QuantizeConfig { out: at("again.gguf"), ..quantized }).unwrap_err().to_string();
    assert!(error.contains("found a file"), "{error}");
}

#[test]
fn each_file_is_opened_once() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let folder = copy(&at("model"));
    let file = gguf(&folder, &at("one"));
    let cache = at("cache");
    for (model, form) in [(&folder, "folder"), (&file, "gguf")] {
        let watched = if model.is_file() { model.parent().unwrap() } else { model };
        let once = |what: &str, needed: &[&str], work: &mut dyn FnMut()| {
            let Some(opened) = opens::of(watched, work) else { return };
            let needed = if form == "gguf" { &["model.gguf"][..] } else { needed };
            assert!(opened.values().all(|&n| n == 1), "{form}: {what}: {opened:?}");
            assert!(needed.iter().all(|name| opened.contains_key(*name)), "{form}: {what}: {opened:?}");
        };
        let mut adapters = Vec::new();
        for recipe in [Recipe::Ntp, Recipe::Sftmix] {
            let out = at(&format!("{form}-{}", recipe.as_str()));
            once(recipe.as_str(), &FILES, &mut || {
                adapters.push(run(TrainingJob::new(config(model, &out, recipe)).unwrap()).adapter);
            });
        }
        let adapter = Some(adapters[0].as_path());
        let further = TrainConfig {
            init_adapter: adapter.map(Path::to_path_buf),
            memory_limit: Some(1 << 30),
            ..config(model, &at(&format!("{form}-further")), Recipe::Ntp)
        };
        once("a run with an initial adapter", &FILES, &mut || {
            run(TrainingJob::new(further.clone()).unwrap());
        });
        once("evaluate", &FILES, &mut || {
            evaluate(&evaluation(model, adapter, &cache)).unwrap();
        });
        once("generate", &FILES, &mut || {
            let mut generator = Generator::open(model, adapter, DeviceSetting::Cpu, Some(2)).unwrap();
            text(&mut generator, 4, |_| ()).unwrap();
        });
        once("export", &FILES, &mut || {
            let source = AdapterSource { run: Some(at(&format!("{form}-ntp"))), ..Default::default() };
            let formats = vec![Format::Peft, Format::Gguf, Format::Mlx];
            export(&ExportConfig { source, formats, out: Some(at(&format!("{form}-export"))) }).unwrap();
        });
        once("plan", &["config.json", WEIGHTS], &mut || {
            plan(&config(model, &at(&format!("{form}-plan")), Recipe::Ntp)).unwrap();
        });
        once("inspect", &["tokenizer.json"], &mut || {
            let data = project("assets/demo/valid.jsonl").into();
            inspect(&InspectConfig { model: model.clone(), data, ..Default::default() }).unwrap();
        });
    }
    let Some(opened) = opens::of(&folder, &mut || drop(gguf(&folder, &at("two")))) else { return };
    assert!(opened.values().all(|&n| n == 1), "quantize: {opened:?}");
}

/// How often the files of a folder are opened, as the system tells it.
#[cfg(target_os = "linux")]
mod opens {
    use std::collections::BTreeMap;
    use std::ffi::CString;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::FromRawFd;
    use std::os::raw::{c_char, c_int};
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    const OPEN: u32 = 0x20;
    /// Reading and closing: the system tells two equal events that follow each other as one, and these come between.
    const BETWEEN: u32 = 0x1 | 0x8 | 0x10;
    const FOLDER: u32 = 0x4000_0000;

    extern "C" {
        fn inotify_init1(flags: c_int) -> c_int;
        fn inotify_add_watch(fd: c_int, path: *const c_char, mask: u32) -> c_int;
    }

    /// The files of `folder` that `work` opens, each with how often.
    pub fn of(folder: &Path, work: &mut dyn FnMut()) -> Option<BTreeMap<String, usize>> {
        let path = CString::new(folder.as_os_str().as_bytes()).unwrap();
        // SAFETY: plain calls; the number is that of a new open file, which is given to `File`. O_NONBLOCK is 0o4000 on
        // the machines that tests run on.
        let mut events = unsafe {
            let fd = inotify_init1(0o4000);
            assert!(fd >= 0 && inotify_add_watch(fd, path.as_ptr(), OPEN | BETWEEN) >= 0);
            File::from_raw_fd(fd)
        };
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let (mut opened, mut buffer) = (BTreeMap::new(), vec![0u8; 1 << 16]);
                loop {
                    let ended = done.load(Ordering::Acquire);
                    match events.read(&mut buffer) {
                        Ok(n) => count(&buffer[..n], &mut opened),
                        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && ended => return opened,
                        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                            std::thread::sleep(Duration::from_micros(100))
                        }
                        Err(e) => panic!("{e}"),
                    }
                }
            });
            work();
            done.store(true, Ordering::Release);
            Some(reader.join().unwrap())
        })
    }

    /// `struct inotify_event`: watch, mask, cookie, length, then a name filled up with zeros.
    fn count(mut events: &[u8], opened: &mut BTreeMap<String, usize>) {
        let number = |bytes: &[u8], at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        while !events.is_empty() {
            let (mask, length) = (number(events, 4), number(events, 12) as usize);
            let name = &events[16..16 + length];
            let name = &name[..name.iter().position(|&b| b == 0).unwrap_or(length)];
            if mask & OPEN != 0 && mask & FOLDER == 0 {
                *opened.entry(String::from_utf8_lossy(name).into_owned()).or_default() += 1;
            }
            events = &events[16 + length..];
        }
    }

    #[test]
    fn it_counts() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x"), "one").unwrap();
        let counted = of(dir.path(), &mut || {
            for _ in 0..2 {
                std::fs::read(dir.path().join("x")).unwrap();
            }
        });
        assert_eq!(counted.unwrap()["x"], 2);
    }
}

#[cfg(not(target_os = "linux"))]
mod opens {
    /// Runs `work`; nothing here tells of files that are opened.
    pub fn of(_: &std::path::Path, work: &mut dyn FnMut()) -> Option<std::collections::BTreeMap<String, usize>> {
        work();
        println!("skipped: opens are counted on Linux only");
        None
    }
}
