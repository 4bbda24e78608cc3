//! What a path of rows is: a file of some kind, a folder of splits, a folder of texts.
//!
//! | path | rows |
//! |---|---|
//! | folder with `train.jsonl` (or `.json`, `.csv`, `.tsv`, `.parquet`) | those of that file; `valid.jsonl` and `test.jsonl` beside it, as mlx-lm has them |
//! | other folder | its `.txt` and `.md` files, folders in it too: each a row of text, in order of path |
//! | `.txt`, `.md` | one row of text |
//! | `.csv`, `.tsv` | a row a record, columns by the names in the first; every value is a string |
//! | `.parquet` | a row a row |
//! | any other file | JSONL, or one JSON array of objects, also as the value of a key (`data`, `rows`, …) of one object |
//!
//! JSON and tables of text may be compressed by gzip or zstd (`rows.csv.gz`).

use std::io::{Error as IoError, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::compressed::{self, SUFFIXES};
use crate::error::{Error, Result};

const TEXTS: [&str; 2] = ["txt", "md"];
const TABLES: [&str; 5] = ["jsonl", "json", "csv", "tsv", "parquet"];
/// Those of them that are read compressed, too; Parquet compresses itself.
const COMPRESSIBLE: [&str; 4] = ["jsonl", "json", "csv", "tsv"];

/// How the rows of a path are read.
#[derive(Clone, Debug)]
pub(crate) enum RowFormat {
    /// JSONL, or one JSON array.
    Json,
    /// Each file a row.
    Texts(Arc<Vec<PathBuf>>),
    /// Cells parted by this byte.
    Csv(u8),
    Parquet,
}

impl RowFormat {
    /// Looks at the path's name, and into a folder.
    pub fn of(path: &Path) -> Result<RowFormat> {
        if path.is_dir() {
            return Ok(RowFormat::Texts(Arc::new(list(path)?.files)));
        }
        Ok(match extension(path).as_str() {
            "csv" => RowFormat::Csv(b','),
            "tsv" => RowFormat::Csv(b'\t'),
            "parquet" => RowFormat::Parquet,
            e if TEXTS.contains(&e) => RowFormat::Texts(Arc::new(vec![path.to_path_buf()])),
            _ => RowFormat::Json,
        })
    }

    /// Part of a store's key: the same bytes are other rows when they are read another way.
    pub fn tag(&self) -> &'static [u8] {
        match self {
            RowFormat::Json => b"",
            RowFormat::Texts(_) => b"texts",
            RowFormat::Csv(b',') => b"csv",
            RowFormat::Csv(_) => b"tsv",
            RowFormat::Parquet => b"parquet",
        }
    }

    /// About how many bytes reading it holds, beside a row.
    pub fn held_bytes(&self, path: &Path) -> usize {
        match self {
            RowFormat::Texts(files) => files.iter().map(|f| f.as_os_str().len() + size_of::<PathBuf>()).sum(),
            #[cfg(feature = "tables")]
            RowFormat::Parquet => super::parquet_rows::held_bytes(path),
            #[cfg(not(feature = "tables"))]
            RowFormat::Parquet => 0,
            RowFormat::Json | RowFormat::Csv(_) => compressed::held_bytes(path),
        }
    }
}

/// A part of a data set, which a folder holds under this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    Train,
    Valid,
    Test,
}

impl Split {
    const ALL: [Split; 3] = [Split::Train, Split::Valid, Split::Test];

    fn stem(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Valid => "valid",
            Split::Test => "test",
        }
    }

    /// The file of this split where the path is a folder of splits, else the path.
    pub fn resolve(self, path: &Path) -> Result<PathBuf> {
        if !path.is_dir() {
            return Ok(path.to_path_buf());
        }
        if let Some(file) = split_file(path, self)? {
            return Ok(file);
        }
        for other in Split::ALL {
            if let Some(file) = split_file(path, other)? {
                let found = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                return Err(fault(path, format!("expected {}.jsonl in the folder, found {found}", self.stem())));
            }
        }
        Ok(path.to_path_buf())
    }
}

/// The file of a split in a folder.
pub(crate) fn split_file(folder: &Path, split: Split) -> Result<Option<PathBuf>> {
    let plain = TABLES.map(str::to_string).into_iter();
    let packed = COMPRESSIBLE.iter().flat_map(|e| SUFFIXES.map(|suffix| format!("{e}.{suffix}")));
    let names = plain.chain(packed).map(|end| folder.join(format!("{}.{end}", split.stem())));
    let mut found = names.filter(|p| p.is_file());
    match (found.next(), found.next()) {
        (Some(a), Some(b)) => {
            let name = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Err(fault(folder, format!("the folder holds {} and {}: name the one to take", name(&a), name(&b))))
        }
        (first, _) => Ok(first),
    }
}

/// What lies in a folder of texts.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The texts, in order of path.
    pub files: Vec<PathBuf>,
    /// Files of other kinds and hidden ones: how many, and one of them.
    pub left_out: (u64, Option<PathBuf>),
}

