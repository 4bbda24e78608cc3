//! The rotary embeddings of a config: from `rope_parameters` (transformers v5) or `rope_theta` and `rope_scaling`.

use std::f64::consts::PI;

use serde_json::Value;

use super::keys::Keys;
use super::yarn::{self, Yarn};
use crate::error::{Error, Result};

/// The frequencies of a rotary embedding, rounded to f32 as Hugging Face rounds them.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    /// One for each pair of features that is rotated: the first `2 · short.len()` of a head.
    pub short: Vec<f32>,
    /// The frequencies of rows of more than so many tokens, where those are others (LongRoPE).
    pub long: Option<(usize, Vec<f32>)>,
    /// Factor of cos and sin.
    pub scale: f64,
}

/// A rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the wavelengths.
    pub theta: f64,
    /// How many features of a head are rotated, from the first on; even, at most `head_dim`.
    pub rotary_dim: usize,
    /// How the frequencies are changed for longer sequences.
    pub scaling: RopeScaling,
}

/// A change of the rotary frequencies.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// No change.
    None,
    /// All wavelengths are stretched.
    Linear {
        /// By how much.
        factor: f64,
    },
    /// Llama 3: long wavelengths are stretched, short ones kept, those between interpolated.
    Llama3 {
        /// By how much long wavelengths are stretched.
        factor: f64,
        /// Wavelengths above the original length divided by this are stretched in full.
        low_freq_factor: f64,
        /// Wavelengths below the original length divided by this are kept.
        high_freq_factor: f64,
        /// The sequence length before stretching.
        original_max_position_embeddings: f64,
    },
    /// LongRoPE: each wavelength is stretched by a factor of its own, rows longer than the original length by
    /// others, and cos and sin have a factor.
    LongRope {
        /// For rows of at most the original length.
        short_factor: Vec<f64>,
        /// For longer rows.
        long_factor: Vec<f64>,
        /// The original length, tokens.
        original_max_position_embeddings: usize,
        /// Factor of cos and sin.
        attention_factor: f64,
    },
    /// YaRN: as Llama 3, by the number of a frequency's turns, and cos and sin have a factor.
    Yarn(Yarn),
    /// The base follows from the length of a row, once that is beyond what the model was made for. Only rows up to
    /// there can be run: their frequencies are not changed.
    Dynamic {
        /// By how much longer rows would be stretched.
        factor: f64,
        /// The longest row that is not.
        max_position_embeddings: usize,
    },
}

impl Rope {
    /// The frequencies, rounded to f32 before and after the scaling, as in transformers.
    pub fn frequencies(&self) -> Frequencies {
        let half = self.rotary_dim / 2;
        let power = |i: usize| libm::pow(self.theta, (2 * i) as f64 / self.rotary_dim as f64);
        let stretched = |by: &[f64]| (0..half).map(|i| (1.0 / (f64::from(by[i] as f32) * power(i))) as f32).collect();
        match &self.scaling {
            RopeScaling::LongRope { short_factor, long_factor, original_max_position_embeddings, attention_factor } => {
                Frequencies {
                    short: stretched(short_factor),
                    long: Some((*original_max_position_embeddings, stretched(long_factor))),
                    scale: *attention_factor,
                }
            }
            RopeScaling::Yarn(yarn) => Frequencies {
                short: yarn.frequencies(self.theta, self.rotary_dim),
                long: None,
                scale: yarn.attention_factor,
            },
            scaling => {
                let plain = |i| (1.0 / power(i)) as f32;
                Frequencies { short: (0..half).map(|i| scaling.apply(plain(i))).collect(), long: None, scale: 1.0 }
            }
        }
    }

    /// How long rows become by the scaling, where it says so.
    pub(super) fn reach(&self) -> Option<usize> {
        match &self.scaling {
            RopeScaling::Yarn(yarn) => Some(yarn.reach()),
            _ => None,
        }
    }

    /// Refuses rows so long that their frequencies are others than those that are known here.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] of `max_length`.
    pub fn check_length(&self, tokens: usize) -> Result<()> {
        match self.scaling {
            RopeScaling::Dynamic { max_position_embeddings: most, .. } if tokens > most => {
                let reason = format!(
                    "a row has {tokens} tokens, but the model's rotary scaling \"dynamic\" has other frequencies for \
                     each length above max_position_embeddings {most}, which is not supported: at most {most}"
                );
                Err(Error::config("max_length", reason))
            }
            _ => Ok(()),
        }
    }
}

