//! `sftmix merge`.

use std::path::PathBuf;

use sftmix::export::QuantType;
use sftmix::export::{MergeConfig, Merged, Precision};

use super::export::{apart, SourceFlags};
use super::failure::{Done, Failure};
use super::options::one_of;
use super::{format, output};

/// Write the base with the adapter merged into its weights, as a Hugging Face model folder
///
/// The folder is read again, and its logits are compared with those of base and adapter before it gets its name.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    source: SourceFlags,
    /// Gets the merged model: a folder, or with --to gguf a file; must not be there, or be empty
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Type of the stored numbers [default: that of the base's]
    #[arg(long, value_name = "TYPE", value_parser = one_of::<Precision>(Precision::NAMES))]
    dtype: Option<Precision>,
    /// A Hugging Face folder, or one GGUF file
    #[arg(long, value_name = "hf|gguf", default_value = "hf", value_parser = ["hf", "gguf"])]
    to: String,
    /// Type of the GGUF file's matrices, with --to gguf [default: f16]
    #[arg(long = "type", value_name = "TYPE", value_parser = one_of::<QuantType>(QuantType::NAMES))]
    kind: Option<QuantType>,
    /// Print one JSON object [default: a table]
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Done {
    let gguf = match (args.to.as_str(), args.kind) {
        ("gguf", kind) => Some(kind.unwrap_or(QuantType::F16)),
        (_, None) => None,
        (_, Some(_)) => return Err(Failure::usage("--type is of GGUF files: give --to gguf, or --dtype")),
    };
    let config = MergeConfig { source: args.source.into(), out: args.out, dtype: args.dtype, gguf };
    let merged = sftmix::export::merge(&config)?;
    if args.json {
        return Ok(output::print_json(&merged)?);
    }
    Ok(output::print(&table(&merged))?)
}

fn table(m: &Merged) -> String {
    let share = 100.0 * m.changed as f64 / (m.numbers as f64).max(1.0);
    let mut rows = vec![
        ("merged model", m.path.display().to_string()),
        ("size", format::bytes(m.bytes)),
        ("linears merged", format!("{} ({share:.1} % of their numbers are others now)", m.linears)),
        ("logits differ by", apart(&m.difference, m.bound)),
        ("the adapter moves them by", format!("{:.1e} at most", m.effect)),
        ("compared on", format!("{} of {}", format::plural(m.tokens as u64, "position"), m.rows_from)),
    ];
    rows.extend(m.end_added.iter().map(|end| ("end of a turn", format!("{end}, added to the end tokens"))));
    rows.extend(m.left_out.iter().map(|what| ("left out", what.clone())));
    output::table(&rows)
}
