//! The log as a whole: kills, cuts, faults, and the numbers that come out.

use std::fs;
use std::path::Path;

use super::*;
use crate::config::Confidence;
use crate::error::Result;
use crate::recipe::{Half, Halves};

/// A text hash per row, and the records of one checkpoint from the NLL of each row.
pub(super) type Checkpoint = Vec<Record>;

pub(super) fn nll(values: &[f64]) -> Checkpoint {
    let record = |(i, &v): (usize, &f64)| Record {
        example: i as u32,
        n_tokens: 2,
        n_correct: 1,
        mean_prob: 0.5,
        nll_sum: 2.0 * v,
    };
    values.iter().enumerate().map(record).collect()
}

fn texts(n: u64) -> Vec<(u64, [u8; 16])> {
    (0..n).map(|i| (i + 1, blake3::hash(&i.to_le_bytes()).as_bytes()[..16].try_into().unwrap())).collect()
}

fn sweep(step: u64) -> CheckpointInfo {
    CheckpointInfo::new(Stage::Reference, Kind::Sweep, step, step as f64, "ad")
}

fn write_all(dir: &Path, texts: &[(u64, [u8; 16])], checkpoints: &[(CheckpointInfo, &Checkpoint)]) -> Result<()> {
    let mut w = DynamicsWriter::create(dir, Header::new("mo", "da"), texts.iter().copied())?;
    for (info, records) in checkpoints {
        w.begin(info.clone())?;
        records.iter().try_for_each(|r| w.append(r))?;
        w.finish()?;
    }
    Ok(())
}

/// A log of whole sweeps.
pub(super) fn log_of(dir: &Path, texts: &[(u64, [u8; 16])], checkpoints: &[&Checkpoint]) -> DynamicsLog {
    let steps = (1..).map(sweep).zip(checkpoints.iter().copied());
    write_all(dir, texts, &steps.collect::<Vec<_>>()).unwrap();
    DynamicsLog::open(dir).unwrap()
}

fn varied(n: usize) -> Checkpoint {
    let mut records = nll(&(0..n).map(|i| (i * 37 % 101) as f64 / 16.0).collect::<Vec<_>>());
    for r in &mut records {
        (r.n_tokens, r.n_correct) = (1 + r.example % 9, r.example % 2);
    }
    records
}

fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap()))
        .collect();
    all.sort();
    all
}

