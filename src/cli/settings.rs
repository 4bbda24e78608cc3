//! A settings file in TOML, under the flags: the same names, with `-` or `_`, aliases too.

use std::path::Path;

use serde_json::{Map, Value};
use sftmix::{DataSources, Error, TargetModules, TrainConfig};

use super::failure::Failure;
use super::options::betas;

/// Settings by field name of [`TrainConfig`].
pub type Settings = Map<String, Value>;

/// Reads a settings file. `flags` lists the settings and their names.
pub fn read(path: &Path, flags: &clap::Command) -> Result<Settings, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
    parse(&text, flags).map_err(|reason| Failure::usage(format!("{}: {reason}", path.display())))
}

fn parse(text: &str, flags: &clap::Command) -> Result<Settings, String> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        let line = e.span().and_then(|s| text.get(..s.start)).map_or(1, |before| before.matches('\n').count() + 1);
        format!("line {line}: {}", e.message().split_whitespace().collect::<Vec<_>>().join(" "))
    })?;
    let mut settings = Settings::new();
    for (key, value) in table {
        let said = |e: Error| match e {
            Error::InvalidConfig { reason, .. } => reason,
            other => other.to_string(),
        };
        let Some(field) = field(&key, flags) else {
            // The library knows the names that are near.
            let reason = TrainConfig::setting(&key, Value::Null).err().map(said).unwrap_or_default();
            return Err(format!("{key}: {reason}"));
        };
        let value = value_of(field, value).and_then(|v| TrainConfig::setting(field, v).map_err(said));
        let value = value.map_err(|e| format!("{key}: {e}"))?;
        if settings.insert(field.into(), value).is_some() {
            return Err(format!("{key}: {field} is set twice"));
        }
    }
    Ok(settings)
}

/// The field that a name of a flag stands for.
fn field<'a>(key: &str, flags: &'a clap::Command) -> Option<&'a str> {
    let name = key.replace('_', "-");
    let arg = flags.get_arguments().find(|a| {
        a.get_long() == Some(name.as_str()) || a.get_all_aliases().unwrap_or_default().contains(&name.as_str())
    })?;
    Some(arg.get_id().as_str())
}

fn value_of(field: &str, value: toml::Value) -> Result<Value, String> {
    Ok(match (field, value) {
        // Lists may be written as on the command line.
        ("target_modules", toml::Value::String(s)) => {
            serde_json::to_value(TargetModules::parse(&s)).map_err(|e| e.to_string())?
        }
        ("adam_betas", toml::Value::String(s)) => {
            let (a, b) = betas(&s)?;
            Value::Array(vec![a.into(), b.into()])
        }
        ("data", toml::Value::String(s)) => sources(&[s])?,
        ("data", toml::Value::Array(list)) => {
            let text = |v: toml::Value| match v {
                toml::Value::String(s) => Ok(s),
                other => Err(format!("expected PATH or PATH:WEIGHT, found {other}")),
            };
            sources(&list.into_iter().map(text).collect::<Result<Vec<_>, _>>()?)?
        }
        ("memory_limit" | "resident_limit", toml::Value::String(s)) => sftmix::internal::units::parse_bytes(&s)?.into(),
        (_, toml::Value::String(s)) => s.into(),
        (_, toml::Value::Integer(i)) => i.into(),
        (_, toml::Value::Float(x)) if x.is_finite() => x.into(),
        (_, toml::Value::Boolean(b)) => b.into(),
        ("target_modules" | "adam_betas" | "layers_to_transform", toml::Value::Array(list)) => {
            Value::Array(list.into_iter().map(|v| value_of("", v)).collect::<Result<_, _>>()?)
        }
        // A table of TOML would lose the order, and of two entries that match the first counts.
        ("rank_pattern" | "alpha_pattern", toml::Value::Table(_)) => {
            return Err("expected text, as q_proj=8,down_proj=32".into());
        }
        (_, other) => return Err(format!("expected a single value, found {other}")),
    })
}

/// Data files as on the command line.
fn sources(list: &[String]) -> Result<Value, String> {
    let parsed = list.iter().map(|s| s.parse()).collect::<Result<Vec<_>, _>>()?;
    serde_json::to_value(DataSources(parsed)).map_err(|e| e.to_string())
}

