//! What goes between host and device, and why: nothing else in the operations copies either way (a test
//! reads their sources). Counted, so that a run can say what its steps moved.

use std::sync::atomic::Ordering::Relaxed;

use candle_core::{DType, Device, Shape, Tensor, WithDType};

use super::engine::Engine;
use super::moved::{Moved, Transfer};
use crate::error::Result;

impl Engine {
    /// What was copied between host and device so far, in the order of [`Transfer::ALL`].
    pub fn transfers(&self) -> [Moved; Transfer::ALL.len()] {
        std::array::from_fn(|i| {
            let [uploads, downloads, bytes] = self.moved.0[i].each_ref().map(|c| c.load(Relaxed));
            Moved { uploads, downloads, bytes }
        })
    }

    pub(crate) fn upload<T: WithDType>(&self, why: Transfer, data: &[T], shape: impl Into<Shape>) -> Result<Tensor> {
        self.moved.add(why, 0, std::mem::size_of_val(data));
        Ok(Tensor::from_slice(data, shape.into(), self.device())?)
    }

    /// The elements of a tensor, row-major.
    pub(crate) fn download<T: WithDType>(&self, why: Transfer, t: &Tensor) -> Result<Vec<T>> {
        self.moved.add(why, 1, t.elem_count() * t.dtype().size_in_bytes());
        Ok(t.flatten_all()?.to_vec1()?)
    }

    /// A matrix of the model as it is stored, then in the type of the activations.
    pub(super) fn upload_weight(&self, weight: &crate::weights::Weight) -> Result<Tensor> {
        let (rows, cols) = (weight.rows(), weight.cols());
        self.moved.add(Transfer::Weights, 0, weight.bytes().len());
        let stored = match weight.dtype().candle().filter(|_| weight.is_plain()) {
            Some(dtype) => Tensor::from_raw_buffer(weight.bytes(), dtype, &[rows, cols], self.device())?,
            // Blocks are made numbers here: a device's tensors have none with a backward pass.
            None => Tensor::from_slice(&weight.to_vec_f32(), (rows, cols), &Device::Cpu)?
                .to_dtype(self.options.dtype)?
                .to_device(self.device())?,
        };
        Ok(stored.to_dtype(self.options.dtype)?)
    }

    /// Waits until the device has done what it was given. On the CPU nothing is ever under way.
    ///
    /// # Errors
    /// What an operation under way failed with.
    pub fn synchronize(&self) -> Result<()> {
        Ok(self.device().synchronize()?)
    }
}

/// Adapter weights, moments or gradients for a checkpoint, and whatever a test asks for.
pub(super) fn values(t: &Tensor) -> Result<Vec<f32>> {
    Ok(t.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// What a checkpoint held, put back.
pub(super) fn overwrite(t: &mut Tensor, data: &[f32]) -> Result<()> {
    *t = Tensor::from_slice(data, t.shape().clone(), t.device())?.to_dtype(t.dtype())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    /// The portable forms copy through this file alone.
    #[test]
    fn no_operation_copies_behind_its_back() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops");
        let mut read = 0;
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            read += 1;
            if path.ends_with("transfer.rs") {
                continue;
            }
            // `arange` fills a vector on the host as well.
            let copies = ["Tensor::new(", "from_slice(", "from_vec(", "arange(", "to_scalar", "to_vec1", "to_vec2"];
            for copy in copies {
                let line = code.lines().find(|l| l.contains(copy) && !l.contains("copy_from_slice("));
                assert_eq!(line, None, "{}", path.display());
            }
        }
        assert!(read > 8);
    }
}
