//! What the library holds: every large allocation is entered here, so that a limit can be kept and the
//! high-water mark be told on any system. Read-only maps do not count: the system can drop their pages.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;

/// A sum of bytes and the most it has been.
#[derive(Debug, Default)]
pub struct Account {
    held: AtomicUsize,
    peak: AtomicUsize,
}

impl Account {
    /// Enters `bytes` until the charge is dropped.
    pub fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.add(bytes);
        Charge { bytes, account: self.clone() }
    }

    /// Enters `bytes`.
    pub(crate) fn add(&self, bytes: usize) {
        let held = self.held.fetch_add(bytes, Relaxed) + bytes;
        self.peak.fetch_max(held, Relaxed);
    }

    /// Takes `bytes` off.
    pub(crate) fn sub(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Relaxed);
    }

    /// Bytes entered now.
    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// The most that was entered at once.
    pub fn peak(&self) -> usize {
        self.peak.load(Relaxed)
    }
}

/// Bytes entered in an [`Account`]; dropping it takes them off.
#[derive(Debug)]
pub struct Charge {
    bytes: usize,
    account: Arc<Account>,
}

impl Charge {
    /// Makes it as large as what it stands for.
    pub fn resize(&mut self, bytes: usize) {
        self.account.add(bytes);
        self.account.sub(self.bytes);
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_come_and_go() {
        let account = Arc::new(Account::default());
        let first = account.charge(100);
        let mut second = account.charge(50);
        drop(first);
        second.resize(70);
        assert_eq!((account.held(), account.peak()), (70, 150));
        drop(second);
        assert_eq!((account.held(), account.peak()), (0, 150));
    }
}
