//! Pages beside the whole tables that they are cut from.

use std::path::Path;

use super::*;
use crate::config::{Confidence, TrainConfig};
use crate::data::text::Rendered;
use crate::data::tokens::file_and_row;
use crate::dynamics::{
    confidences, metrics, CheckpointInfo, DynamicsWriter, Half, Header, Kind, Metrics, Record, Stage, Summary,
};
use crate::error::Error;
use crate::recipe::Halves;
use crate::rng::{Key, Stream};

/// Numbers that follow from a seed.
struct Dice(Key, u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(Key::new(seed, Stream::RowSample, &[0]), 0)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.1 += 1;
        self.0.bits(self.1) % n
    }

    fn shuffled(&mut self, n: u32) -> Vec<u32> {
        let mut v: Vec<u32> = (0..n).collect();
        (1..v.len()).rev().for_each(|i| v.swap(i, self.below(i as u64 + 1) as usize));
        v
    }
}

fn info(kind: Kind, stage: Stage, step: u64) -> CheckpointInfo {
    CheckpointInfo::new(stage, kind, step, step as f64, "")
}

/// A log of `n` examples of two files: few values, so that there are ties, some beyond any perplexity and some that give
/// NaN, in shuffled order where it is an online one.
fn random_log(dir: &Path, seed: u64, n: u32, kind: Kind) {
    let mut dice = Dice::new(seed);
    let examples: Vec<(u64, [u8; 16])> =
        (0..n).map(|i| ((u64::from(i >= n / 2) << 40) + u64::from(i / 2) + 1, [i as u8; 16])).collect();
    let mut w = DynamicsWriter::create(dir, Header::new("m", "d"), examples.into_iter()).unwrap();
    let tokens: Vec<u32> = (0..n).map(|_| 1 + dice.below(5) as u32).collect();
    let odd: Vec<u64> = (0..n).map(|_| dice.below(8)).collect();
    // The first epoch of an online log is left out, so it needs one more.
    for step in 1..=3 + u64::from(kind == Kind::Online) {
        w.begin(info(kind, Stage::Reference, step)).unwrap();
        let order = if kind == Kind::Online { dice.shuffled(n) } else { (0..n).collect() };
        for example in order {
            let n_tokens = tokens[example as usize];
            let nll = match odd[example as usize] {
                0 => 800.0,
                1 => -800.0,
                _ => dice.below(4) as f64 / 4.0,
            };
            let n_correct = dice.below(u64::from(n_tokens) + 1) as u32;
            let nll_sum = nll * f64::from(n_tokens);
            w.append(&Record { example, n_tokens, n_correct, mean_prob: 0.5, nll_sum }).unwrap();
        }
        w.finish().unwrap();
    }
}

/// Every row, from the whole tables.
fn oracle(map: &DataMap) -> Vec<MapRow> {
    let m: Vec<Metrics> = metrics(map.log(), map.checkpoints()).unwrap();
    let c = confidences(map.log(), map.confidence(), map.checkpoints()).unwrap();
    let labels = Halves::split(&c).map_or(vec![Half::Neither; m.len()], |h| h.labels());
    let row = |(i, m): (usize, &Metrics)| {
        let (file, row) = file_and_row(map.log().example(i as u32).unwrap().0);
        MapRow {
            index: i as u32,
            file: None,
            file_index: file as u32,
            row,
            half: labels[i],
            confidence: c[i].into(),
            mean_perplexity: m.mean_perplexity,
            mean_nll: m.mean_nll,
            mean_probability: m.confidence,
            variability: m.variability,
            correctness: m.correctness,
            forgetfulness: m.forgetfulness,
            tokens: m.n_tokens,
            prompt: None,
            response: None,
            text_absent: None,
        }
    };
    m.iter().enumerate().map(row).collect()
}

