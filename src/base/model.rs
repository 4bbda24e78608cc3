//! What a model folder or GGUF file is, read once and shared by whoever works on it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use super::facts::BaseFacts;
use crate::data::text::chat::stored::model_templates;
use crate::data::tokens::Tokenizer;
use crate::device::Chosen;
use crate::disk::{hash_of_files, HashCache};
use crate::error::{Error, Result};
use crate::family::DecoderConfig;
use crate::files::{ModelFiles, TOKENIZER};
use crate::kernels::cpu::simd::Level;
use crate::model::Decoder;
use crate::ops::engine::available_threads;
use crate::ops::{Engine, EngineOptions, Workers};
use crate::weights::WeightStore;

/// A model that is open: a Hugging Face folder or a GGUF file, whose files are opened and read once. A clone is the same
/// model; any number of jobs, evaluations and generators may work on one, also at the same time, each with an engine of
/// its own, and all share its mapped weights.
///
/// Its weights are mapped, not copied: the files must stay as they are while it lives. To put another file in the place of
/// one, by renaming, is no change: the open one stays whole. What writes into a file or cuts it off is found out before each
/// micro-batch of training, each pass of generation and of evaluation, and each part of an export, by the file's length and
/// modification time, and is an [`Error::ModelFormat`]; a training run has its last checkpoint then. What remains is a file
/// that is cut off within one such pass: the system ends the process that reads a mapped page that is no longer there
/// (SIGBUS). Where that can happen, copy the model first.
///
/// ```no_run
/// # fn main() -> sftmix::Result<()> {
/// use sftmix::{Model, TrainConfig, TrainingJob};
/// let model = Model::open("models/Qwen3-0.6B")?;
/// let config = TrainConfig { data: "rows.jsonl".into(), out: "run".into(), ..Default::default() };
/// let job = TrainingJob::on(&model, config)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Model {
    inner: Arc<Inner>,
    /// Worker threads for whatever works on it.
    workers: Option<Workers>,
}

struct Inner {
    files: ModelFiles,
    config: Lazy<DecoderConfig>,
    weights: Lazy<Arc<WeightStore>>,
    /// Large, and needed only until rows are tokens: while somebody holds it, it is shared.
    tokenizer: Mutex<Weak<Tokenizer>>,
    templates: Lazy<BTreeMap<String, String>>,
    /// Content hashes of the weight files by their names inside the folder.
    weight_hashes: Lazy<BTreeMap<String, String>>,
    tokenizer_hash: Lazy<Option<String>>,
}

/// What is made at its first use; a second user waits for the first.
struct Lazy<T> {
    cell: OnceLock<T>,
    making: Mutex<()>,
}

impl<T> Lazy<T> {
    fn new() -> Lazy<T> {
        Lazy { cell: OnceLock::new(), making: Mutex::new(()) }
    }

    /// What was made, or `make` makes. After an error the next user tries again.
    fn get(&self, make: impl FnOnce() -> Result<T>) -> Result<&T> {
        if let Some(made) = self.cell.get() {
            return Ok(made);
        }
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = self.cell.get() {
            return Ok(made);
        }
        let made = make()?;
        Ok(self.cell.get_or_init(|| made))
    }
}

/// A model by its contents.
#[derive(Clone, Debug)]
pub(crate) struct ModelHashes {
    /// Of all that it computes with: weights, `config.json`, `tokenizer.json`.
    pub model: String,
    /// By its parts.
    pub base: BaseFacts,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("path", &self.path()).finish_non_exhaustive()
    }
}

