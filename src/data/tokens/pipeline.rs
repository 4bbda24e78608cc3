//! Rows of a file through a tokenizer, on several threads and in order.
//!
//! ```text
//! empty blocks ─▶ worker: cut off the file (one at a time) ─▶ parse, render, encode ─▶ caller, in order ─┐
//!      ▲                                                                                                 │
//!      └─────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//! There are so many blocks and no more: who finds none waits. Parsing is the workers' part, since on one thread
//! it would hold up many of them; cutting is little more than a search for line ends.

use std::collections::BTreeMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, Scope};
use std::time::Duration;

use super::tokenizer::{EncodedRow, Tokenizer, TARGET};
use crate::config::BadRows;
use crate::data::rows::raw::RowParser;
use crate::data::rows::{CutRow, RowReader};
use crate::data::text::chat::stack;
use crate::data::text::columns::invalid;
use crate::data::text::Rendered;
use crate::data::text::Template;
use crate::error::{panic_text, Error, Result};
use crate::stop::StopIf;

/// A block ends at so many rows or bytes of JSON, whichever comes first: some 50 ms of work.
const BLOCK_ROWS: usize = 1024;
const BLOCK_BYTES: usize = 256 << 10;

/// About how many bytes the blocks that circulate hold: each its text, rows and tokens.
pub(crate) fn held_bytes(threads: usize) -> usize {
    (2 * threads + 1) * 4 * BLOCK_BYTES
}

/// What the rows of a block became, all in three lists: a list a row would lie in the allocator's way, and be freed
/// on another thread.
#[derive(Default)]
pub(crate) struct Made {
    pub rows: Vec<MadeRow>,
    /// The examples of the rows, one behind the other.
    pub examples: Vec<MadeExample>,
    /// The tokens of the examples, likewise.
    pub tokens: Vec<u32>,
    /// Rows that are no examples, and why, where they are skipped.
    pub bad: Vec<(u64, String)>,
}

/// What one row became.
pub(crate) struct MadeRow {
    pub row: u64,
    pub empty: bool,
    pub cut: bool,
    /// The chat template leaves out something of it.
    pub dropped: bool,
    /// It brought its own beginning or end token.
    pub own_ends: bool,
    /// A role of it has another name for the template.
    pub mapped_roles: bool,
    /// It is a text in several windows.
    pub split: bool,
    /// Windows with a token to train on.
    pub examples: usize,
}

/// One example, without its tokens.
pub(crate) struct MadeExample {
    pub tokens: usize,
    pub supervised: u32,
    pub text_hash: [u8; 16],
}

impl Made {
    fn clear(&mut self) {
        self.rows.clear();
        self.examples.clear();
        self.tokens.clear();
        self.tokens.shrink_to(2 * BLOCK_BYTES);
        self.bad.clear();
    }

    fn push(&mut self, row: u64, rendered: &Rendered, encoded: &EncodedRow) {
        let before = self.examples.len();
        for (window, tokens) in encoded.windows.iter().enumerate() {
            let supervised = tokens.iter().filter(|t| **t & TARGET != 0).count() as u32;
            if supervised > 0 {
                self.tokens.extend_from_slice(tokens);
                let text_hash = rendered.hash(window as u32);
                self.examples.push(MadeExample { tokens: tokens.len(), supervised, text_hash });
            }
        }
        self.rows.push(MadeRow {
            row,
            empty: rendered.text.is_empty(),
            cut: encoded.cut,
            dropped: !rendered.dropped.is_empty(),
            own_ends: encoded.own_ends,
            mapped_roles: rendered.mapped_roles,
            split: encoded.windows.len() > 1,
            examples: self.examples.len() - before,
        });
    }
}

/// Rows that go together.
#[derive(Default)]
struct Block {
    /// Place in the file, from 0.
    number: u64,
    json: Vec<u8>,
    /// Each row, and where its JSON ends.
    rows: Vec<(CutRow, usize)>,
    made: Made,
    /// What befell the row behind those that were made.
    fault: Option<Error>,
}

/// The file, and the blocks that wait for its rows.
struct WaitingReader {
    reader: RowReader,
    empty: Receiver<Block>,
    next: u64,
    done: bool,
}

impl WaitingReader {
    /// The next rows; `None` when there are no more, or no more are wanted.
    fn cut(&mut self) -> Option<Block> {
        if self.done {
            return None;
        }
        let mut block = self.empty.recv().ok()?;
        (block.number, self.next) = (self.next, self.next + 1);
        block.json.clear();
        // A single long row does not keep its memory for the rest of the file.
        block.json.shrink_to(2 * BLOCK_BYTES);
        block.rows.clear();
        block.made.clear();
        while block.rows.len() < BLOCK_ROWS && block.json.len() < BLOCK_BYTES {
            match self.reader.next_cut(&mut block.json) {
                Ok(Some(row)) => block.rows.push((row, block.json.len())),
                Ok(None) => self.done = true,
                Err(e) => (self.done, block.fault) = (true, Some(e)),
            }
            if self.done {
                break;
            }
        }
        Some(block)
    }
}

/// What makes examples of rows.
pub(crate) struct Blocks<'a> {
    pub data: &'a Path,
    pub tokenizer: &'a Tokenizer,
    pub max_length: usize,
    pub template: &'a Template,
    /// What becomes of rows that are no examples.
    pub bad_rows: BadRows,
    /// Rows in front that are not wanted.
    pub skip: u64,
}