fn value(row: &MapRow, key: MapKey) -> f64 {
    match key {
        MapKey::Row => row.row as f64,
        MapKey::Confidence => row.confidence,
        MapKey::MeanProbability => row.mean_probability,
        MapKey::Variability => row.variability,
        MapKey::Correctness => row.correctness.into(),
        MapKey::Forgetfulness => row.forgetfulness.into(),
        MapKey::Perplexity => row.mean_perplexity,
        MapKey::Nll => row.mean_nll,
        MapKey::Tokens => row.tokens.into(),
    }
}

fn sorted(rows: &[MapRow], query: &MapQuery) -> Vec<MapRow> {
    let within = |row: &&MapRow, f: &MapFilter| {
        let v = value(row, f.key);
        v >= f.min.unwrap_or(f64::NEG_INFINITY) && v <= f.max.unwrap_or(f64::INFINITY)
    };
    let half = |row: &&MapRow| query.half.is_none_or(|h| h == row.half);
    let left = rows.iter().filter(half).filter(|row| query.filters.iter().all(|f| within(row, f)));
    let (nan, mut numbers): (Vec<MapRow>, Vec<MapRow>) =
        left.cloned().partition(|row| value(row, query.sort_by).is_nan());
    // A stable sort keeps ties by index.
    let key = |row: &MapRow| match query.sort_by {
        MapKey::Row => f64::from(row.file_index) * 2e12 + row.row as f64,
        key => value(row, key),
    };
    numbers.sort_by(|a, b| {
        let order = key(a).partial_cmp(&key(b)).unwrap();
        if query.descending {
            order.reverse()
        } else {
            order
        }
    });
    numbers.into_iter().chain(nan).collect()
}

fn keys() -> impl Iterator<Item = MapKey> {
    MapKey::NAMES.iter().map(|name| name.parse().unwrap())
}

/// Rows as they print: NaN equals NaN.
fn text(rows: &[MapRow]) -> Vec<String> {
    rows.iter().map(|r| format!("{r:?}")).collect()
}

#[test]
fn pages_are_the_parts_of_the_sorted_table() {
    let (mut nan, mut infinite) = (0, 0);
    for (seed, (n, kind)) in
        [(1, Kind::Sweep), (2, Kind::Sweep), (7, Kind::Online), (61, Kind::Sweep), (400, Kind::Online)]
            .into_iter()
            .enumerate()
    {
        let dir = tempfile::tempdir().unwrap();
        random_log(dir.path(), seed as u64, n, kind);
        let map = DataMap::open(dir.path()).unwrap();
        let all = oracle(&map);
        nan += all.iter().filter(|r| r.variability.is_nan()).count();
        infinite += all.iter().filter(|r| r.confidence == f64::NEG_INFINITY).count();
        let mut dice = Dice::new(seed as u64 + 100);
        let mut queries: Vec<MapQuery> = Vec::new();
        for sort_by in keys() {
            for descending in [false, true] {
                queries.push(MapQuery { sort_by, descending, ..Default::default() });
                // One filter by each key, its bounds values that are there, one of them open at times.
                for key in keys() {
                    let mut bound = || match value(&all[dice.below(u64::from(n)) as usize], key) {
                        v if v.is_nan() || dice.below(4) == 0 => None,
                        v => Some(v),
                    };
                    let (mut min, mut max) = (bound(), bound());
                    if min.zip(max).is_some_and(|(a, b)| a > b) {
                        std::mem::swap(&mut min, &mut max);
                    }
                    let half = [None, Some(Half::Confident), Some(Half::Unconfident), Some(Half::Neither)];
                    let half = half[dice.below(4) as usize];
                    let more = MapFilter { key: MapKey::Tokens, min: Some(2.0), max: None };
                    let filters = [MapFilter { key, min, max }, more][..1 + dice.below(2) as usize].to_vec();
                    queries.push(MapQuery { sort_by, descending, half, filters, ..Default::default() });
                }
            }
        }
        for query in queries {
            let want = sorted(&all, &query);
            let limit = 1 + dice.below(u64::from(n)) as u32;
            let mut found = Vec::new();
            for start in (0..want.len() as u64 + 1).step_by(limit as usize) {
                let page = map.page(&MapQuery { offset: start, limit, ..query.clone() }).unwrap();
                assert_eq!(page.total, want.len() as u64, "{query:?}");
                assert!(page.rows.len() <= limit as usize);
                found.extend(page.rows);
            }
            assert_eq!(text(&found), text(&want), "{query:?}");
        }
        for offset in [u64::from(n), u64::from(n) + 1, u64::MAX] {
            let page = map.page(&MapQuery { offset, ..Default::default() }).unwrap();
            assert_eq!((page.total, page.rows.len()), (n.into(), 0));
        }
    }
    assert!(nan > 5 && infinite > 5, "{nan} {infinite}");
}

