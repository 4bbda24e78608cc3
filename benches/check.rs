//! A short bench for CI: `cargo bench --bench check`.
//!
//! Fails on memory more than 5 % over what was granted or planned, and on a ratio of two ways to run the same
//! steps in this process that no noise explains. Never on absolute time: the machines are shared.

use std::process::ExitCode;

use sftmix::internal::bench::{run, BenchConfig, BenchModel, BenchReport, Shape};
use sftmix::{DeviceSetting, Recipe, Recompute};

fn main() -> ExitCode {
    match check() {
        Ok(faults) if faults.is_empty() => ExitCode::SUCCESS,
        Ok(faults) => {
            faults.iter().for_each(|f| eprintln!("{f}"));
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> sftmix::Result<Vec<String>> {
    let base = BenchConfig {
        model: BenchModel::Shape(Shape::named("smollm2-135m")?),
        batch_size: 2,
        seq: 256,
        packed: true,
        steps: 3,
        device: DeviceSetting::Cpu,
        threads: Some(2),
        ..Default::default()
    };
    let mut faults = Vec::new();
    let mut measure = |name: &str, config: BenchConfig| -> sftmix::Result<BenchReport> {
        let limit = config.memory_limit;
        let r = run(&config, &mut |_| ())?;
        let (held, planned) = (r.peak_anonymous_bytes as f64, r.predicted_peak_bytes as f64);
        println!(
            "{name:<12}{:>7.2} s a step, {:>3.0} % of the floor's rate, {:>4.0} MB held, {:>4.0} MB planned",
            r.step_seconds_median,
            100.0 * r.floor_share,
            held / 1e6,
            planned / 1e6
        );
        for (what, bound) in [("planned", planned), ("granted", limit.map_or(f64::INFINITY, |l| l as f64))] {
            if held > 1.05 * bound {
                faults.push(format!("{name}: {held} bytes held, {bound} {what}"));
            }
        }
        Ok(r)
    };
    let kept = measure("kept", base.clone())?;
    let twice = measure("twice", BenchConfig { recompute: Recompute::On, ..base.clone() })?;
    let small = measure("small", BenchConfig { memory_limit: Some(180_000_000), ..base.clone() })?;
    let mixed = measure("sftmix", BenchConfig { recipe: Recipe::Sftmix, ..base })?;
    // Shares of the floor's rate, which is timed beside each step, so that a slower minute does not show.
    for (name, slow, fast, bounds) in [
        ("blocks run twice", &twice, &kept, 0.9..3.0),
        ("a small limit", &small, &kept, 0.7..3.0),
        ("sftmix beside ntp", &mixed, &kept, 0.5..2.5),
    ] {
        let ratio = fast.floor_share / slow.floor_share;
        println!("{name}: {ratio:.2} times the work");
        if !bounds.contains(&ratio) {
            faults.push(format!("{name}: {ratio:.2} times the work, expected {bounds:?}"));
        }
    }
    if kept.losses.iter().zip(&twice.losses).any(|(a, b)| a != b) {
        faults.push("blocks that run twice give other losses".into());
    }
    Ok(faults)
}
