//! The loop: the tokens of a prompt that are not in the cache, then one token at a time.

use super::config::GenerateConfig;
use super::generator::{Generator, Kept};
use super::sample::Sampler;
use crate::error::{Error, Result};
use crate::job::Control;
use crate::model::decode::Cache;
use crate::ops::head_loss;

/// What a run has made.
pub(super) struct Made {
    /// The tokens, without the end token.
    pub new: Vec<u32>,
    /// An end token came.
    pub stopped: bool,
    /// Tokens of the prompt that the cache held.
    pub cached: usize,
}

impl Generator {
    /// The tokens after `ids`. With `keep`, what an earlier run with `keep` has left is built upon where it
    /// begins with the same tokens, and the cache is left for the next.
    pub(super) fn tokens(
        &mut self,
        ids: &[u32],
        config: &GenerateConfig,
        eos: &[u32],
        keep: bool,
        on_token: &mut dyn FnMut(u32) -> Result<Control>,
    ) -> Result<Made> {
        config.validate()?;
        let context = self.context();
        if ids.is_empty() {
            return Err(Error::config("prompt", "at least one token is needed, found none"));
        }
        if ids.len() >= context {
            let found = format!("{} tokens leave no room in the model's context of {context}", ids.len());
            return Err(Error::config("prompt", found));
        }
        let limit = config.max_new_tokens.min(context - ids.len());
        let capacity = ids.len() + limit;
        // Doubled, so that ever longer prompts do not make a table each.
        let engine = &self.engine;
        engine.run(|| self.model.grow(engine, capacity.next_power_of_two().min(context)))?;
        // After an error nothing is kept: what the cache holds then is not known.
        let kept = if keep { self.kept.take() } else { None };
        let mut cache = match kept.filter(|k| k.adapter == self.active) {
            Some(mut kept) => {
                // The last token is always run: its state is what the next one is told from.
                let common = kept.ids.iter().zip(&ids[..ids.len() - 1]).take_while(|(a, b)| a == b).count();
                kept.cache.truncate(common);
                if !self.model.goes_on(&kept.cache, ids.len()) {
                    kept.cache.truncate(0);
                }
                engine.run(|| self.model.widen(engine, &mut kept.cache, capacity))?;
                kept.cache
            }
            None => engine.run(|| self.model.cache(engine, capacity))?,
        };
        let cached = cache.tokens();
        let (new, stopped) =
            self.extend(&mut cache, ids, limit, config, eos, on_token).map_err(|e| self.base.blamed(e))?;
        if keep {
            let mut ids = [ids, &new].concat();
            ids.truncate(cache.tokens());
            self.kept = Some(Kept { cache, ids, adapter: self.active });
        } else {
            drop(cache);
        }
        self.engine.pool().trim();
        Ok(Made { new, stopped, cached })
    }

    /// The tokens after `ids`, of which the cache holds the first.
    fn extend(
        &self,
        cache: &mut Cache,
        ids: &[u32],
        limit: usize,
        config: &GenerateConfig,
        eos: &[u32],
        on_token: &mut dyn FnMut(u32) -> Result<Control>,
    ) -> Result<(Vec<u32>, bool)> {
        let (engine, model) = (&self.engine, &self.model);
        let adapter = self.active.map(|i| &self.adapters[i].1);
        let mut sampler = Sampler::new(config, ids);
        let mut new: Vec<u32> = Vec::new();
        let mut last = &ids[cache.tokens()..];
        let mut again;
        while new.len() < limit {
            if !model.goes_on(cache, cache.tokens() + last.len()) {
                cache.truncate(0);
                again = [ids, &new].concat();
                last = &again;
            }
            let next = engine.run(|| {
                let state = model.extend(engine, adapter, cache, last)?;
                let logits = head_loss::logits(engine, model.head(), &state)?;
                if logits.iter().any(|v| v.is_nan() || *v == f32::INFINITY) {
                    return Err(Error::NonFinite { what: format!("logits of new token {}", new.len() + 1) });
                }
                sampler.next(logits)
            })?;
            if new.is_empty() {
                // What the prompt's passes took is not needed again.
                engine.pool().trim();
            }
            if eos.contains(&next) {
                return Ok((new, true));
            }
            new.push(next);
            if on_token(next)? == Control::Stop {
                break;
            }
            again = vec![next];
            last = &again;
        }
        Ok((new, false))
    }
}
