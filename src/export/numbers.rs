//! Weights side by side: what was written, read again, against the adapter it was made from. Formats fold scales into B and
//! fill ranks up with zeros, so that A, B times its scale and DoRA's magnitudes are compared, each number within its own
//! rounding: an adapter too small for any logit to show is checked as a large one is.

use std::path::Path;

use crate::error::{Error, Result};
use crate::model::Adapter;
use crate::ops::linear::Slot;

/// What f32 explains of a number: it was rounded up to three times, as a scale, as B times a scale, and in the file.
pub(super) const ROUNDING: f64 = 4.0 * f32::EPSILON as f64;

/// Compares every number of an export with the adapter's; gives the largest difference, of the number itself.
///
/// # Errors
/// [`Error::ExportMismatch`] names the module and what of it is not the adapter's; `format` and `path` are for it.
pub(super) fn compare(want: &Adapter, got: &Adapter, format: &str, path: &Path) -> Result<f32> {
    let mut check = Check { format, path, worst: 0.0 };
    let of = |adapter: &'_ Adapter, module: &str| adapter.slots.iter().position(|s| s.module == module);
    for w in &want.slots {
        let Some(g) = of(got, &w.module).map(|i| &got.slots[i]) else {
            return Err(check.mismatch("numbers of A", &w.module, f64::INFINITY, 0.0));
        };
        check.slots(w, g)?;
    }
    for g in got.slots.iter().filter(|g| of(want, &g.module).is_none()) {
        // A place that the format has for every layer: it must add nothing.
        for b in g.b.numbers()?.iter() {
            check.number("numbers of B", &g.module, 0.0, *b as f64, 0.0)?;
        }
        if g.dora.is_some() {
            return Err(check.mismatch("magnitudes", &g.module, f64::INFINITY, 0.0));
        }
    }
    Ok(check.worst as f32)
}

struct Check<'a> {
    format: &'a str,
    path: &'a Path,
    worst: f64,
}

impl Check<'_> {
    fn slots(&mut self, w: &Slot, g: &Slot) -> Result<()> {
        let (module, rows, cols) = (&w.module, w.out_features, w.in_features);
        if g.r < w.r {
            return Err(self.mismatch("ranks", module, (w.r - g.r) as f64, 0.0));
        }
        // Rows of A beyond the rank meet columns of B that are zero.
        for (w, g) in w.a.numbers()?.iter().zip(g.a.numbers()?[..w.r * cols].iter()) {
            self.number("numbers of A", module, *w as f64, *g as f64, 0.0)?;
        }
        let smallest = f32::from_bits(1) as f64 * (g.scale as f64).abs();
        let (b, other) = (w.b.numbers()?, g.b.numbers()?);
        for row in 0..rows {
            for k in 0..g.r {
                let want = if k < w.r { b[row * w.r + k] as f64 * w.scale as f64 } else { 0.0 };
                let got = other[row * g.r + k] as f64 * g.scale as f64;
                self.number("numbers of B times its scale", module, want, got, smallest)?;
            }
        }
        match (&w.dora, &g.dora) {
            (None, None) => Ok(()),
            (Some(w), Some(g)) => {
                let (w, g) = (w.magnitude.numbers()?, g.magnitude.numbers()?);
                let mut both = w.iter().zip(g.iter());
                both.try_for_each(|(w, g)| self.number("magnitudes", module, *w as f64, *g as f64, 0.0))
            }
            _ => Err(self.mismatch("magnitudes", module, f64::INFINITY, 0.0)),
        }
    }

    /// What is no number in the adapter is none in the export; logits tell then what they are worth.
    fn number(&mut self, part: &str, module: &str, want: f64, got: f64, smallest: f64) -> Result<()> {
        let (difference, bound) = ((want - got).abs(), ROUNDING * want.abs() + smallest);
        if difference <= bound {
            if difference > smallest {
                self.worst = self.worst.max(difference / want.abs());
            }
            return Ok(());
        }
        match want.to_bits() == got.to_bits() || want.is_nan() && got.is_nan() {
            true => Ok(()),
            false => Err(self.mismatch(part, module, difference, bound)),
        }
    }

    fn mismatch(&self, part: &str, module: &str, difference: f64, bound: f64) -> Error {
        let what = format!("{part} of {module} in the {} export", self.format);
        let difference = if difference.is_nan() { f32::INFINITY } else { difference as f32 };
        Error::ExportMismatch { path: self.path.to_path_buf(), what, difference, bound: bound as f32 }
    }
}
