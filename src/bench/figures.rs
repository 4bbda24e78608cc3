//! What is gathered over the steps, and the report of it.

use super::config::BenchConfig;
use super::report::{BenchPhases, BenchReport, BenchStep, BenchTransfer};
use super::rows::Step;
use super::source::Rows;
use super::trial::Trial;
use crate::ops::moved::{Moved, Transfer};
use crate::ops::Phase;
use crate::rate::Rates;

/// What is gathered over the steps.
#[derive(Default)]
pub(super) struct Figures {
    steps: Vec<BenchStep>,
    rates: Vec<Rates>,
    pub phases: [f64; Phase::ALL.len()],
    data: f64,
    micros: usize,
    groups: usize,
    blocks_kept: usize,
    /// Seconds of the step that is not counted.
    pub first_step: f64,
    pub losses: Vec<f64>,
    /// Seconds of a forward pass over the step's rows, in those of the step.
    pub scored: Vec<f64>,
    peak_anonymous: Option<u64>,
    peak_resident: Option<u64>,
    /// What was there before, and what the reference has left behind in memory; not the step's.
    left_behind: u64,
    pub device_bytes: Option<u64>,
    transfers: [Moved; Transfer::ALL.len()],
}

impl Figures {
    pub fn see_memory(&mut self, anonymous: Option<u64>, resident: Option<u64>) {
        let own = |bytes: Option<u64>| bytes.map(|b| b.saturating_sub(self.left_behind));
        self.peak_anonymous = self.peak_anonymous.max(own(anonymous));
        self.peak_resident = self.peak_resident.max(resident);
    }

    pub fn see_reference(&mut self, before: Option<u64>, after: Option<u64>) {
        self.left_behind += after.zip(before).map_or(0, |(a, b)| a.saturating_sub(b));
    }

    /// `kept` blocks of all groups together.
    pub fn see_groups(&mut self, step: &Step, kept: usize) {
        self.micros += step.groups.iter().map(|g| g.micros.len()).sum::<usize>();
        self.groups += step.groups.len();
        self.blocks_kept += kept;
    }

    pub fn see_transfers(&mut self, before: [Moved; Transfer::ALL.len()], now: [Moved; Transfer::ALL.len()]) {
        for ((sum, now), before) in self.transfers.iter_mut().zip(now).zip(before) {
            sum.uploads += now.uploads - before.uploads;
            sum.downloads += now.downloads - before.downloads;
            sum.bytes += now.bytes - before.bytes;
        }
    }

    pub fn add(&mut self, step: &BenchStep, rates: Rates, data: f64, phases: [f64; Phase::ALL.len()]) {
        self.steps.push(*step);
        self.rates.push(rates);
        self.data += data;
        for (sum, p) in self.phases.iter_mut().zip(phases) {
            *sum += p;
        }
    }

    pub fn report(
        self,
        config: &BenchConfig,
        trial: &Trial,
        rows: &Rows,
        shape: String,
        seconds_to_first_step: f64,
    ) -> BenchReport {
        let n = self.steps.len() as f64;
        let sum = |f: &dyn Fn(&BenchStep) -> f64| self.steps.iter().map(f).sum::<f64>();
        let (seconds, tokens) = (sum(&|s| s.seconds), sum(&|s| s.tokens as f64));
        let cpu = self.steps.iter().map(|s| s.cpu_seconds).sum::<Option<f64>>().filter(|&c| c > 0.0);
        let share_cpu = |(s, r): (&BenchStep, &Rates)| {
            let spent = s.cpu_seconds.filter(|&c| c > 0.0)?;
            Some(s.floor_gflop / (spent * r.best_per_cpu_second()?))
        };
        let shares_cpu: Option<Vec<f64>> = self.steps.iter().zip(&self.rates).map(share_cpu).collect();
        let share_peak = |(s, r): (&BenchStep, &Rates)| Some(s.floor_gflop / (s.seconds * r.peak?.gflops));
        let shares_peak: Option<Vec<f64>> = self.steps.iter().zip(&self.rates).map(share_peak).collect();
        let sgemm = Rates::mean(&self.rates);
        let (sgemm_library, best) = sgemm.best();
        let phase = |p: Phase| self.phases[p as usize] / n;
        let data = self.data / n;
        BenchReport {
            shape,
            device: trial.engine.setting(),
            threads: trial.engine.threads(),
            matrix_units: trial.engine.matrix_units(),
            simd: trial.engine.simd(),
            steps: self.steps.len(),
            recipe: config.recipe,
            batch_size: config.batch_size,
            micro_batch_tokens: tokens / self.micros as f64,
            seq: config.seq,
            rows: match rows {
                Rows::Drawn(_) => None,
                Rows::Own(own) => {
                    let trained = self.steps.iter().map(|s| s.supervised as u64).sum();
                    Some(own.taken((self.steps.len() * config.batch_size) as u64, tokens as u64, trained))
                }
            },
            packed: config.packed,
            blocks_kept: self.blocks_kept as f64 / (self.groups * trial.model.config.num_layers) as f64,
            loss_chunk: trial.choice.cut.loss_chunk,
            memory_limit: config.memory_limit,
            predicted_peak_bytes: trial.predicted() as u64,
            lora_r: config.lora_r,
            tokens_per_step: tokens / n,
            real_tokens_per_second: tokens / seconds,
            supervised_tokens_per_second: sum(&|s| s.supervised as f64) / seconds,
            real_tokens_per_cpu_second: cpu.map(|c| tokens / c),
            floor_share: median(self.steps.iter().filter_map(|s| s.floor_share).collect()),
            floor_share_cpu: shares_cpu.map(median),
            peak_share: shares_peak.map(median),
            floor_gflop: sum(&|s| s.floor_gflop) / n,
            sgemm_gflops: best.gflops,
            sgemm_library,
            sgemm,
            score_share: median(self.scored),
            step_seconds_median: median(self.steps.iter().map(|s| s.seconds).collect()),
            peak_anonymous_bytes: trial.engine.account().peak() as u64,
            peak_rss_anonymous_bytes: self.peak_anonymous,
            peak_rss_bytes: self.peak_resident,
            device_bytes: self.device_bytes,
            transfers: Transfer::ALL
                .iter()
                .zip(&self.transfers)
                .filter(|(_, m)| m.uploads + m.downloads > 0)
                .map(|(&(_, name), m)| {
                    let mean = |v: u64| v as f64 / n;
                    let (uploads, downloads, bytes) = (mean(m.uploads), mean(m.downloads), mean(m.bytes));
                    (name, BenchTransfer { uploads, downloads, bytes })
                })
                .collect(),
            seconds_to_first_step,
            first_step_seconds: self.first_step,
            phases: BenchPhases {
                linear: phase(Phase::Linear),
                attention: phase(Phase::Attention),
                loss: phase(Phase::Loss),
                elementwise: phase(Phase::Elementwise),
                optimizer: phase(Phase::Optimizer),
                data,
                other: (seconds / n - data - self.phases.iter().sum::<f64>() / n).max(0.0),
            },
            losses: self.losses,
        }
    }
}

/// The middle value, or the mean of the two in the middle.
fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    match (v.len(), v.len() / 2) {
        (0, _) => f64::NAN,
        (n, i) if n % 2 == 0 => (v[i - 1] + v[i]) / 2.0,
        (_, i) => v[i],
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
