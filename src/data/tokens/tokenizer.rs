//! Text to token ids and back, and which tokens of a row are trained.
//!
//! A row is encoded once and whole: encoding prompt and response apart would give other tokens at
//! the seam, and a prefix's length says nothing about the whole. What is trained is told from byte
//! offsets: a token trains when it overlaps a trained span, unless it is an added token that begins
//! before the span, or was put there by the post-processor. Then one end token follows, trained,
//! unless the encoding ends in it already.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::AddedToken;

use crate::data::text::chat::{ChatSource, ChatTemplate, RenderOptions, SpecialTokens};
use crate::data::text::Rendered;
use crate::error::{Error, Result};
use crate::files::{ModelFiles, TOKENIZER};
use crate::gguf::{self, GgufFile};

/// Bit of a stored token that says that the token is a training target; the rest is its id.
pub const TARGET: u32 = 1 << 31;

/// Bytes that a tokenizer holds for each byte of its file (measured: 9 to 19 for four of 0.5 to 5 MB).
const HELD: usize = 16;

/// A row as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedRow {
    /// The examples: ids, with [`TARGET`] set where trained; never at position 0, which nothing
    /// predicts. One, unless a row of text shape was split.
    pub windows: Vec<Vec<u32>>,
    /// The row was longer than the limit and lost its tail, end token included.
    pub cut: bool,
    /// Its text brought a beginning or end token, which it has once.
    pub own_ends: bool,
}

