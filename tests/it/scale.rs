//! More rows cost a few bytes of memory each and no more, in a short form; `cargo bench --bench scale` measures two
//! million. Memory is that of processes of their own, since tests share theirs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sftmix::dynamics::{
    confidences, split_checkpoints, CheckpointInfo, DynamicsLog, DynamicsWriter, Header, Kind, Record, Stage,
};
use sftmix::internal::data::tokens::{StoreRequest, TokenStore, Tokenizer};
use sftmix::internal::memory::{anonymous_bytes, PeakSampler};
use sftmix::internal::recipe::Halves;
use sftmix::internal::rng::{Key, Stream};
use sftmix::{Confidence, DataOptions};

use crate::support::{json, project};

const LOG: &str = "SFTMIX_TEST_SCALE_LOG";
const MIB: u64 = 1 << 20;
/// Of the split.
const ROWS: u32 = 40_000;

/// Rows with a question and an answer, each one of its own.
fn write_rows(path: &Path, n: u64) {
    let mut text = String::new();
    for i in 0..n {
        let number = Key::new(0, Stream::Bench, &[i]).below(0, 1_000_000);
        text += &format!(
            "{{\"prompt\":\"Question: Where is light {i} of the coast, which shows {number} flashes?\\nAnswer:\","
        );
        text += &format!("\"completion\":\" Behind light {number}, in the east of the island.\"}}\n");
    }
    std::fs::write(path, text).unwrap();
}

/// NLL of an example at a checkpoint: exact in f32, with many ties.
fn nll(checkpoint: u64, example: u32) -> f64 {
    Key::new(checkpoint, Stream::Bench, &[1]).below(example.into(), 4096) as f64 / 256.0
}

fn write_log(dir: &Path, examples: impl ExactSizeIterator<Item = (u64, [u8; 16])>, checkpoints: u64) {
    let n = examples.len() as u32;
    let mut log = DynamicsWriter::create(dir, Header::new("", ""), examples).unwrap();
    for c in 1..=checkpoints {
        log.begin(CheckpointInfo::new(Stage::Reference, Kind::Sweep, c, 1.0, "")).unwrap();
        for example in 0..n {
            let r = Record { example, n_tokens: 2, n_correct: 1, mean_prob: 0.5, nll_sum: 2.0 * nll(c, example) };
            log.append(&r).unwrap();
        }
        log.finish().unwrap();
    }
}

/// Peak memory of a short run, as it reports it.
fn train(dir: &Path, name: &str, settings: &[&str]) -> u64 {
    let (model, out) = (project("assets/demo"), dir.join(name));
    let mut c = Command::new(env!("CARGO_BIN_EXE_sftmix"));
    c.arg("train").arg("--model").arg(model).arg("--data").arg(dir.join("rows.jsonl")).arg("--out").arg(&out);
    c.arg("--cache-dir").arg(dir.join("cache")).args("--max-steps 2 --max-length 64 --threads 2".split(' '));
    c.args("--batch-size 2 --micro-batch 1 --lora-r 2".split(' ')).args(settings);
    let output = c.stdout(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    json(&out.join("report.json"))["peak_anonymous_bytes"].as_u64().unwrap()
}

/// The store is made and trained on, then split by an imported log whose examples come in another order.
#[test]
fn six_times_the_rows_need_no_more_memory() {
    // The first fill every block that goes round; the others' tokens alone would be 11 MiB more.
    let peaks = [10_000, 60_000].map(|n| {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        write_rows(&dir.join("rows.jsonl"), n);
        let plain = train(dir, "plain", &["--recipe", "ntp"]);

        let store = TokenStore::open_or_build(&StoreRequest {
            data: &dir.join("rows.jsonl"),
            template: None,
            options: &DataOptions::default(),
            tokenizer: &Tokenizer::load(project("assets/demo")).unwrap(),
            max_length: 64,
            cache_dir: &dir.join("cache"),
            threads: 1,
            stop: &|_| false,
        })
        .unwrap();
        assert_eq!(store.len() as u64, n);
        let stores = std::fs::read_dir(dir.join("cache")).unwrap().map(|e| e.unwrap().path());
        assert_eq!(stores.filter(|p| p.extension().is_some_and(|e| e == "tokens")).count(), 1, "made once");
        let turned = (0..store.len()).map(|i| {
            let e = store.example(store.len() - 1 - i);
            (e.source_row, e.text_hash)
        });
        write_log(&dir.join("log"), turned, 1);
        let log = dir.join("log");
        let mixed = train(dir, "mixed", &["--recipe", "sftmix", "--dynamics", log.to_str().unwrap()]);
        println!("{n} rows: peaks of {plain} and {mixed} bytes, {} bytes of tokens", 4 * store.total_tokens());
        [plain, mixed]
    });
    for (small, large) in peaks[0].into_iter().zip(peaks[1]) {
        assert!(large < small + 6 * MIB, "{peaks:?}");
    }
}

/// The split of [`ROWS`] by five checkpoints, in a process whose memory nothing else is in.
#[test]
#[ignore = "run by the test below"]
fn split_alone() {
    let Some(dir) = std::env::var_os(LOG).map(PathBuf::from) else { return };
    let (before, sampler) = (anonymous_bytes(), PeakSampler::start());
    let log = DynamicsLog::open(dir).unwrap();
    let conf = confidences(&log, Confidence::Nll, &split_checkpoints(&log).unwrap()).unwrap();
    let halves = Halves::split(&conf).unwrap();
    if let (Some(before), Some(peak)) = (before, sampler.peak()) {
        let records = 5 * 24 * log.len();
        let limit = 12 * log.len() + 3 * MIB / 2;
        println!("{} bytes for a split of {records} bytes of records", peak.saturating_sub(before));
        assert!(limit < records && peak.saturating_sub(before) < limit, "{before} before, {peak} at the peak");
    }
    let mut order: Vec<u32> = (0..ROWS).collect();
    let sum = |i: u32| (1..=5).map(|c| nll(c, i)).sum::<f64>();
    order.sort_by(|&i, &j| sum(i).total_cmp(&sum(j)));
    assert_eq!(halves.confident(), &order[..ROWS as usize / 2]);
    assert_eq!(halves.unconfident(), &order[ROWS as usize / 2..]);
}

#[test]
fn a_split_holds_twelve_bytes_a_row_and_is_that_of_a_plain_sort() {
    let dir = tempfile::tempdir().unwrap();
    let hash = |i: u64| (i, Key::new(2, Stream::Bench, &[i]).bits(0).to_le_bytes().repeat(2).try_into().unwrap());
    write_log(dir.path(), (0..ROWS as usize).map(|i| hash(i as u64)), 5);
    let mut c = Command::new(std::env::current_exe().unwrap());
    c.args(["--exact", "scale::split_alone", "--ignored", "--nocapture"]).env(LOG, dir.path()).stdin(Stdio::null());
    let output = c.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}
