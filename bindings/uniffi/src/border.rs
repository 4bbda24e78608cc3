//! What the border needs: plain types for the library's, work on a thread of its own for asynchronous callers, and the
//! process that an object belongs to.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::{Result, SftmixError};

/// A value as it crosses.
pub trait Cross<T> {
    fn cross(self) -> T;
}

macro_rules! same {
    ($($t:ty),*) => { $(impl Cross<$t> for $t { fn cross(self) -> $t { self } })* };
}
same!(bool, u32, u64, f64, String, Vec<String>);

impl Cross<u64> for usize {
    fn cross(self) -> u64 {
        self as u64
    }
}

impl Cross<f64> for f32 {
    fn cross(self) -> f64 {
        self.into()
    }
}

impl Cross<String> for PathBuf {
    fn cross(self) -> String {
        self.to_string_lossy().into_owned()
    }
}

impl<T, U: Cross<T>> Cross<Option<T>> for Option<U> {
    fn cross(self) -> Option<T> {
        self.map(Cross::cross)
    }
}

/// A record that has fields of one of the library's, by name.
macro_rules! twin {
    ($(#[$meta:meta])* $name:ident of $core:ty { $($(#[$doc:meta])* $field:ident: $t:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, uniffi::Record)]
        pub struct $name { $($(#[$doc])* pub $field: $t),* }
        impl From<$core> for $name {
            fn from(core: $core) -> Self { $name { $($field: $crate::border::Cross::cross(core.$field)),* } }
        }
        impl $crate::border::Cross<$name> for $core {
            fn cross(self) -> $name { self.into() }
        }
    };
}
pub(crate) use twin;

/// The process that an object was made in: its threads are not in a child that was forked.
#[derive(Debug)]
pub struct Home(u32);

impl Home {
    pub fn here() -> Home {
        Home(std::process::id())
    }

    pub fn check(&self) -> Result<()> {
        match self.0 == std::process::id() {
            true => Ok(()),
            false => Err(SftmixError::Misuse {
                detail: format!(
                    "misuse: the object was made in process {}, and its threads are not in this one ({}): open it after \
                     the fork, or start processes by spawn",
                    self.0,
                    std::process::id()
                ),
            }),
        }
    }
}

struct Shared<T> {
    done: Option<T>,
    waker: Option<Waker>,
}

/// What a thread of its own works on.
pub struct Working<T, A: FnOnce()> {
    shared: Arc<Mutex<Shared<T>>>,
    /// What is done when nobody waits for it any more.
    abandoned: Option<A>,
}

/// Does `work` on a thread of its own, so that an executor that polls is not held up. Where its caller is cancelled,
/// `abandoned` asks the work to end.
pub fn aside<T: Send + 'static, A: FnOnce() + Unpin>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
    abandoned: A,
) -> Working<Result<T>, A> {
    let shared = Arc::new(Mutex::new(Shared { done: None, waker: None }));
    let tell = |shared: &Mutex<Shared<Result<T>>>, result| {
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.done = Some(result);
        let waker = shared.waker.take();
        // Who is woken may poll there and then.
        drop(shared);
        if let Some(waker) = waker {
            waker.wake();
        }
    };
    let own = shared.clone();
    let body = move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        let panicked = |_| Err(SftmixError::Threads { detail: "worker threads: a panic".into() });
        tell(&own, result.unwrap_or_else(panicked));
    };
    if let Err(e) = std::thread::Builder::new().name("sftmix-async".into()).spawn(body) {
        tell(&shared, Err(SftmixError::Threads { detail: format!("worker threads: {e}") }));
    }
    Working { shared, abandoned: Some(abandoned) }
}

impl<T, A: FnOnce() + Unpin> Future for Working<T, A> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        match shared.done.take() {
            Some(done) => {
                drop(shared);
                self.abandoned = None;
                Poll::Ready(done)
            }
            None => {
                shared.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T, A: FnOnce()> Drop for Working<T, A> {
    fn drop(&mut self) {
        if let Some(abandoned) = self.abandoned.take() {
            abandoned();
        }
    }
}
