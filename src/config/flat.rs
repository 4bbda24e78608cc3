//! [`LoraConfig`] among the settings of a run: its fields stand beside the others, and none of them stands for
//! `None`.

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::lora::LoraConfig;

/// The adapter's settings, as they stand in `run.json`, in settings files and on the command line.
pub(super) const NAMES: &[&str] = &[
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "use_dora",
    "target_modules",
    "layers_to_transform",
    "rank_pattern",
    "alpha_pattern",
];

pub(super) fn serialize<S: Serializer>(lora: &Option<LoraConfig>, to: S) -> Result<S::Ok, S::Error> {
    match lora {
        Some(lora) => lora.serialize(to),
        None => to.serialize_map(Some(0))?.end(),
    }
}

/// What is not given is the default's, where anything is given.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<LoraConfig>, D::Error> {
    from.deserialize_struct("LoraConfig", NAMES, Lora)
}

struct Lora;

impl<'de> Visitor<'de> for Lora {
    type Value = Option<LoraConfig>;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("settings of an adapter")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let mut any = false;
        let lora = LoraConfig::deserialize(MapAccessDeserializer::new(Noted { map, any: &mut any }))?;
        Ok(any.then_some(lora))
    }
}

/// Entries of a map, noting whether there is one.
struct Noted<'a, A> {
    map: A,
    any: &'a mut bool,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Noted<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let key = self.map.next_key_seed(seed)?;
        *self.any |= key.is_some();
        Ok(key)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TrainConfig;
    use serde_json::{json, Value};

    fn read(text: &str) -> Result<Option<LoraConfig>, String> {
        serde_json::from_str::<TrainConfig>(text).map(|c| c.lora).map_err(|e| e.to_string())
    }

    #[test]
    fn the_names_are_the_fields() {
        let Ok(Value::Object(all)) = serde_json::to_value(LoraConfig::default()) else { unreachable!() };
        assert_eq!(all.keys().map(String::as_str).collect::<Vec<_>>(), NAMES);
    }

    #[test]
    fn none_given_is_none_and_one_given_is_over_the_defaults() {
        assert_eq!(read(r#"{"lr": 1.0}"#), Ok(None));
        let said = LoraConfig { r: 3, ..Default::default() };
        assert_eq!(read(r#"{"lora_r": 3, "lr": 1.0, "prompt_field": "q"}"#), Ok(Some(said.clone())));
        let json = serde_json::to_value(TrainConfig { lora: Some(said.clone()), ..Default::default() }).unwrap();
        assert_eq!((&json["lora_r"], &json["rank_pattern"]), (&json!(3), &json!({})));
        assert_eq!(serde_json::from_value::<TrainConfig>(json).unwrap().lora, Some(said));
        let none = serde_json::to_value(TrainConfig::default()).unwrap();
        assert!(NAMES.iter().all(|n| none.get(n).is_none()), "{none}");
    }

    #[test]
    fn what_cannot_be_read_is_no_none() {
        assert!(read(r#"{"lora_r": "x"}"#).unwrap_err().contains("invalid type: string \"x\""));
        assert!(read(r#"{"lora_rang": 4}"#).unwrap_err().contains("lora_rang"));
        // A map of Rust's would keep the last of two.
        assert!(read(r#"{"rank_pattern": {"q_proj": 3, "q_proj": 5}}"#).unwrap_err().contains("q_proj is given twice"));
    }
}
