use super::*;
use crate::config::DataOptions;
use crate::config::{DataSource, DataSources};
use crate::data::testing::shared;
use crate::data::tokens::request::StoreRequest;
use crate::data::tokens::source_row::{file_and_row, row_name};
use crate::data::tokens::tokenizer::Tokenizer;

struct Bench {
    tokenizer: Tokenizer,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Option<Bench> {
        let tokenizer = Tokenizer::load(shared("models/stories260K")?).unwrap();
        Some(Bench { tokenizer, dir: tempfile::tempdir().unwrap() })
    }

    /// A file of `n` rows; every tenth is empty, every seventh a long text.
    fn file(&self, name: &str, n: usize) -> DataSource {
        let text = |i: usize| match i {
            i if i.is_multiple_of(10) => String::new(),
            i if i.is_multiple_of(7) => format!("{name} once upon a time there was a girl {i}"),
            i => format!("{name} {i}"),
        };
        let rows: String = (1..=n).map(|i| serde_json::json!({"text": text(i)}).to_string() + "\n").collect();
        let path = self.dir.path().join(name);
        std::fs::write(&path, rows).unwrap();
        DataSource::new(path)
    }

    fn open(&self, config: &TrainConfig) -> Result<Sets> {
        let cache_dir = &self.dir.path().join("cache");
        open_sets(config, cache_dir, |data| {
            TokenStore::open_or_build(&StoreRequest {
                data,
                template: None,
                options: &DataOptions::default(),
                tokenizer: &self.tokenizer,
                max_length: 16,
                cache_dir,
                threads: 2,
                stop: &|_| false,
            })
        })
    }
}

/// (file, row) of every example.
fn places(store: &TokenStore) -> Vec<(usize, u64)> {
    (0..store.len()).map(|i| file_and_row(store.example(i).source_row)).collect()
}

fn check_totals(store: &TokenStore) {
    let (mut tokens, mut supervised, mut longest, mut max_id) = (0, 0, 0, 0);
    for i in 0..store.len() {
        let e = store.example(i);
        tokens += e.tokens.len() as u64;
        supervised += u64::from(e.n_supervised);
        longest = longest.max(e.tokens.len());
        max_id = max_id.max(e.ids().max().unwrap());
        let (path, row) = store.origin(i);
        let (file, same) = file_and_row(e.source_row);
        assert_eq!((path, row), (store.sources()[file].path.as_path(), same));
    }
    assert_eq!((tokens, supervised, longest), (store.total_tokens(), store.supervised_tokens(), store.longest()));
    assert!(max_id <= store.max_id() && store.verify());
    assert_eq!(store.counts().kept, store.len() as u64);
    assert_eq!(store.sources().iter().map(|s| s.examples).sum::<u64>(), store.len() as u64);
}

#[test]
fn a_share_is_held_out_row_by_row() {
    let Some(bench) = Bench::new() else { return };
    let data = DataSources(vec![bench.file("a", 200)]);
    let whole = bench.open(&TrainConfig { data: data.clone(), ..Default::default() }).unwrap();
    assert!(whole.valid.is_none() && whole.train.counts().windows > 0);
    let config = |share, seed| TrainConfig { data: data.clone(), valid_split: Some(share), seed, ..Default::default() };
    let Sets { train, valid } = bench.open(&config(0.05, 3)).unwrap();
    let valid = valid.unwrap();
    check_totals(&train);
    check_totals(&valid);
    // 180 rows have an example, 9 of them are held out, all examples of a row on one side.
    let rows = |store: &TokenStore| places(store).into_iter().collect::<std::collections::BTreeSet<_>>();
    assert_eq!((rows(&train).len(), rows(&valid).len()), (171, 9));
    assert!(rows(&train).is_disjoint(&rows(&valid)));
    assert_eq!(train.len() + valid.len(), whole.train.len());
    assert_eq!((train.sources()[0].held_out, train.sources()[0].taken), (9, 171));
    // The same seed holds the same rows out, another seed others; a larger share holds these out and more.
    let again = bench.open(&config(0.05, 3)).unwrap();
    assert_eq!((again.train.hash(), again.valid.unwrap().hash()), (train.hash(), valid.hash()));
    let other = bench.open(&config(0.05, 4)).unwrap();
    assert_ne!(rows(&other.valid.unwrap()), rows(&valid));
    assert_ne!(other.train.hash(), train.hash());
    let more = bench.open(&config(0.3, 3)).unwrap().valid.unwrap();
    assert!(rows(&more).is_superset(&rows(&valid)));
    // One store serves all.
    let files = std::fs::read_dir(bench.dir.path().join("cache")).unwrap().map(|e| e.unwrap().path());
    assert_eq!(files.filter(|p| p.extension().is_some_and(|e| e == "tokens")).count(), 1);
    // Texts come from the rows.
    let e = valid.example(0);
    let text = &valid.source_rows(&[e.source_row]).unwrap()[&e.source_row];
    assert_eq!(e.text_hash, text.hash(0));
}

