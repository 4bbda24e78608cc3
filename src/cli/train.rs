//! `sftmix train`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde_json::Value;
use sftmix::{
    Confidence, Control, DataSource, DataSources, DeviceSetting, Dynamics, Error, Layers, LoraConfig, MixReduction,
    ModulePattern, Recipe, Recompute, Schedule, StopHandle, TargetModules, TrainConfig, TrainReport, TrainingJob,
};

use super::failure::{Done, Failure, INTERRUPTED};
use super::help::{self, Defaults};
use super::options::{betas, number, one_of, DataFlags};
use super::progress::Progress;
use super::settings::{self, Settings};
use super::{format, output};

/// Train a LoRA adapter on a file of rows
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    flags: Flags,
    /// TOML file with any of these settings, under the same names; flags come before it [default: none]
    #[arg(long, value_name = "FILE.toml", help_heading = "Run")]
    config: Option<PathBuf>,
    /// Continue the run in --out with its settings, or begin it [default: begin a new run]
    #[arg(long, help_heading = "Run")]
    resume: bool,
    /// Print the report as one JSON object, the last line of stdout [default: a table]
    #[arg(long, help_heading = "Run")]
    json: bool,
}

/// Every setting of [`TrainConfig`], absent unless given. An id is the name of the field.
#[derive(clap::Args, Clone, Debug, Default, Serialize)]
pub struct Flags {
    /// Hugging Face model folder (config.json, tokenizer.json, safetensors), GGUF file, or ORG/NAME[@REVISION] of the
    /// Hugging Face cache [required]
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    model: Option<PathBuf>,
    /// Training rows: a file of JSONL, a JSON array, CSV, TSV or Parquet, or a folder, with train.jsonl or of .txt and .md
    /// files. Given again, more of them; :WEIGHT says how often an epoch has a row of it (0.5: half of the rows, 2:
    /// each twice) [required]
    #[arg(long, value_name = "PATH[:WEIGHT]", help_heading = "Run")]
    #[serde(serialize_with = "sources", skip_serializing_if = "Vec::is_empty")]
    data: Vec<DataSource>,
    /// Run folder; gets adapter/, dynamics/, checkpoints and metrics.jsonl [required]
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    out: Option<PathBuf>,
    /// Held-out rows of the same shape [default: valid.jsonl of a --data folder that has one]
    #[arg(long, value_name = "PATH", help_heading = "Run")]
    valid: Option<PathBuf>,
    /// Share of the rows of --data to hold out instead; which ones, the seed says [default: none]
    #[arg(long, value_name = "SHARE", value_parser = number, help_heading = "Run")]
    valid_split: Option<f64>,

    /// SFTMix, or plain next-token prediction
    #[arg(long, value_name = "RECIPE", value_parser = one_of::<Recipe>(Recipe::NAMES), help_heading = "Recipe")]
    recipe: Option<Recipe>,
    /// Weight of the Mixup term
    #[arg(long, value_name = "X", value_parser = number, help_heading = "Recipe")]
    mu: Option<f64>,
    /// α of Beta(α, α), which λ is drawn from
    #[arg(long, value_name = "X", value_parser = number, help_heading = "Recipe")]
    mix_alpha: Option<f64>,
    /// How Mixup terms are averaged: over all mixed tokens, or over pairs
    #[arg(long, value_name = "WAY", value_parser = one_of::<MixReduction>(MixReduction::NAMES), help_heading = "Recipe")]
    mix_reduction: Option<MixReduction>,
    /// Where the training dynamics come from: sweep (a reference run, scored at its checkpoints), online
    /// (the reference run's own passes, with the dropout and noise they train with), single (one run, Mixup
    /// from its second epoch), or the run or dynamics folder of an earlier run
    #[arg(long, value_name = "sweep|online|single|PATH", value_parser = dynamics, help_heading = "Recipe")]
    dynamics: Option<Dynamics>,
    /// Epochs of the reference run
    #[arg(long, value_name = "N", help_heading = "Recipe")]
    reference_epochs: Option<usize>,
    /// Checkpoints of the reference run that are scored
    #[arg(long, value_name = "N", help_heading = "Recipe")]
    reference_checkpoints: Option<usize>,
    /// What confidence is minus the mean of
    #[arg(long, value_name = "OF", value_parser = one_of::<Confidence>(Confidence::NAMES), help_heading = "Recipe")]
    confidence: Option<Confidence>,

