//! Opening what a run needs: model, tokenizer, data.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::facts::BaseFacts;
use super::hash::{hash_model, HashCache};
use crate::config::DataOptions;
use crate::data::rows::files::Kind;
use crate::data::tokens::pipeline;
use crate::data::tokens::StoreRequest;
use crate::data::tokens::TokenStore;
use crate::data::tokens::Tokenizer;
use crate::error::{Error, Result};
use crate::memory::Charge;
use crate::model::Decoder;
use crate::ops::{Engine, EngineOptions};
use crate::stop::StopHandle;

/// What a run or an evaluation works on.
pub(crate) struct Inputs {
    pub engine: Engine,
    pub model: Decoder,
    pub cache_dir: PathBuf,
}

impl Inputs {
    /// Opens a model folder for rows of up to `max_length` tokens. The tokenizer is apart: it is large, and
    /// needed only until the rows are tokens.
    pub fn open(
        model: &Path,
        max_length: usize,
        options: EngineOptions,
        cache_dir: PathBuf,
    ) -> Result<(Inputs, ChargedTokenizer)> {
        let engine = Engine::new(options)?;
        let tokenizer = Tokenizer::load(model)?;
        let charge = engine.account().charge(tokenizer.bytes());
        // Room for positions is made once the rows are known: see `room`.
        let decoder = Decoder::open(&engine, model, 1)?;
        let limit = decoder.config.max_position_embeddings;
        if max_length > limit {
            log::warn!("max_length {max_length} is beyond the {limit} positions the model was made for");
        }
        Ok((Inputs { engine, model: decoder, cache_dir }, ChargedTokenizer { tokenizer, _charge: charge }))
    }

    /// Makes room for the rows of these stores.
    pub fn room(&mut self, stores: &[&TokenStore]) -> Result<()> {
        let longest = stores.iter().map(|s| s.longest()).max().unwrap_or(1);
        self.model.grow(&self.engine, longest)
    }

    /// The token store of a data file; `template` takes the place of the text in the file of `chat_template`.
    pub fn store(
        &self,
        tokenizer: &ChargedTokenizer,
        data: &Path,
        options: &DataOptions,
        template: Option<&str>,
        max_length: usize,
        stop: &dyn Fn() -> bool,
    ) -> Result<TokenStore> {
        let threads = self.engine.threads();
        let reading = Kind::of(data)?.held_bytes(data);
        let _building = self.engine.account().charge(pipeline::held_bytes(threads) + reading);
        let store = TokenStore::open_or_build(&StoreRequest {
            data,
            options,
            template,
            tokenizer: &tokenizer.tokenizer,
            max_length,
            cache_dir: &self.cache_dir,
            threads,
            stop,
        })?;
        match store.chat() {
            Some(chat) if chat.hash.is_none() => log::warn!("{}: {chat}", data.display()),
            Some(chat) => log::info!("{}: {chat}", data.display()),
            None => {}
        }
        let vocab = self.model.config.vocab_size;
        if store.max_id() as usize >= vocab {
            return Err(beyond_embeddings(&store, vocab));
        }
        Ok(store)
    }
}

/// Names the first row with a token that the model has no embedding for.
fn beyond_embeddings(store: &TokenStore, vocab: usize) -> Error {
    let beyond = |i: usize| store.example(i).ids().find(|&id| id as usize >= vocab);
    let (example, id) = (0..store.len()).find_map(|i| beyond(i).map(|id| (i, id))).unwrap_or((0, store.max_id()));
    let (path, row) = store.origin(example);
    let reason = format!("token {id}, but the model has {vocab} embeddings: its tokenizer has more tokens");
    Error::DataInvalid { path: path.to_path_buf(), row, reason }
}

/// A tokenizer that stands in the account.
pub(crate) struct ChargedTokenizer {
    pub tokenizer: Tokenizer,
    _charge: Charge,
}

/// Takes the base model's content hash beside the run; it may have to read gigabytes.
pub(crate) struct ModelHash {
    path: PathBuf,
    running: Option<JoinHandle<Result<(String, BaseFacts)>>>,
    hash: Option<(String, BaseFacts)>,
}

impl ModelHash {
    pub fn start(model: &Path, cache_dir: &Path) -> Result<ModelHash> {
        // Opened here: a folder that a refusal removes is not made again by the thread.
        let (model, mut cache) = (model.to_path_buf(), HashCache::open(cache_dir));
        let path = model.clone();
        let builder = std::thread::Builder::new().name("sftmix-hash".into());
        let body = move || Ok((hash_model(&model, &mut cache)?, BaseFacts::of(&model, &mut cache)?));
        let running = builder.spawn(body).map_err(|e| Error::Threads(e.to_string()))?;
        Ok(ModelHash { path, running: Some(running), hash: None })
    }

    /// The hash, waiting for it where needed. `expected` is what a resumed run was begun with.
    pub fn get(&mut self, expected: Option<&str>) -> Result<String> {
        if let Some(thread) = self.running.take() {
            let hash = thread.join().unwrap_or_else(|_| Err(Error::Threads("the hashing thread panicked".into())))?;
            self.hash = Some(hash);
        }
        let Some(hash) = self.hash.as_ref().map(|(hash, _)| hash.clone()) else {
            return Err(Error::Misuse("the model's hash is asked for again after it failed".into()));
        };
        match expected.filter(|&e| e != hash) {
            Some(e) => {
                let reason = format!("the run was begun on another base model: content hash {e}, now {hash}");
                Err(Error::Checkpoint { path: self.path.clone(), reason })
            }
            None => Ok(hash),
        }
    }
}

impl ModelHash {
    /// The base by its parts, once the hash is taken.
    pub fn base(&self) -> Option<&BaseFacts> {
        self.hash.as_ref().map(|(_, base)| base)
    }
}

/// Whether a stop was asked for, as the store asks it.
pub(crate) fn stopped(stop: &StopHandle) -> impl Fn() -> bool + '_ {
    || stop.is_stopped()
}

/// A hash as text.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
