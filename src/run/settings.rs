//! Settings of a run that is taken up again: its own, but for those that may be others now.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::folder::RunFile;
use crate::config::TrainConfig;
use crate::error::{Error, Result};

/// Settings of the machine: where the run goes on, in how much memory, and where it keeps what can be made again.
const MACHINE: [&str; 4] = ["device", "memory_limit", "resident_limit", "cache_dir"];

/// The settings of the run in the folder `out`, with what is `given` now, by field name of [`TrainConfig`]. Places of
/// inputs may be given anew (their contents are compared when they are opened), and so may the settings of the
/// machine. What the run chose itself, because its settings left it open, counts as its setting.
///
/// # Errors
/// [`Error::InvalidConfig`] names the first setting that contradicts the run's, with both values.
pub fn taken_up(run: &RunFile, out: &Path, given: &Map<String, Value>) -> Result<TrainConfig> {
    let mut given = given.clone();
    // The folder may have been moved, or be named another way.
    given.remove("out");
    // As in a settings file, null is not given.
    given.retain(|_, value| !value.is_null());
    given.iter().try_for_each(|(name, value)| TrainConfig::setting(name, value.clone()).map(drop))?;
    let now: TrainConfig =
        serde_json::from_value(Value::Object(given.clone())).map_err(|e| Error::config("config", e.to_string()))?;
    let now = now.with_data_files()?.with_model_found()?.absolute();
    // Held-out rows that lay in the folder of the rows are looked for in the new one.
    let within = |valid: &PathBuf| run.config.data.0.iter().any(|source| valid.parent() == source.path.parent());
    let moved = given.contains_key("data") && run.config.valid.as_ref().is_some_and(within);
    let has = |name: &str| given.contains_key(name) || name == "valid" && moved;
    let mut config = run.config.clone().with_places(&now, has);
    let TrainConfig { device, memory_limit, resident_limit, .. } = now;
    for name in MACHINE.iter().filter(|name| given.contains_key(**name)) {
        match *name {
            "device" => config.device = device,
            "memory_limit" => config.memory_limit = memory_limit,
            "resident_limit" => config.resident_limit = resident_limit,
            _ => {}
        }
    }
    let mut have = as_map(&config)?;
    for (key, chosen) in [("threads", run.resolved.threads), ("micro_batch", run.resolved.cut.micro_batch)] {
        if have.get(key).is_some_and(Value::is_null) {
            have.insert(key.into(), chosen.into());
        }
    }
    let now = as_map(&now)?;
    for (key, value) in &given {
        let value = now.get(key).unwrap_or(value);
        let had = have.get(key).unwrap_or(&Value::Null);
        if had != value {
            return Err(Error::config(key, format!("the run was begun with {had}, now {value} is given")));
        }
    }
    run.config.check_effects(|name| given.contains_key(name))?;
    Ok(TrainConfig { out: out.to_path_buf(), ..config })
}

fn as_map(config: &TrainConfig) -> Result<Map<String, Value>> {
    match serde_json::to_value(config) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::config("config", "settings are no object")),
        Err(e) => Err(Error::config("config", e.to_string())),
    }
}
