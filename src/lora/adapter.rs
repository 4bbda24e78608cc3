//! LoRA adapters in use: a slot on each chosen linear, named by the file's own module path.

use std::path::Path;

use super::peft::{adapter_hash, load_adapter, save_adapter, LoraPair, PeftTensor};
use crate::config::LoraConfig;
use crate::error::{Error, Result};
use crate::model::Decoder;
use crate::ops::linear::{Linear, Slot, SlotGrad};
use crate::ops::Engine;
use crate::rng::{fnv1a, Key, Stream};

/// The slots of a model's linears (Hu et al. 2021).
#[derive(Debug)]
pub struct Adapter {
    /// What it was made or read with.
    pub config: LoraConfig,
    /// One for each adapted linear.
    pub slots: Vec<Slot>,
    by_linear: Vec<Option<usize>>,
    layers: Vec<usize>,
}

impl Adapter {
    /// A fresh adapter as PEFT starts it: A uniform in ±1/√in (Kaiming with a = √5), B zero, so that it
    /// changes nothing at first. A is a function of (seed, module path).
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when a target module matches no linear.
    pub fn fresh(engine: &Engine, model: &Decoder, config: &LoraConfig, seed: u64) -> Result<Adapter> {
        if let crate::TargetModules::Names(names) = &config.target_modules {
            for name in names {
                let one = crate::TargetModules::Names(vec![name.clone()]);
                if !model.linears().any(|l| one.matches(&l.module)) {
                    let mut have: Vec<&str> = model.linears().filter_map(|l| l.module.rsplit('.').next()).collect();
                    have.sort_unstable();
                    have.dedup();
                    let reason = format!("{name:?} matches no linear of the model, which has {}", have.join(", "));
                    return Err(Error::config("target_modules", reason));
                }
            }
        }
        Adapter::assemble(engine, model, config.clone(), |lin| {
            if !config.target_modules.matches(&lin.module) {
                return Ok(None);
            }
            let (out, inp) = (lin.weight.rows(), lin.weight.cols());
            if config.r > out.max(inp) {
                let reason = format!("rank {} is beyond the {out}x{inp} of {}", config.r, lin.module);
                return Err(Error::config("lora_r", reason));
            }
            let key = Key::new(seed, Stream::LoraInit, &[fnv1a(&lin.module)]);
            let bound = 1.0 / (inp as f64).sqrt();
            let a = (0..config.r * inp).map(|i| ((2.0 * key.uniform(i as u64) - 1.0) * bound) as f32).collect();
            let pair = LoraPair { r: config.r, in_features: inp, out_features: out, a, b: vec![0.0; out * config.r] };
            Ok(Some((pair, config.scale())))
        })
    }

    /// Reads a PEFT adapter folder.
    ///
    /// # Errors
    /// [`Error::Adapter`] when the folder is damaged, a module is not in the model, or a shape differs.
    pub fn load(engine: &Engine, model: &Decoder, dir: &Path) -> Result<Adapter> {
        let mut file = load_adapter(dir)?;
        let wrong = |reason: String| Error::Adapter { path: dir.to_path_buf(), reason };
        let config = file.config.clone();
        let adapter = Adapter::assemble(engine, model, config, |lin| {
            let Some(pair) = file.modules.remove(&lin.module) else { return Ok(None) };
            let (out, inp) = (lin.weight.rows(), lin.weight.cols());
            if (pair.out_features, pair.in_features) != (out, inp) {
                let found = format!("{}x{}", pair.out_features, pair.in_features);
                return Err(wrong(format!("{}: expected {out}x{inp}, found {found}", lin.module)));
            }
            let scale = file.scales.get(&lin.module).copied().unwrap_or_else(|| file.config.scale());
            Ok(Some((pair, scale)))
        })?;
        match file.modules.keys().next() {
            Some(left) => Err(wrong(format!("{left} is no linear of the model"))),
            None => Ok(adapter),
        }
    }