#[test]
fn the_summary_is_that_of_the_whole_table() {
    for (seed, kind) in [(5, Kind::Sweep), (6, Kind::Online)] {
        let dir = tempfile::tempdir().unwrap();
        random_log(dir.path(), seed, 301, kind);
        let map = DataMap::open(dir.path()).unwrap();
        let s = map.summary().unwrap();
        let m = metrics(map.log(), map.checkpoints()).unwrap();
        let c = confidences(map.log(), Confidence::Perplexity, map.checkpoints()).unwrap();
        let want = Summary::new(&m, &Halves::split(&c).unwrap().labels());
        // As they print, since the means of some are NaN.
        let halves = |a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| assert_eq!(format!("{a:?}"), format!("{b:?}"));
        halves(&s.confident, &want.confident);
        halves(&s.unconfident, &want.unconfident);
        halves(&s.neither, &want.neither);
        assert_eq!((s.examples, s.spearman, s.neither.rows), (301, want.spearman, 1));
        assert_eq!(s.nll, MapDistribution::new(m.iter().map(|m| m.mean_nll).collect()));
        assert_eq!((s.perplexity.max, s.checkpoints.len()), (f64::INFINITY, 3));
        // The cut that it left behind is the one a page finds by itself.
        let page = |map: &DataMap| text(&map.page(&MapQuery { limit: 1000, ..Default::default() }).unwrap().rows);
        assert_eq!(page(&map), page(&DataMap::open(dir.path()).unwrap()));
    }
    let dir = tempfile::tempdir().unwrap();
    random_log(dir.path(), 1, 1, Kind::Sweep);
    let map = DataMap::open(dir.path()).unwrap();
    assert!(matches!(map.summary(), Err(Error::NothingToTrain { .. })));
}

#[test]
fn quantiles_lie_between_neighbours() {
    let of = |values: &[f64]| MapDistribution::new(values.to_vec());
    let d = of(&[4.0, 1.0, 2.0, 3.0]);
    assert_eq!((d.mean, d.min, d.q25, d.median, d.q75, d.max), (2.5, 1.0, 1.75, 2.5, 3.25, 4.0));
    assert_eq!(of(&[1.0, f64::INFINITY, f64::INFINITY]).max, f64::INFINITY);
    assert!(of(&[]).median.is_nan());
}

