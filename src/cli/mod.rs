//! The command line. One file a command; each prints what the library reports and decides nothing.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted (a checkpoint stands where one was due).

mod bench;
mod chat;
mod data;
mod demo;
mod download;
mod dynamics;
mod eval;
mod export;
mod failure;
mod format;
mod generate;
mod help;
mod logger;
mod merge;
mod options;
mod output;
mod plan;
mod progress;
mod quantize;
mod sampling;
mod settings;
mod train;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use failure::USAGE;

/// Fine-tune a language model on your own rows: LoRA adapters with SFTMix or plain next-token prediction.
#[derive(Parser)]
#[command(name = "sftmix", version, arg_required_else_help = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(Box<train::Args>),
    Plan(Box<plan::Args>),
    Eval(eval::Args),
    Generate(generate::Args),
    Chat(chat::Args),
    Export(export::Args),
    Merge(merge::Args),
    Data(data::Args),
    Dynamics(dynamics::Args),
    Quantize(quantize::Args),
    Download(download::Args),
    Demo(demo::Args),
    Bench(bench::Args),
}

/// The commands with the defaults in their help.
fn command() -> clap::Command {
    let rows = || help::of(&sftmix::DataOptions::default());
    Cli::command()
        .mut_subcommand("train", |c| help::with_defaults(c, &train::defaults()))
        .mut_subcommand("plan", |c| help::with_defaults(c, &train::defaults()))
        .mut_subcommand("eval", |c| help::with_defaults(help::with_defaults(c, &eval::defaults()), &rows()))
        .mut_subcommand("export", |c| help::with_defaults(c, &rows()))
        .mut_subcommand("merge", |c| help::with_defaults(c, &rows()))
        .mut_subcommand("data", |c| {
            c.mut_subcommand("inspect", |c| help::with_defaults(help::with_defaults(c, &data::defaults()), &rows()))
        })
        .mut_subcommand("bench", |c| help::with_defaults(c, &rows()))
        .mut_subcommand("generate", |c| help::with_defaults(c, &generate::defaults()))
        .mut_subcommand("chat", |c| help::with_defaults(c, &chat::defaults()))
}

/// Runs the program.
pub fn main() -> ExitCode {
    logger::install();
    let parsed = command().try_get_matches().and_then(|m| Cli::from_arg_matches(&m));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) => {
            // A closed pipe behind `--help` is not worth a word.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { USAGE } else { 0 });
        }
    };
    let done = match cli.command {
        Command::Train(args) => train::run(*args),
        Command::Plan(args) => plan::run(*args),
        Command::Eval(args) => eval::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Export(args) => export::run(args),
        Command::Merge(args) => merge::run(args),
        Command::Data(args) => data::run(args),
        Command::Dynamics(args) => dynamics::run(args),
        Command::Quantize(args) => quantize::run(args),
        Command::Download(args) => download::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Bench(args) => bench::run(args).map_err(Into::into),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_commands_are_well_formed() {
        super::command().debug_assert();
    }
}
