use super::*;
use crate::data::testing::shared;
use serde_json::json;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

fn stories() -> Option<Tokenizer> {
    shared("models/stories260K").map(|dir| Tokenizer::load(dir).unwrap())
}

/// A tokenizer folder made of values.
fn folder(tokenizer: &Value, config: Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

/// Byte-level BPE as in GPT-2 (offsets trimmed), with runs of blanks and one end token.
fn byte_level() -> Value {
    let mut letters: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
    letters.sort();
    letters.push("\u{120}\u{120}".into());
    let vocab: serde_json::Map<_, _> = letters.into_iter().enumerate().map(|(i, c)| (c, json!(i))).collect();
    json!({
        "version": "1.0", "normalizer": null, "decoder": null,
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "!"},
        "added_tokens": [{"id": 257, "content": "<eos>", "single_word": false, "lstrip": false, "rstrip": true,
                          "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": {"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
             "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
             "special_tokens": {"<eos>": {"id": "<eos>", "ids": [257], "tokens": ["<eos>"]}}}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
                  "merges": ["\u{120} \u{120}"]},
    })
}

/// Ids, and the trained ones as text.
fn only(t: &Tokenizer, r: &Rendered) -> (Vec<u32>, Vec<u32>) {
    let mut e = t.encode_row(r, 1 << 20).unwrap();
    assert_eq!((e.windows.len(), e.cut), (1, false));
    let window = e.windows.remove(0);
    let trained = window.iter().filter(|t| **t & TARGET != 0).map(|t| t & !TARGET).collect();
    (window.iter().map(|t| t & !TARGET).collect(), trained)
}

#[test]
fn ids_equal_the_reference() {
    let (Some(t), Some(path)) = (stories(), shared("models/stories260K/golden.json")) else { return };
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = golden["encodings"].as_array().unwrap();
    assert!(cases.len() >= 40);
    for case in cases {
        let ids: Vec<u32> = case["ids"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
        let text = case["text"].as_str().unwrap();
        assert_eq!(t.encode(text).unwrap(), ids, "{text:?}");
        if !text.is_empty() {
            assert_eq!(t.decode(&ids, true).unwrap(), text);
        }
    }
    assert_eq!((t.eos(), t.bos(), t.eos_ids(), t.eos_text()), (2, Some(1), &[1, 2][..], Some("</s>")));
    assert_eq!(t.vocab_size(), 512);
}

#[test]
fn multi_byte_responses_train_whole_and_alone() {
    let Some(t) = stories() else { return };
    // Each of these has characters outside the vocabulary, which fall back to bytes.
    for (prompt, response) in [("Où? ", "là-bas 🦙é"), ("漢字", "想"), ("🦙", "🦙🦙"), ("", "é"), ("é", "")]
    {
        let (ids, trained) = only(&t, &Rendered::pair(prompt, response));
        let mut all = t.encode(&format!("{prompt}{response}")).unwrap();
        all.push(2);
        assert_eq!(ids, all);
        // Every token is at least one byte here, so what is trained is the tail.
        assert_eq!(trained, ids[ids.len() - trained.len()..], "{prompt:?} {response:?}");
        let text = t.decode(&[vec![1], trained.clone()].concat(), true).unwrap();
        assert_eq!(text.trim_start(), response, "{prompt:?}");
        assert_eq!(trained.last(), Some(&2));
    }
    // The seam lies inside the token "ello" or the like: the token that overlaps is trained.
    let (ids, trained) = only(&t, &Rendered::pair("He", "llo"));
    assert_eq!((ids.as_slice(), trained.as_slice()), (&[1, 346, 306, 414, 2][..], &[306, 414, 2][..]));
}

#[test]
fn whole_texts_train_all_but_the_first_token() {
    let Some(t) = stories() else { return };
    let (ids, trained) = only(&t, &Rendered::text("Hello"));
    assert_eq!((ids.as_slice(), trained.as_slice()), (&[1, 346, 306, 414, 2][..], &[346, 306, 414, 2][..]));
    // The end token is written once, even where the text brings it along.
    assert_eq!(only(&t, &Rendered::text("Hello</s>")).0, [1, 346, 306, 414, 2]);
    assert_eq!(only(&t, &Rendered::pair("Hello", "</s>")), (vec![1, 346, 306, 414, 2], vec![2]));
    assert_eq!(t.encode_row(&Rendered::text(""), 8).unwrap(), EncodedRow::default());
    // Without spans there is nothing to end.
    assert_eq!(only(&t, &Rendered { text: "Hello".into(), ..Default::default() }), (vec![1, 346, 306, 414], vec![]));
}

#[test]
fn long_texts_split_and_long_pairs_are_cut() {
    let Some(t) = stories() else { return };
    let ids = |e: &EncodedRow| -> Vec<Vec<u32>> {
        e.windows.iter().map(|w| w.iter().map(|t| t & !TARGET).collect()).collect()
    };
    let e = t.encode_row(&Rendered::text("Hello"), 3).unwrap();
    assert_eq!((ids(&e), e.cut), (vec![vec![1, 346, 306], vec![414, 2]], false));
    assert_eq!(e.windows[1], [414, 2 | TARGET]);
    assert_eq!(ids(&t.encode_row(&Rendered::text("Hello"), 4).unwrap()), [[1, 346, 306, 414]]);
    let e = t.encode_row(&Rendered::pair("He", "llo"), 4).unwrap();
    assert_eq!((e.windows, e.cut), (vec![vec![1, 346, 306 | TARGET, 414 | TARGET]], true));
    assert!(!t.encode_row(&Rendered::pair("He", "llo"), 5).unwrap().cut);
}

#[test]
fn blanks_keep_their_offsets_and_lengths_are_ours() {
    let dir = folder(&byte_level(), json!({"eos_token_id": [257, 3]}));
    let t = Tokenizer::load(dir.path()).unwrap();
    let blanks = t.inner.token_to_id("\u{120}\u{120}").unwrap();
    let (ids, trained) = only(&t, &Rendered::pair("ab", "c  "));
    assert_eq!((ids.len(), trained.len()), (5, 3));
    assert_eq!(trained[1], blanks);
    assert_eq!((t.eos(), t.eos_ids(), t.bos()), (257, &[3, 257][..], None));
}

#[test]
fn an_added_token_that_begins_before_the_span_is_not_trained() {
    // As in Phi-3: the added token swallows the blank with which the answer begins.
    let t = Tokenizer::load(folder(&byte_level(), json!({"eos_token_id": 257})).path()).unwrap();
    let (ids, trained) = only(&t, &Rendered::pair("a<eos>", " b"));
    assert_eq!((ids.len(), trained.len()), (4, 2));
    let (_, trained) = only(&t, &Rendered::pair("a", "<eos>b"));
    assert_eq!(trained.len(), 3);
}

#[test]
fn end_tokens_come_from_three_files() {
    let load = |config: Value, names: Value| {
        let dir = folder(&byte_level(), config);
        std::fs::write(dir.path().join("tokenizer_config.json"), names.to_string()).unwrap();
        Tokenizer::load(dir.path())
    };
    assert_eq!(load(json!({}), json!({"eos_token": "<eos>"})).unwrap().eos(), 257);
    assert_eq!(load(json!({"eos_token_id": null}), json!({"eos_token": {"content": "<eos>"}})).unwrap().eos(), 257);
    let none = load(json!({}), json!({})).unwrap_err().to_string();
    assert!(none.contains("no end-of-sequence token"), "{none}");
    let far = load(json!({"eos_token_id": 999}), json!({})).unwrap_err().to_string();
    assert!(far.contains("999"), "{far}");
    // "!" is in the vocabulary but no added token; it encodes to itself all the same.
    let t = load(json!({"eos_token_id": 0}), json!({})).unwrap();
    assert_ne!(t.content_hash(), load(json!({"eos_token_id": 1}), json!({})).unwrap().content_hash());
}

#[test]
fn a_damaged_tokenizer_is_named() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Tokenizer::load(dir.path()), Err(Error::Io { .. })));
    std::fs::write(dir.path().join("tokenizer.json"), "{").unwrap();
    assert!(matches!(Tokenizer::load(dir.path()), Err(Error::Tokenizer { .. })));
}

