//! The setting `data`: one file or folder, or several with weights.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Rows of one file or folder, and how often an epoch has them.
///
/// A weight w over n rows gives round(w · n) of an epoch: every row ⌊w⌋ times, and a seeded sample of the rows
/// once more for the rest. The sample is drawn once for the run, not anew each epoch: an example has one place
/// in the dynamics and in the halves. A copy is an example like any other, with a record of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct DataSource {
    /// A file, or a folder: of `train.jsonl`, or of texts.
    pub path: PathBuf,
    /// How often an epoch has a row of it, > 0.
    pub weight: f64,
}

impl DataSource {
    /// Every row once.
    pub fn new(path: impl Into<PathBuf>) -> DataSource {
        DataSource { path: path.into(), weight: 1.0 }
    }
}

impl FromStr for DataSource {
    type Err = String;

    /// As on the command line: `PATH`, or `PATH:WEIGHT`. A path that ends in a colon and a number needs `:1`.
    fn from_str(text: &str) -> Result<DataSource, String> {
        let (path, weight) = match text.rsplit_once(':').map(|(path, w)| (path, w.trim().parse::<f64>())) {
            Some((path, Ok(weight))) => (path, weight),
            _ => (text, 1.0),
        };
        if path.is_empty() {
            return Err(format!("expected PATH or PATH:WEIGHT, found {text:?}"));
        }
        if !is_weight(weight) {
            return Err(format!("expected a weight > 0 behind the last colon, found {text:?}"));
        }
        Ok(DataSource { path: path.into(), weight })
    }
}

fn is_weight(weight: f64) -> bool {
    weight.is_finite() && weight > 0.0
}

/// One file or folder of rows, or several with weights.
///
/// In settings: a path as it stands, or a list of paths and of `{path, weight}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct DataSources(pub Vec<DataSource>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    One(PathBuf),
    Many(Vec<WrittenSource>),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum WrittenSource {
    Path(PathBuf),
    Weighted(Weighted),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Weighted {
    path: PathBuf,
    weight: f64,
}

impl From<Written> for DataSources {
    fn from(written: Written) -> DataSources {
        DataSources(match written {
            Written::One(path) if path.as_os_str().is_empty() => Vec::new(),
            Written::One(path) => vec![DataSource::new(path)],
            Written::Many(list) => list
                .into_iter()
                .map(|s| match s {
                    WrittenSource::Path(path) => DataSource::new(path),
                    WrittenSource::Weighted(Weighted { path, weight }) => DataSource { path, weight },
                })
                .collect(),
        })
    }
}

impl From<DataSources> for Written {
    fn from(sources: DataSources) -> Written {
        match sources.0.as_slice() {
            [] => Written::One(PathBuf::new()),
            [DataSource { path, weight: 1.0 }] => Written::One(path.clone()),
            list => Written::Many(
                list.iter()
                    .map(|s| match s.weight {
                        1.0 => WrittenSource::Path(s.path.clone()),
                        weight => WrittenSource::Weighted(Weighted { path: s.path.clone(), weight }),
                    })
                    .collect(),
            ),
        }
    }
}

impl From<PathBuf> for DataSources {
    /// One file or folder, its path as it stands.
    fn from(path: PathBuf) -> DataSources {
        DataSources::from(Written::One(path))
    }
}

impl From<&Path> for DataSources {
    fn from(path: &Path) -> DataSources {
        path.to_path_buf().into()
    }
}

impl From<&String> for DataSources {
    fn from(path: &String) -> Self {
        path.as_str().into()
    }
}

impl From<&str> for DataSources {
    fn from(path: &str) -> DataSources {
        PathBuf::from(path).into()
    }
}

impl From<String> for DataSources {
    fn from(path: String) -> DataSources {
        PathBuf::from(path).into()
    }
}

impl std::fmt::Display for DataSources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let paths: Vec<String> = self.0.iter().map(|s| s.path.display().to_string()).collect();
        f.write_str(&paths.join(", "))
    }
}

impl DataSources {
    /// Checks paths and weights.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names `data`.
    pub fn validate(&self) -> Result<()> {
        if self.0.is_empty() {
            return Err(Error::config("data", "expected a path, found nothing"));
        }
        for s in &self.0 {
            if s.path.as_os_str().is_empty() {
                return Err(Error::config("data", "expected a path, found nothing"));
            }
            if !is_weight(s.weight) {
                let reason = format!("expected a weight > 0 for {}, found {}", s.path.display(), s.weight);
                return Err(Error::config("data", reason));
            }
        }
        Ok(())
    }

    /// Its only file or folder, where every row of that is wanted once.
    pub(crate) fn only(&self) -> Option<&Path> {
        match self.0.as_slice() {
            [DataSource { path, weight: 1.0 }] => Some(path),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(text: &str) -> Result<(String, f64), String> {
        text.parse::<DataSource>().map(|s| (s.path.display().to_string(), s.weight))
    }

    #[test]
    fn a_weight_stands_behind_the_last_colon() {
        assert_eq!(parse("a.jsonl"), Ok(("a.jsonl".into(), 1.0)));
        assert_eq!(parse("a,b.jsonl:0.5"), Ok(("a,b.jsonl".into(), 0.5)));
        assert_eq!(parse(r"C:\rows.jsonl"), Ok((r"C:\rows.jsonl".into(), 1.0)));
        assert_eq!(parse("a:2:1"), Ok(("a:2".into(), 1.0)));
        assert_eq!(parse("a:0"), Err("expected a weight > 0 behind the last colon, found \"a:0\"".into()));
        assert!(parse("a:inf").is_err() && parse("a:-1").is_err() && parse(":2").is_err() && parse("").is_err());
    }

    #[test]
    fn one_path_is_written_as_it_always_was() {
        let read = |v: serde_json::Value| serde_json::from_value::<DataSources>(v).unwrap();
        let one = DataSources::from("a:2");
        assert_eq!(serde_json::to_value(&one).unwrap(), json!("a:2"));
        assert_eq!(read(json!("a:2")), one);
        let two = DataSources(vec![DataSource::new("a"), DataSource { path: "b".into(), weight: 0.5 }]);
        let written = json!(["a", {"path": "b", "weight": 0.5}]);
        assert_eq!(serde_json::to_value(&two).unwrap(), written);
        assert_eq!((read(written), two.to_string().as_str()), (two.clone(), "a, b"));
        assert_eq!(serde_json::to_value(DataSources::default()).unwrap(), json!(""));
        assert_eq!(read(json!("")), DataSources::default());
        assert!(serde_json::from_value::<DataSources>(json!([{"path": "b", "wight": 1}])).is_err());
        assert!(two.only().is_none() && one.only() == Some(Path::new("a:2")));
    }

    #[test]
    fn weights_and_paths_are_checked() {
        let fault = |s: &[(&str, f64)]| {
            let list = s.iter().map(|&(path, weight)| DataSource { path: path.into(), weight }).collect();
            DataSources(list).validate().unwrap_err().to_string()
        };
        assert_eq!(fault(&[]), "invalid setting data: expected a path, found nothing");
        assert_eq!(fault(&[("a", 1.0), ("", 1.0)]), "invalid setting data: expected a path, found nothing");
        assert_eq!(fault(&[("a", -1.0)]), "invalid setting data: expected a weight > 0 for a, found -1");
        assert!(fault(&[("a", f64::NAN)]).contains("NaN"));
    }
}
