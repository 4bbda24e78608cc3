//! Settings of an adapter that differ from module to module, and which blocks it stands on.

use std::str::FromStr;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Numbers by module name or path, as PEFT's `rank_pattern` and `alpha_pattern`: the first entry whose name is
/// the module's path, or its end behind a dot, counts. Written as text it is `q_proj=8,mlp.down_proj=32`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModulePattern<T>(pub(super) Vec<(String, T)>);

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
    pub(super) fn first(&self, module: &str) -> Option<usize> {
        self.0.iter().position(|(name, _)| ends_with_name(module, name))
    }

    /// Whether each entry counts for one of these modules.
    pub(super) fn counts_for(&self, adapted: &[&str]) -> Result<(), String> {
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
    pub(super) fn each_once(&self) -> Result<(), String> {
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
pub struct Layers(pub(super) Vec<usize>);

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
}
