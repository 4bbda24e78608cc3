//! JSON whose objects have each key once. Parsers take the last of two and say nothing, so that a text is lost.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// A value of such JSON.
pub(super) struct Strict(pub Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strict, D::Error> {
        deserializer.deserialize_any(Any).map(Strict)
    }
}

/// Reads such JSON.
///
/// # Errors
/// The parser's, or the key that stands twice.
pub(crate) fn value(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str::<Strict>(text).map(|strict| strict.0)
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((key, Strict(value))) = entries.next_entry::<String, Strict>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key {key} stands twice in an object")));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_library_and_no_key_is_lost() {
        for text in [
            r#"{"a": [null, true, -3, 18446744073709551615, 1.5e-7, 0.1, 1e300, "é\u00e9\n\ud83d\ude00", [], {}], "": {"b": "a"}}"#,
            "[1, -0.0, 12345678901234567890123]",
            r#""text""#,
        ] {
            let want: Value = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::from_str::<Strict>(text).unwrap().0, want);
        }
        let e = |text: &str| serde_json::from_str::<Strict>(text).err().unwrap().to_string();
        assert!(e(r#"{"a": {"b": 1, "c": 2, "b": 3}}"#).starts_with("the key b stands twice in an object"));
        assert!(e(r#"{"a": 1, "a": 1}"#).starts_with("the key a stands twice"));
        assert!(e(r#"{"a": 1,}"#).starts_with("trailing comma"));
        assert!(e(&"[".repeat(200)).starts_with("recursion limit"));
    }
}