/// Lists a folder of texts. Links to folders are not followed.
pub(crate) fn list(folder: &Path) -> Result<Listing> {
    let mut listing = Listing::default();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at).map_err(Error::io(&at))? {
            let entry = entry.map_err(Error::io(&at))?;
            let (path, hidden) = (entry.path(), entry.file_name().as_encoded_bytes().starts_with(b"."));
            if !hidden && entry.file_type().map_err(Error::io(&path))?.is_dir() {
                folders.push(path);
            } else if !hidden && path.is_file() && TEXTS.contains(&extension(&path).as_str()) {
                listing.files.push(path);
            } else {
                // Rows beside a README are what was meant, not the README.
                // JSON in a deeper folder may be anything.
                let kind = extension(&path);
                if !hidden && TABLES.contains(&kind.as_str()) && (at == folder || kind != "json") {
                    let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().replace('\\', "/");
                    return Err(fault(folder, format!("the folder holds {name} and no train.jsonl: name the file")));
                }
                listing.left_out.0 += 1;
                listing.left_out.1.get_or_insert(path);
            }
        }
    }
    if listing.files.is_empty() {
        return Err(fault(folder, "expected train.jsonl, or .txt or .md files, in the folder; found none".into()));
    }
    listing.files.sort_unstable();
    Ok(listing)
}

fn fault(path: &Path, reason: String) -> Error {
    Error::io(path)(IoError::new(ErrorKind::InvalidInput, reason))
}

/// What a file's name ends in; of a compressed table, what it holds.
fn extension(path: &Path) -> String {
    let end = |path: &Path| path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let outer = end(path);
    let inner = path.file_stem().map(|stem| end(Path::new(stem)));
    match inner.filter(|inner| SUFFIXES.contains(&outer.as_str()) && COMPRESSIBLE.contains(&inner.as_str())) {
        Some(inner) => inner,
        None => outer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(dir: &Path, names: &[&str]) {
        for name in names {
            std::fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
            std::fs::write(dir.join(name), "x").unwrap();
        }
    }

    fn names(dir: &Path) -> Result<Vec<String>, String> {
        let strip = |p: PathBuf| p.strip_prefix(dir).unwrap().to_string_lossy().replace('\\', "/");
        let without = |e: Error| e.to_string().replace(&dir.display().to_string(), "D");
        list(dir).map(|l| l.files.into_iter().map(strip).collect()).map_err(without)
    }

    #[test]
    fn texts_are_found_in_folders_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["b.txt", "a/z.MD", "a/b/c.txt", "a.md", "x.png", ".git/config.txt", "a/notes.json"]);
        assert_eq!(names(dir.path()).unwrap(), ["a/b/c.txt", "a/z.MD", "a.md", "b.txt"]);
        assert_eq!(list(dir.path()).unwrap().left_out.0, 3, "the picture, the hidden folder, the JSON");
    }

    #[test]
    fn a_readme_beside_rows_is_not_taken_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let e = "D: expected train.jsonl, or .txt or .md files, in the folder; found none";
        assert_eq!(names(dir.path()).unwrap_err(), e);
        touch(dir.path(), &["README.md", "rows.jsonl"]);
        let e = "D: the folder holds rows.jsonl and no train.jsonl: name the file";
        assert_eq!(names(dir.path()).unwrap_err(), e);
        let deeper = tempfile::tempdir().unwrap();
        touch(deeper.path(), &["README.md", "data/train-00000-of-00001.parquet"]);
        let e = "D: the folder holds data/train-00000-of-00001.parquet and no train.jsonl: name the file";
        assert_eq!(names(deeper.path()).unwrap_err(), e);
    }

    #[test]
    fn a_compressed_table_is_what_it_holds() {
        for (name, want) in [
            ("a.csv.gz", "csv"),
            ("a.TSV.Zst", "tsv"),
            ("a.json.gz", ""),
            ("a.gz", ""),
            ("a.parquet.gz", ""),
            ("csv.gz", ""),
            ("a.csv", "csv"),
        ] {
            assert_eq!(RowFormat::of(Path::new(name)).unwrap().tag(), want.as_bytes(), "{name}");
        }
    }

    #[test]
    fn splits_are_found_by_name() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["README.md"]);
        let resolve = |s: Split| s.resolve(dir.path()).map_err(|e| e.to_string());
        assert_eq!(resolve(Split::Train).unwrap(), dir.path());
        touch(dir.path(), &["test.parquet"]);
        assert!(resolve(Split::Train).unwrap_err().ends_with("expected train.jsonl in the folder, found test.parquet"));
        touch(dir.path(), &["train.jsonl"]);
        assert_eq!(resolve(Split::Train).unwrap(), dir.path().join("train.jsonl"));
        assert_eq!(resolve(Split::Test).unwrap(), dir.path().join("test.parquet"));
        assert_eq!(split_file(dir.path(), Split::Valid).unwrap(), None);
        touch(dir.path(), &["valid.csv.GZ", "valid.parquet.gz", "valid.csv.gz"]);
        assert_eq!(resolve(Split::Valid).unwrap(), dir.path().join("valid.csv.gz"));
        touch(dir.path(), &["train.csv"]);
        let e = resolve(Split::Train).unwrap_err();
        assert!(e.ends_with("the folder holds train.jsonl and train.csv: name the one to take"), "{e}");
    }
}
