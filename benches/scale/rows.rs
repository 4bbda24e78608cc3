//! Rows as in Stanford's Alpaca file: an instruction, sometimes an input, an output; about 450 bytes each. Row
//! `i` is a function of `i` alone, so a longer file begins with the shorter one.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;

use sftmix::internal::rng::{Key, Stream};

const COMMON: &str =
    "the of and to a in is it you that he was for on are with as his they be at one have this from or \
    had by hot but some what there we can out other were all your when up use word how said an each she which do their \
    time if will way about many then them would write like so these her long make thing see him two has look more day \
    could go come did my sound no most number who over know water than call first people may down side been now find";
const PARTS: [&str; 40] = [
    "al", "ber", "con", "der", "el", "form", "gra", "hin", "in", "ject", "ka", "lo", "mar", "ne", "or", "per", "qui",
    "re", "sta", "tion", "ul", "ver", "win", "ex", "y", "zo", "pre", "light", "ment", "ing", "ough", "ster", "ble",
    "ci", "du", "fa", "ga", "ho", "lé", "mü",
];
/// Words beyond the common ones.
const RARE: u64 = 20_000;

/// Draws words and counts what it drew.
struct Draw {
    key: Key,
    i: u64,
    common: Vec<&'static str>,
}

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.i += 1;
        self.key.below(self.i, n)
    }

    /// Two thirds common words; of the rest, low numbers more often than high ones.
    fn word(&mut self, out: &mut String) {
        if self.below(3) < 2 {
            let word = self.below(self.common.len() as u64);
            out.push_str(self.common[word as usize]);
            return;
        }
        let bound = self.below(RARE) + 1;
        let number = self.below(bound);
        let parts = Key::new(1, Stream::Bench, &[number]);
        for p in 0..2 + parts.below(9, 3) {
            out.push_str(PARTS[parts.below(p, PARTS.len() as u64) as usize]);
        }
    }

    fn sentences(&mut self, words: Range<u64>, out: &mut String) {
        let n = words.start + self.below(words.end - words.start);
        for i in 0..n {
            match self.below(24) {
                0 => out.push_str(&format!("{}", self.below(3000))),
                1 => {
                    self.word(out);
                    out.push(',');
                }
                2 => {
                    self.word(out);
                    out.push_str(".\\n");
                    continue;
                }
                _ => self.word(out),
            }
            if i + 1 < n {
                out.push(' ');
            }
        }
        out.push('.');
    }
}

/// Writes the rows of a range as JSONL.
pub fn write(path: &Path, rows: Range<u64>) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut line = String::new();
    let mut draw = Draw { key: Key::new(0, Stream::Bench, &[]), i: 0, common: COMMON.split_whitespace().collect() };
    for row in rows {
        (draw.key, draw.i) = (Key::new(0, Stream::Bench, &[row]), 0);
        line.clear();
        line.push_str("{\"instruction\": \"");
        draw.sentences(6..20, &mut line);
        line.push_str("\", \"input\": \"");
        if draw.below(5) < 2 {
            draw.sentences(4..40, &mut line);
        }
        line.push_str("\", \"output\": \"");
        draw.sentences(4..90, &mut line);
        line.push_str("\"}\n");
        file.write_all(line.as_bytes())?;
    }
    file.into_inner().map_err(|e| e.into_error())?.sync_all()
}
