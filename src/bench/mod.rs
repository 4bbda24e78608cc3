//! Speed and memory of a training step, as shares of what the machine can do.
//!
//! [`run`] trains a LoRA adapter on a model of random weights (or any model folder) and rows of random
//! tokens (or of a file, read as training reads it), by the same code as training does, and relates each step to its floor: the floating-point
//! operations that no exact implementation can avoid,
//!
//! `4·P·N + 6·P_lora·N + 12·L·H·D·Σ n²/2 + 4·C·V·S`
//!
//! with P the parameters of the blocks' linears, P_lora those of the adapter, N real tokens, n the
//! lengths of the rows, S supervised positions, L layers, H heads, D head size, C hidden size, V
//! vocabulary: forward and input gradient of the frozen linears, forward and both gradients of the
//! adapter, two products forward and four backward over half of each attention square, head forward and
//! input gradient where a token is supervised. Recomputation and padding are not in it.
//!
//! The scale is the faster of the gemm crate and OpenBLAS on the step's own products, timed between the
//! steps, because the speed of a shared or throttling machine changes from minute to minute:
//! `floor_share = floor ÷ (seconds × rate beside the step)`.

mod config;
mod export;
mod figures;
mod own;
mod report;
mod rows;
mod shape;
mod source;
mod trial;

use std::time::Instant;

use crate::base::Model;
use crate::device;
use crate::error::Result;
use crate::memory::{anonymous_bytes, peak_resident_bytes, PeakSampler};
use crate::rate::process::{cpu_seconds, forget_peak, seconds_since_start};
use crate::rate::Reference;
pub use crate::rate::{Rates, Speed};
pub use config::{BenchConfig, BenchModel};
use figures::Figures;
pub use own::BenchRows;
pub use report::{BenchPhases, BenchReport, BenchStep, BenchTransfer};
use rows::Step;
pub use shape::{Shape, SHAPES};
use source::Rows;
use trial::{floor, Trial};