/// Rows that were rendered beforehand bring their own beginning and end: they have one of each.
#[test]
fn rows_with_ends_of_their_own_have_one() {
    let Some(t) = stories() else { return };
    let plain = only(&t, &Rendered::text("Hello"));
    for text in ["<s>Hello", "Hello</s>", "<s>Hello</s>\n", "Hello</s> \n\n"] {
        assert_eq!(only(&t, &Rendered::text(text)), plain, "{text:?}");
        assert!(t.encode_row(&Rendered::text(text), 64).unwrap().own_ends, "{text:?}");
    }
    let pair = only(&t, &Rendered::pair("He", "llo"));
    assert_eq!(only(&t, &Rendered::pair("<s>He", "llo</s>\n")), pair);
    assert!(!t.encode_row(&Rendered::text("Hello"), 64).unwrap().own_ends);
}

#[test]
fn tokens_of_the_other_files_are_added_with_their_ids() {
    let load = |names: Value, older: Value| {
        let dir = folder(&byte_level(), json!({"eos_token_id": 257}));
        std::fs::write(dir.path().join("tokenizer_config.json"), names.to_string()).unwrap();
        if !older.is_null() {
            std::fs::write(dir.path().join("added_tokens.json"), older.to_string()).unwrap();
        }
        let at = dir.path().display().to_string();
        Tokenizer::load(dir.path()).map_err(|e| e.to_string().replace(&at, "D").replace('\\', "/"))
    };
    let plain = load(json!({}), Value::Null).unwrap();
    assert_eq!(plain.encode("a<think>b").unwrap().len(), 9);
    let think = json!({"content": "<think>", "special": false, "lstrip": false, "rstrip": false});
    let eos = json!({"content": "<eos>", "special": true, "rstrip": true});
    let decoder =
        json!({"added_tokens_decoder": {"257": eos, "258": think, "259": {"content": "<b>", "special": true}}});
    let t = load(decoder.clone(), Value::Null).unwrap();
    let ids = t.encode("a<think><b>").unwrap();
    assert_eq!(ids[1..3], [258, 259]);
    assert_ne!(t.content_hash(), plain.content_hash());
    // The older file, and both where they agree.
    assert_eq!(load(json!({}), json!({"<think>": 258})).unwrap().encode("<think>").unwrap()[0], 258);
    assert_eq!(load(decoder.clone(), json!({"<think>": 258})).unwrap().encode("<think>").unwrap()[0], 258);
    // What only repeats the tokenizer changes nothing.
    let same = load(json!({"added_tokens_decoder": {"257": eos}}), Value::Null).unwrap();
    assert_eq!(same.content_hash(), plain.content_hash());
    let e = |names: Value| load(names, Value::Null).unwrap_err();
    let moved = e(json!({"added_tokens_decoder": {"300": {"content": "<eos>", "special": true}}}));
    assert!(
        moved.contains("D/tokenizer_config.json")
            && moved.contains("\"<eos>\" has the id 300 here, and tokenizer.json gives it 257"),
        "{moved}"
    );
    let taken = e(json!({"added_tokens_decoder": {"257": {"content": "<other>", "special": true}}}));
    assert!(taken.contains("tokenizer.json has \"<eos>\" there"), "{taken}");
    let gap = e(json!({"added_tokens_decoder": {"400": {"content": "<far>", "special": true}}}));
    assert!(gap.contains("has no room for it there: it would get 258"), "{gap}");
}

