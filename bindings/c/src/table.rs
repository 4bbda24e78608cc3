//! Handles: numbers that are looked up and never followed. None is given out twice, so one that was freed, or that is of
//! another kind, is told from one that lives.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::fault::{sftmix_status, Fail, Result};

/// Handles of a kind are this far apart, and its number stands below.
const STRIDE: usize = 8;
const NAMES: [&str; 6] = ["handle", "model", "job", "generator", "data map", "stop handle"];

/// What stands behind a handle.
pub trait Held: Any + Send + Sync {
    /// What C knows.
    type Opaque;
    /// Its number, less than the stride.
    const KIND: usize;
}

type Things = BTreeMap<usize, Arc<dyn Any + Send + Sync>>;

static TABLE: Mutex<(usize, Things)> = Mutex::new((0, BTreeMap::new()));
/// The process that used the library first.
static HOME: AtomicU32 = AtomicU32::new(0);

fn table() -> MutexGuard<'static, (usize, Things)> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Refuses the child of a process that has used the library: of its threads and locks a fork copies the state alone. Called
/// before any lock is taken.
pub fn at_home() -> Result<()> {
    let here = std::process::id();
    match HOME.compare_exchange(0, here, SeqCst, SeqCst) {
        Err(home) if home != here => {
            let reason = format!("the library was used by process {home} before it was forked: use it there, or exec");
            Err(Fail::new(sftmix_status::Forked, reason))
        }
        _ => Ok(()),
    }
}

/// Takes something in.
pub fn put<T: Held>(thing: T) -> Result<*mut T::Opaque> {
    at_home()?;
    let mut table = table();
    let full = || Fail::new(sftmix_status::Other, "every handle was given out");
    let number = table.0.checked_add(STRIDE).ok_or_else(full)?;
    table.0 = number;
    table.1.insert(number + T::KIND, Arc::new(thing));
    Ok(std::ptr::without_provenance_mut(number + T::KIND))
}

fn found<T: Held>(handle: *const T::Opaque, take: bool) -> Result<Arc<T>> {
    at_home()?;
    let (number, name) = (handle.addr(), NAMES[T::KIND]);
    let bad = |reason: String| Fail::new(sftmix_status::InvalidHandle, reason);
    if number == 0 {
        return Err(bad(format!("the {name} is NULL")));
    }
    let mut table = table();
    if number >= table.0 + STRIDE || number < STRIDE {
        return Err(bad(format!("this is no {name}: the library gave no such handle out")));
    }
    let kind = number % STRIDE;
    if kind != T::KIND {
        let other = NAMES.get(kind).copied().unwrap_or(NAMES[0]);
        return Err(bad(format!("this is no {name}, but a {other}")));
    }
    let thing = if take { table.1.remove(&number) } else { table.1.get(&number).cloned() };
    drop(table);
    let thing = thing.and_then(|t| t.downcast::<T>().ok());
    thing.ok_or_else(|| bad(format!("the {name} was freed before")))
}

/// What a handle stands for; it stays whole while the call runs, whoever frees the handle.
pub fn get<T: Held>(handle: *const T::Opaque) -> Result<Arc<T>> {
    found(handle, false)
}

/// The same, where NULL stands for none.
pub fn maybe<T: Held>(handle: *const T::Opaque) -> Result<Option<Arc<T>>> {
    (!handle.is_null()).then(|| get(handle)).transpose()
}

/// What a handle stood for.
pub fn take<T: Held>(handle: *const T::Opaque) -> Result<Arc<T>> {
    found(handle, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct One;
    #[derive(Debug)]
    struct Two;
    impl Held for One {
        type Opaque = u8;
        const KIND: usize = 1;
    }
    impl Held for Two {
        type Opaque = u16;
        const KIND: usize = 2;
    }

    #[test]
    fn a_handle_that_is_none_is_told() {
        let (one, two) = (put(One).unwrap(), put(Two).unwrap());
        let said = |e: Fail| (e.status, e.message);
        assert!(
            get::<One>(one).is_ok() && get::<Two>(two).is_ok() && maybe::<One>(std::ptr::null()).unwrap().is_none()
        );
        assert_eq!(said(get::<One>(two.cast()).unwrap_err()).1, "this is no model, but a job");
        assert!(take::<One>(one).is_ok());
        assert_eq!(
            said(take::<One>(one).unwrap_err()),
            (sftmix_status::InvalidHandle, "the model was freed before".into())
        );
        assert_eq!(get::<One>(std::ptr::null()).unwrap_err().message, "the model is NULL");
        let own = 5u8;
        assert!(get::<One>(&own).unwrap_err().message.contains("no such handle"));
    }
}
