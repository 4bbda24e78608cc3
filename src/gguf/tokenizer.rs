//! The tokenizer that a GGUF file holds, as the library that reads `tokenizer.json` builds it: byte-level BPE
//! (`gpt2`) with its merges, and SentencePiece's BPE (`llama`), whose merges follow from the scores.

use std::path::Path;

use serde_json::{json, Value};
use tokenizers::models::bpe::{Vocab, BPE};
use tokenizers::{AddedToken, ModelWrapper};

use super::file::GgufFile;
use super::pre::Pre;
use super::tokens::{end_tokens, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED};
use crate::error::{Error, Result};

/// The blank in a SentencePiece vocabulary.
pub(crate) const BLANK: &str = "\u{2581}";

/// A tokenizer and what the file says of it.
pub(crate) struct Read {
    /// Ready to encode, without truncation or padding.
    pub inner: tokenizers::Tokenizer,
    /// What rows are closed with.
    pub eos: u32,
    /// Ids that end a generation, the first being `eos`.
    pub ends: Vec<u32>,
    /// The beginning token, where one is named.
    pub bos: Option<u32>,
}

/// The chat template of a GGUF file and the special tokens that it may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatTemplate {
    /// `tokenizer.chat_template`, word for word.
    pub template: Option<String>,
    /// Further templates by name, as `tool_use`.
    pub named: Vec<(String, String)>,
    /// Text of BOS.
    pub bos_token: Option<String>,
    /// Text of the end token.
    pub eos_token: Option<String>,
    /// Text of the unknown token.
    pub unk_token: Option<String>,
    /// Text of the padding token.
    pub pad_token: Option<String>,
}

/// The chat template of a GGUF file.
///
/// # Errors
/// When the file cannot be read, or a field has another type than it must have.
pub fn chat_template(path: &Path) -> Result<ChatTemplate> {
    chat_template_of(&GgufFile::open(path)?)
}

/// The same of an open file.
pub(crate) fn chat_template_of(file: &GgufFile) -> Result<ChatTemplate> {
    file.file().unchanged()?;
    let tokens = file.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
    let text = |name: &str| -> Result<Option<String>> {
        let id = file.size(&format!("tokenizer.ggml.{name}_token_id"))?;
        Ok(id.and_then(|id| tokens.get(usize::try_from(id).ok()?).cloned()))
    };
    let names = file.texts("tokenizer.chat_templates")?.unwrap_or_default();
    let mut named = Vec::new();
    for name in names {
        if let Some(template) = file.text(&format!("tokenizer.chat_template.{name}"))? {
            named.push((name, template.to_string()));
        }
    }
    Ok(ChatTemplate {
        template: file.text("tokenizer.chat_template")?.map(str::to_string),
        named,
        bos_token: text("bos")?,
        eos_token: text("eos")?,
        unk_token: text("unknown")?,
        pad_token: text("padding")?,
    })
}

/// Builds the tokenizer.
///
/// # Errors
/// [`Error::Tokenizer`] for one that is not known or does not fit together.
pub(crate) fn load(file: &GgufFile) -> Result<Read> {
    let path = file.path();
    file.file().unchanged()?;
    let fail = |reason: String| Error::Tokenizer { path: path.into(), reason };
    let model = file.text("tokenizer.ggml.model")?.unwrap_or("none").to_string();
    let tokens = file.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
    if tokens.is_empty() {
        return Err(fail("tokenizer.ggml.tokens: expected the vocabulary, found nothing".into()));
    }
    let kinds = file.integers("tokenizer.ggml.token_type")?.unwrap_or_else(|| vec![NORMAL; tokens.len()]);
    if kinds.len() != tokens.len() {
        let reason = format!("tokenizer.ggml.token_type has {} entries for {} tokens", kinds.len(), tokens.len());
        return Err(fail(reason));
    }
    let mut vocabulary = Vocab::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        // Of two tokens of one text the first is found; unused ones fill the vocabulary up.
        vocabulary.entry(token.clone()).or_insert(id as u32);
    }
    let id_of = |name: &str| -> Result<Option<u32>> {
        let Some(id) = file.size(&format!("tokenizer.ggml.{name}_token_id"))? else { return Ok(None) };
        match u32::try_from(id).ok().filter(|&id| (id as usize) < tokens.len()) {
            Some(id) => Ok(Some(id)),
            None => Err(fail(format!("tokenizer.ggml.{name}_token_id {id} is beyond {} tokens", tokens.len()))),
        }
    };
    let parts = match model.as_str() {
        "gpt2" => byte_level(file, vocabulary)?,
        "llama" => sentence_piece(file, &tokens, &kinds, vocabulary)?,
        other => {
            return Err(fail(format!(
                "tokenizer.ggml.model {other:?} is not supported (expected \"gpt2\" or \"llama\")"
            )))
        }
    };
    let (bos, eos) = (id_of("bos")?, id_of("eos")?);
    let eos = eos.ok_or_else(|| fail("no end-of-sequence token: tokenizer.ggml.eos_token_id is absent".into()))?;
    let around = |id: Option<u32>, flag: Option<bool>, default: bool| id.filter(|_| flag.unwrap_or(default));
    let first = around(bos, file.flag("tokenizer.ggml.add_bos_token")?, parts.add_bos);
    let last = around(Some(eos), file.flag("tokenizer.ggml.add_eos_token")?, false);
    let mut inner = assemble(&tokens, parts, first, last).map_err(|e| fail(e.to_string()))?;
    // llama.cpp tells them by the name.
    let called = file.text("general.name")?.unwrap_or_default().to_lowercase();
    let phi3 = super::config::architecture(file)?.model_type == "phi3";
    let strips = phi3 || called.contains("phi-3") || called.contains("phi3");
    let added = added_tokens(&tokens, &kinds, strips);
    inner.add_tokens(added).map_err(|e| fail(e.to_string()))?;
    let mut ends = vec![eos];
    ends.extend(end_tokens(file)?.into_iter().filter_map(|id| u32::try_from(id).ok()).filter(|&id| id != eos));
    Ok(Read { inner, eos, ends, bos })
}

