//! What a run stands on: every input by the path where it lay, which may be another on resume, and by the hash of its
//! contents, which may not. Resume, exports and `sftmix.json` read it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{Dynamics, TrainConfig};
use crate::error::{Error, Result};

/// An input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Where it lay when the run was begun or last taken up, absolute; absent where it has no file of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// BLAKE3 of its contents, in hexadecimal; absent until it is taken.
    pub hash: Option<String>,
}

impl Input {
    /// An input whose contents are known.
    pub fn of(path: Option<&Path>, hash: impl Into<String>) -> Input {
        Input { path: path.map(Path::to_path_buf), hash: Some(hash.into()) }
    }
}

/// The inputs of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StandsOn {
    /// The base model: config, tokenizer and weights.
    pub model: Input,
    /// Its tokenizer alone.
    pub tokenizer: Input,
    /// The training examples. Several files have no one path.
    pub data: Input,
    /// The held-out examples; without a path where they are a share of the rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid: Option<Input>,
    /// The adapter that training starts from; the run keeps a copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_adapter: Option<Input>,
    /// The chat template that conversations are written with, whose text is kept too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<Input>,
    /// Confidences of another run; the run keeps them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamics: Option<Input>,
}

impl StandsOn {
    /// Every input that is there, by its name in settings.
    fn inputs(&self) -> impl Iterator<Item = (&'static str, &Input)> {
        let optional = [
            ("valid", &self.valid),
            ("init_adapter", &self.init_adapter),
            ("chat_template", &self.chat_template),
            ("dynamics", &self.dynamics),
        ];
        let always = [("model", &self.model), ("tokenizer", &self.tokenizer), ("data", &self.data)];
        always.into_iter().chain(optional.into_iter().filter_map(|(name, input)| Some((name, input.as_ref()?))))
    }

    /// Refuses inputs with other contents than the run was begun with. One whose hash is not taken yet passes.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] names the input, its path and both hashes.
    pub fn check(&self, now: &StandsOn, run: &Path) -> Result<()> {
        for (name, had) in self.inputs() {
            let found = now.inputs().find(|(other, _)| *other == name).map(|(_, input)| input);
            let (Some(expected), Some(found)) = (&had.hash, found.and_then(|f| f.hash.as_ref().map(|h| (f, h)))) else {
                continue;
            };
            if expected != found.1 {
                let at = found.0.path.as_ref().map(|p| format!(" in {}", p.display())).unwrap_or_default();
                let what = what(name);
                let reason =
                    format!("the run was begun with another {what}: content hash {expected}, now {}{at}", found.1);
                return Err(Error::Checkpoint { path: run.to_path_buf(), reason });
            }
        }
        let has = |s: &StandsOn, name: &str| s.inputs().any(|(other, _)| other == name);
        for name in ["valid", "init_adapter", "dynamics"] {
            if has(self, name) != has(now, name) {
                let (had, now) = (["no", "a"][has(self, name) as usize], ["none", "one"][has(now, name) as usize]);
                let reason = format!("the run was begun with {had} {}, now there is {now}", what(name));
                return Err(Error::Checkpoint { path: run.to_path_buf(), reason });
            }
        }
        Ok(())
    }
}

/// What an input is, in words.
fn what(name: &'static str) -> &'static str {
    match name {
        "model" => "base model",
        "valid" => "set of held-out rows",
        "init_adapter" => "initial adapter",
        "chat_template" => "chat template",
        "dynamics" => "set of imported confidences",
        other => other,
    }
}

impl TrainConfig {
    /// The same settings with the places of inputs from `given`, as far as it has them: what lies there is for
    /// [`StandsOn::check`] to judge. A setting that says more than a place (weights of data files, the kind of
    /// dynamics) keeps that.
    pub(crate) fn with_places(mut self, given: &TrainConfig, has: impl Fn(&str) -> bool) -> TrainConfig {
        if has("model") {
            self.model.clone_from(&given.model);
        }
        if has("data") && self.data.0.len() == given.data.0.len() {
            for (mine, new) in self.data.0.iter_mut().zip(&given.data.0) {
                mine.path.clone_from(&new.path);
            }
        }
        if has("valid") && self.valid.is_some() && given.valid.is_some() {
            self.valid.clone_from(&given.valid);
        }
        if has("init_adapter") && self.init_adapter.is_some() && given.init_adapter.is_some() {
            self.init_adapter.clone_from(&given.init_adapter);
        }
        if let (true, Dynamics::Path(mine), Dynamics::Path(new)) =
            (has("dynamics"), &mut self.dynamics, &given.dynamics)
        {
            mine.clone_from(new);
        }
        let template = &mut self.data_options.chat_template;
        if has("chat_template") && template.is_some() && given.data_options.chat_template.is_some() {
            template.clone_from(&given.data_options.chat_template);
        }
        if has("cache_dir") {
            self.cache_dir.clone_from(&given.cache_dir);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stands() -> StandsOn {
        StandsOn {
            model: Input { path: Some("m".into()), hash: None },
            tokenizer: Input::of(None, "t"),
            data: Input::of(Some(Path::new("d")), "d0"),
            valid: Some(Input::of(Some(Path::new("v")), "v0")),
            ..Default::default()
        }
    }

    #[test]
    fn contents_decide_and_places_do_not() {
        let (run, was) = (Path::new("run"), stands());
        let mut now = stands();
        now.data.path = Some("elsewhere".into());
        now.model.hash = Some("m0".into());
        was.check(&now, run).unwrap();
        now.valid = Some(Input::of(Some(Path::new("v2")), "v1"));
        let e = was.check(&now, run).unwrap_err().to_string();
        assert_eq!(e, "run: the run was begun with another set of held-out rows: content hash v0, now v1 in v2");
        now.valid = None;
        let e = was.check(&now, run).unwrap_err().to_string();
        assert_eq!(e, "run: the run was begun with a set of held-out rows, now there is none");
    }

    #[test]
    fn places_are_given_anew_and_nothing_else() {
        let was = TrainConfig { model: "a".into(), data: "b".into(), dynamics: Dynamics::Sweep, ..Default::default() };
        let given = TrainConfig {
            model: "x".into(),
            data: "y".into(),
            valid: Some("z".into()),
            dynamics: Dynamics::Path("p".into()),
            epochs: 9,
            ..Default::default()
        };
        let now = was.clone().with_places(&given, |_| true);
        assert_eq!(now, TrainConfig { model: "x".into(), data: "y".into(), ..was.clone() });
        assert_eq!(was.clone().with_places(&given, |name| name == "data"), TrainConfig { data: "y".into(), ..was });
    }
}
