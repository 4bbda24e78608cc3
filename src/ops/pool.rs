//! The engine's buffers: taken for a step, given back on drop, so that later steps of the same shapes
//! allocate next to nothing (tests/it/block.rs: a few small buffers in the second step, none from the fourth).
//! The pool keeps the account of what it holds.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// A store of free buffers, sorted by capacity.
#[derive(Default, Debug)]
pub struct Pool {
    free: Mutex<Vec<Vec<f32>>>,
    held: AtomicUsize,
    peak: AtomicUsize,
}

impl Pool {
    /// A buffer of `len` elements with unspecified contents.
    ///
    /// The smallest free buffer that fits is taken when it is at most twice as long. Otherwise a new one
    /// is made, and the largest free buffer that is too short goes: ragged batches ask for a little more
    /// each time they meet a longer row, and the outgrown buffers would pile up.
    pub fn take(self: &Arc<Self>, len: usize) -> HostBuf {
        let found = {
            let mut free = self.lock();
            let at = free.partition_point(|b| b.len() < len);
            match free.get(at) {
                Some(b) if b.len() <= (2 * len).max(1024) => Some(free.remove(at)),
                _ if at > 0 => {
                    let gone = free.remove(at - 1);
                    self.held.fetch_sub(bytes(&gone), Relaxed);
                    None
                }
                _ => None,
            }
        };
        let data = found.unwrap_or_else(|| {
            let data = vec![0f32; len];
            let held = self.held.fetch_add(bytes(&data), Relaxed) + bytes(&data);
            self.peak.fetch_max(held, Relaxed);
            data
        });
        HostBuf { data, len, pool: self.clone() }
    }

    /// A buffer of zeros.
    pub fn zeros(self: &Arc<Self>, len: usize) -> HostBuf {
        let mut b = self.take(len);
        b.fill(0.0);
        b
    }

    /// Bytes of all buffers, lent and free.
    pub fn held_bytes(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// The most [`Pool::held_bytes`] has been.
    pub fn peak_bytes(&self) -> usize {
        self.peak.load(Relaxed)
    }

    /// Frees every buffer that is not lent.
    pub fn trim(&self) {
        let gone = std::mem::take(&mut *self.lock());
        self.held.fetch_sub(gone.iter().map(bytes).sum(), Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<f32>>> {
        // Buffers hold no invariant that a panicking thread could break.
        self.free.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn bytes(v: &Vec<f32>) -> usize {
    v.capacity() * std::mem::size_of::<f32>()
}

/// `len` floats on loan from a [`Pool`].
#[derive(Debug)]
pub struct HostBuf {
    data: Vec<f32>,
    len: usize,
    pool: Arc<Pool>,
}

impl std::ops::Deref for HostBuf {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.data[..self.len]
    }
}

impl std::ops::DerefMut for HostBuf {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.len]
    }
}

impl Drop for HostBuf {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        let mut free = self.pool.lock();
        let at = free.partition_point(|b| b.len() < data.len());
        free.insert(at, data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_step_allocates_nothing() {
        let pool = Arc::new(Pool::default());
        let step = || {
            let a = pool.take(1000);
            let b = pool.take(5000);
            let c = pool.take(1000);
            (a.len() + b.len() + c.len(), pool.held_bytes())
        };
        let (_, first) = step();
        assert_eq!(step().1, first);
        assert_eq!(pool.peak_bytes(), first);
        pool.trim();
        assert_eq!(pool.held_bytes(), 0);
    }

    #[test]
    fn outgrown_buffers_do_not_pile_up() {
        let pool = Arc::new(Pool::default());
        for n in 1..200 {
            drop(pool.take(10_000 * n));
        }
        assert!(pool.held_bytes() <= 4 * 10_000 * 200 * 2, "{} bytes", pool.held_bytes());
    }
}