    /// Passes over the rows
    #[arg(long, value_name = "N", visible_alias = "num-train-epochs", help_heading = "Training")]
    epochs: Option<usize>,
    /// Stop after so many optimizer steps [default: no limit]
    #[arg(long, value_name = "N", help_heading = "Training")]
    max_steps: Option<u64>,
    /// Rows per optimizer step; even for SFTMix
    #[arg(long, value_name = "N", alias = "per-device-train-batch-size", help_heading = "Training")]
    batch_size: Option<usize>,
    /// Peak learning rate
    #[arg(long, value_name = "X", value_parser = number, visible_alias = "learning-rate", help_heading = "Training")]
    lr: Option<f64>,
    /// Learning rate after the warm-up
    #[arg(long, value_name = "SHAPE", visible_alias = "lr-scheduler-type",
          value_parser = one_of::<Schedule>(Schedule::NAMES), help_heading = "Training")]
    schedule: Option<Schedule>,
    /// Share of the steps in which the learning rate rises
    #[arg(long, value_name = "X", value_parser = number, help_heading = "Training")]
    warmup_ratio: Option<f64>,
    /// Decoupled weight decay
    #[arg(long, value_name = "X", value_parser = number, help_heading = "Training")]
    weight_decay: Option<f64>,
    /// AdamW's β₁,β₂
    #[arg(long, value_name = "X,Y", value_parser = betas, help_heading = "Training")]
    adam_betas: Option<(f64, f64)>,
    /// AdamW's ε
    #[arg(long, value_name = "X", value_parser = number, alias = "adam-epsilon", help_heading = "Training")]
    adam_eps: Option<f64>,
    /// Largest gradient norm; 0 switches clipping off
    #[arg(long, value_name = "X", value_parser = number, visible_alias = "max-grad-norm", help_heading = "Training")]
    clip: Option<f64>,
    /// Noise on the embeddings in training, ±X/√(tokens of the row · hidden size); 5 is usual (NEFTune)
    /// [default: none]
    #[arg(long, value_name = "X", value_parser = number, help_heading = "Training")]
    neftune_noise_alpha: Option<f64>,
    /// Seed of everything that is drawn
    #[arg(long, value_name = "N", help_heading = "Training")]
    seed: Option<u64>,

    /// Rank
    #[arg(long, value_name = "N", alias = "lora-rank", help_heading = "LoRA")]
    lora_r: Option<usize>,
    /// The update is scaled by alpha / r
    #[arg(long, value_name = "X", value_parser = number, help_heading = "LoRA")]
    lora_alpha: Option<f64>,
    /// Dropout on the adapter's input
    #[arg(long, value_name = "P", value_parser = number, help_heading = "LoRA")]
    lora_dropout: Option<f64>,
    /// Scale by alpha / √r instead
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = "LoRA")]
    use_rslora: Option<bool>,
    /// Linears that get an adapter: names separated by commas, or all-linear
    #[arg(long, value_name = "LIST", value_parser = targets, help_heading = "LoRA")]
    target_modules: Option<TargetModules>,
    /// Learn the length of each row of the adapted weight apart from its direction (DoRA)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = "LoRA")]
    use_dora: Option<bool>,
    /// Blocks whose linears get an adapter, counted from 0: 0-3,8 [default: all]
    #[arg(long, value_name = "LIST", value_parser = Layers::parse, visible_alias = "layers", help_heading = "LoRA")]
    layers_to_transform: Option<Layers>,
    /// Ranks of some linears, by name or path: q_proj=8,mlp.down_proj=32 [default: --lora-r for all]
    #[arg(long, value_name = "NAME=N,…", value_parser = ModulePattern::<usize>::parse, help_heading = "LoRA")]
    rank_pattern: Option<ModulePattern<usize>>,
    /// Alphas of some linears, by name or path [default: --lora-alpha for all]
    #[arg(long, value_name = "NAME=X,…", value_parser = ModulePattern::<f64>::parse, help_heading = "LoRA")]
    alpha_pattern: Option<ModulePattern<f64>>,
    /// The learning rate of B is --lr times this (LoRA+); --weight-decay goes by it too [default: 1]
    #[arg(long, value_name = "X", value_parser = number, help_heading = "LoRA")]
    loraplus_lr_ratio: Option<f64>,
    /// Start from this PEFT adapter, with its rank, alpha and modules [default: a fresh one]
    #[arg(long, value_name = "DIR", help_heading = "LoRA")]
    init_adapter: Option<PathBuf>,
    /// Take --init-adapter whatever base its sftmix.json names
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = "LoRA")]
    force_base: Option<bool>,

    #[command(flatten)]
    #[serde(flatten)]
    data_options: DataFlags,
    /// Longest row in tokens; the rest is cut and counted
    #[arg(long, value_name = "N", help_heading = "Rows")]
    max_length: Option<usize>,
    /// Where tokenised rows are kept [default: cache/ in the run folder]
    #[arg(long, value_name = "DIR", help_heading = "Rows")]
    cache_dir: Option<PathBuf>,

    /// Where to compute: auto takes a GPU that this build has code for and that works, else the CPU;
    /// portable is the CPU as a GPU is run. A run may be resumed on another device
    #[arg(long, value_name = "auto|cpu|cuda[:N]|metal|portable", help_heading = "Machine")]
    device: Option<DeviceSetting>,
    /// Worker threads [default: the machine's cores]
    #[arg(long, value_name = "N", help_heading = "Machine")]
    threads: Option<usize>,
    /// Rows whose blocks run together [default: chosen from --batch-size and --max-length]
    #[arg(long, value_name = "N", help_heading = "Machine")]
    micro_batch: Option<usize>,
    /// Run blocks twice instead of keeping their activations
    #[arg(long, value_name = "WHEN", value_parser = one_of::<Recompute>(Recompute::NAMES), help_heading = "Machine")]
    recompute: Option<Recompute>,
    /// Memory that the library may hold, mapped weights not counted: 600MiB, 1.5GiB. Decides how rows are cut
    /// and what is kept, never what is computed [default: what a workstation has to spare]
    #[arg(long, value_name = "BYTES", value_parser = sftmix::internal::units::parse_bytes, help_heading = "Machine")]
    memory_limit: Option<u64>,
    /// Memory that the process may have resident in all, mapped weights counted: for a base that is larger than
    /// the memory left [default: mapped weights are the system's to drop]
    #[arg(long, value_name = "BYTES", value_parser = sftmix::internal::units::parse_bytes, help_heading = "Machine")]
    resident_limit: Option<u64>,

    /// Evaluate on --valid every so many steps [default: after each epoch only]
    #[arg(long, value_name = "N", alias = "eval-steps", help_heading = "Checkpoints")]
    eval_every: Option<u64>,
    /// Stop once so many evaluations in a row have not improved on the best held-out loss [default: never]
    #[arg(long, value_name = "N", help_heading = "Checkpoints")]
    early_stopping_patience: Option<u64>,
    /// By how much the held-out loss must fall to count as improved
    #[arg(long, value_name = "X", value_parser = number, help_heading = "Checkpoints")]
    early_stopping_threshold: Option<f64>,
    /// Keep the checkpoint of the best held-out loss beyond --keep, and end with its adapter
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          visible_alias = "load-best-model-at-end", help_heading = "Checkpoints")]
    keep_best: Option<bool>,
    /// Write a checkpoint every so many steps
    #[arg(long, value_name = "N", alias = "save-steps", help_heading = "Checkpoints")]
    save_every: Option<u64>,
    /// Checkpoints that stay
    #[arg(long, value_name = "N", alias = "save-total-limit", help_heading = "Checkpoints")]
    keep: Option<usize>,
}

