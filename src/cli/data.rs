//! `sftmix data inspect`.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;
use sftmix::internal::data::inspect::{inspect, InspectConfig, InspectedFile, ShownRow, ShownToken};
use sftmix::{DataSource, DataSources};

use super::failure::Done;
use super::format::{count, plural};
use super::help::Defaults;
use super::options::DataFlags;
use super::output;

/// Widest bar of the lengths.
const BAR: u64 = 40;

/// Look at what training will see of data files
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Show rows token by token, with what is trained in [brackets], and what becomes of all rows
    Inspect(Box<Inspect>),
}

#[derive(clap::Args, Debug)]
struct Inspect {
    /// Hugging Face model folder, or ORG/NAME[@REVISION] of the Hugging Face cache; of it the tokenizer is read
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The rows, as for train; may be given several times
    #[arg(long, value_name = "PATH[:WEIGHT]", required = true)]
    data: Vec<DataSource>,
    /// Show this row alone: a line of JSONL, an element of an array, a record of a table, a file of a folder, from 1
    /// [default: the first --rows]
    #[arg(long, value_name = "N")]
    row: Option<u64>,
    /// Rows of each file to show
    #[arg(long, value_name = "N")]
    rows: Option<usize>,
    /// Longest row in tokens; the rest is cut and counted
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// Worker threads [default: the machine's cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    data_options: DataFlags,
    /// Print one JSON object [default: text]
    #[arg(long)]
    json: bool,
}

/// Defaults for the help of `data inspect`.
pub fn defaults() -> Defaults {
    let d = InspectConfig::default();
    vec![("rows".into(), d.rows.to_string()), ("max_length".into(), d.max_length.to_string())]
}

/// Runs the command.
pub fn run(args: Args) -> Done {
    let Command::Inspect(args) = args.command;
    let d = InspectConfig::default();
    let config = InspectConfig {
        model: args.model,
        data: DataSources(args.data),
        row: args.row,
        rows: args.rows.unwrap_or(d.rows),
        max_length: args.max_length.unwrap_or(d.max_length),
        threads: args.threads,
        data_options: args.data_options.into(),
    };
    let files = inspect(&config)?;
    if args.json {
        let all = json!({"model": config.model, "max_length": config.max_length, "files": files});
        return Ok(output::print_json(&all)?);
    }
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let text: Vec<String> = files.iter().map(|f| file(f, colour)).collect();
    Ok(output::print(&text.join("\n"))?)
}

fn file(f: &InspectedFile, colour: bool) -> String {
    let mut out: String = f.shown.iter().map(|r| row(r, colour) + "\n").collect();
    let of = |n: u64, rows: &[u64]| match rows {
        [] => count(n),
        rows => {
            let named: Vec<String> = rows.iter().map(u64::to_string).collect();
            let more = if n > rows.len() as u64 { ", …" } else { "" };
            format!("{} (row {}{more})", count(n), named.join(", "))
        }
    };
    let pieces = match f.rows.windows {
        0 => String::new(),
        n => format!(", {} of them pieces of split texts", count(n)),
    };
    let mut rows = vec![
        ("file", f.path.display().to_string()),
        ("shape", f.shape.unwrap_or("none").to_string()),
        ("rows", count(f.rows.rows)),
        ("examples", count(f.rows.kept) + &pieces),
        ("cut", of(f.rows.cut, &f.cut)),
        ("empty", of(f.rows.empty, &f.empty)),
        ("without target", of(f.rows.no_target, &f.no_target)),
        ("tokens", format!("{}, {} of them trained", count(f.tokens), count(f.supervised_tokens))),
        ("longest", plural(f.longest, "token")),
    ];
    for s in &f.skipped {
        rows.push(("skipped", format!("{}: {}", of(s.rows, &s.first[..s.first.len().min(10)]), s.reason)));
    }
    if f.rows.skipped > f.rows.rows / 20 {
        rows.push(("refused", "more than 5 % of the rows are skipped: training ends with an error".into()));
    }
    if f.rows.mapped_roles > 0 {
        rows.push(("with mapped roles", of(f.rows.mapped_roles, &f.mapped_roles)));
    }
    if f.rows.own_ends > 0 {
        rows.push(("with ends of their own", count(f.rows.own_ends)));
    }
    if f.rows.dropped > 0 {
        rows.push(("written in part", of(f.rows.dropped, &f.dropped)));
    }
    if f.weight != 1.0 {
        rows.insert(1, ("weight", f.weight.to_string()));
    }
    out += &output::table(&rows);
    let most = f.lengths.iter().map(|b| b.examples).max().unwrap_or(0);
    let widest = |text: fn(u64) -> String, n: Option<u64>| n.map_or(0, |n| text(n).len());
    let (to, examples) = (widest(count, f.lengths.last().map(|b| b.to)), widest(count, Some(most)));
    for b in &f.lengths {
        let bar = "#".repeat((b.examples * BAR).div_ceil(most.max(1)) as usize);
        let line = format!("  up to {:>to$} tokens  {:>examples$}  {bar}", count(b.to), count(b.examples));
        out += &format!("{}\n", line.trim_end());
    }
    out
}

