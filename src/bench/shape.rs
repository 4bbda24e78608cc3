//! Random-weight models of known shapes, as Hugging Face folders in bf16. Weights are uniform with the
//! usual deviation of 0.02, norms are 1: a step costs what it costs with trained weights.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use half::bf16;
use safetensors::Dtype;

use crate::error::{Error, Result};
use crate::formats;
use crate::formats::safetensors::Entry;
use crate::formats::Put;
use crate::rng::{fnv1a, Key, Stream};

/// Part of a folder's name: changes with what is written.
const VERSION: u32 = 1;

/// The shape of a Llama-architecture model with tied embeddings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Its name in reports.
    pub name: &'static str,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocab: usize,
    rope_theta: f64,
    /// Llama 3's scaling of the rotary frequencies.
    rope_scaling: bool,
}

/// The shapes that can be asked for by name.
pub const SHAPES: [Shape; 3] = [
    Shape {
        name: "smollm2-135m",
        hidden: 576,
        intermediate: 1536,
        layers: 30,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        vocab: 49152,
        rope_theta: 100_000.0,
        rope_scaling: false,
    },
    Shape {
        name: "llama-3.2-1b",
        hidden: 2048,
        intermediate: 8192,
        layers: 16,
        heads: 32,
        kv_heads: 8,
        head_dim: 64,
        vocab: 128_256,
        rope_theta: 500_000.0,
        rope_scaling: true,
    },
    Shape {
        name: "tiny",
        hidden: 64,
        intermediate: 192,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        vocab: 512,
        rope_theta: 10_000.0,
        rope_scaling: false,
    },
];

impl Shape {
    /// The shape of this name.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] lists the names there are.
    pub fn named(name: &str) -> Result<Shape> {
        let found = SHAPES.into_iter().find(|s| s.name == name);
        let names = || SHAPES.map(|s| s.name).join(", ");
        found.ok_or_else(|| Error::config("shape", format!("expected one of {}, found {name:?}", names())))
    }

    /// The model's folder under `cache`, written where it is not there yet: under another name first, so
    /// that a killed process leaves nothing that looks whole.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn folder(&self, cache: &Path, seed: u64) -> Result<PathBuf> {
        let dir = cache.join(format!("{}-v{VERSION}-{seed}", self.name));
        if self.is_whole(&dir) {
            return Ok(dir);
        }
        match crate::disk::replace_dir(&dir, |temporary| self.write(temporary, seed)) {
            // Another process may have been faster.
            Err(e) if !self.is_whole(&dir) => Err(e),
            _ => Ok(dir),
        }
    }

    fn is_whole(&self, dir: &Path) -> bool {
        let length = fs::metadata(dir.join("model.safetensors")).map_or(0, |m| m.len());
        dir.join("config.json").exists() && length == self.length()
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (c, f) = (self.hidden, self.intermediate);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut out = vec![("model.embed_tokens.weight".into(), vec![self.vocab, c])];
        for l in 0..self.layers {
            let block: [(&str, Vec<usize>); 9] = [
                ("input_layernorm", vec![c]),
                ("self_attn.q_proj", vec![q, c]),
                ("self_attn.k_proj", vec![kv, c]),
                ("self_attn.v_proj", vec![kv, c]),
                ("self_attn.o_proj", vec![c, q]),
                ("post_attention_layernorm", vec![c]),
                ("mlp.gate_proj", vec![f, c]),
                ("mlp.up_proj", vec![f, c]),
                ("mlp.down_proj", vec![c, f]),
            ];
            out.extend(block.map(|(name, shape)| (format!("model.layers.{l}.{name}.weight"), shape)));
        }
        out.push(("model.norm.weight".into(), vec![c]));
        out
    }

    /// Bytes of the weight file.
    fn length(&self) -> u64 {
        let tensors = self.tensors();
        let entries = entries(&tensors);
        let numbers: usize = entries.iter().map(|e| e.bytes).sum();
        (formats::safetensors::header(None, &entries).len() + numbers) as u64
    }

    fn config(&self) -> serde_json::Value {
        let scaling = serde_json::json!({
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        });
        serde_json::json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "hidden_act": "silu",
            "attention_bias": false,
            "mlp_bias": false,
            "rms_norm_eps": 1e-5,
            "rope_theta": self.rope_theta,
            "rope_scaling": if self.rope_scaling { scaling } else { serde_json::Value::Null },
            "max_position_embeddings": 8192,
            "tie_word_embeddings": true,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": "bfloat16",
        })
    }

    fn write(&self, dir: &Path, seed: u64) -> Result<()> {
        let path = dir.join("config.json");
        fs::write(&path, format!("{:#}\n", self.config())).map_err(Error::io(&path))?;
        let path = dir.join("model.safetensors");
        let tensors = self.tensors();
        formats::safetensors::write(&path, None, &entries(&tensors), |i, put| {
            let (name, shape) = &tensors[i];
            write_tensor(put, Key::new(seed, Stream::Bench, &[fnv1a(name)]), shape)
        })?;
        File::options().write(true).open(&path).and_then(|file| file.sync_all()).map_err(Error::io(&path))
    }
}

