//! Whether an adapter is put on the base that it was trained on.

use std::path::Path;

use super::facts::{default_cache, AdapterFacts};
use super::model::{make_cache, Model};
use crate::data::text::chat::stored::{read_template, same_but_for_training, DEFAULT};
use crate::error::{BaseMismatch, Error, Result};

/// Refuses an adapter whose `sftmix.json` names another base than `model`; one without the file passes. The
/// base's weights are read in full the first time: their hash is kept in `cache_dir` (`None`: the user's cache
/// folder) as long as their sizes and times stay.
///
/// # Errors
/// [`Error::BaseMismatch`]; [`Error::Adapter`] when the file is damaged.
pub fn check_base(adapter: &Path, model: &Model, cache_dir: Option<&Path>) -> Result<()> {
    let Some(facts) = AdapterFacts::read(adapter)? else { return Ok(()) };
    let cache = &cache_dir.map_or_else(default_cache, Path::to_path_buf);
    make_cache(cache);
    let mismatch = |what: &'static str, expected: &str, found: &str| {
        Error::BaseMismatch(Box::new(BaseMismatch {
            adapter: adapter.to_path_buf(),
            what,
            trained_on: facts.base.model.clone(),
            expected: expected.into(),
            base: model.path().to_path_buf(),
            found: found.into(),
        }))
    };
    // The small file first.
    let found = model.tokenizer_hash(cache)?.map(String::from);
    if found != facts.base.tokenizer {
        let none = |hash: &Option<String>| hash.clone().unwrap_or_else(|| "none".into());
        return Err(mismatch("tokenizer", &none(&facts.base.tokenizer), &none(&found)));
    }
    let found = model.weights_hash(cache)?;
    if found != facts.base.weights {
        return Err(mismatch("weights", &facts.base.weights, &found));
    }
    // What its conversations were written with is said since it is known; before, only what the base had.
    let trained = facts.chat_template.as_ref().or(facts.base.chat_template.get(DEFAULT));
    let own = model.templates()?.get(DEFAULT);
    let own_hash = own.map(crate::disk::hash_of);
    if trained.is_some() && trained != own_hash.as_ref() {
        let beside = read_template(adapter)?;
        let same = matches!((&beside, own), (Some(beside), Some(own)) if same_but_for_training(beside, own));
        if !same {
            log::warn!(
                "{}: the chat template of {} is not the one it was trained with",
                adapter.display(),
                model.path().display()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TrainConfig;

    fn model(weight: f32, tokenizer: &str, template: Option<&str>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let bytes = weight.to_le_bytes();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &bytes).unwrap();
        std::fs::write(dir.path().join("model.safetensors"), safetensors::serialize([("a", view)], None).unwrap())
            .unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), tokenizer).unwrap();
        if let Some(text) = template {
            std::fs::write(dir.path().join("chat_template.jinja"), text).unwrap();
        }
        dir
    }

    fn open(dir: &tempfile::TempDir) -> Model {
        Model::at(dir.path()).unwrap()
    }

    #[test]
    fn an_adapter_stays_with_its_base() {
        let cache = tempfile::tempdir().unwrap();
        let at = Some(cache.path());
        let base = model(1.0, "{}", Some("{{ x }}"));
        let adapter = tempfile::tempdir().unwrap();
        check_base(adapter.path(), &open(&base), at).unwrap();

        let lora = crate::config::LoraConfig { r: 5, ..Default::default() };
        let facts = AdapterFacts::new(open(&base).facts(cache.path()).unwrap()).with_run(
            &TrainConfig { model: "/secret".into(), lora: Some(lora), ..Default::default() },
            Some("d0"),
            None,
        );
        facts.write(adapter.path()).unwrap();
        assert_eq!(AdapterFacts::read(adapter.path()).unwrap().unwrap(), facts);
        let recipe = facts.recipe.as_ref().unwrap();
        assert_eq!((recipe["lora_r"].as_u64(), recipe.get("model"), recipe.get("threads")), (Some(5), None, None));
        assert_eq!(facts.base.chat_template["default"], blake3::hash(b"{{ x }}").to_hex().to_string());

        // The same contents elsewhere are the same base, whatever the template.
        check_base(adapter.path(), &open(&base), at).unwrap();
        check_base(adapter.path(), &open(&model(1.0, "{}", None)), at).unwrap();
        for (other, what) in [(model(2.0, "{}", None), "weights"), (model(1.0, "{ }", None), "tokenizer")] {
            match check_base(adapter.path(), &open(&other), at).unwrap_err() {
                Error::BaseMismatch(m) => {
                    assert_eq!((m.what, m.base.as_path()), (what, other.path()));
                    assert_eq!(m.trained_on, base.path().to_string_lossy());
                    assert!(m.expected != m.found && m.expected.len() == 64 && m.found.len() == 64, "{m}");
                }
                e => panic!("{e}"),
            }
        }
    }
}
