//! What a run tells while it goes on, on stderr: a status line that is written over on a terminal, a
//! line now and then elsewhere.

use std::time::{Duration, Instant};

use sftmix::{Event, Keep, Prepared, StepEvent};

use super::format::{bytes, count, duration, number, plural};
use super::output;

/// Shortest time between two status lines.
const QUICK: Duration = Duration::from_millis(250);
/// Longest time without a line where there is no terminal.
const SLOW: Duration = Duration::from_secs(10);

/// Status lines, no more of them than one reads.
pub struct Pace {
    terminal: bool,
    shown: Option<Instant>,
    /// What was shown last, and how many tenths of it were done.
    tenth: (String, u64),
}

/// Prints events.
pub struct Progress {
    pace: Pace,
}

impl Progress {
    /// Says that the work has begun.
    pub fn new() -> Progress {
        let pace = Pace::new();
        if pace.terminal {
            output::status("reading the rows and opening the model");
        }
        Progress { pace }
    }

    /// Prints an event, if it is time to.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Prepared(p) => prepared(p).iter().for_each(|line| output::note(line)),
            // The tenths are those of all stages, but a new stage is worth a line.
            Event::Step(s) if self.pace.is_due(&s.stage, s.global_step, s.total_steps) => {
                self.pace.show(if self.pace.terminal { short(s) } else { long(s) });
            }
            Event::Sweep { number, of, done, total } => {
                let name = format!("sweep {number}/{of}");
                if self.pace.is_due(&name, *done, *total) {
                    self.pace.show(format!("{name}  {}/{} examples", count(*done), count(*total)));
                }
            }
            Event::Evaluated(e) => output::note(&format!(
                "held-out  {}, step {}, epoch {:.2}: loss {}, perplexity {}, token accuracy {:.1} %",
                e.stage,
                count(e.global_step),
                e.epoch,
                number(e.eval_loss),
                number(e.eval_perplexity),
                100.0 * e.eval_token_accuracy
            )),
            Event::StoppedEarly { global_step, best_step, best_eval_loss } => output::note(&format!(
                "stopped early  step {}: no improvement on loss {} of step {}",
                count(*global_step),
                number(*best_eval_loss),
                count(*best_step)
            )),
            Event::Split { confident, unconfident, neither } => output::note(&format!(
                "split  {} confident, {} unconfident, {} neither",
                count(*confident as u64),
                count(*unconfident as u64),
                count(*neither as u64)
            )),
            Event::Checkpoint { path } => output::note(&format!("checkpoint  {}", path.display())),
            _ => {}
        }
    }
}

impl Pace {
    /// Of lines to stderr.
    pub fn new() -> Pace {
        Pace { terminal: output::is_terminal(), shown: None, tenth: (String::new(), 0) }
    }

    /// Prints a line.
    pub fn show(&mut self, line: String) {
        self.shown = Some(Instant::now());
        if self.terminal {
            output::status(&line);
        } else {
            output::note(&line);
        }
    }

    /// At most four lines a second; without a terminal one every ten seconds or every tenth of the way.
    /// The first and the last are always shown.
    pub fn is_due(&mut self, what: &str, done: u64, total: u64) -> bool {
        let tenth = 10 * done / total.max(1);
        let is_new = self.tenth.0 != what;
        let moved = is_new || self.tenth.1 != tenth;
        let elapsed = self.shown.map_or(SLOW, |t| t.elapsed());
        let due = is_new || done >= total || if self.terminal || moved { elapsed >= QUICK } else { elapsed >= SLOW };
        if due {
            self.tenth = (what.to_string(), tenth);
        }
        due
    }
}