/// A model's tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    vocab_size: usize,
    added: HashSet<u32>,
    eos: u32,
    eos_text: Option<String>,
    eos_ids: Vec<u32>,
    bos: Option<u32>,
    content_hash: [u8; 32],
    bytes: usize,
    special: SpecialTokens,
    chat: Option<ChatSource>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("path", &self.path).field("eos", &self.eos).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// About how many bytes a model's tokenizer will hold, by its file's size; 0 where it cannot be opened.
    pub(crate) fn expected_bytes(model: &ModelFiles) -> usize {
        match model.gguf() {
            Some(file) => HELD * gguf::tokenizer::expected_bytes(file),
            None => model.tokenizer().ok().flatten().map_or(0, |file| HELD * file.length() as usize),
        }
    }

    /// About how many bytes it holds: the vocabulary stands in it several times, and merges beside it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes the tokenizer that a GGUF file holds, or that of `tokenizer.json`; its end tokens come from `config.json`,
    /// `generation_config.json` and `tokenizer_config.json`, where present.
    ///
    /// # Errors
    /// [`Error::Io`] without a `tokenizer.json`; [`Error::Tokenizer`] where another library's file stands in its place, for a
    /// malformed file, for files that disagree, or when no end token is named or known.
    pub fn of(model: &ModelFiles) -> Result<Tokenizer> {
        if let Some(file) = model.gguf() {
            return Tokenizer::of_gguf(file, Tokenizer::expected_bytes(model));
        }
        let (path, bytes) = (model.place(TOKENIZER), model.read_tokenizer()?);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes);
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(|e| fault(&path, e))?;
        let size = bytes.len();
        drop(bytes);
        inner.with_truncation(None).map_err(|e| fault(&path, e))?;
        inner.with_padding(None);
        keep_offsets_whole(&mut inner).map_err(|e| fault(&path, e))?;
        for added in super::added::add(&mut inner, model)? {
            hasher.update(added.content.as_bytes());
            let flags = [added.single_word, added.lstrip, added.rstrip, added.normalized, added.special];
            hasher.update(&flags.map(u8::from));
        }

        let config = model.json("config.json")?;
        let generation = model.json("generation_config.json")?;
        let names = model.json("tokenizer_config.json")?;
        let model_eos = ids_of(&config, "eos_token_id");
        let older = model.json("special_tokens_map.json")?;
        // transformers looks into the map only where tokenizer_config.json has no list of added tokens.
        let mapped = !names["added_tokens_decoder"].is_object();
        let named = |key| {
            let text = token_text(&names, key).or_else(|| token_text(&older, key).filter(|_| mapped));
            text.and_then(|text| inner.token_to_id(text))
        };
        let eos = model_eos.first().copied().or_else(|| named("eos_token")).ok_or_else(|| {
            fault(
                &path,
                "no end-of-sequence token: config.json names no eos_token_id, tokenizer_config.json no eos_token",
            )
        })?;
        let eos_token = inner.id_to_token(eos).ok_or_else(|| {
            fault(&path, format!("the end-of-sequence token {eos} of config.json is not in the vocabulary"))
        })?;
        let mut eos_ids: BTreeSet<u32> = model_eos.into_iter().collect();
        eos_ids.extend(ids_of(&generation, "eos_token_id"));
        eos_ids.insert(eos);
        let bos = ids_of(&config, "bos_token_id").first().copied().or_else(|| named("bos_token"));
        hasher.update(&eos.to_le_bytes());
        let ends = eos_ids.into_iter().collect();
        let mut special = ChatSource::special_of(model)?;
        if names.is_null() {
            // Nothing says how templates name them, so they are named by the model's configuration.
            let text = |id: Option<u32>| id.and_then(|id| inner.id_to_token(id));
            special = special.named(text(bos).as_deref(), Some(&eos_token));
        }
        let (hash, chat) = (*hasher.finalize().as_bytes(), (ChatSource::of(model)?, special));
        Tokenizer::new(inner, path, (eos, eos_token), ends, bos, hash, HELD * size, chat)
    }

    /// As [`Tokenizer::of`], of what lies at this path.
    ///
    /// # Errors
    /// As [`Tokenizer::of`].
    pub fn load(model: impl AsRef<Path>) -> Result<Tokenizer> {
        Tokenizer::of(&ModelFiles::open(model.as_ref())?)
    }

    fn of_gguf(file: &GgufFile, bytes: usize) -> Result<Tokenizer> {
        let path = file.path();
        let gguf::tokenizer::Read { inner, eos, ends, bos } = gguf::tokenizer::load(file)?;
        let text = inner.id_to_token(eos).ok_or_else(|| fault(path, format!("no token {eos}")))?;
        let mut hasher = gguf::tokenizer::hash(file);
        hasher.update(&eos.to_le_bytes());
        let ends: BTreeSet<u32> = ends.into_iter().collect();
        let (ends, hash) = (ends.into_iter().collect(), *hasher.finalize().as_bytes());
        let chat = ChatSource::of_gguf(file)?;
        Tokenizer::new(inner, path.to_path_buf(), (eos, text), ends, bos, hash, bytes, chat)
    }

    #[allow(clippy::too_many_arguments)]
    fn new(
        inner: tokenizers::Tokenizer,
        path: PathBuf,
        (eos, eos_token): (u32, String),
        eos_ids: Vec<u32>,
        bos: Option<u32>,
        content_hash: [u8; 32],
        bytes: usize,
        (chat, special): (Option<ChatSource>, SpecialTokens),
    ) -> Result<Tokenizer> {
        let decoder = inner.get_added_tokens_decoder();
        let added = decoder.keys().copied().collect();
        let texts = decoder.into_values().filter(|t| t.special).map(|t| t.content).collect::<Vec<_>>();
        let special = special.with(texts);
        let chat = chat.map(|chat| ChatSource { special: special.clone(), ..chat });
        let vocab_size = inner.get_vocab_size(true);
        let mut tokenizer = Tokenizer {
            inner,
            path,
            vocab_size,
            added,
            eos,
            eos_text: None,
            eos_ids,
            bos,
            content_hash,
            bytes,
            special,
            chat,
        };
        // Text of the vocabulary that is no added token would be encoded in pieces.
        let in_context = tokenizer.encoding(&format!("a{eos_token}\n"), false)?;
        if in_context.get_ids().contains(&eos) {
            tokenizer.eos_text = Some(eos_token);
        }
        Ok(tokenizer)
    }

    fn encoding(&self, text: &str, special: bool) -> Result<tokenizers::Encoding> {
        self.inner.encode(text, special).map_err(|e| fault(&self.path, e))
    }

    /// Ids of a text, with the special tokens that the tokenizer puts around it (BOS, mostly).
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encoding(text, true)?.get_ids().to_vec())
    }

    /// Ids of a text that a chat template wrote: as it is, with the special tokens that stand in it and no others.
    ///
    /// # Errors
    /// [`Error::Tokenizer`]: also when it begins with two beginning tokens.
    pub fn encode_chat(&self, text: &str) -> Result<Vec<u32>> {
        let ids = self.encoding(text, false)?.get_ids().to_vec();
        self.one_beginning(&ids)?;
        Ok(ids)
    }

    fn one_beginning(&self, ids: &[u32]) -> Result<()> {
        match (self.bos, ids) {
            (Some(bos), [first, second, ..]) if (*first & !TARGET, *second & !TARGET) == (bos, bos) => {
                let name = self.inner.id_to_token(bos).unwrap_or_default();
                Err(fault(&self.path, format!("the conversation begins with two beginning tokens, {name}")))
            }
            _ => Ok(()),
        }
    }

    /// The model's chat template, not compiled; `None` where it has none.
    pub fn chat_source(&self) -> Option<&ChatSource> {
        self.chat.as_ref()
    }

    /// Takes another chat template for the model's, or none.
    pub fn set_chat_source(&mut self, chat: Option<ChatSource>) {
        self.chat = chat;
    }

    /// The token with which a chat template ends an answer: where a model that was trained by it stops. `None` where the
    /// template tells none, or it is no token of its own.
    pub(crate) fn end_of_turn(&self, template: &str) -> Option<u32> {
        let source = ChatSource::from_text(&self.path, template, self.special.clone());
        let end = ChatTemplate::new(source).ok()?.end_token(&RenderOptions::default()).ok()?;
        match self.encoding(&end, false).ok()?.get_ids() {
            [id] => Some(*id),
            _ => None,
        }
    }

    /// The special tokens by name and text, as chat templates see them.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// Text of ids, with or without special tokens.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(|e| fault(&self.path, e))
    }

    /// Number of tokens, added ones included; ids may lie beyond it where the vocabulary has gaps.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Ids that end a generation, ascending: the union of both configs.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// The end token that rows are closed with.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// Text that encodes to [`Tokenizer::eos`]; `None` where that is no added token.
    pub fn eos_text(&self) -> Option<&str> {
        self.eos_text.as_deref()
    }

    /// The beginning token, where one is named.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The added tokens by id: what is found in a text before all else.
    pub(crate) fn added_tokens(&self) -> BTreeMap<u32, AddedToken> {
        self.inner.get_added_tokens_decoder().into_iter().collect()
    }

    /// blake3 of the bytes of `tokenizer.json`, of what other files add to it and the end token's id.
    pub fn content_hash(&self) -> [u8; 32] {
        self.content_hash
    }

    /// Encodes a row into examples of at most `max_length` tokens (≥ 2).
    ///
    /// A longer row of text shape is split into consecutive windows without overlap, a last window
    /// of one token is dropped; any other longer row loses its tail. A row without spans gets no
    /// end token, nor does a conversation, which brings its own. The empty text gives no example.
    ///
    /// # Errors
    /// [`Error::Tokenizer`]: also when a conversation begins with two beginning tokens.
    pub fn encode_row(&self, row: &Rendered, max_length: usize) -> Result<EncodedRow> {
        if row.text.is_empty() {
            return Ok(EncodedRow::default());
        }
        let max_length = max_length.max(2);
        let own_end = self.eos_text.as_deref().filter(|end| !row.chat && row.text.trim_end().ends_with(end)).is_some();
        // Behind an end there is nothing to learn.
        let text = if own_end { row.text.trim_end() } else { row.text.as_str() };
        let encoding = self.encoding(text, !row.chat)?;
        let spans: Vec<Range<usize>> = row.spans.iter().filter(|s| !s.is_empty()).cloned().collect();
        let mut tokens = Vec::with_capacity(encoding.len() + 1);
        for ((&id, &(start, end)), &inserted) in
            encoding.get_ids().iter().zip(encoding.get_offsets()).zip(encoding.get_special_tokens_mask())
        {
            if id >= TARGET {
                return Err(fault(&self.path, format!("the token id {id} is not below 2^31")));
            }
            let trained = row.whole || (inserted == 0 && self.trains(id, start, end, &spans));
            tokens.push(if trained { id | TARGET } else { id });
        }
        drop(encoding);
        let twice = |bos: u32| matches!(tokens[..], [a, b, ..] if (a & !TARGET, b & !TARGET) == (bos, bos));
        let own_beginning = !row.chat && self.bos.is_some_and(twice);
        if own_beginning {
            tokens.remove(0);
        }
        if row.chat {
            self.one_beginning(&tokens)?;
        } else if row.whole || !row.spans.is_empty() {
            match tokens.as_mut_slice() {
                // A first token ends nothing: it is BOS, which some models share with the end token.
                [_, .., last] if *last & !TARGET == self.eos => *last |= TARGET,
                _ => tokens.push(self.eos | TARGET),
            }
        }
        Ok(EncodedRow { own_ends: own_beginning || own_end, ..limit(tokens, max_length, row.whole) })
    }

    /// Id and text of each token of a row, before an end token is added and the row is cut: the bytes that the token
    /// stands for, or its name in the vocabulary where these are none or part of a character.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub(crate) fn pieces(&self, row: &Rendered) -> Result<Vec<(u32, String)>> {
        let encoding = self.encoding(&row.text, !row.chat)?;
        let mut behind = 0;
        let piece = |(&id, &(start, end)): (&u32, &(usize, usize))| {
            let text = row.text.get(start..end).filter(|t| !t.is_empty() && start >= behind).map(String::from);
            behind = behind.max(end);
            (id, text.unwrap_or_else(|| self.name_of(id)))
        };
        Ok(encoding.get_ids().iter().zip(encoding.get_offsets()).map(piece).collect())
    }

    /// A token's name in the vocabulary.
    pub(crate) fn name_of(&self, id: u32) -> String {
        self.inner.id_to_token(id).unwrap_or_else(|| format!("<{id}>"))
    }

    fn trains(&self, id: u32, start: usize, end: usize, spans: &[Range<usize>]) -> bool {
        // Tokens without width (a normaliser's insertions) belong to what follows them.
        let end = end.max(start + 1);
        let first = spans.partition_point(|s| s.end <= start);
        match spans.get(first) {
            Some(span) if span.start < end => start >= span.start || !self.added.contains(&id),
            _ => false,
        }
    }
}

