//! Files with rows that are no examples, skipped and not.

use super::*;
use crate::config::{BadRows, DataOptions};
use crate::data::testing::shared;
use crate::data::tokens::request::StoreRequest;
use crate::data::tokens::store::TokenStore;
use crate::data::tokens::tokenizer::Tokenizer;
use crate::error::Error;

#[test]
fn reasons_are_those_of_many_rows() {
    let mut skips = Skips::default();
    skips.add(3, "not valid JSON: trailing comma (column 17)");
    skips.add(4, "messages[2].content: expected a string, found \"a \\\" 1\"");
    skips.add(9, "not valid JSON: trailing comma (column 5)");
    skips.add(12, "messages[0].content: expected a string, found \"b\"");
    let found: Vec<_> = skips.reasons.iter().map(|r| (r.reason.as_str(), r.rows, r.first.as_slice())).collect();
    let want = [
        ("not valid JSON: trailing comma", 2, &[3, 9][..]),
        ("messages[…].content: expected a string, found \"…\"", 2, &[4, 12]),
    ];
    assert_eq!(found, want);
    let path = std::path::Path::new("d");
    assert!(skips.check(path, 80).is_ok());
    let e = skips.check(path, 79).unwrap_err().to_string();
    let want = "d: row 3: not valid JSON: trailing comma (column 17); 4 of 79 rows are bad (5.1 %), and bad_rows skip \
                allows 5 %";
    assert_eq!(e, want);
    assert!(Skips::of(skips.reasons).check(path, 4).unwrap_err().to_string().starts_with("d: row 3: not valid"));
}

#[test]
fn neither_reasons_nor_rows_are_kept_without_bound() {
    let mut skips = Skips::default();
    for row in 0..10_000u64 {
        let letters: String = row.to_string().bytes().map(|b| (b + 49) as char).collect();
        skips.add(row, &format!("the key {letters} is missing"));
        skips.add(row, &format!("expected an object, found a number{}", "!".repeat(10_000)));
    }
    assert!(skips.reasons.iter().all(|r| r.reason.len() < 2 * LONGEST));
    assert_eq!((skips.reasons.len(), skips.rows()), (REASONS + 1, 20_000));
    assert!(skips.reasons.iter().all(|r| r.first.len() <= NAMED));
}

struct Files {
    dir: tempfile::TempDir,
    tokenizer: Tokenizer,
}

impl Files {
    fn new() -> Option<Files> {
        let tokenizer = Tokenizer::load(shared("models/stories260K")?).unwrap();
        Some(Files { dir: tempfile::tempdir().unwrap(), tokenizer })
    }

    fn open(&self, name: &str, text: &[u8], bad_rows: BadRows, threads: usize) -> Result<TokenStore> {
        let data = self.dir.path().join(name);
        std::fs::write(&data, text).unwrap();
        TokenStore::open_or_build(&StoreRequest {
            data: &data,
            template: None,
            options: &DataOptions { bad_rows, ..Default::default() },
            tokenizer: &self.tokenizer,
            max_length: 64,
            cache_dir: &self.dir.path().join("cache"),
            threads,
            stop: &|_| false,
        })
    }

    fn fault(&self, name: &str, text: &[u8], bad_rows: BadRows) -> String {
        let e = self.open(name, text, bad_rows, 2).unwrap_err();
        e.to_string().replace(&self.dir.path().join(name).display().to_string(), "d")
    }
}

/// Good rows with each of these in the place that it names, from 1.
fn with(good: &str, n: usize, bad: &[(usize, &[u8])], join: &str) -> Vec<u8> {
    let rows: Vec<Vec<u8>> = (1..=n)
        .map(|i| {
            bad.iter()
                .find(|b| b.0 == i)
                .map_or_else(|| good.replace('#', &i.to_string()).into_bytes(), |b| b.1.to_vec())
        })
        .collect();
    rows.join(join.as_bytes())
}

const GOOD: &str = r##"{"prompt":"a #","completion":"b"}"##;

