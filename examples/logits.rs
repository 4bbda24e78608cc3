//! Logits of given token ids, to be laid beside another runtime's: `tests/interop/` does.
//!
//! `cargo run --release --example logits -- MODEL IDS.json OUT.safetensors [ADAPTER]`; IDS.json is a list of lists of ids, and
//! OUT gets a tensor `[tokens, vocab]` for each row, named by its number.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use sftmix::internal::model::Adapter;
use sftmix::internal::model::Decoder;
use sftmix::internal::ops::{head_loss, Engine, EngineOptions, Layout};
use sftmix::Keep;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, ids, out, rest @ ..] = &args[..] else {
        eprintln!("usage: logits MODEL IDS.json OUT.safetensors [ADAPTER]");
        std::process::exit(2);
    };
    let rows: Vec<Vec<u32>> = serde_json::from_slice(&std::fs::read(ids)?)?;
    let engine = Engine::new(EngineOptions::default())?;
    let model = Decoder::open(&engine, Path::new(model), rows.iter().map(Vec::len).max().unwrap_or(1))?;
    let adapter = rest.first().map(|dir| Adapter::load(&engine, &model, Path::new(dir))).transpose()?;
    let mut all = BTreeMap::new();
    for (number, ids) in rows.iter().enumerate() {
        let logits = engine.run(|| {
            let layout = Layout::new(vec![0, ids.len() as u32], vec![0]);
            let mut pass = model.forward(&engine, adapter.as_ref(), ids, layout, Keep::Nothing, None)?;
            let states = model.states(&engine, &mut pass, (0..ids.len() as u32).collect())?;
            head_loss::logits(&engine, model.head(), &states)
        })?;
        let bytes: Vec<u8> = logits.iter().flat_map(|v| v.to_le_bytes()).collect();
        all.insert(number.to_string(), (vec![ids.len(), model.config.vocab_size], bytes));
    }
    let views = all.iter().map(|(name, (shape, bytes))| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)));
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    std::fs::write(out, safetensors::serialize(views, None)?)?;
    Ok(())
}
