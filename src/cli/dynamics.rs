//! `sftmix dynamics show` and `export`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use serde_json::{json, Value};
use sftmix::dynamics::{confidences, export, metrics, split_checkpoints, DynamicsLog, HalfSummary, Metrics, Summary};
use sftmix::internal::data::text::chat::ChatFormat;
use sftmix::internal::data::text::Rendered;
use sftmix::internal::data::tokens::read_rows;
use sftmix::internal::data::tokens::{file_and_row, row_name, Tokenizer};
use sftmix::internal::recipe::{Half, Halves};
use sftmix::{Confidence, Dynamics, TrainConfig};

use super::failure::{Done, Failure};
use super::format::{count, number, one_line, one_line_end, plural};
use super::output;

/// Characters of a prompt or response that are shown.
const SHOWN: usize = 160;
/// Examples shown of either half.
const ROWS: usize = 5;
const QUANTILES: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];

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

/// A log and what follows from it.
struct View {
    config: Option<TrainConfig>,
    log: DynamicsLog,
    kind: Confidence,
    which: Vec<usize>,
    metrics: Vec<Metrics>,
    confidences: Vec<f32>,
}

impl View {
    fn open(run: &Path) -> Result<View, Failure> {
        let (folder, dir) = match run.join("header.json").exists() {
            true => (run.parent().map(Path::to_path_buf), run.to_path_buf()),
            false => (Some(run.to_path_buf()), run.join("dynamics")),
        };
        let config = folder.and_then(|f| config_of(&f.join("run.json")));
        if !dir.join("header.json").exists() {
            let failure = Failure::failed(format!("{}: no dynamics here", run.display()));
            return Err(match config.map(|c| c.dynamics) {
                Some(Dynamics::Path(from)) => failure.hint(format!("the run took them from {}", from.display())),
                _ => failure.hint("dynamics are written by recipe sftmix, in the dynamics folder of the run"),
            });
        }
        let log = DynamicsLog::open(&dir)?;
        let kind = config.as_ref().map_or(TrainConfig::default().confidence, |c| c.confidence);
        let which = split_checkpoints(&log)?;
        let metrics = metrics(&log, &which)?;
        let confidences = confidences(&log, kind, &which)?;
        Ok(View { config, log, kind, which, metrics, confidences })
    }

    fn row(&self, example: u32) -> u64 {
        self.log.example(example).map_or(0, |(row, _)| row)
    }

    /// Text of some examples, one a place, or why there is none.
    fn texts(&self, examples: &[u32]) -> Result<Vec<Option<Rendered>>, String> {
        let Some(config) = &self.config else { return Err("there is no run.json beside the log".into()) };
        let rows: Vec<u64> = examples.iter().map(|&e| self.row(e)).collect();
        let read = |format: &ChatFormat| read_files(config, format, &rows);
        // Only conversations need the tokenizer: its end token, or its template. Without either they fail.
        let mut found = read(&ChatFormat::default())
            .or_else(|e| match Tokenizer::load(&config.model) {
                Ok(tokenizer) => read(&ChatFormat::of(&tokenizer, &config.data_options, None)?),
                Err(_) => Err(e),
            })
            .map_err(|e| e.to_string())?;
        let mut changed = 0;
        for (&example, row) in examples.iter().zip(&rows) {
            let name = self.log.example(example).map(|(_, hash)| hash);
            // A piece of a split text has a name of its own, so only whole rows can be compared.
            let differs = |r: &Rendered| !r.whole && Some(r.hash(0)) != name;
            if found.get(row).is_some_and(differs) {
                found.remove(row);
                changed += 1;
            }
        }
        if changed > 0 {
            log::warn!("{}: {} changed since the run", config.data, plural(changed, "row"));
        }
        Ok(rows.iter().map(|row| found.get(row).cloned()).collect())
    }
}

/// Text of some rows of a run's data files.
fn read_files(config: &TrainConfig, format: &ChatFormat, rows: &[u64]) -> sftmix::Result<BTreeMap<u64, Rendered>> {
    let mut found = BTreeMap::new();
    for (file, source) in config.data.0.iter().enumerate() {
        let own: Vec<(u64, u64)> = rows
            .iter()
            .map(|&row| (row, file_and_row(row)))
            .filter(|r| r.1 .0 == file)
            .map(|r| (r.1 .1, r.0))
            .collect();
        if own.is_empty() {
            continue;
        }
        let numbers: Vec<u64> = own.iter().map(|r| r.0).collect();
        let mut texts = read_rows(&source.path, &config.data_options, format, &numbers)?;
        found.extend(own.iter().filter_map(|(row, name)| Some((*name, texts.remove(row)?))));
    }
    Ok(found)
}

