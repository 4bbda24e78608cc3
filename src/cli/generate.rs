//! `sftmix generate`.

use std::path::PathBuf;

use serde::Serialize;
use sftmix::internal::data::text::Conversation;
use sftmix::{Control, GenerateConfig, Generation, Generator};

use super::failure::Done;
use super::help::Defaults;
use super::output;
use super::sampling::{self, MachineFlags, SamplingFlags};

/// Continue a prompt, with or without an adapter
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Hugging Face model folder, a GGUF file, or ORG/NAME[@REVISION] of the Hugging Face cache
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// PEFT adapter folder [default: none, the model as it is]
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Take the adapter whatever base its sftmix.json names
    #[arg(long)]
    force: bool,
    /// The text to continue, as the model gets it
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    /// Take the prompt for a user's message and give the reply, by the model's chat template
    #[arg(long)]
    chat: bool,
    #[command(flatten)]
    machine: MachineFlags,
    /// Print one JSON object at the end [default: the text as it comes]
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sampling: SamplingFlags,
}

/// What programs are told of a text.
#[derive(Serialize)]
pub struct Output {
    text: String,
    prompt_tokens: usize,
    cached_tokens: usize,
    new_tokens: usize,
    stopped: bool,
    stop: Option<String>,
    prompt_seconds: f64,
    seconds: f64,
}

impl From<Generation> for Output {
    fn from(g: Generation) -> Output {
        Output {
            text: g.text,
            prompt_tokens: g.prompt_tokens,
            cached_tokens: g.cached_tokens,
            new_tokens: g.new_tokens,
            stopped: g.stopped,
            stop: g.stop,
            prompt_seconds: g.prompt_seconds,
            seconds: g.seconds,
        }
    }
}

/// Defaults for the help.
pub fn defaults() -> Defaults {
    sampling::defaults(GenerateConfig::default())
}

/// Runs the command.
pub fn run(args: Args) -> Done {
    let config = args.sampling.over(GenerateConfig::default());
    let adapter = args.adapter.as_deref();
    let mut generator = Generator::open_on(args.machine.engine()?, &args.model, adapter.filter(|_| !args.force))?;
    if args.force {
        generator.force_adapter(adapter)?;
    }
    let mut written = Ok(());
    let on_text = &mut |text: &str| {
        if !args.json {
            written = output::print(text);
        }
        // Nobody reads on: there is no use in generating more.
        if written.is_err() {
            Control::Stop
        } else {
            Control::Continue
        }
    };
    let g = match args.chat {
        true => generator.chat(&Conversation::default().with("user", &args.prompt), &config, on_text),
        false => generator.generate(&args.prompt, &config, on_text),
    };
    written?;
    let g = g?;
    if args.json {
        return Ok(output::print_json(&Output::from(g))?);
    }
    Ok(output::print("\n")?)
}
