//! What is measured, one function a phase; each runs in a process of its own and finds on disk what those
//! before it left.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rayon::prelude::*;
use serde_json::{json, Value};
use sftmix::dynamics::{
    confidences, split_checkpoints, CheckpointInfo, DynamicsLog, DynamicsWriter, Header, Kind, Record, Stage,
};
use sftmix::internal::data::rows::RowReader;
use sftmix::internal::data::text::chat::ChatFormat;
use sftmix::internal::data::text::Template;
use sftmix::internal::data::tokens::{StoreRequest, TokenStore, Tokenizer};
use sftmix::internal::memory::{anonymous_bytes, PeakSampler};
use sftmix::internal::recipe::Halves;
use sftmix::internal::rng::{Key, Stream};
use sftmix::{Confidence, Control, DataOptions, Dynamics, Event, Recipe, TrainConfig, TrainingJob};

use crate::{rows, Outcome, Settings};

const CHECKPOINTS: u64 = 5;
/// More than the demo's model was made for, which only costs sense; with less, long prompts would leave rows without
/// a target and the set smaller than the file.
const MAX_LENGTH: usize = 512;
const ROUNDS: u64 = 3;

/// A phase over so many rows: its figures, with its seconds and the peak of its memory.
pub fn run(s: &Settings, phase: &str, n: u64) -> Outcome<Value> {
    let (started, sampler, start) = (Instant::now(), PeakSampler::start(), anonymous_bytes());
    let mut figures = match phase {
        "data" => data(s, n)?,
        "first-run" => first_run(s, n)?,
        "open" => open(s, n)?,
        "log" => log(s, n)?,
        "split" => split(s, n)?,
        "run-ntp" => train(s, n, Recipe::Ntp, Dynamics::Sweep)?,
        "run-log" => train(s, n, Recipe::Sftmix, Dynamics::Path(s.dir.join(format!("log-{n}"))))?,
        "run-turned" => train(s, n, Recipe::Sftmix, Dynamics::Path(s.dir.join(format!("turned-{n}"))))?,
        "rate" => rate(s, n)?,
        other => return Err(format!("no phase {other}").into()),
    };
    let fields = figures.as_object_mut().ok_or("a phase's figures are an object")?;
    let seconds = fields.get("seconds").and_then(Value::as_f64).unwrap_or(started.elapsed().as_secs_f64());
    fields.insert("seconds".into(), json!((seconds * 1e3).round() / 1e3));
    fields.entry("start_bytes").or_insert(json!(start));
    fields.insert("peak_bytes".into(), json!(sampler.peak()));
    Ok(figures)
}

fn demo() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo"))
}

fn file(s: &Settings, n: u64) -> PathBuf {
    s.dir.join(format!("rows-{n}.jsonl"))
}

fn data(s: &Settings, n: u64) -> Outcome<Value> {
    let path = file(s, n);
    if !path.exists() {
        let partial = path.with_extension("part");
        rows::write(&partial, 0..n)?;
        std::fs::rename(partial, &path)?;
        // The hash of a file is remembered once the file is three seconds old.
        std::thread::sleep(std::time::Duration::from_secs(4));
    }
    Ok(json!({"bytes": path.metadata()?.len()}))
}

fn store(s: &Settings, tokenizer: &Tokenizer, data: PathBuf, cache: PathBuf) -> Outcome<TokenStore> {
    Ok(TokenStore::open_or_build(&StoreRequest {
        data: &data,
        template: None,
        options: &DataOptions::default(),
        tokenizer,
        max_length: MAX_LENGTH,
        cache_dir: &cache,
        threads: s.threads,
        stop: &|_| false,
    })?)
}

fn cache(s: &Settings, n: u64) -> PathBuf {
    s.dir.join(format!("cache-{n}"))
}

