//! `sftmix chat`.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

use serde::Serialize;
use sftmix::internal::data::text::Conversation;
use sftmix::{Control, Error, GenerateConfig, Generator};

use super::failure::{Done, Failure, INTERRUPTED};
use super::generate::Output;
use super::help::Defaults;
use super::output;
use super::sampling::{self, MachineFlags, SamplingFlags};

/// Talk with a model, by its chat template
///
/// Each line of standard input is a message; the reply is written as it comes. Lines that begin with a slash are
/// commands: /reset forgets the conversation, /adapter NAME uses another of the adapters and /adapter none of
/// them, /exit leaves. An interrupt ends the reply, a second one the program. A message that cannot be answered
/// (beyond the model's context, refused by the template) is taken back, and the next line is read; where no person
/// types, the exit code tells of it in the end.
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
    /// Print one JSON object a message: the reply, or the error [default: the text as it comes]
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

/// A message that was taken back, as programs are told.
#[derive(Serialize)]
struct Unanswered<'a> {
    adapter: Option<&'a str>,
    error: &'a str,
}

/// Why a line was not done.
enum Trouble {
    /// This line alone: the conversation is as before, and the next may do.
    Line(Failure),
    /// It would be so of every line.
    Talk(Failure),
}

impl From<std::io::Error> for Trouble {
    fn from(e: std::io::Error) -> Trouble {
        Trouble::Talk(e.into())
    }
}

impl From<Error> for Trouble {
    fn from(e: Error) -> Trouble {
        Trouble::Talk(e.into())
    }
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
    generator.ready_to_chat()?;
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
        // Where a person types, mistakes are told and forgiven; a program is to know of them in the end.
        let person = stdin.is_terminal();
        if person {
            output::note("/reset forgets the conversation, /adapter NAME changes the adapter, /exit leaves");
        }
        let (mut line, mut first) = (Vec::new(), None);
        loop {
            if person {
                let mut err = std::io::stderr();
                let _ = write!(err, "> ").and_then(|()| err.flush());
            }
            line.clear();
            let read = stdin.lock().read_until(b'\n', &mut line);
            let ended = read.map_err(|e| Failure::failed(format!("standard input: {e}")))? == 0;
            let done = match std::str::from_utf8(&line).map(str::trim) {
                Ok(text) if ended || text == "/exit" => return first.map_or(Ok(()), Err),
                Ok("") => Ok(()),
                Ok(command) if command.starts_with('/') => self.command(command),
                Ok(message) => self.reply(message),
                Err(_) => self.unanswered(Failure::usage("standard input: the line is not UTF-8, and is left out")),
            };
            let failure = match done {
                Ok(()) => continue,
                Err(Trouble::Talk(failure)) if !person || failure.is_silent() => return Err(failure),
                Err(Trouble::Line(failure) | Trouble::Talk(failure)) => failure.told(),
            };
            if !person {
                first.get_or_insert(failure);
            }
        }
    }

    fn command(&mut self, line: &str) -> Result<(), Trouble> {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("/reset"), None, None) => {
                self.chat = self.start.clone();
                self.generator.forget();
                Ok(())
            }
            (Some("/adapter"), name, None) => self.generator.use_adapter(name).map_err(|e| Trouble::Line(e.into())),
            _ => {
                let text = format!("{line}: expected /reset, /adapter NAME, /adapter or /exit");
                self.unanswered(Failure::usage(text))
            }
        }
    }

    fn reply(&mut self, message: &str) -> Result<(), Trouble> {
        // The conversation takes the message with its reply, so what gets none is not in it.
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
        let made = match made {
            Ok(made) => made,
            // Beyond the context, or of a token that the model has no embedding for.
            Err(Error::InvalidConfig { field, reason }) if field == "prompt" || field == "data" => {
                let text = format!("the conversation with this message: {reason}; the message is taken back");
                return self.unanswered(Failure::usage(text).hint("/reset begins a new conversation"));
            }
            // Another conversation may please the template.
            Err(e @ Error::ChatTemplate { .. }) => return self.unanswered(e.into()),
            Err(e) => return Err(e.into()),
        };
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

    /// A message without a reply: a program that waits for its line is given one.
    fn unanswered(&self, failure: Failure) -> Result<(), Trouble> {
        if let (true, Some(error)) = (self.json, failure.text()) {
            output::print_json(&Unanswered { adapter: self.generator.adapter(), error })?;
        }
        Err(Trouble::Line(failure))
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