    fn assemble(
        engine: &Engine,
        model: &Decoder,
        config: LoraConfig,
        mut make: impl FnMut(&Linear) -> Result<Option<(LoraPair, f64)>>,
    ) -> Result<Adapter> {
        let (mut slots, mut by_linear, mut layers) = (Vec::new(), Vec::new(), Vec::new());
        for lin in model.linears() {
            let Some((pair, scale)) = make(lin)? else {
                by_linear.push(None);
                continue;
            };
            by_linear.push(Some(slots.len()));
            layers.push(lin.layer);
            slots.push(Slot {
                module: lin.module.clone(),
                key: fnv1a(&lin.module),
                r: pair.r,
                in_features: pair.in_features,
                out_features: pair.out_features,
                scale: scale as f32,
                dropout: config.lora_dropout as f32,
                lr_factor: 1.0,
                a: engine.parameter(pair.r, pair.in_features, &pair.a)?,
                b: engine.parameter(pair.out_features, pair.r, &pair.b)?,
            });
        }
        Ok(Adapter { config, slots, by_linear, layers })
    }

    /// Writes a PEFT adapter folder.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path, base_model: &str) -> Result<()> {
        self.with_tensors(|tensors| save_adapter(dir, &self.config, base_model, tensors))
    }

    /// Content hash of the numbers and their names.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn hash(&self) -> Result<[u8; 32]> {
        self.with_tensors(|tensors| Ok(adapter_hash(tensors)))
    }

    fn with_tensors<T>(&self, f: impl FnOnce(&[PeftTensor]) -> Result<T>) -> Result<T> {
        let data = self.slots.iter().map(|s| Ok((s.a.numbers()?, s.b.numbers()?))).collect::<Result<Vec<_>>>()?;
        let named = self.slots.iter().zip(&data).map(|(s, (a, b))| PeftTensor {
            module: &s.module,
            r: s.r,
            in_features: s.in_features,
            out_features: s.out_features,
            scale: s.scale as f64,
            a,
            b,
        });
        f(&named.collect::<Vec<_>>())
    }

    /// Overwrites the numbers of one slot: A `[r, in]`, B `[out, r]`.
    ///
    /// # Errors
    /// [`Error::Adapter`] when the module has no slot or a length differs.
    pub fn set(&mut self, module: &str, a: &[f32], b: &[f32]) -> Result<()> {
        let wrong = |reason: String| Error::Adapter { path: module.into(), reason };
        let Some(s) = self.slots.iter_mut().find(|s| s.module == module) else {
            return Err(wrong("no slot on this module".into()));
        };
        if (a.len(), b.len()) != (s.r * s.in_features, s.out_features * s.r) {
            return Err(wrong(format!("expected {} and {} numbers", s.r * s.in_features, s.out_features * s.r)));
        }
        s.a.set(a)?;
        s.b.set(b)
    }

    /// The slot's number on a linear.
    pub(crate) fn index(&self, lin: &Linear) -> Option<usize> {
        self.by_linear.get(lin.id).copied().flatten()
    }

    /// The slot on a linear.
    pub(crate) fn slot(&self, lin: &Linear) -> Option<&Slot> {
        self.index(lin).map(|i| &self.slots[i])
    }

    /// The block of each slot.
    pub(crate) fn layers(&self) -> &[usize] {
        &self.layers
    }

    /// The lowest block that has a slot.
    pub fn lowest_layer(&self) -> Option<usize> {
        self.layers.iter().copied().min()
    }

    /// Trained numbers.
    pub fn parameters(&self) -> usize {
        self.slots.iter().map(|s| s.r * (s.in_features + s.out_features)).sum()
    }

    /// Gradients of zero, one for each slot.
    ///
    /// # Errors
    /// When the device refuses the buffers.
    pub fn zero_gradients(&self, engine: &Engine) -> Result<Vec<SlotGrad>> {
        let zero = |s: &Slot| {
            Ok(SlotGrad {
                a: engine.parameter(s.r, s.in_features, &vec![0.0; s.r * s.in_features])?,
                b: engine.parameter(s.out_features, s.r, &vec![0.0; s.out_features * s.r])?,
            })
        };
        self.slots.iter().map(zero).collect()
    }
}
