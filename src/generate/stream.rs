//! Ids to text, piece by piece. A token's text depends on its neighbours: a character may be spread over
//! several tokens, and decoders strip the blank before the first. So what is decoded is always the last
//! tokens whose text is known, with the new ones; the difference is the new text.

use crate::data::tokens::Tokenizer;
use crate::error::Result;

/// What decoders give for the bytes of a character that is not whole.
const BROKEN: char = '\u{fffd}';
/// Tokens of the prompt that the first piece is decoded with.
const CONTEXT: usize = 8;

/// The text of ids that come one by one.
pub(super) struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Tokens whose text was given, then those whose text was not.
    window: Vec<u32>,
    known: usize,
    /// Text of the known tokens.
    text: String,
}

impl<'a> TextStream<'a> {
    /// The text of what follows a prompt.
    pub(super) fn after(tokenizer: &'a Tokenizer, prompt: &[u32]) -> Result<TextStream<'a>> {
        let mut size = CONTEXT.min(prompt.len());
        loop {
            let window = prompt[prompt.len() - size..].to_vec();
            let text = tokenizer.decode(&window, true)?;
            // Special tokens have no text, so the blank after them would be stripped. Bytes from within a
            // character would spoil the run of bytes that they begin.
            if !(text.is_empty() || text.starts_with(BROKEN)) || size == prompt.len() {
                return Ok(TextStream { tokenizer, known: window.len(), window, text });
            }
            size = (2 * size).min(prompt.len());
        }
    }

    /// The text that this token completes; empty within a character.
    pub(super) fn push(&mut self, id: u32) -> Result<String> {
        self.window.push(id);
        let piece = self.unread()?;
        if piece.is_empty() || piece.ends_with(BROKEN) {
            return Ok(String::new());
        }
        self.window.drain(..self.known);
        self.known = self.window.len();
        self.text = self.tokenizer.decode(&self.window, true)?;
        Ok(piece)
    }

    /// What is left of a text that ends within a character.
    pub(super) fn finish(self) -> Result<String> {
        if self.known == self.window.len() {
            return Ok(String::new());
        }
        self.unread()
    }

    fn unread(&self) -> Result<String> {
        let all = self.tokenizer.decode(&self.window, true)?;
        match all.strip_prefix(&self.text) {
            Some(piece) => Ok(piece.to_string()),
            // A broken byte can spoil the whole run of bytes that it stands in, also those before it.
            None => self.tokenizer.decode(&self.window[self.known..], true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::shared;

    const TEXT: &str = "Once upon  a time, naïve 日本 ate 🍕🍕👩‍👩‍👧 for 3€.\n\n  Then: «fin» … ok";

    fn tokenizers() -> Vec<(String, Tokenizer)> {
        let names = [
            "models/stories260K",
            "tokenizers/mistral-7b-instruct-v0.3",
            "tokenizers/phi-3-mini-4k-instruct",
            "tokenizers/qwen2.5-0.5b-instruct",
            "tokenizers/minimind",
        ];
        let folders = names.into_iter().filter_map(|name| shared(name).map(|dir| (name, dir)));
        folders.map(|(name, dir)| (name.to_string(), Tokenizer::load(dir).unwrap())).collect()
    }

    #[test]
    fn pieces_make_the_text_wherever_the_prompt_ends() {
        for (name, t) in tokenizers() {
            let ids = t.encode(TEXT).unwrap();
            let whole = t.decode(&ids, true).unwrap();
            assert_eq!(whole, TEXT, "{name}");
            let mut compared = 0;
            for prompt in 0..ids.len() {
                let before = t.decode(&ids[..prompt], true).unwrap();
                // A prompt is a text: it does not end within a character.
                let Some(want) = whole.strip_prefix(&before) else { continue };
                let mut stream = TextStream::after(&t, &ids[..prompt]).unwrap();
                let mut got = String::new();
                for &id in &ids[prompt..] {
                    let piece = stream.push(id).unwrap();
                    assert!(!piece.contains(BROKEN), "{name}: {piece:?}");
                    got.push_str(&piece);
                }
                got.push_str(&stream.finish().unwrap());
                assert_eq!(got, want, "{name}: after {before:?}");
                compared += 1;
            }
            assert!(compared > 15, "{name}: {compared}");
        }
    }

    #[test]
    fn a_character_cut_off_is_given_at_the_end() {
        for (name, t) in tokenizers() {
            let ids = t.encode("ok 🍕").unwrap();
            let mut stream = TextStream::after(&t, &[]).unwrap();
            let mut pieces: Vec<String> = ids[..ids.len() - 1].iter().map(|&id| stream.push(id).unwrap()).collect();
            assert!(!pieces.concat().contains(BROKEN), "{name}");
            pieces.push(stream.finish().unwrap());
            let text = pieces.concat();
            assert!(text.starts_with("ok"), "{name}: {text:?}");
        }
    }

    #[test]
    fn broken_bytes_do_not_hold_the_text_back() {
        let Some(dir) = shared("models/stories260K") else { return };
        let t = Tokenizer::load(dir).unwrap();
        let pizza = t.encode("🍕").unwrap();
        let (byte, word) = (pizza[pizza.len() - 1], *t.encode("Once").unwrap().last().unwrap());
        let mut stream = TextStream::after(&t, &pizza).unwrap();
        assert_eq!(stream.push(byte).unwrap(), "");
        let piece = stream.push(word).unwrap();
        assert!(piece.starts_with(BROKEN) && piece.len() > BROKEN.len_utf8(), "{piece:?}");
        let rest: String = [stream.push(word).unwrap(), stream.finish().unwrap()].concat();
        assert!(!rest.contains(BROKEN), "{rest:?}");
    }
}
