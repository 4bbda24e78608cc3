//! The engine's buffers: parts of a few anonymous maps, which a page takes memory of only once it is written.
//!
//! What is kept between the passes and what passes within one lie apart, so that neither leaves gaps in the
//! other; the smallest gap that is large enough is taken. Between two groups of rows only parameters are lent,
//! so every group finds the same maps, whatever ran before it. What is held is how far up each map has ever
//! been used, less what was given back: a function of the largest group, not of their order.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use memmap2::MmapMut;

use crate::memory::Account;

/// Floats to whose multiples buffers are rounded: a cache line.
const LINE: usize = 16;
/// Floats of the pages that are given up at once: a multiple of every system's page.
const PAGES: usize = (64 << 10) / size_of::<f32>();
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
    /// Parts of those that [`Pool::trim`] has given up and that were not lent since; in order, of whole [`PAGES`].
    given: Vec<Range<usize>>,
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

    /// Bytes that take memory.
    fn held(&self) -> usize {
        (self.used - self.given.iter().map(Range::len).sum::<usize>()) * size_of::<f32>()
    }

    /// Enters that `part` is made use of; gives the bytes that this takes.
    fn touch(&mut self, part: &Range<usize>) -> usize {
        let before = self.held();
        self.used = self.used.max(part.end);
        if !self.given.is_empty() {
            // Pages of which a part is written take memory whole.
            let pages = part.start / PAGES * PAGES..part.end.next_multiple_of(PAGES);
            let outside = |g: &Range<usize>| {
                [g.start..g.end.min(pages.start), g.start.max(pages.end)..g.end].into_iter().filter(|r| !r.is_empty())
            };
            self.given = self.given.iter().flat_map(outside).collect();
        }
        self.held() - before
    }

    /// Gives up the pages that lie in gaps; gives the bytes that this frees.
    fn give_up(&mut self) -> usize {
        let before = self.held();
        let mut given = Vec::new();
        for gap in &self.gaps {
            let pages =
                gap.start.next_multiple_of(PAGES)..gap.end.min(self.used.next_multiple_of(PAGES)) / PAGES * PAGES;
            if !pages.is_empty() && self.drop_pages(&pages) {
                given.push(pages);
            }
        }
        // Above the last buffer is what was never used.
        if let Some(last) = given.last().filter(|g| g.end >= self.used).cloned() {
            given.pop();
            self.used = last.start;
        }
        self.given = given;
        before - self.held()
    }

    #[cfg(unix)]
    fn drop_pages(&self, floats: &Range<usize>) -> bool {
        let (at, len) = (floats.start * size_of::<f32>(), floats.len() * size_of::<f32>());
        // Elsewhere the former is only a hint, and pages stay.
        #[cfg(target_os = "linux")]
        let advice = memmap2::UncheckedAdvice::DontNeed;
        #[cfg(not(target_os = "linux"))]
        let advice = memmap2::UncheckedAdvice::Free;
        // SAFETY: the pages lie in a gap, whose contents nobody counts on: a buffer's are unspecified.
        let told = unsafe { self.memory.unchecked_advise_range(advice, at, len) };
        if let Err(e) = &told {
            log::debug!("{len} bytes of buffers are not given up: {e}");
        }
        told.is_ok()
    }

    #[cfg(not(unix))]
    fn drop_pages(&self, _: &Range<usize>) -> bool {
        false
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
    /// When the system has no more memory; [`Engine::run`](super::engine::Engine::run) makes that an error.
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
            maps.push(Map {
                memory,
                passing,
                gaps: std::iter::once(room..floats).collect(),
                used: 0,
                given: Vec::new(),
                lent: 1,
            });
            (maps.len() - 1, 0)
        });
        let map = &mut maps[i];
        let more = map.touch(&(at..at + room));
        if more > 0 {
            self.account.add(more);
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
        self.lock().iter().map(Map::held).sum()
    }

    /// Gives memory back to the system that no lent buffer is in: whole maps, and pages between buffers.
    pub fn trim(&self) {
        self.lock().retain_mut(|m| {
            let keep = m.lent > 0;
            self.account.sub(if keep { m.give_up() } else { m.held() });
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
    fn trimming_gives_back_what_lies_between_buffers() {
        let pool = Arc::new(Pool::default());
        let mib = 1 << 18;
        let mut first = pool.take(100);
        first.fill(1.0);
        let mut large = pool.take(16 * mib);
        large.fill(2.0);
        let mut last = pool.take(200);
        last.fill(3.0);
        let held = pool.held_bytes();
        drop(large);
        pool.trim();
        let freed = held - pool.held_bytes();
        assert!(((15 << 20)..=(16 << 20) + (128 << 10)).contains(&freed), "{freed}");
        assert_eq!(pool.account.held(), pool.held_bytes());
        pool.trim();
        assert_eq!(pool.held_bytes(), held - freed, "a second time frees nothing");
        assert!(first.iter().all(|&v| v == 1.0) && last.iter().all(|&v| v == 3.0));
        // What is lent again counts again: a part of the gap, then all of it.
        let mut half = pool.take(8 * mib);
        half.fill(4.0);
        let now = pool.held_bytes();
        assert!(now >= held - freed + (8 << 20) - (128 << 10) && now <= held - freed + (8 << 20) + (128 << 10));
        drop(half);
        let again = pool.take(16 * mib);
        assert_eq!((pool.held_bytes(), pool.account.held()), (held, held));
        assert_eq!(pool.account.peak(), held);
        drop((again, last));
        pool.trim();
        assert!(pool.held_bytes() <= 128 << 10, "{}", pool.held_bytes());
        assert!(first.iter().all(|&v| v == 1.0));
        drop(first);
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