/// The flags that were given, as settings.
pub fn given(flags: &impl serde::Serialize) -> Result<Settings, Failure> {
    match serde_json::to_value(flags) {
        Ok(Value::Object(map)) => Ok(map.into_iter().filter(|(_, v)| !v.is_null()).collect()),
        Ok(_) => Ok(Settings::new()),
        Err(e) => Err(Failure::usage(format!("the flags cannot be kept in run.json: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::train::flags;

    fn parsed(text: &str) -> Result<Value, String> {
        parse(text, &flags()).map(Value::Object)
    }

    #[test]
    fn names_may_be_flags_fields_or_aliases() {
        let text = "lora-r = 4\nbatch_size = 2\nlearning_rate = 1\nnum-train-epochs = 5\nuse-rslora = true\n\
                    prompt_field = 'q'\ndynamics = 'online'";
        let want = json!({"lora_r": 4, "batch_size": 2, "lr": 1.0, "epochs": 5, "use_rslora": true,
                          "prompt_field": "q", "dynamics": "online"});
        // Order is that of the file or the alphabet; equality of maps does not look at it.
        assert_eq!(parsed(text).unwrap(), want);
    }

    #[test]
    fn lists_are_arrays_or_text() {
        let want = json!({"target_modules": ["q_proj", "v_proj"], "adam_betas": [0.9, 0.95]});
        assert_eq!(parsed("target_modules = 'q_proj, v_proj'\nadam-betas = '0.9,0.95'").unwrap(), want);
        assert_eq!(parsed("target-modules = ['q_proj', 'v_proj']\nadam_betas = [0.9, 0.95]").unwrap(), want);
        let want = json!({"layers_to_transform": [0, 1, 4], "rank_pattern": {"q_proj": 8}});
        assert_eq!(parsed("layers = '0-1,4'\nrank-pattern = 'q_proj=8'").unwrap(), want);
        assert_eq!(parsed("layers_to_transform = [4, 0, 1]\nrank_pattern = ' q_proj = 8 '").unwrap(), want);
        assert!(parsed("rank_pattern = { q_proj = 8 }").unwrap_err().contains("expected text"));
        assert_eq!(parsed("target-modules = 'all-linear'").unwrap(), json!({"target_modules": "all-linear"}));
        assert_eq!(parsed("adam-betas = [0, 1]").unwrap(), json!({"adam_betas": [0.0, 1.0]}));
    }

    #[test]
    fn data_are_written_as_on_the_command_line() {
        assert_eq!(parsed("data = 'a.jsonl'").unwrap(), json!({"data": "a.jsonl"}));
        let want = json!({"data": ["a", {"path": "b", "weight": 2.0}]});
        assert_eq!(parsed("data = ['a', 'b:2']").unwrap(), want);
        assert!(parsed("data = ['a', 2]").unwrap_err().starts_with("data: expected PATH or PATH:WEIGHT, found 2"));
        assert!(parsed("data = 'a:-1'").unwrap_err().starts_with("data: expected a weight > 0"));
    }

    #[test]
    fn faults_name_the_key() {
        let none = "there is no setting of this name";
        let near = format!("lora-rang: {none}; did you mean lora_r?");
        assert_eq!(parsed("lora-rang = 4").unwrap_err(), near);
        assert_eq!(parsed("resume = true").unwrap_err(), format!("resume: {none}"));
        assert_eq!(parsed("lr = 1e-4\nlearning-rate = 1e-3").unwrap_err(), "lr: lr is set twice");
        assert!(parsed("rank_pattern = 'q_proj=3,q_proj=5'").unwrap_err().contains("q_proj is given twice"));
        assert!(parsed("lr = 'fast'").unwrap_err().starts_with("lr: invalid type: string \"fast\""));
        assert!(parsed("epochs = -1").unwrap_err().starts_with("epochs: invalid value"));
        assert!(parsed("schedule = 'step'").unwrap_err().starts_with("schedule: unknown variant `step`"));
        assert!(parsed("[lora]\nr = 1").unwrap_err().starts_with("lora: there is no setting"));
        assert!(parsed("mu = nan").unwrap_err().starts_with("mu: expected a single value"));
        assert!(parsed("mu = 1\nlr = = 2").unwrap_err().starts_with("line 2: "));
        assert!(parsed("adam-betas = '0.9'").unwrap_err().starts_with("adam-betas: expected two numbers"));
    }
}