impl RopeScaling {
    fn apply(&self, frequency: f32) -> f32 {
        let f = f64::from(frequency);
        let RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: original,
        } = *self
        else {
            return match self {
                RopeScaling::Linear { factor } => (f / factor) as f32,
                _ => frequency,
            };
        };
        let wavelength = 2.0 * PI / f;
        if wavelength < original / high {
            frequency
        } else if wavelength > original / low {
            (f / factor) as f32
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            ((1.0 - smooth) * f / factor + smooth * f) as f32
        }
    }
}

/// What a family says about its rotary embeddings.
pub(crate) struct Reading<'a> {
    /// The whole file.
    pub top: &'a Keys<'a>,
    pub head_dim: usize,
    /// Whether a part of a head may be rotated.
    pub partial: bool,
    /// Whether LongRoPE is known to the family's code.
    pub long: bool,
}

impl Reading<'_> {
    /// One embedding: `new` and `old` are its objects of v5 and of before, `theta_key` its base at the top.
    pub fn read(&self, new: Option<&Keys>, old: Option<&Keys>, theta_key: &str, theta: f64) -> Result<Rope> {
        let mut found: Option<(f64, String, Value)> = None;
        let places = [(new, "rope_theta"), (Some(self.top), theta_key), (old, "rope_theta")];
        for (place, key) in places.into_iter().filter_map(|(place, key)| Some((place?, key))) {
            let Some(value) = place.get(key) else { continue };
            let number = place.positive(key)?;
            match &found {
                Some((first, name, shown)) if *first != number => {
                    return Err(self.top.contradiction((&place.name(key), value), (name, shown)));
                }
                Some(_) => {}
                None => found = Some((number, place.name(key), value.clone())),
            }
        }
        let rotary_dim = self.rotary_dim(new, old)?;
        let read = |place: Option<&Keys>| place.map(|p| self.scaling(p, rotary_dim)).transpose();
        let (after, before) = (read(new)?, read(old)?);
        if let (Some(new), Some(old)) = (&after, &before) {
            if new != old {
                let [a, b] = ["rope_scaling", "rope_parameters"].map(|k| self.top.get(k).unwrap_or(&Value::Null));
                return Err(self.top.contradiction(("rope_scaling", a), ("rope_parameters", b)));
            }
        }
        let scaling = after.or(before).unwrap_or(RopeScaling::None);
        let theta = found.map_or(theta, |(number, ..)| number);
        if let RopeScaling::Yarn(yarn) = &scaling {
            if let Some(fault) = yarn.fault(theta, rotary_dim) {
                return Err(self.top.fail(fault));
            }
        }
        Ok(Rope { theta, rotary_dim, scaling })
    }

    fn rotary_dim(&self, new: Option<&Keys>, old: Option<&Keys>) -> Result<usize> {
        let key = "partial_rotary_factor";
        let mut found: Option<f64> = None;
        for place in [new, Some(self.top), old].into_iter().flatten() {
            let Some(value) = place.get(key) else { continue };
            let factor = place.positive(key)?;
            if factor > 1.0 || factor != 1.0 && !self.partial {
                return Err(place.unsupported(key, value, if self.partial { "at most 1" } else { "1" }));
            }
            if found.is_some_and(|f| f != factor) {
                return Err(place.fail(format!("{} {factor} contradicts another {key}", place.name(key))));
            }
            found = Some(factor);
        }
        let dim = (self.head_dim as f64 * found.unwrap_or(1.0)) as usize;
        if dim == 0 || !dim.is_multiple_of(2) {
            return Err(self.top.fail(format!("{key}: {dim} of {} features of a head is not even", self.head_dim)));
        }
        Ok(dim)
    }

    /// The scaling in `rope_parameters` or `rope_scaling`.
    fn scaling(&self, keys: &Keys, rotary_dim: usize) -> Result<RopeScaling> {
        let key = if keys.get("rope_type").is_some() { "rope_type" } else { "type" };
        let kind = match (keys.get(key), keys.get("factor")) {
            (None, None) => "default",
            (None, Some(_)) => return Err(keys.wrong("rope_type", "a string", None)),
            (Some(_), _) => keys.text(key)?,
        };
        if let (Some(new), Some(old)) = (keys.get("rope_type"), keys.get("type")) {
            if new != old {
                return Err(keys.contradiction((&keys.name("type"), old), (&keys.name("rope_type"), new)));
            }
        }
        // Phi-3's first configs say "su".
        let long = self.long && matches!(kind, "longrope" | "su");
        match kind {
            _ if long => keys.check_rope(&["short_factor", "long_factor", "attention_factor"])?,
            "yarn" => keys.check_rope(yarn::KEYS)?,
            "default" | "linear" | "dynamic" | "llama3" => keys.check_rope(&[])?,
            _ => {
                let expected = match self.long {
                    true => "\"default\", \"linear\", \"dynamic\", \"llama3\", \"yarn\" or \"longrope\"",
                    false => "\"default\", \"linear\", \"dynamic\", \"llama3\" or \"yarn\"",
                };
                return Err(keys.unsupported(key, &Value::from(kind), expected));
            }
        }
        Ok(match kind {
            _ if long => self.long(keys, rotary_dim)?,
            "linear" => RopeScaling::Linear { factor: keys.positive("factor")? },
            "dynamic" => RopeScaling::Dynamic {
                factor: keys.positive("factor")?,
                max_position_embeddings: self.top.size("max_position_embeddings")?,
            },
            "llama3" => self.llama3(keys)?,
            "yarn" => self.yarn(keys)?,
            _ => RopeScaling::None,
        })
    }

    fn original(&self, keys: &Keys) -> Result<usize> {
        let key = "original_max_position_embeddings";
        match (keys.get(key), self.top.get(key)) {
            (Some(inner), Some(outer)) if inner.as_f64() != outer.as_f64() => {
                Err(keys.contradiction((key, outer), (&keys.name(key), inner)))
            }
            (None, Some(_)) => self.top.size(key),
            _ => keys.size(key),
        }
    }

    fn llama3(&self, keys: &Keys) -> Result<RopeScaling> {
        let original = self.original(keys)?;
        let [factor, low, high] = ["factor", "low_freq_factor", "high_freq_factor"].map(|key| keys.positive(key));
        let (factor, low, high) = (factor?, low?, high?);
        if low >= high {
            let (a, b) = (keys.name("low_freq_factor"), keys.name("high_freq_factor"));
            return Err(keys.fail(format!("{a} {low} is not below {b} {high}")));
        }
        Ok(RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: original as f64,
        })
    }

    fn yarn(&self, keys: &Keys) -> Result<RopeScaling> {
        let positions = self.top.size("max_position_embeddings")?;
        let key = "original_max_position_embeddings";
        let original = match keys.get(key).or(self.top.get(key)) {
            Some(_) => self.original(keys)?,
            None => positions,
        };
        Yarn::read(keys, original, positions).map(RopeScaling::Yarn)
    }

    fn long(&self, keys: &Keys, rotary_dim: usize) -> Result<RopeScaling> {
        let list = |key: &str| {
            let numbers = keys.get(key).and_then(Value::as_array).map(|list| {
                let number = |v: &Value| v.as_f64().filter(|x| x.is_finite() && *x > 0.0);
                list.iter().map(number).collect::<Option<Vec<f64>>>()
            });
            let numbers = numbers.flatten().filter(|list| list.len() == rotary_dim / 2);
            numbers.ok_or_else(|| keys.wrong(key, &format!("{} numbers above 0", rotary_dim / 2), keys.get(key)))
        };
        let original = self.original(keys)?;
        let factor = match keys.get("factor") {
            Some(_) => keys.positive("factor")?,
            None => self.top.size("max_position_embeddings")? as f64 / original as f64,
        };
        let attention_factor = match keys.get("attention_factor") {
            Some(_) => keys.positive("attention_factor")?,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + libm::log(factor) / libm::log(original as f64)).sqrt(),
        };
        Ok(RopeScaling::LongRope {
            short_factor: list("short_factor")?,
            long_factor: list("long_factor")?,
            original_max_position_embeddings: original,
            attention_factor,
        })
    }
}
