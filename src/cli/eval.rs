//! `sftmix eval`.

use std::path::PathBuf;

use sftmix::{DeviceSetting, EvalConfig};

use super::failure::Done;
use super::help::Defaults;
use super::options::DataFlags;
use super::{format, output};

/// Measure a model, with or without an adapter, on a file of rows
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Hugging Face model folder, a GGUF file, or ORG/NAME[@REVISION] of the Hugging Face cache
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// PEFT adapter folder [default: none, the model as it is]
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Take the adapter whatever base its sftmix.json names
    #[arg(long)]
    force: bool,
    /// The rows: a file of JSONL, a JSON array, CSV, TSV or Parquet, or a folder, with test.jsonl or of .txt and .md files
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// Longest row in tokens
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// Most rows that run together; does not change the figures
    #[arg(long, value_name = "N", alias = "per-device-eval-batch-size")]
    batch_size: Option<usize>,
    /// Where to compute: auto, cpu, cuda, cuda:N, metal, or portable (the CPU as a GPU is run)
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceSetting>,
    /// Worker threads [default: the machine's cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Where tokenised rows are kept [default: the user's cache folder]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    #[command(flatten)]
    data_options: DataFlags,
    /// Print one JSON object [default: a table]
    #[arg(long)]
    json: bool,
}

/// Defaults for the help.
pub fn defaults() -> Defaults {
    let d = EvalConfig::default();
    vec![
        ("max_length".into(), d.max_length.to_string()),
        ("batch_size".into(), d.batch_size.to_string()),
        ("device".into(), d.device.to_string()),
    ]
}

/// Runs the command.
pub fn run(args: Args) -> Done {
    let d = EvalConfig::default();
    let config = EvalConfig {
        model: args.model,
        adapter: args.adapter,
        force: args.force,
        data: args.data,
        max_length: args.max_length.unwrap_or(d.max_length),
        batch_size: args.batch_size.unwrap_or(d.batch_size),
        device: args.device.unwrap_or(d.device),
        threads: args.threads,
        cache_dir: args.cache_dir,
        data_options: args.data_options.into(),
    };
    let e = sftmix::evaluate(&config)?;
    if args.json {
        return Ok(output::print_json(&e)?);
    }
    Ok(output::print(&output::table(&[
        ("examples", format::count(e.examples)),
        ("supervised tokens", format::count(e.supervised_tokens)),
        ("loss", format!("{} nats a token", format::number(e.nll))),
        ("perplexity", format::number(e.perplexity)),
        ("token accuracy", format!("{:.2} %", 100.0 * e.token_accuracy)),
    ]))?)
}
