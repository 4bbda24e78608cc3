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
    /// Events that were given out, also those that a resumed run has taken back: no number means two.
    given: u64,
}

impl Feed {
    /// The file stands at so many bytes: lines that a process has acknowledged and a resumed run writes again come again.
    pub fn writes_to(&mut self, folder: &RunFolder, bytes: u64) {
        if self.folder.is_none() {
            self.read = folder.acknowledged();
        }
        if folder.acknowledged() > bytes {
            // What is written anew is nothing that anybody has dealt with, also when this process is killed.
            folder.acknowledge(bytes);
        }
        (self.read, self.written) = (self.read.min(bytes), bytes);
        self.aside.iter_mut().for_each(|(at, _)| *at = bytes.min(*at));
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
            // Those of an earlier attempt are of no use to anybody, but for what somebody has to know.
            Event::Prepared(_) => {
                self.aside.retain(|(_, e)| matches!(e, Event::Limits { .. } | Event::StoppedEarly { .. }));
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
            self.given += u64::from(found.is_some());
            self.out = found.map(|(event, behind)| (NumberedEvent { number: self.given, event }, behind));
        }
        Ok(self.out.as_ref().map(|(event, _)| event.clone()))
    }

    pub fn acknowledge(&mut self, number: u64) -> Result<()> {
        match self.out.take() {
            Some((event, behind)) if event.number == number => {
                if let Some(folder) = self.folder.as_ref().filter(|_| behind != self.read) {
                    folder.acknowledge(behind);
                }
                self.read = behind;
                Ok(())
            }
            // Said twice, or taken back meanwhile by a run that goes on from an earlier checkpoint.
            out if number > 0 && number <= self.given => {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::event::{EvaluatedEvent, Prepared, StepEvent};
    use crate::job::Limits;
    use crate::model::Keep;

    fn append(folder: &RunFolder, bytes: u64, event: &Event) -> u64 {
        let mut metrics = folder.metrics(bytes).unwrap();
        metrics.append(event).unwrap();
        metrics.bytes()
    }

    fn step(n: u64) -> Event {
        Event::Step(StepEvent { global_step: n, ..Default::default() })
    }

    fn prepared() -> Prepared {
        Prepared {
            examples: 1,
            rows: Default::default(),
            sources: Vec::new(),
            valid_examples: None,
            tokens: 1,
            supervised_tokens: 1,
            parameters: 1,
            total_steps: 1,
            micro_batch: 1,
            micro_tokens: None,
            keep: Keep::Nothing,
            threads: 1,
            device: Default::default(),
            device_instead: None,
            resumed_at: 0,
        }
    }

    /// A run that goes on from before what was acknowledged writes those lines anew: they come again, under other
    /// numbers, and after a kill too.
    #[test]
    fn what_is_written_again_comes_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::new(dir.path());
        let mut feed = Feed::default();
        feed.writes_to(&folder, 0);
        let first = append(&folder, 0, &step(1));
        let second = append(&folder, first, &step(2));
        feed.tell(&step(2), second);
        for n in [1, 2] {
            assert_eq!(feed.next().unwrap().unwrap().number, n);
            feed.acknowledge(n).unwrap();
        }
        let third = append(&folder, second, &step(3));
        feed.tell(&step(3), third);
        assert_eq!(feed.next().unwrap().unwrap().number, 3);
        // It has been given out; now it is taken back.
        feed.writes_to(&folder, first);
        assert_eq!(folder.acknowledged(), first);
        feed.acknowledge(3).unwrap();
        let again = append(&folder, first, &step(2));
        feed.tell(&step(2), again);
        let next = feed.next().unwrap().unwrap();
        assert!(next.number == 4 && matches!(&next.event, Event::Step(s) if s.global_step == 2), "{next:?}");
        assert!(matches!(feed.acknowledge(5), Err(Error::Misuse(_))));
    }

    #[test]
    fn a_number_that_json_cannot_say_loses_no_event() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::new(dir.path());
        let mut feed = Feed::default();
        feed.writes_to(&folder, 0);
        let judged = EvaluatedEvent { eval_loss: 800.0, eval_perplexity: f64::INFINITY, ..Default::default() };
        let bytes = append(&folder, 0, &Event::Evaluated(judged.clone()));
        feed.tell(&Event::Evaluated(judged.clone()), bytes);
        let Some(NumberedEvent { event: Event::Evaluated(found), .. }) = feed.next().unwrap() else { panic!("none") };
        assert_eq!(found, judged);
    }

    #[test]
    fn a_refusal_that_nobody_has_read_outlives_a_new_attempt() {
        let dir = tempfile::tempdir().unwrap();
        let mut feed = Feed::default();
        feed.writes_to(&RunFolder::new(dir.path()), 500);
        feed.tell(&Event::Limits { limits: Limits::default(), refused: Some("too little".into()) }, 500);
        feed.tell(&Event::Split { confident: 1, unconfident: 1, neither: 0 }, 500);
        // The next attempt goes on from an earlier place.
        feed.writes_to(&RunFolder::new(dir.path()), 0);
        feed.tell(&Event::Prepared(prepared()), 0);
        let words: Vec<Event> = (1..=2)
            .map(|n| {
                let next = feed.next().unwrap().unwrap();
                feed.acknowledge(n).unwrap();
                next.event
            })
            .collect();
        assert!(matches!(words[..], [Event::Limits { .. }, Event::Prepared(_)]), "{words:?}");
        assert!(feed.next().unwrap().is_none());
    }
}