/// About the bytes that a `tokenizer.json` of the same would have.
pub(crate) fn expected_bytes(file: &GgufFile) -> usize {
    let bytes = file.tokenizer_bytes().map(<[u8]>::len).sum::<usize>();
    // Measured: 9 bytes are held for each of a byte-level vocabulary's, 19 where merges are made from scores.
    if file.field("tokenizer.ggml.scores").is_some() {
        bytes / 2 * 3
    } else {
        bytes / 4 * 3
    }
}

/// blake3 of the fields about the tokenizer.
pub(crate) fn hash(file: &GgufFile) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    file.tokenizer_bytes().for_each(|bytes| {
        hasher.update(bytes);
    });
    hasher
}

/// A model and what stands around it, as in a `tokenizer.json`.
struct Parts {
    model: BPE,
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    add_bos: bool,
}

fn byte_level(file: &GgufFile, vocabulary: Vocab) -> Result<Parts> {
    let fail = |reason: String| Error::Tokenizer { path: file.path().into(), reason };
    let name = file.text("tokenizer.ggml.pre")?.unwrap_or("default");
    let pre = Pre::named(name)
        .ok_or_else(|| fail(format!("tokenizer.ggml.pre {name:?} is not one of those supported: {}", Pre::names())))?;
    let merges = file.texts("tokenizer.ggml.merges")?;
    let merges = merges.ok_or_else(|| fail("tokenizer.ggml.merges: expected a list, found nothing".into()))?;
    let pair = |(i, merge): (usize, &String)| match merge.split_once(' ') {
        Some((a, b)) => Ok((a.to_string(), b.to_string())),
        None => Err(fail(format!("tokenizer.ggml.merges: entry {i} {merge:?} is no pair"))),
    };
    let merges = merges.iter().enumerate().map(pair).collect::<Result<Vec<_>>>()?;
    let model = BPE::builder().vocab_and_merges(vocabulary, merges);
    let model = model.ignore_merges(pre.ignore_merges).build().map_err(|e| fail(e.to_string()))?;
    let decoder = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    let (normalizer, pre_tokenizer) = (pre.normalizer(), pre.pre_tokenizer());
    Ok(Parts { model, normalizer, pre_tokenizer, decoder, add_bos: pre.add_bos })
}

fn sentence_piece(file: &GgufFile, tokens: &[String], kinds: &[i32], vocabulary: Vocab) -> Result<Parts> {
    let fail = |reason: String| Error::Tokenizer { path: file.path().into(), reason };
    let scores = file.singles("tokenizer.ggml.scores")?.filter(|s| s.len() == tokens.len());
    let scores = scores.ok_or_else(|| fail(format!("tokenizer.ggml.scores: expected {} singles", tokens.len())))?;
    // To look for the merges of a token takes as many steps as the square of its length.
    if let Some(id) = tokens.iter().position(|t| t.len() > LONGEST) {
        return Err(fail(format!(
            "tokenizer.ggml.tokens: entry {id} has {} bytes, more than {LONGEST}",
            tokens[id].len()
        )));
    }
    let unknown = kinds.iter().position(|&k| k == UNKNOWN).map(|id| tokens[id].clone());
    let merges = merges_of_scores(tokens, kinds, &scores, &vocabulary);
    let mut model = BPE::builder().vocab_and_merges(vocabulary, merges);
    model = model.byte_fallback(true).fuse_unk(true);
    if let Some(unknown) = unknown {
        model = model.unk_token(unknown);
    }
    let model = model.build().map_err(|e| fail(e.to_string()))?;
    let blank =
        |before: &str, after: &str| json!({ "type": "Replace", "pattern": { "String": before }, "content": after });
    let prefix = file.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let mut normalizers = vec![blank(" ", BLANK)];
    let mut decoders = vec![blank(BLANK, " "), json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })];
    if prefix {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": BLANK }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    Ok(Parts {
        model,
        normalizer: json!({ "type": "Sequence", "normalizers": normalizers }),
        pre_tokenizer: Value::Null,
        decoder: json!({ "type": "Sequence", "decoders": decoders }),
        add_bos: true,
    })
}

