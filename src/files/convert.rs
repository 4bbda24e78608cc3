//! Folders without a `tokenizer.json`: the files of other libraries that stand in its place, and what makes one of them.
//!
//! They are not read here. Each says less than `tokenizer.json` does (how text is cut, which tokens are special), and
//! transformers has the rest in code, by the model's class.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// What to do where no command makes a whole one.
const ELSEWHERE: &str = "take tokenizer.json from a release of the model that has one";

/// The file of another library that a folder has in place of `tokenizer.json`, with what to do; `None` where there is none.
pub(super) fn instead_of_tokenizer(folder: &Path) -> Option<Error> {
    let there = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
    let (path, what) = if let Some(path) = there("tokenizer.model") {
        let what = match is_tiktoken(&path) {
            false => format!("SentencePiece's file; {}", command(folder, "transformers sentencepiece protobuf")),
            // Its special tokens are in the code of the model's own release alone.
            true => format!("tiktoken's file, which does not hold the model's special tokens; {ELSEWHERE}"),
        };
        (path, what)
    } else if let Some(path) = there("tekken.json") {
        (path, format!("Mistral's tekken file; {}", command(folder, "transformers")))
    } else if let (Some(path), Some(_)) = (there("vocab.json"), there("merges.txt")) {
        // transformers knows it of Qwen's class; of others it makes a file that cuts as GPT-2 does.
        let what = "a vocabulary of byte-level BPE, which does not say how text is cut, nor does merges.txt";
        (path, format!("{what}; {ELSEWHERE}, or, of a Qwen, {}", command(folder, "transformers")))
    } else {
        let what = format!("tiktoken's file, which does not hold the model's special tokens; {ELSEWHERE}");
        (tiktoken_file(folder)?, what)
    };
    Some(Error::Tokenizer { path, reason: format!("there is no tokenizer.json beside it, and it is {what}") })
}

/// How to make the file.
fn command(folder: &Path, packages: &str) -> String {
    let path = folder.display().to_string();
    // What a shell or Python would take for something else is not put into the command.
    let plain = !path.contains(['\'', '"', '\\', '$', '`', '!', '%']);
    let (place, at) = if plain { ("", path.as_str()) } else { (" inside the folder", ".") };
    format!(
        "make one{place} with: pip install {packages}; python -c \"from transformers import AutoTokenizer; \
         AutoTokenizer.from_pretrained('{at}').save_pretrained('{at}')\""
    )
}

/// Whether a file has tiktoken's lines, base64 and a number: Llama 3's has SentencePiece's name.
fn is_tiktoken(path: &Path) -> bool {
    use std::io::{BufRead, BufReader, Read};
    let mut line = Vec::new();
    let Ok(file) = fs::File::open(path) else { return false };
    if BufReader::new(file.take(4096)).read_until(b'\n', &mut line).is_err() {
        return false;
    }
    let line = String::from_utf8(line).unwrap_or_default();
    let base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    line.trim_end()
        .split_once(' ')
        .is_some_and(|(token, rank)| !token.is_empty() && token.chars().all(base64) && rank.parse::<u32>().is_ok())
}

/// The first file by name that ends in `.tiktoken`.
fn tiktoken_file(folder: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|e| e == "tiktoken") && path.is_file()).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::ModelFiles;

    /// What stands in the place of `tokenizer.json` is named, with what makes one of it.
    #[test]
    fn files_of_other_libraries_are_named_with_the_way_out() {
        let sentence_piece: &[u8] = b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02";
        let special = "which does not hold the model's special tokens";
        let mut wrong = Vec::new();
        for (files, named, says, packages) in [
            (
                vec![("tokenizer.model", sentence_piece)],
                "tokenizer.model",
                "SentencePiece's file; ".to_string(),
                Some("transformers sentencepiece protobuf"),
            ),
            (
                vec![("tokenizer.model", b"IQ== 0\nIg== 1\n".as_slice())],
                "tokenizer.model",
                format!("tiktoken's file, {special}; {ELSEWHERE}"),
                None,
            ),
            (
                vec![("tekken.json", b"{}"), ("tokenizer.model", sentence_piece)],
                "tokenizer.model",
                "SentencePiece's file; ".into(),
                Some("transformers sentencepiece protobuf"),
            ),
            (vec![("tekken.json", b"{}")], "tekken.json", "Mistral's tekken file; ".into(), Some("transformers")),
            (
                vec![("vocab.json", b"{}"), ("merges.txt", b"")],
                "vocab.json",
                format!("{ELSEWHERE}, or, of a Qwen, "),
                Some("transformers"),
            ),
            (
                vec![("qwen.tiktoken", b"IQ== 0\n")],
                "qwen.tiktoken",
                format!("tiktoken's file, {special}; {ELSEWHERE}"),
                None,
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            for (name, content) in files {
                fs::write(dir.path().join(name), content).unwrap();
            }
            let error = ModelFiles::open(dir.path()).unwrap().read_tokenizer().unwrap_err();
            let at_the_file = matches!(&error, Error::Tokenizer { path, .. } if *path == dir.path().join(named));
            let way = packages.map(|packages| command(dir.path(), packages)).unwrap_or_default();
            let (said, says) = (error.to_string(), format!("{says}{way}"));
            if !at_the_file || !said.contains("there is no tokenizer.json beside it") || !said.ends_with(&says) {
                wrong.push(format!("{named}: {said}\n  does not end in {says}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn a_vocabulary_alone_and_an_empty_folder_have_no_way_out() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            instead_of_tokenizer(dir.path()).is_none() && instead_of_tokenizer(&dir.path().join("absent")).is_none()
        );
        fs::write(dir.path().join("vocab.json"), "{}").unwrap();
        assert!(instead_of_tokenizer(dir.path()).is_none());
        let absent = ModelFiles::open(dir.path()).unwrap().read_tokenizer().unwrap_err();
        assert!(matches!(absent, Error::Io { path, .. } if path.ends_with("tokenizer.json")));
    }

    #[test]
    fn the_command_is_exact_and_no_path_changes_it() {
        let said = |path: &str| command(Path::new(path), "transformers sentencepiece protobuf");
        assert_eq!(
            said("/models/my llama"),
            "make one with: pip install transformers sentencepiece protobuf; python -c \"from transformers import \
             AutoTokenizer; AutoTokenizer.from_pretrained('/models/my llama').save_pretrained('/models/my llama')\""
        );
        for odd in ["/it's", "/a\"b", "C:\\models", "/$HOME", "/`x`", "/%TEMP%"] {
            let said = said(odd);
            let inside =
                said.starts_with("make one inside the folder with: pip") && said.contains("from_pretrained('.')");
            assert!(inside && !said.contains(odd), "{said}");
        }
    }
}