fn row(r: &ShownRow, colour: bool) -> String {
    let tokens = |w: &[ShownToken]| {
        let trained = w.iter().filter(|t| t.trained).count() as u64;
        let left_out = if trained == 0 { "; nothing to train on, left out" } else { "" };
        format!("{}, {} trained{left_out}", plural(w.len() as u64, "token"), count(trained))
    };
    let cut = if r.cut { ", cut" } else { "" };
    match r.windows.as_slice() {
        [] if r.skipped.is_some() => {
            format!("row {}: skipped: {}\n", r.row, r.skipped.as_deref().unwrap_or_default())
        }
        [] if r.empty => format!("row {}: empty, left out\n", r.row),
        [] => format!("row {}: no tokens, left out\n", r.row),
        [one] => format!("row {}: {}{cut}\n{}", r.row, tokens(one), shown(one, colour)),
        several => {
            let piece = |(i, w): (usize, &Vec<ShownToken>)| {
                let of = format!("piece {} of {}", i + 1, several.len());
                format!("row {}, {of}: {}\n{}", r.row, tokens(w), shown(w, colour))
            };
            several.iter().enumerate().map(piece).collect()
        }
    }
}

/// Tokens one behind the other: what is trained in brackets, the others parted by bars.
fn shown(tokens: &[ShownToken], colour: bool) -> String {
    let (on, off) = if colour { ("\u{1b}[1;32m", "\u{1b}[0m") } else { ("", "") };
    let mut out = String::new();
    let mut bar = false;
    for t in tokens {
        let text = escaped(&t.text);
        if t.trained {
            out += &format!("{on}[{text}]{off}");
        } else {
            out += if bar { "|" } else { "" };
            out += &text;
        }
        let line_ends = t.text.ends_with('\n');
        bar = !t.trained && !line_ends;
        if line_ends {
            out.push('\n');
        }
    }
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// The text with line ends and the like as one would write them.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trained_tokens_stand_in_brackets() {
        let token = |text: &str, trained| ShownToken { id: 0, text: text.into(), trained };
        let tokens =
            [token("<s>", false), token("Q\n", false), token("A", false), token(" é\u{1b}", true), token("</s>", true)];
        assert_eq!(shown(&tokens, false), "<s>|Q\\n\nA[ é\\u{1b}][</s>]\n");
        assert_eq!(shown(&tokens[3..], true), "\u{1b}[1;32m[ é\\u{1b}]\u{1b}[0m\u{1b}[1;32m[</s>]\u{1b}[0m\n");
        let r = ShownRow { row: 7, cut: true, empty: false, skipped: None, windows: vec![tokens[..2].to_vec()] };
        assert_eq!(row(&r, false), "row 7: 2 tokens, 0 trained; nothing to train on, left out, cut\n<s>|Q\\n\n");
        let r = ShownRow { row: 8, cut: false, empty: true, skipped: None, windows: vec![] };
        assert_eq!(row(&r, false), "row 8: empty, left out\n");
    }
}
