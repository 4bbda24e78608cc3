//! What another trainer needs to run the steps of a bench: the rows as they are, the adapter that training
//! begins with, the settings of the optimizer.

use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::config::BenchConfig;
use super::source::Rows;
use super::trial::ADAMW;
use crate::error::{Error, Result};
use crate::model::Adapter;

/// Writes `bench.json`, `rows.jsonl` (one row a line, labels of what is not trained are −100) and
/// `adapter/`.
pub(super) fn write(to: &Path, config: &BenchConfig, model: &Path, adapter: &Adapter, rows: &Rows) -> Result<()> {
    std::fs::create_dir_all(to).map_err(Error::io(to))?;
    let path = to.join("rows.jsonl");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).map_err(Error::io(&path))?);
    for step in 0..=config.steps {
        for (ids, trained) in rows.batch(step as u64, config.batch_size) {
            let labels = ids.iter().zip(&trained).map(|(&id, &t)| if t { i64::from(id) } else { -100 });
            let row = json!({"step": step, "input_ids": ids, "labels": labels.collect::<Vec<_>>()});
            writeln!(file, "{row}").map_err(Error::io(&path))?;
        }
    }
    file.flush().map_err(Error::io(&path))?;
    let model = std::path::absolute(model).map_err(Error::io(model))?;
    adapter.save(&to.join("adapter"), &model.to_string_lossy())?;
    let about = json!({
        "model": model,
        "batch_size": config.batch_size,
        "steps": config.steps,
        "lora_r": config.lora_r,
        "lr": super::trial::LEARNING_RATE,
        "betas": ADAMW.betas,
        "eps": ADAMW.eps,
        "weight_decay": ADAMW.weight_decay,
        "clip": ADAMW.clip,
    });
    let path = to.join("bench.json");
    std::fs::write(&path, format!("{about:#}\n")).map_err(Error::io(&path))
}
