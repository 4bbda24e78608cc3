use super::*;
use crate::config::DataSource;
use crate::data::testing::shared;

fn look(dir: &Path, text: &str, change: impl FnOnce(&mut InspectConfig)) -> Option<Result<InspectedFile, String>> {
    let model = shared("models/stories260K")?;
    let path = dir.join("d.jsonl");
    std::fs::write(&path, text).unwrap();
    let mut config = InspectConfig { model, data: path.as_path().into(), threads: Some(2), ..Default::default() };
    change(&mut config);
    let text = |e: Error| e.to_string().replace(&path.display().to_string(), "d");
    Some(inspect(&config).map(|mut files| files.remove(0)).map_err(text))
}

fn pair(p: &str, c: &str) -> String {
    format!("{{\"prompt\":\"{p}\",\"completion\":\"{c}\"}}\n")
}

#[test]
fn rows_are_shown_as_they_are_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    let long = "Once upon a time there was a girl";
    let rows = [pair("One é", " she"), pair("", ""), pair("a", long), pair(long, "b"), pair("a", "")].concat();
    let Some(found) = look(dir.path(), &rows, |c| (c.max_length, c.rows) = (8, 9)) else { return };
    let f = found.unwrap();
    assert_eq!((f.shape, f.rows.rows, f.rows.kept), (Some("prompt-completion"), 5, 3));
    assert_eq!((f.empty.as_slice(), f.no_target.as_slice()), (&[2][..], &[4][..]));
    assert_eq!(f.cut, [3, 4]);
    assert_eq!(f.shown.iter().map(|r| r.row).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let first = &f.shown[0];
    let texts = |trained| -> String {
        first.windows[0].iter().filter(|t| t.trained == trained).map(|t| t.text.as_str()).collect()
    };
    assert_eq!((texts(false).as_str(), texts(true).as_str()), ("<s>One é", " she</s>"));
    assert_eq!(first.windows[0].last().unwrap().id, 2);
    assert!(f.shown[1].empty && f.shown[1].windows.is_empty());
    assert!(f.shown[3].cut && f.shown[3].windows[0].iter().all(|t| !t.trained));
    // The figures are those of the store.
    let shown = |r: &ShownRow| r.windows.iter().filter(|w| w.iter().any(|t| t.trained)).cloned().collect::<Vec<_>>();
    let kept: Vec<Vec<ShownToken>> = f.shown.iter().flat_map(shown).collect();
    assert_eq!(f.tokens, kept.iter().map(|w| w.len() as u64).sum::<u64>());
    assert_eq!(f.supervised_tokens, kept.iter().flatten().filter(|t| t.trained).count() as u64);
    assert_eq!((f.longest, f.lengths.len()), (8, 1));
    assert_eq!(f.lengths[0], LengthBucket { from: 1, to: 16, examples: 3 });
}

#[test]
fn lengths_fall_into_buckets() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = ["a", "once upon a time there was a girl who had a very big dog and a small cat"]
        .iter()
        .map(|t| format!("{{\"text\":\"{t}\"}}\n"))
        .collect();
    let Some(found) = look(dir.path(), &text, |_| ()) else { return };
    let f = found.unwrap();
    assert_eq!(f.lengths.iter().map(|b| b.examples).sum::<u64>(), 2);
    assert!(f.lengths.windows(2).all(|w| w[0].to + 1 == w[1].from && w[1].to == 2 * w[0].to));
    let last = f.lengths.last().unwrap();
    assert!((last.from..=last.to).contains(&f.longest), "{f:?}");
}

#[test]
fn one_row_by_its_number_or_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let rows = format!("{}\n\n{}", pair("a", "b"), pair("c", "d"));
    let at = |row| look(dir.path(), &rows, |c| c.row = Some(row));
    let Some(found) = at(4) else { return };
    let f = found.unwrap();
    assert_eq!((f.shown.len(), f.shown[0].row, f.rows.rows), (1, 4, 2));
    let fault = |row| at(row).unwrap().unwrap_err();
    assert_eq!(fault(5), "invalid setting row: d has no row 5: its last is 4");
    assert_eq!(fault(2), "invalid setting row: d has no row 2: that line is blank");
    assert_eq!(fault(0), "invalid setting row: d has no row 0: rows are counted from 1");
    let empty = look(dir.path(), "", |c| c.row = Some(1)).unwrap().unwrap_err();
    assert_eq!(empty, "invalid setting row: d has no row 1: it is empty");
    assert_eq!(look(dir.path(), "", |_| ()).unwrap().unwrap().shape, None);
    let two = look(dir.path(), &rows, |c| {
        c.data.0.push(DataSource::new("x"));
        c.row = Some(1);
    });
    assert!(two.unwrap().unwrap_err().starts_with("invalid setting row: there are several data files"));
}

#[test]
fn a_bad_row_is_the_fault_that_training_names() {
    let dir = tempfile::tempdir().unwrap();
    let Some(found) = look(dir.path(), "{\"text\":\"a\"}\n{\"text\":7}\n{\"text\":null}\n", |c| c.rows = 1) else {
        return;
    };
    assert_eq!(found.unwrap_err(), "d: row 3: text: expected a string, found null");
}

#[test]
fn rows_that_are_skipped_and_roles_that_are_mapped_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let rows = [pair("a", "b"), "{\"prompt\":\"a\"}\n".into(), pair("a", "b")].concat();
    let skip = |c: &mut InspectConfig| (c.data_options.bad_rows, c.rows) = (BadRows::Skip, 9);
    let Some(found) = look(dir.path(), &rows, skip) else { return };
    // One of three is more than training allows: here it is shown.
    let f = found.unwrap();
    let reason = "the key completion is missing";
    assert_eq!((f.rows.rows, f.rows.skipped, f.rows.kept), (3, 1, 2));
    assert_eq!((f.skipped.len(), f.skipped[0].reason.as_str(), f.skipped[0].first.as_slice()), (1, reason, &[2][..]));
    let shown: Vec<_> = f.shown.iter().map(|r| (r.row, r.skipped.as_deref())).collect();
    assert_eq!(shown, [(1, None), (2, Some(reason)), (3, None)]);
    let e = look(dir.path(), &rows, |_| ()).unwrap().unwrap_err();
    assert_eq!(e, format!("d: row 2: {reason}"));

    let chat = |from: &str, to: &str| {
        format!(
            "{{\"messages\":[{{\"role\":\"{from}\",\"content\":\"a\"}},{{\"role\":\"{to}\",\"content\":\"b\"}}]}}\n"
        )
    };
    let rows = [chat("user", "assistant"), chat("user", "bot"), chat(" User ", "assistant")].concat();
    let f = look(dir.path(), &rows, |_| ()).unwrap().unwrap();
    assert_eq!((f.rows.mapped_roles, f.mapped_roles.as_slice()), (2, &[2, 3][..]));
    let sharegpt = "{\"conversations\":[{\"from\":\"human\",\"value\":\"a\"},{\"from\":\"gpt\",\"value\":\"b\"}]}\n";
    assert_eq!(look(dir.path(), sharegpt, |_| ()).unwrap().unwrap().rows.mapped_roles, 0);
}
