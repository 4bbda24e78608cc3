//! A row as text, and the byte spans of it that are trained.

use std::ops::Range;

/// A row as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The whole text.
    pub text: String,
    /// Byte ranges of `text` that are trained, ascending and disjoint. An empty range stands for an
    /// empty response, which trains its end token only; no range: nothing is trained.
    pub spans: Vec<Range<usize>>,
    /// Text shape: every token is trained, and a long text is split instead of cut.
    pub whole: bool,
    /// Written by a chat template: it has its special tokens in it, the end of each turn among them.
    pub chat: bool,
    /// What the row gives and the template leaves out, as was allowed.
    pub dropped: Vec<String>,
    /// A role had another name than the template's.
    pub mapped_roles: bool,
}

impl Rendered {
    /// A prompt and a trained response, joined as they are.
    pub fn pair(prompt: impl Into<String>, response: &str) -> Rendered {
        let prompt = prompt.into();
        let start = prompt.len();
        let text = prompt + response;
        let end = text.len();
        Rendered { text, spans: std::iter::once(start..end).collect(), ..Default::default() }
    }

    /// A text that is trained whole.
    pub fn text(text: impl Into<String>) -> Rendered {
        Rendered { whole: true, ..Rendered::pair("", &text.into()) }
    }

    /// Name of the `window`-th example (from 0) of this row: blake3 of text, spans and window, cut
    /// to 128 bits. Equal rows have equal names; tokenizer and settings of length play no part.
    pub fn hash(&self, window: u32) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(self.text.len() as u64).to_le_bytes());
        hasher.update(self.text.as_bytes());
        hasher.update(&[u8::from(self.whole) | u8::from(self.chat) << 1]);
        for span in &self.spans {
            hasher.update(&(span.start as u64).to_le_bytes());
            hasher.update(&(span.end as u64).to_le_bytes());
        }
        hasher.update(&window.to_le_bytes());
        let mut name = [0; 16];
        name.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        name
    }
}