fn restore(dir: &Path, state: &[(String, Vec<u8>)]) {
    for e in fs::read_dir(dir).unwrap() {
        fs::remove_file(e.unwrap().path()).unwrap();
    }
    for (name, bytes) in state {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

#[test]
fn a_log_reads_back_as_written() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (varied(600), nll(&[0.25; 600]));
    let log = log_of(dir.path(), &texts(600), &[&a, &b]);
    assert_eq!((log.header().model_hash.as_str(), log.header().data_hash.as_str(), log.len()), ("mo", "da", 600));
    assert_eq!(log.checkpoints()[1], CheckpointInfo { complete: true, records: 600, ..sweep(2) });
    assert_eq!(log.records(0).unwrap().map(Result::unwrap).collect::<Vec<_>>(), a);
    assert_eq!(log.records(1).unwrap().map(Result::unwrap).collect::<Vec<_>>(), b);
    assert_eq!(log.example(599), Some(texts(600)[599]));
    assert_eq!(log.example(600), None);
    assert!(log.records(2).is_err());
    let e = DynamicsWriter::create(dir.path(), Header::new("", ""), texts(1).into_iter()).unwrap_err();
    assert!(e.to_string().contains("a log is here already"));
}

#[test]
fn a_writer_killed_anywhere_and_continued_ends_in_the_same_bytes() {
    let n = 530;
    let records = varied(n);
    let whole = tempfile::tempdir().unwrap();
    log_of(whole.path(), &texts(n as u64), &[&records, &records]);
    let expected = files(whole.path());

    // (flush at, die after appending up to, resume from)
    for (flush, die, resume) in [
        (0, 0, 0),
        (10, 10, 10),
        (10, 255, 10),
        (200, 300, 150),
        (256, 256, 256),
        (257, 300, 256),
        (300, 511, 12),
        (512, 530, 511),
        (530, 530, 530),
        (530, 530, 1),
        (520, 529, 255),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut w = DynamicsWriter::create(dir.path(), Header::new("mo", "da"), texts(n as u64).into_iter()).unwrap();
        w.begin(sweep(1)).unwrap();
        records.iter().try_for_each(|r| w.append(r)).unwrap();
        w.finish().unwrap();
        w.begin(sweep(2)).unwrap();
        for (i, r) in records[..die].iter().enumerate() {
            if i == flush {
                w.flush().unwrap();
            }
            w.append(r).unwrap();
        }
        if flush == die {
            w.flush().unwrap();
        }
        drop(w); // what was not flushed is gone, as after a kill
        let mut w = DynamicsWriter::open(dir.path()).unwrap();
        assert!(w.records() >= flush as u64 && w.records() <= die as u64, "{flush} {die}: {}", w.records());
        assert_eq!(w.current().unwrap().id, "reference-2");
        w.truncate(resume as u64).unwrap();
        assert_eq!(w.position(), Position { complete: 1, records: resume as u64 });
        records[resume..].iter().try_for_each(|r| w.append(r)).unwrap();
        w.finish().unwrap();
        assert_eq!(files(dir.path()), expected, "{flush} {die} {resume}");
    }
}

#[test]
fn a_file_cut_at_any_byte_keeps_its_whole_blocks_and_can_go_on() {
    let n = 290;
    let records = varied(n);
    let dir = tempfile::tempdir().unwrap();
    log_of(dir.path(), &texts(n as u64), &[&records]);
    let expected = files(dir.path());
    let mut open = expected.clone();
    let header = String::from_utf8(open[1].1.clone()).unwrap();
    open[1].1 = header
        .replace("\"complete\": true", "\"complete\": false")
        .replace("\"records\": 290", "\"records\": 0")
        .into();
    assert_ne!(open[1], expected[1]);
    let whole = expected[2].1.clone();

    for len in 0..=whole.len() {
        open[2].1 = whole[..len].to_vec();
        restore(dir.path(), &open);
        let log = DynamicsLog::open(dir.path()).unwrap();
        let found = log.records(0).unwrap();
        let (kept, torn) = (found.count_in_file(), found.torn_bytes());
        let read: Vec<Record> = found.map(Result::unwrap).collect();
        assert_eq!(read, records[..kept as usize], "length {len}");
        assert_eq!(torn, len as u64 - if len < 16 { 0 } else { block::file_len(kept) }, "length {len}");
        let full_blocks = len.saturating_sub(16) / (16 + 256 * 24) * 256;
        assert_eq!(kept, if len == whole.len() { 290 } else { full_blocks as u64 }, "length {len}");
        drop((log, read));
        // Continuing costs syncs, so at some lengths only: the edges and every 97th byte.
        if len % 97 == 0 || len < 40 || len + 30 > whole.len() || (6150..6200).contains(&len) {
            let mut w = DynamicsWriter::open(dir.path()).unwrap();
            assert_eq!((w.records(), w.torn_bytes()), (kept, torn), "length {len}");
            records[kept as usize..].iter().try_for_each(|r| w.append(r)).unwrap();
            w.finish().unwrap();
            assert_eq!(files(dir.path()), expected, "length {len}");
        }
    }
}

#[test]
fn a_flushed_block_survives_a_torn_write_behind_it() {
    let records = varied(300);
    let dir = tempfile::tempdir().unwrap();
    let mut w = DynamicsWriter::create(dir.path(), Header::new("", ""), texts(300).into_iter()).unwrap();
    w.begin(sweep(1)).unwrap();
    records[..100].iter().try_for_each(|r| w.append(r)).unwrap();
    w.flush().unwrap();
    drop(w);
    // The next records reached the file, the head that covers them did not.
    let path = dir.path().join("reference-1.bin");
    let mut bytes = fs::read(&path).unwrap();
    for r in &records[100..150] {
        bytes.extend(r.encode());
    }
    bytes.extend([1, 2, 3]);
    fs::write(&path, bytes).unwrap();
    let mut w = DynamicsWriter::open(dir.path()).unwrap();
    assert_eq!((w.records(), w.torn_bytes()), (100, 50 * 24 + 3));
    records[100..].iter().try_for_each(|r| w.append(r)).unwrap();
    w.finish().unwrap();
    let log = DynamicsLog::open(dir.path()).unwrap();
    assert_eq!(log.records(0).unwrap().map(Result::unwrap).collect::<Vec<_>>(), records);
}

/// A run that is taken up cuts its log; were it read through a map, the process that reads it would end here.
#[test]
fn a_file_that_is_cut_while_it_is_read_is_an_error() {
    let records = varied(290);
    let dir = tempfile::tempdir().unwrap();
    let log = log_of(dir.path(), &texts(290), &[&records]);
    let mut found = log.records(0).unwrap();
    assert_eq!(found.next().unwrap().unwrap(), records[0]);
    let path = dir.path().join("reference-1.bin");
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    let rest: Vec<_> = found.by_ref().collect();
    assert_eq!(rest.len(), 256, "the block that was read, and the fault");
    let e = rest.last().unwrap().as_ref().unwrap_err().to_string();
    assert!(e.ends_with("block 1 is damaged, 256 records in"), "{e}");
    assert!(found.next().is_none());
}

#[test]
fn a_position_leads_back_across_checkpoints() {
    let records = varied(270);
    let dir = tempfile::tempdir().unwrap();
    log_of(dir.path(), &texts(270), &[&records, &records]);
    let expected = files(dir.path());
    let end = Position { complete: 2, records: 0 };
    for to in [end, Position { complete: 1, records: 0 }, Position { complete: 0, records: 258 }, Position::default()] {
        let mut w = DynamicsWriter::open(dir.path()).unwrap();
        w.rewind(to).unwrap();
        assert_eq!(w.position(), to);
        drop(w);
        let mut w = DynamicsWriter::open(dir.path()).unwrap();
        assert_eq!((w.position(), w.current().is_some()), (to, to.records > 0));
        while w.position() != end {
            if w.current().is_none() {
                w.begin(sweep(w.position().complete as u64 + 1)).unwrap();
            }
            records[w.records() as usize..].iter().try_for_each(|r| w.append(r)).unwrap();
            let here = w.position();
            w.rewind(here).unwrap(); // to where it stands, flushed or not
            w.finish().unwrap();
        }
        assert_eq!(files(dir.path()), expected, "{to:?}");
    }
    let mut w = DynamicsWriter::open(dir.path()).unwrap();
    assert!(w.rewind(Position { complete: 2, records: 1 }).is_err());
    assert!(w.rewind(Position { complete: 1, records: 271 }).is_err());
    assert_eq!(files(dir.path()), expected);
}

#[test]
fn a_damaged_block_in_the_middle_is_an_error() {
    let records = varied(600);
    let dir = tempfile::tempdir().unwrap();
    let log = log_of(dir.path(), &texts(600), &[&records]);
    let path = dir.path().join("reference-1.bin");
    let good = fs::read(&path).unwrap();
    for at in [16, 20, 24, 40, 6170, 6176, 7000] {
        let mut bad = good.clone();
        bad[at] ^= 4;
        fs::write(&path, bad).unwrap();
        let e = log.validate(0).unwrap_err().to_string();
        assert!(
            e.contains(if at < 6176 { "block 0" } else { "block 1" }) && e.contains("reference-1.bin"),
            "{at}: {e}"
        );
        assert_eq!(log.records(0).unwrap().filter(Result::is_err).count(), 1, "ends after the error");
    }
    for (bad, what) in [(&good[..good.len() - 1], "expected 600 records"), (&[][..], "expected 600"), (b"x", "not a")] {
        fs::write(&path, bad).unwrap();
        let e = log.records(0).unwrap_err().to_string();
        assert!(e.contains(what), "{e}");
    }
}

#[test]
fn bad_records_duplicates_and_gaps_name_the_row() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = DynamicsWriter::create(dir.path(), Header::new("", ""), texts(3).into_iter()).unwrap();
    let good = nll(&[1.0, 2.0, 3.0]);
    assert!(w.append(&good[0]).unwrap_err().to_string().contains("no checkpoint is begun"));
    w.begin(sweep(1)).unwrap();
    assert!(w.begin(sweep(2)).unwrap_err().to_string().contains("reference-1 is not finished"));
    let bad = |f: fn(&mut Record)| {
        let mut r = nll(&[1.0, 2.0])[1];
        f(&mut r);
        r
    };
    for (r, what) in [
        (bad(|r| (r.n_tokens, r.n_correct) = (0, 0)), "row 2 (example 1): no supervised token"),
        (bad(|r| r.n_correct = 3), "row 2 (example 1): 3 of 2 tokens right"),
        (bad(|r| r.nll_sum = f64::NAN), "row 2 (example 1): negative log-likelihood is NaN"),
        (bad(|r| r.nll_sum = f64::INFINITY), "row 2 (example 1): negative log-likelihood is inf"),
        (bad(|r| r.example = 3), "no example 3 of 3"),
    ] {
        let e = w.append(&r).unwrap_err().to_string();
        assert!(e.contains(what), "{e}");
    }
    w.append(&good[0]).unwrap();
    w.append(&good[2]).unwrap();
    let e = w.finish().unwrap_err().to_string();
    assert!(e.contains("row 2 (example 1) has no record; 1 in all"), "{e}");
    w.append(&good[2]).unwrap();
    let e = w.finish().unwrap_err().to_string();
    assert!(e.contains("row 3 (example 2) is there twice"), "{e}");
    assert!(DynamicsLog::open(dir.path()).unwrap().validate(0).unwrap_err().to_string().contains("incomplete"));
    w.truncate(2).unwrap();
    w.append(&good[1]).unwrap();
    w.finish().unwrap();
    assert_eq!(DynamicsLog::open(dir.path()).unwrap().validate(0).map_err(|e| e.to_string()), Ok(()));
    assert!(w.begin(sweep(1)).unwrap_err().to_string().contains("in the log already"));
}