/// The form that [`TrainConfig`] reads.
fn sources<S: serde::Serializer>(list: &[DataSource], to: S) -> Result<S::Ok, S::Error> {
    DataSources(list.to_vec()).serialize(to)
}

fn dynamics(text: &str) -> Result<Dynamics, String> {
    match text {
        "" => Err("expected sweep, online, single or a path, found nothing".into()),
        _ => Ok(Dynamics::from(text.to_string())),
    }
}

fn targets(text: &str) -> Result<TargetModules, std::convert::Infallible> {
    Ok(TargetModules::parse(text))
}

/// The defaults, those of a fresh adapter among them.
fn with_adapter() -> TrainConfig {
    TrainConfig { lora: Some(LoraConfig::default()), ..Default::default() }
}

/// Defaults for the help.
pub fn defaults() -> Defaults {
    help::of(&with_adapter())
}

/// The settings as a command, for their names.
pub fn flags() -> clap::Command {
    <Flags as clap::Args>::augment_args(clap::Command::new("settings"))
}

/// The settings of the file and, over them, of the flags.
fn merge(file: Option<&Path>, flags: &Flags) -> Result<Settings, Failure> {
    let mut all = match file {
        Some(path) => settings::read(path, &self::flags())?,
        None => Settings::new(),
    };
    all.extend(settings::given(flags)?);
    Ok(all)
}