impl Model {
    /// Opens a Hugging Face model folder (`config.json`, `tokenizer.json`, safetensors) or a GGUF file: its config is
    /// read, its weights are mapped. The tokenizer is read when it is first needed. `org/name` or `org/name@revision`, where
    /// no such path exists, is a model of the local Hugging Face cache.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] of a name; [`Error::Io`]; [`Error::ModelNotSupported`] names the key and value of the
    /// config; [`Error::ModelFormat`] the file that is damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Model> {
        let path = crate::hub::resolve(path.as_ref())?;
        // The process may change its folder while the model is open.
        let model = Model::at(&std::path::absolute(&path).unwrap_or(path))?;
        model.config()?;
        model.weights()?;
        Ok(model)
    }

    /// The model at this path, of which nothing but a GGUF file's header is read yet.
    ///
    /// # Errors
    /// As [`ModelFiles::open`].
    pub(crate) fn at(path: &Path) -> Result<Model> {
        let inner = Inner {
            files: ModelFiles::open(path)?,
            config: Lazy::new(),
            weights: Lazy::new(),
            tokenizer: Mutex::default(),
            templates: Lazy::new(),
            weight_hashes: Lazy::new(),
            tokenizer_hash: Lazy::new(),
        };
        Ok(Model { inner: Arc::new(inner), workers: None })
    }

    /// The same model with worker threads that are shared: all jobs, evaluations and generators that are opened on what
    /// is returned compute on these `threads` (`None`: the machine's cores), where each would have its own otherwise. They take
    /// their turns as they come, so that several at once do not ask for more of the machine than one. A setting `threads`
    /// of another number is an error then, also in [`Limits`](crate::Limits). The threads end with the last that has them.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when `threads` is not from 1 to 1024; [`Error::Threads`] when they cannot be started.
    pub fn share_workers(&self, threads: Option<usize>) -> Result<Model> {
        let threads = threads.unwrap_or_else(available_threads);
        if !(1..=1024).contains(&threads) {
            return Err(Error::config("threads", format!("expected 1 to 1024, found {threads}")));
        }
        Ok(Model { inner: self.inner.clone(), workers: Some(Workers::start(threads, Level::best())?) })
    }

    /// Whether what is opened on it computes on shared worker threads.
    pub(crate) fn shares_workers(&self) -> bool {
        self.workers.is_some()
    }

    /// On how many threads it is worked, where so many are asked for.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] where others are shared.
    pub(crate) fn threads(&self, asked: Option<usize>) -> Result<usize> {
        match &self.workers {
            Some(shared) => shared.agreed(asked),
            None => Ok(asked.unwrap_or_else(available_threads)),
        }
    }

    /// The options of an engine that works on it.
    pub(crate) fn engine_options(&self, chosen: &Chosen, threads: Option<usize>) -> Result<EngineOptions> {
        let threads = match &self.workers {
            Some(shared) => Some(shared.agreed(threads)?),
            None => threads,
        };
        Ok(EngineOptions { threads, workers: self.workers.clone(), ..EngineOptions::on(chosen) })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.inner.files.path()
    }

    /// Whether its files have the lengths and times that they had when they were opened.
    ///
    /// # Errors
    /// [`Error::ModelFormat`] names the file that has not.
    pub fn unchanged(&self) -> Result<()> {
        match (self.inner.weights.cell.get(), self.inner.files.gguf()) {
            (Some(weights), _) => weights.unchanged(),
            (None, Some(file)) => file.file().unchanged(),
            (None, None) => Ok(()),
        }
    }

    /// What is behind a result that is no finite number: the first of its weights that is none, else the error as it is.
    /// Without that, one would look for it in settings and rows.
    pub(crate) fn blamed(&self, error: Error) -> Error {
        let Error::NonFinite { what } = &error else { return error };
        match self.weights().and_then(|weights| weights.finite(what)) {
            Err(found) => found,
            Ok(()) => error,
        }
    }

    /// Its files.
    pub(crate) fn files(&self) -> &ModelFiles {
        &self.inner.files
    }

    /// Shape and numerics.
    pub(crate) fn config(&self) -> Result<&DecoderConfig> {
        self.inner.config.get(|| DecoderConfig::of(&self.inner.files))
    }

    /// Its mapped weights.
    pub(crate) fn weights(&self) -> Result<&Arc<WeightStore>> {
        self.inner.weights.get(|| WeightStore::of(&self.inner.files))
    }

    /// Bytes of its weight files: of those that are mapped, not of what else lies there.
    pub(crate) fn weight_bytes(&self) -> Result<usize> {
        Ok(self.weights()?.mapped_bytes() as usize)
    }

    /// Its tokenizer: the one that somebody holds, or made anew.
    pub(crate) fn tokenizer(&self) -> Result<Arc<Tokenizer>> {
        let mut held = self.inner.tokenizer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tokenizer) = held.upgrade() {
            return Ok(tokenizer);
        }
        let made = Arc::new(Tokenizer::of(&self.inner.files)?);
        *held = Arc::downgrade(&made);
        Ok(made)
    }

    /// Its chat templates by name, word for word.
    pub(crate) fn templates(&self) -> Result<&BTreeMap<String, String>> {
        self.inner.templates.get(|| model_templates(&self.inner.files))
    }

    /// The decoder on an engine, for rows of up to `positions` tokens. Its weights are this model's map.
    ///
    /// # Errors
    /// As [`Decoder::load`].
    pub(crate) fn decoder(&self, engine: &Engine, positions: usize) -> Result<Decoder> {
        let config = self.config()?.clone();
        let weights = self.weights()?;
        weights.unchanged()?;
        Decoder::load(engine, config, weights, positions)
    }

    /// The hash of `tokenizer.json`; `None` where there is none, or a GGUF file holds both.
    pub(crate) fn tokenizer_hash(&self, cache_dir: &Path) -> Result<Option<&str>> {
        let files = &self.inner.files;
        let hash = self.inner.tokenizer_hash.get(|| match (files.gguf(), files.tokenizer_hash()) {
            (Some(_), _) => Ok(None),
            (None, Some(known)) => Ok(Some(known.clone())),
            (None, None) => match files.tokenizer()? {
                Some(file) => HashCache::open(cache_dir).held(&file).map(Some),
                None => Ok(None),
            },
        })?;
        Ok(hash.as_deref())
    }

    fn weight_hashes(&self, cache_dir: &Path) -> Result<&BTreeMap<String, String>> {
        self.inner.weight_hashes.get(|| {
            let mut cache = HashCache::open(cache_dir);
            let named = self.weights()?.held().iter().map(|file| {
                let inside = file.path().strip_prefix(self.path()).unwrap_or(file.path());
                let name: Vec<_> = inside.components().map(|c| c.as_os_str().to_string_lossy()).collect();
                Ok((name.join("/"), cache.held(file)?))
            });
            named.collect()
        })
    }

    /// One hash, in hexadecimal, over its weight files alone, by names inside the folder and contents, in name order;
    /// of a GGUF file that of its content. They are read in full where the cache does not know them.
    pub(crate) fn weights_hash(&self, cache_dir: &Path) -> Result<String> {
        let files = self.weight_hashes(cache_dir)?;
        match (self.inner.files.gguf(), files.values().next()) {
            (Some(_), Some(only)) => Ok(only.clone()),
            _ => Ok(hash_of_files(files)),
        }
    }

    /// One hash over what it computes with: `config.json`, `tokenizer.json` (where there is one) and the weight files.
    /// The same on every machine, wherever the folder is. A GGUF file is its content, whatever its name.
    pub(crate) fn hash(&self, cache_dir: &Path) -> Result<String> {
        if self.inner.files.gguf().is_some() {
            return self.weights_hash(cache_dir);
        }
        let mut files = self.weight_hashes(cache_dir)?.clone();
        let config = self.inner.files.needed("config.json")?;
        files.insert("config.json".into(), crate::disk::hash_of(config.as_slice()));
        if let Some(hash) = self.tokenizer_hash(cache_dir)? {
            files.insert(TOKENIZER.into(), hash.into());
        }
        Ok(hash_of_files(&files))
    }

    /// What an adapter on it says of its base.
    ///
    /// # Errors
    /// When a file cannot be read.
    #[doc(hidden)]
    pub fn facts(&self, cache_dir: &Path) -> Result<BaseFacts> {
        let hash = |text: &String| crate::disk::hash_of(text);
        Ok(BaseFacts {
            model: self.path().to_string_lossy().into_owned(),
            weights: self.weights_hash(cache_dir)?,
            tokenizer: self.tokenizer_hash(cache_dir)?.map(String::from),
            chat_template: self.templates()?.iter().map(|(name, text)| (name.clone(), hash(text))).collect(),
            quantization: None,
        })
    }

    /// Both kinds of hashes. Once taken they are kept; who asks while they are being taken waits.
    pub(crate) fn hashes(&self, cache_dir: &Path) -> Result<ModelHashes> {
        Ok(ModelHashes { model: self.hash(cache_dir)?, base: self.facts(cache_dir)? })
    }

    /// Begins to take the hashes on a thread beside: it may have to read gigabytes.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn begin_hashes(&self, cache_dir: &Path) -> Result<()> {
        make_cache(cache_dir);
        let (model, cache) = (self.clone(), cache_dir.to_path_buf());
        let builder = std::thread::Builder::new().name("sftmix-hash".into());
        // Who asks for them tries again after an error, and is told.
        let body = move || drop(model.hashes(&cache));
        builder.spawn(body).map(drop).map_err(|e| Error::Threads(e.to_string()))
    }
}

