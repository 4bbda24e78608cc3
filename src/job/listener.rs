//! A listener on a thread of its own: training does not wait for it. While it is busy, steps and sweeps wait one deep:
//! the newest takes the place of the one before.

use std::collections::VecDeque;
use std::mem::discriminant;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::control::{self, JobControl};
use super::event::{Control, Event};
use crate::error::{panic_text, Error, Result};

/// Most events that wait for a listener; beyond, the oldest goes of those that a run tells many of.
const MOST: usize = 64;

/// What is told of each event; its error ends the job behind a checkpoint and reaches the caller.
pub type Listener = Box<dyn FnMut(&Event) -> Result<Control, String> + Send>;

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Event>,
    ended: bool,
    failed: Option<String>,
}

/// The listener at work.
pub(super) struct Listening {
    shared: Arc<(Mutex<Queue>, Condvar)>,
    thread: Option<JoinHandle<Listener>>,
}

fn lock(shared: &(Mutex<Queue>, Condvar)) -> MutexGuard<'_, Queue> {
    control::lock(&shared.0)
}

impl Listening {
    /// # Errors
    /// When no thread can be started.
    pub fn start(mut listener: Listener, control: &JobControl) -> Result<Listening> {
        let shared: Arc<(Mutex<Queue>, Condvar)> = Arc::default();
        let own = shared.clone();
        let control = control.clone();
        let body = move || {
            let _inside = control.enter();
            while let Some(event) = next(&own) {
                let called = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| listener(&event)));
                match called.unwrap_or_else(|panic| Err(panic_text(&*panic).to_string())) {
                    Ok(Control::Continue) => {}
                    Ok(Control::Stop) => control.stop(),
                    Err(reason) => {
                        lock(&own).failed = Some(reason);
                        control.stop();
                        break;
                    }
                }
            }
            listener
        };
        let builder = std::thread::Builder::new().name("sftmix-events".into());
        let thread = builder.spawn(body).map_err(|e| Error::Threads(e.to_string()))?;
        Ok(Listening { shared, thread: Some(thread) })
    }

    /// Hands an event on.
    pub fn tell(&self, event: &Event) {
        let mut queue = lock(&self.shared);
        if queue.failed.is_some() {
            return;
        }
        let repeats = matches!(event, Event::Step(_) | Event::Sweep { .. });
        match queue.waiting.back_mut() {
            Some(last) if repeats && discriminant(last) == discriminant(event) => *last = event.clone(),
            _ => queue.waiting.push_back(event.clone()),
        }
        if queue.waiting.len() > MOST {
            let few = |e: &Event| matches!(e, Event::Prepared(_) | Event::Split { .. } | Event::StoppedEarly { .. });
            let oldest = queue.waiting.iter().position(|e| !few(e));
            oldest.map(|at| queue.waiting.remove(at));
        }
        self.shared.1.notify_one();
    }

    /// Waits until it has been told all. Gives it back, to listen to the next attempt.
    ///
    /// # Errors
    /// [`Error::Callback`] when it failed.
    pub fn finish(mut self) -> (Option<Listener>, Result<()>) {
        let listener = self.join();
        let failed = lock(&self.shared).failed.take();
        (listener, failed.map_or(Ok(()), |reason| Err(Error::Callback { reason })))
    }

    fn join(&mut self) -> Option<Listener> {
        lock(&self.shared).ended = true;
        self.shared.1.notify_one();
        self.thread.take().and_then(|thread| thread.join().ok())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.join();
    }
}

fn next(shared: &(Mutex<Queue>, Condvar)) -> Option<Event> {
    let mut queue = lock(shared);
    loop {
        if let Some(event) = queue.waiting.pop_front() {
            return Some(event);
        }
        if queue.ended {
            return None;
        }
        queue = shared.1.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::job::StepEvent;

    fn step(n: u64) -> Event {
        Event::Step(StepEvent { global_step: n, ..Default::default() })
    }

    #[test]
    fn a_slow_listener_gets_the_newest_step_and_every_other_event() {
        let (told, gets) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        let listener: Listener = Box::new(move |event| {
            may_go.recv().map_err(|e| e.to_string())?;
            let said = match event {
                Event::Step(s) => s.global_step,
                _ => 0,
            };
            told.send(said).map_err(|e| e.to_string())?;
            Ok(Control::Continue)
        });
        let listening = Listening::start(listener, &JobControl::default()).unwrap();
        listening.tell(&step(1));
        // The first is taken, and the listener hangs in it.
        go.send(()).unwrap();
        assert_eq!(gets.recv().unwrap(), 1);
        (2..=1000).for_each(|n| listening.tell(&step(n)));
        listening.tell(&Event::Split { confident: 1, unconfident: 1, neither: 0 });
        (1001..=2000).for_each(|n| listening.tell(&step(n)));
        assert!(lock(&listening.shared).waiting.len() <= 4);
        (0..10).for_each(|_| _ = go.send(()));
        let (listener, result) = listening.finish();
        assert!(listener.is_some() && result.is_ok());
        drop(listener);
        let all: Vec<u64> = gets.iter().collect();
        // It may have taken one more before the others came.
        assert!(all.ends_with(&[1000, 0, 2000]) && all.len() <= 4, "{all:?}");
    }

    /// However long it is busy: what comes once is not pushed out by what comes often.
    #[test]
    fn a_listener_that_hangs_loses_nothing_that_comes_once() {
        let (go, may_go) = mpsc::channel::<()>();
        let (told, gets) = mpsc::channel();
        let listener: Listener = Box::new(move |event| {
            may_go.recv().map_err(|e| e.to_string())?;
            told.send(matches!(event, Event::Split { .. })).map_err(|e| e.to_string())?;
            Ok(Control::Continue)
        });
        let listening = Listening::start(listener, &JobControl::default()).unwrap();
        listening.tell(&step(0));
        listening.tell(&Event::Split { confident: 1, unconfident: 1, neither: 0 });
        for n in 1..=1000 {
            listening.tell(&step(n));
            listening.tell(&Event::Checkpoint { path: format!("checkpoint-{n}").into() });
        }
        let waiting = lock(&listening.shared).waiting.len();
        assert!(waiting <= MOST, "{waiting}");
        (0..=MOST).for_each(|_| _ = go.send(()));
        let (listener, _) = listening.finish();
        drop(listener);
        assert_eq!(gets.iter().filter(|split| *split).count(), 1);
    }

    #[test]
    fn a_failing_listener_stops_the_job_and_says_why() {
        for panics in [false, true] {
            let control = JobControl::default();
            let listener: Listener = Box::new(move |_| match panics {
                true => panic!("boom"),
                false => Err("boom".into()),
            });
            let listening = Listening::start(listener, &control).unwrap();
            listening.tell(&step(1));
            let (_, result) = listening.finish();
            assert!(control.stop_handle().is_stopped());
            assert!(matches!(result, Err(Error::Callback { reason }) if reason == "boom"));
        }
    }
}