fn config_of(path: &Path) -> Option<TrainConfig> {
    let mut run: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    match serde_json::from_value(run.get_mut("config")?.take()) {
        Ok(config) => Some(config),
        Err(e) => {
            log::warn!("{}: settings not readable: {e}", path.display());
            None
        }
    }
}

/// Runs the command.
pub fn run(args: Args) -> Done {
    match args.command {
        Command::Show { run, rows, json } => show(&View::open(&run)?, rows, json),
        Command::Export { run, format, out } => {
            let view = View::open(&run)?;
            match format {
                Format::Csv => export_csv(&view, out.as_deref()),
                Format::Jsonl => export_jsonl(&view, out.as_deref()),
            }
        }
    }
}

/// Mean and quantiles.
struct Distribution {
    mean: f64,
    quantiles: [f64; QUANTILES.len()],
}

impl Distribution {
    fn new(values: impl Iterator<Item = f64>) -> Distribution {
        let mut v: Vec<f64> = values.collect();
        v.sort_unstable_by(f64::total_cmp);
        let mean = v.iter().sum::<f64>() / v.len().max(1) as f64;
        // Linear between neighbours, as numpy's default.
        let at = |q: f64| {
            let place = q * v.len().saturating_sub(1) as f64;
            let (low, high) = (place.floor() as usize, place.ceil() as usize);
            let (Some(a), Some(b)) = (v.get(low), v.get(high)) else { return f64::NAN };
            if a == b {
                *a
            } else {
                a + (b - a) * (place - low as f64)
            }
        };
        Distribution { mean, quantiles: QUANTILES.map(at) }
    }

    fn line(&self) -> String {
        let [min, q1, median, q3, max] = self.quantiles.map(number);
        format!("mean {}, min {min}, 25 % {q1}, median {median}, 75 % {q3}, max {max}", number(self.mean))
    }

    fn json(&self) -> Value {
        let [min, q1, median, q3, max] = self.quantiles;
        json!({"mean": self.mean, "min": min, "q25": q1, "median": median, "q75": q3, "max": max})
    }
}

