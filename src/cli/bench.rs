//! `sftmix bench`.

use std::io::Write;
use std::path::PathBuf;

use serde_json::Value;
use sftmix::internal::bench;
use sftmix::internal::bench::{
    BenchConfig, BenchModel, BenchReport, BenchRows, BenchStep, BenchTransfer, Shape, SHAPES,
};
use sftmix::internal::ops::Simd;
use sftmix::internal::rate::Speed;
use sftmix::{DeviceSetting, Error, Recipe, Recompute};

use super::format::count;
use super::options::DataFlags;

/// Measure speed and memory of training steps against what the machine can do
///
/// Trains on random tokens with a model of random weights, or with yours, or on rows of yours. Each step is related to the
/// operations that no exact implementation can avoid, at the rate of the machine's fastest f32 product of
/// the step's own shapes (gemm crate, or OpenBLAS where it is installed), timed beside the step.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Shape of a model with random weights: smollm2-135m, llama-3.2-1b or tiny
    #[arg(long, value_name = "NAME", default_value = SHAPES[0].name, value_parser = Shape::named, conflicts_with = "model")]
    shape: Shape,
    /// Hugging Face model folder, GGUF file or ORG/NAME[@REVISION] of the Hugging Face cache, instead of a shape
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Rows of your own, with --model: a file, or a folder, as for train, and read as train reads it [default: rows of
    /// random tokens]
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Rows of a step
    #[arg(long, value_name = "N", default_value_t = BenchConfig::default().batch_size)]
    batch_size: usize,
    /// Longest row in tokens; the rest of a row of --data is cut, as --max-length of train cuts it
    #[arg(long, value_name = "N", default_value_t = BenchConfig::default().seq)]
    seq: usize,
    /// Rows of exactly --seq tokens, all trained [default: lengths like Alpaca's, the response trained]
    #[arg(long)]
    packed: bool,
    /// Steps that are timed, after one that is not
    #[arg(long, value_name = "N", default_value_t = BenchConfig::default().steps)]
    steps: usize,
    /// Where to compute: auto, cpu, cuda, cuda:N, metal, or portable (the CPU as a GPU is run)
    #[arg(long, value_name = "DEVICE", default_value_t = BenchConfig::default().device)]
    device: DeviceSetting,
    /// Worker threads [default: the machine's cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// ntp, or sftmix: neighbouring rows are mixed
    #[arg(long, value_name = "NAME", default_value_t = BenchConfig::default().recipe)]
    recipe: Recipe,
    /// Run blocks forward twice instead of keeping what they computed: auto (as memory allows), on or off
    #[arg(long, value_name = "WHEN", default_value_t = BenchConfig::default().recompute)]
    recompute: Recompute,
    /// Rows that run together [default: as many tokens as can keep their activations, or 4,096]
    #[arg(long, value_name = "N")]
    micro_batch: Option<usize>,
    /// Memory that the library may hold, mapped weights not counted: 600MiB, 1.5GiB [default: what a
    /// workstation has to spare]
    #[arg(long, value_name = "BYTES", value_parser = sftmix::internal::units::parse_bytes)]
    memory_limit: Option<u64>,
    /// Memory that the process may have resident in all, mapped weights counted [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = sftmix::internal::units::parse_bytes)]
    resident_limit: Option<u64>,
    /// Use the processor's matrix units (AMX) where it has them: on or off
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = on_off, action = clap::ArgAction::Set)]
    matrix_units: bool,
    /// Up to which of the processor's instructions the kernels go: auto, base, avx2, avx512, avx512-vnni or amx. The scale
    /// keeps the fastest
    #[arg(long, value_name = "LEVEL", default_value_t = BenchConfig::default().simd)]
    simd: Simd,
    /// LoRA rank
    #[arg(long, value_name = "N", default_value_t = BenchConfig::default().lora_r)]
    lora_r: usize,
    /// With DoRA's magnitudes [default: plain LoRA]
    #[arg(long)]
    use_dora: bool,
    /// Where models with random weights are kept, or the tokenised rows of --data [default: a folder among the system's
    /// temporary files, or the user's cache folder]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Write rows, first adapter and settings here, for another trainer to run the same steps
    #[arg(long, value_name = "DIR")]
    export: Option<PathBuf>,
    /// Print one JSON object [default: a table]
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    data_options: DataFlags,
}

fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("expected on or off, found {text:?}")),
    }
}

/// Runs the command.
pub fn run(args: Args) -> Result<(), Error> {
    if let (None, Some(name)) = (&args.data, first_given(&args.data_options)) {
        let reason = "it has no effect without data, whose rows it is about".into();
        return Err(Error::InvalidConfig { field: name, reason });
    }
    let config = BenchConfig {
        model: args.model.map_or(BenchModel::Shape(args.shape), BenchModel::Folder),
        data: args.data,
        data_options: args.data_options.into(),
        batch_size: args.batch_size,
        seq: args.seq,
        packed: args.packed,
        steps: args.steps,
        device: args.device,
        threads: args.threads,
        recipe: args.recipe,
        recompute: args.recompute,
        micro_batch: args.micro_batch,
        memory_limit: args.memory_limit,
        resident_limit: args.resident_limit,
        matrix_units: args.matrix_units,
        simd: args.simd,
        lora_r: args.lora_r,
        use_dora: args.use_dora,
        cache_dir: args.cache_dir,
        export: args.export,
        ..Default::default()
    };
    let report = bench::run(&config, &mut |s| {
        // A closed stderr is not an error: nobody is there to be told.
        let _ = writeln!(std::io::stderr(), "{}", progress(s));
    })?;
    let text = match args.json {
        true => serde_json::to_string(&report).map_err(std::io::Error::from).map(|t| t + "\n"),
        false => Ok(table(&report)),
    };
    let printed = text.and_then(|t| std::io::stdout().lock().write_all(t.as_bytes()));
    printed.map_err(|source| Error::Io { path: "stdout".into(), source: source.into() })
}

