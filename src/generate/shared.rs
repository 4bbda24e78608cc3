//! A generator that several threads share: they take their turns, and any of them may end what the others asked for.

use std::ops::DerefMut;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use super::config::GenerateConfig;
use super::generator::Generator;
use super::text::Generation;
use crate::data::text::Conversation;
use crate::error::{Error, Result};
use crate::job::Control;

/// A generator for several threads: one text at a time, and who comes meanwhile waits.
#[derive(Debug)]
pub struct SharedGenerator {
    generator: Mutex<Generator>,
    turns: Turns,
}

/// Whose turn it is, and what was asked of all who came so far.
#[derive(Debug, Default)]
struct Turns {
    /// Who has it.
    owner: Mutex<Option<ThreadId>>,
    /// Cancels so far. Each text keeps the count of when it was asked for, so that no cancel that comes later is lost on it,
    /// and none is forgotten by one that comes after it.
    cancels: AtomicU64,
    closed: AtomicBool,
}

/// A caller's turn.
struct Turn<'a, T> {
    held: MutexGuard<'a, T>,
    turns: &'a Turns,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Turns {
    fn take<'a, T>(&'a self, of: &'a Mutex<T>) -> Result<Turn<'a, T>> {
        let here = std::thread::current().id();
        if *locked(&self.owner) == Some(here) {
            return Err(Error::Misuse("a callback calls the generator that calls it".into()));
        }
        let held = locked(of);
        // Asked behind the lock: who waited for it when it was closed does not begin.
        if self.closed.load(SeqCst) {
            return Err(Error::Misuse("the generator was closed".into()));
        }
        *locked(&self.owner) = Some(here);
        Ok(Turn { held, turns: self })
    }

    fn cancel(&self) {
        self.cancels.fetch_add(1, SeqCst);
    }

    fn close(&self) {
        self.closed.store(true, SeqCst);
        self.cancel();
    }
}

impl<T> std::ops::Deref for Turn<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.held
    }
}

impl<T> DerefMut for Turn<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.held
    }
}

impl<T> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        *locked(&self.turns.owner) = None;
    }
}

impl SharedGenerator {
    /// Shares a generator.
    pub fn new(generator: Generator) -> SharedGenerator {
        SharedGenerator { generator: Mutex::new(generator), turns: Turns::default() }
    }

    /// The generator itself, for as long as what is returned lives; waits for the turn.
    ///
    /// # Errors
    /// [`Error::Misuse`] on the thread that has its turn already, and where it was closed.
    pub fn turn(&self) -> Result<impl DerefMut<Target = Generator> + '_> {
        self.turns.take(&self.generator)
    }

    /// As [`Generator::generate`], when its turn comes.
    ///
    /// # Errors
    /// As there, and as [`SharedGenerator::turn`].
    pub fn generate(
        &self,
        prompt: &str,
        config: &GenerateConfig,
        on_text: &mut dyn FnMut(&str) -> Control,
    ) -> Result<Generation> {
        self.speak(on_text, |generator, on_text| generator.generate(prompt, config, on_text))
    }

    /// As [`Generator::chat`], when its turn comes.
    ///
    /// # Errors
    /// As there, and as [`SharedGenerator::turn`].
    pub fn chat(
        &self,
        chat: &Conversation,
        config: &GenerateConfig,
        on_text: &mut dyn FnMut(&str) -> Control,
    ) -> Result<Generation> {
        self.speak(on_text, |generator, on_text| generator.chat(chat, config, on_text))
    }

    fn speak(
        &self,
        on_text: &mut dyn FnMut(&str) -> Control,
        make: impl FnOnce(&mut Generator, &mut dyn FnMut(&str) -> Control) -> Result<Generation>,
    ) -> Result<Generation> {
        let asked = self.turns.cancels.load(SeqCst);
        let is_cancelled = || self.turns.cancels.load(SeqCst) != asked;
        let mut generator = self.turns.take(&self.generator)?;
        if is_cancelled() {
            return Ok(Generation { cancelled: true, ..Generation::default() });
        }
        make(&mut generator, &mut |piece| match on_text(piece) {
            Control::Continue if !is_cancelled() => Control::Continue,
            _ => Control::Stop,
        })
    }

    /// Ends the texts that were asked for so far: the one that is being generated behind its next token, those that wait for
    /// their turn before they begin. What is asked for later is not touched. Returns at once.
    pub fn cancel(&self) {
        self.turns.cancel();
    }

    /// As [`SharedGenerator::cancel`], for good: who waits for a turn, or asks for one later, gets [`Error::Misuse`].
    pub fn close(&self) {
        self.turns.close();
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.turns.closed.load(SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn who_has_its_turn_is_refused_another_and_keeps_the_first() {
        let (turns, held) = (Turns::default(), Mutex::new(1));
        let mut turn = turns.take(&held).unwrap();
        *turn += 1;
        assert!(matches!(turns.take(&held), Err(Error::Misuse(_))));
        drop(turn);
        assert_eq!(*turns.take(&held).unwrap(), 2);
    }

    /// However long it has waited by then.
    #[test]
    fn who_waits_when_it_is_closed_does_not_begin() {
        let (turns, held) = (Turns::default(), Mutex::new(()));
        let (comes, came) = mpsc::channel();
        std::thread::scope(|scope| {
            let turn = turns.take(&held).unwrap();
            let waits = scope.spawn(|| {
                comes.send(()).unwrap();
                turns.take(&held).map(drop)
            });
            came.recv().unwrap();
            turns.close();
            drop(turn);
            assert!(matches!(waits.join().unwrap(), Err(Error::Misuse(_))));
        });
        assert!(turns.take(&held).is_err());
    }
}
