//! A model folder's tokenizer as GGUF's fields: what `tokenizer.json` and its neighbours say in llama.cpp's words.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use serde_json::Value;
use tokenizers::AddedToken;

use crate::base::Model;
use crate::data::text::chat::stored::DEFAULT;
use crate::data::tokens::Tokenizer;
use crate::error::{Error, Result};
use crate::files::{json_of, TOKENIZER};
use crate::gguf::pre::Pre;
use crate::gguf::tokenizer::BLANK;
use crate::gguf::tokens::{ends_an_answer, BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED};
use crate::gguf::write::{Field, Fields};

const CONFIG: &str = "tokenizer_config.json";

/// Adds the fields about the tokenizer of a model whose embedding has `rows` rows. Gives what of it has no place in the file.
///
/// # Errors
/// [`Error::Tokenizer`] for one that GGUF has no words for.
pub(crate) fn add_fields(fields: &mut Fields, model: &Model, rows: usize) -> Result<Vec<String>> {
    let folder = Folder::open(model)?;
    let json = &folder.tokenizer["model"];
    if json["type"] != "BPE" {
        return Err(folder.fault(format!("a model of type {} has no place in GGUF (expected \"BPE\")", json["type"])));
    }
    let mut left_out = Vec::new();
    let tokenizer = model.tokenizer()?;
    let (tokens, kinds) = folder.tokens(rows, &tokenizer, &mut left_out)?;
    left_out.extend(flags(model, &tokenizer)?);
    let merges = folder.merges()?;
    let mut add = |name: &str, field: Field| fields.add(format!("tokenizer.{name}"), field);
    if json["byte_fallback"] == true {
        add("ggml.model", Field::Text("llama".into()));
        add("ggml.pre", Field::Text("default".into()));
        add("ggml.scores", Field::Singles(scores(&tokens, &merges)));
        add("ggml.add_space_prefix", Field::Bool(folder.space_prefix()?));
    } else {
        let (normalizer, pre) = (&folder.tokenizer["normalizer"], &folder.tokenizer["pre_tokenizer"]);
        let found = Pre::of(normalizer, pre, json["ignore_merges"] == true).ok_or_else(|| {
            let known = Pre::names();
            folder.fault(format!("its normalizer {normalizer} and pre_tokenizer {pre} are none of llama.cpp's {known}"))
        })?;
        add("ggml.model", Field::Text("gpt2".into()));
        add("ggml.pre", Field::Text(found.name().into()));
        add("ggml.merges", Field::Texts(merges.iter().map(|(a, b)| format!("{a} {b}")).collect()));
    }
    let ids: HashMap<String, u32> = tokens.iter().cloned().zip(0..).collect();
    add("ggml.tokens", Field::Texts(tokens.clone()));
    add("ggml.token_type", Field::Integers(kinds.clone()));
    left_out.extend(folder.special(&mut add, &tokenizer, (&tokens, &kinds), &ids)?);
    folder.templates(&mut add);
    Ok(left_out)
}

/// What no field says of added tokens: that they take the white space about them in, or are whole words.
fn flags(model: &Model, tokenizer: &Tokenizer) -> Result<Option<String>> {
    // llama.cpp knows Phi-3's by the name.
    let name = model.path().file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let phi3 = model.config()?.model_type == "phi3" || name.contains("phi-3") || name.contains("phi3");
    let with = |token: &AddedToken| token.lstrip || token.single_word || token.rstrip && !phi3;
    let texts: Vec<String> =
        tokenizer.added_tokens().into_values().filter(with).map(|token| format!("{:?}", token.content)).collect();
    let said =
        |texts: Vec<String>| format!("lstrip, rstrip and single_word of {}: no field says them", texts.join(", "));
    Ok(Some(texts).filter(|texts| !texts.is_empty()).map(said))
}

struct Folder {
    path: PathBuf,
    tokenizer: Value,
    config: Value,
    /// The chat templates by name.
    templates: BTreeMap<String, String>,
}