/// The store is made, and trained on in the same process: what the threads of the first leave behind counts.
fn first_run(s: &Settings, n: u64) -> Outcome<Value> {
    let _ = std::fs::remove_dir_all(cache(s, n));
    train(s, n, Recipe::Ntp, Dynamics::Sweep)
}

fn open(s: &Settings, n: u64) -> Outcome<Value> {
    let tokenizer = Tokenizer::load(demo())?;
    let (started, start) = (Instant::now(), anonymous_bytes());
    let store = store(s, &tokenizer, file(s, n), cache(s, n))?;
    let seconds = started.elapsed().as_secs_f64();
    let hash = store.hash().iter().map(|b| format!("{b:02x}")).collect::<String>();
    Ok(json!({"seconds": seconds, "start_bytes": start, "tokens": store.total_tokens(), "hash": hash}))
}

/// Two logs of the store's examples: one in its order, one from its end, as a log of shuffled rows would be.
fn log(s: &Settings, n: u64) -> Outcome<Value> {
    let store = store(s, &Tokenizer::load(demo())?, file(s, n), cache(s, n))?;
    let count = store.len();
    let example = |i: usize| {
        let e = store.example(i);
        (e.source_row, e.text_hash)
    };
    let record = |c: u64, i: usize, example: u32| {
        let n_tokens = store.example(i).n_supervised;
        let nll = 0.5 + 3.0 * Key::new(0, Stream::Bench, &[c]).uniform(i as u64);
        let nll_sum = nll * f64::from(n_tokens);
        Record { example, n_tokens, n_correct: n_tokens / 2, mean_prob: 0.3, nll_sum }
    };
    for (name, turned, checkpoints) in [("log", false, CHECKPOINTS), ("turned", true, 1)] {
        let at = |i: usize| if turned { count - 1 - i } else { i };
        let dir = s.dir.join(format!("{name}-{n}"));
        let _ = std::fs::remove_dir_all(&dir);
        let header = Header::new("", "");
        let mut writer = DynamicsWriter::create(&dir, header, (0..count).map(|i| example(at(i))))?;
        for c in 0..checkpoints {
            writer.begin(CheckpointInfo::new(Stage::Reference, Kind::Sweep, c + 1, 1.0, ""))?;
            for i in 0..count {
                writer.append(&record(c, at(i), i as u32))?;
            }
            writer.finish()?;
        }
    }
    Ok(json!({"examples": count}))
}

fn split(s: &Settings, n: u64) -> Outcome<Value> {
    let start = anonymous_bytes();
    let started = Instant::now();
    let log = DynamicsLog::open(s.dir.join(format!("log-{n}")))?;
    let conf = confidences(&log, Confidence::Perplexity, &split_checkpoints(&log)?)?;
    let halves = Halves::split(&conf)?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(json!({"seconds": seconds, "start_bytes": start, "examples": log.len(), "pairs": halves.pairs()}))
}

/// Three steps of a run on the demo's model, two rows each, so that the rows' number is most of what differs.
fn train(s: &Settings, n: u64, recipe: Recipe, dynamics: Dynamics) -> Outcome<Value> {
    let out = s.dir.join(format!("run-{n}"));
    let _ = std::fs::remove_dir_all(&out);
    let (started, sampler) = (Instant::now(), PeakSampler::start());
    let mut prepared = None;
    let job = TrainingJob::new(TrainConfig {
        model: demo().into(),
        data: file(s, n).into(),
        cache_dir: Some(cache(s, n)),
        out,
        recipe,
        dynamics,
        max_length: MAX_LENGTH,
        batch_size: 2,
        micro_batch: Some(1),
        max_steps: Some(3),
        threads: Some(s.threads),
        ..Default::default()
    })?;
    let report = job.run(|event| {
        if let Event::Prepared(p) = event {
            prepared = Some((started.elapsed().as_secs_f64(), sampler.peak(), p.tokens));
        }
        Control::Continue
    })?;
    let (seconds, peak, tokens) = prepared.ok_or("the run was not prepared")?;
    Ok(json!({
        "examples": report.examples,
        "tokens": tokens,
        "prepared_seconds": seconds,
        "prepared_peak_bytes": peak,
        "rows_per_second": (n as f64 / seconds).round(),
    }))
}

