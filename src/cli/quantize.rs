//! `sftmix quantize`.

use std::path::PathBuf;

use sftmix::export::{quantize, QuantType, QuantizeConfig};

use super::failure::Done;
use super::options::one_of;
use super::{format, output};

/// Write a model as a GGUF file, quantised or not, as llama.cpp reads it
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Hugging Face model folder, or ORG/NAME[@REVISION] of the Hugging Face cache
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Type of the matrices; those that suffer most have more bits, as in llama.cpp's mixes
    #[arg(long = "type", value_name = "TYPE", value_parser = one_of::<QuantType>(QuantType::NAMES))]
    kind: QuantType,
    /// The file to write
    #[arg(long, value_name = "FILE.gguf")]
    out: PathBuf,
    /// Print one JSON object [default: a table]
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Done {
    let done = quantize(&QuantizeConfig { model: args.model, kind: args.kind, out: args.out.clone() })?;
    if args.json {
        return Ok(output::print_json(&done)?);
    }
    let types: Vec<String> = done.tensors.iter().map(|(name, n)| format!("{n} {name}")).collect();
    let mut rows = vec![
        ("file", format!("{}, {}", args.out.display(), format::bytes(done.bytes))),
        ("tensors", types.join(", ")),
        ("bits a weight", format!("{:.2}", done.bits_per_weight)),
    ];
    rows.extend(done.left_out.iter().map(|what| ("left out", what.clone())));
    Ok(output::print(&output::table(&rows))?)
}
