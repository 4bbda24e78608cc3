use std::path::PathBuf;

use super::super::request::StoreRequest;
use super::super::tokenizer::Tokenizer;
use super::super::unfinished::TAKEN_UP;
use super::*;
use crate::data::testing::shared;
use crate::data::tokens::index::{HEADER_BYTES, RECORD_BYTES};
use crate::error::Error;
use std::fs::File;
use std::time::{Duration, SystemTime};

struct Bench {
    tokenizer: Tokenizer,
    dir: tempfile::TempDir,
    options: DataOptions,
    max_length: usize,
    threads: usize,
}

impl Bench {
    fn new() -> Option<Bench> {
        let tokenizer = Tokenizer::load(shared("models/stories260K")?).unwrap();
        let dir = tempfile::tempdir().unwrap();
        Some(Bench { tokenizer, dir, options: DataOptions::default(), max_length: 512, threads: 2 })
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn open(&self, data: &Path) -> Result<TokenStore> {
        TokenStore::open_or_build(&StoreRequest {
            data,
            template: None,
            options: &self.options,
            tokenizer: &self.tokenizer,
            max_length: self.max_length,
            cache_dir: &self.cache(),
            threads: self.threads,
            stop: &|_| false,
        })
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.dir.path().join("d.jsonl");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Files of the cache with this ending, in order.
    fn files(&self, ending: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.cache()).unwrap().map(|e| e.unwrap().path());
        let mut files: Vec<_> = entries.filter(|p| p.to_string_lossy().ends_with(ending)).collect();
        files.sort();
        files
    }
}

fn question_answer() -> DataOptions {
    DataOptions { prompt_field: Some("question".into()), response_field: Some("answer".into()), ..Default::default() }
}

/// Rows longer than 512 tokens, BOS and end token included, were both columns encoded by themselves.
fn encoded_apart(tokenizer: &Tokenizer, data: &Path) -> usize {
    let count = |text: &serde_json::Value| tokenizer.encode(text.as_str().unwrap()).unwrap().len();
    let rows = RowReader::open(data).unwrap().map(|item| item.unwrap().1);
    // The answer's BOS stands for the end token that the row gets.
    rows.filter(|row| count(&row["question"]) + count(&row["answer"]) > 512).count()
}

/// What holds of every store.
fn check(store: &TokenStore) {
    let (mut tokens, mut supervised, mut longest, mut max_id, mut last_row) = (0, 0, 0, 0, 0);
    for i in 0..store.len() {
        let e = store.example(i);
        let targets = (0..e.tokens.len()).filter(|t| e.is_target(*t)).count();
        assert_eq!(targets, e.n_supervised as usize);
        assert!(targets > 0 && !e.is_target(0) && !e.is_target(e.tokens.len()));
        assert!(e.source_row >= last_row);
        last_row = e.source_row;
        tokens += e.tokens.len() as u64;
        supervised += targets as u64;
        longest = longest.max(e.tokens.len());
        max_id = max_id.max(e.ids().max().unwrap());
    }
    assert_eq!((tokens, supervised, longest), (store.total_tokens(), store.supervised_tokens(), store.longest()));
    assert_eq!((max_id, store.counts().kept), (store.max_id(), store.len() as u64));
    assert!(store.verify() && !store.is_empty());
}

#[test]
fn wikisql_is_kept_whole() {
    let (Some(mut bench), Some(data)) = (Bench::new(), shared("data/wikisql-mlx/train.jsonl")) else { return };
    bench.max_length = 1024;
    let store = bench.open(&data).unwrap();
    check(&store);
    assert_eq!((store.len(), store.counts().cut, store.counts().rows), (1000, 0, 1000));
    // Text shape: all but the first token of each example.
    assert_eq!(store.supervised_tokens(), store.total_tokens() - 1000);
    let e = store.example(41);
    assert_eq!((e.source_row, e.ids().next(), e.ids().last()), (42, Some(1), Some(2)));
    let text = &store.source_rows(&[42]).unwrap()[&42];
    assert_eq!(bench.tokenizer.decode(&e.ids().collect::<Vec<_>>(), true).unwrap(), text.text);
    assert_eq!(e.text_hash, text.hash(0));

    let batch = crate::data::tokens::batch::Ragged::from_store(&store, &[41, 7, 41]);
    assert_eq!((batch.row(0), batch.examples.as_slice()), (0..e.tokens.len(), &[41, 7, 41][..]));
    assert!(batch.ids[batch.row(2)].iter().copied().eq(e.ids()));
    assert_eq!(batch.supervised(0).count(), e.n_supervised as usize);
    assert!(batch.supervised(0).map(|(_, target)| target).eq(e.ids().skip(1)));

    // At 512 two texts are split; what is lost is that the second window's first token is no target.
    bench.max_length = 512;
    let halves = bench.open(&data).unwrap();
    check(&halves);
    assert_eq!((halves.len(), halves.counts().windows, halves.counts().cut), (1002, 4, 0));
    assert_eq!((halves.total_tokens(), halves.longest()), (store.total_tokens(), 512));
    assert_eq!(halves.supervised_tokens(), store.supervised_tokens() - 2);
}

#[test]
fn gsm8k_loses_its_long_tails() {
    let (Some(mut bench), Some(data)) = (Bench::new(), shared("data/gsm8k/train.jsonl")) else { return };
    bench.options = question_answer();
    let store = bench.open(&data).unwrap();
    check(&store);
    let counts = store.counts();
    assert_eq!((counts.rows, counts.cut, counts.empty), (7473, 912, 0));
    assert_eq!(counts.rows, counts.kept + counts.no_target);
    assert_eq!(store.longest(), 512);
    assert_eq!(bench.files(".sftmix-tmp").len(), 0);

    // One thread writes the same bytes.
    let read = |bench: &Bench| [".tokens", ".index"].map(|e| std::fs::read(&bench.files(e)[0]).unwrap());
    let two = read(&bench);
    let mut one = Bench::new().unwrap();
    (one.options, one.threads) = (question_answer(), 1);
    assert_eq!(one.open(&data).unwrap().hash(), store.hash());
    assert!(read(&one) == two);

    // A blank between question and answer, which is also what encoding the two apart inserts with
    // this tokenizer, makes some rows one token longer.
    bench.options = DataOptions { prompt_template: Some("{question} ".into()), ..bench.options.clone() };
    bench.options.prompt_field = None;
    let (joined, apart) = (bench.open(&data).unwrap(), encoded_apart(&bench.tokenizer, &data));
    assert_eq!((joined.counts().cut, apart), (915, 915));
}

#[test]
fn alpaca_trains_the_end_of_empty_outputs() {
    let (Some(mut bench), Some(data)) = (Bench::new(), shared("data/alpaca/alpaca_random_9k.json")) else { return };
    bench.max_length = 1 << 14;
    let store = bench.open(&data).unwrap();
    check(&store);
    let counts = store.counts();
    assert_eq!((counts.rows, counts.kept, counts.empty, counts.no_target), (9229, 9229, 0, 0));
    let only_end: Vec<_> = (0..store.len()).map(|i| store.example(i)).filter(|e| e.n_supervised == 1).collect();
    assert_eq!(only_end.len(), 4);
    assert!(only_end.iter().all(|e| e.tokens.last() == Some(&(2 | TARGET))));
    let rows: Vec<u64> = only_end.iter().map(|e| e.source_row).collect();
    let texts = store.source_rows(&rows).unwrap();
    assert!(rows.iter().all(|r| texts[r].text.ends_with("### Response:")));
}

#[test]
fn rows_are_counted_by_what_became_of_them() {
    let Some(mut bench) = Bench::new() else { return };
    bench.max_length = 8;
    let pair = |p: &str, c: &str| format!("{{\"prompt\":\"{p}\",\"completion\":\"{c}\"}}\n");
    let long = "Once upon a time there was a girl";
    let rows = [pair("a", "b"), pair("", ""), pair("a", long), pair(long, "b"), pair("a", "")].concat();
    let store = bench.open(&bench.file(&rows)).unwrap();
    check(&store);
    let expected = RowCounts { rows: 5, kept: 3, cut: 2, empty: 1, no_target: 1, ..Default::default() };
    assert_eq!(store.counts(), &expected);
    assert_eq!((0..3).map(|i| store.example(i).source_row).collect::<Vec<_>>(), [1, 3, 5]);
    let json = serde_json::to_string(store.counts()).unwrap();
    assert_eq!(serde_json::from_str::<RowCounts>(&json).unwrap(), expected);

    let text = format!("{{\"text\":\"{long}\"}}\n{{\"text\":\"a\"}}\n");
    let store = bench.open(&bench.file(&text)).unwrap();
    check(&store);
    let ids = bench.tokenizer.encode(long).unwrap().len() + 1;
    assert_eq!(store.counts().windows, ids.div_ceil(8) as u64 - u64::from(ids % 8 == 1));
    assert_ne!(store.example(0).text_hash, store.example(1).text_hash);
    assert_eq!(store.example(1).source_row, 1);
}

#[test]
fn nothing_left_is_an_error_with_counts() {
    let Some(bench) = Bench::new() else { return };
    let fault = |text: &str| bench.open(&bench.file(text)).unwrap_err();
    let e = fault("{\"text\":\"\"}\n");
    assert!(matches!(e, Error::NothingToTrain { .. }));
    assert!(e.to_string().ends_with("1 rows read, 0 examples, 0 rows cut, 1 empty, 0 without a target"), "{e}");
    assert!(fault("").to_string().contains("0 rows read"));
    assert!(fault("{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}").to_string().contains("1 without"));
    assert!(bench.files("").is_empty());
}

#[test]
fn the_first_fault_of_the_file_is_named() {
    let Some(bench) = Bench::new() else { return };
    let path = bench.file("{\"text\":\"a\"}\n{\"text\":null}\n{\"text\"\n");
    let e = bench.open(&path).unwrap_err().to_string();
    assert_eq!(e, format!("{}: row 2: text: expected a string, found null", path.display()));
    let path = bench.file("{\"text\":\"a\"}\n{\"text\"\n");
    let e = bench.open(&path).unwrap_err().to_string();
    assert!(e.contains(": row 2: not valid JSON: "), "{e}");
    // Faults in several blocks, which different threads meet: a quick one must not outrun an earlier slow one.
    let mut lines = vec!["{\"text\":\"a\"}".to_string(); 9000];
    lines[3000] = format!("{{\"text\":\"{}\"}}", "once upon a time ".repeat(4000));
    for bad in [3001, 3002, 4500, 6000, 8999] {
        lines[bad] = "{\"text\":null}".into();
    }
    let path = bench.file(&lines.join("\n"));
    let e = bench.open(&path).unwrap_err().to_string();
    assert!(e.contains(": row 3002: text: "), "{e}");
    assert!(bench.files("").is_empty());
    assert!(matches!(bench.open(&bench.dir.path().join("absent")), Err(Error::Io { .. })));
}

#[test]
fn any_number_of_threads_writes_the_same_bytes() {
    let Some(mut bench) = Bench::new() else { return };
    // Rows of very different lengths, so that blocks overtake each other.
    let row = |i: usize| match i % 1000 {
        0 => "once upon a time ".repeat(3000),
        _ => format!("line {i}"),
    };
    let text: String = (0..9000).map(|i| format!("{{\"text\":\"{}\"}}\n", row(i))).collect();
    let data = bench.file(&text);
    let written = [1, 2, 7].map(|threads| {
        bench.threads = threads;
        check(&bench.open(&data).unwrap());
        let files = [bench.files(".tokens").remove(0), bench.files(".index").remove(0)];
        let bytes = files.each_ref().map(|f| std::fs::read(f).unwrap());
        files.iter().for_each(|f| std::fs::remove_file(f).unwrap());
        bytes
    });
    assert!(written[0] == written[1] && written[0] == written[2]);
}

#[test]
fn an_unchanged_store_is_reused_and_a_changed_one_is_not() {
    let Some(mut bench) = Bench::new() else { return };
    let data = bench.file("{\"text\":\"one\"}\n");
    let first = bench.open(&data).unwrap();
    let index = bench.files(".index").remove(0);
    let marker = SystemTime::now() - Duration::from_secs(3600);
    File::options().write(true).open(&index).unwrap().set_modified(marker).unwrap();
    let again = bench.open(&data).unwrap();
    assert_eq!(again.hash(), first.hash());
    let age = std::fs::metadata(&index).unwrap().modified().unwrap().elapsed().unwrap();
    assert!(age > Duration::from_secs(3000), "the store was written again");
    // The same rows elsewhere share the store; other rows, settings or lengths do not.
    let copy = bench.dir.path().join("copy");
    std::fs::copy(&data, &copy).unwrap();
    assert_eq!(bench.open(&copy).unwrap().sources()[0].path, copy);
    assert_eq!(bench.files(".index").len(), 1);
    let second = bench.open(&bench.file("{\"text\":\"two\"}\n")).unwrap();
    assert_ne!(second.hash(), first.hash());
    assert_eq!(bench.files(".index").len(), 2);
    bench.max_length = 100;
    assert_eq!(bench.open(&data).unwrap().hash(), second.hash());
    assert_eq!(bench.files(".index").len(), 3);
}

#[test]
fn a_damaged_store_is_made_anew() {
    let Some(bench) = Bench::new() else { return };
    let data = bench.file("{\"text\":\"one two\"}\n{\"text\":\"three\"}\n");
    bench.open(&data).unwrap();
    let (index, tokens) = (bench.files(".index").remove(0), bench.files(".tokens").remove(0));
    let good = (std::fs::read(&index).unwrap(), std::fs::read(&tokens).unwrap());
    let flip = |at: usize| -> Vec<u8> {
        let mut bytes = good.0.clone();
        bytes[at] ^= 0x40;
        bytes
    };
    let damages = [
        (flip(0), good.1.clone()),
        (flip(33), good.1.clone()),
        (flip(HEADER_BYTES + 3), good.1.clone()),
        (flip(HEADER_BYTES + RECORD_BYTES + 30), good.1.clone()),
        (good.0[..100].to_vec(), good.1.clone()),
        (good.0[..good.0.len() - 1].to_vec(), good.1.clone()),
        (good.0.clone(), good.1[4..].to_vec()),
        (Vec::new(), Vec::new()),
    ];
    for (i, (bad_index, bad_tokens)) in damages.into_iter().enumerate() {
        std::fs::write(&index, bad_index).unwrap();
        std::fs::write(&tokens, bad_tokens).unwrap();
        let store = bench.open(&data).unwrap();
        assert_eq!(store.len(), 2, "damage {i}");
        check(&store);
        assert!(std::fs::read(&index).unwrap() == good.0 && std::fs::read(&tokens).unwrap() == good.1);
    }
    // An index without its tokens, and tokens changed in place, which `verify` finds.
    std::fs::remove_file(&tokens).unwrap();
    check(&bench.open(&data).unwrap());
    let mut bytes = good.1.clone();
    bytes[8] ^= 1;
    std::fs::write(&tokens, bytes).unwrap();
    assert!(!bench.open(&data).unwrap().verify());
}

/// Builds until `stop` was asked so often.
fn build_until(bench: &Bench, data: &Path, asked: usize) -> Result<TokenStore> {
    let count = std::cell::Cell::new(0);
    TokenStore::open_or_build(&StoreRequest {
        data,
        template: None,
        options: &bench.options,
        tokenizer: &bench.tokenizer,
        max_length: bench.max_length,
        cache_dir: &bench.cache(),
        threads: bench.threads,
        stop: &|_| count.replace(count.get() + 1) >= asked,
    })
}

#[test]
fn a_stopped_build_is_gone_on_with() {
    let Some(bench) = Bench::new() else { return };
    // Some rows in every block are empty or too long.
    let row = |i: usize| match i % 97 {
        0 => "{\"text\":\"\"}\n\n".to_string(),
        1 => format!("{{\"text\":\"{}\"}}\n", "far too long ".repeat(400)),
        _ => format!("{{\"text\":\"one two {i}\"}}\n"),
    };
    let data = bench.file(&(0..8000).map(row).collect::<String>());
    let whole = bench.open(&data).unwrap();
    let (want, counts) = (whole.hash(), whole.counts().clone());
    drop(whole);
    let [index, tokens] = [".index", ".tokens"].map(|e| std::fs::read(bench.files(e).remove(0)).unwrap());
    let clear = || bench.files("").iter().for_each(|f| std::fs::remove_file(f).unwrap());
    clear();
    assert_eq!(TAKEN_UP.take(), 0);

    // Before a block is written nothing is kept, then ever more.
    let (mut asked, mut taken) = (0, Vec::new());
    let store = loop {
        match build_until(&bench, &data, asked) {
            Ok(store) => break store,
            Err(e) => assert!(matches!(e, Error::Stopped { checkpoint: None }), "{e}"),
        }
        // Beside the hash of a source that has settled meanwhile.
        let left = bench.files(".index").len() + bench.files(".tokens").len();
        assert!(left == 0 || left == 2, "{:?}", bench.files(""));
        taken.push(TAKEN_UP.take());
        asked += 1;
    };
    taken.push(TAKEN_UP.take());
    assert!(taken.is_sorted() && taken.iter().any(|&rows| rows > 0), "{taken:?}");
    assert_eq!((store.hash(), store.counts()), (want, &counts));
    drop(store);
    assert_eq!((bench.files(".index").len(), bench.files(".tokens").len()), (1, 1));
    assert!(std::fs::read(bench.files(".index").remove(0)).unwrap() == index);
    assert!(std::fs::read(bench.files(".tokens").remove(0)).unwrap() == tokens);

    // What is damaged is not gone on with.
    for ending in [".index", ".tokens"] {
        clear();
        let mut asked = 0;
        while bench.files(ending).is_empty() {
            assert!(build_until(&bench, &data, asked).is_err());
            asked += 1;
        }
        let path = bench.files(ending).remove(0);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        TAKEN_UP.take();
        assert_eq!(bench.open(&data).unwrap().hash(), want);
        assert_eq!(TAKEN_UP.take(), 0);
        assert_eq!((bench.files(".index").len(), bench.files(".tokens").len()), (1, 1));
    }
}

#[test]
fn builders_at_the_same_time_end_with_one_store() {
    let Some(bench) = Bench::new() else { return };
    let data = bench.file(&"{\"text\":\"one two\"}\n".repeat(3000));
    assert!(matches!(build_until(&bench, &data, 0), Err(Error::Stopped { checkpoint: None })));
    assert!(bench.files("").is_empty());
    std::thread::scope(|scope| {
        let builds: Vec<_> = (0..3).map(|_| scope.spawn(|| bench_open(&bench, &data))).collect();
        let hashes: Vec<_> = builds.into_iter().map(|b| b.join().unwrap()).collect();
        assert!(hashes.windows(2).all(|w| w[0] == w[1]));
    });
    assert_eq!((bench.files(".index").len(), bench.files(".tokens").len(), bench.files("-tmp").len()), (1, 1, 0));
}

fn bench_open(bench: &Bench, data: &Path) -> [u8; 32] {
    let store = bench.open(data).unwrap();
    check(&store);
    store.hash()
}