#[test]
fn a_side_without_rows_is_refused() {
    let Some(bench) = Bench::new() else { return };
    let data = DataSources(vec![bench.file("a", 11)]);
    let fault = |share| {
        let config = TrainConfig { data: data.clone(), valid_split: Some(share), ..Default::default() };
        bench.open(&config).unwrap_err().to_string()
    };
    let says = |k| format!("of 10 rows is {k}: at least one must be held out and one trained on");
    assert_eq!(fault(0.01), format!("invalid setting valid_split: 0.01 {}", says(0)));
    assert_eq!(fault(0.99), format!("invalid setting valid_split: 0.99 {}", says(10)));
    let mut few = DataSources(vec![bench.file("b", 9)]);
    few.0[0].weight = 0.01;
    let e = bench.open(&TrainConfig { data: few, ..Default::default() }).unwrap_err().to_string();
    assert!(
        e.starts_with("invalid setting data: weight 0.01 of the 9 rows of ") && e.ends_with("/b is not one row"),
        "{e}"
    );
}

#[test]
fn a_weight_repeats_rows_and_samples_the_rest() {
    let Some(bench) = Bench::new() else { return };
    let (a, b, c) = (bench.file("a", 100), bench.file("b", 50), bench.file("c", 20));
    let weighted = |a_weight, b_weight| {
        let sources = [(&a, a_weight), (&b, b_weight), (&c, 1.0)];
        let list = sources.map(|(s, weight)| DataSource { weight, ..s.clone() }).to_vec();
        TrainConfig { data: DataSources(list), ..Default::default() }
    };
    let store = bench.open(&weighted(0.25, 2.5)).unwrap().train;
    check_totals(&store);
    let plain = bench.open(&weighted(1.0, 1.0)).unwrap().train;
    check_totals(&plain);
    let all = places(&plain);
    let mut times = std::collections::BTreeMap::new();
    let mut seen = Vec::new();
    for place in places(&store) {
        if seen.last() != Some(&place) {
            seen.push(place);
        }
        *times.entry(place).or_insert(0u32) += 1;
    }
    assert!(seen.is_sorted(), "files in their order, rows in theirs");
    // 90, 45 and 18 rows have an example: ¼ of 90, 2½ of 45.
    let taken: Vec<u64> = store.sources().iter().map(|s| s.taken).collect();
    assert_eq!(taken, [23, 113, 18]);
    let rows = |file| seen.iter().filter(|p| p.0 == file).count();
    assert_eq!((rows(0), rows(1), rows(2)), (23, 45, 18));
    for (&(file, row), &n) in &times {
        let pieces = all.iter().filter(|p| **p == (file, row)).count() as u32;
        let copies = n / pieces;
        assert_eq!(n % pieces, 0, "{file} {row}");
        assert!(if file == 1 { copies == 2 || copies == 3 } else { copies == 1 }, "{file} {row}: {copies}");
    }
    // A copy has the text and the name of its row, and is an example of its own.
    let first = places(&store).iter().position(|p| p.0 == 1).unwrap();
    assert_eq!(store.example(first), store.example(first + 1));
    assert_eq!(row_name(store.example(first).source_row), "row 1 of file 2");

    // Several files of weight 1 are these files one behind the other.
    assert_eq!((plain.sources()[1].taken, plain.counts().rows), (45, 170));
    let alone = bench.open(&TrainConfig { data: DataSources(vec![b.clone()]), ..Default::default() }).unwrap().train;
    let at = (0..plain.len()).position(|i| file_and_row(plain.example(i).source_row).0 == 1).unwrap();
    for i in 0..alone.len() {
        let (ours, own) = (plain.example(at + i), alone.example(i));
        assert_eq!((ours.tokens, ours.text_hash), (own.tokens, own.text_hash));
    }
    let rows = [plain.example(0).source_row, plain.example(at).source_row];
    let texts = plain.source_rows(&rows).unwrap();
    assert_eq!((texts[&rows[0]].text.as_str(), texts[&rows[1]].text.as_str()), ("a 1", "b 1"));
}

#[test]
fn rows_that_are_held_out_are_not_sampled() {
    let Some(bench) = Bench::new() else { return };
    let a = DataSource { weight: 0.5, ..bench.file("a", 100) };
    let config =
        TrainConfig { data: DataSources(vec![a, bench.file("b", 100)]), valid_split: Some(0.5), ..Default::default() };
    let Sets { train, valid } = bench.open(&config).unwrap();
    let (train_rows, valid_rows) = (places(&train), places(&valid.unwrap()));
    assert!(train_rows.iter().all(|p| !valid_rows.contains(p)));
    let s = train.sources();
    assert_eq!(s[0].held_out + s[1].held_out, 90);
    assert_eq!((s[0].taken, s[1].taken), ((90 - s[0].held_out).div_ceil(2), 90 - s[1].held_out));
}

#[test]
fn the_smallest_are_found_in_little_memory() {
    let numbers: Vec<u64> = (0..5000).map(|i| Key::new(1, Stream::Bench, &[9]).bits(i)).collect();
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    for k in [1, 2, 77, 2500, 4999, 5000] {
        assert_eq!(smallest(k, || numbers.iter().copied()), sorted[k as usize - 1]);
    }
    assert_eq!(smallest(2, || [5, 5, 5].into_iter()), 5);
    assert_eq!(smallest(1, || [u64::MAX].into_iter()), u64::MAX);
}
