//! Where the tokens of a micro-batch stand, on the host and on the engine's device.

use std::sync::{Arc, Mutex, OnceLock};

use candle_core::Tensor;

use super::engine::Engine;
use super::moved::Transfer;
use crate::error::Result;

/// Where the tokens of a micro-batch stand: rows end to end.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Cumulated row lengths, `rows + 1` numbers from 0 to N.
    pub(crate) offsets: Vec<u32>,
    /// Position of each token in its row.
    pub(crate) positions: Vec<u32>,
    /// What dropout masks of each row are keyed by (the example's number).
    pub(crate) row_ids: Vec<u64>,
    /// How long the row is, where this is a part of one, as generation runs them.
    part_of: Option<u32>,
    /// The same on the device, for the portable form: uploaded once for all blocks and both passes.
    on_device: Arc<OnDevice>,
}

#[derive(Debug, Default)]
struct OnDevice {
    positions: OnceLock<Tensor>,
    tiles: Mutex<Vec<(TileKey, Arc<Vec<Tile>>)>>,
}

impl Layout {
    /// The layout of rows with these cumulated lengths and names.
    pub fn new(offsets: Vec<u32>, row_ids: Vec<u64>) -> Layout {
        let positions = offsets.windows(2).flat_map(|w| 0..w[1] - w[0]).collect();
        Layout { offsets, positions, row_ids, part_of: None, on_device: Arc::default() }
    }

    /// A part of one row that stands at `positions`; the row is `length` tokens long by then.
    pub(crate) fn part(positions: Vec<u32>, length: u32) -> Layout {
        let offsets = vec![0, positions.len() as u32];
        Layout { offsets, positions, row_ids: vec![0], part_of: Some(length), on_device: Arc::default() }
    }

    /// Whether it was made by [`Layout::part`].
    pub(crate) fn is_part(&self) -> bool {
        self.part_of.is_some()
    }

    /// Tokens of the row whose last position here is `last`.
    pub(crate) fn row_length(&self, last: u32) -> usize {
        self.part_of.unwrap_or(last + 1) as usize
    }

    /// Cumulated row lengths, `rows + 1` numbers from 0 to N.
    pub fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// Position of each token in its row.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// N.
    pub fn tokens(&self) -> usize {
        self.positions.len()
    }

    /// The positions `[N]` on the engine's device.
    pub(crate) fn device_positions(&self, engine: &Engine) -> Result<Tensor> {
        if let Some(t) = self.on_device.positions.get() {
            return Ok(t.clone());
        }
        let t = engine.upload(Transfer::Rows, &self.positions, self.tokens())?;
        Ok(self.on_device.positions.get_or_init(|| t).clone())
    }

    /// The tiles of the portable attention.
    pub(crate) fn device_tiles(&self, engine: &Engine, key: TileKey) -> Result<Arc<Vec<Tile>>> {
        // Tiles are pushed whole: a panicking thread leaves nothing half done.
        let mut known = self.on_device.tiles.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, tiles)) = known.iter().find(|(k, _)| *k == key) {
            return Ok(tiles.clone());
        }
        let tiles = Arc::new(tiles(engine, &self.offsets, key)?);
        known.push((key, tiles.clone()));
        Ok(tiles)
    }

    /// The row that each token belongs to.
    pub(crate) fn row_of_token(&self) -> Vec<u32> {
        let rows = self.offsets.windows(2).enumerate();
        rows.flat_map(|(i, w)| std::iter::repeat_n(i as u32, (w[1] - w[0]) as usize)).collect()
    }
}

/// What the tiles of a layout depend on: query rows of a tile, window.
pub(crate) type TileKey = (usize, Option<usize>);

/// A tile of the portable form: queries `q0..q1` of a row against keys `k0..q1`. The same for every block
/// and both passes, so it is made and uploaded once a layout.
#[derive(Debug)]
pub(crate) struct Tile {
    pub(super) q0: usize,
    pub(super) q1: usize,
    pub(super) k0: usize,
    /// `[1, 1, T, K]`: 0 where visible, −inf elsewhere.
    pub(super) mask: Tensor,
    /// `[K]`: k0, k0 + 1, …
    pub(super) keys: Tensor,
}

/// The tiles of rows with these cumulated lengths.
pub(crate) fn tiles(engine: &Engine, offsets: &[u32], (tile, window): TileKey) -> Result<Vec<Tile>> {
    let mut out = Vec::new();
    for row in offsets.windows(2) {
        let (start, end) = (row[0] as usize, row[1] as usize);
        for q0 in (start..end).step_by(tile) {
            let q1 = (q0 + tile).min(end);
            let first = |t: usize| window.map_or(start, |w| (t + 1).saturating_sub(w).max(start));
            let k0 = first(q0);
            let mut mask = vec![f32::NEG_INFINITY; (q1 - q0) * (q1 - k0)];
            for t in q0..q1 {
                let at = (t - q0) * (q1 - k0);
                mask[at + first(t) - k0..=at + t - k0].fill(0.0);
            }
            let mask = engine.upload(Transfer::Rows, &mask, (1, 1, q1 - q0, q1 - k0))?;
            let keys: Vec<u32> = (k0 as u32..q1 as u32).collect();
            out.push(Tile { q0, q1, k0, mask, keys: engine.upload(Transfer::Rows, &keys, keys.len())? });
        }
    }
    Ok(out)
}
