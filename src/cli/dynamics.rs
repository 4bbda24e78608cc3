//! `sftmix dynamics show` and `export`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use serde_json::{json, Value};
use sftmix::dynamics::{confidences, export, metrics, split_checkpoints, Half, HalfSummary};
use sftmix::internal::recipe::Halves;
use sftmix::{DataMap, Error, MapDistribution, MapQuery, MapRow};

use super::failure::{Done, Failure};
use super::format::{count, number, one_line, one_line_end, plural};
use super::output;

/// Characters of a prompt or response that are shown.
const SHOWN: usize = 160;
/// Examples shown of either half.
const ROWS: usize = 5;
/// Most rows of a page.
const PAGE: usize = 10_000;

/// Look at what a reference run thought of each example
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Print a summary, and the most and the least confident examples
    Show {
        /// Run folder, or its dynamics folder
        run: PathBuf,
        /// Examples of either half to print
        #[arg(long, value_name = "N", default_value_t = ROWS)]
        rows: usize,
        /// Print one JSON object [default: text]
        #[arg(long)]
        json: bool,
    },
    /// Write the log in the layout of other tools
    Export {
        /// Run folder, or its dynamics folder
        run: PathBuf,
        /// csv: one table; jsonl: the files of allenai/cartography
        #[arg(long, value_enum)]
        format: Format,
        /// File (csv) or folder (jsonl) [default: stdout; of jsonl the measures alone]
        #[arg(long, value_name = "FILE|DIR")]
        out: Option<PathBuf>,
    },
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Format {
    Csv,
    Jsonl,
}

/// Opens the map of a run whose checkpoints are all whole.
fn open(run: &Path) -> Result<DataMap, Failure> {
    let map = match DataMap::open(run) {
        Err(Error::NoDynamics { path, from }) => {
            let failure = Failure::failed(format!("{}: no dynamics here", path.display()));
            return Err(match from {
                Some(from) => failure.hint(format!("the run took them from {}", from.display())),
                None => failure.hint("dynamics are written by recipe sftmix, in the dynamics folder of the run"),
            });
        }
        map => map?,
    };
    // A split of some checkpoints alone would be taken for that of the run.
    if map.incomplete().is_some() {
        split_checkpoints(map.log())?;
    }
    Ok(map)
}

/// Runs the command.
pub fn run(args: Args) -> Done {
    match args.command {
        Command::Show { run, rows, json } => show(&open(&run)?, rows, json),
        Command::Export { run, format, out } => {
            let map = open(&run)?;
            match format {
                Format::Csv => export_csv(&map, out.as_deref()),
                Format::Jsonl => export_jsonl(&map, out.as_deref()),
            }
        }
    }
}

fn distribution_line(d: &MapDistribution) -> String {
    let [mean, min, q1, median, q3, max] = [d.mean, d.min, d.q25, d.median, d.q75, d.max].map(number);
    format!("mean {mean}, min {min}, 25 % {q1}, median {median}, 75 % {q3}, max {max}")
}

/// Indices of up to `count` examples of a half from the `offset`-th on, most confident first.
fn indices(map: &DataMap, half: Half, offset: u64, count: usize) -> sftmix::Result<Vec<u32>> {
    let mut found = Vec::new();
    while found.len() < count {
        let limit = (count - found.len()).min(PAGE) as u32;
        let offset = offset + found.len() as u64;
        let page = map.page(&MapQuery { descending: true, half: Some(half), offset, limit, ..Default::default() })?;
        if page.rows.is_empty() {
            break;
        }
        found.extend(page.rows.iter().map(|r| r.index));
    }
    Ok(found)
}

/// Says how many rows have another text now, and gives the reason where no text could be read.
fn absent(map: &DataMap, rows: &[MapRow]) -> Option<String> {
    let is = |r: &&MapRow, why: &str| r.text_absent.as_deref() == Some(why);
    let changed: BTreeSet<(u32, u64)> =
        rows.iter().filter(|r| is(r, MapRow::CHANGED)).map(|r| (r.file_index, r.row)).collect();
    if let (1.., Some(config)) = (changed.len(), map.config()) {
        log::warn!("{}: {} changed since the run", config.data, plural(changed.len() as u64, "row"));
    }
    let other = rows.iter().find(|r| !is(r, MapRow::CHANGED) && !is(r, MapRow::GONE) && r.text_absent.is_some());
    other.and_then(|r| r.text_absent.clone())
}