fn entries(tensors: &[(String, Vec<usize>)]) -> Vec<Entry<'_>> {
    let bytes = |shape: &[usize]| 2 * shape.iter().product::<usize>();
    tensors.iter().map(|(name, shape)| Entry { name, dtype: Dtype::BF16, shape, bytes: bytes(shape) }).collect()
}

/// Uniform numbers of deviation 0.02 for a matrix, four of each 64 random bits; ones for a vector.
fn write_tensor(put: Put, key: Key, shape: &[usize]) -> Result<()> {
    let n = shape.iter().product::<usize>();
    if shape.len() == 1 {
        return put(&bf16::ONE.to_le_bytes().repeat(n));
    }
    let bound = 0.02 * 3f32.sqrt();
    for i in 0..n.div_ceil(4) {
        let bits = key.bits(i as u64);
        let mut four = [0u8; 8];
        for (j, out) in four.chunks_exact_mut(2).enumerate() {
            let u = (bits >> (16 * j)) as u16 as f32 * (2.0 / 65535.0) - 1.0;
            out.copy_from_slice(&bf16::from_f32(u * bound).to_le_bytes());
        }
        put(&four[..2 * (n - 4 * i).min(4)])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::WeightStore;

    #[test]
    fn a_folder_is_written_once_and_its_weights_have_the_stated_deviation() {
        let cache = tempfile::tempdir().unwrap();
        let shape = Shape::named("tiny").unwrap();
        let dir = shape.folder(cache.path(), 3).unwrap();
        let written = fs::metadata(dir.join("model.safetensors")).unwrap().modified().unwrap();
        assert_eq!(shape.folder(cache.path(), 3).unwrap(), dir);
        assert_eq!(fs::metadata(dir.join("model.safetensors")).unwrap().modified().unwrap(), written);
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 1);
        let store = WeightStore::open(&dir).unwrap();
        let w = store.get("model.layers.1.mlp.down_proj.weight", &[64, 192]).unwrap().to_vec_f32();
        let n = w.len() as f32;
        let (mean, square) = (w.iter().sum::<f32>() / n, w.iter().map(|x| x * x).sum::<f32>() / n);
        assert!(mean.abs() < 1e-3 && (square.sqrt() - 0.02).abs() < 5e-4, "{mean} {square}");
        assert_eq!(store.get("model.norm.weight", &[64]).unwrap().to_vec_f32(), [1.0; 64]);
    }

    #[test]
    fn a_damaged_folder_is_written_again() {
        let cache = tempfile::tempdir().unwrap();
        let shape = Shape::named("tiny").unwrap();
        let dir = shape.folder(cache.path(), 0).unwrap();
        fs::write(dir.join("model.safetensors"), "short").unwrap();
        assert!(!shape.is_whole(&dir));
        shape.folder(cache.path(), 0).unwrap();
        assert!(shape.is_whole(&dir));
        assert!(Shape::named("large").unwrap_err().to_string().contains("smollm2-135m, llama-3.2-1b, tiny"));
    }
}
