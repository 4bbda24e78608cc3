//! The engine's buffers: parts of a few anonymous maps, which a page takes memory of only once it is written.
//!
//! What is kept between the passes and what passes within one lie apart, so that neither leaves gaps in the
//! other; the smallest gap that is large enough is taken. Between two groups of rows only parameters are lent,
//! so every group finds the same maps, whatever ran before it. What is held is how far up each map has ever
//! been used: a function of the largest group, not of their order.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use memmap2::MmapMut;

use crate::memory::Account;

/// Floats to whose multiples buffers are rounded: a cache line.
const LINE: usize = 16;
/// Floats of a map at least, unless a buffer needs more: 1 GiB of addresses where those cost nothing, so that
/// buffers of all sizes lie in one map; 64 MiB where the system counts what may be written, not what is.
const MAP: usize = if cfg!(all(unix, target_pointer_width = "64")) { 256 << 20 } else { 16 << 20 };

/// A store of buffers.
#[derive(Default, Debug)]
pub struct Pool {
    account: Arc<Account>,
    maps: Mutex<Vec<Map>>,
    /// Whether buffers that are taken now pass.
    passing: AtomicBool,
}

/// One anonymous map.
#[derive(Debug)]
struct Map {
    memory: MmapMut,
    /// Whether its buffers pass.
    passing: bool,
    /// Gaps in order, in floats; no two touch.
    gaps: Vec<Range<usize>>,
    /// Floats from the beginning that have been lent once.
    used: usize,
    /// Buffers that are lent.
    lent: usize,
}

impl Map {
    fn floats(&self) -> usize {
        self.memory.len() / size_of::<f32>()
    }

    fn start(&self) -> *mut f32 {
        self.memory.as_ptr().cast_mut().cast()
    }

    /// The smallest gap of at least `len` floats, the lowest of equals: what lies above all buffers comes last.
    fn take(&mut self, len: usize) -> Option<usize> {
        let fits = self.gaps.iter().enumerate().filter(|(_, g)| g.len() >= len);
        let (i, _) = fits.min_by_key(|(_, g)| g.len())?;
        let at = self.gaps[i].start;
        self.gaps[i].start += len;
        if self.gaps[i].is_empty() {
            self.gaps.remove(i);
        }
        self.lent += 1;
        Some(at)
    }

    fn give_back(&mut self, part: Range<usize>) {
        self.lent -= 1;
        let i = self.gaps.partition_point(|g| g.start < part.start);
        let joins_next = self.gaps.get(i).is_some_and(|g| g.start == part.end);
        let joins_last = i > 0 && self.gaps[i - 1].end == part.start;
        match (joins_last, joins_next) {
            (true, true) => self.gaps[i - 1].end = self.gaps.remove(i).end,
            (true, false) => self.gaps[i - 1].end = part.end,
            (false, true) => self.gaps[i].start = part.start,
            (false, false) => self.gaps.insert(i, part),
        }
    }
}

impl Pool {
    /// A pool that enters what it holds in an account.
    pub fn new(account: Arc<Account>) -> Pool {
        Pool { account, maps: Mutex::default(), passing: AtomicBool::new(false) }
    }

    /// Whether buffers that are taken from now on pass, rather than are kept; gives what was set before.
    pub(crate) fn set_passing(&self, passing: bool) -> bool {
        self.passing.swap(passing, Relaxed)
    }

    /// A buffer of `len` elements with unspecified contents.
    ///
    /// # Panics
    /// When the system has no more memory; [`Engine::run`](super::Engine::run) makes that an error.
    pub fn take(self: &Arc<Self>, len: usize) -> HostBuf {
        self.take_from(self.passing.load(Relaxed), len)
    }

    /// A buffer for within an operation.
    ///
    /// # Panics
    /// As [`Pool::take`].
    pub fn scratch(self: &Arc<Self>, len: usize) -> HostBuf {
        self.take_from(true, len)
    }

