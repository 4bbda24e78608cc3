//! Worker threads: an engine's own, or some that several engines share.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::kernels::cpu::simd::Level;

/// Worker threads that engines share; they end with the last of those that have them.
#[derive(Clone, Debug)]
pub struct Workers {
    pool: Arc<rayon::ThreadPool>,
    level: Level,
}

impl Workers {
    /// Starts so many, at least 1, whose kernels are of this level.
    ///
    /// # Errors
    /// [`Error::Threads`] when they cannot be started.
    pub fn start(threads: usize, level: Level) -> Result<Workers> {
        let builder = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1));
        let builder = builder.thread_name(|i| format!("sftmix-{i}")).start_handler(move |_| level.bind_thread());
        let pool = builder.build().map_err(|e| Error::Threads(e.to_string()))?;
        Ok(Workers { pool: Arc::new(pool), level })
    }

    /// The level of their kernels.
    pub fn level(&self) -> Level {
        self.level
    }

    /// How many.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Their number, which a setting must not contradict.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] where another number is asked for.
    pub fn agreed(&self, threads: Option<usize>) -> Result<usize> {
        let have = self.threads();
        match threads.filter(|n| *n != have) {
            None => Ok(have),
            Some(n) => {
                let reason = format!("expected {have} or none, found {n}: the model's worker threads are shared");
                Err(Error::config("threads", reason))
            }
        }
    }

    /// Runs `f` on them.
    pub(super) fn install<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.pool.install(f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use super::*;
    use crate::ops::{Engine, EngineOptions};

    #[test]
    fn engines_compute_on_the_same_threads() {
        let workers = Workers::start(2, Level::best()).unwrap();
        let options = || EngineOptions { workers: Some(workers.clone()), ..Default::default() };
        let threads_of = |engine: &Engine| {
            let seen = Mutex::new(BTreeSet::new());
            let note = || {
                seen.lock().unwrap().insert(format!("{:?}", std::thread::current().id()));
                std::thread::sleep(std::time::Duration::from_millis(20));
            };
            engine
                .run(|| {
                    rayon::join(note, note);
                    Ok(())
                })
                .unwrap();
            seen.into_inner().unwrap()
        };
        let (a, mut b) = (Engine::new(options()).unwrap(), Engine::new(options()).unwrap());
        assert_eq!((a.threads(), b.threads(), threads_of(&a).len()), (2, 2, 2));
        assert_eq!(threads_of(&a), threads_of(&b));
        let own = Engine::new(EngineOptions { threads: Some(2), ..Default::default() }).unwrap();
        assert!(threads_of(&own).is_disjoint(&threads_of(&a)));
        // Both at once, and each after the other is gone.
        std::thread::scope(|s| (0..2).for_each(|_| _ = s.spawn(|| threads_of(&a))));
        drop(a);
        assert_eq!(threads_of(&b).len(), 2);

        let e = b.set_threads(3).unwrap_err().to_string();
        assert!(e.contains("expected 2 or none, found 3") && b.set_threads(2).is_ok(), "{e}");
        let e = Engine::new(EngineOptions { threads: Some(3), ..options() }).unwrap_err().to_string();
        assert!(e.contains("threads: expected 2 or none, found 3"), "{e}");
    }
}