fn prepared(p: &Prepared) -> Vec<String> {
    let mut rows = String::new();
    let dropped = "written in part, as --template-drops allows";
    for (n, what) in [
        (p.rows.cut, "cut"),
        (p.rows.empty, "empty"),
        (p.rows.no_target, "without a target"),
        (p.rows.dropped, dropped),
        (p.rows.own_ends, "with a beginning or end token of their own"),
        (p.rows.mapped_roles, "with roles that are mapped to the template's"),
        (p.rows.skipped, "skipped"),
    ] {
        if n > 0 {
            rows += &format!(", {} {what}", plural(n, "row"));
        }
    }
    let windows =
        if p.rows.windows > 0 { format!(", {} of them pieces", count(p.rows.windows)) } else { String::new() };
    let data = p.sources.iter().filter(|_| p.sources.len() > 1).map(|s| {
        let rows = format!("{} of its {}", count(s.taken), plural(s.rows.rows, "row"));
        format!("  {} × {}: {rows}, {}", number(s.weight), s.path.display(), plural(s.examples, "example"))
    });
    let skipped = p.sources.iter().flat_map(|s| {
        s.skipped.iter().map(|r| {
            let named: Vec<String> = r.first.iter().take(10).map(u64::to_string).collect();
            let more = if r.rows > named.len() as u64 { ", …" } else { "" };
            let (rows, file) = (plural(r.rows, "row"), s.path.display());
            format!("  skipped {rows} of {file}: {} ({}{more})", r.reason, named.join(", "))
        })
    });
    let held_out: u64 = p.sources.iter().map(|s| s.held_out).sum();
    let valid = p.valid_examples.map(|n| match held_out {
        0 => format!("valid  {}", plural(n as u64, "example")),
        rows => format!("valid  {} from {} held out of the data", plural(n as u64, "example"), plural(rows, "row")),
    });
    let mut lines = vec![
        format!(
            "data  {} from {}{windows}{rows}; {} tokens, {} trained on",
            plural(p.examples as u64, "example"),
            plural(p.rows.rows, "row"),
            count(p.tokens),
            count(p.supervised_tokens)
        ),
        format!(
            "model  {} trained parameters, {} ({}), micro-batches of {}, activations {}",
            count(p.parameters as u64),
            p.device,
            plural(p.threads as u64, "thread"),
            p.micro_tokens.map_or(plural(p.micro_batch as u64, "row"), |t| format!("{} tokens", count(t as u64))),
            match p.keep {
                Keep::Nothing | Keep::INPUTS => "computed twice".into(),
                Keep::Top(_) => "kept".into(),
                Keep::Within(limit) => format!("kept up to {}", bytes(limit as u64)),
            }
        ),
    ];
    lines.splice(1..1, data.chain(skipped).chain(valid));
    // A build without GPU code is a choice that was made; a GPU that was looked for in vain is news.
    if let Some(why) = p.device_instead.as_ref().filter(|_| cfg!(any(feature = "cuda", feature = "metal"))) {
        lines.push(format!("device  cpu, because {why}"));
    }
    lines.push(match p.resumed_at {
        0 => format!("run  {}", plural(p.total_steps, "step")),
        at => format!("run  continues behind step {} of {}", count(at), count(p.total_steps)),
    });
    lines
}

/// The status line of a terminal.
fn short(s: &StepEvent) -> String {
    let mix = s.mixup_loss.map(|m| format!("  mix {m:.3}")).unwrap_or_default();
    format!(
        "{} {}/{}  loss {:.4}{mix}  {:.0} tok/s  {}  {} left",
        s.stage,
        count(s.global_step),
        count(s.total_steps),
        s.loss,
        s.tokens_per_second,
        bytes(s.peak_anonymous_bytes),
        duration(s.eta_seconds)
    )
}

/// A line that stays.
fn long(s: &StepEvent) -> String {
    let mix =
        s.mixup_loss.map(|m| format!(" (tokens {}, mixed {})", number(s.ntp_loss), number(m))).unwrap_or_default();
    format!(
        "{}  step {}/{}, epoch {:.2}: loss {}{mix}, gradient {}, rate {:.2e}, {:.0} tokens/s, {}, {} left",
        s.stage,
        count(s.global_step),
        count(s.total_steps),
        s.epoch,
        number(s.loss),
        number(s.grad_norm),
        s.learning_rate,
        s.tokens_per_second,
        bytes(s.peak_anonymous_bytes),
        duration(s.eta_seconds)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_few() {
        for terminal in [false, true] {
            let mut p = Pace { terminal, shown: None, tenth: (String::new(), 0) };
            let mut lines = Vec::new();
            for i in 1..=1000 {
                if p.is_due("target", i, 1000) {
                    p.shown = Some(Instant::now());
                    lines.push(i);
                }
            }
            // A thousand steps in no time: the first and the last.
            assert_eq!((lines[0], *lines.last().unwrap()), (1, 1000));
            assert!(lines.len() < 6, "{lines:?}");
        }
    }
}
