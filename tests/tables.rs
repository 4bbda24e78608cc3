//! Parquet as rows, with the feature `tables`: a small program of its own, so that the other tests need not be built again
//! for it.

use std::path::{Path, PathBuf};

use serde_json::{json, Value};
use sftmix::inspect::{inspect, InspectConfig};
use sftmix::internal::data::rows::RowReader;
use sftmix::{Control, LoraConfig, Recipe, TrainConfig, TrainingJob};

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn rows(name: &str) -> Vec<(u64, Value)> {
    let rows = RowReader::open(project("tests/data").join(name)).unwrap();
    rows.map(|r| r.map(|(n, row)| (n, Value::Object(row))).unwrap()).collect()
}

#[test]
fn parquet_as_pyarrow_wrote_it() {
    let found = rows("rows.parquet");
    assert_eq!(found.iter().map(|r| r.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let prompt = |i: u64| format!("Question {i}: wie heißt der Leuchtturm?\nAnswer:");
    let row = |i: u64, n: Value, score: Value, low: Value, good: Value, tags: Value| {
        json!({"prompt": prompt(i), "completion": format!(" Licht {i} – “Nord”."), "n": n, "score": score,
               "low": low, "good": good, "tags": tags, "raw": prompt(i), "day": found[i as usize - 1].1["day"]})
    };
    assert_eq!(found[0].1, row(1, json!(1), json!(0.1), json!(0.1), json!(true), json!(["a", "b"])));
    assert_eq!(found[1].1, row(2, Value::Null, json!(0.25), json!(0.2), json!(false), json!([])));
    assert_eq!(found[2].1, row(3, json!(3), Value::Null, json!(0.3), Value::Null, Value::Null));
    assert_eq!(found[3].1, row(4, json!(4), json!(1e300), json!(0.4), json!(true), json!(["c", null])));
    assert!(found[4].1["day"].as_str().unwrap().starts_with("2026-11-05"), "{}", found[4].1["day"]);
    assert_eq!(rows("zstd.parquet").iter().map(|r| r.1["text"].clone()).collect::<Vec<_>>(), ["one", "two", "three"]);
}

#[test]
fn parquet_as_pandas_wrote_it() {
    let found = rows("chat.parquet");
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let want = [turn("system", "Be brief."), turn("user", "Hi"), turn("assistant", "Hello.")];
    assert_eq!((found.len(), &found[0].1["messages"]), (2, &json!(want)));
    let data = project("tests/data/chat.parquet").as_path().into();
    let f = inspect(&InspectConfig { model: project("assets/demo"), data, ..Default::default() }).unwrap().remove(0);
    assert_eq!((f.shape, f.rows.kept), (Some("messages"), 2));
    let trained = f.shown[0].windows[0].iter().filter(|t| t.trained);
    assert!(trained.map(|t| t.text.as_str()).collect::<String>().starts_with("Hello."));
}

#[test]
fn a_column_without_text_is_named() {
    let path = project("tests/data/image.parquet");
    let e = RowReader::open(&path).unwrap().next().unwrap().unwrap_err().to_string();
    let says = format!("{}: row 1: image: expected text, found bytes that are not in UTF-8", path.display());
    assert_eq!(e, says);
}

#[test]
fn a_table_trains_to_the_bytes_of_its_rows_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let quoted = |v: &Value| format!("\"{}\"", v.as_str().unwrap().replace('"', "\"\""));
    let mut csv = String::from("completion,prompt\n");
    let mut jsonl = String::new();
    for (_, row) in rows("rows.parquet") {
        csv += &format!("{},{}\n", quoted(&row["completion"]), quoted(&row["prompt"]));
        jsonl += &format!("{}\n", json!({"prompt": row["prompt"], "completion": row["completion"]}));
    }
    std::fs::write(at("rows.csv"), csv).unwrap();
    std::fs::write(at("rows.jsonl"), jsonl).unwrap();
    let config = |data: &Path, out: &str| TrainConfig {
        data: data.into(),
        recipe: Recipe::Ntp,
        batch_size: 2,
        max_length: 256,
        model: project("assets/demo"),
        out: at(out),
        lora: Some(LoraConfig { r: 4, ..Default::default() }),
        lr: 1e-3,
        max_steps: Some(3),
        epochs: 1,
        cache_dir: Some(at("cache")),
        ..Default::default()
    };
    let hash = |data: &Path, out: &str| {
        let report = TrainingJob::new(config(data, out)).unwrap().run(|_| Control::Continue).unwrap();
        assert_eq!(report.examples, 5);
        let run: Value = serde_json::from_slice(&std::fs::read(at(out).join("run.json")).unwrap()).unwrap();
        run["stands_on"]["data"]["hash"].clone()
    };
    let want = hash(&at("rows.jsonl"), "json");
    assert_eq!(hash(&at("rows.csv"), "csv"), want);
    assert_eq!(hash(&project("tests/data/rows.parquet"), "parquet"), want);
}

#[test]
fn damaged_files_are_faults_not_panics() {
    let whole = std::fs::read(project("tests/data/rows.parquet")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.parquet");
    let outcome = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        RowReader::open(&path).and_then(|rows| rows.collect::<Result<Vec<_>, _>>())
    };
    assert!(!outcome(&whole).unwrap().is_empty());
    let e = outcome(b"{\"text\": \"a\"}\n").unwrap_err().to_string();
    assert!(e.contains("d.parquet: row 1: not a Parquet file: "), "{e}");
    assert!(outcome(&whole[..whole.len() / 2]).is_err() && outcome(b"").is_err());
    // Any damage is read as other values or refused; nothing more can be asked without checksums.
    for at in (0..whole.len()).step_by(3) {
        let mut bad = whole.clone();
        bad[at] ^= 0x55;
        let _ = outcome(&bad);
    }
}
