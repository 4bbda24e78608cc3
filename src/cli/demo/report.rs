//! What the demo prints: figures as they come out, and no claim beyond them.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{json, Value};
use sftmix::{Evaluation, Event};

use super::arms::{self, Arm};
use super::files::DemoRow;
use crate::cli::output;

/// A trained arm's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    Ntp,
    NtpEarly,
    NtpSameCompute,
    Sftmix,
}

impl Column {
    /// The arms, in the order of the table.
    pub const TRAINED: [Column; 4] = [Column::Ntp, Column::NtpEarly, Column::NtpSameCompute, Column::Sftmix];

    /// Its name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Column::Ntp => "ntp",
            Column::NtpEarly => "ntp_early",
            Column::NtpSameCompute => "ntp_same_compute",
            Column::Sftmix => "sftmix",
        }
    }
}

/// The arms of one seed.
pub struct Seed {
    pub ntp: Arm,
    pub ntp_early: Arm,
    pub ntp_same_compute: Arm,
    pub sftmix: Arm,
    /// Rows of the training file from the least confident on.
    pub least_confident: Vec<u64>,
}

impl Seed {
    pub fn arm(&self, column: Column) -> &Arm {
        match column {
            Column::Ntp => &self.ntp,
            Column::NtpEarly => &self.ntp_early,
            Column::NtpSameCompute => &self.ntp_same_compute,
            Column::Sftmix => &self.sftmix,
        }
    }
}

/// A held-out question and what each arm says.
pub struct Question {
    pub prompt: String,
    pub gold: String,
    pub answers: Vec<(String, String)>,
}

/// A status line while an arm trains.
pub struct Status {
    name: String,
    shown: Option<Instant>,
}

impl Status {
    pub fn new(name: &str, seed: u64) -> Status {
        let name = format!("seed {seed}  {name}");
        if !output::is_terminal() {
            output::note(&name);
        }
        Status { name, shown: None }
    }

    pub fn see(&mut self, event: &Event) {
        if !output::is_terminal() || self.shown.is_some_and(|t| t.elapsed() < Duration::from_millis(250)) {
            return;
        }
        let line = match event {
            Event::Step(s) => format!("{} step {}/{}  loss {:.3}", s.stage, s.global_step, s.total_steps, s.loss),
            Event::Sweep { number, of, .. } => format!("sweep {number}/{of}"),
            _ => return,
        };
        self.shown = Some(Instant::now());
        output::status(&format!("{}  {line}", self.name));
    }
}

fn mean_sd(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let var = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, var.sqrt())
}

fn spread(tests: &[Evaluation], f: fn(&Evaluation) -> f64) -> (f64, f64) {
    mean_sd(&tests.iter().map(f).collect::<Vec<_>>())
}

/// The figures of an arm over the seeds.
pub fn figures(tests: &[Evaluation]) -> Value {
    let (nll, exact) = (spread(tests, |e| e.nll), spread(tests, |e| e.exact_match));
    json!({
        "nll": nll.0,
        "nll_sd": nll.1,
        "exact_match": exact.0,
        "exact_match_sd": exact.1,
        "ece": spread(tests, |e| e.ece).0,
    })
}

pub fn introduction(rows: usize, broken: usize) -> String {
    format!(
        "A base model of 0.87 M parameters, fine-tuned on {rows} questions about a made-up harbour registry;\n\
         {broken} of the answers are broken on purpose. LoRA r 16, {} epochs, learning rate {:.0e}; the settings are\n\
         those that make ntp best on the validation rows. Figures are on 200 held-out questions.\n\n",
        arms::EPOCHS,
        arms::LR
    )
}