/// Makes the folder that hashes are kept in, where that can be done: without it they are taken anew each time.
pub(crate) fn make_cache(dir: &Path) {
    if let Err(e) = std::fs::create_dir_all(dir) {
        log::debug!("{}: {e}", dir.display());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use safetensors::tensor::{Dtype, TensorView};

    fn demo() -> Model {
        Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo")).unwrap()
    }

    #[test]
    fn it_may_be_used_by_several_threads() {
        fn is<T: Send + Sync + Clone>(_: &T) {}
        let model = demo();
        is(&model);
        let (other, [cache, elsewhere]) = (model.clone(), [(); 2].map(|()| tempfile::tempdir().unwrap()));
        model.begin_hashes(cache.path()).unwrap();
        let hashes = std::thread::spawn(move || other.hashes(elsewhere.path()).unwrap()).join().unwrap();
        assert_eq!(hashes.model, Model::at(model.path()).unwrap().hash(cache.path()).unwrap());
        assert_eq!(hashes.base, model.facts(cache.path()).unwrap());
        model.unchanged().unwrap();
    }

    #[test]
    fn a_tokenizer_is_shared_while_it_is_held() {
        let model = demo();
        let (a, b) = (model.tokenizer().unwrap(), model.clone().tokenizer().unwrap());
        assert!(Arc::ptr_eq(&a, &b));
        let (hash, weak) = (a.content_hash(), Arc::downgrade(&a));
        drop((a, b));
        assert!(weak.upgrade().is_none());
        assert_eq!(model.tokenizer().unwrap().content_hash(), hash);
        // Told from what was read for it, or from the file: the same.
        let other = Model::at(model.path()).unwrap();
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(model.tokenizer_hash(cache.path()).unwrap(), other.tokenizer_hash(cache.path()).unwrap());
    }

    #[test]
    fn a_model_is_its_names_and_contents() {
        let shard = |x: f32| {
            let bytes = x.to_le_bytes();
            let view = TensorView::new(Dtype::F32, vec![1], &bytes).unwrap();
            safetensors::serialize([("a", view)], None).unwrap()
        };
        let model = |weights: &str, x: f32, config: &str, tokenizer: Option<&str>| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("config.json"), config).unwrap();
            if let Some(text) = tokenizer {
                fs::write(dir.path().join("tokenizer.json"), text).unwrap();
            }
            let file = dir.path().join(weights);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, shard(x)).unwrap();
            if weights != "model.safetensors" {
                let index = format!(r#"{{"weight_map":{{"a":"{weights}"}}}}"#);
                fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
            }
            fs::write(dir.path().join("README.md"), dir.path().to_string_lossy().as_bytes()).unwrap();
            let hash = Model::at(dir.path()).unwrap().hash(dir.path()).unwrap();
            assert_eq!(hash.len(), 64);
            hash
        };
        let same = || model("model.safetensors", 1.0, "{}", Some("{}"));
        let mut seen = vec![
            same(),
            model("model.safetensors", 2.0, "{}", Some("{}")),
            model("model.safetensors", 1.0, "{ }", Some("{}")),
            model("model.safetensors", 1.0, "{}", Some("{ }")),
            model("model.safetensors", 1.0, "{}", None),
            model("one.safetensors", 1.0, "{}", Some("{}")),
            model("sub/one.safetensors", 1.0, "{}", Some("{}")),
        ];
        assert_eq!(seen[0], same());
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 7);
        // Machine independent: pinned.
        assert_eq!(same(), "8f3d0a21679b1345a71b84c0abd1fd04c8b4138bf660ffba02a5d680203ce914");
    }

    #[test]
    fn a_model_without_config_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let hash = || Model::at(dir.path()).unwrap().hash(dir.path());
        assert!(matches!(hash(), Err(Error::ModelFormat { .. })));
        let none: [(&str, TensorView); 0] = [];
        fs::write(dir.path().join("model.safetensors"), safetensors::serialize(none, None).unwrap()).unwrap();
        let error = hash().unwrap_err();
        assert!(error.to_string().contains("config.json"), "{error}");
    }
}
