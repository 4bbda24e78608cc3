//! `sftmix export`.

use std::path::PathBuf;

use sftmix::export::{AdapterSource, Difference, ExportConfig, ExportReport, Format};

use super::failure::Done;
use super::options::{one_of, DataFlags};
use super::{format, output};

/// Write an adapter as PEFT, llama.cpp and MLX read it
///
/// Each export is read again from its files, and its weights and logits are compared with the adapter's before it gets
/// its name.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    source: SourceFlags,
    /// Formats, separated by commas: peft, gguf (llama.cpp), mlx
    #[arg(long, value_name = "LIST", value_delimiter = ',', required = true, value_parser = one_of::<Format>(Format::NAMES))]
    to: Vec<Format>,
    /// Gets a folder for each format, under its name [default: export/ in the run folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object [default: a table]
    #[arg(long)]
    json: bool,
}

/// Which adapter, on which base.
#[derive(clap::Args, Debug)]
pub struct SourceFlags {
    /// Run folder: its adapter, on its base
    #[arg(value_name = "RUN", required_unless_present_all = ["model", "adapter"])]
    run: Option<PathBuf>,
    /// Hugging Face model folder, or ORG/NAME[@REVISION] of the Hugging Face cache [default: the run's]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// PEFT adapter folder [default: the run's]
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Take the adapter whatever base its sftmix.json names
    #[arg(long)]
    force: bool,
    /// Rows that logits are compared on [default: the run's held-out rows, or fixed token ids]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    #[command(flatten)]
    data_options: DataFlags,
    /// Worker threads [default: the machine's cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Where hashes and tokenised rows are kept [default: that of the run, or the user's cache folder]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
}

impl From<SourceFlags> for AdapterSource {
    fn from(f: SourceFlags) -> AdapterSource {
        AdapterSource {
            run: f.run,
            model: f.model,
            adapter: f.adapter,
            data: f.data,
            data_options: f.data_options.into(),
            force: f.force,
            threads: f.threads,
            cache_dir: f.cache_dir,
        }
    }
}

/// A difference of logits beside what it is allowed to be.
pub fn apart(d: &Difference, bound: Option<f32>) -> String {
    let allowed = bound.map_or("what the type loses is not bounded".into(), |b| format!("allowed {b:.1e}"));
    format!("{:.1e} at most ({allowed}, largest logit {})", d.max, format::number(d.largest.into()))
}

/// Runs the command.
pub fn run(args: Args) -> Done {
    let config = ExportConfig { source: args.source.into(), formats: args.to, out: args.out };
    let report = sftmix::export::export(&config)?;
    if args.json {
        return Ok(output::print_json(&report)?);
    }
    Ok(output::print(&table(&report))?)
}

fn table(r: &ExportReport) -> String {
    let mut rows: Vec<(&str, String)> = Vec::new();
    for e in &r.exports {
        rows.push((e.format.as_str(), e.path.display().to_string()));
        rows.push(("  weights differ by", format!("{:.1e} of each number at most", e.weights)));
        rows.push(("  logits differ by", apart(&e.difference, Some(e.bound))));
    }
    let unseen = r.exports.iter().any(|e| r.effect <= e.bound);
    let only = if unseen { " (within what is allowed: only the weights tell)" } else { "" };
    rows.push(("adapter moves logits by", format!("{:.1e} at most{only}", r.effect)));
    let compared = format!(
        "{} of {} ({})",
        format::plural(r.tokens as u64, "position"),
        r.rows_from,
        format::plural(r.rows as u64, "row")
    );
    rows.push(("compared on", compared));
    let template = r.chat_template.as_ref().map_or("none".into(), |hash| format!("blake3 {hash}"));
    rows.push(("chat template", template));
    output::table(&rows)
}
