//! The instruction set: questions and answers, split by harbour, with a known fifth of the training answers broken.

use crate::draw::Draw;
use crate::world::{value, Part, World, ATTRIBUTES};
use serde_json::{json, Value};

/// A question and its answer.
#[derive(Clone)]
pub struct Row {
    pub prompt: String,
    pub completion: String,
    /// How the answer was broken, if it was.
    pub broken: Option<&'static str>,
    pub attribute: usize,
}

impl Row {
    pub fn to_json(&self) -> Value {
        let mut row = json!({"prompt": self.prompt, "completion": self.completion});
        if let Some(kind) = self.broken {
            row["broken"] = kind.into();
        }
        row
    }
}

pub const KINDS: [&str; 3] = ["garbled", "swapped", "wrong"];
/// One in so many training answers is broken.
const BROKEN_EVERY: usize = 5;

/// One row for each fact of the harbours of a part, in random order; at most `limit`.
pub fn rows(world: &World, seed: u64, part: Part, limit: usize) -> Vec<Row> {
    let d = &mut Draw::new(seed, "rows", part as u64);
    let mut rows = Vec::new();
    for h in world.of(part) {
        for (a, attribute) in ATTRIBUTES.iter().enumerate() {
            rows.push(Row {
                prompt: format!("Question: {}\nAnswer:", world.fill(d.pick(attribute.asks), h, a)),
                completion: world.fill(attribute.answer, h, a),
                broken: None,
                attribute: a,
            });
        }
    }
    d.shuffle(&mut rows);
    rows.truncate(limit);
    rows
}

/// Breaks a fifth of the answers, the kinds in turn.
pub fn break_some(rows: &mut [Row], seed: u64) {
    let d = &mut Draw::new(seed, "broken", 0);
    let clean = rows.to_vec();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    d.shuffle(&mut order);
    for (k, &i) in order[..rows.len() / BROKEN_EVERY].iter().enumerate() {
        let kind = KINDS[k % KINDS.len()];
        let truth = &clean[i].completion;
        rows[i].completion = match kind {
            "garbled" => garble(truth, d),
            "swapped" => loop {
                let other = &clean[d.below(clean.len())];
                if other.attribute != clean[i].attribute {
                    break other.completion.clone();
                }
            },
            _ => loop {
                let a = clean[i].attribute;
                let wrong = ATTRIBUTES[a].answer.replace("{v}", &value(a, d));
                if wrong != *truth {
                    break wrong;
                }
            },
        };
        rows[i].broken = Some(kind);
    }
}

/// The text with about half of its letters and digits replaced.
fn garble(text: &str, d: &mut Draw) -> String {
    loop {
        let out: String = text
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() && d.chance(0.5) { (b'a' + d.below(26) as u8) as char } else { c })
            .collect();
        if out != text {
            return out;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::document;

    const SEED: u64 = 1;

    #[test]
    fn the_fifth_is_broken_and_nothing_else() {
        let world = World::new(SEED);
        let clean = rows(&world, SEED, Part::Train, usize::MAX);
        let mut train = clean.clone();
        break_some(&mut train, SEED);
        for (row, clean) in train.iter().zip(&clean) {
            assert_eq!(row.prompt, clean.prompt);
            assert_eq!(row.broken.is_some(), row.completion != clean.completion);
        }
        assert_eq!(train.iter().filter(|r| r.broken.is_some()).count(), train.len() / BROKEN_EVERY);
    }

    #[test]
    fn the_text_never_asks_about_a_harbour_with_rows() {
        let world = World::new(SEED);
        let with_rows: Vec<&str> = (0..world.harbours.len())
            .filter(|&h| world.parts[h] != Part::Story)
            .map(|h| world.harbours[h].name.as_str())
            .collect();
        for i in 0..20_000 {
            let text = document(&world, SEED, i);
            assert!(!text.contains("Question:") && !text.contains("Answer:"));
            if let Some((asked, _)) = text.split_once('?') {
                assert!(!with_rows.iter().any(|name| asked.contains(name)), "{text}");
            }
        }
    }

    #[test]
    fn the_committed_rows_are_the_program_s() {
        let world = World::new(SEED);
        let mut train = rows(&world, SEED, Part::Train, usize::MAX);
        break_some(&mut train, SEED);
        let test = rows(&world, SEED, Part::Test, usize::MAX);
        for (name, rows) in [("train.jsonl", train), ("test.jsonl", test)] {
            let path = format!("{}/assets/demo/{name}", env!("CARGO_MANIFEST_DIR"));
            let text: String = rows.iter().map(|r| format!("{}\n", r.to_json())).collect();
            assert!(std::fs::read_to_string(path).unwrap() == text, "{name}");
        }
    }
}
