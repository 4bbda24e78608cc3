//! Which callbacks are under way on this thread: one that waited for what called it would wait for ever.

use std::cell::RefCell;

use crate::fault::{called, sftmix_status, Fail, Result};

thread_local!(static UNDER_WAY: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) });

/// Whose callbacks they are: one for each, at a place of its own.
#[derive(Default)]
pub struct Inside(u8);

impl Inside {
    fn place(&self) -> usize {
        (&raw const self.0).addr()
    }

    /// Calls a callback; gives its answer, and why it fails where it said so.
    pub fn call<T>(&self, call: impl FnOnce() -> T) -> (T, Option<String>) {
        let _ = UNDER_WAY.try_with(|u| u.borrow_mut().push(self.place()));
        let answer = called(call);
        let _ = UNDER_WAY.try_with(|u| u.borrow_mut().pop());
        answer
    }

    /// # Errors
    /// Where this thread is in one of its callbacks.
    pub fn refuse(&self, what: &str) -> Result<()> {
        let within = UNDER_WAY.try_with(|u| u.borrow().contains(&self.place())).unwrap_or(false);
        match within {
            true => Err(Fail::new(sftmix_status::Misuse, format!("a callback {what} that it is called by"))),
            false => Ok(()),
        }
    }
}
