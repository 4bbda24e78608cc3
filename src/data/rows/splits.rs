//! Folders of `train.jsonl` and the like in the settings of a run.

use super::files::{split_file, Split};
use crate::config::TrainConfig;
use crate::error::{Error, Result};

impl TrainConfig {
    /// The same settings with files in place of folders that hold `train.jsonl` and the like. Such a folder's
    /// `valid.jsonl` becomes `valid` where none is given.
    ///
    /// # Errors
    /// [`Error::Io`] names a folder that holds no training rows; [`Error::InvalidConfig`] says that a folder's
    /// `valid.jsonl` contradicts `valid_split`, or that several folders have one.
    pub(crate) fn with_data_files(mut self) -> Result<TrainConfig> {
        let mut found = Vec::new();
        for source in self.data.0.iter_mut().filter(|s| s.path.is_dir()) {
            found.extend(split_file(&source.path, Split::Valid)?);
            source.path = Split::Train.resolve(&source.path)?;
        }
        if let Some(valid) = &mut self.valid {
            *valid = Split::Valid.resolve(valid)?;
            return Ok(self);
        }
        match (found.as_slice(), self.valid_split) {
            ([], _) => {}
            ([path, ..], Some(_)) => {
                let reason = format!(
                    "{} is there as well: name the training file itself, instead of its folder, to split it",
                    path.display()
                );
                return Err(Error::config("valid_split", reason));
            }
            ([path], None) => self.valid = Some(path.clone()),
            ([a, b, ..], None) => {
                let reason = format!("{} and {} are there: name the one to take", a.display(), b.display());
                return Err(Error::config("valid", reason));
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{DataSource, DataSources};

    #[test]
    fn a_folder_stands_for_the_files_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let config = |data: &Path| TrainConfig { data: data.into(), ..Default::default() };
        std::fs::write(at("train.jsonl"), "").unwrap();
        let only_train = config(dir.path()).with_data_files().unwrap();
        assert_eq!((only_train.data.only(), only_train.valid), (Some(at("train.jsonl").as_path()), None));
        std::fs::write(at("valid.jsonl"), "").unwrap();
        assert_eq!(config(dir.path()).with_data_files().unwrap().valid, Some(at("valid.jsonl")));
        // What is given comes before what is found; a file stands for itself.
        let given = TrainConfig { valid: Some("v".into()), ..config(dir.path()) };
        assert_eq!(given.with_data_files().unwrap().valid, Some("v".into()));
        assert_eq!(config(&at("train.jsonl")).with_data_files().unwrap().valid, None);
        let split = TrainConfig { valid_split: Some(0.1), ..config(dir.path()) };
        let e = split.with_data_files().unwrap_err().to_string();
        assert!(e.starts_with("invalid setting valid_split: ") && e.contains("valid.jsonl is there as well"), "{e}");
        let twice = TrainConfig {
            data: DataSources(vec![DataSource::new(dir.path()), DataSource::new(dir.path())]),
            ..Default::default()
        };
        assert!(twice.with_data_files().unwrap_err().to_string().starts_with("invalid setting valid: "));
    }
}