fn limit(mut tokens: Vec<u32>, max_length: usize, whole: bool) -> EncodedRow {
    let first_is_context = |mut window: Vec<u32>| {
        if let Some(first) = window.first_mut() {
            *first &= !TARGET;
        }
        window
    };
    if tokens.len() <= max_length {
        return EncodedRow { windows: vec![first_is_context(tokens)], ..Default::default() };
    }
    if !whole {
        tokens.truncate(max_length);
        return EncodedRow { windows: vec![first_is_context(tokens)], cut: true, own_ends: false };
    }
    let windows = tokens.chunks(max_length).filter(|w| w.len() > 1).map(|w| first_is_context(w.to_vec())).collect();
    EncodedRow { windows, ..Default::default() }
}

/// Byte-level post-processors may trim blanks off the offsets, which leaves a token of blanks with
/// no bytes at all and so untrained; only the offsets are changed by this, never the ids.
fn keep_offsets_whole(tokenizer: &mut tokenizers::Tokenizer) -> std::result::Result<(), serde_json::Error> {
    fn untrim(value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (key, value) in map.iter_mut() {
                    if key == "trim_offsets" {
                        *value = Value::Bool(false);
                    } else {
                        untrim(value);
                    }
                }
            }
            Value::Array(list) => list.iter_mut().for_each(untrim),
            _ => {}
        }
    }
    let Some(processor) = tokenizer.get_post_processor() else { return Ok(()) };
    let mut json = serde_json::to_value(processor)?;
    let before = json.clone();
    untrim(&mut json);
    if json != before {
        tokenizer.with_post_processor(Some(serde_json::from_value::<PostProcessorWrapper>(json)?));
    }
    Ok(())
}

fn fault(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::Tokenizer { path: path.to_path_buf(), reason: reason.to_string() }
}

fn ids_of(config: &Value, key: &str) -> Vec<u32> {
    let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    match config.get(key) {
        Some(Value::Array(list)) => list.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => Vec::new(),
    }
}

fn token_text<'a>(names: &'a Value, key: &str) -> Option<&'a str> {
    let value = names.get(key)?;
    value.as_str().or_else(|| value.get("content")?.as_str())
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