    fn take_from(self: &Arc<Self>, passing: bool, len: usize) -> HostBuf {
        if len == 0 {
            return HostBuf { data: NonNull::dangling(), len, part: 0..0, pool: self.clone() };
        }
        let room = len.next_multiple_of(LINE);
        let mut maps = self.lock();
        let mut fitting = maps.iter_mut().enumerate().filter(|(_, m)| m.passing == passing);
        let found = fitting.find_map(|(i, m)| Some((i, m.take(room)?)));
        let (i, at) = found.unwrap_or_else(|| {
            let held: usize = maps.iter().map(Map::floats).sum();
            let floats = room.max(MAP).max(held / 2);
            let memory = MmapMut::map_anon(floats * size_of::<f32>())
                .or_else(|_| MmapMut::map_anon(room * size_of::<f32>()))
                .unwrap_or_else(|e| panic!("no memory for a buffer of {} bytes: {e}", 4 * room));
            let floats = memory.len() / size_of::<f32>();
            maps.push(Map { memory, passing, gaps: std::iter::once(room..floats).collect(), used: 0, lent: 1 });
            (maps.len() - 1, 0)
        });
        let map = &mut maps[i];
        if at + room > map.used {
            self.account.add((at + room - map.used) * size_of::<f32>());
            map.used = at + room;
        }
        // Maps are pages: not at the null address, and aligned for floats.
        let data = NonNull::new(map.start().wrapping_add(at)).unwrap_or(NonNull::dangling());
        HostBuf { data, len, part: at..at + room, pool: self.clone() }
    }

    /// A buffer of zeros.
    pub fn zeros(self: &Arc<Self>, len: usize) -> HostBuf {
        let mut b = self.take(len);
        b.fill(0.0);
        b
    }

    /// Bytes that buffers, lent and given back, have made use of.
    pub fn held_bytes(&self) -> usize {
        self.lock().iter().map(|m| m.used * size_of::<f32>()).sum()
    }

    /// Frees every map of which no buffer is lent.
    pub fn trim(&self) {
        self.lock().retain(|m| {
            let keep = m.lent > 0;
            if !keep {
                self.account.sub(m.used * size_of::<f32>());
            }
            keep
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Map>> {
        // Gaps are changed in one step each: a panicking thread leaves nothing half done.
        self.maps.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.account.sub(self.held_bytes());
    }
}

/// `len` floats on loan from a [`Pool`].
#[derive(Debug)]
pub struct HostBuf {
    data: NonNull<f32>,
    len: usize,
    /// Floats of the map that hold it.
    part: Range<usize>,
    pool: Arc<Pool>,
}

// SAFETY: the part of the map is this buffer's alone, as a vector's memory is the vector's.
unsafe impl Send for HostBuf {}
// SAFETY: as above.
unsafe impl Sync for HostBuf {}

impl std::ops::Deref for HostBuf {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: `len` floats of the map from there on are lent to this buffer alone, and a map that lends
        // stays where it is; every bit pattern is an f32.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl std::ops::DerefMut for HostBuf {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }
}

impl Drop for HostBuf {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        let mut maps = self.pool.lock();
        let holds = |m: &Map| (m.start()..m.start().wrapping_add(m.floats())).contains(&self.data.as_ptr());
        if let Some(map) = maps.iter_mut().find(|m| holds(m)) {
            map.give_back(self.part.clone());
        }
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
            drop(a);
            let c = pool.take(1001);
            (b.len() + c.len(), pool.held_bytes())
        };
        let (_, first) = step();
        assert_eq!(step().1, first);
        assert_eq!(pool.account.peak(), first);
        pool.trim();
        assert_eq!((pool.held_bytes(), pool.account.held()), (0, 0));
    }

    #[test]
    fn what_is_held_depends_on_the_most_and_not_on_the_order() {
        let held = |sizes: &[usize]| {
            let pool = Arc::new(Pool::default());
            for n in sizes {
                let (_a, b) = (pool.take(3 * n), pool.take(*n));
                drop(b);
                let _c = pool.take(n / 2);
            }
            pool.held_bytes()
        };
        assert_eq!(held(&[1000, 50_000, 7000]), held(&[50_000]));
        assert_eq!(held(&(1..200).map(|i| 1000 * i).collect::<Vec<_>>()), held(&[199_000]));
    }

    #[test]
    fn buffers_do_not_overlap_and_gaps_join() {
        let pool = Arc::new(Pool::default());
        let mut lent: Vec<(usize, HostBuf)> = Vec::new();
        let key = crate::rng::Key::new(3, crate::rng::Stream::Bench, &[]);
        for i in 0..3000u64 {
            let n = 1 + key.below(2 * i, 5000) as usize;
            let mut b = pool.take(n);
            b.fill(i as f32);
            lent.push((i as usize, b));
            while lent.len() > 40 {
                let (i, b) = lent.swap_remove(key.below(2 * i + 1, 40) as usize);
                assert!(b.iter().all(|&v| v == i as f32));
            }
        }
        // A buffer that no map of the usual size could hold.
        let large = pool.take(MAP + 1);
        assert_eq!(pool.lock().len(), 2);
        // What passes lies in a map of its own.
        drop(pool.scratch(10));
        assert_eq!(pool.lock().len(), 3);
        drop((large, lent));
        assert!(pool.lock().iter().all(|m| m.gaps.len() == 1 && m.lent == 0));
        assert!(pool.take(0).is_empty());
    }
}
