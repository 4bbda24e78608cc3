//! Building a token store. Blocks of rows go round: each worker cuts one off the file, tokenises it and hands it
//! over; the thread that asked for the store writes them in order and gives them back. So memory is that of a
//! few blocks, no worker waits for the file or the disk, and the result does not depend on their number.

use std::time::Duration;

use super::pipeline::Blocks;
use super::request::StoreRequest;
use super::source_hash::{changed, Stamp};
use super::unfinished::Unfinished;
use super::writer::{Built, Writer};
use crate::data::rows::RowReader;
use crate::data::text::chat::ChatFormat;
use crate::data::text::Template;
use crate::error::{Error, Result};

/// How long a stop may go unheard while no block is done.
const STOP_ASKED: Duration = Duration::from_millis(100);

pub(crate) fn build(request: &StoreRequest<'_>, format: &ChatFormat, key: &[u8; 32], stamp: &Stamp) -> Result<Built> {
    let data = request.data;
    let name = blake3::Hash::from_bytes(*key).to_hex();
    let mut writer = Writer::new(&request.cache_dir.join(format!("{name}.store")))?;
    if let Some(key) = &RowReader::open(data)?.parser().rows_at {
        log::info!("{}: its rows are those of the key {key}", data.display());
    }
    if let Some(template) = Template::of_rows(request.options, format, data)? {
        let unfinished = Unfinished::new(request.cache_dir, key);
        let skip = unfinished.take_up(&mut writer, request, format)?;
        let StoreRequest { tokenizer, max_length, .. } = *request;
        let blocks =
            Blocks { data, tokenizer, max_length, template: &template, bad_rows: request.options.bad_rows, skip };
        let made = blocks.run(request.threads.max(1), STOP_ASKED, request.stop, |made| writer.add(data, made));
        if let Err(stopped @ Error::Stopped { .. }) = made {
            if writer.header.examples > 0 && writer.header.counts.rows > skip && Stamp::of(data)? == *stamp {
                unfinished.keep(writer, data);
            }
            return Err(stopped);
        }
        made?;
        writer.skips.check(data, writer.header.counts.rows)?;
    }
    if Stamp::of(data)? != *stamp {
        return Err(changed(data));
    }
    writer.finish(*key, data)
}
