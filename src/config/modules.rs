//! Which modules of a model get an adapter, and each one's rank and alpha: what the patterns of the settings say of them.

use super::lora::{LoraConfig, TargetModules};
use super::patterns::{ends_with_name, is_regex};
use crate::error::{Error, Result};

/// The number of a module's block, as PEFT finds it: the first whole number behind two names.
pub(crate) fn layer_of(module: &str) -> Option<usize> {
    let names: Vec<&str> = module.split('.').collect();
    let numbered = |name: &&&str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
    names[..names.len() - 1].iter().skip(2).find(numbered).and_then(|name| name.parse().ok())
}

impl LoraConfig {
    /// Whether the module of this path gets an adapter. As in PEFT, `layers_to_transform` does not count for
    /// a module that `target_modules` names by its whole path.
    pub fn selects(&self, module: &str) -> bool {
        let whole = matches!(&self.target_modules, TargetModules::Names(n) if n.iter().any(|n| n == module));
        let on_layer = || match &self.layers_to_transform {
            Some(layers) if !layers.0.is_empty() => layer_of(module).is_some_and(|l| layers.0.contains(&l)),
            _ => true,
        };
        whole || (self.target_modules.matches(module) && on_layer())
    }

    /// The rank of a module: `rank_pattern`'s, else `r`.
    pub fn rank_of(&self, module: &str) -> usize {
        self.rank_pattern.lookup(module).unwrap_or(self.r)
    }

    /// The alpha of a module: `alpha_pattern`'s, else `lora_alpha`.
    pub fn alpha_of(&self, module: &str) -> f64 {
        self.alpha_pattern.lookup(module).unwrap_or(self.lora_alpha)
    }

    /// What a module's update is multiplied with.
    pub fn scale_of(&self, module: &str) -> f64 {
        LoraConfig { r: self.rank_of(module), lora_alpha: self.alpha_of(module), ..self.clone() }.scale()
    }

