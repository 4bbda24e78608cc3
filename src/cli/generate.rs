//! `sftmix generate`.

use std::path::PathBuf;

use serde::Serialize;
use sftmix::{Control, DeviceSetting, GenerateConfig, Generator};

use super::help::Defaults;
use super::options::number;
use super::{output, Done};

/// Continue a prompt, with or without an adapter
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Hugging Face model folder
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// PEFT adapter folder [default: none, the model as it is]
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// The text to continue, as the model gets it
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    /// Most tokens to generate
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// 0 takes the likeliest token; above, tokens are drawn
    #[arg(long, value_name = "T", value_parser = number)]
    temperature: Option<f64>,
    /// Draw among the likeliest tokens that together have this probability [default: among all]
    #[arg(long, value_name = "P", value_parser = number)]
    top_p: Option<f64>,
    /// Seed of the draws
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Where to compute: auto, cpu, cuda, cuda:N, metal, or portable (the CPU as a GPU is run)
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceSetting>,
    /// Worker threads [default: the machine's cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print one JSON object at the end [default: the text as it comes]
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Output {
    text: String,
    prompt_tokens: usize,
    new_tokens: usize,
    stopped: bool,
    seconds: f64,
}

/// Defaults for the help.
pub fn defaults() -> Defaults {
    let d = GenerateConfig::default();
    vec![
        ("max_new_tokens".into(), d.max_new_tokens.to_string()),
        ("temperature".into(), d.temperature.to_string()),
        ("seed".into(), d.seed.to_string()),
        ("device".into(), DeviceSetting::default().to_string()),
    ]
}

/// Runs the command.
pub fn run(args: Args) -> Done {
    let d = GenerateConfig::default();
    let config = GenerateConfig {
        max_new_tokens: args.max_new_tokens.unwrap_or(d.max_new_tokens),
        temperature: args.temperature.unwrap_or(d.temperature),
        top_p: args.top_p.or(d.top_p),
        seed: args.seed.unwrap_or(d.seed),
    };
    let mut generator =
        Generator::open(&args.model, args.adapter.as_deref(), args.device.unwrap_or_default(), args.threads)?;
    let mut written = Ok(());
    let g = generator.generate(&args.prompt, &config, &mut |text| {
        if !args.json {
            written = output::print(text);
        }
        // Nobody reads on: there is no use in generating more.
        if written.is_err() {
            Control::Stop
        } else {
            Control::Continue
        }
    });
    written?;
    let g = g?;
    if args.json {
        let (text, stopped) = (g.text, g.stopped);
        let (prompt_tokens, new_tokens, seconds) = (g.prompt_tokens, g.new_tokens, g.seconds);
        return Ok(output::print_json(&Output { text, prompt_tokens, new_tokens, stopped, seconds })?);
    }
    Ok(output::print("\n")?)
}
