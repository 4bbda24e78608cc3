//! `sftmix download`.

use std::ops::ControlFlow;

use sftmix::{download, DownloadConfig};

use super::failure::Done;
use super::progress::Pace;
use super::{format, output};

/// Download a model into the local Hugging Face cache, where --model finds it by its name
///
/// Of a model folder what it is opened with: config, tokenizer, chat templates and safetensors; or one GGUF file. What is
/// there already is not read again, what was interrupted goes on where it was, and every file is compared with the hash
/// that the hub lists. HF_HUB_CACHE or HF_HOME say where the cache is, HF_ENDPOINT which hub is asked, HF_TOKEN holds the
/// access token of models that need one.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Its name on the hub, with a branch, tag or commit [default: main]
    #[arg(value_name = "ORG/NAME[@REVISION]")]
    model: String,
    /// The GGUF file to download, of a model that has several [default: the only one]
    #[arg(long, value_name = "NAME.gguf")]
    file: Option<String>,
    /// Print one JSON object [default: a table]
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Done {
    let config = DownloadConfig { model: args.model, file: args.file, ..Default::default() };
    let mut pace = Pace::new();
    let done = download(&config, &mut |p| {
        if pace.is_due("download", p.done, p.bytes) {
            pace.show(format!("{} of {}  {}", format::bytes(p.done), format::bytes(p.bytes), p.file));
        }
        ControlFlow::Continue(())
    });
    output::clear_status();
    let done = done?;
    if args.json {
        return Ok(output::print_json(&done)?);
    }
    let rows = [
        ("model", done.model),
        ("commit", done.commit),
        ("path", done.path.display().to_string()),
        ("files", format!("{}, {}", done.files, format::bytes(done.bytes))),
    ];
    Ok(output::print(&output::table(&rows))?)
}