pub fn table(base: Evaluation, seeds: &[Seed]) -> String {
    let mut out = format!(
        "{:<18}{:>16}{:>16}{:>12}{:>10}{:>12}\n",
        "", "held-out loss", "exact match", "ECE", "seconds", "peak memory"
    );
    let pm = |(mean, sd): (f64, f64), factor: f64, digits: usize, unit: &str| {
        let spread = if seeds.len() > 1 { format!(" ±{:.*}", digits, factor * sd) } else { String::new() };
        format!("{:.*}{spread}{unit}", digits, factor * mean)
    };
    let mut line = |name: &str, tests: &[Evaluation], cost: Option<(f64, u64)>| {
        let (seconds, memory) =
            cost.map_or((String::new(), String::new()), |(s, m)| (format!("{s:.1}"), format!("{} MB", m / 1_000_000)));
        out += &format!(
            "{name:<18}{:>16}{:>16}{:>12}{seconds:>10}{memory:>12}\n",
            pm(spread(tests, |e| e.nll), 1.0, 3, ""),
            pm(spread(tests, |e| e.exact_match), 100.0, 1, " %"),
            pm(spread(tests, |e| e.ece), 100.0, 1, " %"),
        );
    };
    line("base", &vec![base; seeds.len()], None);
    for column in Column::TRAINED {
        let arms: Vec<&Arm> = seeds.iter().map(|s| s.arm(column)).collect();
        let tests: Vec<Evaluation> = arms.iter().map(|a| a.test).collect();
        let seconds = arms.iter().map(|a| a.report.seconds).sum::<f64>() / arms.len() as f64;
        let peak = arms.iter().map(|a| a.report.peak_anonymous_bytes).max().unwrap_or(0);
        line(column.name(), &tests, Some((seconds, peak)));
    }
    out + "\n\
        ntp               plain next-token training on the same rows, in epochs of a seeded order\n\
        ntp_early         the same run, stopped where the validation loss was least\n\
        ntp_same_compute  SFTMix's whole cost (reference run and sweeps too) spent on ntp, stopped likewise\n\
        sftmix            reference run, four sweeps, split, training with Mixup\n\n"
}

pub fn epochs(seeds: &[Seed]) -> String {
    let mut out = String::from("Validation loss after each epoch (seed 0):\n");
    for column in [Column::Ntp, Column::NtpSameCompute, Column::Sftmix] {
        let arm = seeds[0].arm(column);
        let losses: String = arm.epochs.iter().map(|l| format!("{l:8.3}")).collect();
        out += &format!("{:<18}{losses}\n", column.name());
    }
    let early = [Column::NtpEarly, Column::NtpSameCompute].map(|c| seeds[0].arm(c).epoch);
    out + &format!("ntp_early is epoch {}, ntp_same_compute epoch {}.\n\n", early[0], early[1])
}

pub fn broken(found: &[usize], broken: usize, shown: &[(u64, &DemoRow)]) -> String {
    let (mean, sd) = mean_sd(&found.iter().map(|&f| f as f64).collect::<Vec<_>>());
    let spread = if found.len() > 1 { format!(" (±{sd:.1} over seeds)") } else { String::new() };
    let mut out = format!(
        "Of the {broken} least confident training rows, {mean:.0}{spread} are among the {broken} that were broken. \
         The least confident of each kind:\n"
    );
    for (row, r) in shown {
        let kind = r.broken.as_deref().unwrap_or_default();
        out += &format!("  row {row:<4} {kind:<8} {}\n", r.prompt.replace('\n', "  ") + &r.completion);
    }
    out + "\n"
}

pub fn questions(questions: &[Question]) -> String {
    let mut out = String::from("Held-out questions (seed 0, greedy):\n");
    for q in questions {
        out += &format!("  {}  [right:{}]\n", q.prompt.replace('\n', "  "), q.gold);
        for (name, answer) in &q.answers {
            let line = answer.lines().next().unwrap_or_default();
            out += &format!("    {name:<18}{}\n", line.trim());
        }
    }
    out + "\n"
}

pub fn closing(seconds: f64, peak: u64, out: Option<&Path>) -> String {
    let kept = match out {
        Some(dir) => format!("Runs, adapters and dynamics logs are in {}.\n", dir.display()),
        None => "sftmix demo --out DIR keeps the runs; --seeds 5 shows the spread.\n".into(),
    };
    format!(
        "One small model and one small set: these figures say what happened here, no more.\n\
         {kept}{seconds:.0} s in all, peak anonymous memory {} MB.\n",
        peak / 1_000_000
    )
}
