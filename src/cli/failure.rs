//! Why a command did not finish: the line, the hint and the exit code.

use std::error::Error as _;
use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;

use sftmix::Error;

use super::output;

/// Exit code of a command that failed.
pub const FAILED: u8 = 1;
/// Exit code of wrong use.
pub const USAGE: u8 = 2;
/// Exit code of an interrupted command.
pub const INTERRUPTED: u8 = 130;

/// Why a command did not finish.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    /// `None` where nobody listens any more, or it was told already.
    text: Option<String>,
    hint: Option<String>,
}

/// How a command ended.
pub type Done = Result<(), Failure>;

impl Failure {
    /// Wrong use.
    pub fn usage(text: impl Into<String>) -> Failure {
        Failure { code: USAGE, text: Some(text.into()), hint: None }
    }

    /// Something that failed.
    pub fn failed(text: impl Into<String>) -> Failure {
        Failure { code: FAILED, text: Some(text.into()), hint: None }
    }

    /// What to do about it, if nothing better is known.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint.get_or_insert(hint.into());
        self
    }

    /// Names the run that can be continued.
    pub fn resumable(self, out: &Path) -> Failure {
        if self.code == USAGE || !out.join("run.json").exists() {
            return self;
        }
        self.hint(format!("sftmix train --resume --out {} continues the run", out.display()))
    }

    /// Prints the failure, where the command goes on; what is left of it is its exit code.
    pub fn told(self) -> Failure {
        let told = Failure { code: self.code, text: None, hint: None };
        self.report();
        told
    }

    /// What is said; `None` where nobody listens any more, or it was told already.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// Whether nobody listens any more.
    pub fn is_silent(&self) -> bool {
        self.text.is_none()
    }

    /// Prints the failure and gives its exit code.
    pub fn report(self) -> ExitCode {
        if let Some(text) = self.text {
            output::note(&format!("{}: {text}", if self.code == INTERRUPTED { "interrupted" } else { "error" }));
            if let Some(hint) = self.hint {
                output::note(&format!("hint: {hint}"));
            }
        }
        ExitCode::from(self.code)
    }
}

impl From<std::io::Error> for Failure {
    /// An error of standard output.
    fn from(e: std::io::Error) -> Failure {
        match e.kind() {
            // The reader of the pipe has gone, as `| head` does.
            ErrorKind::BrokenPipe => Failure { code: 0, text: None, hint: None },
            _ => Failure::failed(format!("standard output: {e}")),
        }
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        let code = match &e {
            Error::Io { source, .. } if source.kind() == ErrorKind::BrokenPipe => {
                return Failure { code: 0, text: None, hint: None };
            }
            Error::InvalidConfig { .. } => USAGE,
            Error::Stopped { .. } => INTERRUPTED,
            _ => FAILED,
        };
        Failure { code, text: Some(chain(&e)), hint: hint(&e) }
    }
}

/// The error and its sources on one line, without what a message already says.
fn chain(e: &Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(s) = source {
        let more = s.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = s.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn hint(e: &Error) -> Option<String> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Some(match e {
        Error::Io { path, source } if source.kind() == ErrorKind::NotFound => match name(path).as_str() {
            "config.json" | "tokenizer.json" => {
                "--model takes a Hugging Face model folder (config.json, tokenizer.json and safetensors), a GGUF file, or a name of the Hugging Face cache"
                    .into()
            }
            "adapter_config.json" => "an adapter is a folder in PEFT's layout, as a run's adapter/".into(),
            _ => return None,
        },
        Error::InvalidConfig { field, .. } if field.contains('_') => {
            format!("on the command line the setting is --{}", field.replace('_', "-"))
        }
        Error::DataInvalid { reason, .. } if reason.contains("key") => {
            "--data-format, --prompt-field, --response-field, --text-field, --messages-field and --prompt-template say how rows are read"
                .into()
        }
        Error::BaseMismatch(_) => "give the base it was trained on, or --force to use it all the same".into(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_follow_who_can_act() {
        let config = Failure::from(Error::InvalidConfig { field: "lora_r".into(), reason: "≥ 1".into() });
        assert_eq!(
            (config.code, config.hint.unwrap().as_str()),
            (USAGE, "on the command line the setting is --lora-r")
        );
        assert_eq!(Failure::from(Error::Stopped { checkpoint: None }).code, INTERRUPTED);
        assert_eq!(Failure::from(Error::Threads("x".into())).code, FAILED);
        // The rate is training's: elsewhere nothing is hinted at.
        assert_eq!(Failure::from(Error::NonFinite { what: "logits".into() }).hint, None);
        let told = Failure::usage("x").hint("y").told();
        assert_eq!((told.code, told.text, told.hint), (USAGE, None, None));
        let pipe = Failure::from(std::io::Error::from(ErrorKind::BrokenPipe));
        assert_eq!((pipe.code, pipe.text), (0, None));
    }

    #[test]
    fn a_source_is_named_once_and_on_one_line() {
        let source = std::io::Error::other("disk\nfull");
        let text = chain(&Error::Io { path: "a".into(), source: source.into() });
        assert_eq!(text, "a: disk full");
    }
}
