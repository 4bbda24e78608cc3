//! `sftmix chat`.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

use serde::Serialize;
use sftmix::internal::data::text::Conversation;
use sftmix::{Control, GenerateConfig, Generator};

use super::failure::{Done, Failure, INTERRUPTED};
use super::generate::Output;
use super::help::Defaults;
use super::output;
use super::sampling::{self, MachineFlags, SamplingFlags};

/// Talk with a model, by its chat template
///
/// Each line of standard input is a message; the reply is written as it comes. Lines that begin with a slash are
/// commands: /reset forgets the conversation, /adapter NAME uses another of the adapters and /adapter none of
/// them, /exit leaves. An interrupt ends the reply, a second one the program.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Hugging Face model folder, a GGUF file, or ORG/NAME[@REVISION] of the Hugging Face cache
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// PEFT adapter folder, and a name for it [default: none, the model as it is]; may be given several times, and
    /// then the first is in use
    #[arg(long, value_name = "[NAME=]DIR", value_parser = named)]
    adapter: Vec<(String, PathBuf)>,
    /// What the system tells the model first [default: what the template says]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    /// Chat template to use in place of the model's
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineFlags,
    /// Print one JSON object a reply [default: the text as it comes]
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sampling: SamplingFlags,
}

/// An adapter's name and folder; without a name it is the folder's.
fn named(text: &str) -> Result<(String, PathBuf), String> {
    let path = PathBuf::from(text);
    match text.split_once('=') {
        // A folder may have the sign in its own name.
        Some((name, dir)) if !name.is_empty() && !path.exists() => Ok((name.into(), dir.into())),
        _ => {
            let name = path.file_name().ok_or_else(|| format!("expected a folder, found {text:?}"))?;
            Ok((name.to_string_lossy().into_owned(), path))
        }
    }
}

#[derive(Serialize)]
struct Reply<'a> {
    adapter: Option<&'a str>,
    #[serde(flatten)]
    reply: Output,
}

fn config() -> GenerateConfig {
    // A reply is as long as the model makes it, within reason.
    GenerateConfig { max_new_tokens: 1024, ..Default::default() }
}

/// Defaults for the help.
pub fn defaults() -> Defaults {
    sampling::defaults(config())
}

/// Whether a reply is being made, and whether it is to end.
static REPLY: AtomicU8 = AtomicU8::new(NONE);
const NONE: u8 = 0;
const MAKING: u8 = 1;
const ENDING: u8 = 2;

/// Runs the command.
pub fn run(args: Args) -> Done {
    for (i, (name, _)) in args.adapter.iter().enumerate() {
        if args.adapter[..i].iter().any(|(other, _)| other == name) {
            return Err(Failure::usage(format!("--adapter: two are named {name}; NAME=DIR gives one another name")));
        }
    }
    let mut generator = Generator::open_on(args.machine.engine()?, &args.model, None)?;
    for (name, dir) in &args.adapter {
        generator.add_adapter(name, dir)?;
    }
    generator.use_adapter(args.adapter.first().map(|(name, _)| name.as_str()))?;
    if let Some(path) = &args.chat_template {
        generator.load_chat_template(path)?;
    }
    let handler = || {
        if REPLY.compare_exchange(MAKING, ENDING, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            std::process::exit(i32::from(INTERRUPTED));
        }
    };
    if let Err(e) = ctrlc::set_handler(handler) {
        log::warn!("an interrupt will end the program, not the reply: {e}");
    }
    let start = match &args.system {
        Some(system) => Conversation::default().with("system", system),
        None => Conversation::default(),
    };
    let mut talk =
        Talk { generator, config: args.sampling.over(config()), chat: start.clone(), start, json: args.json };
    talk.lines()
}

struct Talk {
    generator: Generator,
    config: GenerateConfig,
    chat: Conversation,
    /// The conversation before its first message.
    start: Conversation,
    json: bool,
}

impl Talk {
    fn lines(&mut self) -> Done {
        let stdin = std::io::stdin();
        // Where a person types, mistakes are told and forgiven; a program is to know of them.
        let person = stdin.is_terminal();
        if person {
            output::note("/reset forgets the conversation, /adapter NAME changes the adapter, /exit leaves");
        }
        let mut line = String::new();
        loop {
            if person {
                let mut err = std::io::stderr();
                let _ = write!(err, "> ").and_then(|()| err.flush());
            }
            line.clear();
            let read = stdin.lock().read_line(&mut line);
            if read.map_err(|e| Failure::failed(format!("standard input: {e}")))? == 0 {
                return Ok(());
            }
            let done = match line.trim() {
                "" => Ok(()),
                "/exit" => return Ok(()),
                command if command.starts_with('/') => self.command(command),
                message => self.reply(message),
            };
            match done {
                Err(failure) if person && !failure.is_silent() => {
                    failure.report();
                }
                done => done?,
            }
        }
    }

    fn command(&mut self, line: &str) -> Done {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("/reset"), None, None) => {
                self.chat = self.start.clone();
                self.generator.forget();
                Ok(())
            }
            (Some("/adapter"), name, None) => Ok(self.generator.use_adapter(name)?),
            _ => Err(Failure::usage(format!("{line}: expected /reset, /adapter NAME, /adapter or /exit"))),
        }
    }

    fn reply(&mut self, message: &str) -> Done {
        let chat = self.chat.clone().with("user", message);
        let mut written = Ok(());
        REPLY.store(MAKING, Ordering::SeqCst);
        let made = self.generator.chat(&chat, &self.config, &mut |text| {
            if !self.json {
                written = output::print(text);
            }
            if written.is_err() || REPLY.load(Ordering::SeqCst) == ENDING {
                Control::Stop
            } else {
                Control::Continue
            }
        });
        REPLY.store(NONE, Ordering::SeqCst);
        written?;
        let made = made?;
        self.chat = chat.with("assistant", &made.text);
        if self.json {
            return Ok(output::print_json(&Reply { adapter: self.generator.adapter(), reply: made.into() })?);
        }
        output::print("\n")?;
        if !made.stopped {
            output::note(&format!("the reply ends after {} tokens, before its end", made.new_tokens));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_has_the_name_that_it_was_given_or_its_folders() {
        let of = |text: &str| named(text).map(|(name, dir)| format!("{name} {}", dir.display()));
        assert_eq!(of("a=some/dir").unwrap(), "a some/dir");
        assert_eq!(of("some/dir").unwrap(), "dir some/dir");
        assert_eq!(of("=some/dir").unwrap(), "dir =some/dir");
        assert!(of("..").is_err());
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("x=y");
        std::fs::create_dir(&odd).unwrap();
        assert_eq!(named(odd.to_str().unwrap()).unwrap(), ("x=y".into(), odd));
    }
}
