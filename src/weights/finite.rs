//! Which of a model's tensors holds a number that is not finite: asked when a result has come out as none.

use std::sync::Arc;

use super::store::{format_error, WeightStore};
use crate::error::{Error, Result};

/// Numbers that are looked at together.
const TOGETHER: usize = 1 << 16;

impl WeightStore {
    /// Refuses weights of which one is NaN or infinite, by file, tensor and place; `what` came out of them. Reads every
    /// tensor up to that one, so it is for a result that is lost already.
    ///
    /// # Errors
    /// [`Error::ModelFormat`].
    pub(crate) fn finite(self: &Arc<Self>, what: &str) -> Result<()> {
        self.unchanged()?;
        for (name, entry) in &self.entries {
            // What cannot be read has made no result.
            let Ok(weight) = self.get(name, &entry.shape) else { continue };
            let (rows, cols) = (weight.rows(), weight.cols());
            if cols == 0 {
                continue;
            }
            let together = (TOGETHER / cols).max(1);
            let mut numbers = vec![0.0; together.min(rows) * cols];
            for first in (0..rows).step_by(together) {
                let end = (first + together).min(rows);
                let numbers = &mut numbers[..(end - first) * cols];
                weight.read_rows(first..end, numbers);
                if let Some(at) = numbers.iter().position(|v| !v.is_finite()) {
                    return Err(self.no_number(name, entry.shard, (first + at / cols, at % cols), numbers[at], what));
                }
            }
        }
        Ok(())
    }

    fn no_number(&self, name: &str, shard: usize, (row, column): (usize, usize), found: f32, what: &str) -> Error {
        let reason =
            format!("{found} in row {row}, column {column} (from 0), expected a finite number; {what} comes of it");
        format_error(&self.files[shard], name, reason)
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use safetensors::tensor::{Dtype, TensorView};

    use super::*;

    #[test]
    fn the_first_number_that_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        // 3 rows of 50,000: more than are looked at together.
        let shape = vec![3, 50_000];
        let told = |dtype: Dtype, at: Option<usize>, bad: f32| {
            let numbers = (0..150_000).map(|i| if Some(i) == at { bad } else { 0.5 });
            let bytes: Vec<u8> = match dtype {
                Dtype::F32 => numbers.flat_map(f32::to_le_bytes).collect(),
                Dtype::F16 => numbers.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect(),
                _ => numbers.flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect(),
            };
            let good = vec![0; 8];
            let views = [
                ("a", TensorView::new(Dtype::F32, vec![2], &good).unwrap()),
                ("ids", TensorView::new(Dtype::I64, vec![1], &good).unwrap()),
                ("w", TensorView::new(dtype, shape.clone(), &bytes).unwrap()),
            ];
            std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
            WeightStore::open(dir.path()).unwrap().finite("the loss of row 1").map_err(|e| e.to_string())
        };
        let mut wrong = Vec::new();
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            for (at, bad, says) in [
                (None, 0.0, None),
                (Some(0), f32::NAN, Some("NaN in row 0, column 0 (from 0)")),
                (Some(100_007), f32::INFINITY, Some("inf in row 2, column 7 (from 0)")),
                (Some(149_999), f32::NEG_INFINITY, Some("-inf in row 2, column 49999 (from 0)")),
            ] {
                let want = says.map_or(Ok(()), |says| {
                    let end = "expected a finite number; the loss of row 1 comes of it";
                    Err(format!("{}: w: {says}, {end}", path.display()))
                });
                let found = told(dtype, at, bad);
                if found != want {
                    wrong.push(format!("{dtype:?} {at:?} {bad}: expected {want:?}, found {found:?}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