fn show(view: &View, rows: usize, json: bool) -> Done {
    let halves = Halves::split(&view.confidences)?;
    let summary = Summary::new(&view.metrics, &halves.labels());
    let most: Vec<u32> = halves.confident().iter().copied().take(rows).collect();
    let least: Vec<u32> = halves.unconfident().iter().rev().copied().take(rows).collect();
    let shown: Vec<u32> = most.iter().chain(&least).copied().collect();
    let (texts, absent) = match view.texts(&shown) {
        Ok(texts) => (texts, None),
        Err(reason) => (vec![None; shown.len()], Some(reason)),
    };
    let (most_texts, least_texts) = texts.split_at(most.len());
    let perplexity = Distribution::new(view.metrics.iter().map(|m| m.mean_perplexity));
    let nll = Distribution::new(view.metrics.iter().map(|m| m.mean_nll));
    let ids: Vec<&str> = view.which.iter().map(|&c| view.log.checkpoints()[c].id.as_str()).collect();

    if json {
        let list = |examples: &[u32], texts: &[Option<Rendered>]| -> Vec<Value> {
            examples.iter().zip(texts).map(|(&e, t)| example_json(view, e, t.as_ref())).collect()
        };
        return Ok(output::print_json(&json!({
            "examples": view.log.len(),
            "checkpoints": ids,
            "confidence": view.kind,
            "perplexity": perplexity.json(),
            "nll": nll.json(),
            "spearman": summary.spearman,
            "confident": half_json(&summary.confident),
            "unconfident": half_json(&summary.unconfident),
            "neither": half_json(&summary.neither),
            "most_confident": list(&most, most_texts),
            "least_confident": list(&least, least_texts),
            "text_absent": absent,
        }))?);
    }

    let mut out = output::table(&[
        ("examples", count(view.log.len())),
        ("checkpoints", ids.join(", ")),
        ("perplexity", perplexity.line()),
        ("loss", nll.line()),
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
    for (title, examples, texts) in [("Most confident", &most, most_texts), ("Least confident", &least, least_texts)] {
        if !examples.is_empty() {
            out += &format!("\n{title}, by {}\n", view.kind);
        }
        for (&e, text) in examples.iter().zip(texts) {
            out += &example_text(view, e, text.as_ref());
        }
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

fn half_json(h: &HalfSummary) -> Value {
    json!({
        "examples": h.rows,
        "mean_tokens": h.mean_tokens,
        "mean_nll": h.mean_nll,
        "mean_perplexity": h.mean_perplexity,
        "mean_confidence": h.mean_confidence,
        "mean_variability": h.mean_variability,
        "never_correct": h.never_correct,
    })
}

/// Prompt and response; of a conversation, what comes before its first trained part and that part.
fn parts(text: &Rendered) -> (&str, &str) {
    let span = text.spans.first().cloned().unwrap_or(0..text.text.len());
    (text.text.get(..span.start).unwrap_or_default(), text.text.get(span).unwrap_or_default())
}

fn example_text(view: &View, e: u32, text: Option<&Rendered>) -> String {
    let m = view.metrics.get(e as usize).copied().unwrap_or_default();
    let mut out = format!(
        "  {}: perplexity {}, loss {}, {}\n",
        row_name(view.row(e)),
        number(m.mean_perplexity),
        number(m.mean_nll),
        plural(m.n_tokens.into(), "token")
    );
    if let Some(text) = text {
        let (prompt, response) = parts(text);
        if !prompt.trim().is_empty() {
            out += &format!("    prompt    {}\n", one_line_end(prompt, SHOWN));
        }
        out += &format!("    {}  {}\n", if text.whole { "text    " } else { "response" }, one_line(response, SHOWN));
    }
    out
}

fn example_json(view: &View, e: u32, text: Option<&Rendered>) -> Value {
    let m = view.metrics.get(e as usize).copied().unwrap_or_default();
    json!({
        "index": e,
        "row": file_and_row(view.row(e)).1,
        "file": file_and_row(view.row(e)).0,
        "mean_perplexity": m.mean_perplexity,
        "mean_nll": m.mean_nll,
        "confidence": m.confidence,
        "variability": m.variability,
        "tokens": m.n_tokens,
        "prompt": text.map(|t| parts(t).0),
        "response": text.map(|t| parts(t).1),
    })
}

fn export_csv(view: &View, out: Option<&Path>) -> Done {
    // A set too small to be split is still worth its table.
    let labels: Vec<Half> = Halves::split(&view.confidences).map(|h| h.labels()).unwrap_or_default();
    let write = |to: &mut dyn Write| export::csv(&view.log, &view.metrics, &labels, to);
    match out {
        Some(path) if path.is_dir() => to_file(&path.join(export::CSV), write),
        Some(path) => to_file(path, write),
        None => to_stdout(write),
    }
}

fn export_jsonl(view: &View, out: Option<&Path>) -> Done {
    let measures = |to: &mut dyn Write| export::td_metrics(&view.log, &view.metrics, to);
    let Some(dir) = out else { return to_stdout(measures) };
    std::fs::create_dir_all(dir).map_err(|e| Failure::failed(format!("{}: {e}", dir.display())))?;
    for (i, &c) in view.which.iter().enumerate() {
        let name = export::checkpoint_file_name(i);
        to_file(&dir.join(&name), |to| export::checkpoint(&view.log, c, &name, to))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let d = Distribution::new([4.0, 1.0, 2.0, 3.0].into_iter());
        assert_eq!((d.mean, d.quantiles), (2.5, [1.0, 1.75, 2.5, 3.25, 4.0]));
        let d = Distribution::new([1.0, f64::INFINITY, f64::INFINITY].into_iter());
        assert_eq!(d.quantiles[4], f64::INFINITY);
        assert!(Distribution::new(std::iter::empty()).quantiles[2].is_nan());
    }

    #[test]
    fn a_row_is_shown_by_prompt_and_response() {
        let r = Rendered::pair("Question: é?\n", "yes");
        assert_eq!(parts(&r), ("Question: é?\n", "yes"));
        assert_eq!(parts(&Rendered::text("abc")), ("", "abc"));
    }
}