    /// Checks the patterns' names and numbers.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the pattern and its entry.
    pub(crate) fn validate_patterns(&self) -> Result<()> {
        let ranks = self.rank_pattern.0.iter().map(|e| ("rank_pattern", &e.0));
        let alphas = self.alpha_pattern.0.iter().map(|e| ("alpha_pattern", &e.0));
        if let Some((field, name)) = ranks.chain(alphas).find(|(_, n)| n.is_empty() || n.contains(is_regex)) {
            let reason = format!("{name:?}: expected a module name or path; regular expressions are not supported");
            return Err(Error::config(field, reason));
        }
        self.rank_pattern.each_once().map_err(|e| Error::config("rank_pattern", e))?;
        self.alpha_pattern.each_once().map_err(|e| Error::config("alpha_pattern", e))?;
        if let Some((name, _)) = self.rank_pattern.0.iter().find(|e| e.1 == 0) {
            return Err(Error::config("rank_pattern", format!("{name}: expected ≥ 1, found 0")));
        }
        if let Some((name, v)) = self.alpha_pattern.0.iter().find(|e| !(e.1.is_finite() && e.1 > 0.0)) {
            return Err(Error::config("alpha_pattern", format!("{name}: expected > 0, found {v}")));
        }
        match &self.layers_to_transform {
            Some(layers) if layers.0.is_empty() => {
                Err(Error::config("layers_to_transform", "expected blocks as 0-3,8, found none"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses names that match nothing among a model's linears, given as (block, module, [out, in]), what would
    /// silently not happen, and ranks beyond a linear.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the setting and the name.
    pub(crate) fn check_against<'a>(&self, linears: impl Iterator<Item = (usize, &'a str, [usize; 2])>) -> Result<()> {
        let linears: Vec<(usize, &str, [usize; 2])> = linears.collect();
        if let TargetModules::Names(names) = &self.target_modules {
            if let Some(name) = names.iter().find(|n| !linears.iter().any(|(_, m, _)| ends_with_name(m, n))) {
                let mut have: Vec<&str> = linears.iter().filter_map(|(_, m, _)| m.rsplit('.').next()).collect();
                have.sort_unstable();
                have.dedup();
                let reason = format!("{name:?} matches no linear of the model, which has {}", have.join(", "));
                return Err(Error::config("target_modules", reason));
            }
        }
        let blocks = linears.iter().map(|(l, ..)| l + 1).max().unwrap_or(0);
        if let Some(layer) = self.layers_to_transform.iter().flat_map(|l| &l.0).find(|&&l| l >= blocks) {
            return Err(Error::config("layers_to_transform", format!("block {layer}, but the model has {blocks}")));
        }
        let adapted: Vec<&str> = linears.iter().map(|(_, m, _)| *m).filter(|m| self.selects(m)).collect();
        if adapted.is_empty() {
            return Err(Error::config("target_modules", "no linear of these blocks is chosen"));
        }
        self.rank_pattern.counts_for(&adapted).map_err(|e| Error::config("rank_pattern", e))?;
        self.alpha_pattern.counts_for(&adapted).map_err(|e| Error::config("alpha_pattern", e))?;
        for (_, module, [out, inp]) in linears.iter().filter(|(_, m, _)| self.selects(m)) {
            let r = self.rank_of(module);
            if r > *out.max(inp) {
                let beyond = format!("rank {r} is beyond the {out}x{inp} of {module}");
                return Err(match self.rank_pattern.first(module) {
                    Some(at) => Error::config("rank_pattern", format!("{}: {beyond}", self.rank_pattern.0[at].0)),
                    None => Error::config("lora_r", beyond),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Layers, ModulePattern};

    #[test]
    fn modules_are_selected_as_peft_does() {
        assert_eq!(layer_of("model.layers.11.mlp.up_proj"), Some(11));
        assert_eq!((layer_of("layers.3.q_proj"), layer_of("model.layers.experts.7")), (None, None));
        let lora = LoraConfig {
            target_modules: TargetModules::parse("q_proj,model.layers.0.mlp.up_proj"),
            layers_to_transform: Some(Layers::new([1])),
            ..Default::default()
        };
        assert!(lora.selects("model.layers.1.self_attn.q_proj") && !lora.selects("model.layers.0.self_attn.q_proj"));
        assert!(lora.selects("model.layers.0.mlp.up_proj"), "by its whole path, on whatever block");
    }

    #[test]
    fn what_matches_nothing_is_named() {
        let linears = [(0, "model.layers.0.self_attn.q_proj", [8, 8]), (1, "model.layers.1.mlp.up_proj", [20, 8])];
        let fails = |lora: LoraConfig, word: &str| {
            let e = lora.validate_patterns().and_then(|()| lora.check_against(linears.into_iter()));
            let e = e.unwrap_err().to_string();
            assert!(e.contains(word), "{e}");
        };
        let pattern = |text| ModulePattern::parse(text).unwrap();
        let lora = LoraConfig::default;
        fails(
            LoraConfig { rank_pattern: pattern("k_proj=2"), ..lora() },
            "rank_pattern: \"k_proj\" matches no adapted",
        );
        fails(LoraConfig { rank_pattern: pattern("q_proj=0"), ..lora() }, "rank_pattern: q_proj: expected ≥ 1");
        fails(LoraConfig { alpha_pattern: ModulePattern::parse(".*q=2").unwrap(), ..lora() }, "regular expressions");
        fails(LoraConfig { alpha_pattern: ModulePattern::parse("q_proj=nan").unwrap(), ..lora() }, "expected > 0");
        fails(LoraConfig { layers_to_transform: Some(Layers::new([2])), ..lora() }, "block 2, but the model has 2");
        fails(
            LoraConfig { rank_pattern: pattern("q_proj=2,self_attn.q_proj=3"), ..lora() },
            "rank_pattern: \"self_attn.q_proj\" has no effect behind \"q_proj\"",
        );
        let fits = LoraConfig { rank_pattern: pattern("self_attn.q_proj=8,up_proj=20"), ..lora() };
        fits.check_against(linears.into_iter()).unwrap();
        // Not lora_r, which is 16 and not asked for here.
        fails(
            LoraConfig { rank_pattern: pattern("q_proj=9"), ..lora() },
            "rank_pattern: q_proj: rank 9 is beyond the 8x8 of model.layers.0.self_attn.q_proj",
        );
        fails(
            LoraConfig { r: 9, rank_pattern: pattern("up_proj=20"), ..lora() },
            "lora_r: rank 9 is beyond the 8x8 of model.layers.0.self_attn.q_proj",
        );
        let q = TargetModules::parse("q_proj");
        let layers = Some(Layers::new([1]));
        fails(LoraConfig { target_modules: q, layers_to_transform: layers, ..lora() }, "no linear of these blocks");
    }

    #[test]
    fn a_pattern_names_a_module_once() {
        let twice = "q_proj is given twice";
        let made = |n: &str| [(n.to_string(), 3), ("q_proj".to_string(), 5)].into_iter().collect();
        let fault = |lora: LoraConfig| lora.validate().unwrap_err().to_string();
        let ranks = LoraConfig { rank_pattern: made("q_proj"), ..Default::default() };
        assert_eq!(fault(ranks), format!("invalid setting rank_pattern: {twice}"));
        let alphas = ModulePattern::from_iter([("q_proj".to_string(), 1.0), ("q_proj".to_string(), 1.0)]);
        let alphas = LoraConfig { alpha_pattern: alphas, ..Default::default() };
        assert_eq!(fault(alphas), format!("invalid setting alpha_pattern: {twice}"));
        LoraConfig { rank_pattern: made("self_attn.q_proj"), ..Default::default() }.validate().unwrap();
    }
}