impl Folder {
    fn open(model: &Model) -> Result<Folder> {
        let files = model.files();
        let (path, bytes) = (files.place(TOKENIZER), files.read_tokenizer()?);
        let tokenizer = json_of(&path, &bytes)?;
        let config = files.json(CONFIG)?;
        Ok(Folder { path, tokenizer, config, templates: model.templates()?.clone() })
    }

    fn fault(&self, reason: String) -> Error {
        Error::Tokenizer { path: self.path.clone(), reason }
    }

    /// The text and kind of every id below `rows`; ids that mean nothing are unused. The added tokens are those that training
    /// has, whichever file names them.
    fn tokens(
        &self,
        rows: usize,
        tokenizer: &Tokenizer,
        left_out: &mut Vec<String>,
    ) -> Result<(Vec<String>, Vec<i32>)> {
        let json = &self.tokenizer["model"];
        let vocab = json["vocab"].as_object().ok_or_else(|| self.fault("model.vocab: expected an object".into()))?;
        let (mut tokens, mut kinds) = (vec![None; rows], vec![NORMAL; rows]);
        let mut set = |text: &str, id: &Value, kind: Option<i32>| -> Result<()> {
            let at = id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|&id| id < rows);
            let at = at.ok_or_else(|| {
                self.fault(format!("token {text:?} has the id {id}, but the model has {rows} embeddings"))
            })?;
            tokens[at] = Some(text.to_string());
            let byte = json["byte_fallback"] == true && text.len() == 6 && text.starts_with("<0x");
            kinds[at] = kind.unwrap_or(if byte { BYTE } else { NORMAL });
            Ok(())
        };
        for (text, id) in vocab {
            set(text, id, (json["unk_token"] == text.as_str()).then_some(UNKNOWN))?;
        }
        for (id, added) in tokenizer.added_tokens() {
            let text = added.content.as_str();
            // A padding token that was named and never trained may have no row; rows begin and end with the other two.
            if id as usize >= rows && id != tokenizer.eos() && Some(id) != tokenizer.bos() {
                left_out.push(format!("the token {text:?}: its id {id} is beyond the {rows} embeddings"));
                continue;
            }
            let kind = match (json["unk_token"] == text, added.special) {
                (true, _) => UNKNOWN,
                (_, true) => CONTROL,
                _ => USER_DEFINED,
            };
            set(text, &id.into(), Some(kind))?;
        }
        let tokens = tokens.into_iter().enumerate().map(|(id, text)| {
            text.unwrap_or_else(|| {
                kinds[id] = UNUSED;
                format!("[PAD{id}]")
            })
        });
        let tokens = tokens.collect();
        Ok((tokens, kinds))
    }

    fn merges(&self) -> Result<Vec<(String, String)>> {
        let list = self.tokenizer["model"]["merges"].as_array();
        let list = list.ok_or_else(|| self.fault("model.merges: expected a list".into()))?;
        let pair = |(i, merge): (usize, &Value)| {
            let pair = match merge {
                Value::String(text) => text.split_once(' '),
                _ => merge[0].as_str().zip(merge[1].as_str()),
            };
            let pair = pair.ok_or_else(|| self.fault(format!("model.merges[{i}]: {merge} is no pair")))?;
            Ok((pair.0.to_string(), pair.1.to_string()))
        };
        list.iter().enumerate().map(pair).collect()
    }

    /// Whether a SentencePiece tokenizer puts a blank before the text.
    fn space_prefix(&self) -> Result<bool> {
        let parts = |value: &Value, list: &str| match value[list].as_array() {
            Some(all) => all.clone(),
            None if value.is_null() => Vec::new(),
            None => vec![value.clone()],
        };
        let normalizer = parts(&self.tokenizer["normalizer"], "normalizers");
        let pre = parts(&self.tokenizer["pre_tokenizer"], "pretokenizers");
        let mut prefix = false;
        for part in normalizer.iter().chain(&pre) {
            let fits = match part["type"].as_str() {
                Some("Prepend") if part["prepend"] == BLANK => {
                    prefix = true;
                    true
                }
                Some("Replace") => part["pattern"]["String"] == " " && part["content"] == BLANK,
                Some("Metaspace") => {
                    prefix |= part["prepend_scheme"] != "never" && part["add_prefix_space"] != false;
                    part["replacement"] == BLANK
                }
                // Gemma's, after its normalizer has left no blank to split at.
                Some("Split") => part["pattern"]["String"] == " ",
                _ => false,
            };
            if !fits {
                return Err(self.fault(format!("its component {part} has no place in a SentencePiece GGUF")));
            }
        }
        Ok(prefix)
    }

    /// The ids that have a meaning. Gives the end tokens that no field has room for.
    fn special(
        &self,
        add: &mut impl FnMut(&str, Field),
        tokenizer: &Tokenizer,
        (tokens, kinds): (&[String], &[i32]),
        ids: &HashMap<String, u32>,
    ) -> Result<Vec<String>> {
        let around = tokenizer.encode("a")?;
        let (bos, eos) = (tokenizer.bos(), tokenizer.eos());
        if let Some(bos) = bos {
            add("ggml.bos_token_id", Field::U32(bos));
        }
        add("ggml.eos_token_id", Field::U32(eos));
        // What the template ends an answer with, be it `eos` too; without one the first that is left.
        let by_template = tokenizer.chat_source().and_then(|chat| tokenizer.end_of_turn(&chat.template));
        let (mut turn, mut message) = (by_template.filter(|&id| (id as usize) < tokens.len()), None);
        let mut left_out = Vec::new();
        for &id in tokenizer.eos_ids().iter().filter(|&&id| id != eos && Some(id) != by_template) {
            match tokens.get(id as usize).map(String::as_str) {
                Some("<|eom_id|>") => message = Some(id),
                Some(_) if turn.is_none() => turn = Some(id),
                // Readers know these by their texts.
                Some(text) if kinds[id as usize] == CONTROL && ends_an_answer(text) => {}
                Some(text) => left_out.push(format!("the end token {text:?}: GGUF has a field for one beside eos")),
                None => {}
            }
        }
        for (name, id) in [("eot", turn), ("eom", message)] {
            if let Some(id) = id {
                add(&format!("ggml.{name}_token_id"), Field::U32(id));
            }
        }
        for (name, key) in [("unknown", "unk_token"), ("padding", "pad_token")] {
            let value = &self.config[key];
            let text = value.as_str().or_else(|| value["content"].as_str());
            if let Some(&id) = text.and_then(|t| ids.get(t)) {
                add(&format!("ggml.{name}_token_id"), Field::U32(id));
            }
        }
        add("ggml.add_bos_token", Field::Bool(bos.is_some() && around.first().copied() == bos));
        add("ggml.add_eos_token", Field::Bool(around.len() > 1 && around.last() == Some(&eos)));
        Ok(left_out)
    }

    fn templates(&self, add: &mut impl FnMut(&str, Field)) {
        let mut named = self.templates.clone();
        let usual = named.remove(DEFAULT);
        if !named.is_empty() {
            add("chat_templates", Field::Texts(named.keys().cloned().collect()));
        }
        for (name, text) in named {
            add(&format!("chat_template.{name}"), Field::Text(text));
        }
        if let Some(text) = usual {
            add("chat_template", Field::Text(text));
        }
    }
}

/// Scores that rank pieces as the merges do: a piece that is made earlier is likelier. SentencePiece's BPE vocabularies
/// have just such scores.
fn scores(tokens: &[String], merges: &[(String, String)]) -> Vec<f32> {
    let mut rank: HashMap<String, usize> = HashMap::new();
    for (a, b) in merges {
        let next = rank.len();
        rank.entry(format!("{a}{b}")).or_insert(next);
    }
    let last = rank.len();
    tokens.iter().map(|t| -(rank.get(t).copied().unwrap_or(last) as f32)).collect()
}
