//! Making an adapter: fresh, or from a PEFT folder; and writing it as one.

use std::borrow::Cow;
use std::path::Path;

use super::peft::{adapter_hash, load_adapter, save_adapter, LoraPair, PeftAdapter, PeftTensor};
use crate::config::LoraConfig;
use crate::error::{Error, Result};
use crate::model::{Adapter, Decoder};
use crate::ops::dora::row_norms;
use crate::ops::linear::{Dora, Linear, Slot};
use crate::ops::Engine;
use crate::rng::{fnv1a, Key, Stream};

impl Adapter {
    /// A fresh adapter as PEFT starts it: A uniform in ±1/√in (Kaiming with a = √5), B zero, so that it
    /// changes nothing at first. A is a function of (seed, module path). DoRA's magnitudes are the lengths of
    /// the base weight's rows.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when a target module, a pattern's name or a block matches nothing, or a rank is
    /// beyond a linear.
    pub fn fresh(engine: &Engine, model: &Decoder, config: &LoraConfig, seed: u64) -> Result<Adapter> {
        config
            .check_against(model.linears().map(|l| (l.layer, l.module.as_str(), [l.weight.rows(), l.weight.cols()])))?;
        Adapter::assemble(engine, model, config.clone(), |lin| {
            if !config.selects(&lin.module) {
                return Ok(None);
            }
            let (out, inp, r) = (lin.weight.rows(), lin.weight.cols(), config.rank_of(&lin.module));
            let key = Key::new(seed, Stream::LoraInit, &[fnv1a(&lin.module)]);
            let bound = 1.0 / (inp as f64).sqrt();
            let a = (0..r * inp).map(|i| ((2.0 * key.uniform(i as u64) - 1.0) * bound) as f32).collect();
            // B is zero, so that the adapted weight's rows have the lengths of the base's.
            let magnitude = config.use_dora.then(|| {
                model.unchanged()?;
                let mut norms = engine.parameter(1, out, &vec![0.0; out])?;
                engine.run(|| row_norms(engine, &lin.weight, None, &mut norms))?;
                model.read_through(lin);
                norms.to_vec()
            });
            let (b, magnitude) = (vec![0.0; out * r], magnitude.transpose()?);
            let pair = LoraPair { r, in_features: inp, out_features: out, a, b, magnitude };
            Ok(Some((pair, config.scale_of(&lin.module))))
        })
    }

    /// Reads a PEFT adapter folder.
    ///
    /// # Errors
    /// [`Error::Adapter`] when the folder is damaged, a module is not in the model, or a shape differs.
    pub fn load(engine: &Engine, model: &Decoder, dir: &Path) -> Result<Adapter> {
        Adapter::from_peft(engine, model, load_adapter(dir)?, dir)
    }

    /// The adapter of what was read; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Adapter`] when a module is not in the model, or a shape differs.
    pub fn from_peft(engine: &Engine, model: &Decoder, mut file: PeftAdapter, path: &Path) -> Result<Adapter> {
        let wrong = |reason: String| Error::Adapter { path: path.to_path_buf(), reason };
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
                dora: pair.magnitude.map(|m| Dora::new(engine, &m)).transpose()?,
            });
        }
        Ok(Adapter::new(config, slots, by_linear, layers))
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
        type Numbers<'a> = Cow<'a, [f32]>;
        fn numbers(s: &Slot) -> Result<(Numbers<'_>, Numbers<'_>, Option<Numbers<'_>>)> {
            let magnitude = s.dora.as_ref().map(|d| d.magnitude.numbers()).transpose()?;
            Ok((s.a.numbers()?, s.b.numbers()?, magnitude))
        }
        let data = self.slots.iter().map(numbers).collect::<Result<Vec<_>>>()?;
        let named = self.slots.iter().zip(&data).map(|(s, (a, b, magnitude))| PeftTensor {
            module: &s.module,
            r: s.r,
            in_features: s.in_features,
            out_features: s.out_features,
            scale: s.scale as f64,
            a,
            b,
            magnitude: magnitude.as_deref(),
        });
        f(&named.collect::<Vec<_>>())
    }
}
