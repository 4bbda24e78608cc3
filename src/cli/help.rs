//! Defaults in the help text, taken from the library's `Default` values.

use serde::Serialize;
use serde_json::Value;

/// Name of a setting and its default as text.
pub type Defaults = Vec<(String, String)>;

/// Appends `[default: …]` to the help of the arguments that have one. Settings that are absent by
/// default say in words what happens then.
pub fn with_defaults(command: clap::Command, defaults: &Defaults) -> clap::Command {
    command.mut_args(|arg| {
        let Some((_, text)) = defaults.iter().find(|(name, _)| arg.get_id() == name.as_str()) else { return arg };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        arg.help(format!("{help} [default: {text}]"))
    })
}

/// The defaults of a serialisable value: every field that is neither absent nor empty.
pub fn of(value: &impl Serialize) -> Defaults {
    let Ok(Value::Object(map)) = serde_json::to_value(value) else { return Vec::new() };
    map.iter().filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect()
}

/// A value as it would be typed.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null | Value::Object(_) => None,
        Value::String(s) => (!s.is_empty()).then(|| s.clone()),
        Value::Array(list) => (!list.is_empty()).then(|| list.iter().filter_map(text).collect::<Vec<_>>().join(",")),
        Value::Number(n) => {
            let n = n.to_string();
            Some(n.strip_suffix(".0").map_or(n.clone(), String::from))
        }
        Value::Bool(b) => Some(b.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn values_as_typed() {
        let defaults = crate::cli::train::defaults();
        let get = |name: &str| defaults.iter().find(|(n, _)| n == name).map(|(_, t)| t.as_str());
        assert_eq!(get("adam_betas"), Some("0.9,0.999"));
        assert_eq!(get("adam_eps"), Some("1e-8"));
        assert_eq!(get("lora_alpha"), Some("32"));
        assert_eq!(get("lr"), Some("0.0002"));
        assert_eq!((get("valid"), get("model"), get("template_drops")), (None, None, None));
    }
}
