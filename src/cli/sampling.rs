//! Flags of the commands that generate.

use sftmix::internal::ops::{Engine, EngineOptions};
use sftmix::{DeviceSetting, GenerateConfig};

use super::help::Defaults;
use super::options::number;

/// How tokens are chosen, and where the text ends.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Text")]
pub struct SamplingFlags {
    /// Most tokens to generate
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// 0 takes the likeliest token; above, tokens are drawn
    #[arg(long, value_name = "T", value_parser = number)]
    temperature: Option<f64>,
    /// Draw among this many likeliest tokens [default: among all]
    #[arg(long, value_name = "N")]
    top_k: Option<usize>,
    /// Draw among the likeliest tokens that together have this probability [default: among all]
    #[arg(long, value_name = "P", value_parser = number)]
    top_p: Option<f64>,
    /// Draw among tokens that have at least this share of the likeliest one's probability [default: among all]
    #[arg(long, value_name = "P", value_parser = number)]
    min_p: Option<f64>,
    /// Above 1, tokens that the text holds already become less likely
    #[arg(long, value_name = "X", value_parser = number)]
    repetition_penalty: Option<f64>,
    /// End the text before this; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Seed of the draws
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl SamplingFlags {
    /// The flags over these defaults.
    pub fn over(self, d: GenerateConfig) -> GenerateConfig {
        GenerateConfig {
            max_new_tokens: self.max_new_tokens.unwrap_or(d.max_new_tokens),
            temperature: self.temperature.unwrap_or(d.temperature),
            top_k: self.top_k.or(d.top_k),
            top_p: self.top_p.or(d.top_p),
            min_p: self.min_p.or(d.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(d.repetition_penalty),
            stop: if self.stop.is_empty() { d.stop } else { self.stop },
            seed: self.seed.unwrap_or(d.seed),
        }
    }
}

/// What the text is computed on.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct MachineFlags {
    /// Where to compute: auto, cpu, cuda, cuda:N, metal, or portable (the CPU as a GPU is run)
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceSetting>,
    /// Worker threads [default: the machine's cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Multiply with the blocks of a GGUF base exactly, which takes longer [default: with activations rounded to
    /// eight bits, as llama.cpp does]
    #[arg(long)]
    exact: bool,
}

impl MachineFlags {
    /// The engine.
    pub fn engine(&self) -> sftmix::Result<Engine> {
        let options = EngineOptions::on(&self.device.unwrap_or_default().open()?);
        Engine::new(EngineOptions { threads: self.threads, rounded_blocks: !self.exact, ..options })
    }
}

/// Defaults for the help.
pub fn defaults(d: GenerateConfig) -> Defaults {
    vec![
        ("max_new_tokens".into(), d.max_new_tokens.to_string()),
        ("temperature".into(), d.temperature.to_string()),
        ("repetition_penalty".into(), d.repetition_penalty.to_string()),
        ("seed".into(), d.seed.to_string()),
        ("device".into(), DeviceSetting::default().to_string()),
    ]
}