#[test]
fn what_cannot_be_asked_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    random_log(dir.path(), 1, 4, Kind::Sweep);
    let map = DataMap::open(dir.path()).unwrap();
    let refused = |query: MapQuery| map.page(&query).unwrap_err().to_string();
    for limit in [0, 10_001] {
        let e = refused(MapQuery { limit, ..Default::default() });
        assert_eq!(e, format!("invalid setting limit: expected 1 to 10000, found {limit}"));
    }
    let filter = |min: f64, max: f64| {
        let filters = vec![MapFilter { key: MapKey::Nll, min: Some(min), max: Some(max) }];
        refused(MapQuery { filters, ..Default::default() })
    };
    assert_eq!(filter(2.0, 1.0), "invalid setting filters: mean_nll: least 2 is above greatest 1");
    assert_eq!(filter(f64::NAN, 1.0), "invalid setting filters: mean_nll: a bound is NaN");
    assert_eq!(filter(0.0, f64::NAN), "invalid setting filters: mean_nll: a bound is NaN");
    for e in [map.rows(&[0, 4], false).map(|_| ()), map.history(4).map(|_| ())] {
        assert!(e.unwrap_err().to_string().ends_with("no example 4; there are 4, counted from 0"));
    }
    assert!("loss".parse::<MapKey>().unwrap_err().contains("mean_probability"));
    let read = |text: &str| serde_json::from_str::<MapQuery>(text);
    let query =
        read(r#"{"sort_by": "mean_nll", "half": "neither", "filters": [{"key": "tokens", "max": 9}]}"#).unwrap();
    assert_eq!(
        (query.sort_by, query.half, query.filters[0].max, query.limit),
        (MapKey::Nll, Some(Half::Neither), Some(9.0), 100)
    );
    assert!(read(r#"{"sort": "mean_nll"}"#).is_err());
}

#[test]
fn rows_stand_in_the_order_that_they_are_named_in() {
    let dir = tempfile::tempdir().unwrap();
    random_log(dir.path(), 3, 40, Kind::Online);
    let map = DataMap::open(dir.path()).unwrap();
    let all = oracle(&map);
    let rows = map.rows(&[7, 0, 39, 7], false).unwrap();
    let want: Vec<MapRow> = [7, 0, 39, 7].iter().map(|&i: &usize| all[i].clone()).collect();
    assert_eq!(text(&rows), text(&want));
    assert!(map.rows(&[], true).unwrap().is_empty());
}

#[test]
fn a_log_that_is_still_written_is_read_up_to_its_last_whole_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path();
    assert!(matches!(DataMap::open(run), Err(Error::NoDynamics { path, from: None }) if path == run));
    let config = TrainConfig { dynamics: crate::Dynamics::Path("earlier".into()), ..Default::default() };
    std::fs::write(run.join("run.json"), serde_json::json!({ "config": config }).to_string()).unwrap();
    assert!(
        matches!(DataMap::open(run), Err(Error::NoDynamics { from: Some(from), .. }) if from == Path::new("earlier"))
    );

    let log = run.join("dynamics");
    let examples = (1..=3).map(|i| (i, [i as u8; 16])).collect::<Vec<_>>();
    let mut w = DynamicsWriter::create(&log, Header::new("m", "d"), examples.into_iter()).unwrap();
    let write = |w: &mut DynamicsWriter, examples: &[u32], nll: f64| {
        for &example in examples {
            let nll_sum = nll * 2.0 * f64::from(example + 1);
            w.append(&Record { example, n_tokens: 2, n_correct: 1, mean_prob: 0.25, nll_sum }).unwrap();
        }
    };
    w.begin(info(Kind::Sweep, Stage::Reference, 1)).unwrap();
    write(&mut w, &[0, 1], 1.0);
    w.flush().unwrap();
    assert!(matches!(DataMap::open(run), Err(Error::Dynamics { .. })), "no checkpoint is whole");
    write(&mut w, &[2], 1.0);
    w.finish().unwrap();
    w.begin(info(Kind::Sweep, Stage::Reference, 2)).unwrap();
    write(&mut w, &[1], 9.0);
    w.flush().unwrap();

    let map = DataMap::open(&log).unwrap();
    assert_eq!((map.checkpoints(), map.incomplete()), (&[0][..], Some("reference-2")));
    assert_eq!(map.summary().unwrap().incomplete.as_deref(), Some("reference-2"));
    let page = map.page(&MapQuery { sort_by: MapKey::Nll, ..Default::default() }).unwrap();
    assert_eq!(page.rows.iter().map(|r| r.mean_nll).collect::<Vec<_>>(), [1.0, 2.0, 3.0]);
    write(&mut w, &[0, 2], 9.0);
    w.finish().unwrap();
    w.begin(info(Kind::Online, Stage::Target, 3)).unwrap();
    write(&mut w, &[2], 5.0);
    w.finish().unwrap();
    // The map stands on what it saw; one that is opened now sees more.
    assert_eq!(map.history(2).unwrap().len(), 1);
    let map = DataMap::open(&log).unwrap();
    assert_eq!((map.checkpoints(), map.incomplete()), (&[0, 1][..], None));
    let points = map.history(2).unwrap();
    let of = |p: &MapPoint| (p.checkpoint.clone(), p.stage, p.epoch, p.nll, p.mean_prob, p.n_correct, p.n_tokens);
    assert_eq!(of(&points[1]), ("reference-2".into(), Stage::Reference, 2.0, 27.0, 0.25, 1, 2));
    assert_eq!((points.len(), of(&points[2]).0), (3, "target-3".into()));
    assert_eq!(map.history(0).unwrap().len(), 2, "the epoch did not reach it");
}

#[test]
fn a_row_has_its_prompt_and_response_or_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let (data, run) = (dir.path().join("rows.jsonl"), dir.path());
    let line = |p: &str, c: &str| format!("{}\n", serde_json::json!({"prompt": p, "completion": c}));
    std::fs::write(&data, line("a? ", "é") + &line("", "b") + &line("c? ", "other")).unwrap();
    let config = TrainConfig { data: data.as_path().into(), confidence: Confidence::Nll, ..Default::default() };
    std::fs::write(run.join("run.json"), serde_json::json!({ "config": config }).to_string()).unwrap();
    let name = |p: &str, c: &str| Rendered::pair(p, c).hash(0);
    let examples = [(1, name("a? ", "é")), (2, name("", "b")), (3, name("c? ", "d")), (9, [0; 16])];
    let mut w = DynamicsWriter::create(run.join("dynamics"), Header::new("m", "d"), examples.into_iter()).unwrap();
    w.begin(info(Kind::Sweep, Stage::Reference, 1)).unwrap();
    for example in 0..4 {
        w.append(&Record { example, n_tokens: 1, n_correct: 1, mean_prob: 0.5, nll_sum: example.into() }).unwrap();
    }
    w.finish().unwrap();

    let map = DataMap::open(run).unwrap();
    let ask = || map.page(&MapQuery { with_text: true, descending: true, ..Default::default() }).unwrap().rows;
    let rows = ask();
    assert_eq!((map.confidence(), rows[3].confidence, rows[0].file.as_ref()), (Confidence::Nll, -3.0, Some(&data)));
    let texts: Vec<_> =
        rows.iter().map(|r| (r.prompt.as_deref(), r.response.as_deref(), r.text_absent.as_deref())).collect();
    let absent = |why| (None, None, Some(why));
    let want =
        [(Some("a? "), Some("é"), None), (Some(""), Some("b"), None), absent(MapRow::CHANGED), absent(MapRow::GONE)];
    assert_eq!(texts, want);
    std::fs::remove_file(&data).unwrap();
    assert!(ask().iter().all(|r| r.response.is_none() && r.text_absent.as_ref().unwrap().contains("rows.jsonl")));
    let rows = map.page(&MapQuery::default()).unwrap().rows;
    assert!(rows.iter().all(|r| r.text_absent.is_none()), "nobody asked");

    std::fs::remove_file(run.join("run.json")).unwrap();
    let map = DataMap::open(run).unwrap();
    let rows = map.rows(&[0], true).unwrap();
    assert_eq!((map.confidence(), rows[0].file.as_ref()), (Confidence::Perplexity, None));
    assert_eq!(rows[0].text_absent.as_deref(), Some("there is no run.json beside the log"));
}

#[test]
fn a_text_without_prompt_is_trained_whole() {
    let whole = texts::MapText::Whole("abc".into());
    assert_eq!(texts::parts(&Rendered::text("abc")), whole);
    let pair = texts::MapText::Pair("Question: é?\n".into(), "yes".into());
    assert_eq!(texts::parts(&Rendered::pair("Question: é?\n", "yes")), pair);
}

#[test]
fn a_map_may_be_asked_from_any_thread() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<DataMap>();
    shared::<MapPage>();
    shared::<MapSummary>();
    shared::<MapPoint>();
}