/// The store's making beside the library's encoding of the same texts, in turns, on rows not seen before. The
/// store's seconds are all of it: hashing the file, reading, rendering, encoding, writing, syncing.
fn rate(s: &Settings, n: u64) -> Outcome<Value> {
    let tokenizer = Tokenizer::load(&s.tokenizer)?;
    let mut library =
        tokenizers::Tokenizer::from_file(s.tokenizer.join("tokenizer.json")).map_err(|e| e.to_string())?;
    library.with_truncation(None).map_err(|e| e.to_string())?;
    library.with_padding(None);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(s.threads).build()?;
    let (data, cache) = (s.dir.join("rate.jsonl"), s.dir.join("rate-cache"));
    let mut rounds = Vec::new();
    // The first round fills caches and is not counted.
    for round in 0..=ROUNDS {
        rows::write(&data, round * n..(round + 1) * n)?;
        let mut texts = Vec::new();
        let mut template = None;
        for row in RowReader::open(&data)? {
            let (row, object) = row?;
            let template = match &template {
                Some(t) => t,
                None => template.insert(Template::resolve(
                    &DataOptions::default(),
                    &ChatFormat::default(),
                    &data,
                    row,
                    &object,
                )?),
            };
            texts.push(template.render(&data, row, &object)?.text);
        }
        let encode = timed(|| {
            pool.install(|| texts.par_iter().for_each(|t| drop(black_box(library.encode(t.as_str(), true)))));
        });
        let _ = std::fs::remove_dir_all(&cache);
        let mut made = None;
        let ours = timed(|| made = Some(store(s, &tokenizer, data.clone(), cache.clone())));
        made.transpose()?;
        // A thousand texts at a time, as is usual: the encodings of all at once would be measured as memory.
        let batch = timed(|| {
            pool.install(|| {
                for batch in texts.chunks(1000) {
                    let batch: Vec<&str> = batch.iter().map(String::as_str).collect();
                    drop(black_box(library.encode_batch(batch, true)));
                }
            })
        });
        rounds.push([ours, encode, batch]);
    }
    rounds.remove(0);
    let median = |of: &dyn Fn(&[Spent; 3]) -> f64| {
        let mut v: Vec<f64> = rounds.iter().map(of).collect();
        v.sort_by(f64::total_cmp);
        (v[v.len() / 2] * 1e3).round() / 1e3
    };
    let cores = [0, 1, 2].map(|i| median(&|r| r[i].cpu / r[i].seconds));
    let rates = [0, 1, 2].map(|i| (n as f64 / median(&|r| r[i].seconds)).round());
    Ok(json!({
        "rows_a_round": n,
        "of_encode": median(&|r| r[1].seconds / r[0].seconds),
        "of_encode_batch": median(&|r| r[2].seconds / r[0].seconds),
        "cpu_of_encode": median(&|r| r[1].cpu / r[0].cpu),
        "cores": cores,
        "rows_per_second": rates,
    }))
}

/// Seconds by the clock and of all threads' work.
struct Spent {
    seconds: f64,
    cpu: f64,
}

fn timed(work: impl FnOnce()) -> Spent {
    let (started, cpu) = (Instant::now(), cpu_seconds());
    work();
    Spent { seconds: started.elapsed().as_secs_f64(), cpu: cpu_seconds() - cpu }
}

/// NaN where the system does not tell in Linux's way, in hundredths behind the name in parentheses.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit_once(')').map_or("", |(_, f)| f).split_ascii_whitespace().skip(11).take(2);
    fields.map(|f| f.parse().unwrap_or(f64::NAN)).reduce(|a, b| a + b).unwrap_or(f64::NAN) / 100.0
}