/// The first of these flags that was given.
fn first_given(flags: &DataFlags) -> Option<String> {
    let Ok(Value::Object(all)) = serde_json::to_value(flags) else { return None };
    all.into_iter().find(|(_, value)| !value.is_null()).map(|(name, _)| name)
}

fn progress(s: &BenchStep) -> String {
    let share = s.floor_share.map_or("not counted".into(), |f| format!("{:.0} % of the floor's rate", 100.0 * f));
    format!("step {}: {} tokens, {:.2} s, loss {:.4}, {share}", s.step, s.tokens, s.seconds, s.loss)
}

fn table(r: &BenchReport) -> String {
    let mib = |b: Option<u64>| b.map_or("-".into(), |b| format!("{:.0} MiB", b as f64 / (1u64 << 20) as f64));
    let optional = |v: Option<f64>, digits: usize| v.map_or("-".into(), |v| format!("{v:.digits$}"));
    let rows = if r.packed { format!("{} tokens, packed", r.seq) } else { format!("up to {} tokens", r.seq) };
    let p = &r.phases;
    let share = |s: f64| format!("{:.3} s, {:.0} %", s, 100.0 * s / total(r));
    let gpu = !matches!(r.device, DeviceSetting::Cpu | DeviceSetting::Portable);
    let mut lines = vec![
        ("model", r.shape.clone()),
        ("step", format!("{} rows of {rows}, {}", r.batch_size, r.recipe)),
        ("tokens at a time", format!("{:.0}", r.micro_batch_tokens)),
        ("activations", format!("{:.0} % kept", 100.0 * r.blocks_kept)),
        ("loss", format!("{} positions at a time", r.loss_chunk)),
        ("rows", r.rows.as_ref().map_or(String::new(), taken)),
        ("device", r.device.to_string()),
        ("threads", format!("{}{}", r.threads, r.simd.map_or(String::new(), |simd| format!(", {simd}")))),
        ("steps", r.steps.to_string()),
        ("step, median", format!("{:.3} s", r.step_seconds_median)),
        (
            "real tokens",
            format!("{:.1} /s, {} /CPU s", r.real_tokens_per_second, optional(r.real_tokens_per_cpu_second, 1)),
        ),
        ("supervised tokens", format!("{:.1} /s", r.supervised_tokens_per_second)),
        ("floor", format!("{:.1} GFLOP a step", r.floor_gflop)),
        ("share of the floor", format!("{:.3}, by CPU time {}", r.floor_share, optional(r.floor_share_cpu, 3))),
        ("share of the peak", optional(r.peak_share, 3)),
        ("forward pass alone", format!("{:.2} of a step", r.score_share)),
        ("memory limit", r.memory_limit.map_or("none".into(), |b| mib(Some(b)))),
        (
            "peak memory",
            format!("{}, predicted {}", mib(Some(r.peak_anonymous_bytes)), mib(Some(r.predicted_peak_bytes))),
        ),
        ("peak anonymous", format!("{} of the process", mib(r.peak_rss_anonymous_bytes))),
        ("peak resident", mib(r.peak_rss_bytes)),
        ("device memory", mib(r.device_bytes)),
        ("to first step", format!("{:.2} s", r.seconds_to_first_step)),
        ("linear", share(p.linear)),
        ("attention", share(p.attention)),
        ("loss", share(p.loss)),
        ("elementwise", share(p.elementwise)),
        ("optimizer", share(p.optimizer)),
        ("data", share(p.data)),
        ("other", share(p.other)),
        ("losses", r.losses.iter().map(|l| format!("{l:.4}")).collect::<Vec<_>>().join(" ")),
    ];
    let rate = |s: Option<Speed>| s.map_or("not found".into(), |s| format!("{:.1} GFLOP/s", s.gflops));
    match r.sgemm.device {
        Some(_) => lines.push(("sgemm, device", rate(r.sgemm.device))),
        None => lines.extend([
            ("sgemm, gemm crate", rate(Some(r.sgemm.gemm))),
            ("sgemm, OpenBLAS", rate(r.sgemm.openblas)),
            ("peak, multiply-adds", rate(r.sgemm.peak)),
        ]),
    }
    lines.retain(|(name, _)| (gpu || *name != "device memory") && (r.rows.is_some() || *name != "rows"));
    let copies = |t: &BenchTransfer| {
        format!("{:.0} up, {:.0} down, {:.2} MiB a step", t.uploads, t.downloads, t.bytes / (1u64 << 20) as f64)
    };
    let copied = r.transfers.iter().map(|(why, t)| format!("{:<20}{}\n", format!("copies, {why}"), copies(t)));
    lines.iter().map(|(name, value)| format!("{name:<20}{value}\n")).chain(copied).collect()
}

/// What was taken of a file.
fn taken(rows: &BenchRows) -> String {
    let cut =
        if rows.rows_cut > 0 { format!(", of whose rows {} are cut", count(rows.rows_cut)) } else { String::new() };
    format!(
        "{} with {} tokens, {} of them trained; {} has {} examples{cut}",
        count(rows.rows),
        count(rows.tokens),
        count(rows.supervised_tokens),
        rows.data.display(),
        count(rows.examples)
    )
}

/// Mean seconds of a step.
fn total(r: &BenchReport) -> f64 {
    let p = &r.phases;
    p.linear + p.attention + p.loss + p.elementwise + p.optimizer + p.data + p.other
}
