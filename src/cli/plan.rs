//! `sftmix plan`.

use std::path::PathBuf;

use sftmix::RunPlan;

use super::failure::Done;
use super::train::{self, Flags};
use super::{format, output};

/// Say what a run will take: memory by part, tokens, time, and whether it stays within --memory-limit
///
/// Takes the settings of `train`. Rows are tokenised, and kept for the run; weights are not opened.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    flags: Flags,
    /// TOML file with any of these settings, under the same names; flags come before it [default: none]
    #[arg(long, value_name = "FILE.toml", help_heading = "Run")]
    config: Option<PathBuf>,
    /// Print one JSON object, the last line of stdout [default: a table]
    #[arg(long, help_heading = "Run")]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Done {
    let config = train::settings_of(args.config.as_deref(), &args.flags)?;
    let plan = sftmix::plan(&config)?;
    if args.json {
        return Ok(output::print_json(&plan)?);
    }
    Ok(output::print(&table(&plan))?)
}

fn table(p: &RunPlan) -> String {
    let mut rows = vec![
        ("examples", format!("{}, {} tokens", format::count(p.examples), format::count(p.tokens))),
        ("longest row", format::plural(p.longest, "token")),
        ("steps", format::count(p.steps)),
    ];
    if let Some(m) = p.memory {
        let tokens = match (p.micro_tokens, p.micro_batch) {
            (Some(t), _) => format!("up to {} tokens", format::count(t)),
            (None, rows) => format::plural(rows.unwrap_or(1), "row"),
        };
        rows.push(("runs together", tokens));
        rows.push(("blocks kept", format!("{:.0} %", 100.0 * p.blocks_kept.unwrap_or(0.0))));
        rows.push(("peak memory", format::bytes(p.predicted_peak_bytes)));
        rows.push(("  adapter", format!("{} with gradients and moments", format::bytes(m.adapter))));
        rows.push(("  activations", format!("{} kept between the passes", format::bytes(m.activations))));
        rows.push(("  working", format!("{} beside them", format::bytes(m.working))));
        rows.push(("  fixed", format::bytes(m.fixed)));
    } else {
        rows.push(("needs at least", format::bytes(p.predicted_peak_bytes)));
    }
    if let Some(seconds) = p.seconds {
        rows.push(("time", format!("about {}", format::duration(seconds))));
    }
    if let Some(limit) = p.memory_limit {
        let fits = if p.fits { "it fits" } else { "it does not fit" };
        rows.push(("memory limit", format!("{}: {fits}", format::bytes(limit))));
    }
    let savings = p.savings.iter().map(|(what, b)| format!("{what} would save {}\n", format::bytes(*b)));
    output::table(&rows) + &savings.collect::<String>()
}