#[test]
fn bad_rows_are_left_out_where_that_is_allowed() {
    let Some(files) = Files::new() else { return };
    let bad: [(usize, &[u8]); 6] = [
        (1, br#"{"error":"rate limit"}"#),
        (7, br#"{"prompt":"a","completion":null}"#),
        (40, br#"{"prompt":"a","completion":"b",}"#),
        (41, br#"{"prompt":"a","completion":"\ud800"}"#),
        (90, b"[1, 2]"),
        (199, br#"{"prompt":"a","completion":null}"#),
    ];
    let text = with(GOOD, 200, &bad, "\n");
    let e = files.fault("d.jsonl", &text, BadRows::Error);
    assert!(e.starts_with("d: row 1: expected the key messages"), "{e}");
    let store = files.open("d.jsonl", &text, BadRows::Skip, 2).unwrap();
    let counts = store.counts();
    assert_eq!((counts.rows, counts.skipped, counts.kept, store.len()), (200, 6, 194, 194));
    assert_eq!(store.sources()[0].taken, 194);
    let rows: Vec<(u64, &[u64])> = store.sources()[0].skipped.iter().map(|s| (s.rows, s.first.as_slice())).collect();
    assert_eq!(rows, [(1, &[1][..]), (2, &[7, 199]), (1, &[40]), (1, &[41]), (1, &[90])]);
    assert!((0..store.len()).all(|i| !bad.iter().any(|b| b.0 as u64 == store.example(i).source_row)));
    // The store that is opened again knows them, and its rows can be shown.
    let again = files.open("d.jsonl", &text, BadRows::Skip, 1).unwrap();
    assert_eq!((again.sources(), again.hash()), (store.sources(), store.hash()));
    assert_eq!(again.source_rows(&[2, 200]).unwrap()[&200].text, "a 200b");
    // The same examples as of a file without them.
    let clean = files.open("clean.jsonl", &with(GOOD, 6, &[], "\n"), BadRows::Skip, 1).unwrap();
    assert_eq!((clean.counts().skipped, clean.example(1).tokens), (0, again.example(0).tokens));
}

#[test]
fn too_many_are_an_error_all_the_same() {
    let Some(files) = Files::new() else { return };
    let text = with(GOOD, 20, &[(3, b"{"), (9, b"7")], "\n");
    let e = files.fault("d.jsonl", &text, BadRows::Skip);
    assert!(e.starts_with("d: row 3: not valid JSON: EOF while parsing"), "{e}");
    assert!(e.ends_with("; 2 of 20 rows are bad (10.0 %), and bad_rows skip allows 5 %"), "{e}");
    assert!(files.open("one.jsonl", &with(GOOD, 20, &[(3, b"{")], "\n"), BadRows::Skip, 2).is_ok());
    // None is good: the first says what was expected.
    let e = files.fault("none.jsonl", b"7\n{\"x\":1}\n", BadRows::Skip);
    assert_eq!(e, "d: row 1: expected an object, found a number");
}

#[test]
fn every_kind_of_file_goes_on_behind_a_bad_row() {
    let Some(files) = Files::new() else { return };
    let array = |bad: &[(usize, &[u8])]| [b"[".to_vec(), with(GOOD, 60, bad, ",\n"), b"]".to_vec()].concat();
    let csv = |bad: &[(usize, &[u8])]| [b"prompt,completion\n".to_vec(), with("a #,b", 60, bad, "\n")].concat();
    let long = [b"{\"prompt\":\"", vec![b'a'; 65 << 20].as_slice(), b"\"}"].concat();
    let mut failed = Vec::new();
    for (name, text, first) in [
        ("a.json", array(&[(3, b"[1, {\"]\": 2}]"), (9, b"\"x\\\\\"")]), "expected an object, found an array"),
        ("b.json", array(&[(3, b"null"), (9, b"-1.5e3")]), "expected an object, found null"),
        ("c.json", array(&[(3, b"{\"prompt\": tru}"), (9, b"{}")]), "not valid JSON"),
        ("a.csv", csv(&[(3, b"a"), (9, b"a,b,c")]), "expected 2 values, found 1"),
        ("b.csv", csv(&[(3, b"a,\xff"), (9, b"\xff,b")]), "value 2 is not in UTF-8"),
        ("long.jsonl", with(GOOD, 60, &[(3, &long), (9, b"7")], "\n"), "the row is longer than 64 MiB"),
    ] {
        let strict = files.fault(name, &text, BadRows::Error);
        if !strict.starts_with(&format!("d: row 3: {first}")) {
            failed.push(format!("{name}: {strict}"));
        }
        match files.open(name, &text, BadRows::Skip, 2) {
            Err(e) => failed.push(format!("{name}: {e}")),
            Ok(store) => {
                let named: Vec<u64> = store.sources()[0].skipped.iter().flat_map(|s| s.first.clone()).collect();
                if (named.as_slice(), store.len()) != (&[3, 9][..], 58) || store.example(57).source_row != 60 {
                    failed.push(format!("{name}: {named:?}, {} examples", store.len()));
                }
            }
        }
    }
    // What says nothing of the rows behind it ends the reading.
    let cut = [b"[".to_vec(), with(GOOD, 60, &[], ",\n")].concat();
    failed.extend(files.open("cut.json", &cut, BadRows::Skip, 2).err().is_none().then(|| "a file that is cut".into()));
    // Nor does a quote that is left open hide the records in it.
    let quoted = csv(&[(10, b"a,\"b"), (40, b"a\",b")]);
    let e = files.fault("quoted.csv", &quoted, BadRows::Skip);
    if !e.starts_with("d: row 10: expected 2 values, found ") {
        failed.push(e);
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn a_build_that_was_stopped_keeps_what_it_skipped() {
    let Some(files) = Files::new() else { return };
    let bad: Vec<(usize, &[u8])> = (1..30_000).filter(|i| i % 100 == 7).map(|i| (i, &b"7"[..])).collect();
    let text = with(GOOD, 30_000, &bad, "\n");
    let data = files.dir.path().join("d.jsonl");
    std::fs::write(&data, &text).unwrap();
    let asked = std::cell::Cell::new(0);
    let stopping = |_| {
        asked.set(asked.get() + 1);
        asked.get() > 6
    };
    let request = StoreRequest {
        data: &data,
        template: None,
        options: &DataOptions { bad_rows: BadRows::Skip, ..Default::default() },
        tokenizer: &files.tokenizer,
        max_length: 64,
        cache_dir: &files.dir.path().join("cache"),
        threads: 1,
        stop: &stopping,
    };
    assert!(matches!(TokenStore::open_or_build(&request), Err(Error::Stopped { .. })));
    let resumed = TokenStore::open_or_build(&StoreRequest { stop: &|_| false, ..request }).unwrap();
    let whole = StoreRequest { stop: &|_| false, cache_dir: &files.dir.path().join("other"), ..request };
    let whole = TokenStore::open_or_build(&whole).unwrap();
    assert_eq!((resumed.sources(), resumed.hash()), (whole.sources(), whole.hash()));
    assert_eq!(whole.counts().skipped, 300);
}
