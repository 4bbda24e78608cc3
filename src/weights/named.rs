//! A model's tensors by Hugging Face's name and as Hugging Face stores them, whatever file they are in.

use std::sync::Arc;

use super::store::{format_error, WeightStore};
use super::weight::{Data, Weight};
use crate::error::Result;
use crate::gguf::RowOrder;

impl WeightStore {
    /// The tensor of this name, which must have this shape and a type that can be read. What GGUF stores in another
    /// way (rows of queries and keys, norms with 1 added) is given as Hugging Face stores it.
    pub fn get(self: &Arc<Self>, name: &str, shape: &[usize]) -> Result<Weight> {
        let Some(entry) = self.entries.get(name) else {
            let mut reason = format!("expected a tensor of shape {shape:?}, found none of this name");
            if let Some(other) = self.gguf.and_then(|(arch, _)| arch.tensor(name)) {
                reason = format!("expected a tensor of shape {shape:?}, found no {other}");
            }
            return Err(format_error(&self.listing, name, reason));
        };
        let path = &self.files[entry.shard];
        if entry.shape != shape {
            return Err(format_error(path, name, format!("expected shape {shape:?}, found {:?}", entry.shape)));
        }
        let dtype = match &entry.dtype {
            Ok(dtype) => *dtype,
            Err(found) if self.gguf.is_some() => {
                let reason =
                    format!("the type {found} cannot be read (expected F32, F16, BF16, Q4_0 to Q8_1 or Q2_K to Q8_K)");
                return Err(format_error(path, name, reason));
            }
            Err(found) => return Err(format_error(path, name, format!("expected F32, F16 or BF16, found {found}"))),
        };
        if dtype.block() > 1 && shape.len() < 2 {
            return Err(format_error(path, name, format!("a vector in blocks of {}", dtype.ggml_name())));
        }
        let data = Data::Mapped { store: self.clone(), shard: entry.shard, bytes: entry.bytes.clone() };
        let weight = Weight::new(name, shape, dtype, data);
        Ok(match self.order(name, shape) {
            Some(order) if order.rows() != shape.first().copied().unwrap_or(0) => {
                let reason = format!("expected {} rows, found shape {shape:?}", order.rows());
                return Err(format_error(path, name, reason));
            }
            order => self.as_original(weight.in_order(order)),
        })
    }

    fn order(&self, name: &str, shape: &[usize]) -> Option<RowOrder> {
        let (arch, [heads, kv_heads, head_dim]) = self.gguf?;
        arch.row_order(name, heads, kv_heads, head_dim).filter(|_| !shape.is_empty())
    }

    /// Gemma's norms without the 1 that GGUF adds.
    fn as_original(&self, weight: Weight) -> Weight {
        let offset = self.gguf.is_some_and(|(arch, _)| arch.norms_plus_one);
        let name = weight.name().to_string();
        if !offset || !(name.ends_with("norm.weight") || name.ends_with("layernorm.weight")) {
            return weight;
        }
        let numbers = weight.to_vec_f32().iter().map(|x| x - 1.0).collect();
        Weight::from_vec(&name, weight.shape(), numbers)
    }
}