impl Blocks<'_> {
    /// Gives `each` what the rows became, block after block in the order of the file. That and `stop`, asked before
    /// each block and at least every `asked`, are called on this thread.
    ///
    /// # Errors
    /// The first of the file, whichever thread met it; [`Error::Stopped`]; what `each` returned.
    pub fn run(
        &self,
        threads: usize,
        asked: Duration,
        stop: StopIf<'_>,
        each: impl FnMut(&Made) -> Result<()>,
    ) -> Result<()> {
        let (empty, waiting) = channel();
        // One being written, and for each worker one at hand and one done.
        for _ in 0..2 * threads + 1 {
            let _ = empty.send(Block::default());
        }
        let mut reader = RowReader::open(self.data)?;
        let mut skipped = Vec::new();
        for row in 0..self.skip {
            if row % 1024 == 0 && stop(false) {
                return Err(Error::Stopped { checkpoint: None });
            }
            skipped.clear();
            reader.next_cut(&mut skipped)?;
        }
        drop(skipped);
        let parser = reader.parser().clone();
        let source = Mutex::new(WaitingReader { reader, empty: waiting, next: 0, done: false });
        let cancelled = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let result = self
                .start(scope, threads, &source, &parser, &cancelled)
                .and_then(|full| write(empty, full, asked, stop, each));
            // Without it a stop would wait for the rows of whole blocks. Both ends of the channels are gone by now.
            cancelled.store(true, Relaxed);
            result
        })
    }

    fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        threads: usize,
        source: &'scope Mutex<WaitingReader>,
        parser: &'scope RowParser,
        cancelled: &'scope AtomicBool,
    ) -> Result<Receiver<Block>> {
        let (done, full) = channel();
        for i in 0..threads {
            let done = done.clone();
            let body = move || {
                stack::has_room();
                self.work(source, parser, cancelled, &done)
            };
            let worker = Builder::new().name(format!("tokenise-{i}")).stack_size(stack::STACK);
            worker.spawn_scoped(scope, body).map_err(|e| Error::Threads(e.to_string()))?;
        }
        Ok(full)
    }

    fn work(&self, source: &Mutex<WaitingReader>, parser: &RowParser, cancelled: &AtomicBool, done: &Sender<Block>) {
        loop {
            // Nothing that panics runs under the lock.
            let cut = source.lock().unwrap_or_else(PoisonError::into_inner).cut();
            let Some(mut block) = cut else { return };
            // A block that is lost would be waited for without end.
            let made = catch_unwind(AssertUnwindSafe(|| self.make(parser, &mut block, cancelled)));
            match made {
                Ok(Ok(())) => {}
                // It comes before what the reader met behind the block.
                Ok(Err(e)) => block.fault = Some(e),
                Err(panic) => block.fault = Some(Error::Threads(panic_text(&*panic).into())),
            }
            if done.send(block).is_err() {
                return;
            }
        }
    }

    fn make(&self, parser: &RowParser, block: &mut Block, cancelled: &AtomicBool) -> Result<()> {
        let mut start = 0;
        for (cut, end) in &mut block.rows {
            if cancelled.load(Relaxed) {
                return Ok(());
            }
            let example = match cut.fault.take() {
                Some(fault) => Err(fault),
                None => self.example(parser, cut.row, &block.json[start..*end]),
            };
            start = *end;
            match example {
                Ok((rendered, encoded)) => block.made.push(cut.row, &rendered, &encoded),
                Err(Error::DataInvalid { reason, .. }) if self.bad_rows == BadRows::Skip => {
                    block.made.bad.push((cut.row, reason));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn example(&self, parser: &RowParser, row: u64, json: &[u8]) -> Result<(Rendered, EncodedRow)> {
        let object = parser.parse(row, json)?;
        let rendered = self.template.render(parser.file(row), row, &object)?;
        let encoded = encode(self.tokenizer, &rendered, self.max_length, parser.file(row), row)?;
        Ok((rendered, encoded))
    }
}

/// Encodes a row of this file.
pub(crate) fn encode(
    tokenizer: &Tokenizer,
    rendered: &Rendered,
    max_length: usize,
    file: &Path,
    row: u64,
) -> Result<EncodedRow> {
    tokenizer.encode_row(rendered, max_length).map_err(|e| match e {
        // A chat template wrote what is wrong with it, of this row.
        Error::Tokenizer { reason, .. } if rendered.chat => invalid(file, row, reason),
        e => e,
    })
}

/// Takes the blocks in their order and gives them back.
fn write(
    empty: Sender<Block>,
    full: Receiver<Block>,
    asked: Duration,
    stop: StopIf<'_>,
    mut each: impl FnMut(&Made) -> Result<()>,
) -> Result<()> {
    let mut early = BTreeMap::new();
    let (mut next, mut made) = (0, false);
    loop {
        if stop(made) {
            return Err(Error::Stopped { checkpoint: None });
        }
        match full.recv_timeout(asked) {
            Ok(block) => early.insert(block.number, block),
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        while let Some(mut block) = early.remove(&next) {
            next += 1;
            each(&block.made)?;
            made |= !block.made.examples.is_empty();
            if let Some(fault) = block.fault.take() {
                return Err(fault);
            }
            let _ = empty.send(block);
        }
    }
}