/// The settings of a run that is not begun. Where it would be written may be left open.
pub fn settings_of(file: Option<&Path>, flags: &Flags) -> Result<TrainConfig, Failure> {
    let mut given = merge(file, flags)?;
    require(&given, &["model", "data"])?;
    if !given.contains_key("out") {
        // There will be no run folder, so nothing is put where one might be.
        given.insert("out".into(), "run".into());
        given.entry("cache_dir").or_insert_with(|| sftmix::default_cache().to_string_lossy().into_owned().into());
    }
    Ok(TrainConfig::from_settings(given)?)
}

fn require(given: &Settings, needed: &[&str]) -> Result<(), Failure> {
    let is_absent = |v: Option<&Value>| match v {
        Some(Value::String(s)) => s.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        _ => true,
    };
    if let Some(name) = needed.iter().find(|n| is_absent(given.get(**n))) {
        return Err(Failure::usage(format!("--{name} is missing"))
            .hint(format!("give --{name} on the command line, or {name} in a settings file named by --config")));
    }
    Ok(())
}

/// Runs the command.
pub fn run(args: Args) -> Done {
    let given = merge(args.config.as_deref(), &args.flags)?;
    require(&given, if args.resume { &["out"] } else { &["model", "data", "out"] })?;
    let out = PathBuf::from(given["out"].as_str().unwrap_or_default());
    let job = match args.resume {
        true => TrainingJob::resume(&out, &given).map_err(|e| match &e {
            Error::InvalidConfig { .. } if out.join("run.json").exists() => {
                Failure::usage(e.to_string()).hint("what is left out stays as the run has it")
            }
            _ => e.into(),
        })?,
        false => {
            let job = TrainConfig::from_settings(given).and_then(TrainingJob::new);
            job.map_err(|e| Failure::from(e).resumable(&out))?
        }
    };
    stop_on_signal(job.stop_handle());
    if args.resume && sftmix::internal::run::RunFolder::new(&out).report()?.is_some() {
        output::note("this run is finished");
    }
    let mut progress = Progress::new();
    let report = job.run(|event| {
        progress.event(event);
        Control::Continue
    });
    output::clear_status();
    let report = report.map_err(|e| {
        let diverged = matches!(e, Error::NonFinite { .. });
        let failure = Failure::from(e);
        let failure = if diverged { failure.hint("a lower --lr is the usual remedy") } else { failure };
        failure.resumable(&out)
    })?;
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(&summary(&report))?;
    }
    Ok(())
}

/// The first signal asks the job to stop behind a checkpoint, the second leaves at once.
fn stop_on_signal(stop: StopHandle) {
    let asked = AtomicBool::new(false);
    let handler = move || {
        if asked.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        stop.stop();
        output::note("stopping, a checkpoint is being written; interrupt again to leave at once");
    };
    if let Err(e) = ctrlc::set_handler(handler) {
        log::warn!("an interrupt will not write a checkpoint: {e}");
    }
}

