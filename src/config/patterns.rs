//! Settings of an adapter that differ from module to module, and which blocks it stands on.

use std::str::FromStr;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::lora::{LoraConfig, TargetModules};
use crate::error::{Error, Result};

/// Numbers by module name or path, as PEFT's `rank_pattern` and `alpha_pattern`: the first entry whose name is
/// the module's path, or its end behind a dot, counts. Written as text it is `q_proj=8,mlp.down_proj=32`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModulePattern<T>(Vec<(String, T)>);

impl<T> Default for ModulePattern<T> {
    fn default() -> Self {
        ModulePattern(Vec::new())
    }
}

impl<T> FromIterator<(String, T)> for ModulePattern<T> {
    fn from_iter<I: IntoIterator<Item = (String, T)>>(entries: I) -> Self {
        ModulePattern(entries.into_iter().collect())
    }
}

impl<T: Copy> ModulePattern<T> {
    /// The number of a module (`model.layers.0.self_attn.q_proj`), where the pattern has one.
    pub fn lookup(&self, module: &str) -> Option<T> {
        self.first(module).map(|at| self.0[at].1)
    }

    /// Its entries in order.
    pub fn entries(&self) -> &[(String, T)] {
        &self.0
    }

    /// Whether it has no entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: FromStr> ModulePattern<T> {
    /// Reads `name=number,name=number`.
    ///
    /// # Errors
    /// Says what was expected and what was found.
    pub fn parse(text: &str) -> Result<ModulePattern<T>, String> {
        let entry = |part: &str| {
            let found = part.split_once('=').and_then(|(name, v)| Some((name.trim(), v.trim().parse().ok()?)));
            match found {
                Some((name, value)) if !name.is_empty() => Ok((name.to_string(), value)),
                _ => Err(format!("expected name=number, found {part:?}")),
            }
        };
        let entries = text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(entry);
        let pattern: ModulePattern<T> = entries.collect::<Result<_, String>>()?;
        pattern.each_once().map(|()| pattern)
    }
}

impl<T> ModulePattern<T> {
    /// The place of the entry that counts for a module.
    fn first(&self, module: &str) -> Option<usize> {
        self.0.iter().position(|(name, _)| ends_with_name(module, name))
    }