/// As transformers reads them: `tokenizer_config.json` has the last word on flags, and beside its list the older files say
/// nothing; what is named and no token yet becomes one.
#[test]
fn flags_and_names_count_as_in_transformers() {
    let load = |files: &[(&str, Value)]| {
        let dir = folder(&byte_level(), json!({"eos_token_id": 257}));
        files.iter().for_each(|(name, content)| std::fs::write(dir.path().join(name), content.to_string()).unwrap());
        let at = dir.path().display().to_string();
        Tokenizer::load(dir.path()).map_err(|e| e.to_string().replace(&at, "D").replace('\\', "/"))
    };
    let (config, older, map) = ("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json");
    let plain = load(&[]).unwrap();
    let blanks = plain.encode("  ").unwrap();
    let decoder = |token: Value| (config, json!({"added_tokens_decoder": {"258": token}}));
    let list = |key: &str, tokens: Value| (config, json!({key: tokens}));
    let x = json!({"content": "<x>", "special": false});
    let mut wrong = Vec::new();
    for (name, files, text, count) in [
        // In the file the end token takes the blanks behind it in.
        ("flags of tokenizer.json", vec![], "<eos>  a", 2),
        (
            "other flags",
            vec![(config, json!({"added_tokens_decoder": {"257": {"content": "<eos>", "special": true}}}))],
            "<eos>  a",
            3,
        ),
        ("a named pad token", vec![list("pad_token", json!("<x>"))], "a<x>b", 3),
        ("one of the model's own", vec![list("image_token", json!("<x>"))], "a<x>b", 3),
        ("no name of a token", vec![list("add_bos_token", json!(true)), (map, json!({}))], "a<x>b", 5),
        (
            "further ones",
            vec![list("additional_special_tokens", json!(["<y>", {"content": "<x>", "rstrip": true}]))],
            "a<x>  <y>",
            3,
        ),
        ("further ones by name", vec![list("extra_special_tokens", json!({"image": "<x>"}))], "a<x>b", 3),
        ("of the older map", vec![(map, json!({"sep_token": {"content": "<x>", "lstrip": true}}))], "a  <x>", 2),
        ("the older map beside a list", vec![decoder(x.clone()), (map, json!({"sep_token": "<y>"}))], "<x><y>", 4),
        ("the older file beside a list", vec![decoder(x.clone()), (older, json!({"<y>": 259}))], "<x><y>", 4),
        ("an empty name", vec![list("pad_token", json!("")), (older, json!({"": 258}))], "a", 1),
    ] {
        match load(&files).map(|t| t.encode(text).unwrap().len()) {
            Ok(found) if found == count => {}
            found => wrong.push(format!("{name}: {found:?} tokens, not {count}")),
        }
    }
    for (name, files, words) in [
        (
            "two ids",
            vec![decoder(x.clone()), (older, json!({"<x>": 259}))],
            "D/added_tokens.json: tokenizer: the token \"<x>\" has the id 259 here, and tokenizer_config.json gives it 258",
        ),
        (
            "two tokens",
            vec![decoder(x.clone()), (older, json!({"<y>": 258}))],
            "\"<y>\" has the id 258 here, and tokenizer_config.json has \"<x>\" there",
        ),
        (
            "another id than the vocabulary's",
            vec![(older, json!({"<eos>": 300}))],
            "D/added_tokens.json: tokenizer: the token \"<eos>\" has the id 300 here, and tokenizer.json gives it 257",
        ),
    ] {
        match load(&files) {
            Err(said) if said.contains(words) => {}
            found => wrong.push(format!("{name}: {found:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(blanks.len(), 1);
    // A store of tokens is made anew where flags changed.
    let flags = load(&[(config, json!({"added_tokens_decoder": {"257": {"content": "<eos>", "special": true}}}))]);
    assert_ne!(flags.unwrap().content_hash(), plain.content_hash());
    // The end token may be named by the older map alone.
    let dir = folder(&byte_level(), json!({}));
    std::fs::write(dir.path().join(map), json!({"eos_token": "<eos>"}).to_string()).unwrap();
    assert_eq!(Tokenizer::load(dir.path()).unwrap().eos(), 257);
}
