//! The end of a text at a stop string. What may become one is held back until it does or cannot, so that no part
//! of one is ever streamed.

/// A text that comes in pieces.
pub(super) struct StopText<'a> {
    stops: &'a [String],
    /// What was not given yet: the longest end of the text that begins a stop string.
    held: String,
    /// The stop string that ended it.
    found: Option<usize>,
}

impl<'a> StopText<'a> {
    pub fn new(stops: &'a [String]) -> StopText<'a> {
        StopText { stops, held: String::new(), found: None }
    }

    /// The stop string that ended the text.
    pub fn found(&self) -> Option<&str> {
        self.found.map(|i| self.stops[i].as_str())
    }

    /// Takes a piece; gives what can be given now. After the end that is nothing.
    pub fn push(&mut self, piece: &str) -> String {
        if self.found.is_some() {
            return String::new();
        }
        self.held.push_str(piece);
        // The one that is complete first, so that it is the same however the text was cut in pieces.
        let places = self.stops.iter().enumerate().filter_map(|(i, stop)| Some((stop, self.held.find(stop)?, i)));
        if let Some((_, at, i)) = places.map(|(stop, at, i)| (at + stop.len(), at, i)).min() {
            self.found = Some(i);
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let keep = self.stops.iter().map(|stop| begun(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// What was held back of a text that ends otherwise.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes of the longest end of `text` that `stop` begins with.
fn begun(text: &str, stop: &str) -> usize {
    let lengths = stop.char_indices().map(|(i, _)| i);
    lengths.filter(|&n| text.ends_with(&stop[..n])).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces that come out, end to end with bars, and the stop string.
    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let stops: Vec<String> = stops.iter().map(|s| s.to_string()).collect();
        let mut t = StopText::new(&stops);
        let mut out: Vec<String> = pieces.iter().map(|p| t.push(p)).collect();
        out.push(t.finish());
        (out.join("|"), t.found().map(Into::into))
    }

    #[test]
    fn a_stop_across_pieces_is_never_given_in_part() {
        assert_eq!(run(&["END"], &["a E", "N", "D b"]), ("a |||".into(), Some("END".into())));
        assert_eq!(run(&["END"], &["a E", "N", "d b"]), ("a ||ENd b|".into(), None));
        assert_eq!(run(&["END"], &["a EN"]), ("a |EN".into(), None));
        assert_eq!(run(&["aab"], &["a", "a", "a", "b", "c"]), ("||a|||".into(), Some("aab".into())));
        assert_eq!(run(&["é!"], &["caf", "é", "!"]), ("caf|||".into(), Some("é!".into())));
        assert_eq!(run(&["é!"], &["caf", "é", "?"]), ("caf||é?|".into(), None));
    }

    #[test]
    fn the_first_in_the_text_wins() {
        assert_eq!(run(&["later", "x"], &["1 x later"]), ("1 |".into(), Some("x".into())));
        assert_eq!(run(&["\n\n", "\n"], &["a\n\nb"]), ("a|".into(), Some("\n".into())));
        assert_eq!(run(&["abc", "b"], &["abc"]), ("a|".into(), Some("b".into())));
        assert_eq!(run(&["abc", "b"], &["ab", "c"]), ("a||".into(), Some("b".into())));
        assert_eq!(run(&[], &["a", "b"]), ("a|b|".into(), None));
    }
}
