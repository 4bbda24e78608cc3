//! Which mapped weights stay in memory. Without a limit that is the system's to decide; with one, a block's
//! pages are given up as soon as the block has run, and those of the next one are asked for, so that a base
//! larger than the memory left can be trained on. The file still holds them: nothing is lost.

use super::decoder::Decoder;
use crate::ops::linear::Linear;
use crate::weights::Weight;

/// What the system is told about some pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pages {
    /// They will be read soon.
    Needed,
    /// They will not be read for a while.
    Given,
}

impl Decoder {
    /// Keeps the weights of `pinned` blocks from the top in memory, and gives up those of the others and of the
    /// head behind their use.
    pub fn give_up_weights(&mut self, pinned: usize) {
        self.streamed = Some(self.blocks.len().saturating_sub(pinned));
    }

    /// Bytes of the largest block's matrices, and of the head's.
    pub fn streamed_bytes(&self) -> (usize, usize) {
        let of = |w: &Weight| w.bytes().len();
        let blocks = self.blocks.iter().map(|b| b.linears().map(|l| of(l.weight.weight())).sum());
        (blocks.max().unwrap_or(0), of(self.head().weight.weight()))
    }

    /// Block `l` is about to run, then `next`.
    pub(super) fn enter(&self, next: Option<usize>) {
        if let (Some(_), Some(block)) = (self.streamed, next.and_then(|l| self.blocks.get(l))) {
            block.linears().for_each(|l| tell(l, Pages::Needed));
        }
    }

    /// Block `l` has run.
    pub(super) fn leave(&self, l: usize) {
        if self.streamed.is_some_and(|below| l < below) {
            self.blocks[l].linears().for_each(|l| tell(l, Pages::Given));
        }
    }

    /// A linear has been read outside of a pass.
    pub(crate) fn read_through(&self, lin: &Linear) {
        if self.streamed.is_some() {
            tell(lin, Pages::Given);
        }
    }

    /// Rows of the embedding have been read.
    pub(super) fn leave_embedding(&self) {
        if self.streamed.is_some() {
            self.embed.weight().tell(Pages::Given);
        }
    }

    /// The head has been read.
    pub(crate) fn leave_head(&self) {
        if self.streamed.is_some() {
            self.head().weight.weight().tell(Pages::Given);
            self.enter(self.blocks.len().checked_sub(1));
        }
    }
}

fn tell(lin: &Linear, pages: Pages) {
    lin.weight.weight().tell(pages);
}

impl Weight {
    /// Tells the system about the pages that hold nothing but this tensor; where it does not listen, no harm is
    /// done.
    fn tell(&self, pages: Pages) {
        let Some((map, bytes)) = self.mapped() else { return };
        #[cfg(unix)]
        {
            const PAGE: usize = 4096;
            let (start, end) = (bytes.start.next_multiple_of(PAGE), bytes.end / PAGE * PAGE);
            if start >= end {
                return;
            }
            let told = match pages {
                Pages::Needed => map.advise_range(memmap2::Advice::WillNeed, start, end - start),
                // SAFETY: a read-only map of a file: what is given up is read again from the file.
                Pages::Given => unsafe {
                    map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start)
                },
            };
            if let Err(e) = told {
                log::debug!("{}: {pages:?}: {e}", self.name());
            }
        }
        #[cfg(not(unix))]
        let _ = (map, bytes, pages);
    }
}