    /// Whether each entry counts for one of these modules.
    fn counts_for(&self, adapted: &[&str]) -> Result<(), String> {
        for (i, (name, _)) in self.0.iter().enumerate() {
            let of = |m: &&&str| ends_with_name(m, name);
            match adapted.iter().find(of).and_then(|m| self.first(m)) {
                None => return Err(format!("{name:?} matches no adapted linear")),
                Some(at) if !adapted.iter().any(|m| self.first(m) == Some(i)) => {
                    return Err(format!(
                        "{name:?} has no effect behind {:?}: the first that matches counts",
                        self.0[at].0
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Of two entries of one name the first counts here, and the last where a map keeps one: neither is meant.
    fn each_once(&self) -> Result<(), String> {
        let twice = |(i, (name, _)): (usize, &(String, T))| self.0[..i].iter().any(|(n, _)| n == name);
        match self.0.iter().enumerate().find(|e| twice(*e)) {
            Some((_, (name, _))) => Err(format!("{name} is given twice")),
            None => Ok(()),
        }
    }
}

/// PEFT's rule for names: the path equals one or ends in `.name`.
pub(crate) fn ends_with_name(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// What a Python regular expression, as PEFT reads names, does not take literally. The dot is: it separates a
/// path's names.
pub(crate) fn is_regex(c: char) -> bool {
    r"\^$*+?{}[]()|".contains(c)
}

impl<T: Serialize> Serialize for ModulePattern<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de, T: Deserialize<'de> + FromStr> Deserialize<'de> for ModulePattern<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de> + FromStr> Visitor<'de> for Entries<T> {
            type Value = ModulePattern<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("names with a number each, as an object or as name=number,name=number")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                ModulePattern::parse(text).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                let pattern = ModulePattern(entries);
                pattern.each_once().map_err(serde::de::Error::custom)?;
                Ok(pattern)
            }
        }
        from.deserialize_any(Entries(std::marker::PhantomData))
    }
}

/// Numbers of blocks, counted from 0: PEFT's `layers_to_transform`. Written as text they are `0-3,8`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "LayersText", into = "Vec<usize>")]
pub struct Layers(Vec<usize>);

#[derive(Deserialize)]
#[serde(untagged)]
enum LayersText {
    One(usize),
    Many(Vec<usize>),
    #[serde(deserialize_with = "layers_text")]
    Text(Layers),
}

fn layers_text<'de, D: Deserializer<'de>>(from: D) -> Result<Layers, D::Error> {
    Layers::parse(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}

impl From<LayersText> for Layers {
    fn from(text: LayersText) -> Layers {
        match text {
            LayersText::One(layer) => Layers::new([layer]),
            LayersText::Many(layers) => Layers::new(layers),
            LayersText::Text(layers) => layers,
        }
    }
}

impl From<Layers> for Vec<usize> {
    fn from(layers: Layers) -> Vec<usize> {
        layers.0
    }
}

impl Layers {
    /// These blocks, each once, in order.
    pub fn new(layers: impl IntoIterator<Item = usize>) -> Layers {
        let mut layers: Vec<usize> = layers.into_iter().collect();
        layers.sort_unstable();
        layers.dedup();
        Layers(layers)
    }

    /// Reads numbers and ranges that include both ends, `0-3,8`.
    ///
    /// # Errors
    /// Says what was expected and what was found.
    pub fn parse(text: &str) -> Result<Layers, String> {
        /// More blocks than any model has: a range beyond is a slip.
        const MOST: usize = 10_000;
        let mut layers = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
                (Ok(first), Ok(last)) if first <= last && last < MOST => layers.extend(first..=last),
                _ => return Err(format!("expected blocks as 0-3,8, found {part:?}")),
            }
        }
        Ok(Layers::new(layers))
    }

    /// The numbers, each once, in order.
    pub fn numbers(&self) -> &[usize] {
        &self.0
    }
}

/// The number of a module's block, as PEFT finds it: the first whole number behind two names.
pub(crate) fn layer_of(module: &str) -> Option<usize> {
    let names: Vec<&str> = module.split('.').collect();
    let numbered = |name: &&&str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
    names[..names.len() - 1].iter().skip(2).find(numbered).and_then(|name| name.parse().ok())
}

impl LoraConfig {
    /// Whether the module of this path gets an adapter. As in PEFT, `layers_to_transform` does not count for
    /// a module that `target_modules` names by its whole path.
    pub fn selects(&self, module: &str) -> bool {
        let whole = matches!(&self.target_modules, TargetModules::Names(n) if n.iter().any(|n| n == module));
        let on_layer = || match &self.layers_to_transform {
            Some(layers) if !layers.0.is_empty() => layer_of(module).is_some_and(|l| layers.0.contains(&l)),
            _ => true,
        };
        whole || (self.target_modules.matches(module) && on_layer())
    }

    /// The rank of a module: `rank_pattern`'s, else `r`.
    pub fn rank_of(&self, module: &str) -> usize {
        self.rank_pattern.lookup(module).unwrap_or(self.r)
    }

    /// The alpha of a module: `alpha_pattern`'s, else `lora_alpha`.
    pub fn alpha_of(&self, module: &str) -> f64 {
        self.alpha_pattern.lookup(module).unwrap_or(self.lora_alpha)
    }

    /// What a module's update is multiplied with.
    pub fn scale_of(&self, module: &str) -> f64 {
        LoraConfig { r: self.rank_of(module), lora_alpha: self.alpha_of(module), ..self.clone() }.scale()
    }

    /// Checks the patterns' names and numbers.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the pattern and its entry.
    pub(crate) fn validate_patterns(&self) -> Result<()> {
        let ranks = self.rank_pattern.0.iter().map(|e| ("rank_pattern", &e.0));
        let alphas = self.alpha_pattern.0.iter().map(|e| ("alpha_pattern", &e.0));
        if let Some((field, name)) = ranks.chain(alphas).find(|(_, n)| n.is_empty() || n.contains(is_regex)) {
            let reason = format!("{name:?}: expected a module name or path; regular expressions are not supported");
            return Err(Error::config(field, reason));
        }
        self.rank_pattern.each_once().map_err(|e| Error::config("rank_pattern", e))?;
        self.alpha_pattern.each_once().map_err(|e| Error::config("alpha_pattern", e))?;
        if let Some((name, _)) = self.rank_pattern.0.iter().find(|e| e.1 == 0) {
            return Err(Error::config("rank_pattern", format!("{name}: expected ≥ 1, found 0")));
        }
        if let Some((name, v)) = self.alpha_pattern.0.iter().find(|e| !(e.1.is_finite() && e.1 > 0.0)) {
            return Err(Error::config("alpha_pattern", format!("{name}: expected > 0, found {v}")));
        }
        match &self.layers_to_transform {
            Some(layers) if layers.0.is_empty() => {
                Err(Error::config("layers_to_transform", "expected blocks as 0-3,8, found none"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses names that match nothing among a model's linears, given as (block, module, [out, in]), what would
    /// silently not happen, and ranks beyond a linear.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the setting and the name.
    pub(crate) fn check_against<'a>(&self, linears: impl Iterator<Item = (usize, &'a str, [usize; 2])>) -> Result<()> {
        let linears: Vec<(usize, &str, [usize; 2])> = linears.collect();
        if let TargetModules::Names(names) = &self.target_modules {
            if let Some(name) = names.iter().find(|n| !linears.iter().any(|(_, m, _)| ends_with_name(m, n))) {
                let mut have: Vec<&str> = linears.iter().filter_map(|(_, m, _)| m.rsplit('.').next()).collect();
                have.sort_unstable();
                have.dedup();
                let reason = format!("{name:?} matches no linear of the model, which has {}", have.join(", "));
                return Err(Error::config("target_modules", reason));
            }
        }
        let blocks = linears.iter().map(|(l, ..)| l + 1).max().unwrap_or(0);
        if let Some(layer) = self.layers_to_transform.iter().flat_map(|l| &l.0).find(|&&l| l >= blocks) {
            return Err(Error::config("layers_to_transform", format!("block {layer}, but the model has {blocks}")));
        }
        let adapted: Vec<&str> = linears.iter().map(|(_, m, _)| *m).filter(|m| self.selects(m)).collect();
        if adapted.is_empty() {
            return Err(Error::config("target_modules", "no linear of these blocks is chosen"));
        }
        self.rank_pattern.counts_for(&adapted).map_err(|e| Error::config("rank_pattern", e))?;
        self.alpha_pattern.counts_for(&adapted).map_err(|e| Error::config("alpha_pattern", e))?;
        for (_, module, [out, inp]) in linears.iter().filter(|(_, m, _)| self.selects(m)) {
            let r = self.rank_of(module);
            if r > *out.max(inp) {
                let beyond = format!("rank {r} is beyond the {out}x{inp} of {module}");
                return Err(match self.rank_pattern.first(module) {
                    Some(at) => Error::config("rank_pattern", format!("{}: {beyond}", self.rank_pattern.0[at].0)),
                    None => Error::config("lora_r", beyond),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pattern_is_text_or_an_object_and_the_first_entry_counts() {
        let p: ModulePattern<usize> = serde_json::from_value(json!("mlp.up_proj=6, up_proj=3,q_proj = 8")).unwrap();
        assert_eq!(p.lookup("model.layers.0.mlp.up_proj"), Some(6));
        assert_eq!(p.lookup("model.layers.0.xmlp.up_proj"), Some(3));
        assert_eq!(p.lookup("model.layers.0.mlp.xup_proj"), None);
        let json = serde_json::to_string(&p).unwrap();
        assert_eq!(json, r#"{"mlp.up_proj":6,"up_proj":3,"q_proj":8}"#);
        assert_eq!(serde_json::from_str::<ModulePattern<usize>>(&json).unwrap(), p);
        for bad in ["q_proj", "q_proj=x", "=3", "q_proj=-1"] {
            assert!(ModulePattern::<usize>::parse(bad).unwrap_err().contains("name=number"), "{bad}");
        }
        assert!(serde_json::from_value::<ModulePattern<usize>>(json!([1])).is_err());
    }

    #[test]
    fn a_name_is_given_once() {
        let twice = "q_proj is given twice";
        assert_eq!(ModulePattern::<usize>::parse("q_proj=3, q_proj=5").unwrap_err(), twice);
        for text in [r#"{"q_proj": 3, "k_proj": 1, "q_proj": 3}"#, r#""q_proj=3,q_proj=5""#] {
            assert!(serde_json::from_str::<ModulePattern<usize>>(text).unwrap_err().to_string().starts_with(twice));
        }
        let made = |n: &str| [(n.to_string(), 3), ("q_proj".to_string(), 5)].into_iter().collect();
        let fault = |lora: LoraConfig| lora.validate().unwrap_err().to_string();
        let ranks = LoraConfig { rank_pattern: made("q_proj"), ..Default::default() };
        assert_eq!(fault(ranks), format!("invalid setting rank_pattern: {twice}"));
        let alphas = ModulePattern::from_iter([("q_proj".to_string(), 1.0), ("q_proj".to_string(), 1.0)]);
        let alphas = LoraConfig { alpha_pattern: alphas, ..Default::default() };
        assert_eq!(fault(alphas), format!("invalid setting alpha_pattern: {twice}"));
        LoraConfig { rank_pattern: made("self_attn.q_proj"), ..Default::default() }.validate().unwrap();
    }

    #[test]
    fn layers_are_numbers_and_ranges() {
        let of = |v| serde_json::from_value::<Layers>(v).map(|l| l.0);
        assert_eq!(of(json!("8, 0-3,2")).unwrap(), [0, 1, 2, 3, 8]);
        assert_eq!((of(json!([3, 1])).unwrap(), of(json!(4)).unwrap()), (vec![1, 3], vec![4]));
        assert_eq!(serde_json::to_value(Layers::new([2, 0])).unwrap(), json!([0, 2]));
        for bad in ["a", "3-1", "-2", "0-", "0-99999999"] {
            assert!(Layers::parse(bad).unwrap_err().contains("0-3,8"), "{bad}");
        }
    }

    #[test]
    fn modules_are_selected_as_peft_does() {
        assert_eq!(layer_of("model.layers.11.mlp.up_proj"), Some(11));
        assert_eq!((layer_of("layers.3.q_proj"), layer_of("model.layers.experts.7")), (None, None));
        let lora = LoraConfig {
            target_modules: TargetModules::parse("q_proj,model.layers.0.mlp.up_proj"),
            layers_to_transform: Some(Layers::new([1])),
            ..Default::default()
        };
        assert!(lora.selects("model.layers.1.self_attn.q_proj") && !lora.selects("model.layers.0.self_attn.q_proj"));
        assert!(lora.selects("model.layers.0.mlp.up_proj"), "by its whole path, on whatever block");
    }

    #[test]
    fn what_matches_nothing_is_named() {
        let linears = [(0, "model.layers.0.self_attn.q_proj", [8, 8]), (1, "model.layers.1.mlp.up_proj", [20, 8])];
        let fails = |lora: LoraConfig, word: &str| {
            let e = lora.validate_patterns().and_then(|()| lora.check_against(linears.into_iter()));
            let e = e.unwrap_err().to_string();
            assert!(e.contains(word), "{e}");
        };
        let pattern = |text| ModulePattern::parse(text).unwrap();
        let lora = LoraConfig::default;
        fails(
            LoraConfig { rank_pattern: pattern("k_proj=2"), ..lora() },
            "rank_pattern: \"k_proj\" matches no adapted",
        );
        fails(LoraConfig { rank_pattern: pattern("q_proj=0"), ..lora() }, "rank_pattern: q_proj: expected ≥ 1");
        fails(LoraConfig { alpha_pattern: ModulePattern::parse(".*q=2").unwrap(), ..lora() }, "regular expressions");
        fails(LoraConfig { alpha_pattern: ModulePattern::parse("q_proj=nan").unwrap(), ..lora() }, "expected > 0");
        fails(LoraConfig { layers_to_transform: Some(Layers::new([2])), ..lora() }, "block 2, but the model has 2");
        fails(
            LoraConfig { rank_pattern: pattern("q_proj=2,self_attn.q_proj=3"), ..lora() },
            "rank_pattern: \"self_attn.q_proj\" has no effect behind \"q_proj\"",
        );
        let fits = LoraConfig { rank_pattern: pattern("self_attn.q_proj=8,up_proj=20"), ..lora() };
        fits.check_against(linears.into_iter()).unwrap();
        // Not lora_r, which is 16 and not asked for here.
        fails(
            LoraConfig { rank_pattern: pattern("q_proj=9"), ..lora() },
            "rank_pattern: q_proj: rank 9 is beyond the 8x8 of model.layers.0.self_attn.q_proj",
        );
        fails(
            LoraConfig { r: 9, rank_pattern: pattern("up_proj=20"), ..lora() },
            "lora_r: rank 9 is beyond the 8x8 of model.layers.0.self_attn.q_proj",
        );
        let q = TargetModules::parse("q_proj");
        let layers = Some(Layers::new([1]));
        fails(LoraConfig { target_modules: q, layers_to_transform: layers, ..lora() }, "no linear of these blocks");
    }
}
