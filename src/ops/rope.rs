//! Rotary position embedding (Su et al. 2021) in Hugging Face's two-halves order, over the first features of
//! each head; backward rotates by −θ.

use std::borrow::Cow;

use candle_core::{Tensor, D};

use super::buf::Buf;
use super::engine::{Engine, Phase};
use super::layout::Layout;
use super::moved::Transfer;
use crate::error::Result;
use crate::family::rope::Frequencies;
use crate::kernels::cpu::rope as kernel;
use crate::memory::Charge;

/// cos and sin of position·frequency, `[positions, D/2]`; with LongRoPE those of long rows stand behind.
#[derive(Debug)]
pub struct Table {
    half: usize,
    positions: usize,
    /// Rows of more tokens than the first take their angles from the second row of the table on.
    long: Option<(usize, usize)>,
    cos: Vec<f32>,
    sin: Vec<f32>,
    dev: Option<(Tensor, Tensor)>,
    _charge: Charge,
}

impl Table {
    /// The table of plain frequencies.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn new(engine: &Engine, inv_freq: &[f32], positions: usize) -> Result<Table> {
        Table::of(engine, &Frequencies { short: inv_freq.to_vec(), long: None, scale: 1.0 }, positions)
    }

    /// Angles in f64 from the f32 frequencies, rounded once.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn of(engine: &Engine, f: &Frequencies, positions: usize) -> Result<Table> {
        let half = f.short.len();
        let long = f.long.as_ref().filter(|(from, _)| positions > *from);
        let first = long.map_or(positions, |&(from, _)| from);
        let parts = [Some((first, &f.short)), long.map(|(_, v)| (positions, v))];
        let angle = |function: fn(f64) -> f64| -> Vec<f32> {
            let of = |(n, freq): (usize, &Vec<f32>)| -> Vec<f32> {
                let at = |i: usize| (i / half) as f64 * freq[i % half] as f64;
                (0..n * half).map(|i| (function(at(i)) * f.scale) as f32).collect()
            };
            parts.into_iter().flatten().flat_map(of).collect()
        };
        let (cos, sin) = (angle(libm::cos), angle(libm::sin));
        let dev = if engine.fused() {
            None
        } else {
            let t = |v: &[f32]| engine.upload(Transfer::Weights, v, (v.len() / half.max(1), half));
            Some((t(&cos)?, t(&sin)?))
        };
        let _charge = engine.account().charge(size_of_val(&cos[..]) + size_of_val(&sin[..]));
        Ok(Table { half, positions, long: long.map(|&(from, _)| (from, first)), cos, sin, dev, _charge })
    }

    /// Positions it covers.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// The length beyond which a row has other frequencies, all of it, where the table reaches there.
    pub fn long_from(&self) -> Option<usize> {
        self.long.map(|(from, _)| from)
    }

    /// The row of the table for each token, by how long its row is.
    fn rows<'a>(&self, layout: &'a Layout) -> Cow<'a, [u32]> {
        let Some((from, at)) = self.long else { return Cow::Borrowed(&layout.positions) };
        let mut rows = layout.positions.clone();
        for w in layout.offsets.windows(2) {
            let row = &mut rows[w[0] as usize..w[1] as usize];
            if row.last().is_some_and(|&last| layout.row_length(last) > from) {
                row.iter_mut().for_each(|p| *p += at as u32);
            }
        }
        Cow::Owned(rows)
    }
}

/// Rotates `x[N, heads·D]` in place by its tokens' angles, or by minus those.
pub fn rotate(engine: &Engine, x: &mut Buf, heads: usize, table: &Table, layout: &Layout, inverse: bool) -> Result<()> {
    engine.timed(Phase::Elementwise, || match x {
        Buf::Host(x) => {
            let rows = table.rows(layout);
            kernel::rotate(x, heads, (&table.cos, &table.sin), table.half, &rows, inverse);
            Ok(())
        }
        Buf::Dev(x) => {
            let Some((cos, sin)) = &table.dev else { unreachable!("the table was made for the fused form") };
            let (n, half) = (layout.tokens(), table.half);
            let at = match table.rows(layout) {
                Cow::Borrowed(_) => layout.device_positions(engine)?,
                Cow::Owned(rows) => engine.upload(Transfer::Rows, &rows, n)?,
            };
            let part = |t: &Tensor| t.index_select(&at, 0)?.to_dtype(x.dtype())?.reshape((n, 1, half));
            let (cos, sin) = (part(cos)?, part(sin)?);
            let sin = if inverse { sin.neg()? } else { sin };
            let d = x.elem_count() / (n * heads);
            let h = x.reshape((n, heads, d))?;
            let (lo, hi) = (h.narrow(D::Minus1, 0, half)?, h.narrow(D::Minus1, half, half)?);
            let new_lo = (lo.broadcast_mul(&cos)? - hi.broadcast_mul(&sin)?)?;
            let new_hi = (hi.broadcast_mul(&cos)? + lo.broadcast_mul(&sin)?)?;
            let mut parts = vec![new_lo, new_hi];
            if 2 * half < d {
                parts.push(h.narrow(D::Minus1, 2 * half, d - 2 * half)?);
            }
            *x = Tensor::cat(&parts, D::Minus1)?.reshape((n, heads * d))?;
            Ok(())
        }
    })
}
