//! Opening what a run needs: model, tokenizer, data.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::facts::BaseFacts;
use super::model::{Model, ModelHashes};
use crate::config::{DataOptions, TrainConfig};
use crate::data::rows::files::RowFormat;
use crate::data::tokens::pipeline;
use crate::data::tokens::StoreRequest;
use crate::data::tokens::TokenStore;
use crate::data::tokens::Tokenizer;
use crate::error::{Error, Result};
use crate::memory::Charge;
use crate::model::Decoder;
use crate::ops::{Engine, EngineOptions};
use crate::stop::StopIf;

/// What a run or an evaluation works on.
pub(crate) struct Inputs {
    pub engine: Engine,
    pub base: Model,
    pub model: Decoder,
    pub cache_dir: PathBuf,
}

impl Inputs {
    /// Takes a model into use for rows of up to `max_length` tokens. The tokenizer is apart: it is large, and
    /// needed only until the rows are tokens.
    pub fn open(model: &Model, options: EngineOptions, cache_dir: PathBuf) -> Result<(Inputs, ChargedTokenizer)> {
        let engine = Engine::new(options)?;
        let tokenizer = model.tokenizer()?;
        let charge = engine.account().charge(tokenizer.bytes());
        // Room for positions is made once the rows are known: see `room`.
        let decoder = model.decoder(&engine, 1)?;
        Ok((
            Inputs { engine, base: model.clone(), model: decoder, cache_dir },
            ChargedTokenizer { tokenizer, _charge: charge },
        ))
    }

    /// Makes room for the rows of these stores, which were cut at `max_length`.
    pub fn room(&mut self, stores: &[&TokenStore], max_length: usize) -> Result<()> {
        let longest = stores.iter().map(|s| s.longest()).max().unwrap_or(1);
        let limit = self.model.config.max_position_embeddings;
        if longest > limit {
            log::warn!("rows of up to {longest} tokens go beyond the {limit} positions that the model was made for: max_length cuts them");
        } else if max_length > limit && max_length != TrainConfig::default().max_length {
            // Of the default nobody said so, and the rows are short.
            log::warn!("max_length {max_length} is beyond the {limit} positions the model was made for");
        }
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
        stop: StopIf<'_>,
    ) -> Result<TokenStore> {
        let threads = self.engine.threads();
        let reading = RowFormat::of(data)?.held_bytes(data);
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
    pub tokenizer: Arc<Tokenizer>,
    _charge: Charge,
}

/// The base model's content hash, which is taken beside the run.
pub(crate) struct ModelHash {
    model: Model,
    cache_dir: PathBuf,
    base: Option<BaseFacts>,
}

impl ModelHash {
    pub fn start(model: &Model, cache_dir: &Path) -> Result<ModelHash> {
        model.begin_hashes(cache_dir)?;
        Ok(ModelHash { model: model.clone(), cache_dir: cache_dir.to_path_buf(), base: None })
    }

    /// The hash, waiting for it where needed. `expected` is what a resumed run was begun with.
    pub fn get(&mut self, expected: Option<&str>) -> Result<String> {
        let ModelHashes { model: hash, base } = self.model.hashes(&self.cache_dir)?;
        self.base = Some(base);
        match expected.filter(|&e| e != hash) {
            Some(e) => {
                let reason = format!("the run was begun on another base model: content hash {e}, now {hash}");
                Err(Error::Checkpoint { path: self.model.path().to_path_buf(), reason })
            }
            None => Ok(hash),
        }
    }
}

impl ModelHash {
    /// The base by its parts, once the hash is taken.
    pub fn base(&self) -> Option<&BaseFacts> {
        self.base.as_ref()
    }
}

/// A hash as text.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