/// Measures; `observe` is told of every step.
///
/// # Errors
/// When a setting is out of range, the model cannot be written or opened, or a step fails.
pub fn run(config: &BenchConfig, observe: &mut dyn FnMut(&BenchStep)) -> Result<BenchReport> {
    config.validate()?;
    let before_all = anonymous_bytes();
    let (dir, name) = match &config.model {
        BenchModel::Folder(dir) => (dir.clone(), dir.display().to_string()),
        BenchModel::Shape(shape) => {
            let cache = config.cache_dir.clone().unwrap_or_else(|| std::env::temp_dir().join("sftmix-bench"));
            (shape.folder(&cache, config.seed)?, shape.name.to_string())
        }
    };
    let opened = Instant::now();
    let model = Model::at(&dir)?;
    let rows = Rows::open(config, &model)?;
    // What reading a file leaves behind is no step's either.
    let before_all = if config.data.is_some() { anonymous_bytes() } else { before_all };
    let mut trial = Trial::open(config, &model, &rows)?;
    if let Some(to) = &config.export {
        export::write(to, config, model.path(), &trial.adapter, &rows)?;
    }
    let block = trial.model.linears().filter(|l| l.layer == 0).map(|l| (l.weight.rows(), l.weight.cols()));
    let reference = Reference::new(block.collect(), trial.engine.threads());

    let mut figures = Figures::default();
    figures.see_reference(Some(0), before_all);
    let (mut before, mut seconds_to_first_step) = (None, 0.0);
    for number in 0..=config.steps {
        let batch = rows.batch(number as u64, config.batch_size);
        let (phases, transfers) = (trial.engine.phase_seconds(), trial.engine.transfers());
        forget_peak();
        let sampler = PeakSampler::start();
        if number == 0 {
            seconds_to_first_step = seconds_since_start().unwrap_or(opened.elapsed().as_secs_f64());
        }
        let (cpu, started) = (cpu_seconds(), Instant::now());
        let step = Step::new(&batch, number as u64, config.recipe, trial.choice.cut, config.seed);
        let data = started.elapsed().as_secs_f64();
        let loss = trial.step(&step).map_err(|e| model.blamed(e))?;
        let seconds = started.elapsed().as_secs_f64();
        let cpu = cpu_seconds().zip(cpu).map(|(now, before)| now - before);
        figures.see_memory(sampler.peak(), peak_resident_bytes());
        drop(sampler);

        let began = Instant::now();
        trial.score(&step)?;
        let scored = began.elapsed().as_secs_f64() / seconds;

        let held = anonymous_bytes();
        let tokens = step.micro_tokens().max().unwrap_or(1);
        let after = reference.measure(&trial.engine, tokens)?;
        figures.see_reference(held, anonymous_bytes());
        let floor_gflop = 1e-9 * floor(&trial.model, &trial.adapter, &step);
        let beside = before.map(|before| Rates::mean(&[before, after]));
        let done = BenchStep {
            step: number,
            seconds,
            cpu_seconds: cpu,
            tokens: step.tokens(),
            supervised: step.supervised,
            floor_gflop,
            floor_share: beside.map(|r| floor_gflop / (seconds * r.best().1.gflops)),
            loss,
        };
        figures.losses.push(loss);
        if number == 0 {
            figures.first_step = seconds;
        }
        if let Some(rates) = beside {
            let now = trial.engine.phase_seconds();
            figures.add(&done, rates, data, std::array::from_fn(|i| now[i] - phases[i]));
            figures.see_groups(&step, trial.kept);
            figures.scored.push(scored);
            figures.see_transfers(transfers, trial.engine.transfers());
            figures.device_bytes = figures.device_bytes.max(device::used_bytes(trial.engine.device()));
        }
        before = Some(after);
        observe(&done);
    }
    if !trial.engine.device().is_cpu() {
        let batch = rows.batch(config.steps as u64 + 1, config.batch_size);
        let step = Step::new(&batch, config.steps as u64 + 1, config.recipe, trial.choice.cut, config.seed);
        let phases = trial.engine.phase_seconds();
        trial.engine.wait_in_phases(true);
        trial.step(&step)?;
        let now = trial.engine.phase_seconds();
        figures.phases = std::array::from_fn(|i| (now[i] - phases[i]) * config.steps as f64);
    }
    Ok(figures.report(config, &trial, &rows, name, seconds_to_first_step))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::rows::RowShape;
    use super::*;
    use crate::config::{Recipe, Recompute};

    fn tiny(recipe: Recipe, packed: bool, recompute: Recompute, cache: &Path) -> BenchReport {
        let config = BenchConfig {
            model: BenchModel::Shape(Shape::named("tiny").unwrap()),
            batch_size: 4,
            seq: 96,
            packed,
            steps: 3,
            threads: Some(2),
            recipe,
            recompute,
            cache_dir: Some(cache.to_path_buf()),
            ..Default::default()
        };
        let mut seen = Vec::new();
        let report = run(&config, &mut |s| seen.push(s.step)).unwrap();
        assert_eq!(seen, [0, 1, 2, 3]);
        report
    }

    #[test]
    fn a_tiny_model_is_measured_in_every_way() {
        let cache = tempfile::tempdir().unwrap();
        let mut losses = Vec::new();
        for recipe in [Recipe::Ntp, Recipe::Sftmix] {
            for packed in [false, true] {
                for recompute in [Recompute::Auto, Recompute::On] {
                    let r = tiny(recipe, packed, recompute, cache.path());
                    assert_eq!((r.steps, r.threads, r.losses.len()), (3, 2, 4));
                    assert_eq!(r.blocks_kept, if recompute == Recompute::On { 0.0 } else { 1.0 });
                    assert!(r.floor_share > 0.0 && r.sgemm_gflops > 0.0 && r.real_tokens_per_second > 0.0);
                    assert!(!packed || r.tokens_per_step == 4.0 * 96.0);
                    losses.push(r.losses);
                }
            }
        }
        // Random tokens under random weights: ln V; mixing adds about a fifth of it.
        assert!((losses[0][0] - libm::log(512.0)).abs() < 0.2, "{:?}", losses[0]);
        assert!((losses[4][0] - 1.2 * libm::log(512.0)).abs() < 0.3, "{:?}", losses[4]);
        // Running blocks twice changes nothing.
        assert!(losses.chunks(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn the_floor_counts_what_the_formula_says() {
        let cache = tempfile::tempdir().unwrap();
        let shape = Shape::named("tiny").unwrap();
        let dir = shape.folder(cache.path(), 0).unwrap();
        let config = BenchConfig { batch_size: 2, seq: 100, packed: true, lora_r: 4, ..Default::default() };
        let shape = RowShape { seed: 0, packed: true, seq: 100, vocab: 512 };
        let trial = Trial::open(&config, &Model::at(&dir).unwrap(), &Rows::Drawn(shape)).unwrap();
        let rows = shape.batch(0, 2);
        let step = Step::new(&rows, 0, Recipe::Ntp, trial.choice.cut, 0);
        let linears = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 192);
        let lora = 2 * 4 * (2 * 128 + 2 * 96 + 3 * 256);
        // Of a row of 100 tokens 99 are predicted.
        let by_hand = 4 * linears * 200 + 6 * lora * 200 + 12 * 2 * 4 * 16 * 100 * 100 + 4 * 64 * 512 * 198;
        assert_eq!(floor(&trial.model, &trial.adapter, &step), by_hand as f64);
    }

    #[test]
    fn what_is_exported_is_what_was_run() {
        let cache = tempfile::tempdir().unwrap();
        let to = cache.path().join("export");
        let shape = Shape::named("tiny").unwrap();
        let config = BenchConfig {
            model: BenchModel::Shape(shape),
            batch_size: 3,
            seq: 64,
            steps: 2,
            threads: Some(1),
            cache_dir: Some(cache.path().to_path_buf()),
            export: Some(to.clone()),
            ..Default::default()
        };
        let report = run(&config, &mut |_| ()).unwrap();
        let text = std::fs::read_to_string(to.join("rows.jsonl")).unwrap();
        let rows: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(rows.len(), 3 * report.losses.len());
        assert_eq!(rows[3]["step"], 1);
        let trained = |r: &serde_json::Value| {
            r["labels"].as_array().unwrap().iter().skip(1).filter(|l| l.as_i64() != Some(-100)).count()
        };
        let seconds = report.steps as f64 * report.step_seconds_median;
        assert!(seconds > 0.0 && rows[3..].iter().map(trained).sum::<usize>() > 0);
        let about: serde_json::Value = serde_json::from_slice(&std::fs::read(to.join("bench.json")).unwrap()).unwrap();
        let model = Path::new(about["model"].as_str().unwrap());
        // The adapter loads beside the model that is named.
        let shape = RowShape { seed: 0, packed: false, seq: 64, vocab: 512 };
        let trial = Trial::open(&config, &Model::at(model).unwrap(), &Rows::Drawn(shape)).unwrap();
        let loaded = crate::model::Adapter::load(&trial.engine, &trial.model, &to.join("adapter")).unwrap();
        assert_eq!(loaded.hash().unwrap(), trial.adapter.hash().unwrap());
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let bad = BenchConfig { steps: 0, ..Default::default() };
        assert!(run(&bad, &mut |_| ()).unwrap_err().to_string().contains("steps"));
        let bad = BenchConfig { seq: 8, ..Default::default() };
        assert!(run(&bad, &mut |_| ()).unwrap_err().to_string().contains("seq"));
    }

    /// The demo's model and rows.
    fn own(cache: &Path) -> BenchConfig {
        let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
        BenchConfig {
            data: Some(assets.join("train.jsonl")),
            model: BenchModel::Folder(assets),
            batch_size: 7,
            seq: 32,
            steps: 2,
            threads: Some(2),
            cache_dir: Some(cache.to_path_buf()),
            ..Default::default()
        }
    }

    #[test]
    fn rows_of_a_file_are_those_that_training_would_take() {
        let cache = tempfile::tempdir().unwrap();
        let to = cache.path().join("export");
        let config = BenchConfig { export: Some(to.clone()), ..own(cache.path()) };
        let mut steps = Vec::new();
        let report = run(&config, &mut |s| steps.push(*s)).unwrap();
        let taken = report.rows.clone().unwrap();
        assert_eq!((taken.examples, taken.rows, &taken.data), (800, 14, config.data.as_ref().unwrap()));
        // The step before the timed ones is in no figure.
        let sum = |of: &dyn Fn(&BenchStep) -> usize| steps[1..].iter().map(of).sum::<usize>() as u64;
        assert_eq!((taken.tokens, taken.supervised_tokens), (sum(&|s| s.tokens), sum(&|s| s.supervised)));
        assert!(taken.supervised_tokens > 14 && taken.supervised_tokens < taken.tokens && report.losses[0].is_finite());

        // By another way: the store of a run, in the order of its first epoch.
        let model = Model::at(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo").as_path()).unwrap();
        let tokenizer = model.tokenizer().unwrap();
        let store = crate::data::tokens::TokenStore::open_or_build(&crate::data::tokens::StoreRequest {
            data: config.data.as_ref().unwrap(),
            options: &config.data_options,
            template: None,
            tokenizer: &tokenizer,
            max_length: 32,
            cache_dir: cache.path(),
            threads: 1,
            stop: &|_| false,
        })
        .unwrap();
        assert_eq!(taken.rows_cut, store.counts().cut);
        let order = crate::data::tokens::epoch_order(800, 0, crate::dynamics::Stage::Target as u64, 0);
        let text = std::fs::read_to_string(to.join("rows.jsonl")).unwrap();
        let ids: Vec<Vec<u32>> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|row| row["input_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect())
            .collect();
        let want: Vec<Vec<u32>> = order[..21].iter().map(|&i| store.example(i as usize).ids().collect()).collect();
        assert_eq!(ids, want);
    }

    #[test]
    fn a_short_file_begins_again() {
        let cache = tempfile::tempdir().unwrap();
        let data = cache.path().join("two.jsonl");
        std::fs::write(
            &data,
            "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"c\", \"completion\": \"d\"}\n",
        )
        .unwrap();
        let config = BenchConfig { data: Some(data), batch_size: 5, ..own(cache.path()) };
        let taken = run(&config, &mut |_| ()).unwrap().rows.unwrap();
        assert_eq!((taken.examples, taken.rows, taken.rows_cut), (2, 10, 0));
    }

    #[test]
    fn settings_without_effect_are_named() {
        let cache = tempfile::tempdir().unwrap();
        let own = own(cache.path());
        let shape = BenchModel::Shape(Shape::named("tiny").unwrap());
        let text_field = crate::config::DataOptions { text_field: Some("t".into()), ..Default::default() };
        let mut wrong = Vec::new();
        for (config, field) in [
            (BenchConfig { model: shape, ..own.clone() }, "data"),
            (BenchConfig { packed: true, ..own.clone() }, "packed"),
            (BenchConfig { data: None, ..own.clone() }, "cache_dir"),
            (BenchConfig { data: None, cache_dir: None, data_options: text_field, ..own }, "data_options"),
        ] {
            let found = run(&config, &mut |_| ()).map(|_| ()).unwrap_err().to_string();
            if !found.starts_with(&format!("invalid setting {field}: ")) {
                wrong.push(format!("{field}: {found}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