fn show(map: &DataMap, rows: usize, json: bool) -> Done {
    let summary = map.summary()?;
    let most = indices(map, Half::Confident, 0, rows)?;
    let mut least = indices(map, Half::Unconfident, summary.unconfident.rows.saturating_sub(rows as u64), rows)?;
    least.reverse();
    let shown = map.rows(&[&most[..], &least].concat(), true)?;
    let absent = absent(map, &shown);
    let (most, least) = shown.split_at(most.len());

    if json {
        let list = |rows: &[MapRow]| rows.iter().map(example_json).collect::<Vec<Value>>();
        let mut value = serde_json::to_value(&summary).map_err(std::io::Error::from)?;
        value["most_confident"] = list(most).into();
        value["least_confident"] = list(least).into();
        value["text_absent"] = absent.into();
        return Ok(output::print_json(&value)?);
    }

    let mut out = output::table(&[
        ("examples", count(summary.examples)),
        ("checkpoints", summary.checkpoints.join(", ")),
        ("perplexity", distribution_line(&summary.perplexity)),
        ("loss", distribution_line(&summary.nll)),
        ("agreement", format!("{:.3}, rank correlation of confidence by perplexity and by nll", summary.spearman)),
        ("confident half", half_line(&summary.confident)),
        ("unconfident half", half_line(&summary.unconfident)),
    ]);
    if summary.neither.rows > 0 {
        out += &format!("neither           {}\n", half_line(&summary.neither));
    }
    if let Some(reason) = absent.filter(|_| !shown.is_empty()) {
        out += &format!("\nThe text of the examples cannot be shown: {reason}\n");
    }
    for (title, rows) in [("Most confident", most), ("Least confident", least)] {
        if !rows.is_empty() {
            out += &format!("\n{title}, by {}\n", map.confidence());
        }
        rows.iter().for_each(|row| out += &example_text(row));
    }
    Ok(output::print(&out)?)
}

fn half_line(h: &HalfSummary) -> String {
    format!(
        "{}, {:.1} tokens, loss {}, perplexity {}, {} never right",
        plural(h.rows, "example"),
        h.mean_tokens,
        number(h.mean_nll),
        number(h.mean_perplexity),
        count(h.never_correct)
    )
}

fn example_text(row: &MapRow) -> String {
    let mut out = format!(
        "  {}: perplexity {}, loss {}, {}\n",
        match row.file_index {
            0 => format!("row {}", row.row),
            file => format!("row {} of file {}", row.row, file + 1),
        },
        number(row.mean_perplexity),
        number(row.mean_nll),
        plural(row.tokens.into(), "token")
    );
    if let Some(prompt) = row.prompt.as_ref().filter(|prompt| !prompt.trim().is_empty()) {
        out += &format!("    prompt    {}\n", one_line_end(prompt, SHOWN));
    }
    if let Some(response) = &row.response {
        let name = if row.prompt.is_some() { "response" } else { "text    " };
        out += &format!("    {name}  {}\n", one_line(response, SHOWN));
    }
    out
}

fn example_json(row: &MapRow) -> Value {
    let prompt = row.response.as_ref().map(|_| row.prompt.as_deref().unwrap_or_default());
    json!({
        "index": row.index,
        "row": row.row,
        "file": row.file_index,
        "mean_perplexity": row.mean_perplexity,
        "mean_nll": row.mean_nll,
        "confidence": row.mean_probability,
        "variability": row.variability,
        "tokens": row.tokens,
        "prompt": prompt,
        "response": row.response,
    })
}

fn export_csv(map: &DataMap, out: Option<&Path>) -> Done {
    let (log, which) = (map.log(), map.checkpoints());
    let metrics = metrics(log, which)?;
    // A set too small to be split is still worth its table.
    let labels: Vec<Half> =
        Halves::split(&confidences(log, map.confidence(), which)?).map(|h| h.labels()).unwrap_or_default();
    let write = |to: &mut dyn Write| export::csv(log, &metrics, &labels, to);
    match out {
        Some(path) if path.is_dir() => to_file(&path.join(export::CSV), write),
        Some(path) => to_file(path, write),
        None => to_stdout(write),
    }
}

fn export_jsonl(map: &DataMap, out: Option<&Path>) -> Done {
    let (log, which) = (map.log(), map.checkpoints());
    let metrics = metrics(log, which)?;
    let measures = |to: &mut dyn Write| export::td_metrics(log, &metrics, to);
    let Some(dir) = out else { return to_stdout(measures) };
    std::fs::create_dir_all(dir).map_err(|e| Failure::failed(format!("{}: {e}", dir.display())))?;
    for (i, &c) in which.iter().enumerate() {
        let name = export::checkpoint_file_name(i);
        to_file(&dir.join(&name), |to| export::checkpoint(log, c, &name, to))?;
    }
    to_file(&dir.join(export::TD_METRICS), measures)
}

fn to_stdout(write: impl FnOnce(&mut dyn Write) -> sftmix::Result<()>) -> Done {
    let mut out = BufWriter::new(std::io::stdout().lock());
    write(&mut out)?;
    Ok(out.flush()?)
}

fn to_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> sftmix::Result<()>) -> Done {
    let fault = |e: std::io::Error| Failure::failed(format!("{}: {e}", path.display()));
    let mut out = BufWriter::new(File::create(path).map_err(fault)?);
    write(&mut out)?;
    out.flush().map_err(fault)?;
    output::note(&format!("wrote {}", path.display()));
    Ok(())
}
