//! What goes between host and device, counted by reason.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why something is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// Weights and rotary tables, up: once, when the model is opened.
    Weights,
    /// Adapter, moments and gradients: up when they begin, down in checkpoints.
    Adapter,
    /// Where a micro-batch's tokens stand: ids, positions, attention masks, supervised positions, up.
    Rows,
    /// Dropout masks, up, one byte an element, and noise on embeddings, four: made on the host so that they are those of every device.
    Dropout,
    /// Targets and weights of the loss, up; its figures for each supervised position, down: they are what
    /// the dynamics log holds.
    Loss,
    /// Squared sums of the gradients, down: clipping and the check for numbers that are not finite.
    Norm,
    /// A token's logits or a state, down: generation, and whoever asks.
    Output,
}

impl Transfer {
    /// Every reason with its name in reports.
    pub const ALL: [(Transfer, &'static str); 7] = [
        (Transfer::Weights, "weights"),
        (Transfer::Adapter, "adapter"),
        (Transfer::Rows, "rows"),
        (Transfer::Dropout, "dropout"),
        (Transfer::Loss, "loss"),
        (Transfer::Norm, "norm"),
        (Transfer::Output, "output"),
    ];
}

/// Copies and bytes so far of one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Copies to the device.
    pub uploads: u64,
    /// Copies from the device: each waits for the work before it.
    pub downloads: u64,
    /// Bytes of both.
    pub bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters(pub(super) [[AtomicU64; 3]; Transfer::ALL.len()]);

impl Counters {
    pub(super) fn add(&self, why: Transfer, which: usize, bytes: usize) {
        let c = &self.0[why as usize];
        c[which].fetch_add(1, Relaxed);
        c[2].fetch_add(bytes as u64, Relaxed);
    }
}
