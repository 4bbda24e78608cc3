//! `sftmix demo`: the main job on an embedded model and rows, with the controls beside it.

mod arms;
mod files;
mod report;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;
use sftmix::internal::memory::PeakSampler;
use sftmix::{DeviceSetting, Event, GenerateConfig, Generator, Recipe};

use super::failure::Done;
use super::output;
use arms::Arm;
use files::{DemoRow, Files};
use report::{Column, Seed};

/// Fine-tune an embedded model on embedded rows, SFTMix beside plain fine-tuning
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Seeds to run; with more than one the table gives means and spread [default: 1]
    #[arg(long, value_name = "N", default_value_t = 1, hide_default_value = true)]
    seeds: u64,
    /// Keep the runs here [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only write the model folder and the rows here, and train nothing
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// Print the figures as one JSON object, the last line of stdout [default: tables]
    #[arg(long)]
    json: bool,
}

/// A folder that goes when the demo ends, unless the caller named it.
struct Place {
    dir: PathBuf,
    temporary: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.temporary {
            // What cannot be removed is the system's to clean: it lies among its temporary files.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Runs the command.
pub fn run(args: Args) -> Done {
    if let Some(dir) = &args.write {
        let files = Files::write(dir)?;
        let text = format!("model  {}\nrows   {}\n", files.model.display(), files.train.display());
        return Ok(output::print(&text)?);
    }
    if let Some(dir) = args.out.as_ref().filter(|d| d.join("seed-0").exists()) {
        let text = format!("--out {} holds the runs of an earlier demo: choose another folder", dir.display());
        return Err(super::failure::Failure::usage(text));
    }
    let begun = Instant::now();
    let sampler = PeakSampler::start();
    let place = match &args.out {
        Some(dir) => Place { dir: dir.clone(), temporary: false },
        None => {
            let dir = std::env::temp_dir().join(format!("sftmix-demo-{}", std::process::id()));
            Place { dir, temporary: true }
        }
    };
    let files = Files::write(&place.dir.join("demo"))?;
    let base = arms::test(&files, None)?;
    let mut seeds = Vec::new();
    for seed in 0..args.seeds.max(1) {
        seeds.push(one_seed(&files, &place.dir.join(format!("seed-{seed}")), seed)?);
    }
    let train = files::rows("train.jsonl");
    let questions = answers(&files, &seeds[0])?;
    output::clear_status();
    let found: Vec<usize> = seeds.iter().map(|s| found(s, &train).len()).collect();
    let broken = train.iter().filter(|r| r.broken.is_some()).count();
    let seconds = begun.elapsed().as_secs_f64();
    let peak = sampler.peak().unwrap_or(0);
    if args.json {
        let mut out = json!({ "base": report::figures(&[base]) });
        for column in Column::TRAINED {
            let tests: Vec<_> = seeds.iter().map(|s| s.arm(column).test).collect();
            out[column.name()] = report::figures(&tests);
        }
        out["broken_rows"] = broken.into();
        out["broken_found"] = json!(found.iter().sum::<usize>() as f64 / found.len() as f64);
        out["seconds"] = seconds.into();
        out["peak_anonymous_bytes"] = peak.into();
        return Ok(output::print_json(&out)?);
    }
    let mut text = report::introduction(train.len(), broken);
    text += &report::table(base, &seeds);
    text += &report::epochs(&seeds);
    text += &report::broken(&found, broken, &least_broken(&seeds[0], &train));
    text += &report::questions(&questions);
    text += &report::closing(seconds, peak, args.out.as_deref());
    Ok(output::print(&text)?)
}

fn one_seed(files: &Files, dir: &Path, seed: u64) -> Result<Seed, super::failure::Failure> {
    let run = |name: &str, recipe, epochs| {
        let mut progress = report::Status::new(name, seed);
        arms::train(files, arms::config(files, &dir.join(name), recipe, epochs, seed), &mut |e: &Event| progress.see(e))
    };
    let (ntp, ntp_early) = run("ntp", Recipe::Ntp, arms::EPOCHS)?;
    let (_, ntp_same_compute) = run("ntp_same_compute", Recipe::Ntp, arms::SAME_COMPUTE_EPOCHS)?;
    let (sftmix, _) = run("sftmix", Recipe::Sftmix, arms::EPOCHS)?;
    let least_confident = arms::least_confident(&dir.join("sftmix"))?;
    Ok(Seed { ntp, ntp_early, ntp_same_compute, sftmix, least_confident })
}

/// The planted rows among that many least confident.
fn found<'a>(seed: &Seed, train: &'a [DemoRow]) -> Vec<(u64, &'a DemoRow)> {
    let broken = train.iter().filter(|r| r.broken.is_some()).count();
    let rows = seed.least_confident.iter().take(broken);
    let named = rows.filter_map(|&row| train.get(row as usize - 1).map(|r| (row, r)));
    named.filter(|(_, r)| r.broken.is_some()).collect()
}

/// The least confident planted row of each kind.
fn least_broken<'a>(seed: &Seed, train: &'a [DemoRow]) -> Vec<(u64, &'a DemoRow)> {
    let mut kinds: Vec<&str> = Vec::new();
    let mut out = Vec::new();
    for (row, r) in found(seed, train) {
        if let Some(kind) = r.broken.as_deref().filter(|k| !kinds.contains(k)) {
            kinds.push(kind);
            out.push((row, r));
        }
    }
    out
}

/// Three held-out questions, answered by the base and by each arm of the first seed.
fn answers(files: &Files, seed: &Seed) -> Result<Vec<report::Question>, super::failure::Failure> {
    let test = files::rows("test.jsonl");
    // Fixed places, spread over the file: not chosen by their answers.
    let asked: Vec<&DemoRow> = (0..3).filter_map(|i| test.get(i * test.len() / 3)).collect();
    let mut out: Vec<report::Question> = asked
        .iter()
        .map(|r| report::Question { prompt: r.prompt.clone(), gold: r.completion.clone(), answers: Vec::new() })
        .collect();
    let config = GenerateConfig { max_new_tokens: 24, ..Default::default() };
    let mut generator = Generator::open(&files.model, None, DeviceSetting::Auto, None)?;
    let arms: Vec<(&str, Option<&Arm>)> =
        std::iter::once(("base", None)).chain(Column::TRAINED.map(|c| (c.name(), Some(seed.arm(c))))).collect();
    for (name, arm) in arms {
        generator.set_adapter(arm.map(|a| a.adapter.as_path()))?;
        for q in &mut out {
            let answer = generator.generate(&q.prompt, &config, &mut |_| sftmix::Control::Continue)?;
            q.answers.push((name.to_string(), answer.text));
        }
    }
    Ok(out)
}