fn summary(r: &TrainReport) -> String {
    let mut rows = vec![
        ("adapter", r.adapter.display().to_string()),
        ("steps", format::count(r.steps)),
        ("training loss", format::number(r.train_loss)),
    ];
    match (r.base_eval_loss, r.eval_loss) {
        (Some(base), Some(now)) => {
            let change = format!("{}, {} before training", format::number(now), format::number(base));
            rows.push(("held-out loss", change));
        }
        (None, Some(now)) => rows.push(("held-out loss", format::number(now))),
        _ => {}
    }
    if let (Some(best), Some(step)) = (r.best_eval_loss, r.best_step) {
        let early = if r.stopped_early { "; stopped early" } else { "" };
        rows.push(("best held-out loss", format!("{} at step {}{early}", format::number(best), format::count(step))));
    }
    let mut rows_cut = format!("{} cut, {} dropped", format::plural(r.rows_cut, "row"), format::count(r.rows_dropped));
    if r.rows_skipped > 0 {
        rows_cut += &format!(", {} skipped", format::count(r.rows_skipped));
    }
    rows.push(("examples", format!("{} ({rows_cut})", format::count(r.examples))));
    rows.push(("time", format::duration(r.seconds)));
    rows.push(("peak memory", format!("{} anonymous", format::bytes(r.peak_anonymous_bytes))));
    output::table(&rows)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: Args,
    }

    fn given(args: &[&str]) -> Settings {
        let args = Only::parse_from(std::iter::once(&"train").chain(args)).args;
        merge(args.config.as_deref(), &args.flags).unwrap()
    }

    #[test]
    fn every_setting_has_a_flag_and_every_flag_a_setting() {
        let Ok(Value::Object(all)) = serde_json::to_value(with_adapter()) else { unreachable!() };
        let flags = flags();
        let mut ids: Vec<_> = flags.get_arguments().map(|a| a.get_id().as_str()).collect();
        let mut fields: Vec<_> = all.keys().map(String::as_str).collect();
        ids.sort_unstable();
        fields.sort_unstable();
        assert_eq!(ids, fields);
        for arg in flags.get_arguments() {
            assert_eq!(arg.get_long().unwrap().replace('-', "_"), arg.get_id().as_str());
        }
    }

    #[test]
    fn every_flag_says_its_default() {
        let shown = help::with_defaults(flags(), &defaults());
        for arg in shown.get_arguments() {
            let help = arg.get_help().unwrap().to_string();
            assert_eq!(help.matches("[default: ").count() + help.matches("[required]").count(), 1, "{help}");
        }
    }

    #[test]
    fn only_what_is_given_is_given_and_in_the_form_of_the_configuration() {
        assert_eq!(given(&[]), Settings::new());
        let args = ["--learning-rate", "1", "--num-train-epochs", "2", "--max-grad-norm", "0", "--use-rslora"];
        let want = json!({"lr": 1.0, "epochs": 2, "clip": 0.0, "use_rslora": true});
        assert_eq!(Value::Object(given(&args)), want);
        let args = ["--adam-betas", "0.9,0.95", "--target-modules", "q_proj,v_proj", "--dynamics", "a/b", "--mu=1"];
        let want =
            json!({"adam_betas": [0.9, 0.95], "target_modules": ["q_proj", "v_proj"], "dynamics": "a/b", "mu": 1.0});
        assert_eq!(Value::Object(given(&args)), want);
        let config: TrainConfig = serde_json::from_value(want.clone()).unwrap();
        let all = serde_json::to_value(config).unwrap();
        assert!(want.as_object().unwrap().iter().all(|(k, v)| all[k] == *v), "{all}");
    }

    #[test]
    fn data_may_be_several_files_with_weights() {
        assert_eq!(Value::Object(given(&["--data", "a.jsonl"])), json!({"data": "a.jsonl"}));
        let found = given(&["--data", "a,b.jsonl", "--data", "c:0.5", "--valid-split", "0.1"]);
        let want = json!({"data": ["a,b.jsonl", {"path": "c", "weight": 0.5}], "valid_split": 0.1});
        assert_eq!(Value::Object(found), want);
        let e = Only::try_parse_from(["train", "--data", "c:0"]).err().unwrap().to_string();
        assert!(e.contains("expected a weight > 0 behind the last colon, found \"c:0\""), "{e}");
    }

    #[test]
    fn a_name_stands_in_a_pattern_once() {
        let e = Only::try_parse_from(["train", "--rank-pattern", "q_proj=3,q_proj=5"]).err().unwrap().to_string();
        assert!(e.contains("--rank-pattern") && e.contains("q_proj is given twice"), "{e}");
    }

    #[test]
    fn flags_come_before_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.toml");
        std::fs::write(&path, "lr = 1e-3\nepochs = 7\nuse_rslora = true\nprompt-field = 'q'").unwrap();
        let file = path.to_str().unwrap();
        let found = given(&["--config", file, "--lr", "5e-5", "--use-rslora=false", "--prompt-field", "p"]);
        let want = json!({"lr": 5e-5, "epochs": 7, "use_rslora": false, "prompt_field": "p"});
        assert_eq!(Value::Object(found), want);
    }
}
