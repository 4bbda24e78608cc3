//! Events to be pulled. Steps and evaluations are read back from `metrics.jsonl`, so that nothing is queued however slow
//! the reader is, and none is lost where its process ends; the others are few, and of those that repeat the newest
//! counts.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::mem::discriminant;

use super::event::{Event, MetricsLine};
use crate::error::{Error, Result};
use crate::run::RunFolder;

/// An event with its number.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NumberedEvent {
    /// Its number, from 1 in each process, by which it is acknowledged.
    pub number: u64,
    /// The event.
    pub event: Event,
}

#[derive(Debug, Default)]
pub(super) struct Feed {
    folder: Option<RunFolder>,
    /// Bytes of `metrics.jsonl` that are written, and that were acknowledged.
    written: u64,
    read: u64,
    /// Events that stand nowhere else, and the bytes that were written before each.
    aside: VecDeque<(u64, Event)>,
    /// What was given out and not acknowledged, and where the file goes on behind it.
    out: Option<(NumberedEvent, u64)>,
    /// Events that were acknowledged.
    count: u64,
}

impl Feed {
    /// The file stands at so many bytes: lines that a process has acknowledged and a resumed run writes again come again.
    pub fn writes_to(&mut self, folder: &RunFolder, bytes: u64) {
        if self.folder.is_none() {
            self.read = folder.acknowledged();
        }
        (self.read, self.written) = (self.read.min(bytes), bytes);
        if self.out.as_ref().is_some_and(|(_, behind)| *behind > bytes) {
            self.out = None;
        }
        self.folder = Some(folder.clone());
    }

    pub fn tell(&mut self, event: &Event, bytes: u64) {
        self.written = bytes.max(self.written);
        match event {
            Event::Step(_) | Event::Evaluated(_) => {}
            Event::Sweep { .. } | Event::Checkpoint { .. } | Event::Limits { .. } => {
                self.aside.retain(|(_, other)| discriminant(other) != discriminant(event));
                self.aside.push_back((bytes, event.clone()));
            }
            // Those of an earlier attempt are of no use to anybody.
            Event::Prepared(_) => {
                self.aside.clear();
                self.aside.push_back((bytes, event.clone()));
            }
            Event::StoppedEarly { .. } | Event::Split { .. } => self.aside.push_back((bytes, event.clone())),
        }
    }

    /// The event that is next, given out and not acknowledged.
    pub fn next(&mut self) -> Result<Option<NumberedEvent>> {
        if self.out.is_none() {
            let aside = self.aside.front().is_some_and(|(at, _)| *at <= self.read);
            let found = match aside {
                true => self.aside.pop_front().map(|(_, event)| (event, self.read)),
                false => self.line()?,
            };
            self.out = found.map(|(event, behind)| (NumberedEvent { number: self.count + 1, event }, behind));
        }
        Ok(self.out.as_ref().map(|(event, _)| event.clone()))
    }

    pub fn acknowledge(&mut self, number: u64) -> Result<()> {
        match self.out.take() {
            Some((event, behind)) if event.number == number => {
                self.count = number;
                if let Some(folder) = self.folder.as_ref().filter(|_| behind != self.read) {
                    folder.acknowledge(behind);
                }
                self.read = behind;
                Ok(())
            }
            // Said twice.
            out if number > 0 && number <= self.count => {
                self.out = out;
                Ok(())
            }
            out => {
                self.out = out;
                Err(Error::Misuse(format!("event {number} was not given out")))
            }
        }
    }

    /// The next line of the file that can be read, and where the file goes on behind it.
    fn line(&mut self) -> Result<Option<(Event, u64)>> {
        let Some(folder) = self.folder.as_ref().filter(|_| self.read < self.written) else { return Ok(None) };
        let path = folder.metrics_path();
        let mut file = File::open(&path).map_err(Error::io(&path))?;
        file.seek(SeekFrom::Start(self.read)).map_err(Error::io(&path))?;
        let mut lines = BufReader::new(file);
        let (mut at, mut text) = (self.read, String::new());
        while at < self.written {
            text.clear();
            let bytes = lines.read_line(&mut text).map_err(Error::io(&path))?;
            if bytes == 0 {
                break;
            }
            at += bytes as u64;
            match serde_json::from_str::<MetricsLine>(&text) {
                Ok(line) => return Ok(Some((line.into(), at))),
                // Of an older version.
                Err(e) => log::debug!("{}: a line before byte {at} is left out: {e}", path.display()),
            }
        }
        self.read = at;
        Ok(None)
    }
}