/// Most bytes of a token of SentencePiece: the longest that models have are runs of some dozens of blanks.
const LONGEST: usize = 4096;

/// The merges that give SentencePiece's result: every pair of pieces that makes a piece, the likeliest piece first
/// (transformers makes them so, too).
fn merges_of_scores(tokens: &[String], kinds: &[i32], scores: &[f32], vocabulary: &Vocab) -> Vec<(String, String)> {
    let piece = |id: u32| matches!(kinds[id as usize], NORMAL | USER_DEFINED | UNUSED);
    let mut merges: Vec<(f32, usize, usize, u32, u32)> = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        if !piece(id as u32) || vocabulary.get(token) != Some(&(id as u32)) {
            continue;
        }
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&l), Some(&r)) = (vocabulary.get(left), vocabulary.get(right)) {
                if piece(l) && piece(r) {
                    merges.push((scores[id], left.chars().count(), right.chars().count(), l, r));
                }
            }
        }
    }
    // Descending by score and lengths; equal ones by ids.
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((b.1, b.2).cmp(&(a.1, a.2))).then((a.3, a.4).cmp(&(b.3, b.4))));
    let text = |id: u32| tokens[id as usize].clone();
    merges.into_iter().map(|(.., l, r)| (text(l), text(r))).collect()
}

fn assemble(
    tokens: &[String],
    parts: Parts,
    first: Option<u32>,
    last: Option<u32>,
) -> std::result::Result<tokenizers::Tokenizer, Box<dyn std::error::Error + Send + Sync>> {
    let mut inner = tokenizers::Tokenizer::new(ModelWrapper::BPE(parts.model));
    if !parts.normalizer.is_null() {
        let normalizer = serde_json::from_value::<tokenizers::NormalizerWrapper>(parts.normalizer)?;
        inner.with_normalizer(Some(normalizer)).map_err(|e| e.to_string())?;
    }
    if !parts.pre_tokenizer.is_null() {
        inner.with_pre_tokenizer(Some(serde_json::from_value::<tokenizers::PreTokenizerWrapper>(parts.pre_tokenizer)?));
    }
    inner.with_decoder(Some(serde_json::from_value::<tokenizers::DecoderWrapper>(parts.decoder)?));
    let special = |id: u32| json!({ "SpecialToken": { "id": tokens[id as usize], "type_id": 0 } });
    let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    let row: Vec<Value> = first.map(special).into_iter().chain([text]).chain(last.map(special)).collect();
    if row.len() > 1 {
        let mut known = serde_json::Map::new();
        for id in first.into_iter().chain(last) {
            let token = &tokens[id as usize];
            known.insert(token.clone(), json!({ "id": token, "ids": [id], "tokens": [token] }));
        }
        let second = json!({ "Sequence": { "id": "B", "type_id": 1 } });
        let pair: Vec<Value> = row.iter().cloned().chain([second]).collect();
        let template = json!({ "type": "TemplateProcessing", "single": row, "pair": pair, "special_tokens": known });
        inner.with_post_processor(Some(serde_json::from_value::<tokenizers::PostProcessorWrapper>(template)?));
    }
    Ok(inner)
}

/// Tokens that are found in the text before all else. `strips`: Phi-3's take the white space behind them in.
fn added_tokens(tokens: &[String], kinds: &[i32], strips: bool) -> Vec<AddedToken> {
    let mut added = Vec::new();
    for (token, &kind) in tokens.iter().zip(kinds) {
        if matches!(kind, CONTROL | UNKNOWN | USER_DEFINED) && !token.is_empty() {
            let keeps = matches!(token.as_str(), "<unk>" | "<s>" | "<|endoftext|>");
            let one = AddedToken::from(token.clone(), kind != USER_DEFINED).normalized(false);
            added.push(one.rstrip(strips && !keeps));
        }
    }
    added
}