#[test]
fn metrics_by_hand() {
    // Row 0: p = 1/2, 1/4, 1/8; right, right, wrong. Row 1: p = 1/4 always; wrong, right, wrong. Row 2:
    // p = 1; never right.
    let ln2 = std::f64::consts::LN_2;
    let of = |nlls: [f64; 3], right: [u32; 3]| {
        let mut c = nll(&nlls);
        c.iter_mut().zip(right).for_each(|(r, k)| r.n_correct = k);
        c
    };
    let checkpoints = [
        of([ln2, 2.0 * ln2, 0.0], [1, 0, 0]),
        of([2.0 * ln2, 2.0 * ln2, 0.0], [2, 1, 0]),
        of([3.0 * ln2, 2.0 * ln2, 0.0], [0, 0, 0]),
    ];
    let dir = tempfile::tempdir().unwrap();
    let log = log_of(dir.path(), &texts(3), &checkpoints.iter().collect::<Vec<_>>());
    let which = split_checkpoints(&log).unwrap();
    assert_eq!(which, [0, 1, 2]);
    let m = metrics(&log, &which).unwrap();
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
    close(m[0].mean_perplexity, 14.0 / 3.0);
    close(m[0].mean_nll, 2.0 * ln2);
    close(m[0].confidence, 7.0 / 24.0);
    close(m[0].variability, (14.0f64 / 576.0).sqrt());
    close(m[0].threshold_closeness(), 7.0 / 24.0 * 17.0 / 24.0);
    assert_eq!((m[0].correctness, m[0].forgetfulness, m[0].n_tokens), (2, 1, 2));
    assert_eq!((m[1].correctness, m[1].forgetfulness, m[1].variability), (1, 1, 0.0));
    assert_eq!((m[2].correctness, m[2].forgetfulness, m[2].confidence), (0, 1000, 1.0));

    let conf = confidences(&log, Confidence::Perplexity, &which).unwrap();
    assert!((conf[0] + 14.0 / 3.0).abs() < 1e-6 && (conf[1] + 4.0).abs() < 1e-6 && conf[2] == -1.0);
    let conf = confidences(&log, Confidence::Nll, &which[..1]).unwrap();
    assert_eq!(conf, [-ln2 as f32, -(2.0 * ln2) as f32, 0.0]);
    for bad in [&[][..], &[0, 0], &[3]] {
        assert!(confidences(&log, Confidence::Nll, bad).is_err());
    }

    let mut out = Vec::new();
    export::checkpoint(&log, 1, "c", &mut out).unwrap();
    let first = format!("{{\"guid\":1,\"n_tokens\":2,\"nll_sum\":{:?},\"n_correct\":2}}", 4.0 * ln2);
    assert_eq!(String::from_utf8(out).unwrap().lines().next(), Some(first.as_str()));
    let mut out = Vec::new();
    export::td_metrics(&log, &m, &mut out).unwrap();
    assert_eq!(
        String::from_utf8(out).unwrap().lines().nth(2),
        Some(
            "{\"guid\":3,\"index\":2,\"threshold_closeness\":0.0,\"confidence\":1.0,\"variability\":0.0,\
             \"correctness\":0,\"forgetfulness\":1000}"
        )
    );
    let mut out = Vec::new();
    export::csv(&log, &m, &[Half::Unconfident, Half::Neither, Half::Confident], &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let hash: String = texts(3)[2].1.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(text.lines().nth(3), Some(format!("2,3,{hash},1,0,1,0,0,1000,confident").as_str()));
}

#[test]
fn online_leaves_the_first_epoch_and_a_cut_one_out() {
    let dir = tempfile::tempdir().unwrap();
    let online = |epoch: u64| CheckpointInfo::new(Stage::Reference, Kind::Online, epoch * 2, epoch as f64, "");
    let mut shuffled = nll(&[1.0, 2.0, 3.0]);
    shuffled.rotate_left(1);
    let (first, cut) = (nll(&[9.0, 9.0, 9.0]), nll(&[7.0]));
    let target = CheckpointInfo::new(Stage::Target, Kind::Sweep, 6, 1.0, "");
    let zero = nll(&[0.0; 3]);
    write_all(
        dir.path(),
        &texts(3),
        &[(online(1), &first), (online(2), &shuffled), (online(3), &cut), (target, &zero)],
    )
    .unwrap();
    let log = DynamicsLog::open(dir.path()).unwrap();
    let which = split_checkpoints(&log).unwrap();
    assert_eq!(which, [1]);
    assert_eq!(confidences(&log, Confidence::Nll, &which).unwrap(), [-1.0, -2.0, -3.0]);
    assert!(confidences(&log, Confidence::Nll, &[2]).unwrap_err().to_string().contains("holds 1 of 3"));
}

#[test]
fn an_unbounded_perplexity_ranks_last() {
    let dir = tempfile::tempdir().unwrap();
    let log = log_of(dir.path(), &texts(3), &[&nll(&[1.0, 800.0, 100.0])]);
    let conf = confidences(&log, Confidence::Perplexity, &[0]).unwrap();
    assert_eq!(conf[1..], [f32::NEG_INFINITY; 2]);
    assert_eq!(Halves::split(&conf).unwrap().confident(), [0]);
}

#[test]
fn the_split_of_the_pytorch_reference() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden/sftmix/golden.json");
    let Ok(text) = fs::read(&path) else {
        println!("skipped: no shared/golden/sftmix beside the repository");
        return;
    };
    let golden: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let list = |v: &serde_json::Value| -> Vec<u32> { serde_json::from_value(v.clone()).unwrap() };
    let perplexity: Vec<Vec<f64>> = serde_json::from_value(golden["perplexity"].clone()).unwrap();
    let mean: Vec<f64> = serde_json::from_value(golden["mean_perplexity"].clone()).unwrap();
    let checkpoints: Vec<Checkpoint> =
        perplexity.iter().map(|c| nll(&c.iter().map(|p| libm::log(*p)).collect::<Vec<_>>())).collect();

    let dir = tempfile::tempdir().unwrap();
    let log = log_of(dir.path(), &texts(8), &checkpoints.iter().collect::<Vec<_>>());
    let which = split_checkpoints(&log).unwrap();
    for (m, expected) in metrics(&log, &which).unwrap().iter().zip(&mean) {
        assert!((m.mean_perplexity - expected).abs() < 1e-11);
    }
    let conf = confidences(&log, Confidence::Perplexity, &which).unwrap();
    for (c, expected) in conf.iter().zip(&mean) {
        assert!((f64::from(*c) / -expected - 1.0).abs() < 3e-7);
    }
    let halves = Halves::split(&conf).unwrap();
    assert_eq!(halves.confident(), list(&golden["confident"]));
    assert_eq!(halves.unconfident(), list(&golden["unconfident"]));
    assert!(halves.neither().is_empty());

    let odd = &golden["odd_split"];
    let halves = Halves::split(&conf[..odd["n"].as_u64().unwrap() as usize]).unwrap();
    assert_eq!(halves.confident(), list(&odd["confident"]));
    assert_eq!(halves.unconfident(), list(&odd["unconfident"]));
    assert_eq!(halves.neither(), list(&odd["neither"]));
}
