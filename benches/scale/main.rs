//! What many rows cost, on rows that this program writes itself:
//! `cargo bench --bench scale -- --rows 2000000`
//!
//! 1. memory of making a token store, and of runs over it, beside that of 2,000 rows;
//! 2. rate of making it, beside the tokenizer library's own over the same texts on as many threads;
//! 3. a second start, which tokenises nothing;
//! 4. the split of the rows by five checkpoints of a dynamics log.
//!
//! One line a figure; `--json FILE` writes them all. Memory is anonymous memory at its peak, of processes of
//! their own: each phase is this program again, see `phases.rs`.
//!
//! Options: `--rows N` (100000), `--small N` (2000), `--tokenizer DIR` (of 2: a folder with tokenizer.json and the
//! name of an end token; the demo's), `--threads N` (all), `--dir DIR` (where files go and stay; below target/),
//! `--only PHASE`, `--json FILE`.

mod phases;
mod rows;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{json, Map, Value};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The settings, which the phases get as they are.
pub struct Settings {
    rows: u64,
    small: u64,
    tokenizer: PathBuf,
    threads: usize,
    dir: PathBuf,
    json: Option<PathBuf>,
    only: Option<String>,
    /// A phase and how many rows it is for.
    phase: Option<(String, u64)>,
}

impl Settings {
    fn parse() -> Outcome<Settings> {
        let mut s = Settings {
            rows: 100_000,
            small: 2_000,
            tokenizer: concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo").into(),
            threads: std::thread::available_parallelism()?.get(),
            dir: concat!(env!("CARGO_TARGET_TMPDIR"), "/scale").into(),
            json: None,
            only: None,
            phase: None,
        };
        let mut args = std::env::args().skip(1);
        while let Some(name) = args.next() {
            let mut value = || args.next().ok_or(format!("{name} needs a value"));
            match name.as_str() {
                // Cargo's own.
                "--bench" => {}
                "--rows" => s.rows = value()?.parse()?,
                "--small" => s.small = value()?.parse()?,
                "--tokenizer" => s.tokenizer = value()?.into(),
                "--threads" => s.threads = value()?.parse()?,
                "--dir" => s.dir = value()?.into(),
                "--json" => s.json = Some(value()?.into()),
                "--only" => s.only = Some(value()?),
                "--phase" => s.phase = Some((value()?, value()?.parse()?)),
                other => return Err(format!("unknown option {other}").into()),
            }
        }
        Ok(s)
    }

    /// Runs a phase in a process of its own and returns its figures.
    fn run(&self, phase: &str, rows: u64) -> Outcome<Value> {
        let mut child = Command::new(std::env::current_exe()?);
        child.arg("--tokenizer").arg(&self.tokenizer).arg("--dir").arg(&self.dir);
        child.args(["--threads", &self.threads.to_string(), "--phase", phase, &rows.to_string()]);
        let output = child.stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(format!("{phase} of {rows} rows ended with {}", output.status).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn measure(&self) -> Outcome<Map<String, Value>> {
        let mut all = Map::new();
        let (large, small) = (self.rows, self.small);
        let mut twice = |phase: &str| -> Outcome<(Value, Value)> {
            let (a, b) = (self.run(phase, small)?, self.run(phase, large)?);
            let (x, y) = (mib(&a, "peak_bytes"), mib(&b, "peak_bytes"));
            println!("{phase:<12} memory {y:.1} MiB, {:+.1} against {small} rows; {} s", y - x, b["seconds"]);
            all.insert(phase.into(), json!({"small": a.clone(), "large": b.clone()}));
            Ok((a, b))
        };
        twice("data")?;
        let (small_run, first) = twice("first-run")?;
        println!(
            "{:<12} {:+.1} MiB when prepared; {} tokens, {} rows/s until then",
            "",
            mib(&first, "prepared_peak_bytes") - mib(&small_run, "prepared_peak_bytes"),
            first["tokens"],
            first["rows_per_second"]
        );
        twice("open")?;
        twice("run-ntp")?;
        twice("log")?;
        let (_, split) = twice("split")?;
        let figure = |key: &str| split[key].as_f64().unwrap_or(f64::NAN);
        let held = (figure("peak_bytes") - figure("start_bytes")) / figure("examples");
        println!("{:<12} {} examples, {held:.1} bytes each at the peak", "", split["examples"]);
        twice("run-log")?;
        twice("run-turned")?;
        let rate = self.run("rate", rate_rows(large))?;
        println!(
            "rate         {} of the library's parallel encode, {} of its encode_batch; {} by CPU time",
            rate["of_encode"], rate["of_encode_batch"], rate["cpu_of_encode"]
        );
        println!(
            "{:<12} store, encode, encode_batch: {} rows/s on {} cores",
            "", rate["rows_per_second"], rate["cores"]
        );
        all.insert("rate".into(), rate);
        all.insert("settings".into(), json!({"rows": large, "small": small, "threads": self.threads}));
        Ok(all)
    }
}

/// Rows of each round of the rate.
fn rate_rows(rows: u64) -> u64 {
    rows.min(60_000)
}

fn mib(figures: &Value, key: &str) -> f64 {
    figures[key].as_f64().unwrap_or(f64::NAN) / (1 << 20) as f64
}

fn main() -> Outcome<()> {
    let settings = Settings::parse()?;
    std::fs::create_dir_all(&settings.dir)?;
    if let Some((phase, rows)) = &settings.phase {
        println!("{}", phases::run(&settings, phase, *rows)?);
        return Ok(());
    }
    if let Some(phase) = &settings.only {
        println!("{:#}", settings.run(phase, if phase == "rate" { rate_rows(settings.rows) } else { settings.rows })?);
        return Ok(());
    }
    let all = settings.measure()?;
    if let Some(path) = &settings.json {
        std::fs::write(path, format!("{:#}\n", Value::Object(all)))?;
    }
    Ok(())
}
